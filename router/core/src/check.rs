//! What must hold whatever happened: a sweep over everything in memory, after every event in debug builds.
use crate::shard::Shard;
use crate::slots::NONE;
use crate::turn::{Holds, NOWHERE, State, Turn};
use alloc::vec;
use alloc::vec::Vec;

/// What turns hold, counted by place.
struct Sums {
    waiting: Vec<u32>,
    agents: Vec<u32>,
    models: Vec<u32>,
    queued: Vec<u32>,
}

impl Shard {
    /// Checks every invariant over everything in memory.
    ///
    /// # Panics
    /// If one does not hold: that is a bug here, whatever the caller did.
    pub fn check(&self) {
        let sums = self.check_turns();
        self.check_places(&sums);
        self.check_sessions();
        self.dedup.check();
        self.lookups.check();
        assert_eq!(self.turns_lease.used(), self.turns.len(), "each turn has its unit");
        self.turns_lease.check();
        self.sessions_lease.check();
        assert!(self.marked.is_empty() && self.errands.is_empty(), "all that was marked was served");
    }

    fn check_turns(&self) -> Sums {
        let (desks, lines) = (self.places.desks.len(), self.places.lines.len());
        let mut sums = Sums {
            waiting: vec![0; desks],
            agents: vec![0; desks],
            models: vec![0; lines],
            queued: vec![0; desks],
        };
        let mut timers = 0;
        for (slot, _, turn) in self.turns.iter_from(0) {
            self.check_turn(slot, turn);
            timers += usize::from(self.timers.holds(turn.timer));
            if turn.desk != NOWHERE {
                let desk = usize::from(turn.desk);
                sums.waiting[desk] += u32::from(turn.holds.waiting);
                sums.agents[desk] += u32::from(turn.holds.agent);
                sums.queued[desk] += u32::from(turn.state == State::Ready && turn.errand.is_none());
            }
            if turn.holds.model {
                sums.models[usize::from(turn.line)] += 1;
            }
        }
        assert_eq!(timers, self.timers.len(), "each timer is a turn's");
        sums
    }

    fn check_turn(&self, slot: u32, turn: &Turn) {
        let session = self.sessions.at(turn.session);
        assert!(session.is_some_and(|session| !session.dead), "turn {slot} has a session: {turn:?}");
        let first = session.is_some_and(|session| session.current == slot);
        assert_eq!(first, turn.state != State::Waiting, "only the first of a session is served: {turn:?}");
        let Holds { waiting, agent, model } = turn.holds;
        let held = match turn.state {
            State::Waiting => waiting != turn.errand.is_some() && !agent && !model,
            State::Loading => waiting && !agent && !model && turn.errand.is_none(),
            // Never started: a waiting place; started: the agent's.
            State::Ready => !model && waiting != agent && turn.errand.is_none(),
            State::Running => !waiting && agent && model,
            State::BackingOff => waiting != agent && !model,
            State::Delivering => !waiting && !agent && !model,
        };
        assert!(held, "a turn holds what its state needs and no more: {turn:?}");
        let deadline = turn.deadline(&self.plan.limits);
        let armed = self.timers.holds(turn.timer) && deadline.is_some_and(|deadline| turn.armed <= deadline);
        // A new plan's shorter limits are looked at when the old ones are over.
        assert!(armed || deadline.is_none() || self.timers.holds(turn.timer), "it has a timer: {turn:?}");
        let kept = turn.reply.len() <= turn.reply_bytes as usize || turn.state == State::Delivering;
        assert!(kept, "no more is kept than came: {turn:?}");
    }

    fn check_places(&self, sums: &Sums) {
        for (n, desk) in self.places.desks.iter().enumerate() {
            let queued = desk.queue.lens().iter().sum::<u32>() + desk.resumed.len();
            let counts = (desk.waiting.used(), desk.running.used(), queued);
            assert_eq!(counts, (sums.waiting[n], sums.agents[n], sums.queued[n]), "places of {}", desk.name);
            desk.waiting.check();
            desk.running.check();
            assert!(!desk.marked && !desk.nudged && desk.freed == 0, "{} was served", desk.name);
            let waits = !desk.is_empty();
            assert!(waits == desk.announced || self.renewed, "{} waits and says so", desk.name);
        }
        for (n, line) in self.places.lines.iter().enumerate() {
            assert_eq!(line.running.used(), sums.models[n], "calls of {}", line.name);
            line.running.check();
            line.breaker.check(&line.plan);
        }
    }

    fn check_sessions(&self) {
        let (mut living, mut idle, mut dead) = (0, 0, 0);
        for (slot, _, session) in self.sessions.iter_from(0) {
            let found = self.index.find(session.hash, |found| found == slot);
            assert_eq!(found.is_some(), !session.dead, "a living session is found: {session:?}");
            living += u32::from(!session.dead);
            dead += u32::from(session.dead);
            idle += u32::from(session.current == NONE && !session.dead);
            assert!(session.current != NONE || session.waiting.is_empty(), "somebody is first: {session:?}");
            let (mut next, mut count) = (session.waiting.head(), 0);
            while let Some(turn) = self.turns.at(next) {
                assert!(turn.session == slot && turn.state == State::Waiting, "it waits here: {turn:?}");
                (next, count) = (turn.link.next(), count + 1);
            }
            assert_eq!(count, session.waiting.len(), "all that wait are in the list");
            session.history.check();
        }
        assert_eq!(living as usize, self.index.len(), "nothing else is found");
        assert_eq!(
            (idle, dead as usize),
            (self.idle.len(), self.graves.len()),
            "idle and dead ones are listed"
        );
        assert_eq!(self.sessions_lease.used(), living, "each session has its unit");
        let (mut next, mut count, mut last) = (self.idle.head(), 0, crate::time::Time::ZERO);
        while let Some(session) = self.sessions.at(next) {
            assert!(session.current == NONE && last <= session.active, "the longest idle is first");
            (next, count, last) = (session.link.next(), count + 1, session.active);
        }
        assert_eq!(count, self.idle.len(), "the list of idle ones has all of them");
    }
}
