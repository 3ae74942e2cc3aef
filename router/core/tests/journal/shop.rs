//! One data directory and what lives on it: a shard that is simpler than ours and needs the same of a journal, and the
//! memory of what it was promised.
use crate::dice::Dice;
use crate::disk::{Disk, Shelf, Troubles};
use crate::trace::Trace;
use clawgate_core::journal::format::{Name, Unreadable};
use clawgate_core::journal::writer::{Deed, Done, Fault, Mode, Owner, Settings, State, Writer};
use clawgate_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SHARD: u16 = 2;
const DAY: Duration = Duration::from_secs(24 * 3_600);
const UNIX_MILLIS: u64 = 1_795_000_000_000;

/// What happened, so that a test can ask whether enough did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: u64,
    pub(crate) settled: u64,
    pub(crate) kills: u64,
    pub(crate) cuts: u64,
    pub(crate) flips: u64,
    pub(crate) proven: u64,
    pub(crate) torn: u64,
    pub(crate) faults: u64,
    pub(crate) carried: u64,
    pub(crate) left_out: u64,
    pub(crate) mended: u64,
    pub(crate) full: u64,
    pub(crate) failed: u64,
    pub(crate) segments: u64,
    pub(crate) reused: u64,
}

impl Seen {
    fn words(&mut self) -> [&mut u64; 15] {
        [
            &mut self.accepted,
            &mut self.settled,
            &mut self.kills,
            &mut self.cuts,
            &mut self.flips,
            &mut self.proven,
            &mut self.torn,
            &mut self.faults,
            &mut self.carried,
            &mut self.left_out,
            &mut self.mended,
            &mut self.full,
            &mut self.failed,
            &mut self.segments,
            &mut self.reused,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (mine, theirs) in self.words().into_iter().zip(other.words()) {
            *mine += *theirs;
        }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Accepted,
    Carried,
    Settled,
}

/// One start of the gateway.
struct Life {
    lineage: u64,
    writer: Writer,
    next_lsn: u64,
    /// By lsn.
    appended: BTreeMap<u64, Vec<u8>>,
    durable: u64,
    released: u64,
    /// What still needs an answer, and its last record in this life.
    live: BTreeMap<u64, u64>,
    /// Appended and not yet durable: the lsn, and what it says of whom.
    open: Vec<(u64, Word, u64)>,
    /// Files of earlier lives, and the record that must be durable before they go.
    older: Option<(Vec<Name>, u64)>,
    left_out: u64,
    /// So often, and nothing else since, the disk had no room.
    no_space: u16,
    /// Bytes on disk that are allowed above the bound.
    ceiling: u64,
}

/// The whole.
pub(crate) struct Shop {
    dice: Dice,
    disk: Disk,
    mode: Mode,
    settings: Settings,
    now: Time,
    life: Life,
    next_id: u64,
    /// Its sender was told that it is safe.
    acknowledged: BTreeSet<u64>,
    /// It was settled, durably or not.
    settled: BTreeSet<u64>,
    /// It was settled, and that was called durable.
    surely_settled: BTreeSet<u64>,
    /// Something was damaged in this seed: what is missing must be reported, and may be missing.
    is_damaged: bool,
    flips: bool,
    /// All is settled soon, and there is room for what waits: files become free in their order, and are used again.
    is_tidy: bool,
    /// Of its own, so that what is looked at changes no history.
    dice_of_sleep: Dice,
    deeds: Vec<Deed>,
    pub(crate) trace: Trace,
    pub(crate) seen: Seen,
}

impl Shop {
    pub(crate) fn new(seed: u64, echo: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mode = match dice.below(5) {
            0 => Mode::Interval(Duration::from_millis(20)),
            1 => Mode::Os,
            _ => Mode::Always,
        };
        let segment_bytes = 8_192 << dice.below(3);
        let is_tidy = seed.is_multiple_of(3);
        let settings = Settings {
            mode,
            segment_bytes,
            disk_bytes_max: segment_bytes * dice.between(8, 16),
            buffer_bytes_max: usize::try_from(if is_tidy { segment_bytes } else { segment_bytes / 4 })
                .unwrap(),
            failures_max: 3,
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(200),
        };
        let often = *dice.pick(&[0, 0, 5, 40, 300]);
        let troubles = Troubles {
            write: often,
            sync: often,
            create: often / 2,
            delete: often / 2,
            slow_millis: *dice.pick(&[0, 2, 20]),
            bytes_max: settings.disk_bytes_max * *dice.pick(&[1, 3, 3, 100]) / 2,
        };
        let life = Life::new(1, 1, &settings, Vec::new(), &mut dice);
        Self {
            disk: Disk::new(seed, troubles),
            mode,
            settings,
            now: Time::from_millis(1),
            life,
            next_id: 1,
            acknowledged: BTreeSet::new(),
            settled: BTreeSet::new(),
            surely_settled: BTreeSet::new(),
            is_damaged: false,
            flips: dice.chance(250),
            is_tidy,
            dice_of_sleep: Dice::new(seed ^ 0x51EE_9000),
            deeds: Vec::new(),
            trace: Trace::new(echo),
            seen: Seen::default(),
            dice,
        }
    }

    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.dice.weighted(&[30, 25, 30, 1, 2]) {
                0 => self.accept(),
                1 => self.settle(),
                2 => self.work(),
                3 if self.dice.chance(150) => self.crash(),
                4 => self.turn_weather(),
                _ => {}
            }
            if self.dice.chance(400) {
                self.advance();
            }
        }
        self.close();
    }

    fn turn_weather(&mut self) {
        if self.dice.chance(100) {
            // A bad time, and its end: everything heals by itself.
            let often = *self.dice.pick(&[0, 0, 0, 20, 1_000]);
            self.disk.troubles.write = often;
            self.disk.troubles.sync = often;
            self.disk.troubles.create = often / 2;
            self.disk.troubles.delete = often / 2;
            self.trace.line(format_args!("weather {often}"));
        }
    }

    fn append(&mut self, word: Word, id: u64) {
        let len = match self.dice.below(20) {
            0 if !self.is_tidy => self.dice.index(self.settings.buffer_bytes_max * 2),
            _ => self.dice.index(200),
        };
        let mut record = vec![word as u8];
        record.extend_from_slice(&id.to_le_bytes());
        record.resize(9 + len, id as u8);
        let life = &mut self.life;
        let lsn = life.next_lsn;
        life.next_lsn += 1;
        self.trace.line(format_args!("append {lsn} {word:?} {id} {len}"));
        life.writer.append(lsn, &record);
        life.appended.insert(lsn, record);
        life.open.push((lsn, word, id));
        match word {
            Word::Accepted | Word::Carried => life.live.insert(id, lsn),
            Word::Settled => life.live.remove(&id),
        };
    }

    fn accept(&mut self) {
        // What runs already appends whatever the state is.
        if self.life.writer.state() == State::Open || self.dice.chance(20) {
            let id = self.next_id;
            self.next_id += 1;
            self.seen.accepted += 1;
            self.append(Word::Accepted, id);
        }
    }

    fn settle(&mut self) {
        let known = self.life.live.len();
        let at = if self.dice.chance(900) { self.dice.index(known.min(8)) } else { self.dice.index(known) };
        if self.is_tidy {
            let is_safe = |(_, lsn): &(&u64, &u64)| **lsn <= self.life.durable;
            let done: Vec<u64> = self.life.live.iter().filter(is_safe).map(|(id, _)| *id).collect();
            done.into_iter().for_each(|id| self.settle_one(id));
            return;
        }
        let Some(id) = self.life.live.keys().nth(at).copied() else { return };
        // A few stay for long, and keep old files.
        if self.acknowledged.contains(&id) && (id % 16 != 0 || self.dice.chance(10)) {
            self.settle_one(id);
        }
    }

    fn settle_one(&mut self, id: u64) {
        self.seen.settled += 1;
        self.settled.insert(id);
        self.append(Word::Settled, id);
        self.release();
    }

    fn release(&mut self) {
        let life = &mut self.life;
        let needed = life.live.values().min().copied().unwrap_or(life.next_lsn);
        if life.released < needed - 1 {
            life.released = needed - 1;
            self.trace.line(format_args!("release {}", life.released));
            life.writer.release(life.released);
        }
    }

    /// Lets some time pass, and the disk work.
    fn work(&mut self) {
        let wanted = self.now + self.dice.millis(0, 10);
        let next = [self.disk.due(), self.life.writer.next_deadline()].into_iter().flatten().min();
        self.now = next.map_or(wanted, |next| next.min(wanted)).max(self.now);
        while let Some((name, done)) = self.disk.next(self.now) {
            self.trace.line(format_args!("done {} {}", name.segment, told(&done)));
            assert_eq!((name.lineage, name.shard), (self.life.lineage, SHARD));
            match &done {
                Done::Created(Err(Fault::NoSpace)) => self.life.no_space += 1,
                // That a file is gone does not say that there is room for another.
                Done::Deleted(_) => {}
                Done::Created(_) | Done::Written { .. } | Done::Synced(_) => self.life.no_space = 0,
            }
            self.life.writer.on_done(self.now, done);
            if self.dice.chance(700) {
                self.advance();
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        let mut deeds = std::mem::take(&mut self.deeds);
        self.life.writer.advance(self.now, UNIX_MILLIS, &mut deeds);
        self.check_sleep();
        let has_room = self.life.no_space < self.settings.failures_max;
        assert!(
            has_room || self.life.writer.state() != State::Open,
            "the disk is full, and new work is taken"
        );
        for deed in deeds.drain(..) {
            match &deed {
                Deed::Write { segment, offset, bytes } => {
                    self.trace.line(format_args!("Write {segment} at {offset}, {} bytes", bytes.len()));
                }
                Deed::Create { .. }
                | Deed::Sync { .. }
                | Deed::Delete { .. }
                | Deed::Durable { .. }
                | Deed::Carry { .. }
                | Deed::State { .. }
                | Deed::Closed => self.trace.line(format_args!("{deed:?}")),
            }
            let Some(deed) = self.disk.begin(self.now, (self.life.lineage, SHARD), deed) else { continue };
            match deed {
                Deed::Durable { lsn } => self.on_durable(lsn),
                Deed::Carry { lsn } => self.on_carry(lsn),
                Deed::State { state, .. } => match state {
                    State::Open => {}
                    State::Full => self.seen.full += 1,
                    State::Failed => self.seen.failed += 1,
                },
                Deed::Closed => self.trace.line(format_args!("closed")),
                Deed::Create { .. } | Deed::Write { .. } | Deed::Sync { .. } | Deed::Delete { .. } => {
                    unreachable!("the disk took it")
                }
            }
        }
        self.deeds = deeds;
        self.remove_older();
        let used = self.life.writer.disk_bytes();
        // Above it lies what frees a file where nothing fits.
        let bound = self.settings.disk_bytes_max / 8 * 9 + 3 * self.settings.buffer_bytes_max as u64;
        if self.life.writer.is_mending() {
            // What it takes to mend a hole may lie above the bound, and goes when it is mended.
            self.life.ceiling = self.life.ceiling.max(used + self.settings.segment_bytes);
        }
        assert!(used <= bound.max(self.life.ceiling), "{used} bytes on disk, more than {bound}");
        assert!(self.life.writer.buffered() <= 3 * self.settings.buffer_bytes_max, "the buffer is bounded");
    }

    /// Before the writer says it has something to do, and as long as nothing happens, it has not.
    fn check_sleep(&mut self) {
        if !self.dice_of_sleep.chance(50) {
            return;
        }
        let (mut writer, mut deeds) = (self.life.writer.clone(), Vec::new());
        let until = writer.next_deadline().map_or(self.now + DAY, |next| Time(next.0 - 1));
        writer.advance(until.max(self.now), UNIX_MILLIS, &mut deeds);
        assert!(deeds.is_empty(), "it sleeps, and has something to do: {deeds:?}");
    }

    fn on_durable(&mut self, lsn: u64) {
        let life = &mut self.life;
        assert!(
            life.durable < lsn && lsn < life.next_lsn,
            "it goes forward, and not beyond what was appended"
        );
        life.durable = lsn;
        let left_out = life.writer.counts().left_out;
        if life.left_out < left_out && lsn + 1 == life.next_lsn {
            self.seen.mended += 1;
            life.left_out = left_out;
        }
        life.open.retain(|(at, word, id)| {
            if lsn < *at {
                return true;
            }
            match word {
                Word::Accepted => drop(self.acknowledged.insert(*id)),
                Word::Carried => {}
                Word::Settled => drop(self.surely_settled.insert(*id)),
            }
            false
        });
    }

    /// Removes the files of earlier starts once all that was taken over is safe.
    fn remove_older(&mut self) {
        if let Some((files, after)) = &self.life.older
            && self.life.writer.is_safe(*after)
        {
            // A start removes them one by one; a crash may come between any two.
            let some = if self.dice.chance(500) { files.len() } else { self.dice.index(files.len() + 1) };
            files[..some].iter().for_each(|name| self.disk.remove(*name));
            if some == files.len() {
                self.life.older = None;
                self.life.writer.older_gone();
            }
        }
    }

    fn on_carry(&mut self, lsn: u64) {
        assert!(self.life.released < lsn && lsn < self.life.next_lsn, "what was released is not asked for");
        let live = self.life.live.iter().filter(|(_, at)| **at <= lsn);
        let mut old: Vec<(u64, u64)> = live.map(|(id, at)| (*at, *id)).collect();
        old.sort_unstable();
        // A shard carries a bounded number at once, and now and then it cannot.
        old.truncate(if self.dice.chance(100) { 0 } else { 8 });
        for (_, id) in old {
            self.seen.carried += 1;
            self.append(Word::Carried, id);
        }
        self.release();
        self.life.writer.carried(self.now);
    }

    /// The end of one life and the start of the next.
    fn crash(&mut self) {
        let cut = self.dice.chance(500);
        self.trace.line(format_args!("crash {}", if cut { "power" } else { "process" }));
        if cut {
            self.seen.cuts += 1;
            self.disk.cut();
        } else {
            self.seen.kills += 1;
            self.disk.kill();
        }
        if self.flips && self.dice.chance(500) {
            let flipped = self.disk.flip();
            self.trace.line(format_args!("flip {flipped:?}"));
            self.seen.flips += 1;
            self.is_damaged = true;
        }
        self.count();
        let shelves = self.disk.recover();
        // Only what is synced outlives the power; the other modes say so.
        let is_promised = !cut || self.mode == Mode::Always;
        let live = self.check(&shelves, is_promised);
        if !is_promised {
            self.forget_promises(&live);
        }
        self.disk.sync_all();
        self.begin_life(&live);
    }

    fn count(&mut self) {
        let counts = self.life.writer.counts();
        self.seen.faults += counts.failures;
        self.seen.left_out += counts.left_out;
        self.seen.segments += counts.segments_begun;
    }

    fn check(&mut self, shelves: &BTreeMap<(u64, u16), Shelf>, is_promised: bool) -> BTreeSet<u64> {
        let mut live = BTreeSet::new();
        let mut settled = BTreeSet::new();
        for ((lineage, shard), shelf) in shelves {
            assert_eq!(*shard, SHARD);
            self.trace.line(format_args!(
                "lineage {lineage}: {} records, lost {:?}, {:?}, {:?}",
                shelf.records.len(),
                shelf.lost,
                shelf.unreadable,
                shelf.last
            ));
            let mut before = 0;
            for (lsn, record) in &shelf.records {
                assert!(before < *lsn, "in order, and once");
                before = *lsn;
                if *lineage == self.life.lineage {
                    assert_eq!(self.life.appended.get(lsn), Some(record), "as it was");
                }
                let id = u64::from_le_bytes(record[1..9].try_into().unwrap());
                match record[0] {
                    0 | 1 => drop(live.insert(id)),
                    2 => drop(settled.insert(id)),
                    other => panic!("nobody wrote {other}"),
                }
            }
            self.check_losses(shelf, is_promised && *lineage == self.life.lineage);
            if *lineage == self.life.lineage && is_promised && !self.is_damaged {
                let found: BTreeSet<u64> = shelf.records.iter().map(|(lsn, _)| *lsn).collect();
                let promised = self.life.released + 1..=self.life.durable;
                for lsn in promised {
                    assert!(found.contains(&lsn), "{lsn} was durable and is not there");
                }
            }
        }
        live.retain(|id| !settled.contains(id));
        if is_promised && !self.is_damaged {
            for id in self.acknowledged.difference(&self.settled) {
                assert!(live.contains(id), "{id} was acknowledged and is lost");
            }
            for id in &live {
                assert!(!self.surely_settled.contains(id), "{id} was settled and is back");
            }
        }
        live
    }

    fn check_losses(&mut self, shelf: &Shelf, is_promised: bool) {
        for lost in &shelf.lost {
            let is_in = |(lsn, _): &&(u64, Vec<u8>)| (lost.first_lsn..=lost.last_lsn).contains(lsn);
            let found = shelf.records.iter().find(is_in).map(|(lsn, _)| lsn);
            assert!(
                lost.first_lsn <= lost.last_lsn && found.is_none(),
                "{found:?} is there, and called lost: {lost:?}"
            );
        }
        let proven = shelf.lost.iter().filter(|lost| lost.proven).count();
        if !self.is_damaged && is_promised {
            assert_eq!(proven, 0, "damage is claimed where there is none: {:?}", shelf.lost);
            // A header that was being written is not whole. What would follow it was never acknowledged, or is elsewhere:
            // were it not, it would be missing between its neighbours.
            let torn = |(_, why): &(Name, Unreadable)| *why == Unreadable::Damaged;
            assert!(shelf.unreadable.iter().all(torn), "{:?}", shelf.unreadable);
        }
        self.seen.proven += proven as u64;
        self.seen.torn += u64::from(shelf.last.is_some_and(|end| end.torn));
    }

    /// What a mode does not promise through a loss of power is not asked for later.
    fn forget_promises(&mut self, live: &BTreeSet<u64>) {
        self.acknowledged.retain(|id| live.contains(id));
        self.surely_settled.retain(|id| !live.contains(id));
    }

    fn begin_life(&mut self, live: &BTreeSet<u64>) {
        if self.is_damaged {
            self.forget_promises(live);
            // Where a sync failed before, the good copy of what is damaged may be one that the platter never had.
            self.is_damaged = self.disk.has_lied;
        }
        // What comes back unsettled is answered again.
        self.settled.retain(|id| !live.contains(id));
        let files = self.disk.names();
        self.life =
            Life::new(self.life.lineage + 1, 1 + self.dice.below(3), &self.settings, files, &mut self.dice);
        for id in live {
            self.append(Word::Carried, *id);
        }
        if let Some((_, after)) = &mut self.life.older {
            *after = self.life.next_lsn - 1;
        }
        self.advance();
    }

    /// An orderly end: everything is durable then.
    fn close(&mut self) {
        self.disk.troubles = Troubles { bytes_max: u64::MAX, ..Troubles::default() };
        self.life.writer.close();
        for _ in 0..100_000 {
            // What the shard appends when it is told of something waits for the next turn.
            (0..3).for_each(|_| self.advance());
            let next = [self.disk.due(), self.life.writer.next_deadline()].into_iter().flatten().min();
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            self.work();
        }
        self.count();
        self.seen.reused = self.disk.reused;
        assert_eq!(self.life.writer.buffered(), 0, "nothing fails any more, and it is not written");
        // Without a sync of ours, or after one that failed in an earlier life, the system alone knows what is where.
        let is_synced = match self.mode {
            Mode::Always => true,
            Mode::Interval(_) => !self.disk.has_lied,
            Mode::Os => false,
        };
        if is_synced {
            self.disk.cut()
        } else {
            self.disk.kill()
        }
        let shelves = self.disk.recover();
        let _ = self.check(&shelves, true);
    }
}

fn told(done: &Done) -> String {
    match done {
        Done::Written { bytes, result } => format!("Written {} bytes {result:?}", bytes.len()),
        Done::Created(_) | Done::Synced(_) | Done::Deleted(_) => format!("{done:?}"),
    }
}

impl Life {
    fn new(lineage: u64, first_lsn: u64, settings: &Settings, older: Vec<Name>, dice: &mut Dice) -> Self {
        let has_older = !older.is_empty();
        let owner = Owner { lineage, shard: SHARD, salt: dice.next(), first_lsn, has_older };
        Self {
            lineage,
            writer: Writer::new(settings.clone(), owner),
            next_lsn: first_lsn,
            appended: BTreeMap::new(),
            durable: first_lsn - 1,
            released: first_lsn - 1,
            live: BTreeMap::new(),
            open: Vec::new(),
            older: has_older.then_some((older, u64::MAX)),
            left_out: 0,
            no_space: 0,
            ceiling: 0,
        }
    }
}
