//! The shadow of the whole process: one board for each shard, and what holds over all of them at every step.
use crate::board::{Board, Claim, Session};
use crate::dice::Dice;
use crate::marks::Marks;
use crate::plans::{AgentDraft, Name, Setup};
use crate::turn::{Phase, fired};
use clawgate_core::bounds::Bounds;
use clawgate_core::codes::Code;
use clawgate_core::event::{Event, Mode};
use clawgate_core::id::{CallId, SessionId, TurnId};
use clawgate_core::plan::Plan;
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use crate::board::{Cause, Step};

/// Steps between two looks for turns that could run and do not.
const IDLE_EVERY: u64 = 4;
/// Steps between two comparisons of everything with everything.
const SWEEP_EVERY: u64 = 64;

/// The shadow.
pub(crate) struct Shadow {
    boards: Vec<Board>,
    bounds: Arc<Bounds>,
    jumped: Time,
    steps: u64,
    /// Nudges on their way, by agent.
    nudges: BTreeMap<Name, u32>,
    /// Messages handed in.
    messages: u64,
    /// What was least used of a limit since a reload made it smaller than what was used: it may be more than the limit
    /// then, and does not grow.
    least: BTreeMap<&'static str, u32>,
    /// Shards that did nothing since a shard last took on another plan: they hold reserves as before.
    unaware: BTreeSet<usize>,
}

impl Shadow {
    pub(crate) fn new(setup: &Setup, bounds: Arc<Bounds>, shards: usize) -> Self {
        let boards = (0..shards).map(|n| Board::new(n as u16, shards as u16, setup)).collect();
        Self {
            boards,
            bounds,
            jumped: Time::ZERO,
            steps: 0,
            nudges: BTreeMap::new(),
            messages: 0,
            least: BTreeMap::new(),
            unaware: BTreeSet::new(),
        }
    }

    // ---- what the world asks ----

    pub(crate) fn plan(&self, shard: usize) -> Arc<Plan> {
        self.boards[shard].plan.clone()
    }

    pub(crate) fn mode(&self, shard: usize, turn: TurnId) -> Option<Mode> {
        self.boards[shard].turns.get(&turn).map(|turn| turn.mode)
    }

    pub(crate) fn lives(&self, shard: usize, turn: TurnId) -> bool {
        self.boards[shard].turns.contains_key(&turn)
    }

    /// Is there a client that could leave this turn, if it is alive?
    pub(crate) fn has_client(&self, shard: usize, turn: TurnId) -> bool {
        self.boards[shard].turns.get(&turn).is_none_or(|turn| !turn.outbound)
    }

    /// A turn that is not over, on any shard.
    pub(crate) fn any_turn(&self, dice: &mut Dice) -> Option<(usize, TurnId)> {
        let total: usize = self.boards.iter().map(|board| board.turns.len()).sum();
        if total == 0 {
            return None;
        }
        let mut nth = dice.index(total);
        for (shard, board) in self.boards.iter().enumerate() {
            if nth < board.turns.len() {
                return board.turns.keys().nth(nth).map(|turn| (shard, *turn));
            }
            nth -= board.turns.len();
        }
        None
    }

    /// A session in memory, on any shard.
    pub(crate) fn any_session(&self, dice: &mut Dice) -> Option<(usize, SessionId)> {
        let shard = dice.index(self.boards.len());
        let sessions = &self.boards[shard].sessions;
        if sessions.is_empty() {
            return None;
        }
        let nth = dice.index(sessions.len());
        sessions.keys().nth(nth).map(|session| (shard, *session))
    }

    // ---- what the world tells ----

    pub(crate) const fn jumped(&mut self, now: Time) {
        self.jumped = now;
    }

    pub(crate) fn will_stall(&mut self, shard: usize, call: CallId) {
        if let Some(live) = self.boards[shard].turns.get_mut(&call.turn).and_then(|turn| turn.live(call)) {
            live.stalls = true;
        }
    }

    pub(crate) fn delivery_will_stall(&mut self, shard: usize, turn: TurnId) {
        if let Some(Phase::Posting(post)) =
            self.boards[shard].turns.get_mut(&turn).map(|turn| &mut turn.phase)
        {
            post.stalls = true;
        }
    }

    pub(crate) fn reconfigured(&mut self, shard: usize, setup: &Setup) {
        self.boards[shard].reconfigured(setup);
        self.unaware = (0..self.boards.len()).filter(|other| *other != shard).collect();
        if self.is_uniform() {
            self.note_usage();
        }
    }

    /// A nudge arrives.
    pub(crate) fn nudge_arrives(&mut self, agent: Name) {
        if let Some(count) = self.nudges.get_mut(agent) {
            *count -= 1;
        }
    }

    /// A nudge is sent.
    pub(crate) fn nudge_leaves(&mut self, agent: Name) {
        *self.nudges.entry(agent).or_default() += 1;
    }

    /// Judges what a shard did with what it was handed.
    pub(crate) fn judge(&mut self, number: usize, now: Time, step: &mut Step<'_>, marks: &mut Marks) {
        self.messages += u64::from(matches!(step.cause, Cause::Event(Event::Inbound { .. })));
        self.boards[number].judge(step, now);
        for mark in &step.marks {
            marks.hit(mark);
        }
        for claim in std::mem::take(&mut step.claims) {
            self.check_claim(number, &claim, marks);
        }
        if self.unaware.remove(&number) && self.unaware.is_empty() {
            self.check_counts();
        }
        self.steps += 1;
    }

    /// What holds between the steps, once their effects are on their way.
    pub(crate) fn between(&self, shards: &[Shard]) {
        if self.steps.is_multiple_of(IDLE_EVERY) {
            self.check_nobody_waits_for_nothing();
        }
        if self.steps.is_multiple_of(SWEEP_EVERY) {
            self.sweep(shards);
        }
    }

    pub(crate) fn jumped_at(&self) -> Time {
        self.jumped
    }
}

/// What the process uses of a limit, as the shadow counts it.
#[derive(Debug)]
struct Usage {
    used: u32,
    max: u32,
    shards: u32,
}

impl Usage {
    /// May a shard find the limit reached? Others may hold up to two blocks of a large one in reserve.
    fn is_reached(&self) -> bool {
        self.max != 0 && self.max <= self.used + self.reserve()
    }

    fn reserve(&self) -> u32 {
        let block = (self.max / (self.shards * 16)).clamp(1, 64);
        if block == 1 { 0 } else { (2 * block - 1) * self.shards }
    }

    fn is_kept(&self) -> bool {
        self.max == 0 || self.used <= self.max
    }

    /// What the shards have taken together is what is used, and what they may keep in reserve: nothing where more is
    /// used than a smaller limit allows, once all have heard of it.
    fn check_count(&self, what: &str, taken: u32, heard: bool) {
        if self.max == 0 {
            assert_eq!(taken, 0, "{what}: counted without a limit");
            return;
        }
        let most = self.used + if heard && !self.is_kept() { 0 } else { self.reserve() };
        assert!(
            (self.used..=most).contains(&taken),
            "{what}: {taken} taken, {} used, {most} at most",
            self.used
        );
    }
}

impl Shadow {
    fn usage(&self, max: u32, count: impl Fn(&Board) -> u32) -> Usage {
        Usage { used: self.boards.iter().map(count).sum(), max, shards: self.boards.len() as u32 }
    }

    fn turns(&self, max: u32) -> Usage {
        self.usage(max, |board| board.turns.len() as u32)
    }

    fn sessions(&self, max: u32) -> Usage {
        self.usage(max, |board| board.sessions.len() as u32)
    }

    fn waiting(&self, agent: Name, max: u32) -> Usage {
        self.usage(max, |board| board.waiting_for(agent))
    }

    fn running(&self, agent: Name, max: u32) -> Usage {
        self.usage(max, |board| board.places_of(agent))
    }

    fn calls(&self, model: Name, max: u32) -> Usage {
        self.usage(max, |board| board.calls_of(model))
    }

    /// A refusal needs a limit that is reached; what is taken needs one that is kept.
    fn check_claim(&mut self, number: usize, claim: &Claim, marks: &mut Marks) {
        let limits = self.boards[number].limits().clone();
        match claim {
            Claim::Refused { code, agents, crowded } if self.is_uniform() => {
                self.check_refusal(number, *code, agents, *crowded, marks)
            }
            Claim::Refused { .. } => {}
            Claim::Evicted => {
                let sessions = self.sessions(limits.sessions_max);
                let full = Usage { used: sessions.used + 1, ..sessions }.is_reached();
                assert!(full || !self.is_uniform(), "a session was evicted without need");
                marks.hit("session evicted");
            }
            Claim::Started { agent, model } => {
                let (agent_max, model_max) = (
                    self.boards[number].agent(agent).running_max,
                    self.boards[number].model(model).running_max,
                );
                let (places, calls) = (self.running(agent, agent_max), self.calls(model, model_max));
                if agent_max != 0 && places.used == agent_max {
                    marks.hit("agent running_max reached");
                }
                if model_max != 0 && calls.used == model_max {
                    marks.hit("model running_max reached");
                }
                self.check_kept(agent, &places);
                self.check_kept(model, &calls);
            }
            Claim::Accepted => {
                self.check_kept("turns", &self.turns(limits.turns_max));
                self.check_kept("sessions", &self.sessions(limits.sessions_max));
            }
            Claim::Queued { agent } => {
                let waiting = self.waiting(agent, self.boards[number].agent(agent).waiting_max);
                self.check_kept(waiting_name(agent), &waiting);
            }
        }
    }

    /// Something was taken of a limit, which must hold. While a reload is on its way the shards have different ones.
    fn check_kept(&mut self, what: &'static str, usage: &Usage) {
        if usage.is_kept() || !self.is_uniform() {
            self.least.remove(what);
            return;
        }
        let least = self.least.entry(what).or_insert(usage.used);
        assert!(usage.used <= *least, "{what}: {usage:?}, and there were {least}");
        *least = usage.used.min(*least);
    }

    /// All shards have heard of a reload: what is used beyond its limits does not grow from here on.
    fn note_usage(&mut self) {
        let board = &self.boards[0];
        let limits = board.limits();
        let mut all =
            vec![("turns", self.turns(limits.turns_max)), ("sessions", self.sessions(limits.sessions_max))];
        for agent in board.roster.iter().filter(|agent| board.employs(agent.name)) {
            all.push((agent.name, self.running(agent.name, agent.running_max)));
            all.push((waiting_name(agent.name), self.waiting(agent.name, agent.waiting_max)));
        }
        for model in &board.plan.models {
            let name = crate::plans::known(&model.name);
            all.push((name, self.calls(name, model.running_max)));
        }
        let beyond = all.iter().filter(|(_, usage)| !usage.is_kept());
        self.least = beyond.map(|(what, usage)| (*what, usage.used)).collect();
    }

    /// Do all shards have the same plan?
    fn is_uniform(&self) -> bool {
        self.boards.iter().all(|board| Arc::ptr_eq(&board.plan, &self.boards[0].plan))
    }

    /// A refusal needs a limit that is reached.
    fn check_refusal(&self, number: usize, code: Code, agents: &[Name], crowded: bool, marks: &mut Marks) {
        let board = &self.boards[number];
        if code == Code::AgentBusy {
            let full = |agent: &Name| self.waiting(agent, board.agent(agent).waiting_max).is_reached();
            if !agents.iter().any(full) {
                assert!(crowded, "none of {agents:?} is busy");
                marks.hit("refused early");
            }
            return;
        }
        assert_eq!(code, Code::Busy, "refused for no reason of this kind");
        let limits = board.limits();
        let (turns, sessions) = (self.turns(limits.turns_max), self.sessions(limits.sessions_max));
        assert!(turns.is_reached() || sessions.is_reached(), "busy with {turns:?} and {sessions:?}");
        marks.hit(if turns.is_reached() { "turns_max reached" } else { "sessions_max reached" });
    }
}

/// What the waiting places of agents are called.
const WAITING: [(Name, &str); 5] = [
    ("ada", "waiting for ada"),
    ("bob", "waiting for bob"),
    ("cyd", "waiting for cyd"),
    ("dot", "waiting for dot"),
    ("eve", "waiting for eve"),
];

fn waiting_name(agent: Name) -> Name {
    WAITING.iter().find(|(of, _)| *of == agent).map_or("", |(_, name)| name)
}

impl Shadow {
    /// No turn waits while there is a place for it, unless somebody is on the way to say so.
    fn check_nobody_waits_for_nothing(&self) {
        for agent in self.boards[0].roster.iter() {
            let name = agent.name;
            // While a reload is on its way some shards do not know the agent, and soon nobody waits for it.
            let known = self.boards.iter().all(|board| !board.renewed && board.employs(name));
            if !self.is_uniform() || !known || self.nudges.get(name).is_some_and(|count| *count > 0) {
                continue;
            }
            let full = self.running(name, agent.running_max).is_reached();
            for board in &self.boards {
                for (id, turn) in &board.turns {
                    let could_run = turn.agent == Some(name) && turn.ready.is_some() && board.could_run(turn);
                    let needs_place = matches!(turn.phase, Phase::Waiting);
                    if !could_run || (needs_place && full) {
                        continue;
                    }
                    let from = board.chain_place(*id);
                    let no_model = board
                        .choices(agent, turn, from)
                        .any(|model| self.calls(model, board.model(model).running_max).is_reached());
                    assert!(
                        no_model,
                        "shard {}: {id:?} waits for {name}, and nothing runs that would wake it: {:?} {turn:?}",
                        board.number,
                        agent
                            .models
                            .iter()
                            .map(|of| (of, self.calls(of, board.model(of).running_max)))
                            .collect::<Vec<_>>()
                    );
                }
            }
        }
    }

    /// Compares each shard's own account with the shadow's.
    fn sweep(&self, shards: &[Shard]) {
        for (board, shard) in self.boards.iter().zip(shards) {
            board.compare(shard);
        }
        self.check_counts();
    }

    /// Compares what is taken of each limit with what is used of it.
    fn check_counts(&self) {
        let (limits, heard) = (self.boards[0].limits(), self.unaware.is_empty());
        if !self.is_uniform() {
            return;
        }
        self.turns(limits.turns_max).check_count("turns", self.bounds.turns(), heard);
        self.sessions(limits.sessions_max).check_count("sessions", self.bounds.sessions(), heard);
        for agent in self.boards[0].roster.iter() {
            let (waiting, running) = self.bounds.agent(agent.name);
            self.waiting(agent.name, agent.waiting_max).check_count(agent.name, waiting, heard);
            self.running(agent.name, agent.running_max).check_count(agent.name, running, heard);
        }
        for model in &self.boards[0].plan.models {
            let name = crate::plans::known(&model.name);
            self.calls(name, model.running_max).check_count(name, self.bounds.model(name), heard);
        }
    }

    /// Nothing is left: no turn, no session, nothing taken of any limit, and the counters add up.
    pub(crate) fn check_rest(&self, shards: &[Shard]) {
        self.sweep(shards);
        let mut accepted = 0;
        let mut refused = 0;
        for (board, shard) in self.boards.iter().zip(shards) {
            assert!(board.turns.is_empty(), "turns that never end: {:?}", board.turns);
            assert!(board.sessions.is_empty(), "sessions that never expire: {:?}", board.sessions);
            let counters = shard.counters();
            let failed: u64 = Code::ALL.iter().map(|code| counters.failed(*code)).sum();
            let ended = counters.answered + counters.cancelled + counters.merged + failed;
            assert_eq!(counters.accepted, ended, "shard {}: each turn ended once", board.number);
            accepted += counters.accepted;
            refused += Code::ALL.iter().map(|code| counters.refused(*code)).sum::<u64>();
        }
        let spoken: u64 = self.boards.iter().map(|board| board.tally.spoken).sum();
        let others: u64 = self.boards.iter().map(|board| board.tally.duplicate + board.tally.ignored).sum();
        assert_eq!(accepted - spoken + refused + others, self.messages, "each message was answered once");
        assert!(self.nudges.values().all(|count| *count == 0), "nudges that never arrive: {:?}", self.nudges);
    }
}

impl Board {
    /// The models that a turn may wait for: of those left to it up to the first that surely takes calls and asked for
    /// no calm. It took calls already when time last passed for this shard. Where a turn that was called before stands
    /// is the shard's affair.
    fn choices<'a>(
        &self,
        agent: &'a AgentDraft,
        turn: &crate::turn::Turn,
        from: usize,
    ) -> impl Iterator<Item = Name> + use<'a> {
        let chain = agent.models.get(from..).unwrap_or_default();
        let taken = |model: &Name| {
            let calm = self.calm.get(model).is_some_and(|until| self.ticked <= *until);
            !calm && self.takes_calls_since(model, self.ticked)
        };
        let first = if turn.last.is_none() { chain.iter().position(taken) } else { None };
        let first = first.unwrap_or(chain.len());
        chain.iter().take(first + 1).copied()
    }

    /// Could this turn run, if there were a place?
    fn could_run(&self, turn: &crate::turn::Turn) -> bool {
        let due = match &turn.phase {
            Phase::Waiting => true,
            Phase::Resting(rest) => fired(rest.until, self.ticked),
            Phase::Calling(_) | Phase::Ended(..) | Phase::Posting(_) | Phase::Over => false,
        };
        due && turn.parked_until < self.ticked.max(Time(1))
    }

    fn count(&self, of: impl Fn(&crate::turn::Turn) -> bool) -> u32 {
        self.turns.values().filter(|turn| of(turn)).count() as u32
    }

    fn waiting_for(&self, agent: Name) -> u32 {
        self.count(|turn| turn.agent == Some(agent) && turn.waits() && !self.has_waited_too_long(turn))
    }

    /// Turns that hold a place at the agent: from their first start to the end of their last call.
    fn places_of(&self, agent: Name) -> u32 {
        self.count(|turn| {
            turn.agent == Some(agent) && matches!(turn.phase, Phase::Calling(_) | Phase::Resting(_))
        })
    }

    fn calls_of(&self, model: Name) -> u32 {
        self.count(|turn| matches!(&turn.phase, Phase::Calling(live) if live.model == model))
    }

    /// It failed behind others, and only owes its apology.
    fn has_waited_too_long(&self, turn: &crate::turn::Turn) -> bool {
        turn.failed_behind
    }

    /// The shard's own account of what it has is the shadow's.
    fn compare(&self, shard: &Shard) {
        shard.check();
        let load = shard.load();
        let sessions: Vec<SessionId> = shard.sessions(0).map(|view| view.id).collect();
        let mut known: Vec<SessionId> = self.sessions.keys().copied().collect();
        known.sort_by_key(|id| id.slot);
        assert_eq!(sessions, known, "shard {}: its sessions", self.number);
        assert_eq!(load.sessions as usize, self.sessions.len(), "shard {}: its sessions", self.number);
        let calling = self.count(|turn| matches!(turn.phase, Phase::Calling(_)));
        let posting = self.count(|turn| matches!(turn.phase, Phase::Posting(_)));
        assert_eq!((load.running, load.delivering), (calling, posting), "shard {}: its turns", self.number);
        let all = load.waiting + load.ready + load.running + load.backing_off + load.delivering;
        assert_eq!(all as usize, self.turns.len(), "shard {}: its turns", self.number);
        for (agent, load) in self.plan.agents.iter().zip(&load.agents) {
            let name = crate::plans::known(&agent.name);
            let account = (self.waiting_for(name), self.places_of(name));
            assert_eq!((load.waiting, load.running), account, "shard {}: the turns of {name}", self.number);
        }
        for (id, turn) in &self.turns {
            assert_eq!(shard.session_of(*id), Some(turn.session), "{id:?}: its session");
        }
        for (number, model) in self.plan.models.iter().enumerate() {
            let name = crate::plans::known(&model.name);
            let state = self.breakers.get(name).map(|breaker| breaker.state).unwrap_or_default();
            let id = clawgate_core::id::ModelId(number as u16);
            assert_eq!(shard.breaker(id), state, "shard {}: the breaker of {name}", self.number);
        }
        self.compare_sessions(shard);
    }

    fn compare_sessions(&self, shard: &Shard) {
        for view in shard.sessions(0) {
            let owner = &self.sessions[&view.id];
            self.check_address(&view.address, owner);
            assert_eq!(view.active, owner.active, "{:?}: when it was active", view.id);
            assert_eq!(
                usize::from(view.waiting),
                owner.queue.len().saturating_sub(1),
                "{:?}: its turns",
                view.id
            );
            let idle = view.state == clawgate_core::view::State::Idle;
            assert_eq!(idle, owner.queue.is_empty(), "{:?}: its state", view.id);
            self.compare_memory(shard, view.id, owner);
        }
    }

    fn compare_memory(&self, shard: &Shard, id: SessionId, owner: &Session) {
        let memory = shard.memory(id).unwrap_or_else(|| panic!("{id:?} has no memory"));
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let variables: Vec<(String, String)> = memory.variables.map(own).collect();
        assert_eq!(variables, owner.context, "{id:?}: its context variables");
        let history: Vec<_> = memory.history.map(|(role, text)| (role, text.to_owned())).collect();
        assert_eq!(history, owner.history.clone().unwrap_or_default(), "{id:?}: its history");
    }
}
