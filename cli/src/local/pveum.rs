//! Local commands of `pveum`, the tool for users and permissions.

use super::Row;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[];
