//! Segments read again: bytes in, records out, and a word on everything that could not be read. Nothing is returned
//! whose checksum does not hold, and nothing twice. It holds one record and one chunk in memory, and never a file.
//!
//! A [`Chain`] knows the segments of one lineage and shard, in order; it gives a [`Reader`] for each.
//!
//! # What is damage, and what is not
//! Behind the last record of the last segment, anything may stand: what was being written when the power went is torn,
//! and nobody was told that it was durable. A record that cannot be read *before* one that can be is reported as lost,
//! and *proven* to have been on disk once if a record behind it says so, or another segment was begun behind it.
//!
//! Where a write or a sync failed, the same records stand in the next segment again. They are read where they are read
//! first; what is missing in the first place, from the lsn on with which a later segment begins, is left to that one.
use super::format::{HEADER_BYTES, Head, Header};
use alloc::vec::Vec;

/// Bytes that a reader asks for at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Records that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first of them.
    pub first_lsn: u64,
    /// The last of them.
    pub last_lsn: u64,
    /// Where in the file the first should be.
    pub offset: u64,
    /// They were on disk when what follows was written: this is damage. Otherwise they may never have been, and nobody
    /// was told so; a later record can still prove the contrary.
    pub proven: bool,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Where in the file the last readable record ends.
    pub offset: u64,
    /// The lsn that would have come next.
    pub next_lsn: u64,
    /// Something was written behind the last record, and is not whole.
    pub torn: bool,
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'r> {
    /// It needs more bytes: [`Reader::feed`], or [`Reader::finish`] if there are none.
    More,
    /// A record.
    Record {
        /// Its number.
        lsn: u64,
        /// What is in it.
        payload: &'r [u8],
        /// All before it was on disk when it was written: what is missing there is [`Lost::proven`].
        proves: bool,
    },
    /// Records before the next one are missing.
    Lost(Lost),
    /// There is nothing more in this segment. Said again if asked again.
    End(End),
}

/// The readable segments of one lineage and shard.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    segments: Vec<Header>,
}

impl Chain {
    /// In any order; all of one lineage and shard.
    #[must_use]
    pub fn new(mut segments: Vec<Header>) -> Self {
        segments.sort_by_key(|header| header.name);
        Self { segments }
    }

    /// The segments in the order in which they are to be read.
    #[must_use]
    pub fn segments(&self) -> &[Header] {
        &self.segments
    }

    /// A reader for one of them, given how the one before it ended.
    #[must_use]
    pub fn reader(&self, at: usize, before: Option<&End>) -> Option<Reader> {
        let header = self.segments.get(at)?;
        let behind = self.segments.get(at + 1..).unwrap_or_default();
        // A segment that was begun and given up can begin where its successor does.
        let until = behind.iter().map(|next| next.first_lsn).min();
        let read = before.map_or(0, |end| end.next_lsn);
        Some(Reader::new(header, read, until))
    }

    /// What is missing between this segment, of which `end` was said, and the next.
    #[must_use]
    pub fn lost_behind(&self, at: usize, end: &End) -> Option<Lost> {
        let next = self.segments.get(at + 1..)?.iter().min_by_key(|next| next.first_lsn)?;
        let first_missing = end.next_lsn;
        let end_missing = next.first_lsn.saturating_sub(next.left_out);
        (first_missing < end_missing).then(|| Lost {
            first_lsn: first_missing,
            last_lsn: end_missing - 1,
            offset: end.offset,
            proven: true,
        })
    }
}

/// Reads one segment. Feed it the file from [`HEADER_BYTES`] on.
#[derive(Clone, Debug)]
pub struct Reader {
    salt: u64,
    reused: bool,
    /// Older records than this are an earlier use's of the file.
    first: u64,
    /// The lsn that comes next; those before it were read elsewhere.
    expected: u64,
    /// What is missing from here on stands in a later segment.
    until: Option<u64>,
    /// Bytes that were fed; those before `start` are done with.
    bytes: Vec<u8>,
    start: usize,
    /// Where in the file `bytes` begin.
    base: u64,
    /// Bytes are being stepped over since here.
    skipped: Option<Skip>,
    /// There are no more bytes.
    finished: bool,
    ended: Option<End>,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug)]
struct Skip {
    /// Where they begin in the file.
    offset: u64,
    /// Among them was the head of a record that was to be here, or, in a new file, anything at all.
    written: bool,
}

impl Reader {
    fn new(header: &Header, read: u64, until: Option<u64>) -> Self {
        Self {
            salt: header.salt,
            reused: header.reused,
            first: header.first_lsn,
            expected: header.first_lsn.max(read),
            until,
            bytes: Vec::new(),
            start: 0,
            base: HEADER_BYTES as u64,
            skipped: None,
            finished: false,
            ended: None,
        }
    }

    /// How many bytes to feed next; more or fewer are taken too.
    #[must_use]
    pub const fn wants(&self) -> usize {
        CHUNK_BYTES
    }

    /// The next bytes of the file.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.bytes.drain(..self.start);
        self.base += self.start as u64;
        self.start = 0;
        self.bytes.extend_from_slice(chunk);
    }

    /// The file has no more bytes.
    pub const fn finish(&mut self) {
        self.finished = true;
    }

    /// Goes on reading.
    pub fn step(&mut self) -> Found<'_> {
        if let Some(end) = self.ended {
            return Found::End(end);
        }
        loop {
            let here = self.bytes.get(self.start..).unwrap_or_default();
            let Some(head) = Head::read(here, self.salt, self.first) else {
                if self.finished && here.is_empty() {
                    return self.end();
                }
                if !self.finished && here.len() < super::format::HEAD_BYTES {
                    return Found::More;
                }
                self.skip(8, false);
                continue;
            };
            if self.expected < head.lsn && self.until.is_some_and(|until| until <= self.expected) {
                return self.end();
            }
            if !self.finished && here.len() < head.stride() {
                return Found::More;
            }
            if head.payload(here, self.salt).is_none() {
                // The head holds, so the next record is where it says; unless the file ends before.
                let whole = head.stride() <= here.len();
                self.skip(if whole { head.stride() } else { 8 }, true);
                continue;
            }
            if head.lsn < self.expected {
                self.start = (self.start + head.stride()).min(self.bytes.len());
                continue;
            }
            return self.found(&head);
        }
    }

    /// A whole record stands at `start`: it, or first what is missing before it.
    fn found(&mut self, head: &Head) -> Found<'_> {
        let offset = self.base + self.start as u64;
        let skipped = self.skipped.take();
        if self.expected < head.lsn {
            let lost = Lost {
                first_lsn: self.expected,
                last_lsn: head.lsn - 1,
                offset: skipped.map_or(offset, |skip| skip.offset),
                proven: head.synced_before,
            };
            self.expected = head.lsn;
            return Found::Lost(lost);
        }
        let from = self.start;
        self.start = (from + head.stride()).min(self.bytes.len());
        self.expected = head.lsn + 1;
        let payload = self.bytes.get(from..).and_then(|here| head.payload(here, self.salt));
        Found::Record { lsn: head.lsn, payload: payload.unwrap_or_default(), proves: head.synced_before }
    }

    fn skip(&mut self, by: usize, head_held: bool) {
        let offset = self.base + self.start as u64;
        let end = (self.start + by).min(self.bytes.len());
        let written = head_held
            || !self.reused
                && self.bytes.get(self.start..end).is_some_and(|bytes| bytes.iter().any(|b| *b != 0));
        self.start = end;
        match &mut self.skipped {
            Some(skip) => skip.written |= written,
            None => self.skipped = Some(Skip { offset, written }),
        }
    }

    fn end(&mut self) -> Found<'_> {
        let offset = self.base + self.start as u64;
        let end = End {
            offset: self.skipped.map_or(offset, |skip| skip.offset),
            next_lsn: self.expected,
            torn: self.skipped.is_some_and(|skip| skip.written),
        };
        self.ended = Some(end);
        Found::End(end)
    }
}
