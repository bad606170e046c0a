//! The machine's own addresses.

use crate::{Result, command};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The addresses that `ip address show` lists with these words behind it.
///
/// # Errors
/// When `ip` cannot be run or does not understand the words.
pub fn addresses(which: &[&str]) -> Result<BTreeSet<IpAddr>> {
    let shown = command::run("ip", &[&["-json", "address", "show"], which].concat())?.stdout;
    let links: Value = serde_json::from_str(&shown).unwrap_or_default();
    let links = links.as_array().into_iter().flatten();
    let infos = links.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    Ok(infos.filter_map(|info| info["local"].as_str()?.parse().ok()).collect())
}
