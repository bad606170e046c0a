//! Logging in: from a password, or a ticket in its place, to a new ticket.
//!
//! All failures look alike to the client; the reason goes to the daemon's log in the form that intrusion detectors know.
//! (PVE: pve-access-control PVE/API2/AccessControl.pm, create_ticket)

use super::identity::UserId;
use super::{pam, realm, second_factor, shadow, ticket};
use crate::context::Mode;
use crate::{Context, Error, Result};

/// Fails unless this is the user's password, and the password is all that is asked of the user. The error is for the log.
pub fn authenticate(ctx: &Context, user: &UserId, password: &str) -> Result<()> {
    check_password(ctx, user, password)?;
    let wants_second = realm::load(ctx)?.get(user.realm()).is_some_and(|section| section.get("tfa").is_some());
    if wants_second || second_factor::is_configured(ctx, user)? {
        return Err(Error::new("a second factor is configured, which is not supported"));
    }
    Ok(())
}

/// Fails unless this is the user's password. The error is for the log.
pub fn check_password(ctx: &Context, user: &UserId, password: &str) -> Result<()> {
    if password.is_empty() {
        return Err(Error::new("no password"));
    }
    match realm::load(ctx)?.kind(user.realm())? {
        "pve" => shadow::authenticate(ctx, user.name(), password),
        "pam" => pam::authenticate(ctx, user.name(), password),
        kind => Err(Error::new(format!("realms of type '{kind}' are not supported"))),
    }
}

/// Sets the user's password in its realm.
pub fn set_password(ctx: &Context, user: &UserId, password: &str) -> Result<()> {
    match realm::load(ctx)?.kind(user.realm())? {
        "pve" => shadow::store(ctx, user.name(), password),
        "pam" => pam::store(user.name(), password),
        kind => Err(Error::new(format!("can't set password on auth type '{kind}'"))),
    }
}

/// Forgets the password of a user who is gone. Users of the system stay as they are.
pub fn forget_password(ctx: &Context, user: &UserId) -> Result<()> {
    match realm::load(ctx)?.kind(user.realm()) {
        Ok("pve") => shadow::forget(ctx, user.name()),
        _ => Ok(()),
    }
}

/// Fails unless `secret` is the user's password or a ticket that stands for it: an own one, or one of `root@pam` where
/// `root_may` says so.
pub fn password_or_ticket(ctx: &Context, user: &UserId, secret: &str, root_may: bool) -> Result<()> {
    match ticket::read(ctx, secret)? {
        Some(owner) if owner == *user || (root_may && owner.is_root()) => Ok(()),
        _ => authenticate(ctx, user, secret),
    }
}

/// The one answer to every failed log-in; the reason is written to the daemon's log.
pub fn refuse(ctx: &Context, user: &str, reason: &Error) -> Error {
    if matches!(ctx.mode, Mode::Daemon { .. }) {
        let client = ctx.client.as_deref().unwrap_or_default();
        // A name is the client's text: it must not be able to write lines of its own.
        let (user, reason) = (user.escape_debug(), reason.message().escape_debug());
        eprintln!("authentication failure; rhost={client} user={user} msg={reason}");
    }
    Error::Unauthorized("authentication failure".into())
}
