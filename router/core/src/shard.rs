//! The shard: one match on [`Event`], one handler each. It owns sessions and turns; it knows no clock and no socket.
//!
//! What happens to a message is told file by file: `admit` lets it in, `dispatch` gives it a place at its agent,
//! `call` follows the model's answer and decides on retries, `deliver` brings the answer to a platform, `settle` ends
//! the turn; `operate` is the operator's part, `check` what must hold whatever happened.
//!
//! A handler never starts another turn by itself: it marks agents whose queue or places changed, and all of them are
//! served at the end of the event. So nothing recurses, however many turns one event ends.
use crate::bounds::{Bounds, Lease};
use crate::closed::Closed;
use crate::counters::Counters;
use crate::dedup::Dedup;
use crate::effect::{Effect, Effects, Notice};
use crate::event::Event;
use crate::home::Secret;
use crate::id::{AgentId, CallId, SessionId, ShardId, TurnId};
use crate::index::Index;
use crate::kept::Kept;
use crate::list::List;
use crate::log::Log;
use crate::lookup::Lookups;
use crate::places::Places;
use crate::plan::Plan;
use crate::random::Random;
use crate::route::Strategy;
use crate::session::Session;
use crate::slots::Slots;
use crate::texts::Texts;
use crate::time::Time;
use crate::timers::{Key, Timers};
use crate::turn::{State, Turn};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Sessions forgotten in one tick for being idle too long; the rest follow in the next.
const EXPIRED_MAX: u32 = 256;

/// One shard: a part of all sessions, and everything that happens to them.
#[derive(Debug)]
pub struct Shard {
    pub(crate) id: ShardId,
    pub(crate) plan: Arc<Plan>,
    /// The plan's strategy, with scratch memory of its own where it searches texts.
    pub(crate) route: Strategy,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) secret: Secret,
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) places: Places,
    pub(crate) sessions: Slots<Session>,
    pub(crate) index: Index,
    /// Idle sessions, the longest idle first.
    pub(crate) idle: List,
    /// Forgotten sessions whose address the effects of the last event may name.
    pub(crate) graves: Vec<u32>,
    pub(crate) sessions_lease: Lease,
    pub(crate) turns: Slots<Turn>,
    pub(crate) turns_lease: Lease,
    pub(crate) timers: Timers<TurnId>,
    pub(crate) due: Vec<TurnId>,
    pub(crate) dedup: Dedup,
    pub(crate) lookups: Lookups,
    pub(crate) texts: Texts,
    pub(crate) log: Log,
    pub(crate) kept: Kept,
    pub(crate) closed: Closed,
    /// Agents to be served at the end of the event.
    pub(crate) marked: Vec<u16>,
    /// Turns that ask no model and are first of their session: to be carried out at the end of the event.
    pub(crate) errands: Vec<u32>,
    pub(crate) counters: Counters,
    pub(crate) listening: bool,
    pub(crate) draining: bool,
    /// Another plan came: look again at all that waits.
    pub(crate) renewed: bool,
    /// How often shards had taken on another plan when this was last looked at.
    pub(crate) renewals: u32,
    /// When a model next takes calls again by the mere passing of time.
    pub(crate) look_at: Option<Time>,
    #[cfg(debug_assertions)]
    pub(crate) unchecked: u32,
}

impl Shard {
    /// A shard without sessions, one of `shards`, which all have the same `bounds`. `seed` decides ties, jitter and the
    /// shape of its tables: the shell draws it at random, a test does not.
    #[must_use]
    pub fn new(id: ShardId, shards: u16, plan: Arc<Plan>, bounds: Arc<Bounds>, seed: u64) -> Self {
        debug_assert!(bounds.shards() == shards.max(1), "the bounds count other shards");
        let mut random = Random::new(seed);
        let secret = Secret([random.next(), random.next()]);
        let mut places = Places::default();
        places.adopt(&plan, &bounds);
        Self {
            id,
            route: plan.route.clone(),
            secret,
            random,
            now: Time::ZERO,
            places,
            sessions: Slots::new(),
            index: Index::new(),
            idle: List::new(),
            graves: Vec::new(),
            sessions_lease: Lease::new(plan.limits.sessions_max, bounds.shards()),
            turns: Slots::new(),
            turns_lease: Lease::new(plan.limits.turns_max, bounds.shards()),
            timers: Timers::new(),
            due: Vec::new(),
            dedup: Dedup::new(),
            lookups: Lookups::new(),
            texts: Texts::new(),
            log: Log::none(id.0),
            kept: Kept::new(),
            closed: Closed::new(),
            marked: Vec::new(),
            errands: Vec::new(),
            counters: Counters::new(),
            listening: false,
            draining: false,
            renewed: false,
            renewals: bounds.renewals(),
            look_at: None,
            #[cfg(debug_assertions)]
            unchecked: 0,
            plan,
            bounds,
        }
    }

    /// Takes in what happened; pushes what is to be done onto `out`, which the caller drains before the next call.
    pub fn handle(&mut self, now: Time, event: Event<'_>, out: &mut Effects) {
        self.begin(now);
        match event {
            Event::Inbound { client, inbound } => self.on_inbound(client, &inbound, out),
            Event::Piece { call, piece } => self.on_piece(call, piece, out),
            Event::Working { call } => self.on_working(call),
            Event::Round { call, chars, spent } => self.on_round(call, chars, spent, out),
            Event::Ended { call, end } => self.on_ended(call, end, out),
            Event::Left { turn } => self.on_left(turn, out),
            Event::Pressure { turn, high } => self.on_pressure(turn, high, out),
            Event::Delivered { turn, part, attempt, delivery } => {
                self.on_delivered(turn, part, attempt, delivery, out)
            }
            Event::Operate { client, session, operation } => self.on_operate(client, session, operation, out),
            Event::Restore { client, restored } => self.on_restore(client, restored, out),
            Event::DropLetter { client, uid } => self.on_drop_letter(client, uid, out),
            Event::Durable { lsn } => self.on_durable(lsn, out),
            Event::Journal { state } => self.log.state = state,
            Event::Carry { lsn } => self.on_carry(lsn, out),
            Event::Loaded { session, stored } => self.on_loaded(session, stored, out),
            Event::Sighted { lookup, sight } => self.on_sighted(lookup, sight, out),
            Event::Recalled { inbound, stored } => self.on_recalled(&inbound, stored, out),
            Event::Saved { save } => self.log.on_saved(save),
            Event::Nudged { agent } => self.on_nudged(agent),
            Event::Forgiven { model } => self.on_forgiven(model, out),
            Event::Listeners { any } => self.listening = any,
            Event::Drain => self.draining = true,
        }
        if !(self.errands.is_empty() && self.marked.is_empty()) {
            self.serve_marked(out);
        }
        self.end();
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Time, out: &mut Effects) {
        self.begin(now);
        if core::mem::take(&mut self.renewed) {
            self.mark_all();
        }
        if self.look_at.is_some_and(|at| at <= self.now) {
            self.look_around();
        }
        let mut due = core::mem::take(&mut self.due);
        self.timers.expire(self.now, |turn| due.push(turn));
        for turn in due.drain(..) {
            self.on_due(turn, out);
        }
        self.due = due;
        self.on_lookups_due(out);
        self.expire_sessions(out);
        self.serve_marked(out);
        self.end();
    }

    /// When to call [`Self::tick`] next, `None` for not until something happens. Ask again after each call, after
    /// [`Self::reconfigure`] too.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.renewed {
            return Some(self.now);
        }
        let idle = self.sessions.at(self.idle.head());
        let expiry = idle.map(|session| session.active + self.plan.limits.session_idle_max);
        let never = Time(u64::MAX);
        let or_never = |at: Option<Time>| at.unwrap_or(never);
        let calls = or_never(self.timers.next()).min(or_never(self.look_at));
        let next = calls.min(or_never(expiry)).min(or_never(self.lookups.next_deadline()));
        (next != never).then_some(next)
    }

    /// Goes on with another plan. Ids may have moved: agents, models and channels are matched by name.
    ///
    /// What runs goes on as it was started. Turns that wait for an agent that is gone fail at the next
    /// [`Self::tick`], which is due at once.
    pub fn reconfigure(&mut self, plan: Arc<Plan>) {
        self.route = plan.route.clone();
        self.places.adopt(&plan, &self.bounds);
        let shards = self.bounds.shards();
        self.sessions_lease.set_max(plan.limits.sessions_max, shards, &self.bounds.sessions);
        self.turns_lease.set_max(plan.limits.turns_max, shards, &self.bounds.turns);
        self.plan = plan;
        self.bounds.renew();
        self.renewed = true;
        self.end();
    }

    /// A step back of the caller's clock is none here: no deadline comes back.
    #[inline]
    fn begin(&mut self, now: Time) {
        self.now = self.now.max(now);
        if !self.graves.is_empty() {
            self.bury();
        }
        let renewals = self.bounds.renewals();
        if self.renewals != renewals {
            self.renewals = renewals;
            self.on_renewal();
        }
    }

    /// A shard took on another plan: limits may have changed.
    #[cold]
    fn on_renewal(&mut self) {
        self.give_all_reserves();
        self.renewed = true;
    }

    #[cfg(not(debug_assertions))]
    const fn end(&mut self) {}

    /// Sweeps after every event while that is cheap, and less often the more there is to sweep.
    #[cfg(debug_assertions)]
    fn end(&mut self) {
        self.unchecked += 1;
        if (self.sessions.len() + self.turns.len()) / 512 < self.unchecked {
            self.unchecked = 0;
            self.check();
        }
    }

    /// A turn's timer fired. Its deadline may have moved on since it was set.
    fn on_due(&mut self, id: TurnId, out: &mut Effects) {
        let Some(turn) = self.turn(id) else { return };
        if self.timers.holds(turn.timer) {
            return;
        }
        let Some(deadline) = turn.deadline(&self.plan.limits) else { return };
        if self.now < deadline {
            self.arm(id.slot);
            return;
        }
        match turn.state {
            State::Waiting | State::Ready => self.on_waited_too_long(id.slot, out),
            State::Loading => self.on_load_due(id.slot, out),
            State::Running if self.now < turn.call.deadline(self.plan.limits.slow_client_age_max) => {
                self.show(id.slot, out);
                self.arm(id.slot);
            }
            State::Running => self.on_call_due(id.slot, out),
            State::BackingOff => {
                self.queue_up(id.slot);
                self.arm(id.slot);
            }
            State::Delivering => self.on_delivery_due(id.slot, out),
        }
    }

    fn expire_sessions(&mut self, out: &mut Effects) {
        for _ in 0..EXPIRED_MAX {
            let slot = self.idle.head();
            let Some(session) = self.sessions.at(slot) else { return };
            if self.now < session.active + self.plan.limits.session_idle_max {
                return;
            }
            self.counters.expired += 1;
            self.forget(slot, "expired", out);
        }
    }

    // What the handlers share.

    /// The turn of this id, if it is not over.
    pub(crate) fn turn(&self, id: TurnId) -> Option<&Turn> {
        self.turns.get(id.slot, id.generation)
    }

    pub(crate) fn turn_id(&self, slot: u32) -> TurnId {
        TurnId { slot, generation: self.turns.generation(slot) }
    }

    pub(crate) fn session_id(&self, slot: u32) -> SessionId {
        SessionId { slot, generation: self.sessions.generation(slot) }
    }

    /// The id of the call that a turn runs.
    pub(crate) fn call_id(&self, slot: u32) -> CallId {
        let calls = self.turns.at(slot).map_or(0, |turn| turn.calls);
        CallId { turn: self.turn_id(slot), attempt: calls.saturating_sub(1) }
    }

    /// The id of a place's agent in the present plan.
    pub(crate) fn agent_id(&self, desk: u16) -> Option<AgentId> {
        self.places.desk(desk).and_then(|desk| desk.id)
    }

    /// Sees to it that a timer fires at the turn's deadline at the latest. One that fires earlier is left: the turn is
    /// looked at then, and the timer set anew. So a piece that only moves a deadline on touches no timer.
    pub(crate) fn arm(&mut self, slot: u32) {
        let id = self.turn_id(slot);
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let Some(deadline) = turn.deadline(&self.plan.limits) else {
            self.timers.cancel(turn.timer);
            turn.timer = Key::NONE;
            return;
        };
        if deadline < turn.armed || !self.timers.holds(turn.timer) {
            self.timers.cancel(turn.timer);
            turn.timer = self.timers.insert(deadline, id);
            turn.armed = deadline;
        }
    }

    /// Tells the listeners, if there are any.
    #[inline]
    pub(crate) fn publish(
        &self,
        notice: Notice,
        session: u32,
        turn: Option<u32>,
        text: &str,
        out: &mut Effects,
    ) {
        if self.listening {
            self.publish_to_listeners(notice, session, turn, text, out);
        }
    }

    #[cold]
    fn publish_to_listeners(
        &self,
        notice: Notice,
        session: u32,
        turn: Option<u32>,
        text: &str,
        out: &mut Effects,
    ) {
        let turn = turn.map_or_else(TurnId::default, |slot| self.turn_id(slot));
        let text = out.keep(text);
        out.push(Effect::Publish { notice, session: self.session_id(session), turn, text });
    }
}
