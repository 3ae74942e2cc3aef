//! The judgement of what operators do to sessions, and of how sessions come to be forgotten.
use crate::board::{Board, Cause, Claim, Step};
use crate::plans::known;
use crate::turn::Phase;
use clawgate_core::codes::Code;
use clawgate_core::event::{Event, Mode, Operation};
use clawgate_core::id::{AgentId, Client, SessionId};
use clawgate_core::time::Time;

impl Board {
    /// What an order changes before its effects are seen.
    pub(crate) fn before_operate(
        &mut self,
        step: &mut Step<'_>,
        session: SessionId,
        operation: Operation<'_>,
    ) {
        step.mark(match operation {
            Operation::Reset => "operation Reset",
            Operation::Close => "operation Close",
            Operation::Send(_) => "operation Send",
            Operation::Set { .. } => "operation Set",
            Operation::Assign(_) => "operation Assign",
            Operation::Stop => "operation Stop",
            Operation::Mode(_) => "operation Mode",
        });
        let Some(owner) = self.sessions.get_mut(&session) else { return };
        if operation == Operation::Reset {
            owner.history = None;
            owner.context.clear();
            let first = owner.queue.front().copied();
            if let Some(turn) = first.and_then(|id| self.turns.get_mut(&id)) {
                turn.forgets = turn.calls > 0;
            }
        }
    }

    pub(crate) fn on_operated(&mut self, step: &mut Step<'_>, client: Client, refused: Option<Code>) {
        let Cause::Event(Event::Operate { client: asked, session, operation }) = step.cause else {
            panic!("an operator is answered who asked nothing");
        };
        assert_eq!(client, asked, "another operator is answered");
        assert_eq!(step.operated, None, "an operator is answered twice");
        step.operated = Some(refused);
        if let Some(code) = refused {
            step.mark(format!("operation refused {code:?}"));
        }
        let expected = if self.sessions.contains_key(&session) {
            self.carried_out(step, session, operation)
        } else {
            Some(Code::NotFound)
        };
        if refused == Some(Code::Busy) && matches!(operation, Operation::Send(_)) && expected.is_none() {
            step.claims.push(Claim::Refused { code: Code::Busy, agents: Vec::new(), crowded: false });
            return;
        }
        assert_eq!(refused, expected, "{operation:?} in {:?}", self.sessions.get(&session));
    }

    /// What the order must have led to; `None` if it is carried out.
    fn carried_out(&mut self, step: &Step<'_>, session: SessionId, operation: Operation<'_>) -> Option<Code> {
        let limits = self.plan.limits.clone();
        let draining = self.draining;
        let accepted = step.claims.contains(&Claim::Accepted);
        let named =
            |agent: AgentId| self.plan.agents.get(usize::from(agent.0)).map(|agent| known(&agent.name));
        let agent = if let Operation::Assign(agent) = operation { named(agent) } else { None };
        let owner = self.sessions.get_mut(&session)?;
        match operation {
            Operation::Reset => None,
            Operation::Close | Operation::Stop => {
                let close = operation == Operation::Close;
                assert!(!close || owner.queue.is_empty(), "{session:?} is closed with turns");
                None
            }
            Operation::Send(text) => {
                if text.trim().is_empty() {
                    Some(Code::TextEmpty)
                } else if draining {
                    Some(Code::Draining)
                } else if !accepted && usize::from(limits.session_waiting_max) < owner.queue.len() {
                    Some(Code::SessionFull)
                } else {
                    None
                }
            }
            Operation::Set { name, value } => {
                let context = &mut owner.context;
                let before = context.clone();
                let place = context.iter().position(|(of, _)| of == name);
                match (place, value.is_empty()) {
                    (Some(place), true) => drop(context.remove(place)),
                    (Some(place), false) => value.clone_into(&mut context[place].1),
                    (None, true) => {}
                    (None, false) => context.push((name.to_owned(), value.to_owned())),
                }
                let bytes: usize = context.iter().map(|(name, value)| name.len() + value.len()).sum();
                let full = usize::from(limits.context_entries_max) < context.len()
                    || (limits.context_bytes_max as usize) < bytes;
                if full && *context != before {
                    *context = before;
                    return Some(Code::TooLarge);
                }
                None
            }
            Operation::Mode(mode) => {
                owner.running_mode = mode;
                None
            }
            Operation::Assign(_) => {
                let Some(agent) = agent else { return Some(Code::NotFound) };
                (owner.agent, owner.assigned) = (Some(agent), true);
                None
            }
        }
    }

    /// Which sessions were forgotten in this step: those idle for too long, one that made room, one that was closed.
    pub(crate) fn forget_sessions(&mut self, step: &mut Step<'_>) {
        let counters = step.shard.counters();
        while self.tally.expired < counters.expired {
            self.tally.expired += 1;
            let oldest = self.oldest_idle(None);
            let (_, active) = oldest.unwrap_or_else(|| panic!("a session expired, but none is idle"));
            let due = active + self.limits().session_idle_max;
            assert!(due <= self.now, "a session expired at {:?}, not at {due:?}", self.now);
            step.mark("session expired");
            self.forget_oldest(step, None);
        }
        if self.tally.evicted < counters.evicted {
            self.tally.evicted += 1;
            assert_eq!(self.tally.evicted, counters.evicted, "one message evicts one session");
            step.claims.push(Claim::Evicted);
            let newcomer = match step.cause {
                Cause::Event(Event::Inbound { inbound, .. }) => self.keys.get(&self.key(&inbound)).copied(),
                Cause::Event(_) | Cause::Tick => panic!("a session was evicted for nobody"),
            };
            self.forget_oldest(step, newcomer);
        }
        if let Cause::Event(Event::Operate { session, operation: Operation::Close, .. }) = step.cause
            && step.operated == Some(None)
        {
            self.forget_session(step, session);
        }
        if matches!(step.cause, Cause::Tick)
            && let Some((session, active)) = self.oldest_idle(None)
        {
            let due = active + self.limits().session_idle_max;
            assert!(
                self.now < due || step.shard.next_deadline().is_some_and(|at| at <= self.now),
                "{session:?} is idle for too long"
            );
        }
    }

    /// The session that has been idle for longest, other than this one.
    fn oldest_idle(&self, but: Option<SessionId>) -> Option<(SessionId, Time)> {
        let idle = self.sessions.iter().filter(|(id, owner)| owner.queue.is_empty() && Some(**id) != but);
        idle.min_by_key(|(_, owner)| owner.idle).map(|(id, owner)| (*id, owner.active))
    }

    fn forget_oldest(&mut self, step: &Step<'_>, but: Option<SessionId>) {
        let Some((session, _)) = self.oldest_idle(but) else {
            panic!("a session is forgotten, but none is idle")
        };
        self.forget_session(step, session);
    }

    /// This session must be the one that the shard forgot.
    fn forget_session(&mut self, step: &Step<'_>, session: SessionId) {
        let Some(owner) = self.sessions.remove(&session) else {
            panic!("{session:?} is forgotten, but was not there")
        };
        assert!(owner.queue.is_empty(), "{session:?} is forgotten with turns");
        let (channel, _, party, thread) = &owner.key;
        let channel_id = self.plan.channels.iter().position(|of| &*of.name == *channel);
        if let Some(place) = channel_id {
            let channel = clawgate_core::id::ChannelId(place as u16);
            let scope = owner.scope();
            let found = step.shard.find(channel, scope, party, party, thread);
            assert_ne!(found, Some(session), "{session:?} should be forgotten: it was idle for longest");
        }
        self.keys.remove(&owner.key);
        self.dead_sessions.insert(session);
    }

    /// A message for people on a platform may wait, unseen, until one of its agent's models takes calls again.
    pub(crate) fn check_parked(&mut self) {
        let (now, limits) = (self.now, self.plan.limits.clone());
        let longest = self.plan.models.iter().map(|model| model.breaker.open_max).max().unwrap_or_default();
        let until = now + longest * 11 / 10 + limits.backoff_min * 2;
        let parked: Vec<_> = self
            .turns
            .iter()
            .filter(|(_, turn)| {
                matches!(turn.phase, Phase::Waiting | Phase::Resting(_)) && turn.ready.is_some()
            })
            .filter(|(_, turn)| turn.mode == Mode::Deliver)
            .filter(|(id, _)| self.is_cut_off(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in parked {
            self.turn(id).parked_until = until;
        }
    }
}
