//! How the gateway is: health, status, metrics, and what is configured, without its secrets.
use super::{Call, sessions::respond_data};
use crate::agents::{self, pool::Worker};
use crate::connection::{Connection, Place};
use crate::gateway::Upstream;
use crate::gather::gather;
use crate::http;
use crate::journal::{Journal, shown};
use crate::keep::Keeper;
use crate::metrics::{self, Report};
use crate::scaling::Scaling;
use crate::serve::worst_case;
use crate::store;
use crate::thread::Thread;
use crate::tools::audit::Audit;
use crate::tools::mcp::{Phase, Server};
use clawgate_core::breaker::State;
use clawgate_core::codes::Code;
use clawgate_core::id::{AgentId, ChannelId, ModelId};
use clawgate_core::links::CHANNEL;
use clawgate_core::time::Time;
use clawgate_core::view::ModelStanding;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The description of this API, served as it is.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// The name of a breaker's state.
pub(crate) const fn breaker_name(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half-open",
    }
}

/// We live. Answered by whichever thread has the connection, whatever the others do.
pub(super) fn health(call: &mut Call<'_>) {
    let body: &[u8] = if call.thread.draining.get().is_some() {
        b"{\"status\":\"draining\"}"
    } else {
        b"{\"status\":\"ok\"}"
    };
    http::respond_json(call.thread, call.connection, 200, body);
}

/// The API's own description.
pub(super) fn openapi(call: &mut Call<'_>) {
    http::respond(call.thread, call.connection, 200, "application/json", &[], OPENAPI.as_bytes());
}

/// What this thread reports.
fn report(thread: &Rc<Thread>) -> Report {
    let shard = thread.shard.borrow();
    let gateway = thread.gateway();
    let (now, load) = (thread.now(), shard.load());
    let models = gateway.plan.models.iter().zip(0..).map(|(model, id)| (&model.name, ModelId(id)));
    let agents = gateway.plan.agents.iter().zip(&load.agents);
    Report {
        shard: thread.id.0,
        counters: shard.counters().clone(),
        counts: thread.counts(),
        connections: thread.connection_count(),
        calls: thread.upstreams.running(),
        models: models.map(|(name, id)| (name.to_string(), shard.model_standing(id, now))).collect(),
        agents: agents.map(|(agent, load)| (agent.name.to_string(), *load)).collect(),
        load,
        journal: thread.journal.get().map(Journal::report),
        rows_dropped: thread.keeper.get().map_or(0, Keeper::dropped),
        tokens: thread.ledger.sizes(),
        worker_running: agents::turns::running(thread),
    }
}

/// Asks all threads, and answers with what `write` makes of their reports.
fn with_reports(call: &Call<'_>, write: impl FnOnce(&Rc<Thread>, &Rc<Connection>, Vec<Report>) + 'static) {
    let place: Place = call.connection.place;
    gather(call.thread, report, move |thread, mut reports| {
        reports.sort_by_key(|report| report.shard);
        if let Some(connection) = thread.connection(place) {
            write(thread, &connection, reports);
        }
    });
}

/// How a model stands on each shard that knows it.
fn standings_of<'a>(reports: &'a [Report], model: &'a str) -> impl Iterator<Item = (u16, &'a ModelStanding)> {
    let all = reports.iter().flat_map(|report| report.models.iter().map(|known| (report.shard, known)));
    all.filter(move |(_, (name, _))| name == model).map(|(shard, (_, standing))| (shard, standing))
}

/// The worst of a model's breakers over all shards.
fn breaker_of(reports: &[Report], model: &str) -> State {
    standings_of(reports, model)
        .map(|(_, standing)| standing.breaker)
        .max_by_key(|state| match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        })
        .unwrap_or_default()
}

fn models_of(thread: &Thread, reports: &[Report]) -> Vec<Value> {
    let gateway = thread.gateway();
    let describe = |(model, upstream): (&clawgate_core::plan::Model, &Upstream)| {
        let breaker = breaker_name(breaker_of(reports, &model.name));
        let mut shown = json!({ "name": &*model.name, "breaker": breaker });
        match upstream {
            Upstream::Echo(_) => shown["provider"] = json!("echo"),
            Upstream::Scripted(_) => shown["provider"] = json!("scripted"),
            Upstream::Remote(remote) => remote.describe(thread.now(), &mut shown),
            Upstream::Agent(_) => shown["provider"] = json!("http"),
            Upstream::Workers(_) => shown["provider"] = json!("worker"),
        }
        shown
    };
    gateway.plan.models.iter().zip(&gateway.upstreams).map(describe).collect()
}

/// Everything about our health; `degraded` while a breaker is not closed, or the journal takes no records.
pub(super) fn detailed(call: &mut Call<'_>) {
    with_reports(call, |thread, connection, reports| {
        let gateway = thread.gateway();
        let mut models = gateway.plan.models.iter();
        let store = thread.shared.kept.get().map(|kept| &kept.store);
        let journals: Vec<_> = reports.iter().filter_map(|report| report.journal.as_ref()).collect();
        let degraded = models.any(|model| breaker_of(&reports, &model.name) != State::Closed)
            || shown::trouble(journals.iter().copied()).is_some()
            || store.is_some_and(|store| store.health() != store::Health::Ok)
            || audit_of(thread).is_some_and(|audit| audit.is_failing())
            || gateway.tools.servers().any(|server| matches!(server.standing.phase(), Phase::Down(_)));
        let status = match (thread.draining.get().is_some(), degraded) {
            (true, _) => "draining",
            (false, true) => "degraded",
            (false, false) => "ok",
        };
        let worst_bytes = worst_case(&gateway, thread.shared.cores()) + thread.shared.keeping_bytes();
        let shards: Vec<_> = reports.iter().map(|report| shard_of(thread, report)).collect();
        let body = json!({
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "uptimeSeconds": thread.now().since(Time::ZERO).as_secs(),
            "providers": models_of(thread, &reports),
            "channels": channels_of(thread),
            "memory": { "residentBytes": resident_bytes(), "worstCaseBytes": worst_bytes },
            "shards": shards,
            "config": config_of(thread),
            "workers": workers_of(thread),
            "journal": shown::health(thread.shared.journals(), &journals),
            "store": store::shown::health(store),
            "tools": tools_of(thread),
        });
        http::respond_json(thread, connection, 200, body.to_string().as_bytes());
    });
}

/// The audit log, while tools write to it.
fn audit_of(thread: &Thread) -> Option<&Arc<Audit>> {
    thread.shared.audit.get().filter(|_| thread.gateway().tools.audited)
}

/// What tools need.
fn tools_of(thread: &Thread) -> Value {
    let audit = match audit_of(thread) {
        None => "off",
        Some(audit) if audit.is_failing() => "failing",
        Some(_) => "ok",
    };
    let describe = |server: &Arc<Server>| {
        let (status, problem) = match server.standing.phase() {
            Phase::Starting => ("starting", None),
            Phase::Up => ("up", None),
            Phase::Down(why) => ("down", Some(why)),
        };
        json!({
            "name": &*server.name, "status": status, "problem": problem,
            "tools": server.standing.list().len(), "starts": server.standing.starts(),
        })
    };
    let servers: Vec<_> = thread.gateway().tools.servers().map(describe).collect();
    json!({ "audit": audit, "servers": servers })
}

/// The workers of agents.
fn workers_of(thread: &Thread) -> Vec<Value> {
    let describe = |worker: &Arc<Worker>| {
        json!({
            "id": format!("worker_{:016x}", worker.id),
            "agents": worker.agents,
            "capacity": worker.capacity,
            "running": worker.busy(),
            "shard": worker.core.0,
        })
    };
    thread.workers.known.all().iter().map(describe).collect()
}

/// The configuration in force, and what became of the last attempt to change it.
fn config_of(thread: &Thread) -> Value {
    let reloads = &thread.shared.reloads;
    let said = reloads.said();
    json!({
        "file": said.file,
        "generation": reloads.in_force.load(Ordering::Acquire),
        "ageSeconds": reloaded(thread).age.as_secs(),
        "status": if said.refusal.is_empty() { "ok" } else { "refused" },
        "problems": said.refusal,
        "needsRestart": said.needs_restart,
    })
}

fn reloaded(thread: &Thread) -> metrics::Reloaded {
    let reloads = &thread.shared.reloads;
    metrics::Reloaded {
        taken: reloads.taken.load(Ordering::Relaxed),
        refused: reloads.refused.load(Ordering::Relaxed),
        age: thread.now().since(Time(reloads.taken_at.load(Ordering::Relaxed))),
    }
}

fn shard_of(thread: &Thread, report: &Report) -> Value {
    let driver = thread.shared.drivers.get(usize::from(report.shard)).and_then(std::sync::OnceLock::get);
    json!({
        "shard": report.shard,
        "driver": driver.copied().unwrap_or("starting"),
        "connections": report.connections,
        "sessions": report.load.sessions,
        "running": report.load.running,
        "waiting": report.load.waiting + report.load.ready,
        "delivering": report.load.delivering,
    })
}

/// Bytes of memory that the process holds; 0 where the kernel does not say. Reads one small file of the kernel's own,
/// which does not wait for a disk.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The state of the service in short.
pub(super) fn status(call: &mut Call<'_>) {
    with_reports(call, |thread, connection, reports| {
        let sum = |what: &dyn Fn(&Report) -> u64| -> u64 { reports.iter().map(what).sum() };
        let gateway = thread.gateway();
        let plan = &gateway.plan;
        let agents: Vec<_> = plan
            .agents
            .iter()
            .map(|agent| {
                let of = |what: fn(&clawgate_core::view::AgentLoad) -> u32| -> u32 {
                    let all = reports.iter().flat_map(|report| &report.agents);
                    all.filter(|(name, _)| **name == *agent.name).map(|(_, load)| what(load)).sum()
                };
                let models: Vec<_> =
                    agent.models.iter().map(|model| plan.model(*model).name.to_string()).collect();
                let (waiting, running) = (of(|load| load.waiting), of(|load| load.running));
                json!({ "name": &*agent.name, "models": models, "running": running, "waiting": waiting })
            })
            .collect();
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptimeSeconds": thread.now().since(Time::ZERO).as_secs(),
            "draining": thread.draining.get().is_some(),
            "shards": thread.shared.cores(),
            "connections": thread.shared.connections(),
            "sessions": sum(&|report| u64::from(report.load.sessions)),
            "running": sum(&|report| u64::from(report.load.running)),
            "waiting": sum(&|report| u64::from(report.load.waiting + report.load.ready)),
            "messages": {
                "accepted": sum(&|report| report.counters.accepted),
                "answered": sum(&|report| report.counters.answered),
                "failed": sum(&|report| Code::ALL.iter().map(|code| report.counters.failed(*code)).sum()),
                "cancelled": sum(&|report| report.counters.cancelled),
                "duplicate": sum(&|report| report.counters.duplicate),
            },
            "agents": agents,
        });
        respond_data(thread, connection, &body.to_string());
    });
}

/// What an autoscaler wants to know.
pub(super) fn scaling(call: &mut Call<'_>) {
    with_reports(call, |thread, connection, reports| {
        let scaling = Scaling::of(&thread.gateway(), &reports);
        respond_data(thread, connection, &scaling.body(&reports).to_string());
    });
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The models, and what their breakers let pass: the worst of each, and that of every shard.
pub(super) fn models(call: &mut Call<'_>) {
    with_reports(call, |thread, connection, reports| {
        let mut models = models_of(thread, &reports);
        for (shown, model) in models.iter_mut().zip(&thread.gateway().plan.models) {
            let standings = standings_of(&reports, &model.name).map(|(shard, standing)| {
                json!({
                    "shard": shard,
                    "breaker": breaker_name(standing.breaker),
                    "openMillis": millis(standing.open),
                    "coolingMillis": millis(standing.calm),
                })
            });
            shown["shards"] = standings.collect();
        }
        let body = json!({ "models": models });
        respond_data(thread, connection, &body.to_string());
    });
}

fn channels_of(thread: &Thread) -> Vec<Value> {
    let gateway = thread.gateway();
    let describe = |(at, channel): (usize, &clawgate_core::plan::Channel)| {
        let webhook = gateway.platforms.get(at).is_some_and(Option::is_some);
        let path = webhook.then(|| format!("/webhooks/{}", channel.name));
        let id = ChannelId(u16::try_from(at).unwrap_or(u16::MAX));
        let agent =
            gateway.plan.channel(id).agent.map(|agent: AgentId| gateway.plan.agent(agent).name.to_string());
        json!({
            "name": &*channel.name,
            "type": if webhook { "webhook" } else { "clients" },
            "path": path,
            "dmPolicy": format!("{:?}", channel.dm).to_lowercase(),
            "groupPolicy": format!("{:?}", channel.groups).to_lowercase(),
            "mentionGating": channel.mention_gating,
            "agent": agent,
            "status": "ok",
        })
    };
    // Nobody writes on the one that linked conversations are kept under.
    let all = gateway.plan.channels.iter().enumerate().filter(|(_, channel)| *channel.name != *CHANNEL);
    all.map(describe).collect()
}

/// The channels.
pub(super) fn channels(call: &mut Call<'_>) {
    let body = json!({ "channels": channels_of(call.thread) });
    respond_data(call.thread, call.connection, &body.to_string());
}

/// Every endpoint of every model.
fn endpoints_of(thread: &Thread) -> Vec<metrics::EndpointRow> {
    let (gateway, now) = (thread.gateway(), thread.now());
    let mut rows = Vec::new();
    for (model, upstream) in gateway.plan.models.iter().zip(&gateway.upstreams) {
        let Upstream::Remote(remote) = upstream else { continue };
        for (place, standing) in remote.places.iter().zip(remote.outlets.standings(now)) {
            rows.push((model.name.to_string(), place.settings.name.clone(), standing));
        }
    }
    rows
}

/// Every server of tools.
fn servers_of(thread: &Thread) -> Vec<metrics::ServerRow> {
    let row = |server: &Arc<Server>| metrics::ServerRow {
        name: server.name.to_string(),
        up: server.standing.phase() == Phase::Up,
        tools: server.standing.list().len() as u64,
        starts: server.standing.starts(),
        failures: server.standing.failures().map(|(reason, count)| (reason.name(), count)).collect(),
    };
    thread.gateway().tools.servers().map(row).collect()
}

fn encode(thread: &Thread, reports: Vec<Report>) -> Result<String, std::fmt::Error> {
    let scaling = Scaling::of(&thread.gateway(), &reports);
    let store = thread.shared.kept.get().map(|kept| kept.store.counters());
    let books = thread.shared.books.get().map(|books| {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let figures = &books.figures;
        metrics::Books {
            rows: read(&figures.rows),
            folded: read(&figures.folded),
            write_failures: read(&figures.write_failures),
        }
    });
    let pool = &thread.shared.workers;
    let workers = metrics::Workers { connected: pool.workers(), waiting: pool.waiting() };
    let upstreams =
        metrics::Upstreams { endpoints: endpoints_of(thread), workers, servers: servers_of(thread) };
    metrics::encode(reports, reloaded(thread), scaling, (store, books), upstreams)
}

/// All metrics, for Prometheus.
pub(super) fn metrics(call: &mut Call<'_>) {
    with_reports(call, |thread, connection, reports| match encode(thread, reports) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            http::respond(thread, connection, 200, kind, &[("cache-control", "no-store")], text.as_bytes());
        }
        Err(_) => http::respond_error(thread, connection, Code::Internal, Code::Internal.advice(), 0),
    });
}
