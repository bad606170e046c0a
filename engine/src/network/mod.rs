//! The node's network: the interfaces file, its way to the kernel, and guests' links on bridges.
//!
//! | file | what |
//! | --- | --- |
//! | `interfaces/`, `edit.rs`, `handlers.rs` | the file as PVE reads and writes it, and the methods on it |
//! | `stanza.rs`, `wanted.rs`, `bond_options.rs` | what the file means: from text to a [`state::State`], pure |
//! | `others.rs` | what others have set on links of the file, and what of it stays, pure |
//! | `plan.rs`, `change.rs` | from one state to another: an ordered list of changes, pure |
//! | `netlink/` | the kernel's state, and changes of it |
//! | `transaction.rs`, `script.rs`, `dhcp.rs` | carrying a plan out, going back, confirmation; command lines and DHCP |
//! | `open_vswitch.rs`, `ovs_sections.rs` | bridges and ports of Open vSwitch: guests' and the file's |
//! | `tap.rs`, `port.rs`, `sub_bridge.rs`, `rate.rs`, `link.rs` | links of guests |
//!
//! Names of links are anybody's choice; nothing here knows a link by its name, except guests' own.

mod bond_options;
pub mod change;
mod dhcp;
pub mod edit;
pub mod handlers;
pub mod interfaces;
mod link;
pub mod netlink;
pub mod open_vswitch;
mod others;
mod ovs_sections;
pub mod plan;
pub mod port;
mod rate;
mod script;
pub mod stanza;
pub mod state;
pub mod sub_bridge;
mod tap;
pub mod transaction;
mod vnet;
pub mod wanted;

use crate::{Context, Error, Result};
use std::path::Path;

pub use link::remove as remove_link;
pub use port::{Port, change, plug, prepare, unplug};
pub use tap::{TapDevice, create_tap, guest_taps, remove_tap, traffic};

/// Whether a bridge of this name exists. A link of another kind is none.
pub fn bridge_exists(name: &str) -> bool {
    is_link_name(name) && Path::new("/sys/class/net").join(name).join("bridge").is_dir()
}

/// Whether a link of this name exists.
pub fn link_exists(name: &str) -> bool {
    is_link_name(name) && Path::new("/sys/class/net").join(name).exists()
}

/// Whether the kernel takes a name for a link.
pub fn is_link_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 16
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// Fails when a bridge is missing. (PVE: pve-common PVE/Network.pm, read_bridge_mtu)
pub fn check_bridge(bridge: &str) -> Result<()> {
    if bridge_exists(bridge) {
        return Ok(());
    }
    if link_exists(bridge) {
        return Err(Error::new(format!("'{bridge}' is not a bridge")));
    }
    Err(Error::new(format!("bridge '{bridge}' does not exist")))
}

/// Removes what guests that ended without us have left, and takes back a change of the network whose process has died;
/// says what.
pub fn reconcile(ctx: &Context) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    transaction::recover(ctx, &mut |line| lines.push(line.to_owned()))?;
    lines.extend(tidy(ctx)?);
    Ok(lines)
}

/// Removes bridges of VLANs that no guest uses any more, and ports of Open vSwitch whose guest has ended; says what. Taps
/// need no care: they go with QEMU.
pub fn tidy(ctx: &Context) -> Result<Vec<String>> {
    let bridges = sub_bridge::remove_all_unused(ctx)?;
    let bridges = bridges.into_iter().map(|bridge| format!("removed bridge '{bridge}', which no guest uses any more"));
    let ports = open_vswitch::remove_left_ports()?;
    Ok(bridges.chain(ports.into_iter().map(|port| format!("removed port '{port}', whose guest has ended"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_bridges_are_named() {
        assert_eq!(check_bridge("nobridge9").unwrap_err().message(), "bridge 'nobridge9' does not exist");
        assert_eq!(check_bridge("lo").unwrap_err().message(), "'lo' is not a bridge");
        assert!(!bridge_exists("../net/lo"));
    }
}
