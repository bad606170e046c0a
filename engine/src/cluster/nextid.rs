//! Numbers for new guests: the lowest free one, and never the same one twice within a minute.
//!
//! Clients ask for a number and create the guest later; two of them that ask at the same time must not get the same.
//! So a number that was given out is reserved for a minute, in a file below `/run` that daemons and tools share. A
//! reservation ends early when the guest was created and removed again. (PVE: pve-manager PVE/API2/Cluster.pm, nextid)

use super::options::DatacenterOptions;
use crate::config::guest::GuestKind;
use crate::{Call, Context, Error, Reply, Result, Vmid, bail, error::ResultExt, file, guest, live};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// Seconds for which a number belongs to the one who asked.
const RESERVED_FOR: i64 = 60;

/// `GET /cluster/nextid`: a free number as text, or whether the given one is free.
pub fn get(call: &Call) -> Result<Reply> {
    let used = used(call.ctx)?;
    let number = match call.opt::<Vmid>("vmid")? {
        Some(vmid) if used.contains(&vmid.number()) => {
            return Err(Error::parameter("vmid", format!("VM {vmid} already exists")));
        }
        Some(vmid) => vmid.number(),
        None => reserve(call.ctx, &used)?,
    };
    // A string, whatever the schema says: clients decode it as one.
    Ok(Reply::from(json!(number.to_string())))
}

/// Ends the reservation of a number; called when its guest is gone.
pub fn release(ctx: &Context, vmid: Vmid) -> Result<()> {
    if !path(ctx).exists() {
        return Ok(());
    }
    edit(ctx, |reserved| {
        reserved.remove(&vmid.number());
    })
}

fn path(ctx: &Context) -> PathBuf {
    ctx.root.run("ferrovisor/reserved-ids")
}

/// The numbers of all guests of all nodes.
fn used(ctx: &Context) -> Result<BTreeSet<u32>> {
    let mut used: BTreeSet<u32> = live::guests(ctx)?.iter().map(|row| row.vmid.number()).collect();
    for node in live::other_nodes(ctx) {
        let ctx = Context { node, live: None, ..ctx.clone() };
        for kind in [GuestKind::Qemu, GuestKind::Lxc] {
            used.extend(guest::list(&ctx, kind)?.iter().map(|vmid| vmid.number()));
        }
    }
    Ok(used)
}

fn reserve(ctx: &Context, used: &BTreeSet<u32>) -> Result<u32> {
    let (lower, upper) = DatacenterOptions::load(ctx)?.next_id_bounds();
    let until = ctx.clock.now() + RESERVED_FOR;
    let mut found = None;
    edit(ctx, |reserved| {
        found = (lower..upper).find(|number| !used.contains(number) && !reserved.contains_key(number));
        if let Some(number) = found {
            reserved.insert(number, until);
        }
    })?;
    match found {
        Some(number) => Ok(number),
        None => bail!("unable to get any free VMID in range [{lower}, {upper}]"),
    }
}

/// Changes the reservations under the file's lock; those that have run out are gone.
fn edit(ctx: &Context, change: impl FnOnce(&mut BTreeMap<u32, i64>)) -> Result<()> {
    let path = path(ctx);
    let place = || format!("unable to write '{}'", path.display());
    let _lock = file::lock_file(ctx, &path)?;
    let now = ctx.clock.now();
    let mut reserved: BTreeMap<u32, i64> = file::read_or_empty(&path)?
        .lines()
        .filter_map(|line| {
            let (number, until) = line.split_once(' ')?;
            Some((number.parse().ok()?, until.parse().ok()?))
        })
        // A clock that was set back must not reserve a number for years.
        .filter(|(_, until)| (now + 1..=now + RESERVED_FOR).contains(until))
        .collect();
    change(&mut reserved);
    let text: String = reserved.iter().map(|(number, until)| format!("{number} {until}\n")).collect();
    fs::create_dir_all(path.parent().expect("the file lies in a directory")).context(place)?;
    // Under the lock, in memory, worth nothing after a crash of the machine: no need for more care.
    fs::write(&path, text).context(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestConfig;
    use crate::{Clock, registry};
    use contract::Verb;
    use serde_json::Map;

    fn next(ctx: &Context) -> String {
        let reply = registry::run(ctx, Verb::Get, "/cluster/nextid", Map::new()).unwrap();
        reply.data.as_str().expect("a string").to_owned()
    }

    #[test]
    fn a_number_is_given_out_once_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context { clock: Clock::Fixed(1000), ..Context::for_test(directory.path()) };
        guest::create(&ctx, "100".parse().unwrap(), &GuestConfig::new(GuestKind::Lxc)).unwrap();
        assert_eq!([next(&ctx), next(&ctx)], ["101", "102"]);
        release(&ctx, "101".parse().unwrap()).unwrap();
        assert_eq!(next(&ctx), "101");
        let later = Context { clock: Clock::Fixed(1060), ..ctx.clone() };
        assert_eq!(next(&later), "101");
        let earlier = Context { clock: Clock::Fixed(10), ..ctx };
        assert_eq!(next(&earlier), "101");
    }

    #[test]
    fn threads_never_get_the_same_number() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let ask = |_| {
            let ctx = ctx.clone();
            std::thread::spawn(move || next(&ctx))
        };
        let threads: Vec<_> = (0..50).map(ask).collect();
        let numbers: BTreeSet<String> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(numbers.len(), 50);
    }

    #[test]
    fn bounds_hold_and_a_used_number_is_a_parameter_error() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        guest::create(&ctx, "200".parse().unwrap(), &GuestConfig::new(GuestKind::Qemu)).unwrap();
        fs::write(ctx.root.etc_pve("datacenter.cfg"), "next-id: lower=200,upper=202\n").unwrap();
        assert_eq!(next(&ctx), "201");
        let error = registry::run(&ctx, Verb::Get, "/cluster/nextid", Map::new()).unwrap_err();
        assert_eq!(error.message(), "unable to get any free VMID in range [200, 202]");
        let ask = |vmid: &str| {
            let params = Map::from_iter([("vmid".to_owned(), json!(vmid))]);
            registry::run(&ctx, Verb::Get, "/cluster/nextid", params).map(|reply| reply.data)
        };
        let error = ask("200").unwrap_err();
        assert_eq!((error.status(), error.to_string().contains("VM 200 already exists")), (400, true));
        assert_eq!(ask("900").unwrap(), "900");
    }
}
