//! A store that is written behind: it takes saves in order, makes them durable in batches, sooner or later, and at a crash
//! has any part of what it had not confirmed. It obeys the contract of the real one: a row that is there stays, a later
//! revision wins, what was forgotten does not come back.
use crate::dice::Dice;
use clawgate_core::codes::Code;
use clawgate_core::event::Sight;
use clawgate_core::id::Uid;
use clawgate_core::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Writes that wait beyond which some are not taken.
const CROWD: usize = 60;

/// A dead letter, as far as a replay needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Where it came from.
    pub(crate) place: usize,
    pub(crate) outbound: bool,
    pub(crate) text: String,
    /// The answer, where only its delivery failed.
    pub(crate) reply: Option<String>,
    pub(crate) parts: u16,
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Said {
        session: usize,
        uid: Uid,
        text: String,
        reply: String,
    },
    Session {
        session: usize,
        revision: Uid,
        history_from: Uid,
    },
    Closed {
        session: usize,
        revision: Uid,
    },
    Seen {
        mark: [u64; 2],
        unix_millis: u64,
    },
    Dead {
        uid: Uid,
        letter: Letter,
    },
    Revived {
        uid: Uid,
    },
    /// For a shard alone.
    Ended {
        mark: [u64; 2],
        ending: Result<String, Code>,
    },
}

/// A write on its way, and who is to hear of it: a shard and its number of the save, or nobody.
#[derive(Clone, Debug)]
struct Waiting {
    op: Op,
    confirm: Option<(usize, u64)>,
}

/// How it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Quick,
    Slow,
    Down,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    rows: BTreeMap<(usize, Uid), (String, String)>,
    /// The revision of each session, 0 where only rows are there, and from where on its history counts. A closed one
    /// leaves nothing behind but what was said since.
    sessions: BTreeMap<usize, (Uid, Uid)>,
    pub(crate) letters: BTreeMap<Uid, Letter>,
    pub(crate) seen: BTreeMap<[u64; 2], u64>,
    waiting: VecDeque<Waiting>,
    /// Writes that were ever taken, and that are durable.
    pub(crate) taken: u64,
    pub(crate) done: u64,
    pub(crate) mood: Mood,
    due: Option<Time>,
}

impl Store {
    pub(crate) const fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            sessions: BTreeMap::new(),
            letters: BTreeMap::new(),
            seen: BTreeMap::new(),
            waiting: VecDeque::new(),
            taken: 0,
            done: 0,
            mood: Mood::Quick,
            due: None,
        }
    }

    pub(crate) fn take(&mut self, op: Op, confirm: Option<(usize, u64)>) {
        self.waiting.push_back(Waiting { op, confirm });
        self.taken += 1;
    }

    /// Does more wait than should?
    pub(crate) fn is_crowded(&self) -> bool {
        CROWD < self.waiting.len()
    }

    /// When the next batch is durable.
    pub(crate) fn due(&mut self, now: Time, dice: &mut Dice) -> Option<Time> {
        if self.waiting.is_empty() {
            self.due = None;
        } else if self.due.is_none() {
            let pause = match self.mood {
                Mood::Quick => dice.millis(0, 8),
                Mood::Slow => dice.millis(50, 600),
                Mood::Down => return None,
            };
            self.due = Some(now + pause);
        }
        self.due
    }

    pub(crate) fn set_mood(&mut self, mood: Mood) {
        (self.mood, self.due) = (mood, None);
    }

    /// Makes a batch durable; the confirmations that go out.
    pub(crate) fn commit(&mut self, dice: &mut Dice) -> BTreeMap<usize, u64> {
        self.due = None;
        let count = 1 + dice.index(12);
        let mut confirmed = BTreeMap::new();
        for _ in 0..count {
            let Some(Waiting { op, confirm }) = self.waiting.pop_front() else { break };
            self.apply(op);
            self.done += 1;
            if let Some((shard, save)) = confirm {
                confirmed.insert(shard, save);
            }
        }
        confirmed
    }

    /// The process dies: a batch that was under way may be there.
    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        let written = if dice.chance(500) { 0 } else { dice.index(self.waiting.len() + 1) };
        for Waiting { op, .. } in self.waiting.drain(..written).collect::<Vec<_>>() {
            self.apply(op);
        }
        self.done += self.waiting.len() as u64 + written as u64;
        self.waiting.clear();
        self.due = None;
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Said { session, uid, text, reply } => {
                let (_, from) = *self.sessions.entry(session).or_default();
                if from <= uid {
                    self.rows.entry((session, uid)).or_insert((text, reply));
                }
            }
            Op::Session { session, revision, history_from } => {
                if self.sessions.get(&session).is_none_or(|(old, _)| *old < revision) {
                    self.sessions.insert(session, (revision, history_from));
                    self.rows.retain(|(other, uid), _| *other != session || history_from <= *uid);
                }
            }
            Op::Closed { session, revision } => {
                if self.sessions.get(&session).is_some_and(|(old, _)| *old <= revision) {
                    self.sessions.remove(&session);
                    self.rows.retain(|(other, uid), _| *other != session || revision <= *uid);
                    if self.rows.range((session, Uid(0))..(session + 1, Uid(0))).next().is_some() {
                        self.sessions.insert(session, (Uid(0), Uid(0)));
                    }
                }
            }
            Op::Seen { mark, unix_millis } => drop(self.seen.entry(mark).or_insert(unix_millis)),
            Op::Dead { uid, letter } => drop(self.letters.entry(uid).or_insert(letter)),
            Op::Revived { uid } => drop(self.letters.remove(&uid)),
            Op::Ended { .. } => panic!("no store is told of that"),
        }
    }

    /// Is the session there, and from where on does its history count?
    pub(crate) fn session(&self, session: usize) -> (bool, Uid) {
        let (revision, from) = self.sessions.get(&session).copied().unwrap_or_default();
        (revision != Uid(0), from)
    }

    /// What was said in a session.
    pub(crate) fn history(&self, session: usize) -> Vec<(String, String)> {
        if !self.session(session).0 {
            return Vec::new();
        }
        let rows = self.rows.range((session, Uid(0))..(session + 1, Uid(0)));
        rows.map(|(_, said)| said.clone()).collect()
    }

    pub(crate) const fn rows(&self) -> &BTreeMap<(usize, Uid), (String, String)> {
        &self.rows
    }

    /// What it knows of an event id.
    pub(crate) fn sight(&self, mark: &[u64; 2]) -> Sight {
        self.seen.get(mark).map_or(Sight::Never, |unix_millis| Sight::At { unix_millis: *unix_millis })
    }

    /// The latest name that it holds.
    pub(crate) fn last_uid(&self) -> Uid {
        let rows = self.rows.keys().map(|(_, uid)| *uid);
        let letters = self.letters.keys().copied();
        let revisions = self.sessions.values().map(|(revision, _)| *revision);
        rows.chain(letters).chain(revisions).max().unwrap_or_default()
    }

    /// How long a question takes; `None` where it is not answered.
    pub(crate) fn read_pause(&self, dice: &mut Dice) -> Option<Duration> {
        match self.mood {
            Mood::Quick => Some(dice.millis(0, 10)),
            Mood::Slow => Some(dice.millis(20, 400)),
            Mood::Down => None,
        }
    }
}
