//! What both daemons know of the protocol: parameters in, envelopes out, who speaks.
//!
//! Everything here is a function of texts and values; sockets are next door in `net`.

pub mod credentials;
pub mod envelope;
pub mod format;
pub mod html;
pub mod params;
pub mod reason;
pub mod response;
