//! Fetching files over HTTP: what a URL offers, and the file itself.
//! (PVE: pve-common PVE/Tools.pm, download_file_from_url; pve-manager PVE/API2/Nodes.pm, query_url_metadata)
//!
//! A URL may hold a secret, so no program is started with it as an argument.

use super::receive::receive;
use super::transfer::{Checksum, Incoming, Target};
use crate::config::flat::FlatConfig;
use crate::task::abort;
use crate::{Context, Error, Result, Task, bail, error::ResultExt, file};
use std::process::{Command, Stdio};
use std::time::Duration;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Proxy, http};

/// A server that says nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Where to fetch from, and how.
pub struct Source {
    url: String,
    agent: Agent,
}

/// What a server says about a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its name.
    pub file_name: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its type, without parameters.
    pub mime_type: Option<String>,
}

impl Source {
    /// A URL, fetched through the datacenter's proxy if one is set.
    pub fn new(ctx: &Context, url: String, verify_certificates: bool) -> Result<Self> {
        let datacenter = FlatConfig::parse(&file::read_or_empty(&ctx.root.etc_pve("datacenter.cfg"))?);
        let proxy = match datacenter.values.get("http_proxy") {
            Some(text) => Some(Proxy::new(text).map_err(|error| Error::new(format!("http_proxy: {error}")))?),
            None => None,
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::PlatformVerifier)
            .disable_verification(!verify_certificates)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent("Proxmox VE")
            .accept_encoding("identity")
            .proxy(proxy)
            .tls_config(tls)
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build();
        Ok(Source { url, agent: config.into() })
    }

    /// Asks for the file's description only.
    pub fn metadata(&self) -> Result<Metadata> {
        let answer = self
            .agent
            .head(&self.url)
            .call()
            .map_err(|error| Error::new(format!("invalid server response: '500 Can't connect: {error}'")))?;
        if answer.status() != http::StatusCode::OK {
            bail!("invalid server response: '{}'", status_line(answer.status()));
        }
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        Ok(Metadata {
            file_name: header("content-disposition").and_then(disposition_name).or_else(|| url_name(&self.url)),
            size: header("content-length").and_then(|text| text.parse().ok()).filter(|size| *size > 0),
            mime_type: header("content-type").map(|kind| kind.split(';').next().unwrap_or(kind).to_owned()),
        })
    }

    /// Fetches the file to its place. An existing file is never replaced: with the right checksum it is taken for the
    /// wanted one, otherwise that is an error.
    pub fn fetch(&self, task: &Task, target: &Target, wanted: &Wanted) -> Result<()> {
        let place = target.path();
        task.log(format!("downloading {} to {}", without_secrets(&self.url), place.display()));
        if place.is_file() {
            return check_existing(task, &place, wanted.checksum.as_ref());
        }
        let mut incoming = Incoming::create(target)?;
        receive(&self.agent, &self.url, task, &mut incoming).context(|| "download failed")?;
        if let Some(checksum) = &wanted.checksum {
            checksum.verify(incoming.path(), &mut |line| task.log(line))?;
        }
        if let Some(compression) = &wanted.compression {
            incoming = decompress(task, target, &incoming, compression)?;
        }
        incoming.place_new()?;
        task.log(format!("download of '{}' to '{}' finished", without_secrets(&self.url), place.display()));
        Ok(())
    }

    /// A small file as it is. Redirections are followed.
    ///
    /// # Errors
    /// When the server does not answer 200, or the file has more than `largest` bytes.
    pub fn bytes(&self, largest: u64) -> Result<Vec<u8>> {
        let place = without_secrets(&self.url);
        let failed = |error: ureq::Error| Error::new(format!("{place}: {error}"));
        let answer = self.agent.get(&self.url).call().map_err(failed)?;
        if answer.status() != http::StatusCode::OK {
            bail!("{place}: server answers '{}'", status_line(answer.status()));
        }
        answer.into_body().into_with_config().limit(largest).read_to_vec().map_err(failed)
    }
}

/// What else is asked of a download.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The file as served must have it.
    pub checksum: Option<Checksum>,
    /// The file is served compressed: `gz`, `lzo`, `zst` or `bz2`.
    pub compression: Option<String>,
}

fn check_existing(task: &Task, place: &std::path::Path, checksum: Option<&Checksum>) -> Result<()> {
    let Some(checksum) = checksum else {
        bail!("refusing to override existing file '{}'", place.display());
    };
    let (got, same) = checksum.of(place)?;
    if !same {
        task.log("calculating checksum of existing file...");
        bail!("checksum mismatch: got '{got}' != expect '{}', aborting", checksum.expected());
    }
    task.log("calculating checksum of existing file...OK, got correct file already, no need to download");
    Ok(())
}

/// The same file without its compression, under another hidden name.
fn decompress<'a>(task: &Task, target: &'a Target, packed: &Incoming, compression: &str) -> Result<Incoming<'a>> {
    let program: &[&str] = match compression {
        "gz" => &["gzip", "-d", "-c"],
        "xz" => &["xz", "-d", "-c"],
        "lzo" => &["lzop", "-d", "-c"],
        "zst" => &["zstd", "-q", "-d", "-c"],
        "bz2" => &["bzip2", "-d", "-c"],
        _ => bail!("no decompression method found"),
    };
    let plain = Incoming::create(target)?;
    task.log(format!("decompressing {} to {}", packed.path().display(), plain.path().display()));
    let input = std::fs::File::open(packed.path())?;
    let output = plain.file.try_clone()?;
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).stdin(input).stdout(output).stderr(Stdio::null());
    let mut child = command.spawn().context(|| format!("unable to start '{}'", program[0]))?;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(plain);
            }
            bail!("decompression failed: command '{}' failed: {status}", program[0]);
        }
        abort::check().inspect_err(|_| {
            // The child is ours and may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        })?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A status as servers write it.
pub(super) fn status_line(status: http::StatusCode) -> String {
    format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// The name in `attachment; filename="x"`.
fn disposition_name(text: &str) -> Option<String> {
    let rest = &text[text.find("filename=")? + "filename=".len()..];
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(';').next(),
    };
    name.filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The last component of a URL's path.
fn url_name(url: &str) -> Option<String> {
    let path = url.split('?').next()?;
    let (_, name) = path.split_once("://")?.1.rsplit_once('/')?;
    if name.is_empty() { None } else { Some(name.to_owned()) }
}

/// A URL for the log: without user, password and query.
fn without_secrets(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    match path.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or(host);
            format!("{scheme}://{host}{path}")
        }
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_header_or_the_url() {
        assert_eq!(disposition_name("attachment; filename=\"a b.iso\"; x=1").as_deref(), Some("a b.iso"));
        assert_eq!(disposition_name("attachment; filename=a.iso; x").as_deref(), Some("a.iso"));
        assert_eq!(disposition_name("inline"), None);
        assert_eq!(url_name("https://host/x/y.iso?token=1").as_deref(), Some("y.iso"));
        assert_eq!(url_name("https://host/"), None);
        assert_eq!(url_name("https://host"), None);
    }

    #[test]
    fn secrets_in_urls_stay_out_of_logs() {
        assert_eq!(without_secrets("https://me:secret@host:8443/x.iso?sig=secret#y"), "https://host:8443/x.iso");
        assert_eq!(without_secrets("http://host"), "http://host");
    }
}
