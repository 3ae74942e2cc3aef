//! The upstreams that can be called: sections `models` and `llm`.
use super::keys::check_name;
use super::path::Path;
use super::report::{Report, quoted};
use super::seconds::Seconds;
use super::secret::Secret;
use super::server::pem_file;
use clawgate_core::plan::BreakerPlan;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    /// Its name in the configuration, in answers and metrics.
    pub(crate) name: String,
    /// Who runs it.
    pub(crate) provider: Provider,
    /// Calls that run at once, process; 0 for no bound.
    pub(crate) running_max: u32,
    /// From the start to the response header, connecting included.
    pub(crate) header_age_max: Duration,
    /// From the start to the first text or thought.
    pub(crate) first_piece_age_max: Duration,
    /// Between two pieces.
    pub(crate) silence_max: Duration,
    /// For the whole call.
    pub(crate) call_age_max: Duration,
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
    /// Speaks the chat completions format of OpenAI.
    OpenAi(Box<Endpoint>),
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

/// An upstream that speaks the chat completions format of OpenAI.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    /// The provider's name in the configuration (`kimi`).
    pub(crate) provider: String,
    /// Absolute, without a slash at its end: `https://api.openai.com/v1`.
    pub(crate) base_url: String,
    /// Sent as a bearer token.
    pub(crate) api_key: Option<Secret>,
    /// The model's name at the upstream.
    pub(crate) model: String,
    /// Ask for a stream.
    pub(crate) stream: bool,
    /// Sampling temperature.
    pub(crate) temperature: Option<f64>,
    /// Tokens of an answer.
    pub(crate) max_tokens: Option<u32>,
    /// Further request headers; names are lower-case tokens, values printable ASCII.
    pub(crate) headers: Vec<(String, Secret)>,
    /// Further fields of the request: the text of a JSON object. It may hold secrets.
    pub(crate) extra_body: Option<Secret>,
    /// PEM: certificates to trust instead of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
}

/// One model. Keys that its provider has no use for are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ModelEntry {
    /// Who runs it.
    pub(super) provider: ProviderName,
    /// Where it is reached, if not at the provider's own address: what stands before `/chat/completions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base_url: Option<String>,
    /// The key for it, better as `${VARIABLE}`. Needed where the provider wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<Secret>,
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
    /// Tokens of an answer at most; the provider's own default if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) max_tokens: Option<u32>,
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

fn header_default() -> Seconds {
    Seconds::whole(30)
}

fn first_token_default() -> Seconds {
    Seconds::whole(120)
}

fn silence_default() -> Seconds {
    Seconds::whole(60)
}

fn call_default() -> Seconds {
    Seconds::whole(600)
}

/// JSON that we only pass on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct ExtraBody(serde_json::Map<String, serde_json::Value>);

impl ExtraBody {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// Which of its texts are secrets, only the provider knows.
impl Serialize for ExtraBody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hidden: serde_json::Map<_, _> =
            self.0.iter().map(|(key, value)| (key.clone(), without_texts(value))).collect();
        hidden.serialize(serializer)
    }
}

fn without_texts(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(_) => Value::from(super::secret::HIDDEN),
        Value::Array(elements) => elements.iter().map(without_texts).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (key.clone(), without_texts(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
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
    fn resolve(&self, at: &Path, report: &mut Report<'_>) -> BreakerPlan {
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

/// Who runs a model. All but `echo` and `scripted` speak OpenAI's chat completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum ProviderName {
    /// Answers with the text it was asked. Needs nothing.
    #[serde(rename = "echo")]
    Echo,
    /// Plays a `script`. Needs nothing.
    #[serde(rename = "scripted")]
    Scripted,
    /// OpenAI, <https://api.openai.com/v1>.
    #[serde(rename = "openai")]
    OpenAi,
    /// Moonshot AI, international, <https://api.moonshot.ai/v1>.
    #[serde(rename = "kimi")]
    Kimi,
    /// Moonshot AI, China, <https://api.moonshot.cn/v1>; its keys are not those of `kimi`.
    #[serde(rename = "kimi-cn")]
    KimiCn,
    /// XRoute.AI, <https://api.xroute.ai/openai/v1>.
    #[serde(rename = "xroute")]
    XRoute,
    /// OpenRouter, <https://openrouter.ai/api/v1>.
    #[serde(rename = "openrouter")]
    OpenRouter,
    /// DeepSeek, <https://api.deepseek.com/v1>.
    #[serde(rename = "deepseek")]
    DeepSeek,
    /// Groq, <https://api.groq.com/openai/v1>.
    #[serde(rename = "groq")]
    Groq,
    /// Mistral AI, <https://api.mistral.ai/v1>.
    #[serde(rename = "mistral")]
    Mistral,
    /// Ollama on this machine, <http://127.0.0.1:11434/v1>.
    #[serde(rename = "ollama")]
    Ollama,
    /// vLLM on this machine, <http://127.0.0.1:8000/v1>.
    #[serde(rename = "vllm")]
    Vllm,
    /// Anything else that speaks OpenAI's chat completions; needs `baseUrl`.
    #[serde(rename = "openai-compatible")]
    Compatible,
}

/// What is known of a provider that speaks OpenAI's format.
struct Known {
    name: &'static str,
    base_url: Option<&'static str>,
    /// Where a key comes from and what its variable is called, if one is needed.
    key: Option<(&'static str, &'static str)>,
}

impl ProviderName {
    fn known(self) -> Option<Known> {
        let (name, base_url, key) = match self {
            Self::Echo | Self::Scripted => return None,
            Self::OpenAi => (
                "openai",
                "https://api.openai.com/v1",
                Some(("https://platform.openai.com/api-keys", "OPENAI_API_KEY")),
            ),
            Self::Kimi => {
                ("kimi", "https://api.moonshot.ai/v1", Some(("https://platform.moonshot.ai", "KIMI_API_KEY")))
            }
            Self::KimiCn => (
                "kimi-cn",
                "https://api.moonshot.cn/v1",
                Some(("https://platform.moonshot.cn", "KIMI_API_KEY")),
            ),
            Self::XRoute => {
                ("xroute", "https://api.xroute.ai/openai/v1", Some(("https://xroute.ai", "XROUTE_API_KEY")))
            }
            Self::OpenRouter => (
                "openrouter",
                "https://openrouter.ai/api/v1",
                Some(("https://openrouter.ai/keys", "OPENROUTER_API_KEY")),
            ),
            Self::DeepSeek => (
                "deepseek",
                "https://api.deepseek.com/v1",
                Some(("https://platform.deepseek.com/api_keys", "DEEPSEEK_API_KEY")),
            ),
            Self::Groq => (
                "groq",
                "https://api.groq.com/openai/v1",
                Some(("https://console.groq.com/keys", "GROQ_API_KEY")),
            ),
            Self::Mistral => (
                "mistral",
                "https://api.mistral.ai/v1",
                Some(("https://console.mistral.ai/api-keys", "MISTRAL_API_KEY")),
            ),
            Self::Ollama => ("ollama", "http://127.0.0.1:11434/v1", None),
            Self::Vllm => ("vllm", "http://127.0.0.1:8000/v1", None),
            Self::Compatible => return Some(Known { name: "openai-compatible", base_url: None, key: None }),
        };
        Some(Known { name, base_url: Some(base_url), key })
    }
}

// Of the keys of a model, those that only some providers have a use for.
const WORDS: &[&str] = &["words"];
const SCRIPT: &[&str] = &["script"];
const ENDPOINT: &[&str] =
    &["baseUrl", "apiKey", "model", "stream", "temperature", "maxTokens", "headers", "extraBody", "caFile"];

impl ModelEntry {
    /// The model that needs nothing else, of this provider.
    pub(super) fn plain(provider: ProviderName) -> Self {
        Self {
            provider,
            base_url: None,
            api_key: None,
            model: None,
            stream: None,
            temperature: None,
            max_tokens: None,
            headers: BTreeMap::new(),
            extra_body: ExtraBody::default(),
            ca_file: None,
            running_max: 0,
            header_seconds: header_default(),
            first_token_seconds: first_token_default(),
            silence_seconds: silence_default(),
            call_seconds: call_default(),
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
            Some(_) => (ENDPOINT, [WORDS, SCRIPT]),
            None if self.provider == ProviderName::Echo => (WORDS, [SCRIPT, ENDPOINT]),
            None => (SCRIPT, [WORDS, ENDPOINT]),
        };
        let help = format!("leave it out; of its own this provider takes {}", useful.join(", "));
        report.useless(&at, &useless.concat(), "is of no use to this provider", &help);
        let provider = match self.provider.known() {
            Some(known) => Provider::OpenAi(Box::new(self.endpoint(&known, folder, &at, report))),
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
            header_age_max: header,
            first_piece_age_max: first_piece,
            silence_max: silence,
            call_age_max: call,
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
        let bounds = [
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

    fn endpoint(&self, known: &Known, folder: &FilePath, at: &Path, report: &mut Report<'_>) -> Endpoint {
        let base_url = self.base(known, at, report);
        self.check_needs(known, at, report);
        let api_key = self.api_key.clone().filter(|key| !key.expose().is_empty());
        if api_key.is_some() && is_open(&base_url) {
            let message = "the API key travels there without TLS";
            report.warning(&at.key("baseUrl"), message, "use https, or an address on this machine");
        }
        if let Some(key) = &api_key
            && !is_header_value(key.expose())
        {
            let message =
                "a header cannot carry this key: it has white space at an end or control characters";
            report.error(&at.key("apiKey"), message, "take the key alone, without a line break");
        }
        Endpoint {
            provider: known.name.to_owned(),
            base_url,
            api_key,
            model: self.model.clone().unwrap_or_default(),
            stream: self.stream.unwrap_or(true),
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            headers: self.headers(&at.key("headers"), report),
            extra_body: self.extra_body(&at.key("extraBody"), report),
            ca_file: self
                .ca_file
                .as_ref()
                .map(|file| pem_file(file, "CERTIFICATE-----", folder, &at.key("caFile"), report)),
        }
    }

    fn base(&self, known: &Known, at: &Path, report: &mut Report<'_>) -> String {
        match (&self.base_url, known.base_url) {
            (Some(url), _) => check_url(url, &at.key("baseUrl"), report),
            (None, Some(url)) => url.to_owned(),
            (None, None) => {
                if !report.is_written(&at.key("baseUrl")) {
                    let help = "add what stands before `/chat/completions`, as \"http://127.0.0.1:8080/v1\"";
                    report.error(&at.key("baseUrl"), "`baseUrl` is missing here", help);
                }
                String::new()
            }
        }
    }

    fn check_needs(&self, known: &Known, at: &Path, report: &mut Report<'_>) {
        let empty = self.model.as_ref().is_none_or(String::is_empty);
        if empty && (self.model.is_some() || !report.is_written(&at.key("model"))) {
            let message = "`model` is missing here";
            let help = "add the model's name at the provider, as its documentation has it";
            report.error(&at.key("model"), message, help);
        }
        let Some((home, variable)) = known.key else { return };
        let empty = self.api_key.as_ref().is_none_or(|key| key.expose().is_empty());
        if empty && (self.api_key.is_some() || !report.is_written(&at.key("apiKey"))) {
            let message = format!("`apiKey` is missing here: {} wants one", known.name);
            let help = format!("get one at {home} and write \"apiKey\": \"${{{variable}}}\"");
            report.error(&at.key("apiKey"), message, help);
        }
    }

    fn headers(&self, at: &Path, report: &mut Report<'_>) -> Vec<(String, Secret)> {
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let at = at.key(name);
            let lower = name.to_ascii_lowercase();
            if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
                report.error(&at, format!("{} is no name of a header", quoted(name)), "write it as `x-team`");
            } else if OURS.contains(&lower.as_str()) || lower == "authorization" && self.api_key.is_some() {
                report.error(&at, format!("the gateway sets {name:?} itself"), "leave it out");
            } else if !is_header_value(value.expose()) {
                report.error(
                    &at,
                    "a header cannot carry this value",
                    "use visible ASCII characters and blanks",
                );
            }
            headers.push((lower, value.clone()));
        }
        headers
    }

    fn extra_body(&self, at: &Path, report: &mut Report<'_>) -> Option<Secret> {
        let ExtraBody(fields) = &self.extra_body;
        for (key, instead, is_set) in [
            ("model", "say it by `model`", true),
            ("stream", "say it by `stream`", true),
            ("messages", "the gateway writes them: `system` of an agent comes first", true),
            ("temperature", "keep this or `temperature`", self.temperature.is_some()),
            ("max_tokens", "keep this or `maxTokens`", self.max_tokens.is_some()),
        ] {
            if is_set && fields.contains_key(key) {
                report.error(&at.key(key), format!("{key:?} would be in the request twice"), instead);
            }
        }
        let text = serde_json::Value::Object(fields.clone()).to_string();
        (!fields.is_empty()).then(|| Secret::new(text))
    }
}

// Headers that frame the request; a second one would be ambiguous.
const OURS: &[&str] = &[
    "accept",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn is_header_value(value: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t';
    value == value.trim() && value.bytes().all(visible)
}

/// An address without a slash at its end. Anything that is not one is reported.
pub(super) fn check_url(url: &str, at: &Path, report: &mut Report<'_>) -> String {
    let trimmed = url.trim_end_matches('/');
    let help = "write it as https://host/path, without user, query or fragment";
    let parsed = trimmed.parse::<http::Uri>().ok();
    let is_web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let Some(uri) = parsed.filter(|uri| is_web(uri) && uri.host().is_some_and(|host| !host.is_empty()))
    else {
        report.error(at, "this is not an http or https address", help);
        return String::new();
    };
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if user || uri.query().is_some() || url.contains('#') {
        report.error(at, "an address has no user, query or fragment here", help);
    }
    trimmed.to_owned()
}

/// Does what is sent there travel in the clear, over machines of others?
pub(super) fn is_open(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let near = match host.parse::<core::net::IpAddr>() {
        Ok(core::net::IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(core::net::IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        // A name without a dot is one of this network: a container, a neighbour.
        Err(_) => !host.contains('.') || host.ends_with(".local") || host.ends_with(".internal"),
    };
    uri.scheme_str() == Some("http") && !near
}
