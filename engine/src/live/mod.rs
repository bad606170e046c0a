//! The node's state in memory, fed by events; only the privileged daemon has one.

/// Guests, storages and node as last seen.
#[derive(Debug, Default)]
pub struct Live {}
