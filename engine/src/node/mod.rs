//! The node itself: how it is laid out, what it says of itself, its small settings.

mod guests;
pub mod handlers;
mod index;
pub mod overview;
pub mod setup;
pub mod version;
