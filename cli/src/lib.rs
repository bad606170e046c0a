//! What all tools share: from words to a command, from options to verified parameters, from results to the terminal.
//!
//! ```text
//! argv ─ tree ─> command ─ arguments ─> parameters ─┬─ local ──────────────┐
//!        (contract::command)   (contract::verify)   └─ engine::registry ───┴─ printers / output ─> stdout
//! ```
//!
//! Every command, option and position comes from the contract's tables. A tool is [`main`] with its name.

mod arguments;
mod completion;
mod failure;
mod help;
mod invocation;
pub mod local;
mod mapping;
mod options;
pub mod output;
mod printers;
mod program;
mod tree;
mod usage;

pub use completion::write_all as write_completions;
pub use invocation::Invocation;
pub use program::main;
