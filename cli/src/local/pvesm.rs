//! Local commands of `pvesm`, the tool for storages.

use super::Row;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[];
