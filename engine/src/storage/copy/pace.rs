//! How fast a copy goes and what its log says.

use crate::Result;
use crate::task::abort;
use crate::types::scaled;
use std::time::{Duration, Instant};

/// Longest time without a look at whether the task is to stop.
const NAP: Duration = Duration::from_millis(100);

/// Keeps a copy below a limit.
pub struct Pace {
    limit: Option<u64>,
    start: Instant,
    done: u64,
}

impl Pace {
    /// At most `limit` bytes per second from now on.
    pub fn new(limit: Option<u64>) -> Self {
        Pace { limit: limit.filter(|limit| *limit > 0), start: Instant::now(), done: 0 }
    }

    /// Whether there is no limit.
    pub fn is_free(&self) -> bool {
        self.limit.is_none()
    }

    /// Counts what has been moved, waits if that was too fast, and fails when the task is to stop.
    pub fn moved(&mut self, bytes: u64) -> Result<()> {
        abort::check()?;
        let Some(limit) = self.limit else { return Ok(()) };
        self.done += bytes;
        let due = Duration::from_secs_f64(self.done as f64 / limit as f64);
        while let Some(early) = due.checked_sub(self.start.elapsed()).filter(|early| !early.is_zero()) {
            std::thread::sleep(early.min(NAP));
            abort::check()?;
        }
        Ok(())
    }
}

/// Tells the log each per cent in PVE's words. (PVE: qemu-server PVE/QemuServer/QemuImage.pm)
pub struct Progress<'a> {
    total: u64,
    done: u64,
    told: Option<u64>,
    line: &'a mut dyn FnMut(&str),
}

impl<'a> Progress<'a> {
    /// A copy of `total` bytes.
    pub fn new(total: u64, line: &'a mut dyn FnMut(&str)) -> Self {
        Progress { total, done: 0, told: None, line }
    }

    /// So many bytes more are done.
    pub fn add(&mut self, bytes: u64) {
        self.done = (self.done + bytes).min(self.total);
        self.set_done(self.done);
    }

    /// So many bytes are done in all.
    pub fn set_done(&mut self, done: u64) {
        let percent = if self.total == 0 { 100.0 } else { done as f64 * 100.0 / self.total as f64 };
        self.tell(percent, done);
    }

    /// So much is done, in per cent as QEMU says it.
    pub fn set_percent(&mut self, percent: f64) {
        let percent = percent.clamp(0.0, 100.0);
        self.tell(percent, (self.total as f64 * percent / 100.0) as u64);
    }

    /// Everything is done.
    pub fn finish(&mut self) {
        self.set_done(self.total);
    }

    fn tell(&mut self, percent: f64, done: u64) {
        let whole = percent as u64;
        if self.told.is_some_and(|told| told >= whole) {
            return;
        }
        self.told = Some(whole);
        let (done, total) = (render(done), render(self.total));
        (self.line)(&format!("transferred {done} of {total} ({percent:.2}%)"));
    }
}

/// Bytes with one digit after the point. (PVE: pve-common PVE/Format.pm, render_bytes)
pub fn render(bytes: u64) -> String {
    let (number, unit) = scaled(bytes as f64);
    format!("{number:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_per_cent_is_told_once() {
        let mut lines = Vec::new();
        let mut line = |text: &str| lines.push(text.to_owned());
        let mut progress = Progress::new(10 << 30, &mut line);
        progress.set_done(0);
        progress.add(1 << 20);
        progress.add(512 << 20);
        progress.set_percent(5.4);
        progress.finish();
        progress.finish();
        assert_eq!(
            lines,
            [
                "transferred 0.0 B of 10.0 GiB (0.00%)",
                "transferred 513.0 MiB of 10.0 GiB (5.01%)",
                "transferred 10.0 GiB of 10.0 GiB (100.00%)",
            ]
        );
    }

    #[test]
    fn a_limit_slows_down() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1 << 20));
        pace.moved(100 << 10).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(90));
        Pace::new(None).moved(u64::MAX).unwrap();
    }
}
