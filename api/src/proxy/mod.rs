//! `pveproxy`: the front server. Takes connections from the network, finds out who speaks and hands requests to the
//! privileged daemon. It runs as `www-data` and sees no secret but the TLS key, the public key of tickets and the secret of
//! CSRF tokens.

pub(crate) mod access_log;
mod front;
mod multipart;
mod openapi;
mod pages;
mod plain;
mod request;
mod respond;
mod resumable;
pub(crate) mod run;
mod unfinished;
mod upload;
mod upstream;
mod websocket;

pub use run::main;
