//! What the option `features` lets a container do, seen from inside.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::busybox_template;
use compat_tests::{Node, Ran, wait_for};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

#[test]
fn device_nodes_that_do_no_harm_are_made_for_a_container() {
    let node = Node::without_daemons();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let pct = |words: &str| node.run("pct", &words.split_whitespace().collect::<Vec<_>>());
    let inside = |script: &str| -> Ran { node.run("pct", &["exec", "8361", "--", "sh", "-c", script]) };
    let create =
        "create 8361 local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 64 --rootfs local:0 --unprivileged 1";
    pct(create).ok();
    pct("start 8361").ok();
    assert_ne!(inside("mknod /root/null c 1 3").code, 0, "a container may not, unless it is told so");
    pct("stop 8361").ok();
    pct("set 8361 --features mknod=1").ok();
    let started = pct("start 8361").ok();
    assert!(!started.contains("WARN"), "{started}");

    // Absolute and relative paths, with the permissions that the process asks for.
    inside("cd /root && umask 027 && mknod -m 640 null c 1 3 && mknod ../root/full c 1 7 && echo x > null").ok();
    assert_eq!(inside("stat -c '%a %t %T %u:%g %F' /root/null").ok(), "640 1 3 0:0 character special file\n");
    assert_ne!(inside("echo x > /root/full").code, 0, "a full device takes nothing");
    let made = node.path("var/lib/vz/images/8361/subvol-8361-disk-0.subvol/root/null");
    let made = made.symlink_metadata().unwrap();
    assert!(made.file_type().is_char_device() && made.uid() == 100_000 && made.gid() == 100_000);
    let again = inside("mknod /root/null c 1 3");
    assert!(again.code != 0 && again.stderr.contains("File exists"), "{}", again.stderr);

    // What would do harm, and who has no right to make nodes.
    for device in ["b 8 0", "c 1 1", "c 10 200"] {
        assert_ne!(inside(&format!("mknod /root/other {device}")).code, 0, "{device}");
    }
    inside("chmod 1777 /tmp; echo other:x:33:33::/:/bin/sh > /etc/passwd").ok();
    let other = |script: &str| inside(&format!("start-stop-daemon -S -c other -x /bin/sh -- -c '{script}'"));
    assert_eq!(other("id -u").ok(), "33\n");
    assert!(other("mknod /tmp/mine c 1 3").stderr.contains("Operation not permitted"));
    inside("mkfifo /root/pipe && test -p /root/pipe").ok();
    // A link leads nowhere but into the container.
    let outside = node.path("outside");
    inside(&format!("ln -s {} /root/link; mknod /root/link c 1 3", outside.display()));
    assert!(!outside.exists());

    let helpers = || std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| is_helper(&entry.path())).count();
    let before = helpers();
    assert!(before > 0, "a helper serves the container");
    pct("stop 8361").ok();
    wait_for("the helper's end", 20, || (helpers() < before).then_some(()));
    assert_eq!(pct("destroy 8361").code, 0);
}

fn is_helper(process: &std::path::Path) -> bool {
    std::fs::read(process.join("cmdline")).is_ok_and(|line| line.ends_with(b"pvedaemon\0system-calls\0"))
}
