//! The table follows files and processes, with and without its thread.

use super::*;
use crate::guest;
use std::fs;

fn write(ctx: &Context, kind: GuestKind, vmid: &str, text: &str) {
    let path = guest::path(ctx, kind, vmid.parse().unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// `VMID name status` of each row.
fn list(ctx: &Context) -> Vec<String> {
    let rows = guests(ctx).unwrap();
    rows.iter().map(|row| format!("{} {} {}", row.vmid, row.name(), row.status())).collect()
}

/// A node that is followed.
fn followed(directory: &tempfile::TempDir) -> Context {
    let ctx = Context::for_test(directory.path());
    let live = start(&ctx).unwrap();
    Context { live: Some(live), ..ctx }
}

#[test]
fn every_way_to_change_a_file_is_seen_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = followed(&directory);
    write(&ctx, GuestKind::Qemu, "100", "name: a\n");
    assert_eq!(list(&ctx), ["100 a stopped"]);
    // As an editor appends.
    write(&ctx, GuestKind::Qemu, "100", "name: a\nname: b\n");
    assert_eq!(list(&ctx), ["100 b stopped"]);
    // As a tool replaces.
    guest::update(&ctx, GuestKind::Qemu, "100".parse().unwrap(), |config| {
        config.current.set("name", "c");
        Ok(())
    })
    .unwrap();
    write(&ctx, GuestKind::Lxc, "101", "");
    assert_eq!(list(&ctx), ["100 c stopped", "101 CT101 stopped"]);
    fs::remove_file(guest::path(&ctx, GuestKind::Qemu, "100".parse().unwrap())).unwrap();
    assert_eq!(list(&ctx), ["101 CT101 stopped"]);
    // The directory itself is exchanged.
    let lxc = guest::directory(&ctx, GuestKind::Lxc);
    fs::rename(&lxc, lxc.with_extension("old")).unwrap();
    assert_eq!(list(&ctx), [""; 0]);
    write(&ctx, GuestKind::Lxc, "102", "hostname: d\n");
    assert_eq!(list(&ctx), ["102 d stopped"]);
}

#[test]
fn a_damaged_file_is_told_and_hides_no_other_guest() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = followed(&directory);
    write(&ctx, GuestKind::Qemu, "100", "name: a\n\u{1}secret\n");
    fs::create_dir_all(guest::path(&ctx, GuestKind::Lxc, "101".parse().unwrap())).unwrap();
    write(&ctx, GuestKind::Lxc, "102", "hostname: b\n");
    assert_eq!(list(&ctx), ["100 a stopped", "101 CT101 stopped", "102 b stopped"]);
    let texts: Vec<String> = problems(&ctx).unwrap().into_iter().map(|problem| problem.text).collect();
    assert_eq!(
        texts,
        [
            "VM 100: unable to parse 'qemu-server/100.conf', line 2",
            "CT 101: unable to read 'lxc/101.conf' - Is a directory"
        ]
    );
    write(&ctx, GuestKind::Qemu, "100", "name: a\n");
    assert_eq!(problems(&ctx).unwrap().len(), 1);
}

#[test]
fn a_guest_runs_until_its_process_ends() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = followed(&directory);
    write(&ctx, GuestKind::Qemu, "100", "name: a\n");
    let mut child = std::process::Command::new("sh")
        .args(["-c", "read line", "qemu", "-pidfile"])
        .arg(ctx.root.run("qemu-server/100.pid"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fs::create_dir_all(ctx.root.run("qemu-server")).unwrap();
    fs::write(ctx.root.run("qemu-server/100.pid"), child.id().to_string()).unwrap();
    assert_eq!(list(&ctx), ["100 a running"]);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(list(&ctx), ["100 a stopped"]);
    // The same without memory.
    assert_eq!(list(&Context { live: None, ..ctx }), ["100 a stopped"]);
}

#[test]
fn a_node_that_is_left_ends_its_thread() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = followed(&directory);
    let shared = Arc::downgrade(&ctx.live.as_ref().unwrap().shared);
    drop(ctx);
    assert!(shared.upgrade().is_none());
}
