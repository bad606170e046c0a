//! `/version` and `/nodes`: the methods of the node itself.

use super::version;
use crate::registry::{Binding, get};

pub use super::index::METHODS as DIRECTORIES;

/// The methods bound here.
pub const METHODS: &[Binding] = &[get("/version", version::get), get("/nodes/{node}/version", version::get)];
