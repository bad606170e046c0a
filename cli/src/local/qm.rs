//! Local commands of `qm`, the tool for virtual machines.

use super::Row;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[];
