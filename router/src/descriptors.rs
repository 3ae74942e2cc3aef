//! Descriptors: how many this process may have open, and who leaves the last of them to whom.
//!
//! A journal that cannot make its next file acknowledges nothing, and a store that cannot open a connection saves nothing.
//! So clients stop first, then connections to models and platforms, and the last descriptors are those of the journal and
//! the store. Nothing is counted for that: the kernel gives the lowest number that is free, so the number of a socket says
//! how many others are open.
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the journal and the store may open at once: files that are made, read and removed, and connections that are
/// opened anew.
const KEEPING: u64 = 16;
/// The same for each shard: the file that is written, the one that follows, and those that are given away.
const KEEPING_A_SHARD: u64 = 4;

/// Who may have which numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// As many as may be open.
    limit: u64,
    /// The most of them that are ever left to others than clients: half of what the start left.
    reserve_max: u64,
    /// What is the journal's and the store's.
    keeping: u64,
}

/// Raises our bound to what the system allows, and tells it.
pub(crate) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A system that does not raise it leaves it as it is, which is as good a bound.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let raised = getrlimit(Resource::Nofile).current;
    raised.or(current).unwrap_or(u64::MAX)
}

impl Descriptors {
    /// Shares what this bound leaves beside what is open already.
    pub(crate) fn new(limit: u64, open: u64, shards: u16) -> Self {
        let reserve_max = limit.saturating_sub(open) / 2;
        let keeping = (KEEPING + KEEPING_A_SHARD * u64::from(shards)).min(reserve_max / 2);
        Self { limit, reserve_max, keeping }
    }

    /// As many as may be open.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    /// What clients leave to others, where so many are asked for: at least what the journal and the store need, at most
    /// half of what there was at the start.
    pub(crate) fn reserve(&self, reserved: u32) -> u64 {
        u64::from(reserved).max(self.keeping).min(self.reserve_max)
    }

    /// May a client's connection have this one?
    pub(crate) fn is_for_client(&self, socket: impl AsFd, reserved: u32) -> bool {
        self.is_below(socket.as_fd().as_raw_fd(), self.reserve(reserved))
    }

    /// May a connection to a model or platform have the next one? `any` is a descriptor of ours.
    pub(crate) fn has_upstream(&self, any: impl AsFd) -> bool {
        next(any).is_ok_and(|next| self.is_below(next, self.keeping))
    }

    fn is_below(&self, number: RawFd, left: u64) -> bool {
        u64::try_from(number).is_ok_and(|number| number < self.limit - left)
    }
}

/// The number that the next descriptor gets: so many are open. `any` is a descriptor of ours.
///
/// # Errors
/// There is none.
pub(crate) fn next(any: impl AsFd) -> io::Result<RawFd> {
    // A copy takes it for a moment.
    Ok(rustix::io::fcntl_dupfd_cloexec(any, 0)?.as_raw_fd())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clients_leave_what_is_asked_for_and_upstreams_what_the_journal_needs() {
        let all = Descriptors::new(20_000, 40, 2);
        assert_eq!((all.reserve(512), all.reserve(0), all.reserve(u32::MAX)), (512, 24, 9_980));
        for (number, client, upstream) in
            [(3, true, true), (19_487, true, true), (19_488, false, true), (19_976, false, false)]
        {
            assert_eq!(all.is_below(number, all.reserve(512)), client, "{number}");
            assert_eq!(all.is_below(number, all.keeping), upstream, "{number}");
        }
        assert!(!all.is_below(-1, 0));
    }

    #[test]
    fn of_few_everybody_gets_some() {
        let few = Descriptors::new(64, 36, 2);
        assert_eq!((few.reserve(512), few.keeping), (14, 7));
        let none = Descriptors::new(64, 80, 2);
        assert_eq!((none.reserve(512), none.keeping), (0, 0), "the kernel refuses the next one itself");
    }

    #[test]
    fn the_next_number_is_the_lowest_that_is_free() {
        let file = std::fs::File::open("/").unwrap();
        let number = next(&file).unwrap();
        assert!(0 <= number && number != file.as_raw_fd());
    }
}
