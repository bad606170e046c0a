//! A VM's configuration as typed values: drives, network devices, boot order, machine.
//!
//! Owns the meaning of keys in the file; the file itself is [`crate::config::GuestConfig`]. No I/O here.

mod boot;
mod drive;
mod machine;
mod net;
mod properties;
mod readable;
mod slot;
mod vm;

pub use boot::{BootOrder, default_devices, device_indices, print_order};
pub use drive::{Drive, NewDisk};
pub use machine::{Machine, MachineVersion, highest_pve_revision};
pub use net::{NetDevice, random_mac};
pub use properties::Properties;
pub use readable::readable;
pub use slot::{Bus, Slot};
pub use vm::{HotplugFeatures, Vm, windows_version};
