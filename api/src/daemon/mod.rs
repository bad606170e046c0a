//! `pvedaemon`: the privileged half. Takes requests from the front server over a Unix socket, verifies again who speaks,
//! and runs the engine. It never listens on a network.

pub(crate) mod answer;
mod run;
mod service;

pub(crate) use answer::Answer;
pub use run::main;

/// Header of a request that only asks whether it would be allowed; an upload is checked so before its data are taken.
pub const CHECK_HEADER: &str = "pve-check-only";
/// Header of an answer: the identity that was verified.
pub const USER_HEADER: &str = "pve-user";
/// Header of an answer: nobody was believed; there is no envelope.
pub const UNAUTHENTICATED_HEADER: &str = "pve-unauthenticated";
/// Header of an answer: the status that it means, where the format sends another one.
pub const STATUS_HEADER: &str = "pve-status";
/// Header of an answer: the text for the reason phrase, percent-encoded. HTTP libraries drop phrases beyond ASCII.
pub const REASON_HEADER: &str = "pve-reason";
/// Header of an answer: the endpoint with which a web socket is to be joined, `tcp:PORT` or `unix:PATH`.
pub const SOCKET_HEADER: &str = "pve-socket";
/// Header of a request: the address of the client.
pub const CLIENT_HEADER: &str = "pveclientip";

/// The socket between the two daemons, below `/run`.
pub const SOCKET: &str = "pvedaemon.sock";
