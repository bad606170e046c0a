//! PVE's configuration file formats: parser and writer of each are one module with one type.
//!
//! Every reader takes a hand-edited file and keeps what it does not know.

pub mod flat;
pub mod guest;
pub mod guest_text;
pub mod section;
pub mod text;

pub use guest::GuestConfig;
pub use section::SectionConfig;
