//! The judgement of what a shard asks of the upstreams: start, cancel, pause, resume; and of its breakers.
use crate::board::{Board, Cause, Claim, Step};
use crate::plans::{AgentDraft, Name};
use crate::turn::{Clock, Cut, Finale, Live, Phase, Rest, fired};
use clawgate_core::breaker::State;
use clawgate_core::event::{Event, Mode, Operation, Piece, Retry};
use clawgate_core::id::{AgentId, CallId, ModelId, SessionId, ShardId, TurnId};
use clawgate_core::plan::{Excerpt, Model};
use clawgate_core::time::Time;
use clawgate_core::view::Role;
use std::time::Duration;

/// The last messages that fit, at four characters a token.
fn excerpt(kept: &[(Role, String)], of: Excerpt) -> &[(Role, String)] {
    let fits = |of_all: &[(Role, String)]| {
        let chars: usize = of_all.iter().map(|(_, text)| text.chars().count()).sum();
        of_all.len() <= usize::from(of.messages_max) && chars.div_ceil(4) <= of.tokens_max as usize
    };
    let from = (0..kept.len()).find(|from| fits(&kept[*from..])).unwrap_or(kept.len());
    &kept[from..]
}

impl Board {
    pub(crate) fn model(&self, name: Name) -> &Model {
        let found = self.plan.models.iter().find(|model| &*model.name == name);
        found.unwrap_or_else(|| panic!("no model {name} in this plan"))
    }

    pub(crate) fn agent(&self, name: Name) -> &AgentDraft {
        let found = self.roster.iter().find(|agent| agent.name == name);
        found.unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// Is this agent in the present plan?
    pub(crate) fn employs(&self, name: Name) -> bool {
        self.plan.agents.iter().any(|agent| &*agent.name == name)
    }

    /// May a call begin on this model, for certain?
    fn surely_takes_calls(&self, model: Name) -> bool {
        self.takes_calls_since(model, self.now)
    }

    /// Could a call begin on this model at that time already, and still can?
    pub(crate) fn takes_calls_since(&self, model: Name, since: Time) -> bool {
        let plan = &self.model(model).breaker;
        self.breakers.get(model).is_none_or(|breaker| breaker.must_pass(since, plan))
    }

    /// Is there no model, of those in the agent's chain from this number on, that surely takes calls?
    pub(crate) fn unavailable(&self, agent: Name, from: usize) -> bool {
        !self.agent(agent).models.iter().skip(from).any(|model| self.surely_takes_calls(model))
    }

    /// The number of a turn's present model in its agent's chain.
    pub(crate) fn chain_place(&self, id: TurnId) -> usize {
        let turn = &self.turns[&id];
        let (Some(agent), Some((model, _))) = (turn.agent, &turn.last) else { return 0 };
        self.agent(agent).models.iter().position(|of| of == model).unwrap_or(0)
    }

    pub(crate) fn on_start(&mut self, step: &mut Step<'_>, call: CallId, agent: AgentId, model: ModelId) {
        step.mark("effect Start");
        let now = self.now;
        let model = self.model_name(model);
        let agent = crate::plans::known(&self.plan.agents[usize::from(agent.0)].name);
        self.check_choice(call.turn, agent, model);
        let plan = self.model(model).breaker;
        let period = self.breakers.entry(model).or_default().begin(&plan);
        let period = period.unwrap_or_else(|why| panic!("{call:?} starts on {model}, but {why}"));
        let attempts_max = self.agent(agent).attempts_max;

        let turn = self.turn(call.turn);
        assert!(!turn.outbound, "{call:?}: there is nothing to ask a model");
        assert_eq!(turn.agent, Some(agent), "{call:?} goes to another agent");
        assert_eq!(call.attempt, turn.calls, "{call:?}: calls are counted from 0");
        assert_eq!(turn.seq, 0, "{call:?} is tried again after something was shown");
        let again = turn.last.as_ref().is_some_and(|(last, _)| *last == model);
        match &turn.phase {
            Phase::Waiting => step.mark("started"),
            Phase::Resting(rest) => {
                assert!(!again || rest.from <= now, "{call:?} comes back too early: {now:?}, not {rest:?}");
                step.mark("tried again later");
            }
            Phase::Ended(_, finale) => {
                assert!(
                    (!again || finale.retry() == Retry::AtOnce) && finale.retry() != Retry::Never,
                    "{call:?} is tried again at once after {finale:?}"
                );
                step.mark("tried again at once");
            }
            Phase::Calling(_) | Phase::Posting(_) | Phase::Over => {
                panic!("{call:?} starts in {:?}", turn.phase)
            }
        }
        if turn.last.is_some() && !again {
            step.mark("fallback");
        }
        turn.calls += 1;
        let tried = turn.tried.entry(model).or_default();
        *tried += 1;
        assert!(*tried <= attempts_max, "{call:?} is attempt {tried} on {model}");
        let first = matches!(turn.phase, Phase::Waiting);
        if first {
            turn.began = now;
        }
        turn.phase = Phase::Calling(Box::new(Live::new(call, model, period, now)));
        let session = turn.session;
        assert_eq!(
            self.sessions[&session].queue.front(),
            Some(&call.turn),
            "{call:?} starts before what was admitted before it"
        );
        self.check_prompt(step, call.turn, session, agent);
        if first {
            self.check_queue(step, call.turn, agent);
        }
        step.started.push(call.turn);
        step.claims.push(Claim::Started { agent, model });
    }

    /// Of the models left to a turn the first that takes calls is asked; one that wants calm only if there is no other.
    fn check_choice(&self, id: TurnId, agent: Name, model: Name) {
        let chain = &self.agent(agent).models;
        let from = self.chain_place(id);
        let place = chain.iter().position(|of| *of == model);
        let place = place.unwrap_or_else(|| panic!("{id:?} is given {model}, but {agent} has {chain:?}"));
        assert!(from <= place, "{id:?} goes back to {model}");
        let from = match (&self.turns[&id].phase, &self.turns[&id].last) {
            // It was chosen when the call before it failed, and had no place since.
            (Phase::Resting(_), Some(_)) => place,
            // The one that failed is skipped in its own way: see `may_give_up`.
            (_, Some(_)) => from + 1,
            (_, None) => from,
        };
        for &better in chain.get(from..place).unwrap_or_default() {
            let calm = self.calm.get(better).is_some_and(|until| self.now <= *until);
            assert!(calm || !self.surely_takes_calls(better), "{id:?} is given {model}, not {better}");
        }
    }

    /// What the model is asked must be what was said.
    fn check_prompt(&self, step: &Step<'_>, id: TurnId, session: SessionId, agent: Name) {
        let (turn, owner) = (&self.turns[&id], &self.sessions[&session]);
        // It is read after the whole step, and a turn may start and end in one.
        let Some(prompt) = step.shard.prompt(id) else { return };
        assert_eq!(prompt.text, turn.text, "{id:?}: the prompt's text");
        assert_eq!(prompt.name, turn.name, "{id:?}: the sender's name");
        assert_eq!(&*self.plan.agent(prompt.agent).name, agent, "{id:?}: the prompt's agent");
        self.check_address(&prompt.address, owner);
        let variables: Vec<(String, String)> =
            prompt.variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(variables, owner.context, "{id:?}: the context variables");
        let history: Vec<(Role, String)> =
            prompt.history.map(|(role, text)| (role, text.to_owned())).collect();
        let kept = owner.history.as_deref().unwrap_or_default();
        let expected = if self.agent(agent).history { excerpt(kept, self.agent(agent).excerpt) } else { &[] };
        assert_eq!(history, expected, "{id:?}: the history");
    }

    pub(crate) fn on_cancel(&mut self, step: &mut Step<'_>, call: CallId) {
        step.mark("effect Cancel");
        let cut = self.why_cancelled(step, call);
        step.mark(format!("cancelled for {cut:?}"));
        self.close_call(step, call.turn, Finale::Cut(cut));
        if cut == Cut::Steered {
            self.restart(call.turn);
        }
    }

    /// A call is cancelled only for a reason that the shadow knows.
    fn why_cancelled(&mut self, step: &Step<'_>, call: CallId) -> Cut {
        let now = self.now;
        let limits = self.plan.limits.clone();
        let turn = self.turn(call.turn);
        let session = turn.session;
        let Some(live) = turn.live(call) else { panic!("{call:?} is cancelled, but does not run") };
        if step.meeting.interrupted == Some(call.turn) {
            return Cut::Interrupted;
        }
        if step.meeting.steered == Some(call.turn) {
            return Cut::Steered;
        }
        match step.cause {
            Cause::Event(Event::Left { turn }) if turn == call.turn => return Cut::Left,
            Cause::Event(Event::Operate {
                session: of,
                operation: Operation::Stop | Operation::Close,
                ..
            }) if of == session => {
                return Cut::Operator;
            }
            Cause::Event(Event::Piece { call: of, piece: Piece::Text(_) }) if of == call => {
                let said = live.said.len();
                assert!((limits.reply_bytes_max as usize) < said, "{call:?} is cut at {said} bytes");
                return Cut::TooLong;
            }
            Cause::Tick => {}
            Cause::Event(event) => panic!("{call:?} is cancelled because of {event:?}"),
        }
        let model = live.model;
        let Phase::Calling(live) = &self.turns[&call.turn].phase else { panic!("{call:?} does not run") };
        let clocks = live.clocks(self.model(model), limits.slow_client_age_max);
        // A client that was too slow for too long is told so, whatever else ran out.
        let first = clocks
            .into_iter()
            .filter(|(_, at)| fired(*at, now))
            .max_by_key(|(clock, _)| *clock == Clock::SlowClient);
        let Some((clock, _)) = first else {
            panic!("{call:?} is cancelled at {now:?}, but none of its clocks has run out: {live:?}");
        };
        // The clock is right; but why did it come to that?
        let excused = live.stalls || live.was_paused || live.started <= step.jumped;
        assert!(excused, "{call:?} ran out of time ({clock:?}), but its upstream did not stall: {live:?}");
        Cut::Clock(clock)
    }

    pub(crate) fn on_pause(&mut self, step: &mut Step<'_>, call: CallId, pause: bool) {
        step.mark(if pause { "effect Pause" } else { "effect Resume" });
        let now = self.now;
        let turn = self.turn(call.turn);
        assert_eq!(turn.mode, Mode::Stream, "{call:?} has no client that reads piece by piece");
        assert_eq!(turn.high, pause, "{call:?} is paused or resumed against its client's state");
        let Some(live) = turn.live(call) else { panic!("{call:?} is paused or resumed, but does not run") };
        assert_eq!(live.paused.is_some(), !pause, "{call:?} is paused or resumed twice");
        if pause { live.pause(now) } else { live.resume(now) }
    }

    /// A call is over: its turn owes what follows, and its breaker hears of it.
    pub(crate) fn close_call(&mut self, step: &mut Step<'_>, id: TurnId, finale: Finale) {
        let now = self.now;
        let backoff_max = self.plan.limits.backoff_max;
        let turn = self.turn(id);
        let Phase::Calling(live) = std::mem::replace(&mut turn.phase, Phase::Over) else {
            panic!("{id:?} has no call to close");
        };
        let (model, period, verdict, retry) =
            (live.model, live.period, finale.verdict(&live), finale.retry());
        let (agent, began) = (turn.agent, turn.began);
        turn.last = Some((model, finale.clone()));
        turn.phase = Phase::Ended(live, finale.clone());
        if let Some(agent) = agent {
            self.learn_pace(step, agent, began, &finale);
        }
        step.owed.push(id);
        if let Retry::After(calm) = retry {
            let calm = calm.min(backoff_max);
            let until = self.calm.entry(model).or_default();
            *until = (*until).max(now + calm + calm / 10);
        }
        let plan = self.model(model).breaker;
        let breaker = self.breakers.entry(model).or_default();
        if let Some(state) = breaker.end(now, &plan, period, verdict) {
            step.verdicts.push((model, breaker.period, state));
        }
    }

    pub(crate) fn on_breaker(&mut self, step: &mut Step<'_>, model: ModelId, state: State) {
        step.mark(format!("breaker {state:?}"));
        let now = self.now;
        let name = self.model_name(model);
        let plan = self.model(name).breaker;
        let breaker = self.breakers.entry(name).or_default();
        if let Err(why) = breaker.change(now, &plan, state) {
            panic!("the breaker of {name}: {why}");
        }
    }

    /// A breaker that must have changed has.
    pub(crate) fn check_breakers(&self, step: &Step<'_>) {
        for (model, period, state) in &step.verdicts {
            let breaker = &self.breakers[model];
            let right = breaker.period != *period || breaker.state == *state;
            assert!(right, "the breaker of {model} is {:?}, and should be {state:?}", breaker.state);
        }
    }

    pub(crate) fn on_nudge(&mut self, step: &mut Step<'_>, shard: ShardId, agent: AgentId) {
        step.mark("effect Nudge");
        assert!(
            shard.0 < self.shards && shard.0 != self.number,
            "{shard:?} is nudged by shard {}",
            self.number
        );
        assert!(usize::from(agent.0) < self.plan.agents.len(), "{agent:?} does not exist");
    }

    /// Is there no model for this turn's next call? Where it stands in its chain while it waits is the shard's affair.
    pub(crate) fn is_cut_off(&self, id: TurnId) -> bool {
        let turn = &self.turns[&id];
        let Some(agent) = turn.agent else { return false };
        let chain = &self.agent(agent).models;
        let (from, now) = (self.chain_place(id), self.now);
        let waits = matches!(turn.phase, Phase::Resting(_));
        let skipped = |model: &Name| {
            waits
                || self.calm.get(model).is_some_and(|until| now <= *until)
                || !self.surely_takes_calls(model)
        };
        let reached = |place: &usize| {
            *place == from || (turn.last.is_some() && chain[from + 1..*place].iter().all(skipped))
        };
        (from..chain.len()).filter(reached).any(|place| self.unavailable(agent, place))
            || turn.others.iter().any(|other| self.unavailable(other, 0))
    }

    /// Names why a turn must not give up after a call that may be repeated.
    pub(crate) fn may_give_up(&self, id: TurnId) -> Result<(), String> {
        let turn = &self.turns[&id];
        let Some(agent) = turn.agent else { return Err("it asks nobody".to_owned()) };
        if !self.employs(agent) || turn.seq > 0 {
            return Ok(());
        }
        let from = self.chain_place(id);
        let Some((model, finale)) = &turn.last else {
            return Err(format!("{agent} was not asked yet"));
        };
        if finale.retry() == Retry::Never {
            return Ok(());
        }
        if !self.unavailable(agent, from + 1) {
            return Err(format!("{agent} has other models that work after {model}"));
        }
        let spent = self.agent(agent).attempts_max <= turn.tried.get(model).copied().unwrap_or(0);
        match finale.retry() {
            Retry::Backoff | Retry::AtOnce if !spent && self.surely_takes_calls(model) => {
                Err(format!("{model} was tried {:?} times", turn.tried.get(model)))
            }
            Retry::After(_) if !spent => Err(format!("{model} said when to come back")),
            Retry::Backoff | Retry::AtOnce | Retry::After(_) | Retry::Elsewhere | Retry::Never => Ok(()),
        }
    }

    /// After a step: a turn whose call failed and that was told nothing waits for its next call. Names the times between
    /// which that may come.
    pub(crate) fn rest_after(&self, id: TurnId, finale: &Finale) -> Rest {
        let (now, limits) = (self.now, &self.plan.limits);
        let turn = &self.turns[&id];
        let spent = turn.agent.zip(turn.last.as_ref()).is_none_or(|(agent, (model, _))| {
            self.agent(agent).attempts_max <= turn.tried.get(model).copied().unwrap_or(0)
        });
        let tries = turn.last.as_ref().and_then(|(model, _)| turn.tried.get(model)).copied().unwrap_or(1);
        match finale.retry() {
            Retry::Backoff if !spent => {
                let rest = Rest::backoff(now, tries, limits);
                // People on a platform wait for a breaker, too.
                let patient = turn.mode == Mode::Deliver;
                Rest { until: if patient { now + limits.backoff_max } else { rest.until }, ..rest }
            }
            Retry::After(wait) if !spent => {
                let wait = wait.clamp(Duration::from_millis(1), limits.backoff_max);
                Rest { from: now + wait, until: now + wait }
            }
            Retry::Backoff | Retry::AtOnce | Retry::After(_) | Retry::Elsewhere => {
                Rest { from: now, until: now }
            }
            Retry::Never => panic!("{id:?} is told nothing after {finale:?}"),
        }
    }
}
