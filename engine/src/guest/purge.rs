//! What else of the node names a guest that is removed for good.

use crate::config::SectionConfig;
use crate::types::split_list;
use crate::{Context, Result, Vmid, file};

/// Takes a guest out of the backup jobs. A job that backed up nothing else goes.
/// (PVE: pve-guest-common PVE/VZDump/Plugin.pm, remove_vmid_from_backup_jobs)
pub fn backup_jobs(ctx: &Context, vmid: Vmid) -> Result<()> {
    let path = ctx.root.etc_pve("jobs.cfg");
    if !path.exists() {
        return Ok(());
    }
    file::update(ctx, &path, 0o640, |text| Ok(without_guest(text, vmid).unwrap_or_else(|| text.to_owned())))
}

/// The jobs without a guest; none when nobody names it.
fn without_guest(text: &str, vmid: Vmid) -> Option<String> {
    let mut config = SectionConfig::parse(text);
    let number = vmid.to_string();
    let mut is_changed = false;
    config.sections.retain(|_, job| {
        let key = if job.get("vmid").is_some() { "vmid" } else { "exclude" };
        let Some(list) = job.get(key).filter(|_| job.kind == "vzdump").map(split_list) else { return true };
        if !list.contains(&number) {
            return true;
        }
        is_changed = true;
        let rest: Vec<String> = list.into_iter().filter(|found| *found != number).collect();
        if !rest.is_empty() {
            job.values.insert(key.to_owned(), rest.join(","));
        } else if key == "vmid" {
            return false;
        } else {
            job.values.shift_remove(key);
        }
        true
    });
    is_changed.then(|| config.print())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_forget_a_guest() {
        let text = "vzdump: one\n\tschedule 21:00\n\tvmid 100\n\nvzdump: two\n\tschedule 22:00\n\tvmid 99,100,1000\n\n\
                    vzdump: all\n\tall 1\n\texclude 100\n\nrealm-sync: x\n\tvmid 100\n\n";
        let expected = "vzdump: two\n\tschedule 22:00\n\tvmid 99,1000\n\nvzdump: all\n\tall 1\n\n\
                        realm-sync: x\n\tvmid 100\n\n";
        assert_eq!(without_guest(text, "100".parse().unwrap()).as_deref(), Some(expected));
        assert_eq!(without_guest(text, "101".parse().unwrap()), None);
    }
}
