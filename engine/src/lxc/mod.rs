//! Containers, by liblxc.
//!
//! ```text
//! handlers ── create, start, stop, destroy, update, resize ── plan (pure) ── liblxc ── monitor of the container
//!                     │                                          ▲                        ▲
//!                     └─ disk, mount, template, setup            └─ facts       monitor, cgroup, status
//! tools ───── exec, transfer, inspect
//! ```
//! A container's truth is its file below `/etc/pve`. `/var/lib/lxc/VMID` holds what liblxc reads and is written anew at
//! each start. A running container belongs to its monitor, which is nobody's child: daemons and tools come and go. Its
//! mounts live in the monitor's mount namespace and end with it (see [`mount`]).

pub mod cgroup;
mod clone;
pub mod create;
pub mod destroy;
mod dhcp;
mod disk;
pub mod exec;
pub mod facts;
mod freeze;
pub mod handlers;
mod hook;
mod hotplug;
pub mod idmap;
pub mod inspect;
pub mod interface;
mod layer;
pub mod liblxc;
mod library;
pub mod monitor;
pub mod mount;
mod oci;
pub mod permission;
pub mod plan;
mod reconcile;
pub mod recovery;
mod relocate;
pub mod resize;
mod restore;
pub mod rootfs;
pub mod setup;
mod snapshot;
pub mod start;
pub mod status;
pub mod stop;
pub mod system_calls;
mod template;
pub mod transfer;
pub mod trim;
mod unpacked;
pub mod update;
mod view;
pub mod volume;

pub use reconcile::{Report, reconcile};
