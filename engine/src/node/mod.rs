//! The node itself: how it is laid out, what it says of itself, its small settings.

pub mod handlers;
mod index;
pub mod setup;
pub mod version;
