//! Who may connect a guest to a bridge. (PVE: pve-guest-common PVE/GuestHelpers.pm, check_vnet_access)

use crate::{Context, Result};
use std::collections::BTreeSet;

/// Fails unless the caller may use a bridge: as a whole, or the VLANs of a card that names some (`tag`, `trunks`).
pub fn check_bridge(ctx: &Context, bridge: &str, tag: Option<&str>, trunks: Option<&str>) -> Result<()> {
    let path = format!("/sdn/zones/localnetwork/{bridge}");
    let vlans = vlans(tag, trunks);
    if vlans.is_empty() {
        return super::check(ctx, &path, &["SDN.Use"]);
    }
    vlans.iter().try_for_each(|vlan| super::check(ctx, &format!("{path}/{vlan}"), &["SDN.Use"]))
}

/// Whether the caller may know of a bridge: by a right on it, or on one of its VLANs.
/// (PVE: pve-access-control PVE/RPCEnvironment.pm, check_sdn_bridge)
pub fn sees_bridge(ctx: &Context, bridge: &str) -> bool {
    const SEEING: [&str; 2] = ["SDN.Audit", "SDN.Use"];
    let path = format!("/sdn/zones/localnetwork/{bridge}");
    if super::has_any(ctx, &path, &SEEING) {
        return true;
    }
    let Ok(config) = super::config(ctx) else { return false };
    let mut vlans = config.acl.find(&path).into_iter().flat_map(super::acl::AclNode::children);
    vlans.any(|vlan| super::has_any(ctx, &format!("{path}/{vlan}"), &SEEING))
}

/// All VLANs of `tag` and of `trunks`, such as `5;10-12`. Texts that are no numbers stay: nobody has a right on them
/// but those who may use the whole bridge.
fn vlans(tag: Option<&str>, trunks: Option<&str>) -> BTreeSet<String> {
    let mut vlans: BTreeSet<String> = tag.filter(|tag| *tag != "0").map(str::to_owned).into_iter().collect();
    for trunk in trunks.unwrap_or_default().split(';').filter(|trunk| !trunk.is_empty()) {
        match trunk.split_once('-').map(|(first, last)| (first.parse::<u16>(), last.parse::<u16>())) {
            Some((Ok(first), Ok(last))) if first < last => vlans.extend((first..=last).map(|vlan| vlan.to_string())),
            Some((Ok(first), Ok(_))) => drop(vlans.insert(first.to_string())),
            _ => drop(vlans.insert(trunk.to_owned())),
        }
    }
    vlans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;

    #[test]
    fn a_card_needs_its_vlans_or_the_whole_bridge() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let users = "user:root@pam:1:0:::::\nuser:joe@pve:1:0:::::\nuser:ann@pve:1:0:::::\n\
            acl:1:/sdn/zones/localnetwork/vmbr0/5:joe@pve:PVESDNUser:\n\
            acl:1:/sdn/zones/localnetwork/vmbr0:ann@pve:PVESDNUser:\n";
        std::fs::write(ctx.root.etc_pve("user.cfg"), users).unwrap();
        let may = |user: &str, tag, trunks| {
            check_bridge(&ctx.with_caller(Caller::verified(user)), "vmbr0", tag, trunks).is_ok()
        };
        assert!(may("joe@pve", Some("5"), None) && may("joe@pve", None, Some("5")));
        assert!(!may("joe@pve", None, None) && !may("joe@pve", Some("6"), None));
        assert!(!may("joe@pve", Some("5"), Some("4-6")));
        let sees = |user: &str, bridge| sees_bridge(&ctx.with_caller(Caller::verified(user)), bridge);
        assert!(sees("joe@pve", "vmbr0") && sees("ann@pve", "vmbr0"));
        assert!(!sees("joe@pve", "vmbr1") && !sees("ann@pve", "vmbr1"));
        assert!(may("ann@pve", None, None) && may("ann@pve", Some("6"), Some("10-12;7")));
        assert_eq!(Vec::from_iter(vlans(None, Some("10-12;7;9-8"))), ["10", "11", "12", "7", "9"]);
    }
}
