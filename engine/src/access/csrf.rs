//! CSRF prevention tokens, `TTTTTTTT:BASE64`: an HMAC over time and user that a foreign web page cannot know.
//! (PVE: pve-common PVE/Ticket.pm, assemble_csrf_prevention_token; only the front server verifies them)

use super::keys::{self, SKEW, hmac_sha256_base64};
use super::ticket::LIFETIME;
use crate::{Context, Error, Result};

/// Makes a token for a user, and the secret if this is the first one.
pub fn assemble(ctx: &Context, user: &str) -> Result<String> {
    keys::ensure_csrf_secret(ctx)?;
    let time = format!("{:08X}", ctx.clock.now());
    let sum = sum(ctx, &time, user)?;
    Ok(format!("{time}:{sum}"))
}

/// Checks a token.
///
/// # Errors
/// 401 `Permission denied - invalid csrf token`.
pub fn verify(ctx: &Context, user: &str, token: &str) -> Result<()> {
    let refused = || Error::Unauthorized("Permission denied - invalid csrf token".into());
    let (time, given) = token.split_once(':').ok_or_else(refused)?;
    let expected = sum(ctx, time, user)?;
    let same = expected.len() == given.len() && openssl::memcmp::eq(expected.as_bytes(), given.as_bytes());
    if !same || time.len() != 8 {
        return Err(refused());
    }
    let age = ctx.clock.now() - i64::from_str_radix(time, 16).map_err(|_| refused())?;
    if age > -SKEW && age < LIFETIME { Ok(()) } else { Err(refused()) }
}

fn sum(ctx: &Context, time: &str, user: &str) -> Result<String> {
    let secret = keys::csrf_secret(ctx)?;
    Ok(hmac_sha256_base64(secret.as_bytes(), format!("{time}:{user}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    #[test]
    fn the_text_is_what_the_formula_says() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context { clock: Clock::Fixed(0x6512_ABCD), ..Context::for_test(directory.path()) };
        std::fs::create_dir_all(directory.path().join("etc/pve")).unwrap();
        std::fs::write(ctx.root.etc_pve("pve-www.key"), "secret\n").unwrap();
        // Computed apart: HMAC-SHA256 with key base64(HMAC-SHA256(key "secret\n", "")) over "6512ABCD:root@pam".
        let expected = "6512ABCD:191s3powYykOEuiznmMP+107cD+S2kIqTdMInGEec34";
        assert_eq!(assemble(&ctx, "root@pam").unwrap(), expected);
    }

    #[test]
    fn holds_for_its_user_and_two_hours() {
        let directory = tempfile::tempdir().unwrap();
        let mut ctx = Context { clock: Clock::Fixed(1_800_000_000), ..Context::for_test(directory.path()) };
        keys::ensure(&ctx).unwrap();
        let token = assemble(&ctx, "root@pam").unwrap();
        assert!(verify(&ctx, "root@pam", &token).is_ok());
        assert!(verify(&ctx, "joe@pve", &token).is_err());
        for changed in ["", ":", &token[..token.len() - 1], &format!("{token}="), &token.replace(':', ""), &token[1..]]
        {
            let error = verify(&ctx, "root@pam", changed).unwrap_err();
            assert_eq!((error.status(), error.message()), (401, "Permission denied - invalid csrf token"));
        }
        for (seconds, good) in [(-300, false), (-299, true), (7199, true), (7200, false)] {
            ctx.clock = Clock::Fixed(1_800_000_000 + seconds);
            assert_eq!(verify(&ctx, "root@pam", &token).is_ok(), good, "{seconds}");
        }
    }
}
