//! The speed limit of a guest's link, in both directions, through `tc`.
//!
//! To the guest a class of `htb` holds packets back; from the guest a policer drops what is too much.
//! (PVE: pve-common PVE/Network.pm, setup_tc_rate_limit)

use crate::{Result, command, error::ResultExt};

/// Bytes that may pass at once.
const BURST: &str = "1048576b";

/// Sets or removes the limit, in MiB per second. A link without one is not touched.
pub fn set(name: &str, rate: Option<f64>) -> Result<()> {
    let present = disciplines(name)?;
    let limited = present.contains("qdisc htb 1: root") || present.contains("qdisc ingress ffff:");
    let rate = rate.filter(|rate| *rate > 0.0);
    if rate.is_none() && !limited {
        return Ok(());
    }
    if limited {
        for place in ["root", "ingress"] {
            // One of the two may be missing after a crash; what is left is seen by the next command.
            let _ = tc(&["qdisc", "del", "dev", name, place]);
        }
    }
    let Some(rate) = rate else { return Ok(()) };
    // `bps` of tc are bytes per second.
    let rate = format!("{}bps", (rate * 1024.0 * 1024.0) as u64);
    tc(&["qdisc", "add", "dev", name, "root", "handle", "1:", "htb", "default", "1"])?;
    tc(&["class", "add", "dev", name, "parent", "1:", "classid", "1:1", "htb", "rate", &rate, "burst", BURST])?;
    tc(&["qdisc", "add", "dev", name, "handle", "ffff:", "ingress"])?;
    let filter = ["filter", "add", "dev", name, "parent", "ffff:", "prio", "50", "basic"];
    let police = ["police", "rate", &rate, "burst", BURST, "mtu", "64kb", "drop"];
    tc(&[&filter[..], &police[..]].concat())
}

/// The queueing disciplines of a link as `tc` prints them, without asking it for a link that has none of ours.
fn disciplines(name: &str) -> Result<String> {
    Ok(command::run("tc", &["qdisc", "show", "dev", name])?.stdout)
}

fn tc(arguments: &[&str]) -> Result<()> {
    command::run("tc", arguments).map(drop).context(|| "rate limit")
}
