//! Virtual machines on the distribution's QEMU.
//!
//! ```text
//! file ── config ──> Vm, Drive, NetDevice, …  (values with rules)
//!                     │
//!                     v
//!              command_line::plan ──> local ──> QEMU
//! ```

pub mod command_line;
pub mod config;
