//! The Proxmox VE 9.2 interface as data: methods with their parameters, permissions and answers, formats, property
//! strings, the command tables of the tools; and verification with the texts that clients know.
//!
//! Owns what is fixed from outside. Does no I/O and knows no guest: what only a machine can tell is checked elsewhere.
//! The data stands in `data/`, is packed by `build.rs` and decoded one record at a time.

pub mod command;
mod dump;
pub mod format;
mod method;
pub mod openapi;
mod pattern;
mod permission;
pub mod property_string;
pub mod roles;
mod route;
mod schema;
pub mod section_config_schema;
mod table;
mod verify;

#[cfg(test)]
mod tests;

pub use dump::{compare, dump};
pub use method::{Method, UnknownVerb, Verb, method, methods};
pub use permission::{Check, GroupsParam, Permission, UseridParam};
pub use route::{Child, Route, RouteError, children, find, resolve};
pub use schema::{AdditionalProperties, IndexRange, Kind, Link, Schema, lookup};
pub use verify::{
    HEADLINE, ParamErrors, ParameterSet, check, is_integer, is_number, parse_boolean, verify, verify_cli, verify_set,
    verify_set_cli,
};
