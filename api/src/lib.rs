//! HTTP: the daemons `pveproxy` and `pvedaemon`.
//!
//! ```text
//! client ── TLS, HTTP/1.1 ──> proxy: who speaks, limits, uploads, web sockets ── Unix socket ──> daemon: engine
//! ```
//!
//! `wire` is the protocol without sockets, `net` the sockets without protocol, `proxy`, `daemon` and `spice` the
//! programs, and `process` what a program needs to be a daemon. No domain logic lives here.

pub mod daemon;
pub mod identity;
pub mod net;
pub mod process;
pub mod proxy;
pub mod spice;
pub mod wire;
