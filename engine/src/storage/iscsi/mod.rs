//! Storages on iSCSI: `iscsi` logs the machine in and shows the target's disks ([`initiator`]), `iscsidirect` lets QEMU
//! speak to the target ([`direct`]). Neither makes or removes disks. Untested on real hardware.
//! (PVE: pve-storage PVE/Storage/ISCSIPlugin.pm, ISCSIDirectPlugin.pm)

pub mod direct;
pub mod initiator;

use super::driver::Storage;
use super::mounted::{check_server_name, ping};
use crate::tool::Tool;
use crate::{Context, Error, Result, bail};
use std::collections::BTreeMap;
use std::time::Duration;

/// The port of targets that name none.
const PORT: u16 = 3260;

/// How long a target may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Host and port of a portal: `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`.
pub fn portal_parts(portal: &str) -> Result<(&str, u16)> {
    let bad = || Error::new(format!("unable to parse portal address '{}'", portal.escape_debug()));
    let (host, port) = match portal.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            (host, rest.strip_prefix(':'))
        }
        None => match portal.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (portal, None),
        },
    };
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| bad()))?;
    Ok((check_server_name(host)?, port))
}

/// Refuses what cannot be the name of a target: `iqn.…`, `eui.…`, `naa.…` without anything that ends a word.
pub fn check_target(target: &str) -> Result<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '+');
    if target.is_empty() || target.len() > 223 || target.starts_with('-') || !target.chars().all(allowed) {
        bail!("invalid iSCSI target '{}'", target.escape_debug());
    }
    Ok(target)
}

fn option<'s>(storage: &'s Storage, key: &str) -> Result<&'s str> {
    storage.entry.get(key).ok_or_else(|| Error::new(format!("missing value for required option '{key}'")))
}

/// Portal and target of a storage, checked.
pub fn place<'s>(storage: &'s Storage) -> Result<(&'s str, &'s str)> {
    let portal = option(storage, "portal")?;
    portal_parts(portal)?;
    Ok((portal, check_target(option(storage, "target")?)?))
}

/// Asks a portal for its targets, each with the portals that lead to it.
pub fn discovery(ctx: &Context, portal: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let (host, port) = portal_parts(portal)?;
    ping(host, port)?;
    let tool = Tool::new("iscsiadm").args(["--mode", "discovery", "--type", "sendtargets", "--portal", portal]);
    Ok(targets(&tool.within(ANSWER).read(ctx)?))
}

/// Lines such as `10.0.0.1:3260,1 iqn.2003-01.org.example:disk`.
fn targets(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(portal), Some(target)) = (words.next(), words.next()) else { continue };
        if let Some((portal, _)) = portal.rsplit_once(',') {
            found.entry(target.to_owned()).or_default().push(portal.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_and_targets_are_words() {
        assert_eq!(portal_parts("10.0.0.1").unwrap(), ("10.0.0.1", 3260));
        assert_eq!(portal_parts("nas:3261").unwrap(), ("nas", 3261));
        assert_eq!(portal_parts("[fe80::1]:3262").unwrap(), ("fe80::1", 3262));
        assert_eq!(portal_parts("fe80::1").unwrap(), ("fe80::1", 3260));
        for bad in ["", "-p", "a b", "nas:x", "[fe80::1", "nas:3260;id"] {
            assert!(portal_parts(bad).is_err(), "{bad}");
        }
        assert!(check_target("iqn.2003-01.org.example:disk-1_a").is_ok());
        for bad in ["", "--logout", "iqn x", "iqn/x", "iqn;x"] {
            assert!(check_target(bad).is_err(), "{bad}");
        }
        let found = targets("10.0.0.1:3260,1 iqn.a\n[fe80::1]:3260,1 iqn.a\n10.0.0.1:3260,1 iqn.b\nrubbish\n");
        assert_eq!(found["iqn.a"], ["10.0.0.1:3260", "[fe80::1]:3260"]);
        assert_eq!(found.len(), 2);
    }
}
