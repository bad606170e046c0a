//! Who speaks: tickets and tokens, verified by the engine and remembered for a moment.
//!
//! What is remembered is the digest of the credential, never the credential, for a few seconds, and only as long as none of
//! the files that decide about users has changed.

use crate::wire::credentials::Credential;
use engine::{Context, Result, access};
use openssl::sha::sha256;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a verified credential is believed without looking again.
const BELIEVED: Duration = Duration::from_secs(5);
/// The files are looked at again after this time: under load not for each of a thousand requests in the same moment.
const LOOKED: Duration = Duration::from_millis(1);
/// How many are remembered.
const LIMIT: usize = 1024;
/// Files that decide about users, below `/etc/pve`.
const FILES: [&str; 6] =
    ["user.cfg", "priv/token.cfg", "priv/tfa.cfg", "domains.cfg", "authkey.pub", "authkey.pub.old"];

/// The memory of verified credentials.
#[derive(Debug, Default)]
pub struct Identities {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    stamp: Stamp,
    /// When the files were last seen unchanged.
    looked: Option<Instant>,
    users: HashMap<[u8; 32], (String, Instant)>,
}

/// Change time, inode and size of the files.
type Stamp = [Option<(i64, i64, u64, u64)>; FILES.len()];

impl Identities {
    /// The identity behind a credential.
    ///
    /// # Errors
    /// When it is not, or no longer, good.
    pub fn verify(&self, ctx: &Context, credential: &Credential) -> Result<String> {
        if let Some(user) = self.remembered(ctx, credential) {
            return Ok(user);
        }
        // The files are looked at before: a change in between makes the memory too old, never too new.
        let stamp = stamp(ctx);
        let user = match credential {
            Credential::Ticket(ticket) => access::ticket::verify(ctx, ticket)?,
            Credential::Token(token) => access::token::verify(ctx, token)?,
        };
        self.keep(stamp, credential, &user);
        Ok(user)
    }

    /// The identity, if it has just been verified.
    pub fn remembered(&self, ctx: &Context, credential: &Credential) -> Option<String> {
        let digest = digest(credential);
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (user, since) = known.users.get(&digest)?;
        let user = (since.elapsed() < BELIEVED).then(|| user.clone())?;
        if known.looked.is_none_or(|looked| looked.elapsed() > LOOKED) {
            let now = Instant::now();
            known.looked = (known.stamp == stamp(ctx)).then_some(now);
        }
        known.looked.map(|_| user)
    }

    /// Remembers what the privileged daemon has verified.
    pub fn remember(&self, ctx: &Context, credential: &Credential, user: &str) {
        self.keep(stamp(ctx), credential, user);
    }

    fn keep(&self, stamp: Stamp, credential: &Credential, user: &str) {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.stamp != stamp {
            known.users.clear();
            known.stamp = stamp;
            known.looked = None;
        }
        if known.users.len() >= LIMIT {
            known.users.retain(|_, (_, since)| since.elapsed() < BELIEVED);
        }
        if known.users.len() < LIMIT {
            known.users.insert(digest(credential), (user.to_owned(), Instant::now()));
        }
    }
}

fn digest(credential: &Credential) -> [u8; 32] {
    match credential {
        Credential::Ticket(text) => sha256(format!("ticket {text}").as_bytes()),
        Credential::Token(text) => sha256(format!("token {text}").as_bytes()),
    }
}

fn stamp(ctx: &Context) -> Stamp {
    FILES.map(|name| {
        let stat = rustix::fs::stat(ctx.root.etc_pve(name)).ok()?;
        Some((stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0), stat.st_ino, stat.st_size.cast_unsigned()))
    })
}
