//! The time, behind a type, so that tests can stand still.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// The system's real-time clock.
    #[default]
    System,
    /// Always the same second since the epoch; for tests.
    Fixed(i64),
}

impl Clock {
    /// Seconds since the epoch, UTC.
    pub fn now(self) -> i64 {
        match self {
            Clock::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs().cast_signed())
            }
            Clock::Fixed(seconds) => seconds,
        }
    }
}
