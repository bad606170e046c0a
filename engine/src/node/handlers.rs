//! `/version` and `/nodes`: the methods of the node itself.

use super::{guests, overview, version};
use crate::registry::{Binding, get};

pub use super::index::METHODS as DIRECTORIES;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/version", version::get),
    get("/nodes", overview::list),
    get("/nodes/{node}/lxc", guests::containers),
    get("/nodes/{node}/qemu", guests::virtual_machines),
    get("/nodes/{node}/status", overview::status),
    get("/nodes/{node}/version", version::get),
];
