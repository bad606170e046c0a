//! The TLS side of the front server: which certificate, which protocol versions, and reloading when files change.
//!
//! Facts: pve-manager PVE/Service/pveproxy.pm. HTTP/2 is never offered: it has no reason phrases.

use super::settings::Settings;
use arc_swap::ArcSwap;
use engine::{Context, Error, Result};
use openssl::dh::Dh;
use openssl::ssl::{
    AlpnError, Ssl, SslAcceptor, SslAcceptorBuilder, SslFiletype, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
    SslVersion, select_next_proto,
};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The certificate in use.
pub struct Certificates {
    ctx: Context,
    settings: Settings,
    acceptor: ArcSwap<SslAcceptor>,
    seen: Mutex<Seen>,
}

struct Seen {
    looked: Instant,
    stamp: Stamp,
}

/// Which files, and when they were changed.
type Stamp = [(PathBuf, Option<(SystemTime, u64)>); 2];

impl Certificates {
    /// Reads certificate and key.
    pub fn load(ctx: &Context, settings: &Settings) -> Result<Self> {
        let stamp = stamp(ctx, settings);
        let acceptor = acceptor(&stamp, settings)?;
        Ok(Certificates {
            ctx: ctx.clone(),
            settings: settings.clone(),
            acceptor: ArcSwap::from_pointee(acceptor),
            seen: Mutex::new(Seen { looked: Instant::now(), stamp }),
        })
    }

    /// A TLS state for a new connection, with the newest readable certificate.
    pub fn accept(&self) -> Result<Ssl> {
        self.look();
        Ssl::new(self.acceptor.load().context()).map_err(|error| Error::new(error.to_string()))
    }

    /// Takes changed files; files that cannot be used are reported and the old ones kept.
    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.looked.elapsed() < LOOK {
            return;
        }
        seen.looked = Instant::now();
        let stamp = stamp(&self.ctx, &self.settings);
        if stamp == seen.stamp {
            return;
        }
        match acceptor(&stamp, &self.settings) {
            Ok(acceptor) => self.acceptor.store(acceptor.into()),
            Err(error) => eprintln!("new certificate is not used: {error}"),
        }
        seen.stamp = stamp;
    }
}

/// The custom certificate if there are both of its files, else the node's own.
fn stamp(ctx: &Context, settings: &Settings) -> Stamp {
    let file = |name: &str| ctx.root.etc_pve(&format!("nodes/{}/{name}", ctx.node));
    let custom = file("pveproxy-ssl.pem");
    let custom_key = settings.tls_key_file.clone().unwrap_or_else(|| file("pveproxy-ssl.key"));
    let (certificate, key) = if custom.is_file() && custom_key.is_file() {
        (custom, custom_key)
    } else {
        (file("pve-ssl.pem"), file("pve-ssl.key"))
    };
    [certificate, key].map(|path| {
        let changed = std::fs::metadata(&path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        (path, changed)
    })
}

fn acceptor([(certificate, _), (key, _)]: &Stamp, settings: &Settings) -> Result<SslAcceptor> {
    let named = |path: &PathBuf, error| Error::new(format!("unable to use '{}': {error}", path.display()));
    let failed = |error: openssl::error::ErrorStack| Error::new(format!("TLS settings: {error}"));
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).map_err(failed)?;
    builder.set_certificate_chain_file(certificate).map_err(|error| named(certificate, error))?;
    builder.set_private_key_file(key, SslFiletype::PEM).map_err(|error| named(key, error))?;
    builder.check_private_key().map_err(|error| named(key, error))?;
    apply(&mut builder, settings).map_err(failed)?;
    if let Some(path) = &settings.dhparams {
        let pem = std::fs::read(path).map_err(|error| Error::new(format!("DHPARAMS '{}': {error}", path.display())))?;
        let dh = Dh::params_from_pem(&pem).map_err(|error| named(path, error))?;
        builder.set_tmp_dh(&dh).map_err(failed)?;
    }
    Ok(builder.build())
}

fn apply(builder: &mut SslAcceptorBuilder, settings: &Settings) -> Result<(), openssl::error::ErrorStack> {
    // Idle connections give their buffers back, resumption works by tickets alone.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    // A request comes with one system call, not with one for the head of its record and one for the rest.
    builder.set_read_ahead(true);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    let lowest = if settings.disable_tls_1_2 { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
    let highest = if settings.disable_tls_1_3 { SslVersion::TLS1_2 } else { SslVersion::TLS1_3 };
    builder.set_min_proto_version(Some(lowest))?;
    builder.set_max_proto_version(Some(highest))?;
    if settings.honor_cipher_order.unwrap_or(true) {
        builder.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    } else {
        builder.clear_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    }
    if let Some(ciphers) = &settings.ciphers {
        builder.set_cipher_list(ciphers)?;
    }
    if let Some(ciphersuites) = &settings.ciphersuites {
        builder.set_ciphersuites(ciphersuites)?;
    }
    builder.set_alpn_select_callback(|_, offered| select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::NOACK));
    Ok(())
}
