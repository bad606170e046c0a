//! The host's PCI and USB devices, as guests can get them.
//!
//! Owns reading them from sysfs (or from host facts, for planning on another machine) and the methods below
//! `/nodes/{node}/hardware`. Changes nothing: what binds a device for a guest is in `qemu::passthrough`.

mod handlers;
mod names;
pub mod pci;
pub mod usb;

pub use handlers::METHODS;

use std::path::Path;

/// The first line of a file of sysfs.
fn first_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().next().unwrap_or_default().to_owned())
}
