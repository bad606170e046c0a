//! Storages: lists, full copies and allocations, next to what people do by hand.

use crate::connection::Connection;
use crate::measure::{Row, Samples, Table};
use crate::node::Node;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 5;

/// All rows about storages.
pub fn rows(table: &mut Table) {
    list(table);
    copy(table);
    reflink(table);
    allocate(table);
}

/// The content of a storage with 5,000 qcow2 images of 500 guests: by a daemon that knows them, and by a tool that has to
/// read each header, next to `ls -lR` and `qemu-img info`.
fn list(table: &mut Table) {
    let node = Node::start(0);
    let model = node.path("model.qcow2");
    node.check(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&model).arg("32G"));
    for vmid in 1000..1500 {
        let directory = node.path(&format!("var/lib/vz/images/{vmid}"));
        fs::create_dir_all(&directory).expect("own directory");
        for disk in 0..10 {
            fs::copy(&model, directory.join(format!("vm-{vmid}-disk-{disk}.qcow2"))).expect("own directory");
        }
    }
    // What has changed just now is not kept.
    std::thread::sleep(Duration::from_secs(5));
    let request = node.request("/api2/json/nodes/bench/storage/local/content");
    let mut connection = Connection::open(node.port);
    assert!(connection.ask(&request).len() > 5_000 * 80, "all volumes are listed");
    let ours = Samples::of(20, || {
        connection.ask(&request);
    });
    let images = node.path("var/lib/vz/images");
    let by_hand = Samples::of(20, || node.check(Command::new("ls").arg("-lR").arg(&images).stdout(Stdio::null())));
    let (ours, by_hand) = (ours.median(), by_hand.median());
    table.add(&Row::time("content of 5,000 volumes: p50", ours, ("ls -lR", by_hand), Duration::from_millis(50)));
    let path = "/nodes/bench/storage/local/content";
    let ours = Samples::of(ROUNDS, || node.check(node.program("pvesh").args(["get", path, "--output-format", "json"])));
    // One `qemu-img` for each image takes minutes: a hundred of them stand for all.
    let infos = Samples::of(1, || {
        for vmid in 1000..1100 {
            let image = node.path(&format!("var/lib/vz/images/{vmid}/vm-{vmid}-disk-0.qcow2"));
            node.check(Command::new("qemu-img").arg("info").arg(image));
        }
    });
    let (ours, infos) = (ours.median(), by_hand + infos.median() * 50);
    table.add(&Row::time("content of 5,000 volumes, cold, whole tool", ours, ("ls -lR, qemu-img info", infos), infos));
}

/// A full copy of 10 GiB on a file system that shares bytes, next to `cp --reflink`.
fn reflink(table: &mut Table) {
    let node = Node::prepare();
    let (file, place) = (node.path("xfs.img"), node.path("xfs"));
    fs::create_dir(&place).expect("own directory");
    fs::File::create(&file).and_then(|file| file.set_len(2 << 30)).expect("own directory");
    node.check(Command::new("mkfs.xfs").arg("-q").arg(&file));
    node.check(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&place));
    let path = place.to_string_lossy();
    node.check(node.program("pvesm").args(["add", "dir", "xfs", "--path", &path, "--content", "images"]));
    node.check(node.program("pvesm").args(["alloc", "xfs", "100", "vm-100-disk-0.raw", "10G"]));
    let source = place.join("images/100/vm-100-disk-0.raw");
    node.check(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 7 1G 256M"]).arg(&source));
    let target = place.join("by-hand.raw");
    let (ours, by_hand) = copies(&node, "xfs", &target, &mut || {
        node.check(Command::new("cp").arg("--reflink=always").arg(&source).arg(&target));
    });
    node.check(Command::new("umount").arg(&place));
    let what = "full copy of 10 GiB, shared, whole tool";
    table.add(&Row::time(what, ours, ("cp --reflink", by_hand), Duration::from_millis(200)));
}

/// Full copies of the disk of VM 100 on a storage, by the whole tool and by hand.
fn copies(node: &Node, storage: &str, target: &Path, by_hand: &mut dyn FnMut()) -> (Duration, Duration) {
    let path = format!("/nodes/bench/storage/{storage}/content/{storage}:100%2Fvm-100-disk-0.raw");
    let volume = format!("{storage}:200/vm-200-disk-0.raw");
    let [ours, _, by_hand, _] = Samples::by_turns(
        ROUNDS,
        [
            &mut || node.check(node.program("pvesh").args(["create", &path, "--target", &volume])),
            &mut || node.check(node.program("pvesm").args(["free", &volume])),
            by_hand,
            &mut || fs::remove_file(target).expect("own file"),
        ],
    )
    .map(|samples| samples.median());
    (ours, by_hand)
}

/// A full copy of 512 MiB of data in 4 GiB, next to `qemu-img convert` and a sync of its target.
fn copy(table: &mut Table) {
    let node = Node::prepare();
    node.check(node.program("pvesm").args(["alloc", "local", "100", "vm-100-disk-0.raw", "4G"]));
    let source = node.path("var/lib/vz/images/100/vm-100-disk-0.raw");
    let source = source.to_string_lossy();
    let order = ["-f", "raw", "-c", "write -P 7 1G 512M", &source];
    node.check(Command::new("qemu-io").args(order));
    let target = node.path("var/lib/vz/images/100/by-hand.raw");
    let (ours, by_hand) = copies(&node, "local", &target, &mut || {
        node.check(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw", &source]).arg(&target));
        node.check(Command::new("sync").arg("-d").arg(&target));
    });
    let what = "full copy of a raw disk, whole tool";
    table.add(&Row::time(what, ours, ("qemu-img convert", by_hand), by_hand.mul_f64(1.05)));
}

/// 100 allocations one after another, next to as many runs of `truncate`.
fn allocate(table: &mut Table) {
    let node = Node::prepare();
    let directory = node.path("by-hand");
    fs::create_dir_all(&directory).expect("own directory");
    let [ours, _, by_hand] = Samples::by_turns(
        ROUNDS,
        [
            &mut || {
                for _ in 0..100 {
                    node.check(node.program("pvesm").args(["alloc", "local", "100", "", "1G", "--format", "raw"]));
                }
            },
            &mut || fs::remove_dir_all(node.path("var/lib/vz/images/100")).expect("own directory"),
            &mut || {
                for number in 0..100 {
                    node.check(Command::new("truncate").args(["-s", "1G"]).arg(directory.join(number.to_string())));
                }
            },
        ],
    )
    .map(|samples| samples.median());
    table.add(&Row::time("100 allocations, 100 tools", ours, ("truncate", by_hand), Duration::from_secs(2)));
}
