//! `/access`: the methods of users, tokens and tickets.

use crate::registry::Binding;

/// The methods bound here.
pub const METHODS: &[Binding] = &[];
