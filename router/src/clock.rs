//! The two clocks of the process, read once a turn of a thread's loop. The only file that reads them.
use clawgate_core::time::Time;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock, from the start of the process, and its distance from Unix time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The same point for the driver's timers.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.start + at.since(Time::ZERO)
    }
}

/// Milliseconds since 1970. May step; used for what people read and for signatures only.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    unix_millis() / 1_000
}
