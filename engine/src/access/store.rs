//! Where `user.cfg` is read and changed.

use super::cache::FileCache;
use super::keys;
use super::user_config::UserConfig;
use crate::{Context, Result, file};
use std::path::PathBuf;
use std::sync::Arc;

fn path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("user.cfg")
}

/// The present users, groups, roles, pools and entries.
pub fn load(ctx: &Context) -> Result<Arc<UserConfig>> {
    static CACHE: FileCache<UserConfig> = FileCache::new();
    let found = CACHE.get(&path(ctx), |text, _| Ok(UserConfig::parse(text)))?;
    Ok(found.unwrap_or_else(|| Arc::new(UserConfig::parse(""))))
}

/// Changes them under the file's lock. When `change` fails, nothing is written and its error gets `failure` in front.
pub fn update<T>(ctx: &Context, failure: &str, change: impl FnOnce(&mut UserConfig) -> Result<T>) -> Result<T> {
    keys::ensure_directories(ctx)?;
    let mut result = None;
    file::update(ctx, &path(ctx), keys::SHARED_MODE, |text| {
        let mut config = UserConfig::parse(text);
        result = Some(change(&mut config).map_err(|error| error.context(failure))?);
        Ok(config.print())
    })?;
    Ok(result.expect("the change has run, or the update has failed"))
}
