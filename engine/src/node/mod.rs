//! The node itself: how it is laid out, what it says of itself, its small settings.

mod apt;
pub mod boot;
mod bulk;
pub mod certificate;
mod chart;
mod custom_certificate;
mod disks;
mod dns;
mod execute;
pub(crate) mod graphs;
mod guests;
pub mod handlers;
mod index;
mod journal;
pub mod options;
pub mod overview;
mod power;
mod report;
mod scan;
mod services;
pub mod setup;
mod small;
mod time;
pub mod version;
mod wake;
