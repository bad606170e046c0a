//! The few kernel calls on links: attach a tap, join a bridge, set the MTU, up, delete.

use crate::{Result, error::ResultExt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Add a port to a bridge (`linux/sockios.h`).
const SIOCBRADDIF: libc::Ioctl = 0x89a2;
/// Take a port out of a bridge.
const SIOCBRDELIF: libc::Ioctl = 0x89a3;

/// Attaches an open `/dev/net/tun` to the tap device `name`, which appears with the first descriptor.
pub fn attach_tap(tun: RawFd, name: &str, multi_queue: bool) -> Result<()> {
    let mut request = request(name)?;
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the request is a valid ifreq that lives through the call; the descriptor is open.
    check(unsafe { libc::ioctl(tun, libc::TUNSETIFF as _, &raw mut request) })
}

/// Puts a link on a bridge.
pub fn add_to_bridge(name: &str, bridge: &str) -> Result<()> {
    let mut request = request(bridge)?;
    request.ifr_ifru.ifru_ifindex = index(name)?;
    control(SIOCBRADDIF, &mut request)
}

/// Takes a link out of the bridge it is on. A link on no bridge is no error.
pub fn leave_bridge(name: &str) -> Result<()> {
    let Some(bridge) = super::port::bridge_of(name) else { return Ok(()) };
    let mut request = request(&bridge)?;
    request.ifr_ifru.ifru_ifindex = index(name)?;
    control(SIOCBRDELIF, &mut request)
}

/// Sets the hardware address of a link that is off.
pub fn set_address(name: &str, address: [u8; 6]) -> Result<()> {
    let mut request = request(name)?;
    // SAFETY: the request is zeroed, so the address is a valid one to fill in.
    let target = unsafe { &mut request.ifr_ifru.ifru_hwaddr };
    target.sa_family = libc::ARPHRD_ETHER;
    for (target, byte) in target.sa_data.iter_mut().zip(address) {
        *target = byte as libc::c_char;
    }
    control(libc::SIOCSIFHWADDR as _, &mut request)
}

/// Sets the MTU of a link.
pub fn set_mtu(name: &str, mtu: i32) -> Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = mtu;
    control(libc::SIOCSIFMTU as _, &mut request)
}

/// Switches a link on.
pub fn set_up(name: &str) -> Result<()> {
    change_flags(name, |flags| flags | libc::IFF_UP as i16)
}

/// Switches a link off.
pub fn set_down(name: &str) -> Result<()> {
    change_flags(name, |flags| flags & !(libc::IFF_UP as i16))
}

fn change_flags(name: &str, change: impl FnOnce(i16) -> i16) -> Result<()> {
    let mut request = request(name)?;
    control(libc::SIOCGIFFLAGS as _, &mut request)?;
    // SAFETY: the kernel has just filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let changed = change(flags);
    if changed == flags {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = changed;
    control(libc::SIOCSIFFLAGS as _, &mut request)
}

/// Deletes a link.
pub fn remove(name: &str) -> Result<()> {
    crate::command::run("ip", &["link", "delete", "dev", name]).map(drop)
}

fn index(name: &str) -> Result<i32> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let text = std::fs::read_to_string(&path).context(|| path.clone())?;
    text.trim().parse().map_err(|_| crate::Error::new(format!("unable to read '{path}'")))
}

/// A request that names a link.
fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: ifreq is a plain C structure for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        crate::bail!("interface name '{name}' is too long (max 15 character)");
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    Ok(request)
}

fn control(code: libc::Ioctl, request: &mut libc::ifreq) -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the request is a valid ifreq that lives through the call; the socket is open.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), code, request as *mut libc::ifreq) })
}

fn check(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}
