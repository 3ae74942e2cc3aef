//! Which failures of a model are tried again, or lead to the next one of its agent's chain, where the configuration says
//! so itself.
use crate::codes::Code;
use crate::event::Failure;

/// The statuses that tell of a failure: 400 to 599.
const STATUSES: core::ops::RangeInclusive<u16> = 400..=599;

/// Criteria for another attempt, or for the next model of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// A bit for each HTTP status from 400 on.
    pub(crate) statuses: [u64; 4],
    /// What has no status: nobody there, an error inside the answer, an answer that cannot be read.
    pub error: bool,
    /// One of the call's clocks ran out.
    pub timeout: bool,
    /// The answer broke off before its first token.
    pub truncated: bool,
}

impl Criteria {
    /// The same, and this status too.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        if STATUSES.contains(&status) {
            let at = usize::from(status - STATUSES.start());
            self.statuses[at / 64] |= 1 << (at % 64);
        }
        self
    }

    /// The same, and all statuses of a class: 4 or 5.
    #[must_use]
    pub fn with_class(self, class: u16) -> Self {
        (class * 100..class * 100 + 100).fold(self, Self::with_status)
    }

    /// Is it one of these failures?
    #[must_use]
    pub fn covers(&self, failure: &Failure<'_>) -> bool {
        if STATUSES.contains(&failure.status) {
            let at = usize::from(failure.status - STATUSES.start());
            return self.statuses[at / 64] & (1 << (at % 64)) != 0;
        }
        if failure.code == Code::UpstreamTimeout {
            self.timeout
        } else if failure.code == Code::UpstreamTruncated {
            self.truncated
        } else {
            self.error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Retry;

    fn failure(code: Code, status: u16) -> Failure<'static> {
        Failure { code, retry: Retry::Backoff, status, detail: "" }
    }

    #[test]
    fn a_status_counts_for_itself_and_all_else_for_its_kind() {
        let some = Criteria { timeout: true, ..Criteria::default() }.with_status(429).with_class(5);
        for (status, covered) in
            [(400, false), (428, false), (429, true), (430, false), (499, false), (500, true), (599, true)]
        {
            assert_eq!(some.covers(&failure(Code::UpstreamFailed, status)), covered, "{status}");
        }
        assert!(some.covers(&failure(Code::UpstreamTimeout, 0)));
        assert!(!some.covers(&failure(Code::UpstreamTruncated, 0)));
        assert!(!some.covers(&failure(Code::UpstreamMalformed, 0)));
        assert!(!some.covers(&failure(Code::UpstreamFailed, 302)), "what is no failure has no bit");
        let other = Criteria { error: true, truncated: true, ..Criteria::default() };
        assert!(other.covers(&failure(Code::UpstreamMalformed, 0)));
        assert!(other.covers(&failure(Code::UpstreamTruncated, 0)));
        assert!(!other.covers(&failure(Code::UpstreamTimeout, 504)));
        assert_eq!(Criteria::default().with_status(600).with_status(399), Criteria::default());
    }
}
