//! The configuration, compiled, which never changes once it is; and what all threads share: the counters that hold for
//! the process. Which configuration is in force is each thread's own to know: see `reload.rs`.
use crate::agents::http::AgentEndpoint;
use crate::agents::pool::Pool;
use crate::agents::turns::Workers;
use crate::auth::{self, Guard, Keys};
use crate::clock::Clock;
use crate::config::session::Account;
use crate::config::{self, Config};
use crate::descriptors::Descriptors;
use crate::drain::Drain;
use crate::journal::Journals;
use crate::keep::Confirmations;
use crate::kept::Kept;
use crate::mesh::Mesh;
use crate::reload::Reloads;
use crate::remote::{self, Remote};
use crate::resolve::Resolver;
use crate::tls;
use crate::tools::Tools;
use crate::tools::audit::Audit;
use crate::tools::mcp::Quay;
use crate::usage::books::Books;
use clawgate_adapters::{Platform, slack, telegram, webhook, whatsapp};
use clawgate_core::bounds::Bounds;
use clawgate_core::bucket::{Rate, Table, Verdict};
use clawgate_core::event::{Class, Scope};
use clawgate_core::home::Secret;
use clawgate_core::id::{AgentId, ChannelId, ModelId, ShardId, Uid};
use clawgate_core::links::{CHANNEL, Links};
use clawgate_core::outlets::{Cooldown, Outlets};
use clawgate_core::plan::{self, DmPolicy, GroupPolicy, Plan, Unit};
use clawgate_core::route::{Matcher, Rule, Strategy};
use clawgate_core::time::Time;
use clawgate_providers::{Endpoint, Settings, echo, scripted};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The channel of clients that speak our own protocols, always the first.
pub(crate) const API: ChannelId = ChannelId(0);

/// Is this the clients' own channel?
pub(crate) fn is_api(channel: ChannelId) -> bool {
    channel == API
}

/// How a model is called.
#[derive(Debug)]
pub(crate) enum Upstream {
    Echo(echo::Echo),
    Scripted(scripted::Script),
    Remote(Box<Remote>),
    Agent(Box<AgentEndpoint>),
    Workers(Box<Workers>),
}

/// The compiled configuration.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Which one it is: 0 for the first of the process.
    pub(crate) generation: u64,
    pub(crate) plan: Arc<Plan>,
    pub(crate) limits: config::limits::Limits,
    pub(crate) keys: Keys,
    pub(crate) guard: Guard,
    /// By [`clawgate_core::id::ModelId`].
    pub(crate) upstreams: Vec<Upstream>,
    /// What each agent's prompts begin with, by [`AgentId`].
    pub(crate) systems: Vec<String>,
    pub(crate) tools: Tools,
    /// By [`ChannelId`]; none for the clients' own.
    pub(crate) platforms: Vec<Option<Platform>>,
    pub(crate) server_tls: Option<Arc<rustls::ServerConfig>>,
    /// What TLS trusts where nothing else is said.
    pub(crate) client_tls: Arc<rustls::ClientConfig>,
    address_rate: Option<Rate>,
    accounts: Arc<[Account]>,
}

impl Gateway {
    /// `before` is the configuration that this one takes the place of: what keys have used of their rates stays used,
    /// and connections to upstreams stay usable.
    ///
    /// # Errors
    /// What cannot be used, in words for the operator.
    pub(crate) fn compile(config: &Config, before: Option<&Self>) -> Result<Self, String> {
        let client_tls = match before {
            Some(before) => before.client_tls.clone(),
            None => tls::client_config(None)?,
        };
        // Conversations do not move while everything runs: the accounts of the start are linked until the end.
        let accounts =
            before.map_or_else(|| config.accounts.clone().into(), |before| before.accounts.clone());
        let platforms = config
            .channels
            .iter()
            .map(|channel| platform(channel).map(Some))
            .collect::<Result<Vec<_>, _>>()?;
        let mut platforms: Vec<_> = std::iter::once(None).chain(platforms).collect();
        let channels = channels(config, &platforms, &accounts);
        let plan = Plan {
            limits: config.limits.core.clone(),
            links: links(&accounts, &channels),
            channels,
            agents: config.agents.iter().map(agent).collect(),
            models: config.models.iter().map(|of| model(of, &config.limits)).collect(),
            route: route(&config.route)?,
        };
        let upstreams =
            config.models.iter().map(|model| upstream(model, &config.limits, &client_tls, before));
        let upstreams = upstreams.collect::<Result<_, _>>()?;
        if platforms.len() < plan.channels.len() {
            // That of linked conversations.
            platforms.push(None);
        }
        let server_tls = match &config.server.tls {
            Some(files) => Some(tls::server_config(&files.cert, &files.key)?),
            None => None,
        };
        Ok(Self {
            generation: before.map_or(0, |before| before.generation + 1),
            plan: Arc::new(plan),
            limits: config.limits.clone(),
            keys: Keys::new(config, before.map(|before| &before.keys)),
            guard: Guard::new(&config.server),
            upstreams,
            tools: Tools::compile(config, &client_tls, before.map(|before| &before.tools))?,
            systems: config.agents.iter().map(|agent| agent.system.clone()).collect(),
            platforms,
            server_tls,
            client_tls,
            address_rate: config.rates.address.as_ref().map(auth::rate),
            accounts,
        })
    }

    /// The name of a model; empty for one that is gone.
    pub(crate) fn model_name(&self, model: ModelId) -> &str {
        self.plan.models.get(usize::from(model.0)).map_or("", |model| &model.name)
    }

    /// The model of this name.
    pub(crate) fn model(&self, name: &str) -> Option<ModelId> {
        let at = self.plan.models.iter().position(|model| &*model.name == name)?;
        Some(ModelId(u16::try_from(at).ok()?))
    }

    /// The model of this name, if it is called over the network.
    pub(crate) fn remote(&self, name: &str) -> Option<&Remote> {
        match self.upstreams.get(usize::from(self.model(name)?.0))? {
            Upstream::Remote(remote) => Some(remote),
            Upstream::Echo(_) | Upstream::Scripted(_) | Upstream::Agent(_) | Upstream::Workers(_) => None,
        }
    }

    /// The rate of one address, if there is one.
    pub(crate) const fn address_rate(&self) -> Option<&Rate> {
        self.address_rate.as_ref()
    }

    /// The channel of this name that takes webhooks.
    pub(crate) fn webhook(&self, name: &str) -> Option<(ChannelId, &Platform)> {
        let at = self.plan.channels.iter().position(|channel| &*channel.name == name)?;
        let platform = self.platforms.get(at)?.as_ref()?;
        Some((ChannelId(u16::try_from(at).ok()?), platform))
    }

    /// The agent of this name.
    pub(crate) fn agent(&self, name: &str) -> Option<AgentId> {
        let at = self.plan.agents.iter().position(|agent| &*agent.name == name)?;
        Some(AgentId(u16::try_from(at).ok()?))
    }

    /// The channel of this name.
    pub(crate) fn channel(&self, name: &str) -> Option<ChannelId> {
        let at = self.plan.channels.iter().position(|channel| &*channel.name == name)?;
        Some(ChannelId(u16::try_from(at).ok()?))
    }
}

fn channels(config: &Config, platforms: &[Option<Platform>], accounts: &[Account]) -> Vec<plan::Channel> {
    let clients = |name: &str| plan::Channel {
        name: name.into(),
        text_max: u32::MAX,
        unit: Unit::Bytes,
        // Clients have their own streams.
        preview_every: Duration::ZERO,
        // Its people were let in by their keys.
        dm: DmPolicy::Open,
        groups: GroupPolicy::Disabled,
        allowed: BTreeSet::new(),
        mention_gating: false,
        agent: None,
        class: Class::Normal,
    };
    let traits = platforms.iter().flatten().map(|platform| platform.adapter().traits());
    let platforms = config.channels.iter().zip(traits).map(|(channel, traits)| plan::Channel {
        name: channel.name.as_str().into(),
        text_max: traits.text_max,
        unit: traits.unit,
        preview_every: if traits.edits { channel.preview_every } else { Duration::ZERO },
        dm: channel.dm,
        groups: channel.group,
        allowed: channel.allow_from.iter().chain(&channel.groups).map(|id| id.as_str().into()).collect(),
        mention_gating: channel.mention_gating,
        agent: channel.agent,
        class: channel.class,
    });
    let persons = (!accounts.is_empty()).then(|| clients(CHANNEL));
    std::iter::once(clients("api")).chain(platforms).chain(persons).collect()
}

fn links(accounts: &[Account], channels: &[plan::Channel]) -> Links {
    let find = |name: &str| {
        let at = channels.iter().position(|channel| &*channel.name == name)?;
        u16::try_from(at).ok().map(ChannelId)
    };
    let account = |account: &Account| {
        Some((find(&account.channel)?, account.peer.as_str().into(), account.person.as_str().into()))
    };
    Links::new(find(CHANNEL).unwrap_or_default(), accounts.iter().filter_map(account))
}

fn agent(agent: &config::agents::Agent) -> plan::Agent {
    plan::Agent {
        name: agent.name.as_str().into(),
        models: agent.models.clone(),
        running_max: agent.running_max,
        waiting_max: agent.waiting_max,
        attempts_max: agent.attempts_max,
        fallback: agent.fallback,
        history: agent.history,
        excerpt: agent.excerpt,
        needs_history: agent.needs_history,
        while_running: agent.while_running,
        wait_target: agent.wait_target,
        failure_text: agent.failure_text.as_deref().map(Into::into),
    }
}

fn model(model: &config::models::Model, limits: &config::limits::Limits) -> plan::Model {
    // Each call has a connection: those for which there is none wait in line, as for any other bound, over all cores.
    let most = match model.provider {
        config::models::Provider::Remote(_) | config::models::Provider::Endpoint(_) => {
            limits.upstream_connections_max
        }
        config::models::Provider::Echo { .. }
        | config::models::Provider::Scripted { .. }
        | config::models::Provider::Workers(_) => 0,
    };
    let running_max = match (model.running_max, most) {
        (0, most) | (most, 0) => most,
        (one, other) => one.min(other),
    };
    plan::Model {
        name: model.name.as_str().into(),
        running_max,
        requests_per_minute: model.requests_per_minute,
        tokens_per_minute: model.tokens_per_minute,
        header_age_max: model.header_age_max,
        first_piece_age_max: model.first_piece_age_max,
        silence_max: model.silence_max,
        call_age_max: model.call_age_max,
        retry: model.retry,
        fallback: model.fallback,
        breaker: model.breaker,
    }
}

fn route(route: &config::route::Route) -> Result<Strategy, String> {
    Ok(match route {
        config::route::Route::Agent(agent) => Strategy::Static(*agent),
        config::route::Route::Content { rules, otherwise } => {
            let rules: Vec<Rule> = rules
                .iter()
                .map(|rule| Rule {
                    keywords: rule.keywords.clone(),
                    prefixes: rule.prefixes.clone(),
                    patterns: rule.patterns.clone(),
                    then: Strategy::Static(rule.agent),
                })
                .collect();
            let rules = Matcher::compile(&rules).map_err(|bad| format!("route: {bad}"))?;
            Strategy::Content { rules, otherwise: Box::new(self::route(otherwise)?) }
        }
        config::route::Route::Balance(weights) => Strategy::Balance(weights.clone()),
        config::route::Route::Affinity(inner) => Strategy::Affinity(Box::new(self::route(inner)?)),
    })
}

fn upstream(
    model: &config::models::Model,
    limits: &config::limits::Limits,
    client_tls: &Arc<rustls::ClientConfig>,
    before: Option<&Gateway>,
) -> Result<Upstream, String> {
    Ok(match &model.provider {
        config::models::Provider::Endpoint(endpoint) => {
            Upstream::Agent(Box::new(AgentEndpoint::compile(&model.name, endpoint, limits, client_tls)?))
        }
        config::models::Provider::Workers(workers) => {
            Upstream::Workers(Box::new(Workers::compile(workers, before)))
        }
        config::models::Provider::Echo { words } => Upstream::Echo(echo::Echo { by_words: *words }),
        config::models::Provider::Scripted { script } => Upstream::Scripted(self::script(script)),
        config::models::Provider::Remote(remote) => {
            let tls = match &remote.ca_file {
                Some(file) => tls::client_config(Some(file))?,
                None => client_tls.clone(),
            };
            let connect_age_max = model.connect_age_max.unwrap_or(limits.connect_age_max);
            let before = before.and_then(|before| before.remote(&model.name));
            Upstream::Remote(Box::new(self::remote(model, remote, (tls, connect_age_max), before)?))
        }
    })
}

/// A model on the network. What is known of its endpoints stays known, as long as they are the same.
fn remote(
    model: &config::models::Model,
    remote: &config::remote::Remote,
    (tls, connect_age_max): (Arc<rustls::ClientConfig>, Duration),
    before: Option<&Remote>,
) -> Result<Remote, String> {
    let (mut places, mut list) = (Vec::new(), Vec::new());
    for settings in &remote.places {
        let endpoint = Endpoint::new(&endpoint_settings(remote, settings))
            .map_err(|bad| format!("models.{}.{}: {}", model.name, bad.key, bad.text))?;
        let known = before.and_then(|before| {
            let is_same = |place: &remote::Place| place.settings.is_same(settings);
            before.outlets.outlet(before.places.iter().position(is_same)?).cloned()
        });
        list.push((known.unwrap_or_default(), settings.weight));
        places.push(remote::Place { settings: settings.clone(), endpoint });
    }
    let cooldown = Cooldown { first: model.breaker.open_min, longest: model.breaker.open_max };
    Ok(Remote {
        provider: remote.provider.clone(),
        places,
        outlets: Outlets::new(list, cooldown),
        tls,
        connect_age_max,
        header_age_max: model.header_age_max,
    })
}

fn endpoint_settings(remote: &config::remote::Remote, place: &config::remote::Place) -> Settings {
    let extra_body = remote.extra_body.as_ref().map(|body| body.expose().to_owned());
    Settings {
        kind: remote.kind,
        replay_reasoning: remote.replay_reasoning,
        base_url: place.base_url.clone(),
        api_key: place.api_key.as_ref().map(|key| key.expose().to_owned()),
        model: remote.model.clone(),
        stream: remote.stream,
        temperature: remote.temperature,
        max_tokens: remote.max_tokens,
        headers: remote.headers.iter().map(|(n, v)| (n.clone(), v.expose().to_owned())).collect(),
        extra_body: extra_body.unwrap_or_default(),
    }
}

fn script(steps: &[config::models::Step]) -> scripted::Script {
    if steps.is_empty() {
        return scripted::Script::demo();
    }
    let steps = steps.iter().map(|step| {
        let action = match &step.action {
            config::models::Action::Say { text, times } => {
                scripted::Action::Say { text: text.clone(), times: *times }
            }
            config::models::Action::Stall => scripted::Action::Stall,
            config::models::Action::Fail { status } => scripted::Action::Fail { status: *status },
            config::models::Action::Truncate => scripted::Action::Truncate,
            config::models::Action::Malformed => scripted::Action::Malformed,
        };
        scripted::Line { after: step.after, action }
    });
    scripted::Script::new(&steps.collect::<Vec<_>>())
}

fn platform(channel: &config::channels::Channel) -> Result<Platform, String> {
    let unusable =
        |bad: clawgate_adapters::Unusable| format!("channels.{}.{}: {}", channel.name, bad.key, bad.text);
    Ok(match &channel.platform {
        config::channels::Platform::Telegram(settings) => {
            let settings = telegram::Settings {
                token: settings.token.expose().to_owned(),
                secret: Some(settings.secret.expose().to_owned()),
                bot_username: settings.bot_username.clone().unwrap_or_default(),
                bot_id: None,
                api_root: settings.api_root.clone(),
            };
            Platform::Telegram(Box::new(telegram::Telegram::new(settings).map_err(unusable)?))
        }
        config::channels::Platform::Slack(settings) => {
            let settings = slack::Settings {
                token: settings.token.expose().to_owned(),
                secrets: settings.secrets.iter().map(|secret| secret.expose().to_owned()).collect(),
                tolerance_secs: settings.tolerance.as_secs(),
                threads: settings.threads,
                api_root: settings.api_root.clone(),
            };
            Platform::Slack(Box::new(slack::Slack::new(settings).map_err(unusable)?))
        }
        config::channels::Platform::WhatsApp(settings) => {
            let settings = whatsapp::Settings {
                token: settings.token.expose().to_owned(),
                secrets: settings.secrets.iter().map(|secret| secret.expose().to_owned()).collect(),
                verify_token: settings.verify_token.expose().to_owned(),
                phone_number_id: settings.phone_number_id.clone(),
                api_root: settings.api_root.clone(),
            };
            Platform::WhatsApp(Box::new(whatsapp::WhatsApp::new(settings).map_err(unusable)?))
        }
        config::channels::Platform::Webhook(settings) => {
            Platform::Webhook(Box::new(webhook::Webhook::new(webhook_settings(settings)).map_err(unusable)?))
        }
    })
}

fn webhook_settings(settings: &config::channels::Webhook) -> webhook::Settings {
    use clawgate_adapters::signature::Scheme;
    use config::channels::{ScopeRule, Signature};
    let scheme = match &settings.signature {
        Signature::Standard => Scheme::Standard,
        Signature::Github => Scheme::Github,
        Signature::Stripe => Scheme::Stripe,
        Signature::Slack => Scheme::Slack,
        Signature::Bearer => Scheme::Bearer,
        Signature::Header(header) => Scheme::Token { header: header.clone() },
    };
    let mapping = &settings.mapping;
    webhook::Settings {
        scheme,
        secrets: settings.secrets.iter().map(|secret| secret.expose().to_owned()).collect(),
        tolerance_secs: settings.tolerance.as_secs(),
        mapping: webhook::Mapping {
            event_id: mapping.event_id.clone(),
            sender: mapping.sender.clone(),
            name: mapping.name.clone(),
            chat: mapping.chat.clone(),
            text: mapping.text.clone(),
            thread: mapping.thread.clone(),
            timestamp: mapping.timestamp.clone(),
            scope: match &mapping.scope {
                ScopeRule::Direct => webhook::Scope::Always(Scope::Direct),
                ScopeRule::Group => webhook::Scope::Always(Scope::Group),
                ScopeRule::Pointer(pointer) => webhook::Scope::At(pointer.clone()),
            },
        },
        reply_url: settings.reply_url.as_ref().map(|url| url.expose().to_owned()),
        reply_secret: settings.reply_secret.as_ref().map(|secret| secret.expose().to_owned()),
        text_max: settings.text_max,
    }
}

/// Connections of one address are counted in two cells of a table; the smaller one answers (a count-min sketch), so
/// that an address pays for another one's connections only if it shares both cells.
const ADDRESS_CELLS: usize = 2;
/// Upstreams whose connections are counted apart; two that share a cell share the bound.
const UPSTREAM_CELLS: usize = 1_024;

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) mesh: Mesh,
    pub(crate) bounds: Arc<Bounds>,
    /// Random, of this process: where seeds and hashes begin that nothing outlives.
    nonce: Secret,
    /// What outlives the process, once it is ours.
    pub(crate) kept: std::sync::OnceLock<Kept>,
    pub(crate) confirmations: Confirmations,
    /// Workers of agents, over all threads.
    pub(crate) workers: Pool,
    /// What is used, once what earlier runs left is read.
    pub(crate) books: std::sync::OnceLock<Books>,
    /// What tools do is written down here, once the data directory is ours.
    pub(crate) audit: std::sync::OnceLock<Arc<Audit>>,
    /// Where servers of tools live.
    pub(crate) quay: Quay,
    pub(crate) clock: Clock,
    pub(crate) resolver: Resolver,
    /// Connections that listen to events, process.
    pub(crate) subscribers: AtomicU32,
    /// What whole requests may take, process.
    pub(crate) requests: crate::door::Budget,
    pub(crate) reloads: Reloads,
    pub(crate) drain: Drain,
    pub(crate) drivers: Vec<std::sync::OnceLock<&'static str>>,
    /// Who may have which descriptors, before anything is accepted.
    pub(crate) descriptors: std::sync::OnceLock<Descriptors>,
    connections: AtomicU32,
    by_address: Vec<AtomicU32>,
    addresses: Table,
    upstream_shares: Vec<Arc<AtomicU32>>,
    cores: u16,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({} cores)", self.cores)
    }
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// The process has as many as it may.
    Process,
    /// The address has.
    Address,
}

impl Shared {
    /// # Errors
    /// No descriptors for the mesh, or no randomness.
    pub(crate) fn new(gateway: &Gateway, cores: u16, clock: Clock) -> std::io::Result<Self> {
        let mut random = [0u8; 16];
        random_bytes(&mut random)?;
        let (low, high) = random.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        let nonce = Secret([word(low), word(high)]);
        let cells = (gateway.limits.addresses_max as usize).max(1);
        Ok(Self {
            bounds: Arc::new(Bounds::new(&gateway.plan, cores)),
            mesh: Mesh::new(cores)?,
            nonce,
            kept: std::sync::OnceLock::new(),
            confirmations: Confirmations::new(cores),
            workers: Pool::new(cores),
            books: std::sync::OnceLock::new(),
            audit: std::sync::OnceLock::new(),
            quay: Quay::default(),
            clock,
            resolver: Resolver::start()?,
            subscribers: AtomicU32::new(0),
            requests: crate::door::Budget::default(),
            reloads: Reloads::default(),
            drain: Drain::new(cores),
            drivers: (0..cores).map(|_| std::sync::OnceLock::new()).collect(),
            descriptors: std::sync::OnceLock::new(),
            connections: AtomicU32::new(0),
            by_address: (0..cells).map(|_| AtomicU32::new(0)).collect(),
            addresses: Table::new(cells, nonce),
            upstream_shares: (0..UPSTREAM_CELLS).map(|_| Arc::default()).collect(),
            cores,
        })
    }

    /// How many threads there are, and shards.
    pub(crate) fn cores(&self) -> u16 {
        self.cores
    }

    /// What sessions and event ids are hashed with: the data directory's, if there is one.
    pub(crate) fn secret(&self) -> &Secret {
        self.kept.get().map_or(&self.nonce, |kept| &kept.secret)
    }

    /// The journals, if there are any.
    pub(crate) fn journals(&self) -> Option<&Journals> {
        self.kept.get()?.journals.as_ref()
    }

    /// The most memory that what outlives the process takes, in bytes.
    pub(crate) fn keeping_bytes(&self) -> u64 {
        self.journals().map_or(0, |journals| journals.memory_bytes(self.cores))
    }

    /// Where a shard's randomness begins: elsewhere in each process.
    pub(crate) fn seed(&self, shard: ShardId) -> u64 {
        hash(&self.nonce, &shard.0.to_le_bytes(), 0)
    }

    fn cells(&self, address: IpAddr) -> [&AtomicU32; ADDRESS_CELLS] {
        let key = address_key(address);
        [0, 1].map(|salt| {
            let at = (u128::from(hash(&self.nonce, &key, salt + 1)) * self.by_address.len() as u128) >> 64;
            &self.by_address[usize::try_from(at).unwrap_or(0)]
        })
    }

    /// Counts a connection in.
    pub(crate) fn connection_opened(
        &self,
        address: IpAddr,
        limits: &config::limits::Limits,
    ) -> Result<(), Crowded> {
        let fits = |n: u32| (n < limits.connections_max).then_some(n + 1);
        if self.connections.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_err() {
            return Err(Crowded::Process);
        }
        let cells = self.cells(address);
        let before = cells.map(|cell| cell.fetch_add(1, Ordering::Relaxed)).into_iter().min().unwrap_or(0);
        let max = limits.connections_per_address_max;
        if max != 0 && max <= before {
            self.connection_closed(address);
            return Err(Crowded::Address);
        }
        Ok(())
    }

    /// Counts a connection out.
    pub(crate) fn connection_closed(&self, address: IpAddr) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
        for cell in self.cells(address) {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Connections of the process.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// One of the `max` connections that the process may have to an upstream; `None` when all are taken.
    pub(crate) fn upstream_share(&self, host: &str, port: u16, max: u32) -> Option<Arc<AtomicU32>> {
        use std::hash::Hasher as _;
        let mut hasher = keyed(&self.nonce, 3);
        hasher.write(host.as_bytes());
        hasher.write_u16(port);
        let at = (u128::from(hasher.finish()) * UPSTREAM_CELLS as u128) >> 64;
        let cell = &self.upstream_shares[usize::try_from(at).unwrap_or(0)];
        cell.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).ok()?;
        Some(cell.clone())
    }

    /// The same for every attempt at a turn's answer, also those after a restart, and for no other turn.
    pub(crate) fn idempotency_key(&self, uid: Uid) -> u128 {
        let bytes = uid.0.to_le_bytes();
        let secret = self.secret();
        u128::from(hash(secret, &bytes, 4)) << 64 | u128::from(hash(secret, &bytes, 5))
    }

    /// Takes one request from the rate of an address.
    pub(crate) fn take_address(&self, address: IpAddr, now: Time, rate: &Rate) -> Verdict {
        self.addresses.take(&address_key(address), now, rate)
    }
}

/// What counts as one address: an IPv4 address, or a /64 of IPv6, which is what one customer gets.
fn address_key(address: IpAddr) -> [u8; 9] {
    let mut key = [0u8; 9];
    match address.to_canonical() {
        IpAddr::V4(v4) => key[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => {
            key[0] = 6;
            key[1..].copy_from_slice(&v6.octets()[..8]);
        }
    }
    key
}

fn random_bytes(bytes: &mut [u8]) -> std::io::Result<()> {
    rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(())
}

fn hash(secret: &Secret, bytes: &[u8], salt: u64) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = keyed(secret, salt);
    hasher.write(bytes);
    hasher.finish()
}

fn keyed(secret: &Secret, salt: u64) -> siphasher::sip::SipHasher13 {
    siphasher::sip::SipHasher13::new_with_keys(secret.0[0] ^ salt, secret.0[1])
}
