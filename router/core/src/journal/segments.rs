//! The files that a writer has: the one that is written, the one prepared to follow it, and those behind, oldest first.
//! It says which of them may go; it makes and removes none.
use alloc::collections::VecDeque;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Bytes that it takes on disk, its unused end included.
    pub(super) bytes: u64,
    /// It lay under another name before.
    pub(super) reused: bool,
    /// Where the next write goes.
    pub(super) offset: u64,
    /// The lsn of its first record.
    pub(super) first_lsn: u64,
    /// The last record that is known to be in it; below `first_lsn` if none is.
    pub(super) held_lsn: u64,
    /// The last record that was written.
    pub(super) wrote_lsn: u64,
    /// The last record that was tried.
    pub(super) tried_lsn: u64,
    /// Something failed with it: it is not used again.
    pub(super) is_spoilt: bool,
}

impl Segment {
    pub(super) const fn new(number: u64, bytes: u64, reused: bool) -> Self {
        Self {
            number,
            bytes,
            reused,
            offset: 0,
            first_lsn: 0,
            held_lsn: 0,
            wrote_lsn: 0,
            tried_lsn: 0,
            is_spoilt: false,
        }
    }

    const fn is_usual(&self, usual: u64) -> bool {
        self.bytes == usual && !self.is_spoilt
    }

    /// Holds it nothing that is needed, and that is not elsewhere too?
    const fn is_free(&self, released: u64, kept: u64) -> bool {
        let is_empty = self.held_lsn < self.first_lsn;
        (is_empty || self.held_lsn <= released) && self.tried_lsn <= kept
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments {
    /// Nothing is written to these any more. Oldest first.
    pub(super) closed: VecDeque<Segment>,
    pub(super) current: Option<Segment>,
    pub(super) next: Option<Segment>,
}

impl Segments {
    pub(super) fn all(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter().chain(&self.current).chain(&self.next)
    }

    /// Does another file that is no longer written have all that is in this one?
    fn is_covered(&self, segment: &Segment) -> bool {
        let covers = |other: &Segment| {
            other.number != segment.number
                && other.first_lsn <= segment.first_lsn
                && (segment.wrote_lsn, other.number) < (other.wrote_lsn, segment.number)
        };
        self.closed.iter().any(covers)
    }

    /// Nothing was ever in this file: it is to go.
    pub(super) fn give_up(&mut self, unused: Segment) {
        self.closed.push_back(Segment { first_lsn: 1, is_spoilt: true, ..unused });
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.all().map(|segment| segment.bytes).sum()
    }

    /// How many closed ones, from the oldest on, hold nothing above `released`, of what is safely `kept`.
    pub(super) fn free(&self, released: u64, kept: u64) -> usize {
        self.closed.iter().take_while(|segment| segment.is_free(released, kept)).count()
    }

    /// The file to remove: the oldest, if it is free and another one is; or one that was given up before anything in it
    /// was known to be safe, once all of it is safe elsewhere, or at least in another such file. One free file of `usual`
    /// size stays, if that is given, to be used again. Apart from those given up, older files go first: what is left is
    /// always the end of the journal, without a gap.
    pub(super) fn to_remove(&self, released: u64, kept: u64, usual: Option<u64>) -> Option<usize> {
        let keep =
            self.closed.front().is_some_and(|oldest| usual.is_some_and(|usual| oldest.is_usual(usual)));
        if usize::from(keep) < self.free(released, kept) {
            return Some(0);
        }
        let is_empty = |segment: &Segment| segment.held_lsn < segment.first_lsn;
        let may_go = |segment: &Segment| segment.tried_lsn <= kept || self.is_covered(segment);
        self.closed.iter().position(|segment| is_empty(segment) && may_go(segment))
    }

    /// The file to use again.
    pub(super) fn to_reuse(&self, released: u64, kept: u64, usual: u64) -> bool {
        self.closed.front().is_some_and(|oldest| oldest.is_usual(usual) && oldest.is_free(released, kept))
    }
}
