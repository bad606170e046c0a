//! Tickets: what a client gets for its password and shows with each request for two hours.
//! (PVE: pve-access-control PVE/AccessControl.pm, assemble_ticket and verify_ticket)

use super::identity::UserId;
use super::keys::{self, KEY_LIFETIME, SKEW};
use super::{signed, store};
use crate::{Context, Error, Result};
use std::ops::Range;

/// How long a ticket holds, in seconds.
pub const LIFETIME: i64 = 2 * 3600;

const PREFIX: &str = "PVE";

/// Makes a ticket for a user who has shown who he is.
pub fn assemble(ctx: &Context, user: &UserId) -> Result<String> {
    signed::assemble(&*keys::private(ctx)?, PREFIX, Some(user.as_str()), None, ctx.clock.now())
}

/// The user of a ticket, who exists, is enabled and has not expired.
///
/// # Errors
/// 401 `Authentication failed!`; the reason is not told. A ticket that waits for a second factor is good for nothing.
pub fn verify(ctx: &Context, ticket: &str) -> Result<String> {
    let refused = || Error::Unauthorized("Authentication failed!".into());
    let user = read(ctx, ticket)?.ok_or_else(refused)?;
    store::load(ctx)?.check_enabled(&user, ctx.clock.now()).map_err(|_| refused())?;
    Ok(user.to_string())
}

/// The user whom a ticket names, if the ticket itself is good. Nothing is said about the user.
pub fn read(ctx: &Context, ticket: &str) -> Result<Option<UserId>> {
    let now = ctx.clock.now();
    for old in [false, true] {
        let Some(key) = keys::public(ctx, old)? else { continue };
        let Some(ages) = valid_ages(now - key.born, old) else { continue };
        if let Some(data) = signed::verify(&key.key, PREFIX, ticket, None, now, &ages) {
            // Data of half tickets begins with a mark that no user's name can have before its realm.
            return Ok(data.parse().ok().filter(|_| !is_half(&data)));
        }
    }
    Ok(None)
}

/// Marks of tickets that still wait for a second factor, of today and of old.
fn is_half(data: &str) -> bool {
    ["!tfa!", "tfa!", "u2f!"].iter().any(|mark| data.starts_with(mark))
}

/// The ages that tickets of a key can have, both ends excluded. None if its tickets are all too old.
fn valid_ages(key_age: i64, rotated: bool) -> Option<Range<i64>> {
    let key_age = key_age.max(0);
    let mut ages = -SKEW..LIFETIME;
    if rotated {
        // The file of the old key was written when it was replaced: it has signed nothing since.
        ages.start = key_age - SKEW;
    } else {
        if key_age > KEY_LIFETIME {
            // It should have been replaced.
            ages.start = key_age - KEY_LIFETIME;
        }
        if key_age < LIFETIME {
            // A ticket cannot be older than its key.
            ages.end = key_age + SKEW;
        }
    }
    (ages.start <= LIFETIME).then_some(ages)
}

#[cfg(test)]
mod tests;
