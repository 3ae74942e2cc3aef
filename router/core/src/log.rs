//! What a shard knows of its journal and its store: the number of each record, who waits for one to be on disk, and
//! from where on records are still needed. Plain counting; what is written is decided by those who write it.
//!
//! A record is needed until its turn is settled *and* the store has confirmed all that was saved because of it. Both
//! are queues with one watermark each; `Log::released` is the smaller one.
//!
//! What is saved once it is on disk may be lost on the way there, where the disk takes nothing for long (see
//! [`crate::journal::writer`], "What does not fit"): it can be written again, see `Log::take_unwritten`.
use crate::dedup::At;
use crate::effect::{Effect, Effects};
use crate::home::Secret;
use crate::id::{Client, TurnId, Uid};
use crate::record::Record;
use crate::time::Time;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

/// How a shard with a past begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The key of the hashes of sessions and event ids: the same as in the last run.
    pub secret: Secret,
    /// Unix time of [`Time::ZERO`] in microseconds.
    pub unix_micros: u64,
    /// Every [`Uid`] of this run is greater.
    pub uid_after: Uid,
    /// The number of the first record.
    pub lsn: u64,
    /// Acknowledged messages are journalled.
    pub journal: bool,
    /// Sessions are kept in a store: saved as they change, loaded when they are written to again.
    pub store: bool,
    /// The store outlives this process. What one in memory holds does not: a session is saved when it leaves memory then,
    /// and not every while before, because nobody could find it there.
    pub outlives: bool,
}

/// How the journal stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JournalState {
    /// It takes records.
    #[default]
    Open,
    /// Its bound on disk is reached: nothing new that must be written is admitted.
    Full,
    /// It cannot be written: nothing new that must be written is admitted.
    Failed,
}

/// What goes on once a record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Await {
    /// Its message is acknowledged.
    Ack { client: Client, turn: TurnId },
    /// The repetition of a message that may not be on disk itself is acknowledged.
    Repeated { client: Client },
    /// An operation is acknowledged.
    Operated { client: Client },
    /// A dead letter is tried again: that is acknowledged, and the letter goes.
    Replayed { client: Client, turn: TurnId },
    /// A dead letter is dropped: that is acknowledged, and the letter goes.
    Dropped { client: Client, uid: Uid },
    /// A turn is over, and a dead letter comes or goes with that: see [`Log::take_end`].
    Ended,
    /// An event id is remembered: a message that is not on disk is not known, and may come again.
    Seen { mark: [u64; 2] },
    /// It is said that a message is answered together with another one.
    Merged { client: Client, turn: TurnId, seq: u32, into: TurnId },
    /// The turn's next part is delivered.
    Part { turn: TurnId },
}

/// Somebody who waits for what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The record.
    pub(crate) lsn: u64,
    /// Where something is saved then, the record that the save will need; 0 for none.
    pub(crate) floor: u64,
    pub(crate) what: Await,
}

/// A turn that is over by a record that is not on disk yet, as its records say it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) accepted: Vec<u8>,
    /// Empty where no answer was known.
    pub(crate) reply: Vec<u8>,
    /// Parts of it that were confirmed.
    pub(crate) parts: u16,
    pub(crate) settled: Vec<u8>,
    /// A dead letter comes or goes with it: the store hears of that.
    pub(crate) tells: bool,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) journal: bool,
    pub(crate) store: bool,
    pub(crate) outlives: bool,
    pub(crate) state: JournalState,
    shard: u64,
    unix_micros: u64,
    /// The microsecond of the last uid.
    last: u64,
    /// The number of the next record, and of the last one that is on disk.
    next: u64,
    durable: u64,
    waits: VecDeque<Waiting>,
    /// Of those who wait for the end of a turn, by the record that they wait for.
    ends: BTreeMap<u64, Ended>,
    /// Records that are not on disk and after which something is saved, with the record that the save will need.
    unwritten: Floors,
    /// Turns by the record that admitted them. One that is over, or was written again, is left in until it is first.
    live: VecDeque<(u64, TurnId)>,
    /// The number of the last save.
    saves: u64,
    /// Saves that are not confirmed and the record that each needs.
    unsaved: Floors,
    /// Dead letters that are tried again or dropped, and the save after which the store knows that; 0 before there is one.
    reviving: BTreeMap<Uid, u64>,
}

/// Numbers that grow and the record that each needs, reduced to those that are the least of all that follow.
#[derive(Debug, Default)]
struct Floors(VecDeque<(u64, u64)>);

impl Floors {
    const fn new() -> Self {
        Self(VecDeque::new())
    }

    fn push(&mut self, number: u64, floor: u64) {
        while self.0.back().is_some_and(|(_, other)| floor <= *other) {
            self.0.pop_back();
        }
        self.0.push_back((number, floor));
    }

    fn done(&mut self, number: u64) {
        while self.0.front().is_some_and(|(other, _)| *other <= number) {
            self.0.pop_front();
        }
    }

    fn least(&self) -> Option<u64> {
        self.0.front().map(|(_, floor)| *floor)
    }
}

impl Log {
    /// The books of a shard that keeps nothing.
    pub(crate) const fn none(shard: u16) -> Self {
        Self {
            journal: false,
            store: false,
            outlives: false,
            state: JournalState::Open,
            shard: shard as u64,
            unix_micros: 0,
            last: 0,
            next: 1,
            durable: 0,
            waits: VecDeque::new(),
            ends: BTreeMap::new(),
            unwritten: Floors::new(),
            live: VecDeque::new(),
            saves: 0,
            unsaved: Floors::new(),
            reviving: BTreeMap::new(),
        }
    }

    pub(crate) fn begin(&mut self, start: &Start) {
        (self.journal, self.store, self.outlives) = (start.journal, start.store, start.outlives);
        (self.unix_micros, self.last) = (start.unix_micros, start.uid_after.micros());
        (self.next, self.durable) = (start.lsn.max(1), start.lsn.max(1) - 1);
    }

    /// A name for ever: later than all before it, whatever the clock does.
    pub(crate) fn uid(&mut self, now: Time) -> Uid {
        let micros = self.unix_micros.saturating_add(now.0 / 1_000);
        self.last = micros.max(self.last.saturating_add(1));
        Uid(self.last << Uid::SHARD_BITS | self.shard & ((1 << Uid::SHARD_BITS) - 1))
    }

    pub(crate) const fn unix_millis(&self, now: Time) -> u64 {
        self.unix_micros.saturating_add(now.0 / 1_000) / 1_000
    }

    /// The system's clock as it was then, on ours.
    pub(crate) fn at(&self, unix_millis: u64) -> At {
        At::unix(unix_millis, self.unix_micros)
    }

    /// Writes a record down; its number.
    pub(crate) fn append(&mut self, record: &Record<'_>, out: &mut Effects) -> u64 {
        let lsn = self.next;
        self.next += 1;
        let record = out.keep_record(record);
        out.push(Effect::Append { lsn, record });
        lsn
    }

    /// The number of the last record, if it is not on disk yet.
    pub(crate) fn behind(&self) -> Option<u64> {
        (self.durable + 1 < self.next).then_some(self.next - 1)
    }

    /// The number of the last record.
    pub(crate) const fn last(&self) -> u64 {
        self.next - 1
    }

    /// From this record on a turn is needed.
    pub(crate) fn live(&mut self, lsn: u64, turn: TurnId) {
        self.live.push_back((lsn, turn));
    }

    pub(crate) fn wait(&mut self, lsn: u64, what: Await) {
        self.waits.push_back(Waiting { lsn, floor: 0, what });
    }

    /// As [`Self::wait`], for something that is saved then, and needs the records from `floor` on until it is confirmed.
    pub(crate) fn wait_to_save(&mut self, lsn: u64, floor: u64, what: Await) {
        self.waits.push_back(Waiting { lsn, floor, what });
        self.unwritten.push(lsn, floor);
    }

    /// A turn is over by this record; `floor` is the first of those that `ended` repeats.
    pub(crate) fn wait_for_end(&mut self, lsn: u64, floor: u64, ended: Ended) {
        self.ends.insert(lsn, ended);
        self.wait_to_save(lsn, floor, Await::Ended);
    }

    /// The turn that is over by this record.
    pub(crate) fn take_end(&mut self, lsn: u64) -> Option<Ended> {
        self.ends.remove(&lsn)
    }

    /// All that are over by records that are not on disk, each with the first record that it needs.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (u64, &Ended)> {
        let waiting = self.waits.iter().filter(|waiting| waiting.what == Await::Ended);
        waiting.filter_map(|waiting| Some((waiting.floor, self.ends.get(&waiting.lsn)?)))
    }

    /// Those who wait to save something because of records up to this one, no more of them than this: whoever takes them
    /// writes them down again.
    pub(crate) fn take_unwritten(&mut self, lsn: u64, max: usize) -> Vec<Waiting> {
        let mut taken = Vec::new();
        if self.unwritten.least().is_none_or(|least| lsn < least) {
            return taken;
        }
        self.waits.retain(|waiting| {
            let stays = waiting.floor == 0 || lsn < waiting.floor || taken.len() == max;
            if !stays {
                taken.push(*waiting);
            }
            stays
        });
        self.unwritten = Floors::new();
        for waiting in self.waits.iter().filter(|waiting| waiting.floor != 0) {
            self.unwritten.push(waiting.lsn, waiting.floor);
        }
        taken
    }

    pub(crate) fn on_durable(&mut self, lsn: u64) {
        self.durable = self.durable.max(lsn.min(self.next - 1));
    }

    /// All that waited for what is on disk went on.
    pub(crate) fn on_all_ready(&mut self) {
        self.unwritten.done(self.durable);
    }

    /// A dead letter is tried again or dropped, as somebody asked. False if that is so already, as far as the store may not
    /// know.
    pub(crate) fn revive(&mut self, uid: Uid) -> bool {
        let is_new = !self.reviving.contains_key(&uid);
        if is_new {
            self.reviving.insert(uid, 0);
        }
        is_new
    }

    /// With this save the store knows that a letter was tried again or dropped, and what came of it as far as that is known.
    pub(crate) fn on_revived(&mut self, uid: Uid, save: u64) {
        if let Some(known) = self.reviving.get_mut(&uid) {
            *known = save;
        }
    }

    /// The next one who waited for what is on disk.
    pub(crate) fn next_ready(&mut self) -> Option<Waiting> {
        self.waits.pop_front_if(|waiting| waiting.lsn <= self.durable)
    }

    /// The number of a save that needs the records from `floor` on until it is confirmed; none where it is 0.
    pub(crate) fn save(&mut self, floor: u64) -> u64 {
        self.saves += 1;
        if floor != 0 {
            self.unsaved.push(self.saves, floor);
        }
        self.saves
    }

    pub(crate) fn on_saved(&mut self, save: u64) {
        self.unsaved.done(save);
        if !self.reviving.is_empty() {
            self.reviving.retain(|_, known| *known == 0 || save < *known);
        }
    }

    /// The first record of which the store has not confirmed all that it says.
    pub(crate) fn unsaved_from(&self) -> Option<u64> {
        [&self.unwritten, &self.unsaved].into_iter().filter_map(Floors::least).min()
    }

    /// The turns that need records up to this one, each once, and no more of them than this.
    pub(crate) fn take_live(&mut self, lsn: u64, max: usize, mut each: impl FnMut(u64, TurnId)) {
        for _ in 0..max {
            match self.live.front() {
                Some((first, _)) if *first <= lsn => {}
                Some(_) | None => return,
            }
            if let Some((first, turn)) = self.live.pop_front() {
                each(first, turn);
            }
        }
    }

    /// The last record that nobody needs any more, nor any before it, once all that was appended so far is on disk: the
    /// journal counts it only then. `lives` tells of a turn whether it still needs the
    /// record of this number.
    pub(crate) fn released(&mut self, lives: impl Fn(u64, TurnId) -> bool) -> u64 {
        while self.live.front().is_some_and(|(lsn, turn)| !lives(*lsn, *turn)) {
            self.live.pop_front();
        }
        let needed = self.live.front().map_or(self.next, |(lsn, _)| *lsn);
        self.unsaved_from().map_or(needed, |unsaved| needed.min(unsaved)).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: TurnId = TurnId { slot: 0, generation: 1 };

    fn log() -> Log {
        let mut log = Log::none(3);
        log.begin(&Start {
            secret: Secret([1, 2]),
            unix_micros: 1_790_000_000_000_000,
            uid_after: Uid(0),
            lsn: 11,
            journal: true,
            store: true,
            outlives: true,
        });
        log
    }

    #[test]
    fn uids_grow_whatever_the_clock_does() {
        let mut log = log();
        let mut last = Uid(0);
        for at in [5_000_u64, 5_000, 1_000, 9_000_000, 0] {
            let uid = log.uid(Time(at));
            assert!(last < uid && uid.0 & 1_023 == 3, "{at}");
            last = uid;
        }
        let mut later = Log::none(3);
        later.begin(&Start {
            secret: Secret([1, 2]),
            unix_micros: 7,
            uid_after: last,
            lsn: 1,
            journal: true,
            store: false,
            outlives: false,
        });
        assert!(last < later.uid(Time(0)), "the system's clock was set back over a restart");
    }

    #[test]
    fn who_waits_goes_on_in_order_once_it_is_on_disk() {
        let (mut log, mut out) = (log(), Effects::new());
        let client = Client::default();
        assert_eq!(log.behind(), None);
        let cursor = Record::Cursor { channel: "c", value: "1" };
        let first = log.append(&cursor, &mut out);
        log.wait(first, Await::Ack { client, turn: TURN });
        let second = log.append(&cursor, &mut out);
        log.wait(second, Await::Repeated { client });
        assert_eq!((first, second, log.behind()), (11, 12, Some(12)));
        let ready = |log: &mut Log| log.next_ready().map(|waiting| waiting.what);
        assert_eq!(ready(&mut log), None);
        log.on_durable(11);
        assert_eq!(ready(&mut log), Some(Await::Ack { client, turn: TURN }));
        assert_eq!(ready(&mut log), None);
        log.on_durable(99);
        assert_eq!((ready(&mut log), log.behind()), (Some(Await::Repeated { client }), None));
        let Effect::Append { lsn: 11, record } = out.list()[0] else { panic!("{:?}", out.list()) };
        assert_eq!(Record::decode(out.bytes(record)), Some(cursor));
    }

    #[test]
    fn a_record_is_released_when_neither_a_turn_nor_a_save_needs_it() {
        let (mut log, mut out) = (log(), Effects::new());
        let cursor = Record::Cursor { channel: "c", value: "1" };
        for _ in 0..9 {
            log.append(&cursor, &mut out);
        }
        log.on_durable(19);
        let other = TurnId { slot: 1, generation: 1 };
        log.live(11, TURN);
        log.live(14, other);
        assert_eq!(log.released(|_, _| true), 10);
        assert_eq!(log.released(|_, turn| turn == other), 13, "the first is over");
        let saves = [log.save(12), log.save(0), log.save(16), log.save(15)];
        assert_eq!(log.released(|_, _| false), 11, "a save needs what its turn did");
        log.on_saved(saves[1]);
        assert_eq!(log.released(|_, _| false), 14, "the least of those that are left");
        log.on_saved(saves[2]);
        assert_eq!(log.released(|_, _| false), 14);
        log.on_saved(saves[3]);
        assert_eq!(log.released(|_, _| false), 19);
        log.append(&cursor, &mut out);
        assert_eq!(log.released(|_, _| false), 20, "the journal waits until that is on disk");
    }

    #[test]
    fn what_waits_to_be_saved_can_be_written_elsewhere() {
        let (mut log, mut out) = (log(), Effects::new());
        let cursor = Record::Cursor { channel: "c", value: "1" };
        for _ in 0..9 {
            log.append(&cursor, &mut out);
        }
        let seen = |n| Await::Seen { mark: [n, n] };
        log.wait(11, Await::Repeated { client: Client::default() });
        log.wait_to_save(12, 12, seen(1));
        log.wait_to_save(14, 13, seen(2));
        log.wait_to_save(15, 15, seen(3));
        assert_eq!(log.take_unwritten(11, 9), []);
        let taken: Vec<_> = log.take_unwritten(14, 9).iter().map(|waiting| waiting.what).collect();
        assert_eq!(taken, [seen(1), seen(2)]);
        assert_eq!(log.released(|_, _| false), 14, "they keep nothing back");
        log.wait_to_save(19, 18, seen(1));
        log.on_durable(15);
        assert_eq!(log.next_ready().map(|waiting| waiting.lsn), Some(11));
        assert_eq!(log.next_ready().map(|waiting| waiting.what), Some(seen(3)));
        assert_eq!(log.next_ready(), None);
        log.on_all_ready();
        assert_eq!(log.released(|_, _| false), 17);
    }
}
