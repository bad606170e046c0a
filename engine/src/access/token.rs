//! API tokens: their secrets in `priv/token.cfg`, one line `USER@REALM!NAME SECRET` each.
//! (PVE: pve-access-control PVE/TokenConfig.pm and PVE/AccessControl.pm, verify_token)

use super::cache::FileCache;
use super::identity::TokenId;
use super::user_config::is_past;
use super::{keys, store};
use crate::{Context, Error, Result, file};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Secrets by token. There is no way to print one.
struct Secrets(BTreeMap<TokenId, String>);

fn path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("priv/token.cfg")
}

/// The token that speaks in `USER@REALM!NAME=SECRET`; a blank may stand instead of the sign.
///
/// # Errors
/// 401 `Authentication failed!`; the reason is not told.
pub fn verify(ctx: &Context, text: &str) -> Result<String> {
    let refused = || Error::Unauthorized("Authentication failed!".into());
    let (id, given) = text.rsplit_once('=').or_else(|| text.split_once(' ')).ok_or_else(refused)?;
    let id: TokenId = id.parse().map_err(|_| refused())?;
    let (config, secrets, now) = (store::load(ctx)?, load(ctx)?, ctx.clock.now());
    config.check_enabled(&id.user, now).map_err(|_| refused())?;
    let token = config.token(&id).map_err(|_| refused())?;
    let secret = secrets.0.get(&id).ok_or_else(refused)?;
    let same = secret.len() == given.len() && openssl::memcmp::eq(secret.as_bytes(), given.as_bytes());
    if !same || is_past(token.expire, now) {
        return Err(refused());
    }
    Ok(id.to_string())
}

/// Makes a new secret for a token, in place of an old one, and tells it: the only time that anybody sees it.
pub fn generate(ctx: &Context, id: &TokenId) -> Result<String> {
    let secret = crate::types::random_uuid();
    change(ctx, |secrets| drop(secrets.insert(id.clone(), secret.clone())))?;
    Ok(secret)
}

/// Forgets the secrets of the tokens that `gone` tells.
pub fn forget(ctx: &Context, gone: impl Fn(&TokenId) -> bool) -> Result<()> {
    change(ctx, |secrets| secrets.retain(|id, _| !gone(id)))
}

fn load(ctx: &Context) -> Result<Arc<Secrets>> {
    static CACHE: FileCache<Secrets> = FileCache::new();
    let found = CACHE.get(&path(ctx), |text, _| Ok(Secrets(parse(text))))?;
    Ok(found.unwrap_or_else(|| Arc::new(Secrets(BTreeMap::new()))))
}

fn change(ctx: &Context, change: impl FnOnce(&mut BTreeMap<TokenId, String>)) -> Result<()> {
    keys::ensure_directories(ctx)?;
    file::update(ctx, &path(ctx), keys::PRIVATE_MODE, |text| {
        let mut secrets = parse(text);
        change(&mut secrets);
        Ok(secrets.iter().map(|(id, secret)| format!("{id} {secret}\n")).collect())
    })
}

fn parse(text: &str) -> BTreeMap<TokenId, String> {
    let entry = |line: &str| {
        let (id, secret) = line.split_once(' ')?;
        let good = !secret.is_empty() && !secret.contains(char::is_whitespace);
        Some((id.parse().ok().filter(|_| good)?, secret.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests;
