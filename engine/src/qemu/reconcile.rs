//! What runs against what is configured: leftovers of VMs that ended while nobody looked, and guests that start with
//! the node.

use super::{files, recovery, status};
use crate::{Context, Result};

/// Removes files of VMs that have ended; says what was cleaned. Taps need no care: they go with QEMU.
pub fn reconcile(ctx: &Context) -> Result<Vec<String>> {
    recovery::NOTES.before(ctx);
    let mut cleaned = Vec::new();
    for vmid in files::with_files(ctx) {
        if !status::is_running(ctx, vmid) {
            let names = files::remove_leftovers(ctx, vmid)?;
            cleaned.extend(names.into_iter().map(|name| format!("removed '{name}' of VM {vmid}, which has ended")));
        }
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_a_vm_that_was_killed_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        files::ensure_directory(&ctx).unwrap();
        let vmid = "100".parse().unwrap();
        std::fs::write(files::path(&ctx, vmid, "pid"), "4194304").unwrap();
        std::fs::write(files::path(&ctx, vmid, "qmp"), "").unwrap();
        assert_eq!(reconcile(&ctx).unwrap().len(), 2);
        assert!(reconcile(&ctx).unwrap().is_empty());
    }
}
