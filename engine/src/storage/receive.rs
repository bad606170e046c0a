//! The bytes of a download: asked for again from where they ended when the connection breaks, and kept for the next try
//! when it does not come back.
//!
//! Bytes are only continued for the same file: the server must have named its state (`ETag`, `Last-Modified`), and is asked
//! for the rest of that state only (`If-Range`).

use super::transfer::{Incoming, copy};
use crate::task::abort;
use crate::{Error, Result, Task, bail};
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// How often the log tells how far a download is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How often a broken connection is made anew.
const TRIES: u32 = 5;

/// How long a server gets to recover, times the number of the try.
const PAUSE: Duration = Duration::from_secs(1);

/// A download on its way.
struct Receiving<'a> {
    agent: &'a Agent,
    url: &'a str,
    task: &'a Task<'a>,
    /// The state of the file as the server names it.
    state: Option<String>,
    /// Bytes that are here.
    done: u64,
}

/// Why an attempt ended early.
enum Broken {
    /// The connection; the rest may come with another one.
    Connection(Error),
    /// Something that another attempt does not help.
    Other(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Other(error)
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Broken::Other(error.into())
    }
}

/// Fetches a URL into a hidden file.
pub fn receive(agent: &Agent, url: &str, task: &Task, incoming: &mut Incoming) -> Result<()> {
    let mut receiving = Receiving { agent, url, task, state: None, done: 0 };
    for attempt in 1..=TRIES {
        let error = match receiving.attempt(incoming) {
            Ok(()) => return Ok(()),
            Err(Broken::Other(error)) => return Err(error),
            Err(Broken::Connection(error)) => error,
        };
        let Some(state) = &receiving.state else { return Err(error) };
        if attempt == TRIES {
            incoming.keep(&key(url, state))?;
            return Err(error);
        }
        task.log(format!("{error}; trying again"));
        receiving.done = incoming.file.seek(SeekFrom::End(0))?;
        pause(PAUSE * attempt)?;
    }
    bail!("download failed")
}

impl Receiving<'_> {
    /// One connection, or two if an earlier download can be continued.
    fn attempt(&mut self, incoming: &mut Incoming) -> Result<(), Broken> {
        let mut answer = self.ask()?;
        if answer.status() == StatusCode::OK && self.done > 0 {
            // The file is another one by now.
            (self.done, self.state) = (0, None);
            incoming.file.set_len(0)?;
            incoming.file.rewind()?;
        }
        if self.state.is_none() {
            self.state = validator(&answer);
            if let Some(state) = &self.state
                && incoming.adopt(&key(self.url, state))?
            {
                self.done = incoming.file.seek(SeekFrom::End(0))?;
                self.task.log(format!("continuing after {} MiB of an earlier download", self.done >> 20));
                answer = self.ask()?;
                if answer.status() == StatusCode::OK {
                    self.done = 0;
                    incoming.file.set_len(0)?;
                    incoming.file.rewind()?;
                }
            }
        }
        let length = answer.body().content_length().map(|rest| rest + self.done);
        let from = answer.into_body().into_reader();
        let mut from = Progress { from, task: self.task, done: self.done, length, told: Instant::now(), broken: false };
        let moved = copy(&mut from, &mut incoming.file);
        match (moved, length) {
            (Err(error), _) if from.broken => Err(Broken::Connection(error)),
            (Err(error), _) => Err(Broken::Other(error)),
            (Ok(_), Some(length)) if length != from.done => {
                let text = format!("connection closed after {} of {length} bytes", from.done);
                Err(Broken::Connection(Error::new(text)))
            }
            (Ok(_), _) => Ok(()),
        }
    }

    /// The file, or the rest of it.
    fn ask(&self) -> Result<Response<Body>, Broken> {
        let mut request = self.agent.get(self.url);
        if let Some(state) = self.state.as_ref().filter(|_| self.done > 0) {
            request = request.header("Range", format!("bytes={}-", self.done)).header("If-Range", state);
        }
        let answer = request.call().map_err(|error| Broken::Connection(Error::new(error.to_string())))?;
        let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::PARTIAL_CONTENT if range.starts_with(&format!("bytes {}-", self.done)) => Ok(answer),
            status => {
                let status = super::download::status_line(status);
                Err(Broken::Other(Error::new(format!("server answers '{status}'"))))
            }
        }
    }
}

/// What tells a state of the file from every other one.
fn validator(answer: &Response<Body>) -> Option<String> {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    header("etag").filter(|tag| !tag.starts_with("W/")).or_else(|| header("last-modified"))
}

/// The name under which the bytes of a state are kept; URLs may hold secrets.
fn key(url: &str, state: &str) -> String {
    let digest = openssl::sha::sha256(format!("{url}\n{state}").as_bytes());
    crate::types::hex(&digest[..16])
}

fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        abort::check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Tells the log from time to time how far it is, and remembers whether reading failed.
struct Progress<'a, R> {
    from: R,
    task: &'a Task<'a>,
    done: u64,
    length: Option<u64>,
    told: Instant,
    broken: bool,
}

impl<R: Read> Read for Progress<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer).inspect_err(|error| {
            self.broken = error.kind() != std::io::ErrorKind::Interrupted;
        })?;
        self.done += count as u64;
        if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            let percent = self.length.filter(|length| *length > 0).map(|length| self.done * 100 / length);
            let percent = percent.map(|percent| format!(" ({percent}%)")).unwrap_or_default();
            self.task.log(format!("{} MiB{percent}", self.done >> 20));
        }
        Ok(count)
    }
}
