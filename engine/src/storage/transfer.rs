//! Files that come from outside: ISO files, container templates, images and appliances to import.
//! (PVE: pve-storage PVE/API2/Storage/Status.pm, upload and download_url)
//!
//! A file is written under a hidden name in its directory, verified, and moved to its name in one step. Nobody ever sees
//! half a file, and a failure leaves nothing.

use super::content::Content;
use super::directory::name::{FileName, is_safe_character};
use super::image::{self, Header};
use super::volume::Format;
use crate::process::ProcessId;
use crate::task::abort;
use crate::{Context, Error, Result, bail, command, error::ResultExt};
use openssl::hash::{Hasher, MessageDigest};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How files begin that keep the first part of a download.
const KEPT: &str = ".partial-";

/// How long such a file is kept.
const KEPT_TIME: Duration = Duration::from_secs(2 * 24 * 3600);

/// How much is moved between two looks at whether the task is to stop.
const CHUNK: usize = 1 << 20;

/// Where a file is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is.
    pub content: Content,
    /// Its directory.
    pub directory: PathBuf,
    /// Its name.
    pub file: String,
    format: String,
    node: String,
}

impl Target {
    /// The place for a file of that name; the name is made harmless first.
    ///
    /// # Errors
    /// When the name's extension does not fit the content, or the storage may not hold it.
    pub fn new(ctx: &Context, id: &str, content: Content, name: &str) -> Result<Self> {
        let storage = super::find_enabled(ctx, id)?;
        let file = normalize_file_name(name);
        let known = FileName::new(content, &file);
        let (text, good) = match content {
            Content::Import => {
                let safe = file.chars().all(is_safe_character) && !file.ends_with(".ovf");
                ("invalid filename or wrong extension", safe)
            }
            Content::Iso | Content::Vztmpl => ("wrong file extension", true),
            // PVE takes no snippets. They are not executable, so they can serve guests but are no hook scripts.
            Content::Snippets => ("invalid filename", !file.starts_with('.')),
            _ => return Err(Error::parameter("content", format!("upload content type '{content}' not allowed"))),
        };
        let Some(known) = known.filter(|_| good) else { return Err(Error::parameter("filename", text)) };
        if !storage.entry.has_content(content) {
            bail!("storage '{id}' does not support '{content}' content");
        }
        let directory = super::driver_of(&storage)?.content_directory(&storage, content)?;
        Ok(Target { content, directory, file, format: known.format, node: ctx.node.clone() })
    }

    /// The place of a volume that comes as it is, from another node or as a stream.
    pub fn for_volume(storage: &super::driver::Storage, content: Content, file: &str) -> Result<Self> {
        let known = FileName::new(content, file);
        let Some(known) = known else { bail!("unable to parse directory volume name '{}'", file.escape_debug()) };
        let directory = super::driver_of(storage)?.content_directory(storage, content)?;
        Ok(Target { content, directory, file: known.file, format: known.format, node: storage.ctx.node.clone() })
    }

    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.file)
    }

    /// Where the first part of a download is kept.
    fn kept_path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{KEPT}{key}"))
    }

    /// How this node's hidden files begin; the number of the process that writes them follows.
    fn hidden_prefix(&self) -> String {
        format!(".incoming-{}-", self.node)
    }

    /// Refuses what could reach other files when a guest uses it, and what is not what its name says.
    fn verify(&self, path: &Path) -> Result<()> {
        let place = path.display();
        if self.format == "ova" {
            let listed = command::run("tar", &["-t".as_ref(), "-f".as_ref(), path.as_os_str()])?;
            if !listed.stdout.lines().any(|line| line.ends_with(".ovf")) {
                bail!("ova archive has no .ovf file inside");
            }
            return Ok(());
        }
        let header = match self.content {
            Content::Iso | Content::Import => image::read(path).context(|| place.to_string())?,
            _ => return Ok(()),
        };
        check_harmless(&header, &self.file)?;
        match self.format.parse::<Format>() {
            Ok(format) if format != Format::Raw && format != header.format => {
                bail!("{}: Image is not in {format} format", self.file)
            }
            _ => Ok(()),
        }
    }
}

/// An image of unknown origin must be complete in itself.
pub fn check_harmless(header: &Header, file: &str) -> Result<()> {
    if header.backing.is_some() {
        bail!("backing file not allowed for untrusted image '{file}'!");
    }
    match header.format {
        Format::Qcow2 if header.external_data => bail!("{file}: 'data-file' references are not allowed!"),
        Format::Vmdk if header.external_data => bail!("{file}: multiple children or extents are not allowed!"),
        _ => Ok(()),
    }
}

/// Copies a file of a content type under another name, perhaps to another storage.
pub fn copy_file(ctx: &Context, source: &super::VolumeId, target: &super::VolumeId) -> Result<()> {
    let mut from = File::open(super::activate_volume(ctx, source, None)?).context(|| source.to_string())?;
    let (storage, driver) = super::activated(ctx, &target.storage)?;
    let described = driver.describe(&storage, &target.name)?;
    let file = target.name.rsplit('/').next().unwrap_or(&target.name);
    let target = Target::for_volume(&storage, described.content, file)?;
    let mut incoming = Incoming::create(&target)?;
    copy(&mut from, &mut incoming.file)?;
    incoming.place_new()
}

/// The last component with everything unusual replaced. (PVE: PVE/Storage.pm, normalize_content_filename)
pub fn normalize_file_name(name: &str) -> String {
    let name = name.strip_suffix('\n').unwrap_or(name);
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    last.chars().map(|c| if usual(c) { c } else { '_' }).collect()
}

/// An expected checksum.
#[derive(Debug, Clone)]
pub struct Checksum {
    algorithm: String,
    expected: String,
}

impl Checksum {
    /// A checksum in hexadecimal.
    pub fn new(algorithm: String, expected: String) -> Self {
        Checksum { algorithm, expected }
    }

    /// What a file has, and whether that is what is expected.
    pub fn of(&self, path: &Path) -> Result<(String, bool)> {
        let digest = MessageDigest::from_name(&self.algorithm)
            .ok_or_else(|| Error::new(format!("unknown algorithm '{}'", self.algorithm)))?;
        let mut hasher = Hasher::new(digest).map_err(|error| Error::new(error.to_string()))?;
        copy(&mut File::open(path).context(|| format!("unable to open '{}'", path.display()))?, &mut hasher)?;
        let sum = hasher.finish().map_err(|error| Error::new(error.to_string()))?;
        let got = crate::types::hex(&sum);
        let same = got.eq_ignore_ascii_case(&self.expected);
        Ok((got, same))
    }

    /// Fails when a file has another one.
    pub fn verify(&self, path: &Path, log: &mut dyn FnMut(String)) -> Result<()> {
        let (got, same) = self.of(path)?;
        if !same {
            // The error stands alone on its line.
            log("calculating checksum...".to_owned());
            bail!("checksum mismatch: got '{got}' != expect '{}'", self.expected);
        }
        log("calculating checksum...OK, checksum verified".to_owned());
        Ok(())
    }

    /// The expected value.
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

/// Copies everything; a task that is told to stop does so between two pieces.
pub fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        abort::check()?;
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        to.write_all(&buffer[..count])?;
        total += count as u64;
    }
}

/// A hidden file beside its target; it vanishes unless it is moved into place.
pub struct Incoming<'a> {
    target: &'a Target,
    path: PathBuf,
    /// The open file.
    pub file: File,
    placed: bool,
}

impl<'a> Incoming<'a> {
    /// A new empty file.
    pub fn create(target: &'a Target) -> Result<Self> {
        let directory = &target.directory;
        fs::create_dir_all(directory).context(|| format!("unable to create '{}'", directory.display()))?;
        remove_abandoned(target);
        let path = directory.join(format!("{}{}-{}", target.hidden_prefix(), std::process::id(), unique_number()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644))
            .context(|| format!("unable to create '{}'", path.display()))?;
        Ok(Incoming { target, path, file: file.into(), placed: false })
    }

    /// Where it lies now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes over what an earlier download of the same bytes has left; `false` if there is nothing.
    pub fn adopt(&mut self, key: &str) -> Result<bool> {
        if fs::rename(self.target.kept_path(key), &self.path).is_err() {
            return Ok(false);
        }
        self.reopen()?;
        Ok(true)
    }

    /// Leaves the bytes for a later download of the same.
    pub fn keep(&mut self, key: &str) -> Result<()> {
        self.file.sync_data()?;
        fs::rename(&self.path, self.target.kept_path(key))?;
        self.placed = true;
        Ok(())
    }

    /// Looks at what a program has written under the hidden name.
    pub fn reopen(&mut self) -> Result<()> {
        self.file = File::options().read(true).write(true).open(&self.path)?;
        Ok(())
    }

    /// Verifies the content and gives the file its name. An older file of that name is replaced.
    pub fn place(self) -> Result<()> {
        self.move_to_target(RenameFlags::empty())
    }

    /// Verifies the content and gives the file its name unless somebody else has been faster.
    pub fn place_new(self) -> Result<()> {
        self.move_to_target(RenameFlags::NOREPLACE)
    }

    fn move_to_target(mut self, flags: RenameFlags) -> Result<()> {
        self.target.verify(&self.path).context(|| "failed to verify file")?;
        self.file.sync_data()?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o644))?;
        let target = self.target.path();
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &target, flags) {
            Ok(()) => {}
            Err(Errno::EXIST) => bail!("refusing to override existing file '{}'", target.display()),
            // Some network file systems know no flags; the look before the download has to do there.
            Err(Errno::INVAL) => fs::rename(&self.path, &target)?,
            Err(error) => {
                return Err(error).context(|| format!("unable to rename temporary file to '{}'", target.display()));
            }
        }
        self.placed = true;
        Ok(())
    }
}

/// Removes what processes of this node have left behind that were killed.
fn remove_abandoned(target: &Target) {
    let prefix = target.hidden_prefix();
    for entry in fs::read_dir(&target.directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.split_once('-')?.0.parse().ok());
        let is_kept = name.to_str().is_some_and(|name| name.starts_with(KEPT));
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        let expired = is_kept && age.is_some_and(|age| age > KEPT_TIME);
        if expired || pid.is_some_and(|pid| ProcessId::of(pid).is_none()) {
            // Another process may be doing the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing more can be done about a file that cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn unique_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_harmless() {
        for (given, normal) in [
            ("debian-12.iso", "debian-12.iso"),
            ("/etc/../a b.iso", "a_b.iso"),
            ("C:\\isos\\win 11.iso", "win_11.iso"),
            ("../../x.iso\n", "x.iso"),
            ("früh+1.iso", "fr_h_1.iso"),
            ("a\0b.iso", "a_b.iso"),
            ("..", ".."),
        ] {
            assert_eq!(normalize_file_name(given), normal);
        }
    }

    #[test]
    fn targets_need_the_right_extension_and_an_allowed_content() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let target = |content, name: &str| Target::new(&ctx, "local", content, name);
        let iso = target(Content::Iso, "/x/a b.iso").unwrap();
        assert_eq!(iso.path(), directory.path().join("var/lib/vz/template/iso/a_b.iso"));
        for (content, name, text) in [
            (Content::Iso, "a.exe", "wrong file extension"),
            (Content::Iso, "..", "wrong file extension"),
            (Content::Iso, ".iso", "wrong file extension"),
            (Content::Vztmpl, "a.iso", "wrong file extension"),
            (Content::Import, "a.iso", "invalid filename or wrong extension"),
            (Content::Import, "a.ovf", "invalid filename or wrong extension"),
        ] {
            let error = target(content, name).unwrap_err();
            assert_eq!(error.parameter_errors().unwrap().get("filename"), Some(text), "{name}");
        }
        assert!(target(Content::Backup, "a.vma").unwrap_err().parameter_errors().is_some());
        assert!(target(Content::Snippets, ".hidden").unwrap_err().parameter_errors().is_some());
        assert!(target(Content::Snippets, "a.yaml").is_ok());
        fs::create_dir_all(directory.path().join("etc/pve")).unwrap();
        fs::write(directory.path().join("etc/pve/storage.cfg"), "dir: local\n\tpath /x\n\tcontent iso\n").unwrap();
        let error = target(Content::Vztmpl, "a.tar.zst").unwrap_err();
        assert_eq!(error.message(), "storage 'local' does not support 'vztmpl' content");
    }

    #[test]
    fn checksums_are_compared_without_case() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs::write(&path, b"abc").unwrap();
        let mut lines = Vec::new();
        for (algorithm, sum) in [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "A9993E364706816ABA3E25717850C26C9CD0D89D"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            let checksum = Checksum::new(algorithm.into(), sum.into());
            checksum.verify(&path, &mut |line| lines.push(line)).unwrap();
        }
        assert_eq!(lines, ["calculating checksum...OK, checksum verified"; 3]);
        let error = Checksum::new("md5".into(), "00".into()).verify(&path, &mut |_| {}).unwrap_err();
        assert_eq!(error.message(), "checksum mismatch: got '900150983cd24fb0d6963f7d28e17f72' != expect '00'");
    }

    #[test]
    fn files_that_reach_for_others_are_refused_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let put = |content, name: &str, bytes: &[u8]| {
            let target = Target::new(&ctx, "local", content, name).unwrap();
            let mut incoming = Incoming::create(&target)?;
            incoming.file.write_all(bytes)?;
            incoming.place()
        };
        put(Content::Iso, "good.iso", b"CD001").unwrap();
        put(Content::Import, "good.qcow2", &image::qcow2_bytes(1, "")).unwrap();
        let evil = image::qcow2_bytes(1, "/etc/shadow");
        for (content, name) in [(Content::Iso, "evil.iso"), (Content::Import, "evil.qcow2")] {
            let error = put(content, name, &evil).unwrap_err();
            assert_eq!(
                error.message(),
                format!("failed to verify file: backing file not allowed for untrusted image '{name}'!")
            );
        }
        assert!(put(Content::Import, "text.qcow2", b"text").is_err());
        assert!(put(Content::Import, "x.vmdk", b"# Disk DescriptorFile\nRW 10 FLAT \"/etc/shadow\" 0\n").is_err());
        let left = |path: &str| -> Vec<_> {
            let entries = fs::read_dir(directory.path().join("var/lib/vz").join(path)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(left("template/iso"), ["good.iso"]);
        assert_eq!(left("import"), ["good.qcow2"]);
    }
}
