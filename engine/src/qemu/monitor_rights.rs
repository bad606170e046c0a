//! Which lines of QEMU's human monitor a user may give. The monitor reaches files, devices and the network of the host,
//! so each command has its own answer, and one that is not listed is root's. (PVE: API2/Qemu/HMPPerms.pm)

use crate::{Context, Error, Result, access};

/// Commands that only tell something.
const FREE: [&str; 3] = ["help", "?", "info"];

/// Commands that stay within the VM: `Sys.Modify` on `/` is asked for.
const MODIFY: [&str; 71] = [
    "announce_self",
    "backup_cancel",
    "balloon",
    "block_job_cancel",
    "block_job_complete",
    "block_job_pause",
    "block_job_resume",
    "block_job_set_speed",
    "block_resize",
    "block_set_io_throttle",
    "boot_set",
    "c",
    "calc_dirty_rate",
    "cancel_vcpu_dirty_limit",
    "chardev-send-break",
    "closefd",
    "commit",
    "cont",
    "cpu",
    "delvm",
    "eject",
    "exit_preconfig",
    "expire_password",
    "getfd",
    "gpa2hpa",
    "gpa2hva",
    "gva2gpa",
    "i",
    "loadvm",
    "log",
    "migrate_cancel",
    "migrate_continue",
    "migrate_pause",
    "migrate_set_capability",
    "migrate_set_parameter",
    "migrate_start_postcopy",
    "mouse_button",
    "mouse_move",
    "mouse_set",
    "one-insn-per-tb",
    "p",
    "print",
    "q",
    "qemu-io",
    "qom-get",
    "qom-list",
    "quit",
    "replay_break",
    "replay_delete_break",
    "replay_seek",
    "ringbuf_read",
    "ringbuf_write",
    "s",
    "savevm",
    "sendkey",
    "set_link",
    "set_password",
    "set_vcpu_dirty_limit",
    "snapshot_blkdev_internal",
    "snapshot_delete_blkdev_internal",
    "stop",
    "stopcapture",
    "sum",
    "sync-profile",
    "system_powerdown",
    "system_reset",
    "system_wakeup",
    "trace-event",
    "x",
    "x_colo_lost_heartbeat",
    "xp",
];

/// Commands that reach the host, and so are root's.
const ROOT: [&str; 43] = [
    "backup",
    "block_stream",
    "change",
    "chardev-add",
    "chardev-change",
    "chardev-remove",
    "client_migrate_info",
    "device_add",
    "device_del",
    "drive_add",
    "drive_backup",
    "drive_del",
    "drive_mirror",
    "dump-guest-memory",
    "dumpdtb",
    "gdbserver",
    "hostfwd_add",
    "hostfwd_remove",
    "logfile",
    "mce",
    "memsave",
    "migrate",
    "migrate_incoming",
    "migrate_recover",
    "nbd_server_add",
    "nbd_server_remove",
    "nbd_server_start",
    "nbd_server_stop",
    "netdev_add",
    "netdev_del",
    "nmi",
    "o",
    "object_add",
    "object_del",
    "pcie_aer_inject_error",
    "pmemsave",
    "qom-set",
    "savevm-end",
    "savevm-start",
    "screendump",
    "snapshot_blkdev",
    "watchdog_action",
    "wavcapture",
];

/// Fails unless the caller may give this line.
pub fn check(ctx: &Context, line: &str) -> Result<()> {
    let Some(command) = line.split_whitespace().next() else {
        return Err(Error::new(match line {
            "" => "no command specified".to_owned(),
            _ => format!("unexpected command '{line}'"),
        }));
    };
    if ctx.caller.is_root() || FREE.contains(&command) {
        return Ok(());
    }
    if MODIFY.contains(&command) {
        return access::check(ctx, "/", &["Sys.Modify"]);
    }
    Err(Error::new(match ROOT.contains(&command) || command.starts_with("xen-event-") {
        true => format!("root-only command '{command}'"),
        false => {
            format!("command '{command}' non-existent or not assigned a required permission yet, limiting to root user")
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_reach_the_host_are_for_root() {
        let root = tempfile::tempdir().unwrap();
        let mut ctx = Context::for_test(root.path());
        assert!(check(&ctx, "drive_add 0 file=/etc/shadow").is_ok());
        assert_eq!(check(&ctx, " ").unwrap_err().message(), "unexpected command ' '");
        ctx.caller = crate::Caller::verified("joe@pve");
        let refused = |line: &str| check(&ctx, line).unwrap_err().message().to_owned();
        assert!(check(&ctx, "info block").is_ok());
        assert_eq!(
            refused("  info_block"),
            "command 'info_block' non-existent or not assigned a required permission \
                    yet, limiting to root user"
        );
        assert_eq!(refused("change ide2 /etc/shadow"), "root-only command 'change'");
        assert_eq!(refused("stop"), "Permission check failed (/, Sys.Modify)");
        let listed = [&FREE[..], &MODIFY, &ROOT].concat();
        assert_eq!(listed.iter().collect::<std::collections::BTreeSet<_>>().len(), listed.len());
    }
}
