//! The keys of tickets and CSRF tokens, in the cluster's files.
//!
//! ```text
//! priv/authkey.key   private RSA key that signs tickets; root only
//! authkey.pub        its public key; the modification time is the birth of the pair
//! authkey.pub.old    the public key before; its tickets hold until they expire
//! pve-www.key        secret of CSRF tokens and of the SPICE proxy
//! ```
//! A pair is replaced when it is 24 hours old. (PVE: pve-access-control PVE/AccessControl.pm, rotate_authkey)

use super::cache::FileCache;
use crate::{Context, Error, Result, error::ResultExt, file};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private, Public};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use rustix::fs::{Timespec, Timestamps};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mode of files that the front server reads, too.
pub const SHARED_MODE: u32 = 0o640;
/// Mode of files below `priv`.
pub const PRIVATE_MODE: u32 = 0o600;
/// Age at which a pair is replaced, in seconds.
pub const KEY_LIFETIME: i64 = 24 * 3600;
/// How far clocks of nodes may be apart, in seconds.
pub const SKEW: i64 = 300;

/// A public key and the second of its birth.
pub struct PublicKey {
    /// The key.
    pub key: PKey<Public>,
    /// Seconds since the epoch.
    pub born: i64,
}

fn public_path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("authkey.pub")
}

fn old_path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("authkey.pub.old")
}

fn private_path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("priv/authkey.key")
}

fn csrf_path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("pve-www.key")
}

/// Makes the keys that are missing, and their directories. Needs root.
pub fn ensure(ctx: &Context) -> Result<()> {
    rotate_if_due(ctx)?;
    ensure_csrf_secret(ctx)
}

/// Makes the secret of CSRF tokens if it is missing. Needs root.
pub(super) fn ensure_csrf_secret(ctx: &Context) -> Result<()> {
    let path = csrf_path(ctx);
    if path.exists() {
        return Ok(());
    }
    ensure_directories(ctx)?;
    let _lock = file::lock_file(ctx, &path)?;
    if !path.exists() {
        let key = Rsa::generate(2048).and_then(|key| key.private_key_to_pem()).map_err(openssl_error)?;
        file::replace(&path, &key, SHARED_MODE)?;
    }
    Ok(())
}

/// The cluster's directory and its private part, on a node that nobody has started before.
pub(crate) fn ensure_directories(ctx: &Context) -> Result<()> {
    if ctx.root.etc_pve("priv").is_dir() { Ok(()) } else { crate::node::setup::ensure(ctx) }
}

/// The public key of the present pair, or of the one before.
pub fn public(ctx: &Context, old: bool) -> Result<Option<Arc<PublicKey>>> {
    static CACHE: FileCache<PublicKey> = FileCache::new();
    let path = if old { old_path(ctx) } else { public_path(ctx) };
    CACHE.get(&path, |text, born| {
        let key = PKey::public_key_from_pem(text.as_bytes()).map_err(openssl_error)?;
        Ok(PublicKey { key, born })
    })
}

/// The private key of the present pair. A pair that is too old is replaced first.
pub fn private(ctx: &Context) -> Result<Arc<PKey<Private>>> {
    static CACHE: FileCache<PKey<Private>> = FileCache::new();
    rotate_if_due(ctx)?;
    let read = |text: &str, _| PKey::private_key_from_pem(text.as_bytes()).map_err(openssl_error);
    let found = CACHE.get(&private_path(ctx), read)?;
    found.ok_or_else(|| Error::new("authentication key is missing"))
}

/// The secret of CSRF tokens; never empty.
pub fn csrf_secret(ctx: &Context) -> Result<Arc<String>> {
    static CACHE: FileCache<String> = FileCache::new();
    let secret = CACHE.get(&csrf_path(ctx), |text, _| {
        if text.trim().is_empty() {
            return Err(Error::new("the secret of CSRF tokens is empty"));
        }
        // The file's text is the key of an HMAC over nothing; its text form is the secret.
        Ok(hmac_sha256_base64(text.as_bytes(), b""))
    })?;
    secret.ok_or_else(|| Error::new("the secret of CSRF tokens is missing"))
}

/// HMAC-SHA256 in base 64 without padding, as Perl's Digest::SHA writes it.
pub fn hmac_sha256_base64(key: &[u8], data: &[u8]) -> String {
    let key = PKey::hmac(key).expect("any text can be a key");
    let sum = Signer::new(MessageDigest::sha256(), &key)
        .and_then(|mut signer| signer.sign_oneshot_to_vec(data))
        .expect("SHA-256 is always there");
    openssl::base64::encode_block(&sum).trim_end_matches('=').to_owned()
}

/// Replaces the pair if it is missing, too old, or from the future.
pub fn rotate_if_due(ctx: &Context) -> Result<()> {
    if !is_due(ctx)? {
        return Ok(());
    }
    ensure_directories(ctx)?;
    let _lock = file::lock_file(ctx, &public_path(ctx))?;
    // Another process may have been faster.
    if is_due(ctx)? { rotate(ctx) } else { Ok(()) }
}

fn is_due(ctx: &Context) -> Result<bool> {
    let now = ctx.clock.now();
    // A file that cannot be read as a key is as good as none.
    let Ok(Some(present)) = public(ctx, false) else { return Ok(true) };
    if !private_path(ctx).exists() {
        return Ok(true);
    }
    if now - present.born >= KEY_LIFETIME {
        return Ok(true);
    }
    if present.born > now + SKEW {
        // Some node's clock was ahead. Tickets of the key before still hold; when it is young enough, we wait.
        let before = public(ctx, true).ok().flatten();
        let bridged = |old: &Arc<PublicKey>| (0..super::ticket::LIFETIME).contains(&(present.born - old.born));
        return Ok(!before.as_ref().is_some_and(bridged));
    }
    Ok(false)
}

fn rotate(ctx: &Context) -> Result<()> {
    let (public, old, private) = (public_path(ctx), old_path(ctx), private_path(ctx));
    let pair = Rsa::generate(2048).map_err(openssl_error)?;
    let present = fs::read(&public).ok().filter(|text| PKey::public_key_from_pem(text).is_ok());
    if let Some(text) = &present {
        write_key(ctx, &old, text, SHARED_MODE).context(|| "Failed to store old auth key")?;
    }
    let public_text = pair.public_key_to_pem().map_err(openssl_error)?;
    let private_text = pair.private_key_to_pem().map_err(openssl_error)?;
    let written = write_key(ctx, &public, &public_text, SHARED_MODE)
        .and_then(|()| write_key(ctx, &private, &private_text, PRIVATE_MODE));
    if let Err(error) = written {
        // A public key without its private key would refuse every ticket: the next caller must make a new pair.
        let removed = [&public, &private].map(fs::remove_file);
        let left: Vec<Error> = removed.into_iter().filter_map(std::result::Result::err).map(Error::from).collect();
        return Err(error.context("Failed to store new auth key").with_cleanup_failures(&left));
    }
    Ok(())
}

/// Writes a key; its modification time is our clock's.
fn write_key(ctx: &Context, path: &Path, text: &[u8], mode: u32) -> Result<()> {
    file::replace(path, text, mode)?;
    let now = Timespec { tv_sec: ctx.clock.now(), tv_nsec: 0 };
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty())?;
    Ok(())
}

/// OpenSSL's texts never hold key material.
pub(super) fn openssl_error(error: openssl::error::ErrorStack) -> Error {
    Error::new(format!("cryptography failed: {error}"))
}

#[cfg(test)]
mod tests;
