//! compat-tests.
