//! Sockets: who may connect, TLS, and serving HTTP/1.1 on a connection until it ends.

pub mod addresses;
pub mod connection;
pub mod listen;
mod malformed;
pub mod serve;
pub mod settings;
pub mod tls;
