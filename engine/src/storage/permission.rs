//! Who may use a volume. (PVE: pve-storage PVE/Storage.pm, check_volume_access)

use super::content::Content;
use super::driver::Described;
use super::volume::VolumeId;
use crate::{Context, Error, Result, Vmid, access};

/// Refuses a volume that the caller may not read. A guest's own volumes are free for `vmid`.
pub fn check_volume_access(ctx: &Context, vmid: Option<Vmid>, volume: &VolumeId) -> Result<()> {
    check_described(ctx, vmid, volume, &super::describe(ctx, volume)?)
}

/// The same for a volume whose name has been understood already.
pub(super) fn check_described(
    ctx: &Context,
    vmid: Option<Vmid>,
    volume: &VolumeId,
    described: &Described,
) -> Result<()> {
    let path = format!("/storage/{}", volume.storage);
    if access::has(ctx, &path, &["Datastore.Allocate"]) {
        return Ok(());
    }
    match (described.content, described.vmid) {
        (Content::Iso | Content::Vztmpl | Content::Import, _) => {
            access::check_any(ctx, &path, &["Datastore.AllocateSpace", "Datastore.Audit"])
        }
        (_, Some(owner)) if Some(owner) == vmid => Ok(()),
        (Content::Backup, Some(owner)) => {
            access::check(ctx, &path, &["Datastore.AllocateSpace"])?;
            access::check(ctx, &format!("/vms/{owner}"), &["VM.Backup"])
        }
        (Content::Images | Content::Rootdir, Some(owner)) => {
            access::check(ctx, &path, &["Datastore.Audit"])?;
            access::check(ctx, &format!("/vms/{owner}"), &["VM.Config.Disk"])
        }
        _ => Err(Error::new(format!("missing privileges to access {volume}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;

    /// Whether `joe@pve` may use a volume in VM 100 with these entries of the access tree.
    fn may_use(acl: &str, volume: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let users = format!("user:root@pam:1:0:::::\nuser:joe@pve:1:0:::::\n{acl}\n");
        std::fs::write(ctx.root.etc_pve("user.cfg"), users).unwrap();
        let ctx = ctx.with_caller(Caller::verified("joe@pve"));
        check_volume_access(&ctx, Some("100".parse().unwrap()), &volume.parse().unwrap()).is_ok()
    }

    const USER: &str = "acl:1:/storage/local:joe@pve:PVEDatastoreUser:";
    const AUDITOR: &str = "acl:1:/storage/local:joe@pve:PVEAuditor:";

    #[test]
    fn a_vm_gets_its_own_volumes_and_what_all_readers_share() {
        assert!(may_use("", "local:100/vm-100-disk-0.raw"));
        assert!(!may_use("", "local:iso/debian.iso"));
        for acl in [USER, AUDITOR] {
            assert!(may_use(acl, "local:iso/debian.iso"), "{acl}");
            assert!(!may_use(acl, "local:101/vm-101-disk-0.raw"), "{acl}");
        }
    }

    #[test]
    fn volumes_of_other_guests_need_rights_on_those() {
        let owner = "acl:1:/vms/101:joe@pve:PVEVMAdmin:";
        let disk = "local:101/vm-101-disk-0.raw";
        assert!(!may_use(owner, disk));
        assert!(may_use(&format!("{owner}\n{AUDITOR}"), disk));
        let backup = "local:backup/vzdump-qemu-101-2026_01_02-03_04_05.vma.zst";
        assert!(!may_use(&format!("{owner}\n{AUDITOR}"), backup));
        assert!(may_use(&format!("{owner}\n{USER}"), backup));
    }
}
