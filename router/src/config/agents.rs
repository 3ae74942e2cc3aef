//! Who answers: section `agents`.
use super::criteria::criteria;
use super::keys::check_name;
use super::models::Model;
use super::outside::{self, AgentType, EndpointSection, WorkerSection};
use super::path::Path;
use super::report::Report;
use super::schema::nearest;
use clawgate_core::criteria::Criteria;
use clawgate_core::id::{AgentId, ModelId};
use clawgate_core::plan::{DropPolicy, Excerpt, RunningMode, WhileRunning};
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path as FilePath;

/// One agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Agent {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// The models it may call, in order of preference, as indices of `Config::models`; never empty.
    pub(crate) models: Vec<ModelId>,
    /// What each prompt begins with; empty for none.
    pub(crate) system: String,
    /// Does a session keep what was said for this agent's prompts?
    pub(crate) history: bool,
    /// How much of that a prompt has.
    pub(crate) excerpt: Excerpt,
    /// A turn whose history the store does not tell in time fails; else it goes on without.
    pub(crate) needs_history: bool,
    /// Turns that run at once, process; 0 for no bound.
    pub(crate) running_max: u32,
    /// Messages that wait, process.
    pub(crate) waiting_max: u32,
    /// Calls per turn on one model before the next is tried.
    pub(crate) attempts_max: u16,
    /// Which failures lead to the next model; `None` for what the model says.
    pub(crate) fallback: Option<Criteria>,
    /// What becomes of messages that arrive while a turn of their session runs.
    pub(crate) while_running: WhileRunning,
    /// How long a message may have to wait for its place when it comes; zero for any time.
    pub(crate) wait_target: Duration,
    /// What people on a platform are told when no answer can be had.
    pub(crate) failure_text: Option<String>,
    /// The tools that its models may call, as patterns.
    pub(crate) tools: Vec<String>,
    /// Where it is, if it lives elsewhere: what is called before its models.
    pub(super) outside: Option<Model>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct AgentEntry {
    /// Who answers. `llm`: its models. `http`: the `endpoint`, to which each message is posted. `worker`: a program that
    /// connects to `/ws/agent`. Of an agent that lives elsewhere `models` are asked where it fails.
    #[serde(rename = "type")]
    pub(super) kind: AgentType,
    /// Only `http`: where the agent is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<EndpointSection>,
    /// Only `worker`: how long messages wait for one, and it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) worker: Option<WorkerSection>,
    /// The models it may call, in order of preference: the next is asked where one fails or is broken. Without any:
    /// the model `default`, or the only one.
    pub(super) models: Vec<String>,
    /// What each prompt begins with: the instructions.
    pub(super) system: String,
    /// What was said before in a session is part of the prompt, as far as `limits.historyMessagesMax` and
    /// `limits.historyBytesMax` let it be kept.
    pub(super) history: bool,
    /// How many messages of a session's history a prompt has: the last ones. 0: none, though they are kept. Left out: all
    /// that are kept.
    #[schemars(range(min = 0, max = 10_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) history_messages_max: Option<u16>,
    /// How many tokens of a session's history a prompt has, at four characters a token: the last messages that fit, none
    /// of them cut. Left out: all that is kept.
    #[schemars(range(min = 1, max = 100_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) history_tokens_max: Option<u32>,
    /// What to do where the store does not tell a session's history within `limits.loadSeconds`: `true` fails the message
    /// and says so, `false` answers without the history.
    pub(super) needs_history: bool,
    /// Messages that it answers at once, all together. 0: no bound but `limits.turnsMax`.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(super) running_max: u32,
    /// Messages that wait for it, all together. Beyond, clients are told when to come back.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(super) waiting_max: u32,
    /// Calls per message on one model before the next is asked.
    #[schemars(range(min = 1, max = 20))]
    pub(super) attempts_max: u16,
    /// Which failures of a model lead to the next one, always before the first token was shown: statuses (`"429"`, `"5xx"`),
    /// `"error"` (unreachable, or an answer that says so or cannot be read), `"timeout"`, `"truncated"`. Left out: what each
    /// model's own `fallbackOn` says. A model whose breaker is open is passed over in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fallback_on: Option<Vec<String>>,
    /// Milliseconds that a message may have to wait for its place, as far as can be told when it comes. One that would
    /// wait longer is refused with the time to come back, unless it comes with a burst: then four times as long is let
    /// in. 0: refused only at `waitingMax`.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub(super) wait_target_millis: u32,
    /// What becomes of messages that arrive while one of their session is being answered.
    pub(super) while_running: WhileRunningEntry,
    /// What people on a platform are told when no answer can be had. Left empty: nothing.
    pub(super) failure_text: String,
    /// What its models may call: names of `tools`; `*` stands for any characters (`["*"]`: all). A user's tier must reach
    /// the tool's. Tools that a model's client brings itself (`/v1/*`) are the client's affair.
    pub(super) tools: Vec<String>,
}

/// What becomes of messages that arrive while one of their session is being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct WhileRunningEntry {
    /// `followup`: each is answered after that one. `collect`: all that wait then are answered together, to the last one's
    /// sender. `steer`: the message joins the one that is being answered, whose call to the model is made anew, as long
    /// as nothing of the answer was shown; after that as `collect`. `interrupt`: the answer is cancelled.
    pub(super) mode: ModeName,
    /// Messages of a session that may wait. 0, or more than `limits.sessionWaitingMax`: that many.
    #[schemars(range(min = 0, max = 10_000))]
    pub(super) cap: u16,
    /// What gives way at the cap. `newest`: the one that comes is refused with `SESSION_FULL`. `oldest`: the one that
    /// waits for longest; its client is told, a platform's becomes a dead letter. `merge`: the last that waits and the one
    /// that comes are answered together.
    pub(super) drop: DropName,
}

/// What a message does that arrives while one of its session is being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum ModeName {
    #[default]
    Followup,
    Collect,
    Steer,
    Interrupt,
}

/// What gives way where as many messages wait as may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum DropName {
    #[default]
    Newest,
    Oldest,
    Merge,
}

impl WhileRunningEntry {
    const fn compiled(self) -> WhileRunning {
        let mode = match self.mode {
            ModeName::Followup => RunningMode::Followup,
            ModeName::Collect => RunningMode::Collect,
            ModeName::Steer => RunningMode::Steer,
            ModeName::Interrupt => RunningMode::Interrupt,
        };
        let drop = match self.drop {
            DropName::Newest => DropPolicy::Newest,
            DropName::Oldest => DropPolicy::Oldest,
            DropName::Merge => DropPolicy::Merge,
        };
        WhileRunning { mode, cap: self.cap, drop }
    }
}

impl Default for AgentEntry {
    fn default() -> Self {
        Self {
            kind: AgentType::Llm,
            endpoint: None,
            worker: None,
            models: Vec::new(),
            system: String::new(),
            history: true,
            history_messages_max: None,
            history_tokens_max: None,
            needs_history: true,
            running_max: 0,
            waiting_max: 1_000,
            attempts_max: 3,
            fallback_on: None,
            wait_target_millis: 30_000,
            while_running: WhileRunningEntry::default(),
            failure_text: "Sorry, I cannot answer right now. Please try again in a moment.".to_owned(),
            tools: Vec::new(),
        }
    }
}

impl Agent {
    /// Puts where it lives before its models.
    pub(super) fn call_outside(&mut self, models: &mut Vec<Model>) {
        let Some(model) = self.outside.take() else { return };
        let id = ModelId(u16::try_from(models.len()).unwrap_or(u16::MAX));
        models.push(model);
        self.models.insert(0, id);
    }
}

impl AgentEntry {
    /// Checks and resolves; `models` are all that there are, sorted by name.
    pub(super) fn resolve(
        &self,
        name: &str,
        models: &[Model],
        folder: &FilePath,
        report: &mut Report<'_>,
    ) -> Agent {
        let at = Path::of("agents").key(name);
        check_name(name, &at, report);
        Agent {
            name: name.to_owned(),
            models: self.models(&at.key("models"), models, report),
            system: self.system.clone(),
            history: self.history,
            excerpt: self.excerpt(&at, report),
            needs_history: self.needs_history,
            running_max: self.running_max,
            waiting_max: self.waiting_max,
            attempts_max: self.attempts_max,
            fallback: criteria(self.fallback_on.as_deref(), &at.key("fallbackOn"), report),
            while_running: self.while_running.compiled(),
            wait_target: Duration::from_millis(self.wait_target_millis.into()),
            failure_text: Some(self.failure_text.clone()).filter(|text| !text.is_empty()),
            tools: self.tools.clone(),
            outside: self.outside(name, &at, folder, report),
        }
    }

    fn excerpt(&self, at: &Path, report: &mut Report<'_>) -> Excerpt {
        if !self.history {
            let why = "says how much of a history a prompt has, and this agent keeps none";
            let help = "leave it out, or let `history` be `true`";
            report.useless(at, &["historyMessagesMax", "historyTokensMax"], why, help);
        }
        Excerpt {
            messages_max: self.history_messages_max.unwrap_or(Excerpt::ALL.messages_max),
            tokens_max: self.history_tokens_max.unwrap_or(Excerpt::ALL.tokens_max),
        }
    }

    /// Does it live elsewhere?
    pub(super) fn is_outside(&self) -> bool {
        self.kind != AgentType::Llm
    }

    fn outside(&self, name: &str, at: &Path, folder: &FilePath, report: &mut Report<'_>) -> Option<Model> {
        let help = "leave it out, or change `type`";
        if self.kind != AgentType::Http {
            report.useless(at, &["endpoint"], "is only for agents of the type `http`", help);
        }
        if self.kind != AgentType::Worker {
            report.useless(at, &["worker"], "is only for agents of the type `worker`", help);
        }
        let (provider, limits) = match (self.kind, &self.endpoint) {
            (AgentType::Llm, _) => return None,
            (AgentType::Http, Some(endpoint)) => endpoint.resolve(folder, &at.key("endpoint"), report),
            (AgentType::Http, None) => {
                if !report.is_written(&at.key("endpoint")) {
                    let help = "add `endpoint`, with its `url` and a `secret`";
                    report.error(at, "where this agent is is missing here", help);
                }
                return None;
            }
            (AgentType::Worker, _) => {
                let worker = self.worker.clone().unwrap_or_default();
                worker.resolve((name, self.waiting_max), &at.key("worker"), report)
            }
        };
        Some(outside::model_of(name, provider, &limits))
    }

    fn models(&self, at: &Path, models: &[Model], report: &mut Report<'_>) -> Vec<ModelId> {
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        // Where a model is unfit, it may be the one that was meant.
        let all_fit = report.keys(&Path::of("models")).iter().all(|name| names.contains(name));
        if self.models.is_empty() && !self.is_outside() && all_fit && !report.is_thinned(at) {
            let message = "no model: there is none called `default`, and there are several";
            report.error(at, message, format!("name at least one: {}", names.join(", ")));
        }
        let mut ids = Vec::with_capacity(self.models.len());
        for (index, name) in self.models.iter().enumerate() {
            let at = at.index(index);
            let Some(id) = find(name, "models", &names, &at, report).map(ModelId) else { continue };
            if ids.contains(&id) {
                report.error(
                    &at,
                    format!("{} is listed twice", report.quote(&at, name)),
                    "keep the first; `attemptsMax` repeats calls",
                );
                continue;
            }
            ids.push(id);
        }
        ids
    }
}

/// The agent of this name.
pub(super) fn find_agent(name: &str, names: &[&str], at: &Path, report: &mut Report<'_>) -> Option<AgentId> {
    find(name, "agents", names, at, report).map(AgentId)
}

// What was written but is unfit has been reported already: it counts as there.
fn find(name: &str, section: &str, names: &[&str], at: &Path, report: &mut Report<'_>) -> Option<u16> {
    if let Some(index) = names.iter().position(|known| *known == name) {
        return u16::try_from(index).ok();
    }
    if report.keys(&Path::of(section)).contains(&name) {
        return None;
    }
    let help = match nearest(name, names.iter().copied()) {
        Some(known) => format!("did you mean {known:?}?"),
        None => format!("add it to `{section}`, or name one that is there: {}", names.join(", ")),
    };
    let message = format!("there is no {} in `{section}`", report.quote(at, name));
    report.error(at, message, help);
    None
}
