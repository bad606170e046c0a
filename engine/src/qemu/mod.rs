//! Virtual machines on the distribution's QEMU.
//!
//! ```text
//! file ── config ──> Vm, Drive, NetDevice, …      values with rules
//!            │
//!            ├── command_line::plan ── local ──> launch ──> QEMU    (PVE's options, then ours, then effects)
//!            │                                     stop, status, resize ──> qmp
//!            └── request ── permission ── create, update, destroy   (pending, edit: what waits and how it takes effect)
//! ```
//!
//! QEMU is no task's child: whoever wants to know whether a VM runs looks at its pid file, whoever wants something of it
//! connects to its monitor. A small process stays beside it for its end (`keeper`). Nothing here needs a daemon.

pub mod agent;
pub mod block;
mod capabilities;
pub mod clone;
pub mod cloudinit;
pub mod command_line;
pub mod config;
mod cpu_models;
pub mod create;
pub mod destroy;
mod disks;
mod edit;
pub mod files;
pub mod firmware_keys;
pub mod handlers;
mod hotplug;
pub mod import;
pub mod keeper;
pub mod launch;
mod monitor_rights;
pub mod move_disk;
pub mod pending;
mod permission;
pub mod picture;
mod plug;
mod preparation;
pub mod qmp;
pub mod reconcile;
pub mod recovery;
mod reply;
mod request;
pub mod rescan;
mod reservations;
mod resize;
mod scope;
pub mod snapshot;
mod spawn;
mod spice;
mod state;
mod state_disks;
pub mod status;
pub mod stop;
mod surroundings;
pub mod suspend;
pub mod template;
pub mod terminal;
mod throttle;
pub mod update;

pub use reconcile::reconcile;
