//! Tools: what models of the gateway's own agents may call, and the loop of calls and results within a turn.
//!
//! The way of a call: a turn is offered the tools that its agent and its user may use ([`allow`], [`tool`]); what the model
//! says goes through [`hearing`]; [`rounds`] decides what becomes of its calls; [`run`] carries them out and [`turn`] asks
//! the model again. To the shard all of it is one call to a model. Requests of a model's clients that bring tools of their
//! own (`/v1/*`) never come here.
pub(crate) mod address;
pub(crate) mod allow;
pub(crate) mod audit;
pub(crate) mod counted;
pub(crate) mod hearing;
pub(crate) mod http;
pub(crate) mod rounds;
mod run;
pub(crate) mod schema;
pub(crate) mod template;
pub(crate) mod time;
pub(crate) mod tool;
pub(crate) mod turn;

use crate::config::tools::{self as settings, Kind};
use crate::config::{self, Config};
use crate::tls;
use address::Reach;
use clawgate_core::id::{AgentId, ChannelId};
use rounds::Bounds;
use schema::Schema;
use std::collections::BTreeMap;
use std::sync::Arc;
use tool::{Offer, Tool, Work};

/// The tools of a configuration, and who may use which.
#[derive(Debug)]
pub(crate) struct Tools {
    all: Vec<Arc<Tool>>,
    /// What each agent may use, as patterns, by [`AgentId`].
    by_agent: Vec<Vec<String>>,
    /// By [`ChannelId`].
    tiers: Vec<Tiers>,
    pub(crate) bounds: Bounds,
    /// Calls of one turn that run at once.
    pub(crate) parallel_max: usize,
    /// Every call is written down, or not made.
    pub(crate) audited: bool,
}

/// Who on a channel may use tools of which tier.
#[derive(Debug, Default)]
struct Tiers {
    everyone: u8,
    people: BTreeMap<String, u8>,
}

impl Tools {
    /// Compiles what is configured.
    ///
    /// # Errors
    /// What cannot be used, in words for the operator.
    pub(crate) fn compile(config: &Config, client_tls: &Arc<rustls::ClientConfig>) -> Result<Self, String> {
        let all = config.tools.iter().map(|tool| compile(tool, client_tls)).collect::<Result<_, _>>()?;
        let api = Tiers { everyone: 0, people: config::keys::tiers(&config.keys) };
        let of_channel = |channel: &config::channels::Channel| Tiers {
            everyone: channel.tier,
            people: channel.tiers.clone(),
        };
        let limits = &config.limits.tools;
        Ok(Self {
            all,
            by_agent: config.agents.iter().map(|agent| agent.tools.clone()).collect(),
            tiers: std::iter::once(api).chain(config.channels.iter().map(of_channel)).collect(),
            bounds: Bounds {
                rounds_max: limits.rounds_max,
                calls_max: limits.calls_max,
                arguments_bytes_max: limits.arguments_bytes_max,
                exchange_bytes_max: limits.exchange_bytes_max,
            },
            parallel_max: usize::from(limits.parallel_max),
            audited: config.audit.is_some(),
        })
    }

    /// May any agent use any?
    pub(crate) fn are_used(&self) -> bool {
        self.by_agent.iter().any(|patterns| !patterns.is_empty())
    }

    /// May this agent use any?
    pub(crate) fn has_any(&self, agent: AgentId) -> bool {
        self.by_agent.get(usize::from(agent.0)).is_some_and(|patterns| !patterns.is_empty())
    }

    /// The tier of somebody on a channel; of a group, which belongs to nobody, that of everyone.
    fn tier(&self, channel: ChannelId, peer: &str) -> u8 {
        let Some(tiers) = self.tiers.get(usize::from(channel.0)) else { return 0 };
        tiers.people.get(peer).filter(|_| !peer.is_empty()).copied().unwrap_or(tiers.everyone)
    }

    /// What a turn of this agent may use.
    pub(crate) fn offer(&self, agent: AgentId, channel: ChannelId, peer: &str) -> Offer {
        let patterns = self.by_agent.get(usize::from(agent.0)).map_or(&[][..], Vec::as_slice);
        let tier = self.tier(channel, peer);
        let may = |tool: &&Arc<Tool>| {
            tool.tier <= tier && patterns.iter().any(|pattern| allow::matches(pattern, &tool.name))
        };
        Offer::new(self.all.iter().filter(may).cloned().collect())
    }
}

fn compile(tool: &settings::Tool, client_tls: &Arc<rustls::ClientConfig>) -> Result<Arc<Tool>, String> {
    let unusable = |why: String| format!("tools.{}: {why}", tool.name);
    let (parameters, work) = match &tool.kind {
        Kind::Time => (time::parameters(), Work::Time),
        Kind::Http(http) => {
            let tls = match &http.ca_file {
                Some(file) => tls::client_config(Some(file))?,
                None => client_tls.clone(),
            };
            let reach = Reach { allowed: http.allowed.clone() };
            let made = http::HttpTool::new(http.method.clone(), http.url.clone(), &http.headers, reach, tls);
            (http.parameters.clone(), Work::Http(Box::new(made.map_err(unusable)?)))
        }
    };
    Ok(Arc::new(Tool {
        name: tool.name.clone(),
        source: tool.name.as_str().into(),
        description: tool.description.clone(),
        parameters: Schema::compile(&parameters).map_err(unusable)?,
        tier: tool.tier,
        age_max: tool.age_max,
        output_bytes_max: tool.output_bytes_max,
        repeatable: tool.repeatable,
        work,
    }))
}
