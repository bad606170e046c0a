//! What a program needs to be a daemon: pid file, start and stop from the command line, signals, privileges.

pub mod command;
pub mod control;
pub mod ending;
pub mod privileges;
pub mod signals;
