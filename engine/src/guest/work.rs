//! Notes of work under way on a guest, by which the next call settles what a killed process has left half-done.
//!
//! ```text
//! begin: note what is there ── work ── note removed            killed: the note stays, its process does not
//!                                                               └── the next call that touches guests or storages settles
//! ```
//! A note is made under the guest's queue lock, so one of a dead process is nobody's any more. What notes say, and how work
//! is settled, is each kind of guest's own.

use crate::process::ProcessId;
use crate::{Context, Result, Task, Vmid, error::ResultExt, file, lock};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Settles the work that a note tells of, for the holder of the guest's lock; says what it does.
pub type Settle = fn(&Context, Vmid, &Value, &mut dyn FnMut(&str)) -> Result<()>;

/// The notes of one kind of guest.
pub struct Notes {
    /// What a guest is called in messages: `VM` or `CT`.
    pub label: &'static str,
    /// Where the notes lie, below the node's root.
    pub place: &'static str,
    /// How work is settled.
    pub settle: Settle,
}

/// The note of work under way. It goes when this is dropped: a process that lives takes back by itself.
pub struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        // One that stays is taken for that of a dead process and finds nothing to settle.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Notes {
    /// Notes what is about to be done, an object; the caller holds the guest's lock.
    pub fn begin(&self, ctx: &Context, vmid: Vmid, mut note: Value) -> Result<Work> {
        let process = ProcessId::current();
        note["process"] = json!({"pid": process.pid, "start": process.start});
        let path = self.path(ctx, vmid);
        let directory = path.parent().expect("a note lies in a directory");
        std::fs::create_dir_all(directory).context(|| format!("unable to create '{}'", directory.display()))?;
        file::replace_volatile(&path, note.to_string().as_bytes(), 0o600)?;
        Ok(Work(path))
    }

    /// Waits for a guest's lock; what the last holder may have left undone is settled first.
    pub fn lock(&self, task: &Task, vmid: Vmid) -> Result<lock::QueueLock> {
        let lock = task.lock(&lock::guest(vmid))?;
        self.recover(task.ctx, vmid, &mut |line| task.log(line))?;
        Ok(lock)
    }

    /// Settles what dead processes have left of all guests, so that no handler meets what is nobody's any more. There is
    /// rarely a note to read. Failures are for the log: the caller wants something else.
    pub fn before(&self, ctx: &Context) {
        for vmid in self.guests(ctx) {
            let Ok(Some(note)) = self.read(ctx, vmid) else { continue };
            let number = |key: &str| note["process"][key].as_u64().unwrap_or(0);
            let process = ProcessId { pid: u32::try_from(number("pid")).unwrap_or(0), start: number("start") };
            if process.is_alive() {
                continue;
            }
            let mut say = |line: &str| eprintln!("{} {vmid}: {line}", self.label);
            let lock = lock::acquire(ctx, &lock::guest(vmid), "recovery", |_| {});
            if let Err(error) = lock.and_then(|_lock| self.recover(ctx, vmid, &mut say)) {
                say(&format!("unfinished work could not be settled: {error}"));
            }
        }
    }

    /// Settles what is noted of a guest, for the holder of its lock.
    pub fn recover(&self, ctx: &Context, vmid: Vmid, log: &mut dyn FnMut(&str)) -> Result<()> {
        let Some(note) = self.read(ctx, vmid)? else { return Ok(()) };
        (self.settle)(ctx, vmid, &note, log)?;
        drop(Work(self.path(ctx, vmid)));
        Ok(())
    }

    /// The file of a guest's note.
    pub fn path(&self, ctx: &Context, vmid: Vmid) -> PathBuf {
        ctx.root.path(self.place).join(vmid.to_string())
    }

    /// Guests with notes.
    pub fn guests(&self, ctx: &Context) -> Vec<Vmid> {
        let entries = std::fs::read_dir(ctx.root.path(self.place)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    fn read(&self, ctx: &Context, vmid: Vmid) -> Result<Option<Value>> {
        let path = self.path(ctx, vmid);
        if !path.exists() {
            return Ok(None);
        }
        // One that cannot be read names nothing that could be settled.
        Ok(Some(serde_json::from_str(&file::read_or_empty(&path)?).unwrap_or_default()))
    }
}

/// The texts of a list in a note.
pub fn texts(note: &Value, key: &str) -> Vec<String> {
    note[key].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
