//! `/cluster/backup-info`: which guests no backup job covers.
//! (PVE: pve-manager PVE/API2/Cluster/BackupInfo.pm; PVE/VZDump.pm, get_included_guests)

use crate::access::View;
use crate::config::section::{Section, SectionConfig};
use crate::live::{self, GuestRow};
use crate::{Call, Context, Reply, Result, access, file, types};
use serde_json::{Value, json};

/// `GET /cluster/backup-info/not-backed-up`: only guests that the caller may see.
pub fn not_backed_up(call: &Call) -> Result<Reply> {
    let jobs = SectionConfig::parse(&file::read_or_empty(&call.ctx.root.etc_pve("jobs.cfg"))?);
    let jobs: Vec<&Section> = jobs.sections.values().filter(|job| job.kind == "vzdump").collect();
    let view = View::of(call.ctx)?;
    let rows = live::guests(call.ctx)?
        .iter()
        .filter(|guest| !jobs.iter().any(|job| covers(call.ctx, job, guest)) && guest.is_visible_to(&view))
        .map(row)
        .collect();
    Ok(Reply::from(Value::Array(rows)))
}

fn row(guest: &GuestRow) -> Value {
    let mut row = json!({ "vmid": guest.vmid.number(), "type": guest.kind.as_str() });
    if let Some(name) = &guest.facts.name {
        row["name"] = json!(name);
    }
    row
}

/// A job names a pool, guests, or all but some; a job that is switched off counts, too, as in PVE.
fn covers(ctx: &Context, job: &Section, guest: &GuestRow) -> bool {
    let number = guest.vmid.to_string();
    let lists = |key: &str| job.get(key).is_some_and(|list| types::split_list(list).contains(&number));
    if job.get("node").is_some_and(|node| node != ctx.node) {
        return false;
    }
    if let Some(pool) = job.get("pool") {
        return access::vm_pool(ctx, guest.vmid).as_deref() == Some(pool);
    }
    if job.get("vmid").is_some() { lists("vmid") } else { job.flag("all") && !lists("exclude") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::{GuestConfig, GuestKind};
    use crate::{guest, registry};
    use contract::Verb;

    #[test]
    fn jobs_cover_all_but_the_excluded_or_the_listed() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        for (vmid, kind) in [("100", GuestKind::Qemu), ("101", GuestKind::Lxc), ("102", GuestKind::Lxc)] {
            let mut config = GuestConfig::new(kind);
            config.current.set(if kind == GuestKind::Qemu { "name" } else { "hostname" }, format!("g{vmid}"));
            guest::create(&ctx, vmid.parse().unwrap(), &config).unwrap();
        }
        let uncovered = |jobs: &str| {
            std::fs::write(ctx.root.etc_pve("jobs.cfg"), jobs).unwrap();
            let template = "/cluster/backup-info/not-backed-up";
            let reply = registry::run(&ctx, Verb::Get, template, serde_json::Map::new()).unwrap();
            reply.data.as_array().unwrap().iter().map(|row| row["vmid"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(uncovered(""), [100, 101, 102]);
        assert_eq!(uncovered("vzdump: a\n\tall 1\n\texclude 101\n"), [101]);
        assert_eq!(uncovered("vzdump: a\n\tvmid 101,102\n"), [100]);
        assert_eq!(uncovered("vzdump: a\n\tall 1\n\tnode other\n"), [100, 101, 102]);
        assert_eq!(uncovered("realm-sync: a\n\tall 1\n"), [100, 101, 102]);
    }
}
