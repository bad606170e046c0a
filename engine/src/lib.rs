//! The domain of Ferrovisor: everything the API and the tools do, without HTTP and without argv.
//!
//! A caller builds a [`Context`], hands a [`Request`] to [`registry::dispatch`] (daemons) or a verified call to
//! [`registry::run`] (tools), and gets a [`Reply`] or an [`Error`]. Each area binds its handlers to methods of the
//! contract in one visible list (`METHODS` at the top of its `handlers` module).
//!
//! The engine is synchronous and has no global state but the process-wide abort flag of [`task::abort`].

pub mod access;
pub mod call;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod config;
pub mod console;
pub mod context;
pub mod error;
pub mod file;
pub mod guest;
pub mod hardware;
pub mod host;
pub mod live;
pub mod lock;
pub mod lxc;
pub mod mapping;
pub mod mounts;
pub mod network;
pub mod node;
pub mod process;
pub mod qemu;
pub mod registry;
pub mod root;
pub mod storage;
pub mod task;
pub mod tool;
pub mod types;

pub use call::{Call, Params, Reply, Request};
pub use clock::Clock;
pub use context::{Caller, Context, Mode};
pub use error::{Error, Result, ResultExt};
pub use host::Host;
pub use root::Root;
pub use task::Task;
pub use types::Vmid;
