//! What concerns all nodes: options, numbers for new guests, the overview of all resources.

mod backup_info;
mod ha;
pub mod handlers;
mod log;
mod metrics;
pub mod nextid;
pub mod options;
pub mod resources;
pub mod status;
