//! Devices of a running container: network devices, mount points and device nodes that come, change and go.
//!
//! ```text
//! mount point: own namespace: mount at the stage ── detached tree ──> container's namespace: put in place
//! device node: own namespace: node in a small file system ── detached tree ──> the same; control group allows it
//! network:     pair of links, one end made inside; address, route and the system's files
//! ```
//! Targets are opened beneath the container's root before its namespace is entered; inside, only descriptors are used.
//! (PVE: LXC.pm update_net, hotplug_net, update_ipconfig, mountpoint_hotplug, device_passthrough_hotplug)

use super::idmap::IdMap;
use super::interface::{self, Interface};
use super::plan::PassedDevice;
use super::volume::MountPoint;
use super::{dhcp, liblxc::Liblxc, monitor, mount, setup, transfer};
use crate::config::guest::Part;
use crate::process::ProcessId;
use crate::{Context, Error, Result, Vmid, command, error::ResultExt, network};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, OwnedFd};

fn running(ctx: &Context, vmid: Vmid) -> Result<ProcessId> {
    monitor::init(ctx, vmid).ok_or_else(|| Error::new(format!("CT {vmid} not running")))
}

/// Puts a detached tree in place in a container's namespace. Must be called within a namespace of the thread's own, which
/// leads back.
fn put_in_place(init: ProcessId, tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let path = format!("/proc/{}/ns/mnt", init.pid);
    let namespace = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "unable to find the container's mount namespace")?;
    if !init.is_alive() {
        return Err(Error::new("the container has ended meanwhile"));
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .context(|| "unable to enter the container's mount namespace")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags).context(|| "unable to mount in the container")
}

/// Mounts a volume, directory or device in a running container.
pub fn add_mount(ctx: &Context, vmid: Vmid, point: &MountPoint) -> Result<()> {
    let init = running(ctx, vmid)?;
    let (root, map) = transfer::open_root(ctx, vmid)?;
    let target = root.make_directories(point.target())?;
    let stage = monitor::directory(ctx, vmid).join("stage");
    mount::in_own_namespace(|| {
        let tree = mount::stage_volume(ctx, point, &stage, &map, point.read_only())?;
        mount::keep_attributes(point, &tree, &target)?;
        put_in_place(init, &tree, &target)
    })
}

/// Passes a device node to a running container.
pub fn add_device(ctx: &Context, vmid: Vmid, device: &PassedDevice, map: &IdMap) -> Result<()> {
    let init = running(ctx, vmid)?;
    let node = rustix::fs::stat(device.path.as_str())
        .map_err(|_| Error::new(format!("Device {} does not exist", device.path)))?;
    let (root, _) = transfer::open_root(ctx, vmid)?;
    if root.stat(&device.path).is_none() {
        let parent = device.path.rsplit_once('/').map_or("/", |(parent, _)| parent);
        root.make_directories(parent)?;
        root.make_mount_target(&device.path)?;
    }
    let target = root.open_path(&device.path, OFlags::PATH).context(|| device.path.clone())?;
    mount::in_own_namespace(|| {
        mount::make_devices(ctx, vmid, std::slice::from_ref(device), map)?;
        let made = monitor::directory(ctx, vmid).join("passthrough").join(device.path.trim_start_matches('/'));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &made, flags).context(|| made.display().to_string())?;
        put_in_place(init, &tree, &target)
    })?;
    let is_block = rustix::fs::FileType::from_raw_mode(node.st_mode) == rustix::fs::FileType::BlockDevice;
    let kind = if is_block { 'b' } else { 'c' };
    let rule = format!("{kind} {}:{}", rustix::fs::major(node.st_rdev), rustix::fs::minor(node.st_rdev));
    let runtime = Liblxc::new(monitor::containers(ctx));
    if device.deny_write {
        runtime.set_limit(vmid, "devices.deny", &format!("{rule} w"))?;
    }
    runtime.set_limit(vmid, "devices.allow", &format!("{rule} {}", if device.deny_write { "r" } else { "rw" }))
}

/// Runs `ip` among the container's links.
fn ip_inside(init: ProcessId, arguments: &[&str]) -> Result<()> {
    let pid = init.pid.to_string();
    let words = [&["-t", &pid, "--net", "--", "ip"], arguments].concat();
    command::run("nsenter", &words).map(drop)
}

/// Makes a network device of a running container what its configuration will say, and adapts the system's files.
pub fn set_network(ctx: &Context, vmid: Vmid, part: &Part, old: Option<&Interface>, new: &Interface) -> Result<()> {
    let init = running(ctx, vmid)?;
    let same_link = old.is_some_and(|old| old.name() == new.name() && old.get("hwaddr") == new.get("hwaddr"));
    if same_link {
        if let Some(port) = new.port(vmid)? {
            network::change(ctx, &port)?;
        } else {
            network::unplug(ctx, &interface::host_name(vmid, new.index))?;
        }
    } else {
        if old.is_some() {
            end_network(ctx, vmid, new.index, old)?;
        }
        add_link(ctx, vmid, init, new)?;
    }
    // Younger addresses of a network go with its first one, so what goes goes first.
    dhcp::release(ctx, vmid, init, old.filter(|_| same_link), Some(new))?;
    set_addresses(init, old.filter(|_| same_link), new)?;
    dhcp::start(ctx, vmid, init, old.filter(|_| same_link), Some(new))?;
    let mut part = part.clone();
    part.set(format!("net{}", new.index), new.print());
    let (root, _) = transfer::open_root(ctx, vmid)?;
    setup::network_while_running(&root, &part, |_| {})
}

fn add_link(ctx: &Context, vmid: Vmid, init: ProcessId, new: &Interface) -> Result<()> {
    let host = interface::host_name(vmid, new.index);
    let pid = init.pid.to_string();
    let mtu = new.number("mtu").map(|mtu| mtu.to_string());
    let mut words = vec!["link", "add", "name", &host, "type", "veth", "peer", "name", new.name()];
    if let Some(address) = new.get("hwaddr") {
        words.extend(["address", address]);
    }
    if let Some(mtu) = &mtu {
        words.extend(["mtu", mtu]);
    }
    words.extend(["netns", &pid]);
    command::run("ip", &words)?;
    let plugged = (|| {
        if let Some(port) = new.port(vmid)? {
            network::plug(ctx, &port)?;
        }
        ip_inside(init, &["link", "set", "dev", new.name(), "up"])
    })();
    plugged.map_err(|error| {
        let failures: Vec<Error> = remove_network(ctx, vmid, new.index).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })
}

/// Fixed addresses and gateways; what the system gets by itself is left to it.
fn set_addresses(init: ProcessId, old: Option<&Interface>, new: &Interface) -> Result<()> {
    let name = new.name();
    for (family, address, gateway) in [("-4", "ip", "gw"), ("-6", "ip6", "gw6")] {
        let (before, after) = (old.and_then(|old| old.fixed_address(address)), new.fixed_address(address));
        if before != after {
            // First out, then in: the kernel takes younger addresses of a network away together with its first one.
            if let Some(before) = before {
                ip_inside(init, &[family, "address", "delete", before, "dev", name])?;
            }
            if let Some(after) = after {
                ip_inside(init, &[family, "address", "replace", after, "dev", name])?;
            }
        }
        let (old_gateway, new_gateway) = (old.and_then(|old| old.get(gateway)), new.get(gateway));
        if let Some(wanted) = new_gateway.filter(|_| old_gateway != new_gateway || before != after) {
            // A gateway that lies elsewhere is made reachable first, as the system's own files do.
            let direct = ["route", "replace", "default", "via", wanted, "dev", name];
            let words = [&[family][..], &direct].concat();
            if ip_inside(init, &words).is_err() {
                ip_inside(init, &[&words[..], &["onlink"]].concat())?;
            }
        } else if old_gateway.is_some() && new_gateway.is_none() && before == after {
            ip_inside(init, &[family, "route", "delete", "default", "dev", name])?;
        }
    }
    Ok(())
}

/// Takes a network device with its DHCP clients from a running container.
pub fn end_network(ctx: &Context, vmid: Vmid, index: u32, old: Option<&Interface>) -> Result<()> {
    dhcp::release(ctx, vmid, running(ctx, vmid)?, old, None)?;
    remove_network(ctx, vmid, index)
}

/// Takes a network device from a running container.
pub fn remove_network(ctx: &Context, vmid: Vmid, index: u32) -> Result<()> {
    let host = interface::host_name(vmid, index);
    if !network::link_exists(&host) {
        return Ok(());
    }
    network::unplug(ctx, &host)?;
    command::run("ip", &["link", "delete", "dev", &host]).map(drop)
}
