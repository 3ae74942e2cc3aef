//! The shadow of one shard: its sessions, its turns, and the judgement of each step.
//!
//! A step is judged in three parts: what the event changes is noted before, each effect must be allowed by what is
//! known then, and what was owed must have come by the end.
use crate::admission::{self, Answer};
use crate::answers::{Fail, Finish};
use crate::breakers::Breaker;
use crate::memory::Memory;
use crate::paces::Paces;
use crate::plans::{AgentDraft, Name, Route, Setup, known};
use crate::posts::Deliver;
use crate::turn::{Finale, Phase, Turn, fired};
use clawgate_core::breaker::State;
use clawgate_core::codes::Code;
use clawgate_core::effect::{Effect, Effects};
use clawgate_core::event::{End, Event, Inbound, Mode, Piece, Scope};
use clawgate_core::id::{CallId, ModelId, SessionId, TurnId};
use clawgate_core::limits::Limits;
use clawgate_core::plan::{Plan, RunningMode};
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use clawgate_core::view::Role;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a shard was handed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause<'a> {
    Event(Event<'a>),
    Tick,
}

/// Ticks in a row that may leave something due.
const TICKS_MAX: u32 = 16;

/// A conversation: the channel's name, whether it is a group's, the peer or the chat, the thread.
pub(crate) type Key = (Name, bool, String, String);

/// What the shadow knows of one session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: Key,
    /// The chat that was written in last.
    pub(crate) chat: String,
    /// The agent that it keeps.
    pub(crate) agent: Option<Name>,
    /// An operator gave it that.
    pub(crate) assigned: bool,
    /// How its latest message is answered.
    pub(crate) mode: Mode,
    /// What an operator gave it for messages that arrive while a turn runs.
    pub(crate) running_mode: Option<RunningMode>,
    /// Admitted and not settled, in the order of admission.
    pub(crate) queue: VecDeque<TurnId>,
    /// What was said; `None` before anything was answered.
    pub(crate) history: Option<Vec<(Role, String)>>,
    pub(crate) context: Vec<(String, String)>,
    /// When it last had a message, or an answer ended.
    pub(crate) active: Time,
    /// When it became idle, as a number that grows.
    pub(crate) idle: u64,
}

impl Session {
    pub(crate) const fn scope(&self) -> Scope {
        if self.key.1 { Scope::Group } else { Scope::Direct }
    }
}

/// The shadow of one shard.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) number: u16,
    pub(crate) shards: u16,
    pub(crate) plan: Arc<Plan>,
    pub(crate) route: Route,
    pub(crate) roster: Arc<[AgentDraft]>,
    pub(crate) now: Time,
    pub(crate) draining: bool,
    pub(crate) listeners: bool,
    /// The last tick.
    pub(crate) ticked: Time,
    /// Ticks in a row that left something due.
    ticks: u32,
    /// Another plan came, and no tick since.
    pub(crate) renewed: bool,
    pub(crate) memory: Memory,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) keys: BTreeMap<Key, SessionId>,
    pub(crate) dead_sessions: BTreeSet<SessionId>,
    pub(crate) turns: BTreeMap<TurnId, Turn>,
    pub(crate) dead_turns: BTreeSet<TurnId>,
    pub(crate) breakers: BTreeMap<Name, Breaker>,
    /// Models that asked for calm, and the latest time until which others may be preferred to them.
    pub(crate) calm: BTreeMap<Name, Time>,
    /// First starts, by agent and class, since a turn of each lower or higher class was started.
    pub(crate) shares: BTreeMap<Name, crate::fairness::Shares>,
    pub(crate) paces: Paces,
    pub(crate) tally: Tally,
    /// Numbers what must keep its order.
    order: u64,
}

/// Ends of turns and answers to messages, to be compared with the shard's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    /// Of those, the words of operators.
    pub(crate) spoken: u64,
    pub(crate) duplicate: u64,
    pub(crate) ignored: u64,
    pub(crate) answered: u64,
    pub(crate) cancelled: u64,
    pub(crate) merged: u64,
    pub(crate) dead: u64,
    pub(crate) failed: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
}

/// One step while it is judged.
pub(crate) struct Step<'a> {
    pub(crate) cause: Cause<'a>,
    pub(crate) effects: &'a Effects,
    pub(crate) shard: &'a Shard,
    /// When the clock last jumped.
    pub(crate) jumped: Time,
    /// Time passed since the last step of this shard.
    pub(crate) passed: bool,
    /// The live turn that the event is about.
    pub(crate) subject: Option<TurnId>,
    /// What the message must be answered, where that is certain before.
    pub(crate) expected: Option<Answer>,
    /// What it was answered.
    pub(crate) answer: Option<Answer>,
    /// What the operator was answered.
    pub(crate) operated: Option<Option<Code>>,
    /// Sends, pauses and resumes.
    pub(crate) sends: u32,
    pub(crate) flow: u32,
    pub(crate) claims: Vec<Claim>,
    /// Turns that must have gone on by the end of the step.
    pub(crate) owed: Vec<TurnId>,
    pub(crate) started: Vec<TurnId>,
    /// Agents whose turns took as long as is known by now.
    pub(crate) learned: Vec<Name>,
    /// What breakers must be now: the model, the period in which it was found, the state.
    pub(crate) verdicts: Vec<(Name, u32, State)>,
    pub(crate) published: crate::notices::Published,
    pub(crate) meeting: crate::meeting::Meeting,
    pub(crate) marks: Vec<String>,
}

/// Something that only the whole process can judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A message for one of these agents was refused with this code.
    Refused {
        code: Code,
        agents: Vec<Name>,
        /// Others of its class wait here for one of them, which has a target.
        crowded: bool,
    },
    /// A session was forgotten to make room.
    Evicted,
    Accepted,
    Started {
        agent: Name,
        model: Name,
    },
    /// A turn waits for a place at this agent.
    Queued {
        agent: Name,
    },
}

impl<'a> Step<'a> {
    pub(crate) fn new(cause: Cause<'a>, effects: &'a Effects, shard: &'a Shard, jumped: Time) -> Self {
        Self {
            cause,
            effects,
            shard,
            jumped,
            passed: false,
            subject: None,
            expected: None,
            answer: None,
            operated: None,
            sends: 0,
            flow: 0,
            claims: Vec::new(),
            owed: Vec::new(),
            started: Vec::new(),
            learned: Vec::new(),
            verdicts: Vec::new(),
            published: crate::notices::Published::default(),
            meeting: crate::meeting::Meeting::default(),
            marks: Vec::new(),
        }
    }

    pub(crate) fn mark(&mut self, name: impl Into<String>) {
        self.marks.push(name.into());
    }
}

impl Board {
    pub(crate) fn new(number: u16, shards: u16, setup: &Setup) -> Self {
        Self {
            number,
            shards,
            plan: setup.plan.clone(),
            route: setup.route.clone(),
            roster: setup.roster.clone(),
            now: Time::ZERO,
            draining: false,
            listeners: false,
            ticked: Time::ZERO,
            ticks: 0,
            renewed: false,
            memory: Memory::default(),
            sessions: BTreeMap::new(),
            keys: BTreeMap::new(),
            dead_sessions: BTreeSet::new(),
            turns: BTreeMap::new(),
            dead_turns: BTreeSet::new(),
            breakers: BTreeMap::new(),
            calm: BTreeMap::new(),
            shares: BTreeMap::new(),
            paces: Paces::new(),
            tally: Tally::default(),
            order: 0,
        }
    }

    /// The shard was given another plan. An agent that is not in it goes with the limits that it had: what was changed
    /// of it since is heard of when it comes back.
    pub(crate) fn reconfigured(&mut self, setup: &Setup) {
        self.plan = setup.plan.clone();
        self.route = setup.route.clone();
        let entries = setup.roster.iter().zip(self.roster.iter());
        let entries = entries.map(|(new, old)| if self.employs(new.name) { new } else { old });
        self.roster = entries.cloned().collect();
        self.renewed = true;
    }

    /// Judges one step.
    pub(crate) fn judge(&mut self, step: &mut Step<'_>, now: Time) {
        step.passed = now > self.now;
        self.now = self.now.max(now);
        self.before(step);
        for effect in step.effects.list() {
            self.effect(step, effect);
        }
        self.after(step);
    }

    pub(crate) fn model_name(&self, id: ModelId) -> Name {
        known(&self.plan.models[usize::from(id.0)].name)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.plan.limits
    }

    pub(crate) const fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// The turn of this id, which must be alive.
    pub(crate) fn turn(&mut self, id: TurnId) -> &mut Turn {
        let over = self.dead_turns.contains(&id);
        self.turns
            .get_mut(&id)
            .unwrap_or_else(|| panic!("an effect for {id:?}, which is not alive (over: {over})"))
    }

    pub(crate) fn key(&self, inbound: &Inbound<'_>) -> Key {
        let channel = known(&self.plan.channel(inbound.channel).name);
        let party = match inbound.scope {
            Scope::Direct => inbound.peer,
            Scope::Group => inbound.chat,
        };
        (channel, inbound.scope == Scope::Group, party.to_owned(), inbound.thread.to_owned())
    }

    // ---- before: what the event says ----

    fn before(&mut self, step: &mut Step<'_>) {
        let Cause::Event(event) = step.cause else {
            self.before_tick(step);
            return;
        };
        match event {
            Event::Inbound { inbound, .. } => self.before_inbound(step, &inbound),
            Event::Piece { call, piece } => self.before_piece(step, call, piece),
            Event::Ended { call, end } => self.before_ended(step, call, end),
            Event::Left { turn } => {
                step.subject = self.turns.get(&turn).filter(|turn| turn.mode != Mode::Deliver).map(|_| turn);
            }
            Event::Pressure { turn, high } => {
                if let Some(found) = self.turns.get_mut(&turn).filter(|turn| turn.mode == Mode::Stream) {
                    found.high = high;
                    step.subject = Some(turn);
                }
            }
            Event::Delivered { turn, part, attempt, delivery } => {
                self.before_delivered(step, turn, part, attempt, delivery);
            }
            Event::Operate { session, operation, .. } => self.before_operate(step, session, operation),
            Event::Listeners { any } => self.listeners = any,
            Event::Drain => self.draining = true,
            Event::Nudged { .. } | Event::Forgiven { .. } => {}
            Event::Restore { .. }
            | Event::DropLetter { .. }
            | Event::Durable { .. }
            | Event::Journal { .. }
            | Event::Carry { .. }
            | Event::Loaded { .. }
            | Event::Sighted { .. }
            | Event::Recalled { .. }
            | Event::Saved { .. } => unreachable!("{event:?}: these shards keep nothing"),
            Event::Working { .. } | Event::Round { .. } => {
                unreachable!("{event:?}: these models call no tools")
            }
        }
    }

    fn before_inbound(&mut self, step: &mut Step<'_>, inbound: &Inbound<'_>) {
        let (age_max, share) =
            (self.limits().dedup_age_max, self.limits().dedup_ids_max / u32::from(self.shards));
        self.memory.forget(self.now, age_max, share as usize);
        let id = self.memory_key(inbound);
        step.expected = admission::verdict(self, inbound, &id);
    }

    /// What an event id is remembered under: the same id in another conversation is another.
    pub(crate) fn memory_key(&self, inbound: &Inbound<'_>) -> String {
        format!("{:?} {}", self.key(inbound), inbound.id)
    }

    fn before_piece(&mut self, step: &mut Step<'_>, call: CallId, piece: Piece<'_>) {
        let now = self.now;
        let slow_after =
            self.turns.get_mut(&call.turn).and_then(|turn| turn.live(call)).map(|live| live.model);
        let slow_after = slow_after.map(|model| self.model(model).breaker.slow_after).unwrap_or_default();
        let Some(live) = self.turns.get_mut(&call.turn).and_then(|turn| turn.live(call)) else {
            step.mark("late piece");
            return;
        };
        step.subject = Some(call.turn);
        live.alive = true;
        match piece {
            Piece::Text(text) => {
                live.said.push_str(text);
                if !text.is_empty() {
                    live.speak(now, slow_after);
                }
            }
            Piece::Reasoning(_) => live.speak(now, slow_after),
            Piece::Usage(usage) => live.usage = Some(usage),
            Piece::Alive => {}
        }
    }

    fn before_ended(&mut self, step: &mut Step<'_>, call: CallId, end: End<'_>) {
        if self.turns.get_mut(&call.turn).and_then(|turn| turn.live(call)).is_none() {
            step.mark("late end");
            return;
        }
        step.subject = Some(call.turn);
        let finale = match end {
            End::Finished(stop) => {
                step.mark(format!("stop {stop:?}"));
                self.keep_history(call.turn);
                Finale::Finished(stop)
            }
            End::Failed(failure) => {
                step.mark(format!("failed {}", crate::turn::kind(failure.retry)));
                Finale::Failed { code: failure.code, retry: failure.retry, detail: failure.detail.to_owned() }
            }
        };
        self.close_call(step, call.turn, finale);
    }

    /// Attempts to deliver that ran out of time count as failed, without a word.
    fn before_tick(&mut self, step: &mut Step<'_>) {
        (self.renewed, self.ticked) = (false, self.now);
        let (now, limits) = (self.now, self.plan.limits.clone());
        for (id, turn) in &mut self.turns {
            let Phase::Posting(post) = &mut turn.phase else { continue };
            let Some(since) = post.since.filter(|since| fired(*since + limits.delivery_age_max, now)) else {
                continue;
            };
            assert!(
                post.stalls || since <= step.jumped,
                "{id:?}: a delivery ran out of time, but its platform did not stall"
            );
            step.marks.push("delivery timed out".to_owned());
            post.fail(now, std::time::Duration::ZERO, &limits);
            if post.next == crate::turn::Next::Dead {
                step.owed.push(*id);
            }
        }
    }

    // ---- the effects ----

    fn effect(&mut self, step: &mut Step<'_>, effect: &Effect) {
        match *effect {
            Effect::Accepted { client, turn, session, ahead, durable, .. } => {
                assert!(!durable, "these shards keep nothing");
                self.on_accepted(step, client, turn, session, ahead)
            }
            Effect::Duplicate { client } => self.answered(step, client, Answer::Duplicate),
            Effect::Ignored { client, why } => self.answered(step, client, Answer::Ignored(why)),
            Effect::Refused { client, code, retry_after_millis } => {
                self.answered(step, client, Answer::Refused(code));
                self.on_refused(step, code, retry_after_millis);
            }
            Effect::Start { call, agent, model } => self.on_start(step, call, agent, model),
            Effect::Cancel { call, overdue: _ } => self.on_cancel(step, call),
            Effect::Ask { .. } => panic!("{effect:?}: these models call no tools"),
            Effect::Pause { call } => {
                step.flow += 1;
                self.on_pause(step, call, true);
            }
            Effect::Resume { call } => {
                step.flow += 1;
                self.on_pause(step, call, false);
            }
            Effect::Send { client, turn, seq, text } => {
                let text = step.effects.text(text);
                self.on_send(step, client, turn, seq, text);
            }
            Effect::Finish { client, turn, seq, text, usage, model, stop } => {
                let (text, model) = (step.effects.text(text), self.model_name(model));
                self.on_finish(step, turn, &Finish { client, seq, text, usage, model, stop });
            }
            Effect::Merged { client, turn, seq, into } => self.on_merged(step, client, turn, seq, into),
            Effect::Fail { client, turn, seq, code, detail, retry_after_millis } => {
                let detail = step.effects.text(detail);
                self.on_fail(step, turn, &Fail { client, seq, code, detail, retry_after_millis });
            }
            Effect::Deliver { turn, channel, uid: _, part, attempt, text, edits } => {
                assert_eq!(step.effects.text(edits), "", "{turn:?}: no message was shown before the answer");
                let text = step.effects.text(text);
                self.on_deliver(step, turn, &Deliver { channel, part, attempt, text });
            }
            Effect::Settled { turn, session, outcome } => self.on_settled(step, turn, session, outcome),
            Effect::Publish { notice, session, turn, text } => {
                let text = step.effects.text(text);
                self.on_publish(step, notice, session, turn, text);
            }
            Effect::Operated { client, refused } => self.on_operated(step, client, refused),
            Effect::Nudge { shard, agent } => self.on_nudge(step, shard, agent),
            Effect::Breaker { model, state } => self.on_breaker(step, model, state),
            Effect::Attached { .. }
            | Effect::Durable { .. }
            | Effect::Append { .. }
            | Effect::LookUp { .. }
            | Effect::Load { .. }
            | Effect::Save { .. } => {
                panic!("these shards keep nothing: {effect:?}")
            }
        }
    }

    // ---- after: what was owed ----

    fn after(&mut self, step: &mut Step<'_>) {
        self.check_answers(step);
        self.check_meeting(step);
        self.forget_sessions(step);
        for id in std::mem::take(&mut step.owed) {
            self.check_owed(id);
            if let Some(turn) = self.turns.get(&id).filter(|turn| turn.waits()) {
                step.claims.extend(turn.agent.map(|agent| Claim::Queued { agent }));
            }
        }
        self.check_flow(step);
        self.check_breakers(step);
        self.check_paces(step);
        self.check_notices(step);
        self.check_parked();
        if matches!(step.cause, Cause::Tick) {
            self.note_failed_behind();
            // What a tick leaves due the next one does, in a few ticks at most.
            self.ticks =
                if step.shard.next_deadline().is_some_and(|at| at <= self.now) { self.ticks + 1 } else { 0 };
            assert!(self.ticks < TICKS_MAX, "{} ticks, and still something is due", self.ticks);
            if self.ticks == 0 {
                self.check_due();
            }
        }
    }

    /// A platform's message that waits behind others for too long fails unseen, and apologises when it is first.
    fn note_failed_behind(&mut self) {
        let (now, waiting_age_max) = (self.now, self.limits().waiting_age_max);
        let late: Vec<TurnId> = self
            .turns
            .iter()
            .filter(|(_, turn)| turn.waits() && turn.ready.is_none() && self.owes_apology(turn))
            .filter(|(_, turn)| fired(turn.admitted + waiting_age_max, now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.turn(id).failed_behind = true;
        }
    }

    /// A turn whose call or attempt is over has gone on, or waits for what comes next.
    fn check_owed(&mut self, id: TurnId) {
        let Some(turn) = self.turns.get(&id) else { return };
        match &turn.phase {
            Phase::Ended(_, finale) => {
                let finale = finale.clone();
                assert_eq!(turn.seq, 0, "{id:?} is told nothing after {finale:?}, and something was shown");
                let rest = self.rest_after(id, &finale);
                self.turn(id).phase = Phase::Resting(rest);
            }
            Phase::Posting(post) => {
                let waits = post.since.is_some() || matches!(post.next, crate::turn::Next::Again(_));
                assert!(waits, "{id:?} neither goes on nor ends: {post:?}");
            }
            Phase::Over => panic!("{id:?} was told its end, but is not settled"),
            Phase::Waiting | Phase::Calling(_) | Phase::Resting(_) => {}
        }
    }

    /// What is said is passed on at once, and a full client stops its model at once.
    fn check_flow(&self, step: &Step<'_>) {
        let Cause::Event(event) = step.cause else {
            assert_eq!(step.sends, 0, "a tick says nothing");
            return;
        };
        let said = match event {
            Event::Piece { call, piece: Piece::Text(text) } if step.subject == Some(call.turn) => {
                !text.is_empty()
            }
            Event::Inbound { .. }
            | Event::Piece { .. }
            | Event::Working { .. }
            | Event::Round { .. }
            | Event::Ended { .. }
            | Event::Left { .. }
            | Event::Pressure { .. }
            | Event::Delivered { .. }
            | Event::Operate { .. }
            | Event::Nudged { .. }
            | Event::Forgiven { .. }
            | Event::Listeners { .. }
            | Event::Restore { .. }
            | Event::DropLetter { .. }
            | Event::Durable { .. }
            | Event::Journal { .. }
            | Event::Carry { .. }
            | Event::Loaded { .. }
            | Event::Sighted { .. }
            | Event::Recalled { .. }
            | Event::Saved { .. }
            | Event::Drain => false,
        };
        let streams =
            step.subject.and_then(|id| self.turns.get(&id)).is_some_and(|turn| turn.mode == Mode::Stream);
        if said && streams {
            assert_eq!(step.sends, 1, "what was said is passed on");
        } else if !said {
            assert_eq!(step.sends, 0, "nothing was said");
        }
        for id in step.subject.iter().chain(&step.started) {
            if let Some((turn, Phase::Calling(live))) = self.turns.get(id).map(|turn| (turn, &turn.phase)) {
                assert_eq!(live.paused.is_some(), turn.high, "{id:?}: its call runs as its client reads");
            }
        }
        if let Event::Left { turn } = event {
            assert!(step.subject.is_none() || !self.turns.contains_key(&turn), "{turn:?}: its client left");
        }
        let stale = match event {
            Event::Piece { .. }
            | Event::Working { .. }
            | Event::Round { .. }
            | Event::Ended { .. }
            | Event::Left { .. }
            | Event::Pressure { .. }
            | Event::Delivered { .. } => step.subject.is_none(),
            Event::Listeners { .. }
            | Event::Restore { .. }
            | Event::DropLetter { .. }
            | Event::Durable { .. }
            | Event::Journal { .. }
            | Event::Carry { .. }
            | Event::Loaded { .. }
            | Event::Sighted { .. }
            | Event::Recalled { .. }
            | Event::Saved { .. }
            | Event::Drain => true,
            Event::Inbound { .. } | Event::Operate { .. } | Event::Nudged { .. } | Event::Forgiven { .. } => {
                false
            }
        };
        // Where time passed, models may take calls again, and turns be started.
        let quiet = step.passed || step.effects.is_empty();
        assert!(!stale || quiet, "{event:?} is about nothing that lives, and yet something is done");
    }

    /// After a tick no clock is left that has run out.
    fn check_due(&self) {
        let (now, limits) = (self.now, self.limits());
        for (id, turn) in &self.turns {
            match &turn.phase {
                Phase::Waiting => {
                    let due = turn.waits() && fired(turn.admitted + limits.waiting_age_max, now);
                    assert!(!due || turn.failed_behind, "{id:?} waits for too long: {turn:?}");
                }
                Phase::Calling(live) => {
                    for (clock, at) in live.clocks(self.model(live.model), limits.slow_client_age_max) {
                        assert!(
                            !fired(at, now),
                            "{id:?}: {clock:?} ran out at {at:?}, and nothing happened: {live:?}"
                        );
                    }
                }
                Phase::Posting(post) => {
                    if let crate::turn::Next::Again(rest) = post.next
                        && post.since.is_none()
                    {
                        assert!(!fired(rest.until, now), "{id:?} is not delivered again: {post:?}");
                    }
                }
                Phase::Resting(_) => {}
                Phase::Ended(..) | Phase::Over => panic!("{id:?} is neither alive nor dead: {turn:?}"),
            }
        }
    }
}
