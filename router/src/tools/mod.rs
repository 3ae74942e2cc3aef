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
pub(crate) mod mcp;
pub(crate) mod rounds;
mod run;
pub(crate) mod schema;
pub(crate) mod template;
pub(crate) mod time;
pub(crate) mod tool;
pub(crate) mod turn;

use crate::clock::Clock;
use crate::config::mcp::Way;
use crate::config::tools::{self as settings, Kind};
use crate::config::{self, Config};
use crate::tls;
use address::Reach;
use clawgate_core::id::{AgentId, ChannelId};
use mcp::{List, McpTool, Quay, Server};
use rounds::Bounds;
use schema::Schema;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tool::{Offer, Tool, Work};

/// The tools of a configuration, and who may use which.
#[derive(Debug)]
pub(crate) struct Tools {
    all: Vec<Arc<Tool>>,
    /// Servers, whose tools are known once they run.
    sources: Vec<Source>,
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
    /// Compiles what is configured. Servers of `before` that did not change stay as they are.
    ///
    /// # Errors
    /// What cannot be used, in words for the operator.
    pub(crate) fn compile(
        config: &Config,
        client_tls: &Arc<rustls::ClientConfig>,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let (mut all, mut sources) = (Vec::new(), Vec::new());
        for tool in &config.tools {
            match &tool.kind {
                Kind::Mcp(server) => sources.push(Source::compile(tool, server, client_tls, before)?),
                Kind::Time | Kind::Http(_) => all.push(compile(tool, client_tls)?),
            }
        }
        let api = Tiers { everyone: 0, people: config::keys::tiers(&config.keys) };
        let of_channel = |channel: &config::channels::Channel| Tiers {
            everyone: channel.tier,
            people: channel.tiers.clone(),
        };
        let limits = &config.limits.tools;
        Ok(Self {
            all,
            sources,
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
        let of_servers: Vec<_> = self.sources.iter().map(Source::tools).collect();
        let all = self.all.iter().chain(of_servers.iter().flat_map(|tools| tools.iter()));
        Offer::new(all.filter(may).cloned().collect())
    }

    /// The servers.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.sources.iter().map(|source| &source.server)
    }

    /// Begins those that are not begun. Whether they come up is told by [`Server::standing`].
    pub(crate) fn begin_servers(&self, quay: &Quay, clock: Clock) {
        self.servers().for_each(|server| quay.begin(server, clock));
    }
}

/// A server and how its tools are offered.
#[derive(Debug)]
struct Source {
    /// What holds for all of its tools.
    settings: settings::Tool,
    server: Arc<Server>,
    /// Its tools, made of what it listed last.
    made: Mutex<(List, Arc<[Arc<Tool>]>)>,
}

impl Source {
    fn compile(
        tool: &settings::Tool,
        server: &config::mcp::Mcp,
        client_tls: &Arc<rustls::ClientConfig>,
        before: Option<&Tools>,
    ) -> Result<Self, String> {
        let same = |other: &&Arc<Server>| *other.name == *tool.name && other.settings == *server;
        let server = match before.and_then(|before| before.servers().find(same)) {
            Some(server) => server.clone(),
            None => {
                let tls = match &server.way {
                    Way::Http(config::mcp::Http { ca_file: Some(file), .. }) => {
                        tls::client_config(Some(file))?
                    }
                    Way::Http(_) | Way::Stdio(_) => client_tls.clone(),
                };
                Arc::new(Server::new(&tool.name, server, tls))
            }
        };
        Ok(Self { settings: tool.clone(), server, made: Mutex::default() })
    }

    /// Its tools as it listed them last; none before it did.
    fn tools(&self) -> Arc<[Arc<Tool>]> {
        let list = self.server.standing.list();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&made.0, &list) {
            let tools = list.iter().map(|listed| Arc::new(self.tool(listed))).collect();
            *made = (list, tools);
        }
        made.1.clone()
    }

    fn tool(&self, listed: &mcp::Listed) -> Tool {
        let Self { settings, server, .. } = self;
        Tool {
            name: format!("{}.{}", server.name, listed.name),
            source: server.name.clone(),
            description: listed.description.clone(),
            parameters: listed.parameters.clone(),
            tier: settings.tier,
            age_max: settings.age_max,
            output_bytes_max: settings.output_bytes_max,
            repeatable: settings.repeatable,
            work: Work::Mcp(McpTool { server: server.clone(), name: listed.name.clone() }),
        }
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
        Kind::Mcp(_) => return Err(unusable("it is a server, and no tool".to_owned())),
    };
    Ok(Arc::new(Tool {
        name: tool.name.clone(),
        source: tool.name.as_str().into(),
        description: tool.description.clone(),
        parameters: Arc::new(Schema::compile(&parameters).map_err(unusable)?),
        tier: tool.tier,
        age_max: tool.age_max,
        output_bytes_max: tool.output_bytes_max,
        repeatable: tool.repeatable,
        work,
    }))
}
