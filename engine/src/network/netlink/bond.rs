//! Between the kernel's words and ours for the rarer options of a bond.

use netlink_packet_route::link::{BondAdSelect, BondAllPortActive, BondFailOverMac, BondPrimaryReselect, InfoBond};

/// An option that the kernel has.
pub(super) fn value(option: &InfoBond) -> Option<(&'static str, u32)> {
    Some(match option {
        InfoBond::AllPortsActive(is) => ("all-slaves-active", u8::from(*is).into()),
        InfoBond::PrimaryReselect(when) => ("primary-reselect", u8::from(*when).into()),
        InfoBond::FailOverMac(whose) => ("fail-over-mac", u8::from(*whose).into()),
        InfoBond::AdSelect(by) => ("ad-select", u8::from(*by).into()),
        InfoBond::AdActorSysPrio(priority) => ("ad-actor-sys-prio", (*priority).into()),
        InfoBond::UseCarrier(is) => ("use-carrier", (*is).into()),
        InfoBond::NumPeerNotif(count) => ("num-grat-arp", (*count).into()),
        InfoBond::ResendIgmp(count) => ("resend-igmp", *count),
        InfoBond::PacketsPerPort(count) => ("packets-per-slave", *count),
        InfoBond::LpInterval(seconds) => ("lp-interval", *seconds),
        _ => return None,
    })
}

/// An option for the kernel.
pub(super) fn option(name: &str, value: u32) -> Option<InfoBond> {
    let small = u8::try_from(value).unwrap_or(u8::MAX);
    Some(match name {
        "all-slaves-active" => InfoBond::AllPortsActive(BondAllPortActive::from(small)),
        "primary-reselect" => InfoBond::PrimaryReselect(BondPrimaryReselect::from(small)),
        "fail-over-mac" => InfoBond::FailOverMac(BondFailOverMac::from(small)),
        "ad-select" => InfoBond::AdSelect(BondAdSelect::from(small)),
        "ad-actor-sys-prio" => InfoBond::AdActorSysPrio(u16::try_from(value).unwrap_or(u16::MAX)),
        "use-carrier" => InfoBond::UseCarrier(value != 0),
        "num-grat-arp" => InfoBond::NumPeerNotif(small),
        "resend-igmp" => InfoBond::ResendIgmp(value),
        "packets-per-slave" => InfoBond::PacketsPerPort(value),
        "lp-interval" => InfoBond::LpInterval(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::bond_options::BOND_OPTIONS;

    #[test]
    fn each_option_goes_to_the_kernel_and_back() {
        for row in BOND_OPTIONS {
            for sent in [row.usual, 0] {
                assert_eq!(option(row.name(), sent).as_ref().and_then(value), Some((row.name(), sent)));
            }
        }
    }
}
