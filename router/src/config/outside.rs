//! Agents that live elsewhere: an HTTP endpoint, or workers that connect to us. Part of section `agents`.
//!
//! Each is called as a model of its own, so that its limits, breaker and retries are those of any model.
use super::keys::check_secret;
use super::models::{
    BreakerSection, Model, Provider, call_default, first_token_default, header_default, silence_default,
};
use super::path::Path;
use super::remote::is_open;
use super::report::Report;
use super::seconds::Seconds;
use super::secret::Secret;
use super::server::pem_file;
use clawgate_core::plan::BreakerPlan;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};

/// What the model of such an agent is called: no name that a model of the configuration can have.
const PREFIX: &str = "agent:";

/// Who answers for an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum AgentType {
    #[default]
    Llm,
    Http,
    Worker,
}

/// An endpoint that answers for an agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    /// Absolute.
    pub(crate) url: String,
    /// What requests are signed with.
    pub(crate) secret: Secret,
    /// PEM: certificates to trust instead of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Workers that answer for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workers {
    /// The agent's name.
    pub(crate) agent: String,
    /// Turns that wait for a worker, process.
    pub(crate) waiting_max: u32,
    /// How long each may.
    pub(crate) wait_max: Duration,
}

/// With `"type": "http"`: where the agent is, and how long it may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EndpointSection {
    /// Where turns are posted.
    url: String,
    /// What they are signed with (Standard Webhooks: HMAC-SHA256), at least 16 characters, better as `${VARIABLE}`.
    secret: Secret,
    /// PEM file with the certificates to trust instead of the public ones. Relative to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    /// Calls that run at once, all together. 0: no bound but `limits.upstreamConnectionsMax`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    running_max: u32,
    /// From the start of a call to the head of the response, connecting included.
    #[serde(default = "header_default")]
    #[schemars(range(min = 0.1, max = 3600))]
    header_seconds: Seconds,
    /// From the start of a call to the first text or thought.
    #[serde(default = "first_token_default")]
    #[schemars(range(min = 0.1, max = 3600))]
    first_token_seconds: Seconds,
    /// Between two pieces of an answer; comments of the transport do not count as pieces.
    #[serde(default = "silence_default")]
    #[schemars(range(min = 0.1, max = 3600))]
    silence_seconds: Seconds,
    /// For a whole call.
    #[serde(default = "call_default")]
    #[schemars(range(min = 0.1, max = 86_400))]
    call_seconds: Seconds,
    /// When the endpoint counts as broken and is left alone for a while.
    #[serde(default)]
    breaker: BreakerSection,
}

/// With `"type": "worker"`: how long a turn waits for one, and how long the worker may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct WorkerSection {
    /// How long a turn waits for a worker that has room. As many wait as the agent's `waitingMax` says.
    #[schemars(range(min = 0.1, max = 3600))]
    wait_seconds: Seconds,
    /// From the moment that a worker has the turn to the first text or thought.
    #[schemars(range(min = 0.1, max = 3600))]
    first_token_seconds: Seconds,
    /// Between two pieces of an answer.
    #[schemars(range(min = 0.1, max = 3600))]
    silence_seconds: Seconds,
    /// For a whole call.
    #[schemars(range(min = 0.1, max = 86_400))]
    call_seconds: Seconds,
    /// When the workers count as broken, all together, and are left alone for a while. One that goes is not counted.
    breaker: BreakerSection,
}

impl Default for WorkerSection {
    fn default() -> Self {
        Self {
            wait_seconds: Seconds::whole(60),
            first_token_seconds: first_token_default(),
            silence_seconds: silence_default(),
            call_seconds: call_default(),
            breaker: BreakerSection::default(),
        }
    }
}

/// What an agent that lives elsewhere is called as; its models come behind it.
pub(super) fn model_of(name: &str, provider: Provider, limits: &Limits) -> Model {
    let Limits { running_max, header, first_piece, silence, call, breaker } = *limits;
    Model {
        name: format!("{PREFIX}{name}"),
        provider,
        running_max,
        requests_per_minute: 0,
        tokens_per_minute: 0,
        connect_age_max: None,
        header_age_max: header.min(first_piece).min(call),
        first_piece_age_max: first_piece.min(call),
        silence_max: silence.min(call),
        call_age_max: call,
        retry: None,
        fallback: None,
        breaker,
    }
}

/// How long a call may take, and when its upstream counts as broken.
pub(super) struct Limits {
    running_max: u32,
    header: Duration,
    first_piece: Duration,
    silence: Duration,
    call: Duration,
    breaker: BreakerPlan,
}

impl EndpointSection {
    /// Checks and resolves.
    pub(super) fn resolve(
        &self,
        folder: &FilePath,
        at: &Path,
        report: &mut Report<'_>,
    ) -> (Provider, Limits) {
        let url = check_address(&self.url, &at.key("url"), report);
        check_secret(&self.secret, &at.key("secret"), report);
        if clawgate_adapters::signature::Secret::new(self.secret.expose()).is_none() {
            let message = "what follows `whsec_` is no base64";
            report.error(
                &at.key("secret"),
                message,
                "take it whole, or any other text without that beginning",
            );
        }
        let file = self.ca_file.as_ref();
        let ca_file = file.map(|file| pem_file(file, "CERTIFICATE-----", folder, &at.key("caFile"), report));
        let limits = Limits {
            running_max: self.running_max,
            header: self.header_seconds.duration(),
            first_piece: self.first_token_seconds.duration(),
            silence: self.silence_seconds.duration(),
            call: self.call_seconds.duration(),
            breaker: self.breaker.resolve(&at.key("breaker"), report),
        };
        let endpoint = Endpoint { url, secret: self.secret.clone(), ca_file };
        (Provider::Endpoint(Box::new(endpoint)), limits)
    }
}

impl WorkerSection {
    /// Checks and resolves.
    pub(super) fn resolve(
        &self,
        (agent, waiting_max): (&str, u32),
        at: &Path,
        report: &mut Report<'_>,
    ) -> (Provider, Limits) {
        let wait = self.wait_seconds.duration();
        // The core's clocks begin with the call, and that begins to wait for a worker.
        let limits = Limits {
            running_max: 0,
            header: wait + self.first_token_seconds.duration(),
            first_piece: wait + self.first_token_seconds.duration(),
            silence: self.silence_seconds.duration(),
            call: wait + self.call_seconds.duration(),
            breaker: self.breaker.resolve(&at.key("breaker"), report),
        };
        (Provider::Workers(Workers { agent: agent.to_owned(), waiting_max, wait_max: wait }), limits)
    }
}

/// An address as it is posted to: with its query, if it has one.
fn check_address(url: &str, at: &Path, report: &mut Report<'_>) -> String {
    let parsed = url.parse::<http::Uri>().ok();
    let is_web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let host = |uri: &http::Uri| uri.host().is_some_and(|host| !host.is_empty());
    let fits = parsed.is_some_and(|uri| is_web(&uri) && host(&uri));
    if !fits || url.contains('#') || url.split('/').nth(2).is_some_and(|authority| authority.contains('@')) {
        let help = "write it as https://host/path, without user or fragment";
        report.error(at, "this is not an http or https address", help);
    } else if is_open(url) {
        let message = "what people write travels there without TLS";
        report.warning(at, message, "use https, or an address on this machine");
    }
    url.to_owned()
}
