//! The file as it is written. What each key means stands here and beside the sections, as the documentation shows it.
use super::Logging;
use super::agents::AgentEntry;
use super::channels::ChannelEntry;
use super::data::DataSection;
use super::journal::JournalSection;
use super::keys::{KeyEntry, RateSection};
use super::limits::LimitsSection;
use super::models::{ModelEntry, ProviderName};
use super::route::RouteEntry;
use super::secret::Secret;
use super::server::ServerSection;
use super::session::SessionSection;
use super::store::StoreSection;
use super::tools::{AuditSection, ToolEntry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One JSON file; comments and trailing commas are allowed, and every key has a default but those marked as needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct File {
    /// Where an editor finds the schema of this file (`clawgate config schema` prints it). Not used otherwise.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub(super) schema: Option<String>,
    /// The listeners and the threads behind them.
    pub(super) server: ServerSection,
    /// What outlives the process.
    pub(super) data: DataSection,
    /// What is acknowledged and survives a crash.
    pub(super) journal: JournalSection,
    /// Where sessions, history, dead letters and marks are kept. What each database guarantees stands in `stores.md`.
    pub(super) store: StoreSection,
    /// Who may use the API. Without keys everyone who reaches the gateway may talk to agents and read its state, and
    /// nobody may operate it; so it then listens on loopback only.
    pub(super) keys: Vec<KeyEntry>,
    /// How often clients may ask. A request over HTTP and a message over a WebSocket count as one each.
    pub(super) rate: RateSection,
    /// Every bound. Times end in `Seconds` or `Millis`, sizes in `BytesMax`; "all together" means over all threads.
    pub(super) limits: LimitsSection,
    /// The short form for one upstream: it makes the model `default` and, unless there is one, the agent `main` on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) llm: Option<LlmSection>,
    /// The upstreams that can be called, by name. Without `models` and `llm` there are `echo`, which answers with the
    /// text it was asked, and `demo`, which plays a script.
    pub(super) models: BTreeMap<String, ModelEntry>,
    /// Who answers, by name. Without any there is `main`, on the model `default` or on the only one.
    pub(super) agents: BTreeMap<String, AgentEntry>,
    /// What models may call, by name: `agents.*.tools` says which agent's may call which.
    pub(super) tools: BTreeMap<String, ToolEntry>,
    /// What tools did, written down in the folder `audit` of the data directory: one JSON object a line.
    pub(super) audit: AuditSection,
    /// Which agent answers, where neither the session nor the channel says. Without it: `main`, or the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<RouteEntry>,
    /// The platforms, by name. A channel is reached at `/webhooks/<name>`.
    pub(super) channels: BTreeMap<String, ChannelEntry>,
    /// How conversations are told apart.
    pub(super) session: SessionSection,
    /// What is written to standard error.
    pub(super) logging: Logging,
}

/// The short form for one upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LlmSection {
    /// Who runs the model.
    pub(super) provider: ProviderName,
    /// The key for it, better as `${VARIABLE}`. Needed where the provider wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<Secret>,
    /// The model's name at the provider. Needed for all but `echo` and `scripted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    /// Where it is reached, if not at the provider's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base_url: Option<String>,
    /// Sampling temperature; the provider's own default if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub(super) temperature: Option<f64>,
    /// Tokens of an answer at most; the provider's own default if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) max_tokens: Option<u32>,
}
