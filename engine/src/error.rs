//! The one error of the engine, with the class that decides its status.
//!
//! The text is PVE's wherever clients match on it. It may have several lines; the first becomes the HTTP reason phrase.
//! Constructors are free functions of the variants' meaning; context is put in front with [`ResultExt::context`].

use contract::ParamErrors;
use std::fmt;

/// Result of the engine's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and whose fault it is.
#[derive(Debug)]
pub enum Error {
    /// 400: parameters that the contract or a handler refuses, by property path.
    Parameters(ParamErrors),
    /// 400: the request itself makes no sense.
    BadRequest(String),
    /// 401: nobody, or somebody we do not believe.
    Unauthorized(String),
    /// 403: somebody without the right; the text says path and privilege.
    Forbidden(String),
    /// 424: what the method needs is not there, such as a cluster.
    MissingDependency(String),
    /// 501: a method that does not exist or is not built yet.
    NotImplemented(String),
    /// 595 and its kin: another node or daemon cannot be reached.
    Unreachable(u16, String),
    /// 500: everything else, also "does not exist" (PVE has no 404).
    Failed(String),
}

impl Error {
    /// A plain failure (500).
    pub fn new(text: impl Into<String>) -> Self {
        Error::Failed(text.into())
    }

    /// One refused parameter (400).
    pub fn parameter(path: &str, text: impl Into<String>) -> Self {
        let mut errors = ParamErrors::default();
        errors.add(path, text);
        Error::Parameters(errors)
    }

    /// The HTTP status of the answer. (PVE: pve-common PVE/Exception.pm, pve-manager PVE/HTTPServer.pm)
    pub fn status(&self) -> u16 {
        match self {
            Error::Parameters(_) | Error::BadRequest(_) => 400,
            Error::Unauthorized(_) => 401,
            Error::Forbidden(_) => 403,
            Error::MissingDependency(_) => 424,
            Error::NotImplemented(_) => 501,
            Error::Unreachable(status, _) => *status,
            Error::Failed(_) => 500,
        }
    }

    /// The whole message, without a trailing line break.
    pub fn message(&self) -> &str {
        match self {
            Error::Parameters(_) => "Parameter verification failed.",
            Error::BadRequest(text)
            | Error::Unauthorized(text)
            | Error::Forbidden(text)
            | Error::MissingDependency(text)
            | Error::NotImplemented(text)
            | Error::Unreachable(_, text)
            | Error::Failed(text) => text.trim_end_matches('\n'),
        }
    }

    /// Refused parameters, when there are any.
    pub fn parameter_errors(&self) -> Option<&ParamErrors> {
        match self {
            Error::Parameters(errors) => Some(errors),
            _ => None,
        }
    }

    /// The same error with `context: ` in front of its text; parameter errors stay as they are.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        let with = |text: String| format!("{context}: {text}");
        match self {
            Error::Parameters(errors) => Error::Parameters(errors),
            Error::BadRequest(text) => Error::BadRequest(with(text)),
            Error::Unauthorized(text) => Error::Unauthorized(with(text)),
            Error::Forbidden(text) => Error::Forbidden(with(text)),
            Error::MissingDependency(text) => Error::MissingDependency(with(text)),
            Error::NotImplemented(text) => Error::NotImplemented(with(text)),
            Error::Unreachable(status, text) => Error::Unreachable(status, with(text)),
            Error::Failed(text) => Error::Failed(with(text)),
        }
    }

    /// Joins what went wrong with what went wrong while cleaning up after it.
    #[must_use]
    pub fn with_cleanup_failures(self, failures: &[Error]) -> Self {
        if failures.is_empty() {
            return self;
        }
        let rest: Vec<&str> = failures.iter().map(Error::message).collect();
        let text = format!("{} (clean-up failed as well: {})", self.message(), rest.join("; "));
        match self {
            Error::Forbidden(_) => Error::Forbidden(text),
            Error::BadRequest(_) => Error::BadRequest(text),
            _ => Error::Failed(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())?;
        if let Error::Parameters(errors) = self {
            write!(f, "\n{errors}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Failed(io_text(&error))
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        std::io::Error::from(error).into()
    }
}

impl From<ParamErrors> for Error {
    fn from(errors: ParamErrors) -> Self {
        Error::Parameters(errors)
    }
}

/// The system's text of an I/O error without Rust's ` (os error N)`.
fn io_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Puts context in front of any error that can become ours.
pub trait ResultExt<T> {
    /// `context: ` in front of the error's text. The closure runs only on failure.
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.into().context(context()))
    }
}

/// Returns a plain failure (500) with a formatted text.
#[macro_export]
macro_rules! bail {
    ($($argument:tt)*) => { return Err($crate::Error::new(format!($($argument)*))) };
}
