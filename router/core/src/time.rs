//! Time as an argument: the core never reads a clock.
use core::ops::Add;
use core::time::Duration;

/// A point on the shell's monotonic clock: nanoseconds since the process started.
///
/// The shell reads its clock once a turn of the loop and passes it in; it may stand still, it never goes back
/// (a step back is clamped by [`crate::shard::Shard`], so that a caller's mistake cannot revive a deadline).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The start of the process.
    pub const ZERO: Self = Self(0);
    /// Later than all others: what is due then never is.
    pub const NEVER: Self = Self(u64::MAX);

    /// The time this many milliseconds after the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Whole milliseconds since the start, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long after `earlier` this is; zero when it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, after: Duration) -> Self {
        let nanos =
            after.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(after.subsec_nanos()));
        Self(self.0.saturating_add(nanos))
    }
}
