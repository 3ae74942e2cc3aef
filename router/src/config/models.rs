//! The upstreams that can be called: sections `models` and `llm`.
use super::criteria::criteria;
use super::keys::check_name;
use super::outside;
use super::path::Path;
use super::providers::Format;
pub(super) use super::providers::ProviderName;
use super::remote::{EndpointEntry, ExtraBody, Remote};
use super::report::Report;
use super::seconds::Seconds;
use super::secret::Secret;
use clawgate_core::criteria::Criteria;
use clawgate_core::plan::BreakerPlan;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path as FilePath;

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    /// Its name in the configuration, in answers and metrics.
    pub(crate) name: String,
    /// Who runs it.
    pub(crate) provider: Provider,
    /// Calls that run at once, process; 0 for no bound.
    pub(crate) running_max: u32,
    /// Calls that begin in a minute, process; 0 for no bound.
    pub(crate) requests_per_minute: u32,
    /// Tokens in a minute, process; 0 for no bound.
    pub(crate) tokens_per_minute: u32,
    /// To connect, the TLS handshake included; `None` for that of all upstreams.
    pub(crate) connect_age_max: Option<Duration>,
    /// From the start to the response header, connecting included.
    pub(crate) header_age_max: Duration,
    /// From the start to the first text or thought.
    pub(crate) first_piece_age_max: Duration,
    /// Between two pieces.
    pub(crate) silence_max: Duration,
    /// For the whole call.
    pub(crate) call_age_max: Duration,
    /// Which of its failures are tried again on it; `None` for those that may be over in a moment.
    pub(crate) retry: Option<Criteria>,
    /// Which of them lead to the next of a chain; `None` for all that another model might not have.
    pub(crate) fallback: Option<Criteria>,
    /// When it counts as broken.
    pub(crate) breaker: BreakerPlan,
}

/// Who runs a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Provider {
    /// Answers with the text that was asked.
    Echo {
        /// Word by word instead of in one piece.
        words: bool,
    },
    /// Answers by a script.
    Scripted {
        /// The steps, in order; empty for the built-in demonstration.
        script: Vec<Step>,
    },
    /// Is called over the network.
    Remote(Box<Remote>),
    /// An agent of its own behind an address.
    Endpoint(Box<outside::Endpoint>),
    /// Workers of an agent, which connect to us.
    Workers(outside::Workers),
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// The pause before it.
    pub(crate) after: Duration,
    /// What happens.
    pub(crate) action: Action,
}

/// What a step of a script does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Says a text, so many times.
    Say {
        /// The text; `{prompt}` stands for what was asked.
        text: String,
        /// At least 1.
        times: u32,
    },
    /// Falls silent for good.
    Stall,
    /// Fails with this HTTP status.
    Fail {
        /// 400 to 599.
        status: u16,
    },
    /// Closes without a finish.
    Truncate,
    /// Sends what cannot be read.
    Malformed,
}

/// One model. Keys that its provider has no use for are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ModelEntry {
    /// Who runs it.
    pub(super) provider: ProviderName,
    /// What it speaks, where the provider has more than one format. Without it: the first that the provider's page names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<Format>,
    /// Where it is reached, if not at the provider's own address: what stands before the format's own path
    /// (`/chat/completions`, `/responses`, `/v1/messages`, `/api/chat`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base_url: Option<String>,
    /// The key for it, better as `${VARIABLE}`. Needed where the provider wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<Secret>,
    /// Several places where it is reached, or keys that it is reached by. Each call goes to one of them: by weight, by how
    /// fast it has been and how busy it is. One that fails is left alone for a while, alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) endpoints: Vec<EndpointEntry>,
    /// Its name at the provider. Needed for all but `echo` and `scripted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    /// Ask for the answer piece by piece. Without it: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<bool>,
    /// Sampling temperature; the provider's own default if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub(super) temperature: Option<f64>,
    /// Tokens of an answer at most; the provider's own default if left out. Anthropic's format has none: there it is 4,096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) max_tokens: Option<u32>,
    /// Give the model its reasoning of earlier messages back, where its format leaves that open: chat completions of models
    /// that think. Without it: true for `kimi`, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replay_reasoning: Option<bool>,
    /// Further request headers. Their values are treated as secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, Secret>,
    /// Further fields of the request's JSON, as the provider documents them; `null` leaves out one that is sent
    /// otherwise (`{"stream_options": null}`). Texts in it are treated as secrets.
    #[serde(default, skip_serializing_if = "ExtraBody::is_empty")]
    pub(super) extra_body: ExtraBody,
    /// PEM file with the certificates to trust instead of the public ones. Relative to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<String>,
    /// Calls that run at once, all together. 0: no bound but `limits.upstreamConnectionsMax`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(super) running_max: u32,
    /// Calls that begin in a minute, all together, as the provider grants them; each attempt, and each round of a turn's
    /// tools, is one. Beyond, messages wait in the queue of their agent. 0: no bound.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(super) requests_per_minute: u32,
    /// Tokens of prompts and answers in a minute, all together. Those of a prompt are estimated before it is sent; what a
    /// call used is charged when it is over. 0: no bound.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub(super) tokens_per_minute: u32,
    /// To connect, the TLS handshake included. Without it: `limits.connectSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 120))]
    pub(super) connect_seconds: Option<Seconds>,
    /// From the start of a call to the head of the response, connecting included.
    #[serde(default = "header_default")]
    #[schemars(range(min = 0.1, max = 3600))]
    pub(super) header_seconds: Seconds,
    /// From the start of a call to the first text or thought.
    #[serde(default = "first_token_default")]
    #[schemars(range(min = 0.1, max = 3600))]
    pub(super) first_token_seconds: Seconds,
    /// Between two pieces of an answer; comments of the transport do not count as pieces.
    #[serde(default = "silence_default")]
    #[schemars(range(min = 0.1, max = 3600))]
    pub(super) silence_seconds: Seconds,
    /// For a whole call.
    #[serde(default = "call_default")]
    #[schemars(range(min = 0.1, max = 86_400))]
    pub(super) call_seconds: Seconds,
    /// Which failures are tried again on this model, `attemptsMax` of the agent times in all and always before the first
    /// token was shown: statuses (`"429"`, `"5xx"`), `"error"` (unreachable, or an answer that says so or cannot be read),
    /// `"timeout"`, `"truncated"`. Left out: those that may be over in a moment. `[]`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retry_on: Option<Vec<String>>,
    /// Which failures of this model lead to the next one of an agent that has no `fallbackOn` of its own, in the words of
    /// `retryOn`. Left out: all but those that say that the request itself is wrong. `[]`: none. A model whose breaker is
    /// open is passed over in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fallback_on: Option<Vec<String>>,
    /// When the model counts as broken and is left alone for a while.
    #[serde(default)]
    pub(super) breaker: BreakerSection,
    /// Only `echo`: answer word by word. Without it: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) words: Option<bool>,
    /// Only `scripted`: what it does, in order. Left empty: a short demonstration that quotes what was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) script: Vec<StepEntry>,
}

pub(super) fn header_default() -> Seconds {
    Seconds::whole(30)
}

pub(super) fn first_token_default() -> Seconds {
    Seconds::whole(120)
}

pub(super) fn silence_default() -> Seconds {
    Seconds::whole(60)
}

pub(super) fn call_default() -> Seconds {
    Seconds::whole(600)
}

/// When a model counts as broken: it is then left alone, and the next model of the agent is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct BreakerSection {
    /// Calls within `windowSeconds` before the shares mean anything.
    #[schemars(range(min = 1, max = 100_000))]
    calls_min: u32,
    /// Broken from this share of failed calls on, in per cent. 0: never.
    #[schemars(range(min = 0, max = 100))]
    failed_percent: u8,
    /// A call is slow that takes longer than this to its first piece.
    #[schemars(range(min = 0.1, max = 3600))]
    slow_seconds: Seconds,
    /// Broken from this share of slow calls on, in per cent. 0: never.
    #[schemars(range(min = 0, max = 100))]
    slow_percent: u8,
    /// The time that is looked back on.
    #[schemars(range(min = 1, max = 3600))]
    window_seconds: Seconds,
    /// It is first left alone for this long; doubled each time that it is still broken.
    #[schemars(range(min = 0.1, max = 3600))]
    open_seconds: Seconds,
    /// It is left alone for no longer than this.
    #[schemars(range(min = 0.1, max = 86_400))]
    open_max_seconds: Seconds,
    /// Calls that are then let through to try, and must succeed.
    #[schemars(range(min = 1, max = 1000))]
    probes: u16,
}

impl Default for BreakerSection {
    fn default() -> Self {
        Self {
            calls_min: 10,
            failed_percent: 50,
            slow_seconds: Seconds::whole(60),
            slow_percent: 80,
            window_seconds: Seconds::whole(60),
            open_seconds: Seconds::whole(5),
            open_max_seconds: Seconds::whole(60),
            probes: 1,
        }
    }
}

impl BreakerSection {
    pub(super) fn resolve(&self, at: &Path, report: &mut Report<'_>) -> BreakerPlan {
        let open = self.open_seconds.duration();
        let longest = self.open_max_seconds.duration();
        if longest < open && report.is_written(&at.key("openMaxSeconds")) {
            let message = "`openMaxSeconds` is shorter than `openSeconds`";
            report.error(&at.key("openMaxSeconds"), message, "change one of them");
        }
        BreakerPlan {
            calls_min: self.calls_min,
            failed_percent: self.failed_percent,
            slow_after: self.slow_seconds.duration(),
            slow_percent: self.slow_percent,
            window: self.window_seconds.duration(),
            open_min: open,
            open_max: longest.max(open),
            probes: self.probes,
        }
    }
}

/// One step of a script: a text or a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StepEntry {
    /// The pause before the step, each time.
    #[serde(default)]
    #[schemars(range(min = 0, max = 600_000))]
    after_millis: u32,
    /// What is said; `{prompt}` stands for what was asked. This or `fault` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The step is done so many times.
    #[serde(default = "once")]
    #[schemars(range(min = 1, max = 1_000_000))]
    times: u32,
    /// What goes wrong; the script ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    /// With the fault `fail`: the HTTP status.
    #[serde(default = "unavailable")]
    #[schemars(range(min = 400, max = 599))]
    status: u16,
}

fn once() -> u32 {
    1
}

fn unavailable() -> u16 {
    503
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Fault {
    /// It falls silent.
    Stall,
    /// It answers with an error.
    Fail,
    /// It closes without a finish.
    Truncate,
    /// It sends what cannot be read.
    Malformed,
}

impl StepEntry {
    fn resolve(&self, at: &Path, report: &mut Report<'_>) -> Option<Step> {
        let action = match (&self.text, self.fault) {
            (Some(text), None) => Action::Say { text: text.clone(), times: self.times },
            (None, Some(Fault::Stall)) => Action::Stall,
            (None, Some(Fault::Fail)) => Action::Fail { status: self.status },
            (None, Some(Fault::Truncate)) => Action::Truncate,
            (None, Some(Fault::Malformed)) => Action::Malformed,
            (Some(_), Some(_)) => {
                report.error(&at.key("fault"), "a step has a text or a fault, not both", "make it two steps");
                return None;
            }
            (None, None) => {
                if !report.is_written(&at.key("text")) && !report.is_written(&at.key("fault")) {
                    report.error(at, "this step does nothing", "give it a `text` or a `fault`");
                }
                return None;
            }
        };
        if self.fault != Some(Fault::Fail) && report.is_written(&at.key("status")) {
            report.error(&at.key("status"), "only the fault \"fail\" has a status", "leave it out");
        }
        Some(Step { after: Duration::from_millis(u64::from(self.after_millis)), action })
    }
}

// Of the keys of a model, those that only some providers have a use for.
const WORDS: &[&str] = &["words"];
const SCRIPT: &[&str] = &["script"];
const REMOTE: &[&str] = &[
    "format",
    "baseUrl",
    "apiKey",
    "endpoints",
    "model",
    "stream",
    "temperature",
    "maxTokens",
    "replayReasoning",
    "headers",
    "extraBody",
    "caFile",
    "connectSeconds",
];

impl ModelEntry {
    /// The model that needs nothing else, of this provider.
    pub(super) fn plain(provider: ProviderName) -> Self {
        Self {
            provider,
            format: None,
            base_url: None,
            api_key: None,
            endpoints: Vec::new(),
            model: None,
            stream: None,
            temperature: None,
            max_tokens: None,
            replay_reasoning: None,
            headers: BTreeMap::new(),
            extra_body: ExtraBody::default(),
            ca_file: None,
            running_max: 0,
            requests_per_minute: 0,
            tokens_per_minute: 0,
            connect_seconds: None,
            header_seconds: header_default(),
            first_token_seconds: first_token_default(),
            silence_seconds: silence_default(),
            call_seconds: call_default(),
            retry_on: None,
            fallback_on: None,
            breaker: BreakerSection::default(),
            words: None,
            script: Vec::new(),
        }
    }

    /// Checks and resolves.
    pub(super) fn resolve(&self, name: &str, folder: &FilePath, report: &mut Report<'_>) -> Model {
        let at = Path::of("models").key(name);
        check_name(name, &at, report);
        let (useful, useless): (&[&str], [&[&str]; 2]) = match self.provider.known() {
            Some(_) => (REMOTE, [WORDS, SCRIPT]),
            None if self.provider == ProviderName::Echo => (WORDS, [SCRIPT, REMOTE]),
            None => (SCRIPT, [WORDS, REMOTE]),
        };
        let help = format!("leave it out; of its own this provider takes {}", useful.join(", "));
        report.useless(&at, &useless.concat(), "is of no use to this provider", &help);
        let provider = match self.provider.known() {
            Some(known) => Provider::Remote(Box::new(self.remote(&known, folder, &at, report))),
            None if self.provider == ProviderName::Echo => {
                Provider::Echo { words: self.words.unwrap_or(false) }
            }
            None => Provider::Scripted { script: self.steps(&at.key("script"), report) },
        };
        let [header, first_piece, silence, call] = self.times(&at, report);
        Model {
            name: name.to_owned(),
            provider,
            running_max: self.running_max,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            connect_age_max: self.connect_seconds.map(Seconds::duration),
            header_age_max: header,
            first_piece_age_max: first_piece,
            silence_max: silence,
            call_age_max: call,
            retry: criteria(self.retry_on.as_deref(), &at.key("retryOn"), report),
            fallback: criteria(self.fallback_on.as_deref(), &at.key("fallbackOn"), report),
            breaker: self.breaker.resolve(&at.key("breaker"), report),
        }
    }

    fn steps(&self, at: &Path, report: &mut Report<'_>) -> Vec<Step> {
        let steps = self.script.iter().enumerate();
        steps.filter_map(|(index, step)| step.resolve(&at.index(index), report)).collect()
    }

    // A time that was written and can never be reached is a mistake; one by default is made to fit.
    fn times(&self, at: &Path, report: &mut Report<'_>) -> [Duration; 4] {
        let call = self.call_seconds.duration();
        let first_piece = self.first_token_seconds.duration();
        let connect = self.connect_seconds.map_or(Duration::ZERO, Seconds::duration);
        let bounds = [
            ("connectSeconds", connect, "headerSeconds", self.header_seconds.duration()),
            ("headerSeconds", self.header_seconds.duration(), "firstTokenSeconds", first_piece),
            ("headerSeconds", self.header_seconds.duration(), "callSeconds", call),
            ("firstTokenSeconds", first_piece, "callSeconds", call),
            ("silenceSeconds", self.silence_seconds.duration(), "callSeconds", call),
        ];
        for (low, low_value, high, high_value) in bounds {
            let both = report.is_written(&at.key(low)) && report.is_written(&at.key(high));
            if both && high_value < low_value {
                let message = format!("`{low}` is longer than `{high}`, so it is never reached");
                report.error(&at.key(low), message, "change one of them");
            }
        }
        let first_piece = first_piece.min(call);
        let header = self.header_seconds.duration().min(first_piece);
        [header, first_piece, self.silence_seconds.duration().min(call), call]
    }
}
