//! The writer of one shard's journal: records in, work for the disk out, and the word that they are durable. Time is an
//! argument. It touches no file: the shell carries out each [`Deed`] and answers with a [`Done`].
//!
//! # Group commit
//! Records gather in a buffer. One write or sync is under way at a time; when it is done, all that gathered meanwhile
//! goes with the next. [`Mode`] says when a record counts as durable.
//!
//! # Segments
//! When a segment is full, the next is begun; it was prepared when the one before was half full. Files whose records
//! were all released are used again or removed, the oldest first, and a release counts only once all that was appended
//! before it is safe. So what is on disk is at any moment the end of the journal, without a gap.
//!
//! # The bound on disk
//! At half of [`Settings::disk_bytes_max`] the shard is asked to carry forward what it still needs of the oldest file.
//! From six eighths on the state is [`State::Full`] until five eighths: no new work, but what is under way may finish. The
//! last segment below the bound is for records that free others. Above the bound goes only what is needed to mend a hole,
//! and, where nothing fits, what frees a file once it is written, or an eighth more on the way there: otherwise a journal
//! whose turns take more than their half would stand still for ever.
//!
//! # Faults
//! After a failed write or sync the kernel may have dropped what it could not write and call the file clean. So nothing is
//! tried twice on one file: what was not known to be safe is written again into a new one. After
//! [`Settings::failures_max`] in a row the state is [`State::Failed`] (or Full, where the disk has no room); attempts go on,
//! further and further apart, and the first that succeeds heals it.
//!
//! # What does not fit
//! A shard that is told of Full takes no new work, but what runs still appends. If the buffer overflows, records are left
//! out, all up to when the buffer has been written; nothing from the first of them on is called durable. The shard is then
//! asked to carry all up to the last of them: whatever of it still matters stands behind the hole. Once that is safe, and
//! the files before the hole are gone, all is; until then no release counts.
use super::carry::Carrying;
use super::format::{self, HEADER_BYTES, Header, Name};
use super::segments::{Segment, Segments};
use crate::time::Time;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// When a record counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When it was synced: it survives a loss of power.
    Always,
    /// When it was written: it survives the end of the process. A sync follows within this time.
    Interval(Duration),
    /// When it was written. The system syncs when it likes.
    Os,
}

/// Bounds, all of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When a record counts as durable.
    pub mode: Mode,
    /// Bytes of a segment, its header included; more where one write needs more.
    pub segment_bytes: u64,
    /// Bytes of all segments. At least eight segments.
    pub disk_bytes_max: u64,
    /// Bytes of records that are not known to be safe. One record may be larger.
    pub buffer_bytes_max: usize,
    /// Attempts in a row that may fail before the shard is told.
    pub failures_max: u16,
    /// The pause after the first failure; doubles.
    pub retry_min: Duration,
    /// The longest pause between attempts.
    pub retry_max: Duration,
}

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Counts the starts of the gateway on this data directory; no other start has the same.
    pub lineage: u64,
    /// The shard.
    pub shard: u16,
    /// Random, so that nobody can write into a message what would pass for a record.
    pub salt: u64,
    /// The lsn of the first record that will be appended.
    pub first_lsn: u64,
    /// There are files of earlier starts. Until [`Writer::older_gone`] none of this one's goes: a record of theirs must
    /// not outlive the one of ours that settles it.
    pub has_older: bool,
}

/// Can work be taken that must not be lost?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes.
    Open,
    /// No: a bound is reached, or the disk has no room.
    Full,
    /// No: the disk does not take it.
    Failed,
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk has no room.
    NoSpace,
    /// Anything else.
    Broken,
}

/// What the shell is asked to do. At most one `Write` or `Sync`, and at most one `Create` or `Delete`, is under way at a
/// time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Make this file, with room for so many bytes, and sync it and its folder. `reuse` names a file to give the new name
    /// to, which has the size already.
    Create {
        /// Its number.
        segment: u64,
        /// Its size.
        bytes: u64,
        /// A file that is needed no more.
        reuse: Option<u64>,
    },
    /// Write all of these bytes.
    Write {
        /// Into which file.
        segment: u64,
        /// Where.
        offset: u64,
        /// What. Comes back with [`Done::Written`].
        bytes: Vec<u8>,
    },
    /// Make sure that what was written is on the disk.
    Sync {
        /// Which file.
        segment: u64,
    },
    /// Remove this file, and sync its folder.
    Delete {
        /// Which file.
        segment: u64,
    },
    /// Tell the shard: all records up to this one are durable.
    Durable {
        /// The last of them.
        lsn: u64,
    },
    /// Ask the shard: append again what is still needed of the records up to this one, then release it. It may do a part
    /// of it; [`Writer::carried`] says that it did what it could.
    Carry {
        /// The last of them.
        lsn: u64,
    },
    /// Tell the shard and the operator.
    State {
        /// What can be taken.
        state: State,
        /// The last fault, if that is the reason.
        fault: Option<Fault>,
    },
    /// After [`Writer::close`]: everything is written and synced.
    Closed,
}

/// What became of a [`Deed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Of `Create`. After a fault, a file of that name may be there or not, and the one to be used again too.
    Created(Result<(), Fault>),
    /// Of `Write`.
    Written {
        /// What was to be written.
        bytes: Vec<u8>,
        /// Whether all of it was.
        result: Result<(), Fault>,
    },
    /// Of `Sync`.
    Synced(Result<(), Fault>),
    /// Of `Delete`.
    Deleted(Result<(), Fault>),
}

/// What is counted, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that were appended.
    pub records: u64,
    /// Their bytes, as they stand in a segment.
    pub bytes: u64,
    /// Records that were left out because the buffer was full.
    pub left_out: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Files made or used again.
    pub segments_begun: u64,
    /// Anything that failed.
    pub failures: u64,
}

/// Records that go in one write.
#[derive(Clone, Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    first_lsn: u64,
    last_lsn: u64,
    /// So many lsns before the first were left out.
    left_out: u64,
}

/// What is under way with the current segment.
#[derive(Clone, Debug)]
enum Flight {
    Header,
    /// The bytes are with the shell.
    Batch(Batch),
    /// All up to this lsn.
    Sync(u64),
}

/// What is under way with files.
#[derive(Clone, Debug)]
enum Errand {
    /// The new file, and the one that becomes it.
    Create(Segment, Option<Segment>),
    /// The file, and where it stood among the closed ones.
    Delete(Segment, usize),
}

/// Records that were left out.
#[derive(Clone, Copy, Debug)]
struct Hole {
    first_lsn: u64,
    last_lsn: u64,
    /// The buffer has not been written since: whatever comes is left out too.
    is_open: bool,
    /// The shard released all of it; it is gone when everything up to this record is safe.
    ends_with: Option<u64>,
}

/// A release that counts when everything up to `after` is safe.
#[derive(Clone, Copy, Debug)]
struct Release {
    lsn: u64,
    after: u64,
}

/// The journal of one shard.
#[derive(Clone, Debug)]
pub struct Writer {
    settings: Settings,
    owner: Owner,
    segments: Segments,
    segments_begun: u64,
    flight: Option<Flight>,
    errand: Option<Errand>,
    /// Bytes that a batch needs, for which there is no segment.
    wants_segment: Option<u64>,
    /// What gathers.
    open: Batch,
    /// What is to be written before it.
    waiting: VecDeque<Batch>,
    /// What was written and not synced.
    unsynced: VecDeque<Batch>,
    unsynced_since: Option<Time>,
    /// Something was written since the last sync, whether or not it is kept in `unsynced`.
    is_dirty: bool,
    spare: Vec<Vec<u8>>,
    /// Bytes in `open`, `waiting`, `unsynced` and the flight.
    buffered: usize,
    appended_lsn: u64,
    /// The last record that was taken into a batch.
    buffered_lsn: u64,
    written_lsn: u64,
    synced_lsn: u64,
    reported_lsn: u64,
    hole: Option<Hole>,
    /// What the shard said last.
    released_lsn: u64,
    /// What of it counts.
    free_lsn: u64,
    releases: [Option<Release>; 2],
    carrying: Carrying,
    failures: u16,
    fault: Option<Fault>,
    retry_at: Option<Time>,
    errand_retry_at: Option<Time>,
    could_not_delete: bool,
    has_older: bool,
    state: State,
    is_closing: bool,
    is_closed: bool,
    counts: Counts,
}

impl Writer {
    /// A journal without a file; the first is made when [`Self::advance`] is called.
    #[must_use]
    pub fn new(settings: Settings, owner: Owner) -> Self {
        let before = owner.first_lsn.saturating_sub(1);
        Self {
            carrying: Carrying::new(settings.buffer_bytes_max as u64),
            settings,
            owner,
            segments: Segments::default(),
            segments_begun: 0,
            flight: None,
            errand: None,
            wants_segment: None,
            open: Batch::default(),
            waiting: VecDeque::new(),
            unsynced: VecDeque::new(),
            unsynced_since: None,
            is_dirty: false,
            spare: Vec::new(),
            buffered: 0,
            appended_lsn: before,
            buffered_lsn: before,
            written_lsn: before,
            synced_lsn: before,
            reported_lsn: before,
            hole: None,
            released_lsn: before,
            free_lsn: before,
            releases: [None; 2],
            failures: 0,
            fault: None,
            retry_at: None,
            errand_retry_at: None,
            could_not_delete: false,
            has_older: owner.has_older,
            state: State::Open,
            is_closing: false,
            is_closed: false,
            counts: Counts::default(),
        }
    }

    /// Takes a record, the one after the last. It is written when [`Self::advance`] is called.
    pub fn append(&mut self, lsn: u64, record: &[u8]) {
        debug_assert_eq!(lsn, self.appended_lsn + 1, "records are numbered without a gap");
        let bytes = format::stride(record.len());
        self.appended_lsn = lsn;
        self.counts.records += 1;
        self.counts.bytes += bytes as u64;
        self.carrying.appended(lsn, bytes as u64);
        let is_full = 0 < self.buffered && self.settings.buffer_bytes_max < self.buffered + bytes;
        let is_left_out = is_full || self.hole.is_some_and(|hole| hole.is_open);
        if is_left_out || format::RECORD_BYTES_MAX < record.len() {
            self.leave_out(lsn);
            return;
        }
        if self.open.bytes.is_empty() {
            self.open.first_lsn = lsn;
            self.open.left_out = lsn.saturating_sub(self.buffered_lsn + 1);
        }
        // The next write waits for the sync of the one before it: so its first record proves that sync.
        let synced_before = self.settings.mode == Mode::Always && self.open.bytes.is_empty();
        format::put(&mut self.open.bytes, self.owner.salt, lsn, record, synced_before);
        self.open.last_lsn = lsn;
        self.buffered_lsn = lsn;
        self.buffered += bytes;
    }

    fn leave_out(&mut self, lsn: u64) {
        self.counts.left_out += 1;
        let first_lsn = self.hole.map_or(lsn, |hole| hole.first_lsn);
        self.hole = Some(Hole { first_lsn, last_lsn: lsn, is_open: true, ends_with: None });
    }

    /// The shard needs no record up to this one any more.
    pub fn release(&mut self, lsn: u64) {
        if lsn.min(self.appended_lsn) <= self.released_lsn {
            return;
        }
        self.released_lsn = self.released_lsn.max(lsn.min(self.appended_lsn));
        let release = Release { lsn: self.released_lsn, after: self.appended_lsn };
        if self.releases[0].is_none() {
            self.releases[0] = Some(release);
        } else {
            self.releases[1] = Some(release);
        }
        if let Some(hole) = &mut self.hole
            && !hole.is_open
            && hole.last_lsn <= lsn
        {
            hole.ends_with.get_or_insert(self.appended_lsn);
        }
    }

    /// The shard answered [`Deed::Carry`], as far as it goes: with records, and a release.
    pub fn carried(&mut self, now: Time) {
        self.carrying.answered(now, self.released_lsn);
    }

    /// The files of all earlier starts are gone, of all shards.
    pub const fn older_gone(&mut self) {
        self.has_older = false;
    }

    /// Writes what there is, syncs the file (in every mode), then says [`Deed::Closed`].
    pub const fn close(&mut self) {
        self.is_closing = true;
    }

    /// When [`Self::advance`] has something to do, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let interval = match self.settings.mode {
            Mode::Interval(pause) => self.unsynced_since.map(|since| since + pause),
            Mode::Always | Mode::Os => None,
        };
        let interval = interval.filter(|_| self.flight.is_none() && self.retry_at.is_none());
        let retry = self.retry_at.filter(|_| self.flight.is_none());
        let errand = self.errand_retry_at.filter(|_| self.errand.is_none());
        let carry = self.carrying.rests_until().filter(|_| self.may_carry() && self.is_carry_due());
        [interval, retry, errand, carry].into_iter().flatten().min()
    }

    /// Can work be taken that must not be lost?
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes of its files, their unused ends included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// How many files it has.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.all().count()
    }

    /// Were records left out, and is what the shard needs of them not safe yet?
    #[must_use]
    pub const fn is_mending(&self) -> bool {
        self.hole.is_some()
    }

    /// Bytes of records that are not known to be safe.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.buffered
    }

    /// The last record that was appended.
    #[must_use]
    pub const fn appended(&self) -> u64 {
        self.appended_lsn
    }

    /// The last record that the shard was told is durable.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        self.reported_lsn
    }

    /// Takes the answer to a deed. Call [`Self::advance`] then.
    pub fn on_done(&mut self, now: Time, done: Done) {
        match done {
            Done::Created(result) => self.on_created(now, result),
            Done::Written { bytes, result } => self.on_written(now, bytes, result),
            Done::Synced(result) => self.on_synced(now, result),
            Done::Deleted(result) => self.on_deleted(now, result),
        }
    }

    /// Asks for what is to be done. Call it at the end of each turn of the loop in which something happened here.
    /// `unix_millis` is written into the header of a segment that begins.
    pub fn advance(&mut self, now: Time, unix_millis: u64, out: &mut Vec<Deed>) {
        if self.is_closed {
            return;
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.errand_retry_at.is_some_and(|at| at <= now) {
            self.errand_retry_at = None;
        }
        self.report(out);
        if self.flight.is_none() && self.retry_at.is_none() {
            self.fly(now, unix_millis, out);
        }
        if self.errand.is_none() && self.errand_retry_at.is_none() {
            self.run_errand(out);
        }
        self.tell_state(out);
        self.ask_to_carry(now, out);
    }

    /// The last record that is as safe as the mode makes it, without which older ones must not go.
    const fn kept(&self) -> u64 {
        match self.settings.mode {
            Mode::Always | Mode::Interval(_) => self.synced_lsn,
            Mode::Os => self.written_lsn,
        }
    }

    fn report(&mut self, out: &mut Vec<Deed>) {
        let kept = self.kept();
        if self.hole.is_some_and(|hole| self.is_mended(&hole)) {
            self.hole = None;
        }
        // What the shard calls replaced may have been replaced in the hole.
        let is_carried = self.is_carried();
        while let Some(release) = self.releases[0].filter(|release| is_carried && release.after <= kept) {
            self.free_lsn = release.lsn;
            self.releases = [self.releases[1], None];
        }
        let durable = match self.settings.mode {
            Mode::Always => self.synced_lsn,
            Mode::Interval(_) | Mode::Os => self.written_lsn,
        };
        let durable = self.hole.map_or(durable, |hole| durable.min(hole.first_lsn - 1));
        if self.reported_lsn < durable {
            self.reported_lsn = durable;
            out.push(Deed::Durable { lsn: durable });
        }
    }

    /// Is there no hole, or is everything safe that the shard carried out of it?
    fn is_carried(&self) -> bool {
        let kept = self.kept();
        self.hole.is_none_or(|hole| hole.ends_with.is_some_and(|end| end <= kept))
    }

    /// Is everything safe that the shard still needs of its records up to this one? Then what these took over from the
    /// files of earlier starts is too.
    #[must_use]
    pub fn is_safe(&self, lsn: u64) -> bool {
        lsn <= self.kept() && self.is_carried()
    }

    /// Is everything safe that the shard carried out of this hole, and every file gone that a record belongs to which
    /// one in the hole would have settled?
    fn is_mended(&self, hole: &Hole) -> bool {
        let is_before = |segment: &Segment| 0 < segment.first_lsn && segment.first_lsn <= hole.last_lsn;
        let going = match &self.errand {
            Some(Errand::Create(_, old)) => old.as_ref(),
            Some(Errand::Delete(old, _)) => Some(old),
            None => None,
        };
        self.is_carried() && !self.has_older && !self.segments.all().chain(going).any(is_before)
    }

    fn tell_state(&mut self, out: &mut Vec<Deed>) {
        let used = self.segments.bytes();
        let (max, buffer) = (self.settings.disk_bytes_max, self.settings.buffer_bytes_max);
        let is_hole = self.hole.is_some_and(|hole| hole.is_open);
        let is_full = match self.state {
            State::Full => max / 8 * 5 < used || buffer / 4 < self.buffered,
            State::Open | State::Failed => max / 8 * 6 <= used || buffer / 4 * 3 <= self.buffered,
        };
        let is_broken = self.settings.failures_max <= self.failures;
        let state = match self.fault {
            Some(Fault::Broken) if is_broken => State::Failed,
            Some(Fault::NoSpace) if is_broken => State::Full,
            _ if is_full || is_hole => State::Full,
            Some(_) | None => State::Open,
        };
        if state != self.state {
            self.state = state;
            out.push(Deed::State { state, fault: self.fault.filter(|_| is_broken) });
        }
    }
}

/// The files: made ahead, used again, removed.
impl Writer {
    fn run_errand(&mut self, out: &mut Vec<Deed>) {
        let usual = self.settings.segment_bytes;
        let free = if self.has_older { 0 } else { self.free_lsn };
        let kept = self.kept();
        // What was given up goes before more is made; but a file that cannot be removed holds up nothing.
        let keeps_one = self.hole.is_none();
        let removable = self.segments.to_remove(free, kept, keeps_one.then_some(usual));
        if self.wants_file() && (removable.is_none() || self.could_not_delete) {
            self.could_not_delete = false;
            let bytes = self.wants_segment.unwrap_or(0).max(usual);
            let number = self.segments_begun + 1;
            let reuses = bytes == usual && self.segments.to_reuse(free, kept, usual);
            let old = if reuses { self.segments.closed.pop_front() } else { None };
            if old.is_some() || self.segments.bytes() + bytes <= self.disk_bound(bytes) {
                self.segments_begun = number;
                let reuse = old.as_ref().map(|old| old.number);
                self.errand = Some(Errand::Create(Segment::new(number, bytes, old.is_some()), old));
                out.push(Deed::Create { segment: number, bytes, reuse });
                return;
            }
        }
        if let Some(at) = removable
            && let Some(old) = self.segments.closed.remove(at)
        {
            out.push(Deed::Delete { segment: old.number });
            self.errand = Some(Errand::Delete(old, at));
        }
    }

    /// Is another file needed, or soon?
    fn wants_file(&self) -> bool {
        let is_half_full = |segment: &Segment| segment.bytes / 2 <= segment.offset;
        self.segments.next.is_none()
            && (self.wants_segment.is_some() || self.segments.current.as_ref().is_none_or(is_half_full))
    }

    /// Bytes up to which a file of so many is made. The last segment below the bound is kept for what frees others:
    /// without it, a full disk could never become free.
    fn disk_bound(&self, bytes: u64) -> u64 {
        if self.hole.is_some() {
            // No file goes before all that is needed was carried out of the hole. New work is refused meanwhile, so that is
            // bounded by what runs.
            return u64::MAX;
        }
        let max = self.settings.disk_bytes_max;
        let pending = self.releases.iter().flatten().map(|release| release.lsn).max();
        let Some(pending) = pending.filter(|lsn| self.free_lsn < *lsn) else {
            return max.saturating_sub(self.settings.segment_bytes);
        };
        if self.wants_segment.is_none() {
            return max;
        }
        // No release counts until what was appended before it is safe, and that has no place. Where it frees a file, it
        // gives back what it takes.
        match self.segments.closed.front() {
            Some(oldest) if oldest.held_lsn <= pending => u64::MAX,
            Some(_) | None => max.saturating_add(bytes.max(max / 8)),
        }
    }

    fn on_created(&mut self, now: Time, result: Result<(), Fault>) {
        let Some(Errand::Create(segment, old)) = self.errand.take() else { return };
        match result {
            Ok(()) => {
                self.counts.segments_begun += 1;
                self.segments.next = Some(segment);
            }
            Err(fault) => {
                // Whether the files are there, and under which name, is not known: both are removed, the old one in
                // its turn, so that no older record outlives a newer one.
                let bytes = if old.is_some() { 0 } else { segment.bytes };
                if let Some(old) = old {
                    self.segments.closed.push_front(Segment { is_spoilt: true, ..old });
                }
                self.segments.give_up(Segment { bytes, ..segment });
                self.on_fault(fault);
                self.errand_retry_at = Some(now + self.pause());
            }
        }
    }

    fn on_deleted(&mut self, now: Time, result: Result<(), Fault>) {
        let Some(Errand::Delete(segment, at)) = self.errand.take() else { return };
        if result.is_err() {
            self.counts.failures += 1;
            self.segments.closed.insert(at.min(self.segments.closed.len()), segment);
            self.could_not_delete = true;
            self.errand_retry_at = Some(now + self.settings.retry_max);
        }
    }
}

/// The bytes: written and synced, one after the other.
impl Writer {
    fn fly(&mut self, now: Time, unix_millis: u64, out: &mut Vec<Deed>) {
        let wants_room = self.wants_room();
        if self.is_sync_due(now, wants_room) {
            self.sync(out);
            return;
        }
        self.end_hole();
        if self.waiting.is_empty() && self.open.bytes.is_empty() {
            if self.is_closing {
                self.is_closed = true;
                out.push(Deed::Closed);
            }
            return;
        }
        if wants_room {
            self.begin_segment(unix_millis, out);
            return;
        }
        self.write(out);
    }

    /// What is written next, if there is something.
    fn ahead(&self) -> Option<&Batch> {
        self.waiting.front().or(Some(&self.open).filter(|batch| !batch.bytes.is_empty()))
    }

    /// Does the next batch need another segment?
    fn wants_room(&self) -> bool {
        let Some(batch) = self.ahead() else { return false };
        let Some(current) = &self.segments.current else { return true };
        let is_begun = HEADER_BYTES as u64 != current.offset;
        // The header says what was left out before its first record, and only there can it be said.
        (batch.left_out != 0 && is_begun) || current.bytes < current.offset + batch.bytes.len() as u64
    }

    fn is_sync_due(&self, now: Time, wants_room: bool) -> bool {
        if !self.is_dirty || self.segments.current.is_none() {
            return false;
        }
        let is_idle = self.waiting.is_empty() && self.open.bytes.is_empty();
        let is_closing = self.is_closing && is_idle;
        match self.settings.mode {
            Mode::Always => true,
            Mode::Os => is_closing,
            Mode::Interval(pause) => {
                is_closing
                    || wants_room
                    || self.hole.is_some_and(|hole| hole.is_open)
                    || self.settings.buffer_bytes_max / 2 <= self.buffered
                    || self.unsynced_since.is_some_and(|since| since + pause <= now)
            }
        }
    }

    fn sync(&mut self, out: &mut Vec<Deed>) {
        let Some(current) = &self.segments.current else { return };
        out.push(Deed::Sync { segment: current.number });
        self.flight = Some(Flight::Sync(self.written_lsn));
    }

    /// The buffer is written: what comes next is taken again, and what was left out is asked for.
    fn end_hole(&mut self) {
        if let Some(hole) = &mut self.hole
            && hole.is_open
            && self.buffered == 0
        {
            hole.is_open = false;
            // As safe as they will be.
            self.written_lsn = hole.last_lsn;
            self.synced_lsn = hole.last_lsn;
            self.carrying.must(hole.last_lsn);
        }
    }

    fn begin_segment(&mut self, unix_millis: u64, out: &mut Vec<Deed>) {
        let Some(batch) = self.ahead() else { return };
        let (first_lsn, left_out) = (batch.first_lsn, batch.left_out);
        let bytes = (HEADER_BYTES + batch.bytes.len()) as u64;
        let Some(next) = self.segments.next.take_if(|next| bytes <= next.bytes) else {
            if let Some(small) = self.segments.next.take() {
                self.segments.give_up(small);
            }
            self.wants_segment = Some(bytes);
            return;
        };
        self.wants_segment = None;
        if let Some(old) = self.segments.current.take() {
            self.segments.closed.push_back(old);
        }
        let Owner { lineage, shard, salt, .. } = self.owner;
        let name = Name { lineage, shard, segment: next.number };
        let header =
            Header { name, first_lsn, left_out, created_millis: unix_millis, salt, reused: next.reused };
        let bytes = header.to_bytes().into_vec();
        out.push(Deed::Write { segment: next.number, offset: 0, bytes });
        self.segments.current = Some(Segment { first_lsn, held_lsn: first_lsn.saturating_sub(1), ..next });
        self.flight = Some(Flight::Header);
    }

    fn write(&mut self, out: &mut Vec<Deed>) {
        let Some(current) = &mut self.segments.current else { return };
        let batch = self.waiting.pop_front().unwrap_or_else(|| {
            let bytes = self.spare.pop().unwrap_or_default();
            core::mem::replace(&mut self.open, Batch { bytes, ..Batch::default() })
        });
        current.tried_lsn = batch.last_lsn;
        let Batch { bytes, first_lsn, last_lsn, left_out } = batch;
        out.push(Deed::Write { segment: current.number, offset: current.offset, bytes });
        self.flight = Some(Flight::Batch(Batch { bytes: Vec::new(), first_lsn, last_lsn, left_out }));
    }

    fn on_written(&mut self, now: Time, bytes: Vec<u8>, result: Result<(), Fault>) {
        let flight = self.flight.take();
        let (Some(current), Some(flight)) = (&mut self.segments.current, flight) else { return };
        if result.is_ok() {
            current.offset += bytes.len() as u64;
            self.counts.writes += 1;
        }
        match (flight, result) {
            (Flight::Header, Ok(())) => {}
            (Flight::Header | Flight::Sync(_), Err(fault)) => self.give_up(now, None, fault),
            (Flight::Batch(batch), Err(fault)) => self.give_up(now, Some(Batch { bytes, ..batch }), fault),
            (Flight::Batch(batch), Ok(())) => {
                self.written_lsn = batch.last_lsn;
                current.wrote_lsn = batch.last_lsn;
                self.is_dirty = true;
                if self.settings.mode == Mode::Os {
                    current.held_lsn = batch.last_lsn;
                    self.recycle(bytes);
                    self.heal();
                } else {
                    self.unsynced_since.get_or_insert(now);
                    self.unsynced.push_back(Batch { bytes, ..batch });
                }
            }
            (Flight::Sync(_), Ok(())) => {}
        }
    }

    fn on_synced(&mut self, now: Time, result: Result<(), Fault>) {
        let Some(Flight::Sync(lsn)) = self.flight.take() else { return };
        let Some(current) = &mut self.segments.current else { return };
        match result {
            Ok(()) => {
                self.counts.syncs += 1;
                current.held_lsn = lsn;
                self.synced_lsn = lsn;
                self.unsynced_since = None;
                self.is_dirty = false;
                while let Some(Batch { bytes, .. }) = self.unsynced.pop_front() {
                    self.recycle(bytes);
                }
                self.heal();
            }
            Err(fault) => self.give_up(now, None, fault),
        }
    }

    /// The current file is trusted no more: what is not known to be safe is written again, into another.
    fn give_up(&mut self, now: Time, failed: Option<Batch>, fault: Fault) {
        if let Some(failed) = failed {
            self.waiting.push_front(failed);
        }
        while let Some(batch) = self.unsynced.pop_back() {
            self.waiting.push_front(batch);
        }
        if let Some(first) = self.waiting.front() {
            let before = first.first_lsn - 1 - first.left_out;
            self.written_lsn = self.written_lsn.min(before);
        }
        self.unsynced_since = None;
        self.is_dirty = false;
        if let Some(old) = self.segments.current.take() {
            self.segments.closed.push_back(Segment { is_spoilt: true, ..old });
        }
        self.on_fault(fault);
        self.retry_at = Some(now + self.pause());
    }

    fn on_fault(&mut self, fault: Fault) {
        self.counts.failures += 1;
        self.failures = self.failures.saturating_add(1);
        self.fault = Some(fault);
    }

    /// How long after a failure the next attempt is made.
    fn pause(&self) -> Duration {
        let doublings = u32::from(self.failures.saturating_sub(1)).min(16);
        self.settings.retry_min.saturating_mul(1 << doublings).min(self.settings.retry_max)
    }

    const fn heal(&mut self) {
        self.failures = 0;
        self.fault = None;
    }

    /// Keeps a buffer for the records to come.
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        self.buffered -= bytes.len();
        bytes.clear();
        if self.spare.is_empty() {
            bytes.shrink_to(self.settings.buffer_bytes_max);
            self.spare.push(bytes);
        }
    }
}

/// The shard is asked to append again what keeps old files.
impl Writer {
    /// The last record of the oldest file, if that file should go.
    fn to_carry(&self) -> Option<u64> {
        let is_crowded = self.settings.disk_bytes_max / 2 < self.segments.bytes();
        let oldest = self.segments.closed.iter().find(|segment| self.released_lsn < segment.held_lsn)?;
        is_crowded.then_some(oldest.held_lsn)
    }

    fn is_carry_due(&self) -> bool {
        self.carrying.is_pressed(self.released_lsn) || self.to_carry().is_some()
    }

    fn may_carry(&self) -> bool {
        let is_hole = self.hole.is_some_and(|hole| hole.is_open);
        let is_busy = self.settings.buffer_bytes_max / 2 < self.buffered;
        !(self.is_closing || is_hole || is_busy || self.fault.is_some() || self.carrying.is_asked())
    }

    fn ask_to_carry(&mut self, now: Time, out: &mut Vec<Deed>) {
        if self.may_carry()
            && let Some(lsn) = self.carrying.ask(now, self.released_lsn, self.to_carry())
        {
            out.push(Deed::Carry { lsn });
        }
    }
}
