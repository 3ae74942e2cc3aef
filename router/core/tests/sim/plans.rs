//! The configurations that a seed runs under: limits small enough to be reached, models with faults within reach of
//! their time-outs, and what an operator makes of them while everything runs (renamed, removed, moved, added).
use crate::dice::Dice;
use crate::people::CHANNELS;
use clawgate_core::event::Class;
use clawgate_core::id::{AgentId, ModelId};
use clawgate_core::limits::Limits;
use clawgate_core::plan::{Agent, BreakerPlan, Channel, DmPolicy, DropPolicy, Excerpt, GroupPolicy, Model};
use clawgate_core::plan::{Plan, RunningMode, Unit, WhileRunning};
use clawgate_core::route::{Matcher, Rule, Strategy};
use std::sync::Arc;
use std::time::Duration;

/// The name of an agent, a model or a channel.
pub(crate) type Name = &'static str;

/// The route, as the shadow understands it: by names, without any of the router's own code.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Static(Name),
    Content(Box<Self>),
    Balance(Vec<(Name, u32)>),
    Affinity(Box<Self>),
}

impl Route {
    /// Who may answer this text in a session that had no agent before.
    pub(crate) fn agents(&self, text: &str) -> Vec<Name> {
        match self {
            Self::Static(name) => vec![name],
            Self::Balance(of) => of.iter().map(|(name, _)| *name).collect(),
            Self::Affinity(inner) => inner.agents(text),
            Self::Content(otherwise) => {
                let mut words = text.split(|c: char| !c.is_alphanumeric());
                if text.starts_with("/bob") {
                    vec!["bob"]
                } else if words.any(|word| word.eq_ignore_ascii_case("cyd")) {
                    vec!["cyd"]
                } else if text.contains("ticket-4711") {
                    vec!["ada"]
                } else {
                    otherwise.agents(text)
                }
            }
        }
    }

    /// Does a session keep the agent that it got first?
    pub(crate) const fn keeps(&self) -> bool {
        matches!(self, Self::Affinity(_))
    }

    fn names(&self) -> Vec<Name> {
        match self {
            Self::Static(name) => vec![name],
            Self::Balance(of) => of.iter().map(|(name, _)| *name).collect(),
            Self::Affinity(inner) => inner.names(),
            Self::Content(otherwise) => [vec!["ada", "bob", "cyd"], otherwise.names()].concat(),
        }
    }
}

/// A configuration to be varied: the plan before it is compiled.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    limits: Limits,
    channels: Vec<ChannelDraft>,
    /// All that there ever are.
    roster: Vec<AgentDraft>,
    /// Those in the plan, in its order.
    agents: Vec<Name>,
    models: Vec<ModelDraft>,
    route: Route,
}

#[derive(Clone, Debug)]
struct ChannelDraft {
    name: Name,
    text_max: u32,
    unit: Unit,
    dm: DmPolicy,
    groups: GroupPolicy,
    allowed: Vec<String>,
    gating: bool,
    agent: Option<Name>,
}

/// An agent. It comes back as it went.
#[derive(Clone, Debug)]
pub(crate) struct AgentDraft {
    pub(crate) name: Name,
    /// Its chain.
    pub(crate) models: Vec<Name>,
    pub(crate) running_max: u32,
    pub(crate) waiting_max: u32,
    pub(crate) attempts_max: u16,
    pub(crate) history: bool,
    pub(crate) excerpt: Excerpt,
    pub(crate) failure_text: bool,
    pub(crate) while_running: WhileRunning,
    pub(crate) wait_target: Duration,
}

#[derive(Clone, Debug)]
struct ModelDraft {
    name: Name,
    running_max: u32,
    silence_max: Duration,
    breaker: BreakerPlan,
}

/// What a text is answered with where there is no answer.
pub(crate) const FAILURE_TEXT: &str = "sorry, that went wrong";

/// A plan and how the shadow reads it.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) plan: Arc<Plan>,
    pub(crate) route: Route,
    pub(crate) roster: Arc<[AgentDraft]>,
}

/// The name as the shadow keeps it.
pub(crate) fn known(name: &str) -> Name {
    const NAMES: [Name; 12] =
        ["ada", "bob", "cyd", "dot", "eve", "big", "mid", "spare", "stream", "whole", "chat", "club"];
    NAMES.into_iter().find(|known| *known == name).unwrap_or_else(|| panic!("nobody is called {name}"))
}

impl Draft {
    /// The configuration that a seed begins with.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let models = ["big", "mid", "spare"].map(|name| model(dice, name));
        let roster = ["ada", "bob", "cyd", "dot", "eve"].map(|name| agent(dice, name));
        let channels = CHANNELS.map(|name| channel(dice, name));
        Self {
            limits: limits(dice),
            channels: channels.into(),
            agents: vec!["ada", "bob", "cyd", "dot"],
            roster: roster.into(),
            models: models.into(),
            route: route(dice),
        }
    }

    /// What an operator might change next.
    pub(crate) fn vary(&mut self, dice: &mut Dice) {
        for _ in 0..dice.between(1, 3) {
            match dice.below(8) {
                0 => shuffle(dice, &mut self.agents),
                1 => shuffle(dice, &mut self.models),
                2 => self.leave_or_return(dice),
                3 => shuffle(dice, &mut self.channels),
                4 => self.route = route(dice),
                5 => self.limit(dice),
                6 => {
                    let index = dice.index(self.models.len());
                    self.models[index].running_max = *dice.pick(&CALLS_MAX);
                }
                _ => {
                    let index = dice.index(self.channels.len());
                    self.channels[index] = channel(dice, self.channels[index].name);
                }
            }
        }
        self.mend();
    }

    /// Other limits, for an agent or for all.
    fn limit(&mut self, dice: &mut Dice) {
        let name = *dice.pick(&self.agents);
        for agent in self.roster.iter_mut().filter(|agent| agent.name == name) {
            agent.running_max = *dice.pick(&RUNNING_MAX);
            agent.waiting_max = *dice.pick(&WAITING_MAX);
            agent.while_running = while_running(dice);
        }
        if dice.chance(500) {
            self.limits.turns_max = *dice.pick(&TURNS_MAX);
            self.limits.sessions_max = *dice.pick(&SESSIONS_MAX);
        }
    }

    /// An agent goes, or one that went comes back.
    fn leave_or_return(&mut self, dice: &mut Dice) {
        let name = *dice.pick(&["dot", "eve"]);
        if let Some(index) = self.agents.iter().position(|agent| *agent == name) {
            self.agents.remove(index);
        } else {
            let index = dice.index(self.agents.len() + 1);
            self.agents.insert(index, name);
        }
    }

    /// Whoever is named must exist.
    fn mend(&mut self) {
        if !self.route.names().iter().all(|name| self.agents.contains(name)) {
            self.route = Route::Static("ada");
        }
        for channel in &mut self.channels {
            channel.agent = channel.agent.filter(|name| self.agents.contains(name));
        }
    }

    /// Compiles it.
    pub(crate) fn setup(&self) -> Setup {
        let plan = Plan {
            limits: self.limits.clone(),
            channels: self.channels.iter().map(|channel| self.channel(channel)).collect(),
            agents: self.agents.iter().map(|name| self.agent(name)).collect(),
            models: self.models.iter().map(ModelDraft::model).collect(),
            route: self.strategy(&self.route),
            links: clawgate_core::links::Links::default(),
        };
        Setup { plan: Arc::new(plan), route: self.route.clone(), roster: self.roster.as_slice().into() }
    }

    fn agent_id(&self, name: &str) -> AgentId {
        let index = self.agents.iter().position(|agent| *agent == name);
        AgentId(index.unwrap_or_else(|| panic!("no agent {name}")) as u16)
    }

    fn channel(&self, draft: &ChannelDraft) -> Channel {
        Channel {
            name: draft.name.into(),
            text_max: draft.text_max,
            unit: draft.unit,
            // What a platform sees before an answer is whole is judged by the simulator of crashes.
            preview_every: Duration::ZERO,
            dm: draft.dm,
            groups: draft.groups,
            allowed: draft.allowed.iter().map(|name| name.as_str().into()).collect(),
            mention_gating: draft.gating,
            agent: draft.agent.map(|name| self.agent_id(name)),
            class: Class::Normal,
        }
    }

    fn agent(&self, name: Name) -> Agent {
        let draft = self.roster.iter().find(|agent| agent.name == name);
        let draft = draft.unwrap_or_else(|| panic!("no agent {name}"));
        let id = |name: &Name| self.models.iter().position(|model| &model.name == name);
        Agent {
            name: draft.name.into(),
            models: draft.models.iter().filter_map(id).map(|index| ModelId(index as u16)).collect(),
            running_max: draft.running_max,
            waiting_max: draft.waiting_max,
            attempts_max: draft.attempts_max,
            fallback: None,
            history: draft.history,
            excerpt: draft.excerpt,
            needs_history: true,
            while_running: draft.while_running,
            wait_target: draft.wait_target,
            failure_text: draft.failure_text.then(|| FAILURE_TEXT.into()),
        }
    }

    fn strategy(&self, route: &Route) -> Strategy {
        match route {
            Route::Static(name) => Strategy::Static(self.agent_id(name)),
            Route::Balance(of) => {
                Strategy::Balance(of.iter().map(|(name, weight)| (self.agent_id(name), *weight)).collect())
            }
            Route::Affinity(inner) => Strategy::Affinity(Box::new(self.strategy(inner))),
            Route::Content(otherwise) => {
                let rule = |keywords: &[&str], prefixes: &[&str], patterns: &[&str], agent: &str| Rule {
                    keywords: keywords.iter().map(|&word| word.into()).collect(),
                    prefixes: prefixes.iter().map(|&prefix| prefix.into()).collect(),
                    patterns: patterns.iter().map(|&pattern| pattern.into()).collect(),
                    then: Strategy::Static(self.agent_id(agent)),
                };
                let rules = [
                    rule(&[], &["/bob"], &[], "bob"),
                    rule(&["cyd"], &[], &[], "cyd"),
                    rule(&[], &[], &["ticket-[0-9]{4}"], "ada"),
                ];
                let rules = Matcher::compile(&rules).unwrap_or_else(|error| panic!("rules: {error:?}"));
                Strategy::Content { rules, otherwise: Box::new(self.strategy(otherwise)) }
            }
        }
    }
}

impl ModelDraft {
    fn model(&self) -> Model {
        Model {
            name: self.name.into(),
            running_max: self.running_max,
            requests_per_minute: 0,
            tokens_per_minute: 0,
            header_age_max: Duration::from_secs(3),
            first_piece_age_max: Duration::from_secs(6),
            silence_max: self.silence_max,
            call_age_max: Duration::from_secs(60),
            retry: None,
            fallback: None,
            breaker: self.breaker,
        }
    }
}

const SESSIONS_MAX: [u32; 5] = [20, 64, 64, 150, 0];
const TURNS_MAX: [u32; 5] = [12, 40, 96, 200, 0];
/// Of an agent: turns that run, and that wait.
const RUNNING_MAX: [u32; 7] = [0, 1, 2, 3, 8, 40, 160];
const WAITING_MAX: [u32; 5] = [0, 3, 10, 40, 160];
/// Calls of a model.
const CALLS_MAX: [u32; 5] = [0, 0, 2, 6, 40];

/// Limits around [`Limits::TEST`]: some below the number of shards, some large enough to be leased in blocks.
fn limits(dice: &mut Dice) -> Limits {
    Limits {
        sessions_max: *dice.pick(&SESSIONS_MAX),
        turns_max: *dice.pick(&TURNS_MAX),
        session_waiting_max: *dice.pick(&[1, 2, 4]),
        dedup_ids_max: *dice.pick(&[64, 512]),
        delivery_attempts_max: *dice.pick(&[1, 3, 3]),
        waiting_age_max: Duration::from_secs(*dice.pick(&[20, 20, 300])),
        ..Limits::TEST
    }
}

fn model(dice: &mut Dice, name: Name) -> ModelDraft {
    ModelDraft {
        name,
        running_max: *dice.pick(&CALLS_MAX),
        silence_max: Duration::from_secs(dice.between(2, 5)),
        breaker: BreakerPlan {
            calls_min: dice.between(3, 10) as u32,
            failed_percent: *dice.pick(&[0, 40, 50, 60]),
            slow_after: Duration::from_millis(dice.between(500, 3000)),
            slow_percent: *dice.pick(&[0, 80, 100]),
            window: Duration::from_secs(dice.between(5, 60)),
            open_min: Duration::from_secs(2),
            open_max: Duration::from_secs(20),
            probes: dice.between(1, 3) as u16,
        },
    }
}

fn agent(dice: &mut Dice, name: Name) -> AgentDraft {
    let mut models = vec!["big", "mid", "spare"];
    shuffle(dice, &mut models);
    models.truncate(dice.between(1, 3) as usize);
    AgentDraft {
        name,
        models,
        running_max: *dice.pick(&RUNNING_MAX),
        waiting_max: *dice.pick(&WAITING_MAX),
        attempts_max: dice.between(1, 3) as u16,
        history: dice.chance(500),
        excerpt: excerpt(&mut dice.clone()),
        failure_text: dice.chance(500),
        while_running: while_running(dice),
        wait_target: Duration::from_millis(*dice.pick(&[0, 0, 500, 5_000])),
    }
}

/// Drawn from a copy of the dice: the seeds that were there before keep the rest of what they have.
fn excerpt(dice: &mut Dice) -> Excerpt {
    Excerpt {
        messages_max: *dice.pick(&[u16::MAX, u16::MAX, 4, 1, 0]),
        tokens_max: *dice.pick(&[u32::MAX, u32::MAX, 64, 16]),
    }
}

fn while_running(dice: &mut Dice) -> WhileRunning {
    WhileRunning {
        mode: *dice.pick(&RunningMode::ALL),
        cap: *dice.pick(&[0, 0, 1, 2, 3]),
        drop: *dice.pick(&[DropPolicy::Newest, DropPolicy::Newest, DropPolicy::Oldest, DropPolicy::Merge]),
    }
}

fn channel(dice: &mut Dice, name: Name) -> ChannelDraft {
    let mut draft = ChannelDraft {
        name,
        text_max: 4096,
        unit: Unit::Chars,
        dm: DmPolicy::Open,
        groups: GroupPolicy::Open,
        allowed: Vec::new(),
        gating: false,
        agent: dice.chance(200).then_some("bob"),
    };
    let some = |kind: &str| (0..60).filter(|n| n % 5 != 0).map(|n| format!("{kind}{n}")).collect::<Vec<_>>();
    if name == "chat" {
        draft.text_max = dice.between(12, 90) as u32;
        draft.unit = *dice.pick(&[Unit::Utf16, Unit::Chars, Unit::Bytes]);
        if draft.unit == Unit::Bytes {
            draft.text_max += 20;
        }
        draft.dm = *dice.pick(&[DmPolicy::Open, DmPolicy::Allowlist]);
        draft.groups = *dice.pick(&[GroupPolicy::Open, GroupPolicy::Allowlist]);
        draft.allowed = [some("p"), some("g")].concat();
        draft.gating = dice.chance(700);
    }
    if name == "club" {
        draft.dm = *dice.pick(&[DmPolicy::Disabled, DmPolicy::Open]);
        draft.groups = *dice.pick(&[GroupPolicy::Disabled, GroupPolicy::Open]);
    }
    draft
}

fn route(dice: &mut Dice) -> Route {
    let balance = || Route::Balance(vec![("ada", 1), ("bob", 2), ("cyd", 5)]);
    match dice.below(6) {
        0 => Route::Static("ada"),
        1 => balance(),
        2 => Route::Affinity(Box::new(balance())),
        3 => Route::Affinity(Box::new(Route::Content(Box::new(balance())))),
        _ => Route::Content(Box::new(Route::Static("ada"))),
    }
}

fn shuffle<T>(dice: &mut Dice, of: &mut [T]) {
    for last in (1..of.len()).rev() {
        of.swap(last, dice.index(last + 1));
    }
}
