//! The caller's eyes for a long list: configuration and caller are looked up once, then each row costs one walk along the
//! access tree and no system call.

use super::permission::Someone;
use super::{Privilege, UserConfig, store};
use crate::{Context, Result};
use std::sync::Arc;

/// What the caller of one request may see. Not to be kept: it does not notice changes.
#[derive(Debug)]
pub struct View {
    config: Arc<UserConfig>,
    someone: Someone,
}

impl View {
    /// The eyes of the context's caller.
    ///
    /// # Errors
    /// When `user.cfg` cannot be read.
    pub fn of(ctx: &Context) -> Result<Self> {
        let config = store::load(ctx)?;
        Ok(View { someone: Someone::find(&config, ctx.caller.id()), config })
    }

    /// Whether the caller has a privilege on a path, which must have neither doubled nor trailing slashes.
    pub fn has(&self, path: &str, privilege: &str) -> bool {
        let privilege: Privilege = privilege.parse().expect("the contract knows every privilege that is asked for");
        self.someone.rights(&self.config, path).held.contains(privilege)
    }

    /// Users, pools and entries as they were when the view was taken.
    pub fn config(&self) -> &UserConfig {
        &self.config
    }
}
