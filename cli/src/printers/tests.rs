//! Golden forms of what scripts take apart.

use super::{guest, storage};
use jiff::tz::TimeZone;
use serde_json::json;

/// Ends of lines are marked, because blanks before them count.
fn marked(text: String) -> String {
    text.lines().map(|line| format!("{line}$\n")).collect()
}

#[test]
fn printers_belong_to_commands() {
    for (tool, words, _) in super::TABLE {
        assert!(contract::command::tool(tool).unwrap().commands.contains_key(*words), "{tool} {words}");
    }
}

#[test]
fn lists_of_guests() {
    let vms = json!([
        {"vmid": 1000, "name": "web", "status": "running", "maxmem": 536_870_912_u64, "maxdisk": 0, "pid": 77},
        {"vmid": 100, "name": "a-name-that-is-longer-than-20", "status": "running", "qmpstatus": "paused",
         "maxmem": 2_147_483_648_u64, "maxdisk": 34_359_738_368_u64},
    ]);
    insta::assert_snapshot!(marked(guest::vm_list(&vms.to_string()).unwrap()), @r"
          VMID NAME                 STATUS     MEM(MB)    BOOTDISK(GB) PID       $
           100 a-name-that-is-longer-than-20 paused     2048              32.00 0         $
          1000 web                  running    512                0.00 77        $
    ");
    let containers = json!([
        {"vmid": 200, "name": "db", "status": "stopped"},
        {"vmid": 101, "name": "proxy", "status": "running", "lock": "backup"},
    ]);
    insta::assert_snapshot!(marked(guest::container_list(&containers.to_string()).unwrap()), @r"
    VMID       Status     Lock         Name                $
    101        running    backup       proxy               $
    200        stopped                 db                  $
    ");
    assert_eq!(guest::vm_list("[]").unwrap(), "");
    assert_eq!(guest::container_list("[]").unwrap(), "");
}

#[test]
fn configurations_and_pending_changes() {
    let config = json!({"digest": "x", "cores": 2, "description": "a: 100%\nü", "agent": "1", "onboot": 1});
    assert_eq!(
        guest::config_lines(&config, &["digest"]),
        "agent: 1\ncores: 2\ndescription: a%3A 100%25%0A%C3%BC\nonboot: 1\n"
    );
    let pending = json!([
        {"key": "name", "value": "a"},
        {"key": "memory", "value": "512", "pending": "1024"},
        {"key": "net0", "value": "virtio", "delete": 1},
        {"key": "tags", "pending": "x"},
        {"key": "digest", "value": "x"},
    ]);
    assert_eq!(
        guest::pending_lines(&pending),
        "cur memory: 512\nnew memory: 1024\ncur name: a\ndel net0: virtio\nnew tags: x\n"
    );
}

#[test]
fn trees_of_snapshots() {
    let list = json!([
        {"name": "current", "parent": "b", "description": "You are here!"},
        {"name": "a", "snaptime": 1_700_000_000, "description": "first\nline two"},
        {"name": "b", "parent": "a", "snaptime": 1_700_000_100},
        {"name": "c", "parent": "a", "snaptime": 1_700_000_050, "description": ""},
    ]);
    insta::assert_snapshot!(marked(guest::snapshot_tree(&list, &TimeZone::UTC)), @r"
    `-> a                           2023-11-14 22:13:20     first$
     `-> c                          2023-11-14 22:14:10     no-description$
     `-> b                          2023-11-14 22:15:00     no-description$
      `-> current                                           You are here!$
    ");
}

#[test]
fn storages_and_volumes() {
    let storages = json!([
        {"storage": "local", "type": "dir", "enabled": 1, "active": 1, "total": 10_240_000, "used": 1_024_000, "avail": 9_216_000},
        {"storage": "backup-nfs", "type": "nfs", "enabled": 0, "active": 0, "total": 0, "used": 0, "avail": 0},
        {"storage": "off", "type": "lvm", "enabled": 1, "active": 0},
    ]);
    insta::assert_snapshot!(marked(storage::status_lines(&storages)), @r"
    Name              Type     Status     Total (KiB)      Used (KiB) Available (KiB)        %$
    backup-nfs         nfs   disabled               0               0               0      N/A$
    local              dir     active           10000            1000            9000   10.00%$
    off                lvm   inactive               0               0               0    0.00%$
    ");
    let volumes = json!([
        {"volid": "local:iso/x.iso", "format": "iso", "content": "iso", "size": 376_832},
        {"volid": "local:100/vm-100-disk-0.qcow2", "format": "qcow2", "content": "images", "size": 1_073_741_824, "vmid": 100},
        {"volid": "local:200/vm-200-disk-0.raw", "format": "raw", "content": "images", "size": 5, "vmid": 200},
        {"volid": "local:backup/a.zst", "format": "btar", "content": "backup", "size": 7},
    ]);
    insta::assert_snapshot!(marked(storage::content(&volumes.to_string()).unwrap()), @r"
    Volid                         Format  Type            Size VMID$
    local:100/vm-100-disk-0.qcow2 qcow2   images    1073741824 100$
    local:200/vm-200-disk-0.raw   raw     images             5 200$
    local:backup/a.zst            btar    backup             7$
    local:iso/x.iso               iso     iso           376832$
    ");
}
