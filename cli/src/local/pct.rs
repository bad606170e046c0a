//! Local commands of `pct`, the tool for containers.

use super::Row;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[];
