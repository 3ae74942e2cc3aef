//! The clock, what will happen, and what happens next.
use super::gateway::{Input, Life, UNIX_MILLIS};
use super::ledger::Ledger;
use super::links::Kinship;
use super::marks::Marks;
use super::people::{Listener, Place, Purpose, places};
use super::restart::{Begin, plan};
use super::store::{Mood, Store};
use crate::dice::Dice;
use crate::disk::{Disk, Troubles};
use crate::trace::Trace;
use clawgate_core::effect::Effects;
use clawgate_core::home::Secret;
use clawgate_core::id::{SessionId, Uid};
use clawgate_core::journal::writer::{Done, Mode, Settings};
use clawgate_core::time::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What will happen.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// An update is sent again unless it was acknowledged.
    Resend(usize),
    /// A client comes back.
    Return(usize),
    /// Something reaches a shard, if the process still lives.
    Input(usize, Input),
}

/// Everything.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    pub(crate) marks: Marks,
    pub(crate) step: u64,
    pub(crate) now: Time,
    pub(crate) secret: Secret,
    pub(crate) places: Vec<Place>,
    pub(crate) kinship: Kinship,
    pub(crate) settings: Settings,
    pub(crate) disk: Disk,
    pub(crate) store: Store,
    /// Questions to the store: what must be durable first, who asks, and about what.
    pub(crate) loads: Vec<(u64, usize, SessionId, usize)>,
    pub(crate) ledger: Ledger,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) tickets: Vec<Purpose>,
    pub(crate) calls: u64,
    agenda: BTreeMap<(Time, u64), (u64, Act)>,
    acts: u64,
    pub(crate) life: Life,
    pub(crate) out: Effects,
    /// How far the system's clock is ahead of ours, microseconds.
    pub(crate) clock_micros: u64,
    /// Everything is there, and nothing fails any more.
    pub(crate) is_resting: bool,
}

impl World {
    pub(crate) fn new(seed: u64, has_links: bool, echo: bool) -> Self {
        let mut dice = Dice::new(seed ^ 0xCAFE);
        let mode = match dice.below(8) {
            0 => Mode::Interval(Duration::from_millis(20)),
            1 => Mode::Os,
            _ => Mode::Always,
        };
        let segment_bytes = 8_192 << dice.below(2);
        let settings = Settings {
            mode,
            segment_bytes,
            disk_bytes_max: segment_bytes * dice.between(8, 14),
            buffer_bytes_max: usize::try_from(segment_bytes / 2).unwrap(),
            failures_max: 3,
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(200),
        };
        let troubles = Troubles {
            slow_millis: *dice.pick(&[0, 2, 10]),
            bytes_max: 16 * settings.disk_bytes_max,
            ..Troubles::default()
        };
        let secret = Secret([dice.next(), dice.next()]);
        let clock_micros = UNIX_MILLIS * 1_000;
        let (born, unix_micros) = (Time::ZERO, clock_micros);
        let mut places = places();
        let kinship = if has_links { Kinship::draw(seed, &mut places) } else { Kinship::default() };
        let uid_after = Uid(0);
        let plan = Arc::new(plan(&mut dice, false, (&kinship, &places)));
        let begin = Begin { lineage: 1, born, unix_micros, uid_after, plan };
        let life = Life::new(&mut dice, &settings, secret, begin);
        Self {
            disk: Disk::new(seed, troubles),
            settings,
            store: Store::new(),
            loads: Vec::new(),
            ledger: Ledger::default(),
            listeners: Vec::new(),
            tickets: Vec::new(),
            calls: 0,
            agenda: BTreeMap::new(),
            acts: 0,
            trace: Trace::new(echo),
            marks: Marks::default(),
            step: 0,
            now: Time::from_millis(1),
            secret,
            places,
            kinship,
            life,
            out: Effects::new(),
            clock_micros,
            is_resting: false,
            dice,
        }
    }

    pub(crate) fn later(&mut self, at: Time, act: Act) {
        self.acts += 1;
        self.agenda.insert((at, self.acts), (self.life.lineage, act));
    }

    pub(crate) fn step(&mut self) {
        self.step += 1;
        match self.dice.weighted(&[14, 2, 3, 3, 3, 70, 3]) {
            0 => self.write(),
            1 => self.repeat(),
            2 => self.leave(),
            3 => self.operate(),
            4 => self.replay(),
            5 => self.advance(),
            _ => self.turn_weather(),
        }
        self.run_inputs();
        if self.life.fuse.is_none() && self.dice.below(1_000) == 0 {
            self.life.fuse = Some(1 + u32::try_from(self.dice.below(40)).unwrap());
        }
        if self.life.is_dead {
            self.restart();
        }
    }

    fn turn_weather(&mut self) {
        if self.dice.chance(300) {
            let mood = *self.dice.pick(&[Mood::Quick, Mood::Quick, Mood::Slow, Mood::Slow, Mood::Down]);
            self.trace.line(format_args!("the store is {mood:?}"));
            self.store.set_mood(mood);
        }
        if self.dice.chance(200) {
            let often = *self.dice.pick(&[0, 0, 0, 0, 20, 200, 1_000]);
            self.trace.line(format_args!("the disk fails {often}"));
            self.disk.troubles.write = often;
            self.disk.troubles.sync = often;
            self.disk.troubles.create = often / 2;
            self.disk.troubles.delete = often / 2;
        }
    }

    /// Lets time pass up to what happens next, and that happen.
    pub(crate) fn advance(&mut self) {
        let wanted = self.now + self.dice.millis(0, 12);
        let next = self.next_at();
        self.now = next.map_or(wanted, |next| next.min(wanted)).max(self.now);
        self.trace.line(format_args!("at {}", self.now.0 / 1_000));
        self.work_disk();
        if self.store.due(self.now, &mut self.dice).is_some_and(|due| due <= self.now) {
            for (shard, save) in self.store.commit(&mut self.dice) {
                self.push(shard, Input::Saved { save });
            }
        }
        self.answer_loads();
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (lineage, act) = entry.remove();
            match act {
                Act::Resend(number) => self.resend(number),
                Act::Return(number) => self.return_now(number),
                Act::Input(shard, input) if lineage == self.life.lineage => self.push(shard, input),
                Act::Input(..) => {}
            }
        }
        self.run_inputs();
        for shard in 0..self.life.shards.len() {
            if self.life.is_dead {
                return;
            }
            if self.life.shards[shard].next_deadline().is_some_and(|due| due <= self.local()) {
                self.tick(shard);
                self.run_inputs();
            }
            if self.dice.chance(800) {
                self.turn_journal(shard);
            }
        }
        self.remove_older();
    }

    /// When something happens next.
    fn next_at(&mut self) -> Option<Time> {
        let born = self.life.born;
        let own = self.life.writers.iter().filter_map(|writer| writer.next_deadline());
        let own = own.chain(self.life.shards.iter().filter_map(|shard| shard.next_deadline()));
        let own = own.chain(self.disk.due()).min().map(|at| Time(at.0 + born.0));
        let store = self.store.due(self.now, &mut self.dice);
        let agenda = self.agenda.keys().next().map(|(at, _)| *at);
        [own, store, agenda].into_iter().flatten().min()
    }

    fn work_disk(&mut self) {
        let local = self.local();
        while let Some((name, done)) = self.disk.next(local) {
            assert_eq!(name.lineage, self.life.lineage);
            let has_gone = matches!(done, Done::Deleted(_) | Done::Created(_));
            if !matches!(done, Done::Written { .. }) {
                self.trace.line(format_args!("{} {} {done:?}", name.shard, name.segment));
            }
            let shard = usize::from(name.shard);
            self.life.writers[shard].on_done(local, done);
            if self.burn() || (has_gone && !self.is_resting && self.dice.chance(8)) {
                self.life.is_dead = true;
                return;
            }
            self.turn_journal(shard);
        }
    }

    /// The store answers questions about which it knows all that was saved before they were asked.
    fn answer_loads(&mut self) {
        let mut index = 0;
        while let Some(&(after, shard, id, session)) = self.loads.get(index) {
            let is_ready = after <= self.store.done;
            let gives_up = self.dice.chance(4);
            let pause = if is_ready { self.store.read_pause(&mut self.dice) } else { None };
            let answer = match pause {
                Some(pause) => Some((pause, Some(session))),
                None if gives_up => Some((Duration::ZERO, None)),
                None => None,
            };
            let Some((pause, session)) = answer else {
                index += 1;
                continue;
            };
            self.loads.remove(index);
            self.later(self.now + pause, Act::Input(shard, Input::Loaded { id, session }));
        }
    }

    /// Is nothing under way outside of the shards?
    pub(crate) fn is_quiet(&self) -> bool {
        let is_moot = |(lineage, act): &(u64, Act)| match act {
            Act::Resend(number) => self.ledger.messages[*number].acked,
            Act::Return(_) => false,
            Act::Input(..) => *lineage != self.life.lineage,
        };
        self.agenda.values().all(is_moot) && self.loads.is_empty() && self.disk.due().is_none()
    }
}
