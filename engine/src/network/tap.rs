//! Tap devices: the host's end of a VM's card.
//!
//! A tap belongs to whoever holds its descriptors and disappears with the last of them, so a VM that dies in whatever
//! way leaves none behind.

use super::port::{self, Port};
use super::{link, link_exists};
use crate::{Context, Result, error::ResultExt};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};

/// An open tap device with one descriptor for each queue.
#[derive(Debug)]
pub struct TapDevice {
    /// Its name.
    pub name: String,
    /// The queues; closing the last removes the device.
    pub queues: Vec<OwnedFd>,
}

/// Makes a tap device, plugs it in and switches it on.
///
/// # Errors
/// When the bridge is missing or cannot carry what the port asks for; nothing is left then.
pub fn create_tap(ctx: &Context, port: &Port, queues: usize) -> Result<TapDevice> {
    port::check(ctx, port)?;
    if link_exists(&port.name) {
        // A descriptor of a dead VM cannot keep it; somebody made it persistent. It is ours by its name.
        link::remove(&port.name)?;
    }
    let place = || format!("unable to create tap device '{}'", port.name);
    let tap = open_tap(&port.name, queues.max(1)).context(place)?;
    link::set_address(&port.name, host_address(port)?).context(place)?;
    port::plug(ctx, port)?;
    Ok(tap)
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

/// An address for the host's end. A bridge without one of its own takes the lowest of its ports': one that begins with
/// `FE` never is that, so the bridge keeps its address when guests come and go.
fn host_address(port: &Port) -> Result<[u8; 6]> {
    let mut address = [0; 6];
    let given = port.mac.as_deref().and_then(parse_address);
    match given {
        Some(given) => address = given,
        None => {
            openssl::rand::rand_bytes(&mut address).map_err(|_| crate::Error::new("no random numbers available"))?
        }
    }
    address[0] = 0xfe;
    Ok(address)
}

fn parse_address(text: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> = text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>().ok()?;
    octets.try_into().ok()
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
