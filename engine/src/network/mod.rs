//! Links of guests: tap devices and their place on a bridge.
//!
//! A tap belongs to whoever holds its descriptors and disappears with the last of them, so a VM that dies in whatever
//! way leaves none behind. Containers and leftovers are removed by name. Owns no configuration; VLAN tags and firewall
//! bridges are refused by name until they are built.

mod link;

use crate::{Error, Result, error::ResultExt};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

pub use link::remove as remove_link;

/// An open tap device with one descriptor for each queue.
#[derive(Debug)]
pub struct TapDevice {
    /// Its name.
    pub name: String,
    /// The queues; closing the last removes the device.
    pub queues: Vec<OwnedFd>,
}

/// Whether a bridge of this name exists. A link of another kind is none.
pub fn bridge_exists(name: &str) -> bool {
    is_link_name(name) && Path::new("/sys/class/net").join(name).join("bridge").is_dir()
}

/// Whether a link of this name exists.
pub fn link_exists(name: &str) -> bool {
    is_link_name(name) && Path::new("/sys/class/net").join(name).exists()
}

fn is_link_name(name: &str) -> bool {
    !name.is_empty() && name.len() < 16 && !name.contains('/') && name != "." && name != ".."
}

/// Makes a tap device, puts it on a bridge and switches it on.
///
/// # Errors
/// When the bridge is missing; nothing is made then.
pub fn create_tap(name: &str, bridge: &str, queues: usize) -> Result<TapDevice> {
    check_bridge(bridge)?;
    if link_exists(name) {
        // A descriptor of a dead VM cannot keep it; somebody made it persistent. It is ours by its name.
        link::remove(name)?;
    }
    let tap = open_tap(name, queues.max(1)).context(|| format!("unable to create tap device '{name}'"))?;
    plug(name, bridge)?;
    Ok(tap)
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

/// Puts a link on a bridge with the bridge's MTU and switches it on.
pub fn plug(name: &str, bridge: &str) -> Result<()> {
    let place = || format!("unable to add '{name}' to bridge '{bridge}'");
    // The guest speaks for itself; the host must not take part in its network. No IPv6 in the kernel is fine, too.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let mtu = std::fs::read_to_string(format!("/sys/class/net/{bridge}/mtu")).context(place)?;
    link::set_mtu(name, mtu.trim().parse().unwrap_or(1500)).context(place)?;
    link::add_to_bridge(name, bridge).context(place)?;
    link::set_up(name).context(place)
}

/// Removes a tap that no VM holds any more. One that is in use stays.
pub fn remove_tap(name: &str) -> Result<()> {
    if link_exists(name) { link::remove(name) } else { Ok(()) }
}

/// Names of all tap devices of VMs, with the VM's number.
pub fn guest_taps() -> Vec<(String, u32)> {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let (vmid, number) = name.strip_prefix("tap")?.split_once('i')?;
            number.parse::<u32>().ok()?;
            let vmid = vmid.parse().ok()?;
            Some((name, vmid))
        })
        .collect()
}

/// Bytes that a tap has carried: from the guest, to the guest.
pub fn traffic(name: &str) -> (u64, u64) {
    let counter = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/{file}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    (counter("rx_bytes"), counter("tx_bytes"))
}

fn open_tap(name: &str, queues: usize) -> Result<TapDevice> {
    let mut open = Vec::with_capacity(queues);
    for _ in 0..queues {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context(|| "/dev/net/tun")?;
        link::attach_tap(device.as_raw_fd(), name, queues > 1)?;
        open.push(OwnedFd::from(device));
    }
    Ok(TapDevice { name: name.to_owned(), queues: open })
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
