//! Images from one format to another, by `qemu-img`.

use super::copy::pace::Progress;
use super::volume::Format;
use crate::{Result, command, error::ResultExt};
use serde_json::json;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One run of `qemu-img convert` into an existing target.
#[derive(Debug, Clone)]
pub struct Conversion<'a> {
    /// The image to read.
    pub source: Input<'a>,
    /// The snapshot in it to read.
    pub snapshot: Option<&'a str>,
    /// The existing image or device to write.
    pub target: &'a Path,
    /// Its format.
    pub target_format: Format,
    /// It reads as zeros.
    pub target_is_zero: bool,
    /// Bytes per second at most.
    pub limit: Option<u64>,
}

/// What `qemu-img` reads.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// A file or device, and QEMU's name of its format.
    File(&'a Path, &'a str),
    /// An image of a format within a file, from a byte on.
    Part {
        /// The file.
        path: &'a Path,
        /// QEMU's name of the format.
        format: &'a str,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The bytes of a disk on a web server.
    Remote(&'a RemoteDisk),
}

/// A disk that a web server has as it is.
#[derive(Debug)]
pub struct RemoteDisk {
    /// Its address, by https.
    pub url: String,
    /// Who asks.
    pub user: String,
    /// Their password, in a file of this process.
    pub password: TemporaryRaw,
    /// Whether the server's certificate must be good.
    pub is_verified: bool,
    /// Bytes.
    pub size: u64,
}

impl Input<'_> {
    /// The arguments that name it.
    pub fn arguments(&self) -> Vec<OsString> {
        match self {
            Input::File(path, format) => vec!["-f".into(), format.into(), path.into()],
            Input::Part { path, format, offset, length } => {
                let file = json!({ "driver": "file", "filename": path.to_string_lossy(), "locking": "off" });
                let part = json!({ "driver": "raw", "offset": offset, "size": length, "file": file });
                vec![format!("json:{}", json!({ "driver": format, "read-only": true, "file": part })).into()]
            }
            Input::Remote(disk) => {
                let file = json!({
                    "driver": "https", "url": disk.url, "username": disk.user, "password-secret": "password",
                    "sslverify": disk.is_verified, "timeout": 60,
                });
                let secret = format!("secret,id=password,file={}", disk.password.path().display());
                let disk = json!({ "driver": "raw", "size": disk.size, "read-only": true, "file": file });
                vec!["--object".into(), secret.into(), format!("json:{disk}").into()]
            }
        }
    }
}

impl Conversion<'_> {
    /// The arguments of `qemu-img`.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["convert", "-p", "-n", "-O"].map(Into::into).into();
        arguments.push(self.target_format.name().into());
        if self.target_is_zero {
            arguments.push("--target-is-zero".into());
        }
        if let Some(limit) = self.limit {
            arguments.extend(["-r".into(), limit.to_string().into()]);
        }
        if let Some(snapshot) = self.snapshot {
            arguments.extend(["-l".into(), format!("snapshot.name={snapshot}").into()]);
        }
        arguments.extend(self.source.arguments());
        arguments.push(self.target.into());
        arguments
    }
}

/// Runs a conversion and waits until the target is on disk.
pub fn run(conversion: &Conversion, progress: &mut Progress) -> Result<()> {
    command::run_lines("qemu-img", &conversion.arguments(), |_, line| {
        if let Some(percent) = percent(line) {
            progress.set_percent(percent);
        }
    })
    .context(|| "copy failed")?;
    if let Ok(file) = File::options().write(true).open(conversion.target) {
        file.sync_data()?;
    }
    progress.finish();
    Ok(())
}

/// `    (12.34/100%)` as `qemu-img -p` prints it.
fn percent(line: &str) -> Option<f64> {
    line.trim().strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()
}

/// An image's disk in a file without a name, beside the image; or a text that only this process's tools are to read.
#[derive(Debug)]
pub struct TemporaryRaw {
    file: File,
}

impl TemporaryRaw {
    /// A file that may have no name.
    pub fn of(file: File) -> Self {
        TemporaryRaw { file }
    }

    /// A file in memory with a text, for secrets.
    pub fn in_memory(text: &str) -> Result<Self> {
        use std::io::Write;
        let mut file = File::from(rustix::fs::memfd_create("secret", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(TemporaryRaw { file })
    }

    /// A path under which this process's file can be opened.
    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }
}

/// Converts an image into a nameless sparse file: `qemu-img` cannot write to a pipe.
pub fn to_temporary_raw(image: &Path, format: Format) -> Result<TemporaryRaw> {
    let directory = image.parent().unwrap_or(Path::new("/"));
    let file = tempfile::tempfile_in(directory).context(|| format!("unable to write to '{}'", directory.display()))?;
    file.set_len(super::image::read(image)?.size)?;
    let plain = TemporaryRaw { file };
    let conversion = Conversion {
        source: Input::File(image, format.name()),
        snapshot: None,
        target: &plain.path(),
        target_format: Format::Raw,
        target_is_zero: true,
        limit: None,
    };
    run(&conversion, &mut Progress::new(0, &mut |_| {}))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_formats_snapshot_and_limit() {
        let mut conversion = Conversion {
            source: Input::File(Path::new("/a.qcow2"), "qcow2"),
            snapshot: Some("before"),
            target: Path::new("/dev/vg/vm-100-disk-0"),
            target_format: Format::Raw,
            target_is_zero: false,
            limit: Some(1024),
        };
        let text = |conversion: &Conversion| conversion.arguments().join(" ".as_ref()).into_string().unwrap();
        let expected = "convert -p -n -O raw -r 1024 -l snapshot.name=before -f qcow2 /a.qcow2 /dev/vg/vm-100-disk-0";
        assert_eq!(text(&conversion), expected);
        (conversion.snapshot, conversion.limit, conversion.target_is_zero) = (None, None, true);
        let expected = "convert -p -n -O raw --target-is-zero -f qcow2 /a.qcow2 /dev/vg/vm-100-disk-0";
        assert_eq!(text(&conversion), expected);
    }

    #[test]
    fn progress_lines_are_read() {
        assert_eq!(percent("    (12.34/100%)"), Some(12.34));
        assert_eq!(percent("(100.00/100%)"), Some(100.0));
        assert_eq!(percent("warning: x"), None);
    }
}
