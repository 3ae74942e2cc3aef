//! What a session remembers beyond this process: asked for when somebody writes to it again, saved as it changes.
//!
//! A session that was not asked for yet is *cold*. The first turn that needs a model waits until the store has answered,
//! at most so long; then the agent decides whether it goes on without.
use crate::admit::Whose;
use crate::codes::Code;
use crate::effect::{Effect, Effects, Saved};
use crate::event::{Inbound, Stored};
use crate::history::History;
use crate::id::{SessionId, Uid};
use crate::session::Born;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::turn::State;
use core::time::Duration;

/// A session that only talks is saved no more often than this; its history is saved with each turn.
const SAVE_PAUSE: Duration = Duration::from_secs(30);

/// The revision of a row that gives way to any other.
const BARE: Uid = Uid(1);

/// What a session knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Memory {
    /// All there is.
    #[default]
    Warm,
    /// The store was not asked.
    Cold,
    /// The store was asked.
    Loading,
}

impl Shard {
    /// The first turn of a session waits for its places, or before that for what the store knows of the session.
    pub(crate) fn come_forward(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let (place, forgetful) = (turn.session, turn.errand.is_some() || !turn.content.is_words());
        let Some(session) = self.sessions.at_mut(place) else { return };
        if session.memory == Memory::Warm || forgetful {
            self.queue_up(slot);
            return;
        }
        (turn.state, turn.until) = (State::Loading, self.now + self.plan.limits.load_age_max);
        if core::mem::replace(&mut session.memory, Memory::Loading) == Memory::Cold {
            self.counters.loads += 1;
            let session = self.session_id(place);
            out.push(Effect::Load { session });
        }
        self.arm(slot);
    }

    pub(crate) fn on_loaded(&mut self, id: SessionId, stored: Option<&Stored<'_>>, out: &mut Effects) {
        let session = self.sessions.get_mut(id.slot, id.generation);
        let Some(session) = session.filter(|session| !session.dead && session.memory == Memory::Loading)
        else {
            return;
        };
        match stored {
            Some(stored) => {
                session.memory = Memory::Warm;
                self.counters.loaded += 1;
                self.fill(id.slot, stored);
            }
            None => {
                session.memory = Memory::Cold;
                self.counters.not_loaded += 1;
            }
        }
        let current = self.sessions.at(id.slot).map_or(NONE, |session| session.current);
        if self.turns.at(current).is_some_and(|turn| turn.state == State::Loading) {
            self.go_on(current, stored.is_some(), out);
        } else if current == NONE {
            // An operator changed it before it was known.
            self.save_idle(id.slot, out);
        }
    }

    /// An operator works on a session that was not in memory.
    pub(crate) fn on_recalled(&mut self, inbound: &Inbound<'_>, stored: &Stored<'_>, out: &mut Effects) {
        let Some(post) = self.places.post_of(inbound.channel) else { return };
        let Whose { hash, post, session, .. } = self.whose(inbound, post);
        if session.is_some() {
            return;
        }
        let Some(slot) = self.session_again(hash, post, inbound, out) else { return };
        if let Some(session) = self.sessions.at_mut(slot) {
            session.memory = Memory::Warm;
        }
        self.fill(slot, stored);
    }

    /// The store did not answer in time.
    pub(crate) fn on_load_due(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        if let Some(session) = self.sessions.at_mut(turn.session) {
            session.memory = Memory::Cold;
        }
        self.counters.not_loaded += 1;
        self.go_on(slot, false, out);
    }

    fn go_on(&mut self, slot: u32, loaded: bool, out: &mut Effects) {
        let desk = self.turns.at(slot).and_then(|turn| self.places.desk(turn.desk));
        if !loaded && desk.is_some_and(|desk| desk.history && desk.needs_history) {
            let wait = crate::turn::millis(self.plan.limits.load_age_max);
            self.fail(slot, Code::StoreUnavailable, "", wait, out);
            return;
        }
        self.queue_up(slot);
        self.arm(slot);
    }

    fn fill(&mut self, slot: u32, stored: &Stored<'_>) {
        let limits = &self.plan.limits;
        let Some(session) = self.sessions.at_mut(slot) else { return };
        session.messages = session.messages.saturating_add(stored.messages);
        session.stored |= stored.found;
        if stored.created_millis != 0 {
            session.born = Born::before(stored.created_millis);
        }
        session.history = History::default();
        session.history.push(stored.history, limits);
        session.set_before(stored.context, limits);
        session.running_mode = session.running_mode.or(stored.mode);
        session.history_from = session.history_from.max(stored.history_from);
        if !session.assigned && !stored.agent.is_empty() {
            self.assign_again(slot, stored.agent);
        }
    }

    /// An operator gave the session this agent in an earlier life: it answers what waits, unless that was asked of
    /// another one by name.
    fn assign_again(&mut self, slot: u32, agent: &str) {
        let found = self.places.desks.iter().position(|desk| *desk.name == *agent && desk.id.is_some());
        let Some(desk) = found.and_then(|at| u16::try_from(at).ok()) else { return };
        let Some(session) = self.sessions.at_mut(slot) else { return };
        (session.desk, session.assigned) = (desk, true);
        let (current, mut next) = (session.current, session.waiting.head());
        self.move_to_desk(current, desk);
        while let Some(turn) = self.turns.at(next) {
            let following = turn.link.next();
            self.move_to_desk(next, desk);
            next = following;
        }
    }

    fn move_to_desk(&mut self, slot: u32, to: u16) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        if turn.asked || turn.desk == to || !turn.holds.waiting {
            return;
        }
        let from = core::mem::replace(&mut turn.desk, to);
        if let Some(desk) = self.places.desks.get_mut(usize::from(from)) {
            desk.waiting.give(&self.bounds.agent_at(desk.seat).waiting);
        }
        if let Some(desk) = self.places.desks.get_mut(usize::from(to)) {
            desk.waiting.force(&self.bounds.agent_at(desk.seat).waiting);
        }
    }

    /// Something of a session was changed by an operator. What the store knows of it is asked for first: half of it must
    /// not take the place of the whole.
    pub(crate) fn save_change(&mut self, slot: u32, out: &mut Effects) {
        let Some(session) = self.sessions.at_mut(slot) else { return };
        session.unsaved = true;
        match session.memory {
            Memory::Warm => self.save_session(slot, out),
            Memory::Loading => {}
            Memory::Cold => {
                session.memory = Memory::Loading;
                self.counters.loads += 1;
                let session = self.session_id(slot);
                out.push(Effect::Load { session });
            }
        }
    }

    /// Saves a session's own data, if all of it is known.
    pub(crate) fn save_session(&mut self, slot: u32, out: &mut Effects) {
        let is_whole = self.sessions.at(slot).is_some_and(|session| session.memory == Memory::Warm);
        if !(self.log.store && is_whole) {
            return;
        }
        let revision = self.log.uid(self.now);
        self.save_session_as(slot, revision, 0, out);
    }

    /// As [`Self::save_session`], under a name that the record of this number holds too; none where it is 0.
    pub(crate) fn save_session_as(&mut self, slot: u32, revision: Uid, floor: u64, out: &mut Effects) {
        let (now, session) = (self.now, self.session_id(slot));
        let Some(own) = self.sessions.at_mut(slot).filter(|_| self.log.store) else { return };
        own.is_saved(now);
        let history_from = own.history_from;
        let save = self.log.save(floor);
        let saved = Saved::Session { revision, history_from };
        out.push(Effect::Save { save, session, needed: floor != 0, saved });
    }

    /// Saves a session that became idle, if it has been long since the last time and the store outlives us.
    pub(crate) fn save_idle(&mut self, slot: u32, out: &mut Effects) {
        let session = self.sessions.at(slot).filter(|session| session.unsaved && self.log.outlives);
        if session.is_some_and(|own| own.is_save_due(self.now, SAVE_PAUSE)) {
            self.save_session(slot, out);
        }
    }

    /// What was said in a turn joins the history: that is saved at once, or once the answer is on disk.
    pub(crate) fn remember_said(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        turn.history = true;
        turn.unsaid = turn.lsn != 0;
        if !turn.unsaid {
            self.save_said(slot, out);
        }
    }

    /// What is said in a session that the store does not know nobody finds again: it gets a row that gives way to any
    /// other, also where what the store knows of it was not asked for.
    fn save_bare(&mut self, slot: u32, floor: u64, out: &mut Effects) {
        let id = self.session_id(slot);
        let Some(session) = self.sessions.at_mut(slot).filter(|session| !session.stored) else { return };
        session.stored = true;
        let saved = Saved::Session { revision: BARE, history_from: session.history_from };
        let save = self.log.save(floor);
        out.push(Effect::Save { save, session: id, needed: floor != 0, saved });
    }

    /// Saves what was said in a turn.
    pub(crate) fn save_said(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot).filter(|turn| self.log.store && !turn.forgets) else { return };
        let (uid, floor, place) = (turn.uid, turn.lsn, turn.session);
        let session = self.session_id(place);
        self.save_bare(place, floor, out);
        let Some(turn) = self.turns.at(slot) else { return };
        let asked = if turn.outbound { "" } else { turn.text() };
        let (text, reply) = (out.keep(asked), out.keep(&turn.reply));
        let save = self.log.save(floor);
        out.push(Effect::Save { save, session, needed: floor != 0, saved: Saved::Said { uid, text, reply } });
    }

    /// Saves that an event id was seen; what says so in the journal is kept until then.
    pub(crate) fn save_seen(&mut self, mark: [u64; 2], floor: u64, out: &mut Effects) {
        let save = self.log.save(floor);
        let (session, unix_millis) = (SessionId::default(), self.log.unix_millis(self.now));
        out.push(Effect::Save {
            save,
            session,
            needed: floor != 0,
            saved: Saved::Seen { mark, unix_millis },
        });
    }
}
