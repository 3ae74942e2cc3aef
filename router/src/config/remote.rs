//! A model that is called over the network: where it is, what it speaks, and what is sent with each request.
use super::models::ModelEntry;
use super::path::Path;
use super::providers::Known;
use super::report::{Report, quoted};
use super::secret::Secret;
use super::server::pem_file;
use clawgate_core::outlets::OUTLETS_MAX;
use clawgate_providers::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};

/// A model that is called over the network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Remote {
    /// The provider's name in the configuration (`kimi`).
    pub(crate) provider: String,
    /// What it speaks.
    pub(crate) kind: Kind,
    /// Where it is reached; never empty.
    pub(crate) places: Vec<Place>,
    /// The model's name at the upstream.
    pub(crate) model: String,
    /// Ask for a stream.
    pub(crate) stream: bool,
    /// Sampling temperature.
    pub(crate) temperature: Option<f64>,
    /// Tokens of an answer.
    pub(crate) max_tokens: Option<u32>,
    /// It gets its reasoning of earlier messages back.
    pub(crate) replay_reasoning: bool,
    /// Further request headers; names are lower-case tokens, values printable ASCII.
    pub(crate) headers: Vec<(String, Secret)>,
    /// Further fields of the request: the text of a JSON object. It may hold secrets.
    pub(crate) extra_body: Option<Secret>,
    /// PEM: certificates to trust instead of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
}

/// JSON that we only pass on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct ExtraBody(serde_json::Map<String, serde_json::Value>);

impl ExtraBody {
    pub(super) fn is_empty(&self) -> bool {
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

/// One endpoint of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// Its name in metrics and the API.
    pub(crate) name: String,
    /// Absolute, without a slash at its end: `https://api.openai.com/v1`.
    pub(crate) base_url: String,
    /// Sent as the format wants it.
    pub(crate) api_key: Option<Secret>,
    /// Its share of the calls, beside the other endpoints' weights.
    pub(crate) weight: u32,
}

impl Place {
    /// Is it the same endpoint, by the same key, whatever it is called now?
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.base_url, &self.api_key) == (&other.base_url, &other.api_key)
    }
}

/// One of several endpoints of a model: another address, another key, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EndpointEntry {
    /// Its name in metrics and the API. Without it: its number, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where it is reached. Without it: as the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    /// The key for it. Without it: as the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<Secret>,
    /// Its share of the calls, beside the other endpoints' weights.
    #[serde(default = "weight_default")]
    #[schemars(range(min = 1, max = 1_000))]
    weight: u32,
}

fn weight_default() -> u32 {
    1
}

impl ModelEntry {
    pub(super) fn remote(
        &self,
        known: &Known,
        folder: &FilePath,
        at: &Path,
        report: &mut Report<'_>,
    ) -> Remote {
        let (kind, usual) = self.kind(known, at, report);
        self.check_model(at, report);
        let places = self.places(known, (kind, usual), at, report);
        let has_key = places.iter().any(|place| place.api_key.is_some());
        Remote {
            provider: known.name.to_owned(),
            kind,
            places,
            model: self.model.clone().unwrap_or_default(),
            stream: self.stream.unwrap_or(true),
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            replay_reasoning: self.replay_reasoning.unwrap_or(known.replays && kind == Kind::OpenAiChat),
            headers: self.headers(kind, has_key, &at.key("headers"), report),
            extra_body: self.extra_body(kind, &at.key("extraBody"), report),
            ca_file: self
                .ca_file
                .as_ref()
                .map(|file| pem_file(file, "CERTIFICATE-----", folder, &at.key("caFile"), report)),
        }
    }

    /// What it speaks, and where that is spoken if nothing else is said.
    fn kind(&self, known: &Known, at: &Path, report: &mut Report<'_>) -> (Kind, Option<&'static str>) {
        let Some(format) = self.format else { return known.formats[0] };
        let kind = format.kind();
        let found = known.formats.iter().find(|(other, _)| *other == kind);
        if found.is_none() {
            let names: Vec<_> = known.formats.iter().map(|(kind, _)| quoted(kind.name())).collect();
            let message = format!("{} does not speak it", known.name);
            report.error(&at.key("format"), message, format!("it speaks {}", names.join(", ")));
        }
        found.copied().unwrap_or(known.formats[0])
    }

    /// Its endpoints: those that are listed, each with what it does not say itself from the model; or the one that the
    /// model describes.
    fn places(
        &self,
        known: &Known,
        (kind, usual): (Kind, Option<&'static str>),
        at: &Path,
        report: &mut Report<'_>,
    ) -> Vec<Place> {
        let alone = EndpointEntry { name: None, base_url: None, api_key: None, weight: weight_default() };
        let list = at.key("endpoints");
        if OUTLETS_MAX < self.endpoints.len() {
            let message = format!("{} endpoints are more than {OUTLETS_MAX}", self.endpoints.len());
            report.error(&list, message, "make it several models, and give an agent all of them");
        }
        let entries: Vec<(Path, &EndpointEntry)> = match self.endpoints.as_slice() {
            [] => vec![(at.clone(), &alone)],
            entries => entries.iter().enumerate().map(|(index, entry)| (list.index(index), entry)).collect(),
        };
        let mut places: Vec<Place> = Vec::with_capacity(entries.len());
        for (number, (own, entry)) in (1..).zip(entries).take(OUTLETS_MAX) {
            // What an endpoint does not say stands in the model, and so does what is wrong with it.
            let from = |is_own: bool| if is_own { own.clone() } else { at.clone() };
            let base_at = from(entry.base_url.is_some());
            let url = entry.base_url.as_ref().or(self.base_url.as_ref());
            let base_url = base(kind, url, usual, &base_at, report);
            let key_at = from(entry.api_key.is_some());
            let api_key = entry.api_key.as_ref().or(self.api_key.as_ref());
            check_needs(known, api_key, &key_at, report);
            let api_key = api_key.filter(|key| !key.expose().is_empty()).cloned();
            check_key(api_key.as_ref(), &base_url, (&base_at, &key_at), report);
            let name = entry.name.clone().unwrap_or_else(|| number.to_string());
            if places.iter().any(|place| place.name == name) {
                let message = format!("there is another endpoint of the name {}", quoted(&name));
                report.error(&own.key("name"), message, "give each its own");
            }
            places.push(Place { name, base_url, api_key, weight: entry.weight });
        }
        places
    }

    fn check_model(&self, at: &Path, report: &mut Report<'_>) {
        let empty = self.model.as_ref().is_none_or(String::is_empty);
        if empty && (self.model.is_some() || !report.is_written(&at.key("model"))) {
            let message = "`model` is missing here";
            let help = "add the model's name at the provider, as its documentation has it";
            report.error(&at.key("model"), message, help);
        }
    }

    fn headers(
        &self,
        kind: Kind,
        has_key: bool,
        at: &Path,
        report: &mut Report<'_>,
    ) -> Vec<(String, Secret)> {
        let mut headers = Vec::with_capacity(self.headers.len());
        let key_header = if kind == Kind::Anthropic { "x-api-key" } else { "authorization" };
        for (name, value) in &self.headers {
            let at = at.key(name);
            let lower = name.to_ascii_lowercase();
            if lower == key_header && has_key {
                report.error(&at, format!("the gateway sets {name:?} itself"), "leave it out");
            } else if let Some((message, help)) = header_problem(name, value) {
                report.error(&at, message, help);
            }
            headers.push((lower, value.clone()));
        }
        headers
    }

    fn extra_body(&self, kind: Kind, at: &Path, report: &mut Report<'_>) -> Option<Secret> {
        let ExtraBody(fields) = &self.extra_body;
        let (warm, long) = (self.temperature.is_some(), self.max_tokens.is_some());
        // Where the format has the two of them.
        let own: &[(&str, &str, bool)] = match kind {
            Kind::OpenAiChat | Kind::Anthropic => &[
                ("temperature", "keep this or `temperature`", warm),
                ("max_tokens", "keep this or `maxTokens`", long),
            ],
            Kind::OpenAiResponses => &[
                ("temperature", "keep this or `temperature`", warm),
                ("max_output_tokens", "keep this or `maxTokens`", long),
            ],
            Kind::Ollama => &[("options", "keep this, or `temperature` and `maxTokens`", warm || long)],
        };
        let always = [
            ("model", "say it by `model`", true),
            ("stream", "say it by `stream`", true),
            (kind.conversation(), "the gateway writes them: `system` of an agent comes first", true),
        ];
        for (key, instead, is_set) in always.iter().chain(own) {
            if *is_set && fields.contains_key(*key) {
                report.error(&at.key(key), format!("{key:?} would be in the request twice"), *instead);
            }
        }
        let text = serde_json::Value::Object(fields.clone()).to_string();
        (!fields.is_empty()).then(|| Secret::new(text))
    }
}

fn base(
    kind: Kind,
    url: Option<&String>,
    usual: Option<&'static str>,
    at: &Path,
    report: &mut Report<'_>,
) -> String {
    let url = match (url, usual) {
        (Some(url), _) => check_url(url, &at.key("baseUrl"), report),
        (None, Some(url)) => url.to_owned(),
        (None, None) => {
            if !report.is_written(&at.key("baseUrl")) {
                let help =
                    format!("add what stands before `{}`, as \"http://127.0.0.1:8080/v1\"", kind.path());
                report.error(&at.key("baseUrl"), "`baseUrl` is missing here", help);
            }
            String::new()
        }
    };
    if kind == Kind::Ollama && url.ends_with("/v1") {
        let help = "leave out `/v1`, or say \"format\": \"openai\"";
        report.error(&at.key("baseUrl"), "this is where Ollama speaks OpenAI's format", help);
    }
    url
}

fn check_needs(known: &Known, key: Option<&Secret>, at: &Path, report: &mut Report<'_>) {
    let Some((home, variable)) = known.key else { return };
    let empty = key.is_none_or(|key| key.expose().is_empty());
    if empty && (key.is_some() || !report.is_written(&at.key("apiKey"))) {
        let message = format!("`apiKey` is missing here: {} wants one", known.name);
        let help = format!("get one at {home} and write \"apiKey\": \"${{{variable}}}\"");
        report.error(&at.key("apiKey"), message, help);
    }
}

fn check_key(key: Option<&Secret>, base_url: &str, (base_at, at): (&Path, &Path), report: &mut Report<'_>) {
    let Some(key) = key else { return };
    if is_open(base_url) {
        let message = "the API key travels there without TLS";
        report.warning(&base_at.key("baseUrl"), message, "use https, or an address on this machine");
    }
    if !is_header_value(key.expose()) {
        let message = "a header cannot carry this key: it has white space at an end or control characters";
        report.error(&at.key("apiKey"), message, "take the key alone, without a line break");
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

/// What is wrong with a header that the configuration adds, and what to do.
pub(super) fn header_problem(name: &str, value: &Secret) -> Option<(String, &'static str)> {
    let lower = name.to_ascii_lowercase();
    if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
        Some((format!("{} is no name of a header", quoted(name)), "write it as `x-team`"))
    } else if OURS.contains(&lower.as_str()) {
        Some((format!("the gateway sets {name:?} itself"), "leave it out"))
    } else if !is_header_value(value.expose()) {
        Some(("a header cannot carry this value".to_owned(), "use visible ASCII characters and blanks"))
    } else {
        None
    }
}

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
