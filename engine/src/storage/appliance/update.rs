//! Fetching indexes: signature first, then the index, checked before it replaces the kept one.
//! (PVE: pve-manager PVE/APLInfo.pm, update and download_aplinfo)

use super::source::{self, Location, Source};
use super::{index, sources};
use crate::{Context, Error, Result, bail, command, error::ResultExt, file, storage::download};
use flate2::read::MultiGzDecoder;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;

/// A larger index is not believed.
const LARGEST: u64 = 64 << 20;

/// The log is put aside when it has grown beyond that.
const LARGEST_LOG: u64 = 256 << 10;

/// Updates all indexes; a failure of one does not keep the others from being updated. What happens is written to
/// `/var/log/pveam.log`.
///
/// # Errors
/// When an index could not be updated: its older state stays in use. The text names the first one and the log.
pub fn update(ctx: &Context) -> Result<()> {
    let mut log = Log::open(ctx)?;
    log.line("starting update");
    let mut first = None;
    for source in sources(ctx)? {
        log.line(&format!("updating index '{}'", source.name));
        match update_one(ctx, &source) {
            Ok(count) => log.line(&format!("update successful: {count} templates")),
            Err(error) => {
                log.line(&format!("update of '{}' failed: {}", source.name, error.message()));
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Gives back how many templates the index offers.
fn update_one(ctx: &Context, source: &Source) -> Result<usize> {
    let directory = source::directory(ctx);
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    let index = match &source.keyrings {
        None => fetch_index(ctx, source)?,
        Some(keyrings) => {
            let signature = fetch(ctx, &beside(&source.index, "asc")).context(|| "no signature file")?;
            let index = fetch_index(ctx, source)?;
            verify(source, keyrings, &signature, &index)?;
            index
        }
    };
    let text = String::from_utf8(index).map_err(|_| Error::new("the index is not a text"))?;
    let count = index::parse(&text, &source.base())?.len();
    file::replace(&source.kept_index(ctx), text.as_bytes(), 0o644)?;
    Ok(count)
}

fn fetch_index(ctx: &Context, source: &Source) -> Result<Vec<u8>> {
    match &source.index {
        Location::Path(_) => fetch(ctx, &source.index).context(|| "no data file"),
        Location::Url(_) => {
            let packed = fetch(ctx, &beside(&source.index, "gz")).context(|| "no data file")?;
            read_all(MultiGzDecoder::new(packed.as_slice())).context(|| "unable to unpack the index")
        }
    }
}

/// The file of the same name with one more extension.
fn beside(index: &Location, extension: &str) -> Location {
    match index {
        Location::Url(url) => Location::Url(format!("{url}.{extension}")),
        Location::Path(path) => {
            let mut name = path.clone().into_os_string();
            name.push(format!(".{extension}"));
            Location::Path(name.into())
        }
    }
}

fn fetch(ctx: &Context, location: &Location) -> Result<Vec<u8>> {
    match location {
        Location::Url(url) => download::Source::new(ctx, url.clone(), true)?.bytes(LARGEST),
        Location::Path(path) => read_all(fs::File::open(path).context(|| path.display().to_string())?),
    }
}

fn read_all(from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        bail!("more than {} MiB", LARGEST >> 20);
    }
    Ok(bytes)
}

/// Fails unless one of the keys made the signature. `gpgv` knows no network and no other keys.
fn verify(source: &Source, keyrings: &[PathBuf], signature: &[u8], index: &[u8]) -> Result<()> {
    let present: Vec<&PathBuf> = keyrings.iter().filter(|path| path.is_file()).collect();
    if present.is_empty() {
        let names: Vec<String> = keyrings.iter().map(|path| path.display().to_string()).collect();
        bail!("index '{}': no keyring to verify its signature ({})", source.name, names.join(", "));
    }
    let directory = tempfile::tempdir()?;
    let (signature_path, index_path) = (directory.path().join("index.asc"), directory.path().join("index"));
    fs::write(&signature_path, signature)?;
    fs::write(&index_path, index)?;
    let mut arguments: Vec<OsString> = Vec::new();
    for keyring in present {
        arguments.extend(["--keyring".into(), keyring.into()]);
    }
    arguments.extend(["--".into(), signature_path.into(), index_path.into()]);
    command::run("gpgv", &arguments).map(drop).context(|| "unable to verify signature")
}

/// `/var/log/pveam.log`, a line per step.
struct Log(fs::File);

impl Log {
    fn open(ctx: &Context) -> Result<Self> {
        let path = ctx.root.path("/var/log/pveam.log");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).context(|| format!("unable to create '{}'", directory.display()))?;
        }
        if fs::metadata(&path).is_ok_and(|data| data.len() > LARGEST_LOG) {
            fs::rename(&path, path.with_extension("log.0")).context(|| "unable to rotate the log")?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Log(file.context(|| format!("unable to open '{}'", path.display()))?))
    }

    fn line(&mut self, text: &str) {
        let time = jiff::Zoned::now().strftime("%F %H:%M:%S");
        // A full disk must not keep an index from being updated.
        let _ = writeln!(self.0, "{time} {}", text.replace('\n', " "));
    }
}
