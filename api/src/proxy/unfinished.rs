//! The files of an upload that goes on later: the bytes so far, and beside them what is known of the whole.

use super::upload::{self, PIECE, Received, SILENCE};
use crate::wire::response;
use actix_web::{HttpResponse, web};
use bytes::{Bytes, BytesMut};
use engine::{Error, ResultExt};
use futures_util::StreamExt;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An upload that nobody goes on with for so long is given up.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// What is said of an upload that is not there.
const MISSING: &str = "no such upload";
/// What the name of the file beside the bytes ends with.
const BESIDE: &str = ".tus";

/// Status and text of a refusal.
#[derive(Debug)]
pub struct Refusal(pub u16, pub String);

impl Refusal {
    /// The response.
    pub fn answer(self) -> HttpResponse {
        response::plain(self.0, &self.1)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal(error.status(), error.message().to_owned())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Error::from(error).into()
    }
}

/// What is known of an upload.
#[derive(Debug, Serialize, Deserialize)]
pub struct Known {
    /// Who began it.
    pub user: String,
    /// The target of the call that it belongs to.
    pub target: String,
    /// Bytes of the whole file.
    pub length: u64,
    /// Parameters of the call.
    pub params: Map<String, Value>,
}

/// An upload that has begun.
pub struct Unfinished {
    /// What is known of it.
    pub known: Known,
    path: PathBuf,
    file: File,
}

impl Unfinished {
    /// Makes the files of a new upload and answers with its number. Others that were left alone go.
    pub fn begin(directory: &Path, known: &Known) -> Result<String, Refusal> {
        remove_old(directory);
        let text = serde_json::to_string(known).map_err(|error| Error::new(error.to_string()))?;
        let (received, _, number) = upload::create(directory)?;
        let beside = beside(&path(directory, &number));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written.context(|| beside.display().to_string()) {
            // What was made of it is of no use; the bytes go with `received`.
            let _ = fs::remove_file(&beside);
            return Err(error.into());
        }
        received.leave();
        Ok(number)
    }

    /// Opens an upload of a user for a call.
    ///
    /// # Errors
    /// 404 when there is none, also when it is somebody else's.
    pub fn open(directory: &Path, number: &str, user: &str, target: &str) -> Result<Self, Refusal> {
        let missing = || Refusal(404, MISSING.into());
        let path = path(directory, number);
        let file = open_own(&path, OFlags::RDWR).ok_or_else(missing)?;
        let mut text = String::new();
        open_own(&beside(&path), OFlags::RDONLY).ok_or_else(missing)?.read_to_string(&mut text)?;
        let known: Known = serde_json::from_str(&text).map_err(|_| missing())?;
        if (known.user.as_str(), known.target.as_str()) != (user, target) {
            return Err(missing());
        }
        Ok(Unfinished { known, path, file })
    }

    /// Keeps other requests from changing it.
    ///
    /// # Errors
    /// 423 when another one does so; 404 when it has just ended.
    pub fn claim(self) -> Result<Self, Refusal> {
        rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Refusal(423, "another request goes on with this upload".into()))?;
        if beside(&self.path).exists() { Ok(self) } else { Err(Refusal(404, MISSING.into())) }
    }

    /// Bytes that are here.
    pub fn received(&self) -> Result<u64, Refusal> {
        Ok(self.file.metadata()?.len())
    }

    /// Takes the next `length` bytes, which begin at `offset`, and answers how many are here then. What has come is kept when
    /// the connection breaks.
    pub async fn take(&mut self, offset: u64, length: u64, mut payload: web::Payload) -> Result<u64, Refusal> {
        let here = self.received()?;
        if offset != here {
            return Err(Refusal(409, format!("the next byte is {here}, not {offset}")));
        }
        if length > self.known.length - here {
            return Err(Refusal(413, format!("the file has {} bytes", self.known.length)));
        }
        self.file.seek(SeekFrom::Start(here))?;
        let (mut gathered, mut rest) = (BytesMut::new(), length);
        while rest > 0 {
            let piece = tokio::time::timeout(SILENCE, payload.next()).await;
            let Ok(Some(Ok(piece))) = piece else {
                self.write(gathered.freeze()).await?;
                return Err(Refusal(400, "upload interrupted".into()));
            };
            gathered.extend_from_slice(&piece);
            rest = rest.saturating_sub(piece.len() as u64);
            if gathered.len() >= PIECE {
                self.write(gathered.split().freeze()).await?;
            }
        }
        self.write(gathered.freeze()).await?;
        self.received()
    }

    /// Writes on another thread; a full or slow disk must not hold this one.
    async fn write(&mut self, data: Bytes) -> Result<(), Refusal> {
        let mut file = self.file.try_clone()?;
        let written = tokio::task::spawn_blocking(move || file.write_all(&data)).await;
        let written = written.map_err(|error| Error::new(error.to_string()))?;
        Ok(written.context(|| "write to temporary file failed")?)
    }

    /// Everything is here: the file, and the parameters of the call that gets it.
    pub fn finish(self) -> (Received, Map<String, Value>) {
        let mut params = self.known.params;
        let number = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        params.insert("tmpfilename".into(), Value::String(format!("/var/tmp/{number}")));
        // Without it nobody goes on with the upload; what is left of it is removed with the old ones.
        let _ = fs::remove_file(beside(&self.path));
        (Received::at(self.path), params)
    }

    /// Removes it.
    pub fn forget(self) {
        remove(&self.path);
    }
}

fn path(directory: &Path, number: &str) -> PathBuf {
    directory.join(format!("pveupload-{number}"))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BESIDE);
    name.into()
}

/// A plain file that this user made: everybody may put files and links into `/var/tmp`.
fn open_own(path: &Path, access: OFlags) -> Option<File> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw()).then_some(file)
}

/// What cannot be removed is tried again with the next upload.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(beside(path));
}

/// Removes uploads that were left alone.
fn remove_old(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(bytes) = name.strip_suffix(BESIDE).filter(|name| name.starts_with("pveupload-")) else { continue };
        let path = entry.path().with_file_name(bytes);
        let Some(file) = open_own(&path, OFlags::RDONLY) else {
            remove(&path);
            continue;
        };
        let age = file.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > KEPT)
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;
    use std::time::SystemTime;

    fn known(user: &str) -> Known {
        Known { user: user.into(), target: "/upload".into(), length: 10, params: Map::new() }
    }

    #[test]
    fn only_its_user_sees_it_and_one_request_at_a_time_changes_it() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let number = Unfinished::begin(place, &known("a@pve")).unwrap();
        let status = |user: &str, target: &str| Unfinished::open(place, &number, user, target).err().map(|no| no.0);
        assert_eq!(status("b@pve", "/upload"), Some(404));
        assert_eq!(status("a@pve", "/other"), Some(404));
        let open = || Unfinished::open(place, &number, "a@pve", "/upload").unwrap_or_else(|no| panic!("{no:?}"));
        let claimed = open().claim().unwrap_or_else(|no| panic!("{no:?}"));
        assert_eq!(open().claim().err().map(|no| no.0), Some(423));
        assert_eq!(open().received().ok(), Some(0));
        claimed.forget();
        assert_eq!(status("a@pve", "/upload"), Some(404));
        assert_eq!(fs::read_dir(place).unwrap().count(), 0);
    }

    #[test]
    fn what_is_left_alone_goes_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let old = Unfinished::begin(place, &known("a@pve")).unwrap();
        let time = FileTimes::new().set_modified(SystemTime::now() - 2 * KEPT);
        OpenOptions::new().write(true).open(path(place, &old)).unwrap().set_times(time).unwrap();
        let new = Unfinished::begin(place, &known("a@pve")).unwrap();
        assert!(!path(place, &old).exists() && !beside(&path(place, &old)).exists());
        fs::rename(path(place, &new), place.join("real")).unwrap();
        std::os::unix::fs::symlink(place.join("real"), path(place, &new)).unwrap();
        assert_eq!(Unfinished::open(place, &new, "a@pve", "/upload").err().map(|no| no.0), Some(404));
    }
}
