//! `/access` and `/pools`: the methods of users, tokens, roles, pools and tickets.

use crate::registry::Binding;

/// The methods bound here.
pub const METHODS: &[Binding] = &[];
