//! Short-lived tickets of consoles: bound to a user or token, a path of the access tree and a port, good for 40 seconds.
//! (PVE: pve-access-control PVE/AccessControl.pm, assemble_short_lived_ticket and verify_vnc_ticket)

use super::keys::{self, KEY_LIFETIME};
use super::{path, signed};
use crate::{Context, Error, Result};
use std::ops::Range;

const PREFIX: &str = "PVEVNC";

/// Clock skew and life time, in seconds.
const AGES: Range<i64> = -20..40;

/// Makes a ticket for the console behind `port`.
pub fn assemble(ctx: &Context, caller: &str, path: &str, port: impl Into<Option<u16>>) -> Result<String> {
    let secret = secret(caller, path, port.into())?;
    signed::assemble(&*keys::private(ctx)?, PREFIX, None, Some(&secret), ctx.clock.now())
}

/// Checks a console's ticket. In front of it may stand a password of eight characters and a colon.
///
/// # Errors
/// 401 when it is not a good ticket for this caller, path and port.
pub fn verify(ctx: &Context, ticket: &str, caller: &str, path: &str, port: impl Into<Option<u16>>) -> Result<()> {
    let refused = || Error::Unauthorized("permission denied - invalid PVEVNC ticket".into());
    let secret = secret(caller, path, port.into())?;
    let now = ctx.clock.now();
    let key = keys::public(ctx, false)?.filter(|key| now - key.born <= KEY_LIFETIME).ok_or_else(refused)?;
    let good = signed::verify(&key.key, PREFIX, without_password(ticket), Some(&secret), now, &AGES);
    good.map(drop).ok_or_else(refused)
}

fn secret(caller: &str, path: &str, port: Option<u16>) -> Result<String> {
    let path = path::normalize(path).ok_or_else(|| Error::new("invalid ticket path"))?;
    Ok(match port {
        Some(port) => format!("{caller}:{path}:{port}"),
        None => format!("{caller}:{path}"),
    })
}

fn without_password(ticket: &str) -> &str {
    let ninth = ticket.char_indices().nth(8).map(|(position, _)| position);
    match ninth.and_then(|position| ticket[position..].strip_prefix(':')) {
        Some(rest) if rest.starts_with("PVEVNC:") => rest,
        _ => ticket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    #[test]
    fn holds_for_its_caller_path_and_port_and_forty_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let mut ctx = Context { clock: Clock::Fixed(1_800_000_000), ..Context::for_test(directory.path()) };
        keys::ensure(&ctx).unwrap();
        let ticket = assemble(&ctx, "joe@pve!a1", "/vms/100", Some(5900)).unwrap();
        assert!(!ticket.contains("joe"));
        let check = |ctx: &Context, ticket: &str, caller, path, port: Option<u16>| {
            verify(ctx, ticket, caller, path, port).is_ok()
        };
        assert!(check(&ctx, &ticket, "joe@pve!a1", "/vms/100/", Some(5900)));
        assert!(check(&ctx, &format!("pässword:{ticket}"), "joe@pve!a1", "/vms/100", Some(5900)));
        assert!(!check(&ctx, &format!("password2:{ticket}"), "joe@pve!a1", "/vms/100", Some(5900)));
        assert!(!check(&ctx, &ticket, "joe@pve", "/vms/100", Some(5900)));
        assert!(!check(&ctx, &ticket, "joe@pve!a1", "/vms/101", Some(5900)));
        assert!(!check(&ctx, &ticket, "joe@pve!a1", "/vms/100", Some(5901)));
        assert!(!check(&ctx, &ticket, "joe@pve!a1", "/vms/100", None));
        for (seconds, good) in [(-20, false), (-19, true), (39, true), (40, false)] {
            ctx.clock = Clock::Fixed(1_800_000_000 + seconds);
            assert_eq!(check(&ctx, &ticket, "joe@pve!a1", "/vms/100", Some(5900)), good, "{seconds}");
        }
    }
}
