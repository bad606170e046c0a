//! An upload of any size goes through in constant memory. `COMPAT_UPLOAD` sets the size in MiB.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::Dialer;
use compat_tests::{Node, process, try_read_reply, wait_for};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// What a process may need more while a file of any size passes through it.
const LIMIT: u64 = 32 * 1024;

#[test]
fn a_large_upload_needs_no_memory() {
    let size = MIB * compat_tests::setting("COMPAT_UPLOAD", 256);
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    assert_eq!(admin.get("/access/users").status, 200);

    let head = "--b\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n\
                --b\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"large.iso\"\r\n\r\n";
    let (end, kind) = ("\r\n--b--\r\n", ("Content-Type", "multipart/form-data; boundary=b"));
    let length = head.len() + usize::try_from(size).unwrap() + end.len();
    let over = AtomicBool::new(false);
    let watched: Vec<_> = [node.proxy_pid(), node.daemon_pid()].map(|pid| (pid, process::memory(pid))).into();
    std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            let most: Vec<AtomicU64> = watched.iter().map(|_| AtomicU64::new(0)).collect();
            while !over.load(Ordering::Relaxed) {
                for ((pid, _), most) in watched.iter().zip(&most) {
                    most.fetch_max(process::memory(*pid), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let done = std::panic::catch_unwind(|| {
            let mut wire = Dialer::new(node.port()).open().unwrap();
            let stream = wire.get_mut();
            let path = "/api2/json/nodes/pve1/storage/local/upload";
            stream.write_all(&admin.head("POST", path, &[kind], length)).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            // Line breaks and dashes: every byte could begin the boundary.
            let block = b"\r\n--a\r\n-".repeat(MIB as usize / 8);
            (0..size / MIB).for_each(|_| stream.write_all(&block).unwrap());
            stream.write_all(end.as_bytes()).unwrap();
            let upid = try_read_reply(&mut wire).unwrap().data();
            node.finish(&admin, &upid);
        });
        over.store(true, Ordering::Relaxed);
        let most = most.join().unwrap();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for ((pid, before), most) in watched.iter().zip(most) {
            let most = most.into_inner();
            eprintln!("process {pid}: {before} KiB, at most {most} KiB");
            assert!(most < before + LIMIT, "grown from {before} to {most} KiB");
        }
    });
    let file = node.path("var/lib/vz/template/iso/large.iso");
    assert_eq!(file.metadata().unwrap().len(), size);
    wait_for("nothing is left", 10, || (std::fs::read_dir(node.path("var/tmp")).unwrap().count() == 0).then_some(()));
}
