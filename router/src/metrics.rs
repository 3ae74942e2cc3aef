//! What a thread counts beside its shard's own counters, and all of it as metrics. Counted without sharing; added up
//! when somebody asks.
use crate::journal::shown;
use crate::scaling::{AgentScaling, Scaling};
use crate::tools::counted::Counted;
use crate::usage::{SIZES, Sizes};
use clawgate_core::codes::Code;
use clawgate_core::counters::Counters;
use clawgate_core::effect::Ignored;
use clawgate_core::stage::Stage;
use clawgate_core::view::{AgentLoad, Load};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Upper bounds of the duration histograms, microseconds: 1-2-5 from 50 µs to 100 s.
const BOUNDS_MICROS: [u64; 20] = [
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

/// Durations, counted by size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations {
    buckets: [u64; BOUNDS_MICROS.len() + 1],
    sum_nanos: u64,
}

impl Durations {
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Most are short: the first bounds are the likely ones, and whole numbers are compared in no time.
        let at = BOUNDS_MICROS.iter().position(|bound| nanos <= bound * 1_000);
        self.buckets[at.unwrap_or(BOUNDS_MICROS.len())] += 1;
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }
}

/// What a thread counts.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) turns: u64,
    pub(crate) accepted: u64,
    pub(crate) accept_failures: u64,
    pub(crate) descriptors_refused: u64,
    pub(crate) requests: u64,
    pub(crate) upgrades: u64,
    pub(crate) frames: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) crossed: u64,
    pub(crate) moved: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) dead_peers: u64,
    pub(crate) tls_failures: u64,
    pub(crate) upstream_connects: u64,
    pub(crate) upstream_faults: u64,
    pub(crate) endpoint_retries: u64,
    pub(crate) upstream_bytes_in: u64,
    pub(crate) deliveries_refused: u64,
    /// Tool calls.
    pub(crate) tools: Counted,
    /// Turns that workers had, by how that ended.
    pub(crate) worker_turns: BTreeMap<&'static str, u64>,
    pub(crate) worker_faults: u64,
    pub(crate) worker_late: u64,
    refused: Vec<u64>,
    turn: Durations,
    first_piece: Durations,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            turns: 0,
            accepted: 0,
            accept_failures: 0,
            descriptors_refused: 0,
            requests: 0,
            upgrades: 0,
            frames: 0,
            reads: 0,
            writes: 0,
            bytes_in: 0,
            bytes_out: 0,
            crossed: 0,
            moved: 0,
            slow_consumers: 0,
            dead_peers: 0,
            tls_failures: 0,
            upstream_connects: 0,
            upstream_faults: 0,
            endpoint_retries: 0,
            upstream_bytes_in: 0,
            deliveries_refused: 0,
            tools: Counted::default(),
            worker_turns: BTreeMap::new(),
            worker_faults: 0,
            worker_late: 0,
            refused: vec![0; Code::ALL.len()],
            turn: Durations::default(),
            first_piece: Durations::default(),
        }
    }
}

impl Counts {
    pub(crate) fn refuse(&mut self, code: Code) {
        if let Some(at) = Code::ALL.iter().position(|known| *known == code) {
            self.refused[at] += 1;
        }
    }

    pub(crate) fn turn_took(&mut self, duration: Duration) {
        self.turn.record(duration);
    }

    pub(crate) fn first_piece_took(&mut self, duration: Duration) {
        self.first_piece.record(duration);
    }

    /// The plain counters with their names and help texts.
    fn named(&self) -> [(&'static str, &'static str, u64); 21] {
        [
            ("loop_turns", "Turns of the threads' loops", self.turns),
            ("connections_accepted", "Client connections accepted", self.accepted),
            (
                "accept_failures",
                "Times that the kernel refused a connection's descriptor",
                self.accept_failures,
            ),
            (
                "descriptors_refused",
                "Connections of clients refused, and to models and platforms held up, for want of descriptors",
                self.descriptors_refused,
            ),
            ("http_requests", "HTTP requests read", self.requests),
            ("websocket_upgrades", "Connections that became WebSockets", self.upgrades),
            ("websocket_messages", "Messages read from WebSockets", self.frames),
            ("reads", "Read calls on client sockets", self.reads),
            ("writes", "Write calls on client sockets", self.writes),
            ("received_bytes", "Bytes read from clients", self.bytes_in),
            ("sent_bytes", "Bytes written to clients", self.bytes_out),
            (
                "messages_crossed",
                "Messages whose session lives on another core than their connection",
                self.crossed,
            ),
            ("connections_moved", "WebSockets that moved to the core of their session", self.moved),
            ("slow_consumers", "Clients given up because they did not read", self.slow_consumers),
            ("dead_peers", "WebSockets given up because they answered no heartbeat", self.dead_peers),
            ("tls_failures", "Client connections whose TLS broke", self.tls_failures),
            ("upstream_connects", "Connections opened to models and platforms", self.upstream_connects),
            ("upstream_faults", "Requests to models and platforms that got no answer", self.upstream_faults),
            (
                "endpoint_retries",
                "Calls that went on at another endpoint of their model",
                self.endpoint_retries,
            ),
            ("upstream_received_bytes", "Bytes read from models and platforms", self.upstream_bytes_in),
            (
                "deliveries_refused",
                "Parts of answers that a platform did not take at once",
                self.deliveries_refused,
            ),
        ]
    }
}

/// What one shard and its thread say about themselves.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) shard: u16,
    pub(crate) counters: Counters,
    pub(crate) counts: Counts,
    pub(crate) load: Load,
    pub(crate) connections: usize,
    pub(crate) calls: usize,
    /// Per model of its configuration: what its breaker lets pass.
    pub(crate) models: Vec<(String, clawgate_core::view::ModelStanding)>,
    /// Per agent of its configuration.
    pub(crate) agents: Vec<(String, AgentLoad)>,
    pub(crate) journal: Option<crate::journal::Report>,
    /// Rows that the store did not take and nothing else keeps.
    pub(crate) rows_dropped: u64,
    /// By model: tokens of prompts and of answers.
    pub(crate) tokens: Vec<(String, [Sizes; 2])>,
    /// Turns that workers have.
    pub(crate) worker_running: usize,
}

/// How the configuration came to be what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reloaded {
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    /// Since the one in force was taken.
    pub(crate) age: Duration,
}

/// The reports of all shards, as metrics.
#[derive(Debug)]
struct Reports {
    reports: Vec<Report>,
    reloaded: Reloaded,
    scaling: Scaling,
    store: Option<crate::store::Counters>,
    books: Option<Books>,
    upstreams: Upstreams,
}

/// What we call, beside the shards that call it.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) endpoints: Vec<EndpointRow>,
    pub(crate) workers: Workers,
    pub(crate) servers: Vec<ServerRow>,
}

/// A server of tools.
#[derive(Debug)]
pub(crate) struct ServerRow {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) tools: u64,
    pub(crate) starts: u64,
    pub(crate) failures: Vec<(&'static str, u64)>,
}

/// How many workers there are, and turns that wait for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workers {
    pub(crate) connected: u32,
    pub(crate) waiting: u32,
}

/// What the usage accounts tell about themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Books {
    pub(crate) rows: u64,
    pub(crate) folded: u64,
    pub(crate) write_failures: u64,
}

/// An endpoint of a model: the model's name, its own, and how it stands.
pub(crate) type EndpointRow = (String, String, clawgate_core::outlets::Standing);

/// All metrics as text, in the OpenMetrics format.
pub(crate) fn encode(
    reports: Vec<Report>,
    reloaded: Reloaded,
    scaling: Scaling,
    (store, books): (Option<crate::store::Counters>, Option<Books>),
    upstreams: Upstreams,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("clawgate");
    let all = Reports { reports, reloaded, scaling, store, books, upstreams };
    registry.register_collector(Box::new(all));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

pub(crate) type Rows<'a> = Vec<(Vec<(&'a str, String)>, u64)>;

/// A family of counters that differ in their labels.
fn counters(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, rows: Rows<'_>) -> fmt::Result {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A family of gauges that differ in their labels.
fn gauges(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, rows: Rows<'_>) -> fmt::Result {
    let kind = ConstGauge::new(0i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A histogram of all shards together.
fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    durations: &Durations,
) -> fmt::Result {
    histograms(encoder, name, help, std::iter::once((Vec::new(), durations)))
}

/// A family of histograms that differ in their labels.
fn histograms<'d>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: impl Iterator<Item = (Vec<(&'d str, String)>, &'d Durations)>,
) -> fmt::Result {
    let kind = prometheus_client::metrics::MetricType::Histogram;
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, durations) in all {
        encode_histogram(family.encode_family(&labels)?, durations)?;
    }
    Ok(())
}

fn encode_histogram(mut encoder: MetricEncoder<'_>, durations: &Durations) -> fmt::Result {
    let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6);
    let buckets: Vec<(f64, u64)> = bounds.chain([f64::MAX]).zip(durations.buckets).collect();
    let count = durations.buckets.iter().sum();
    let sum = durations.sum_nanos as f64 / 1e9;
    encoder.encode_histogram::<[(&str, String); 0]>(sum, count, &buckets, None)
}

impl Collector for Reports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_traffic(&mut encoder)?;
        self.encode_messages(&mut encoder)?;
        self.encode_load(&mut encoder)?;
        self.encode_endpoints(&mut encoder)?;
        self.encode_dedup(&mut encoder)?;
        self.encode_scaling(&mut encoder)?;
        self.encode_reloads(&mut encoder)?;
        self.encode_journal(&mut encoder)?;
        self.encode_store(&mut encoder)?;
        self.encode_usage(&mut encoder)?;
        self.encode_tools(&mut encoder)?;
        self.encode_workers(&mut encoder)?;
        self.encode_servers(&mut encoder)?;
        self.encode_durations(&mut encoder)
    }
}

impl Reports {
    fn shards(&self) -> impl Iterator<Item = (Vec<(&'static str, String)>, &Report)> {
        self.reports.iter().map(|report| (vec![("shard", report.shard.to_string())], report))
    }

    fn encode_journal(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.reports.iter().all(|report| report.journal.is_none()) {
            return Ok(());
        }
        for (name, help, grows, number) in shown::NUMBERS {
            let rows = self.shards().filter_map(|(labels, report)| {
                report.journal.as_ref().map(|journal| (labels, number(journal)))
            });
            let family = if grows { counters } else { gauges };
            family(encoder, name, help, rows.collect())?;
        }
        let mut syncs = Durations::default();
        self.reports.iter().filter_map(|report| report.journal.as_ref()).for_each(|j| syncs.add(&j.syncs));
        histogram(encoder, "journal_sync_seconds", "How long the disk takes to sync the journal", &syncs)
    }

    fn encode_store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = self.shards().map(|(labels, report)| (labels, report.rows_dropped));
        let help =
            "Rows dropped because the store did not take them; none that the journal keeps is among them";
        counters(encoder, "store_rows_dropped", help, dropped.collect())?;
        let Some(store) = &self.store else { return Ok(()) };
        for (name, help, grows, number) in crate::store::shown::NUMBERS {
            let family = if grows { counters } else { gauges };
            family(encoder, name, help, vec![(Vec::new(), number(store))])?;
        }
        Ok(())
    }

    fn encode_servers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let servers = &self.upstreams.servers;
        if servers.is_empty() {
            return Ok(());
        }
        let label = |server: &ServerRow| ("server", server.name.clone());
        let rows = |what: fn(&ServerRow) -> u64| -> Rows<'static> {
            servers.iter().map(|server| (vec![label(server)], what(server))).collect()
        };
        gauges(encoder, "mcp_up", "Is the MCP server up?", rows(|server| server.up.into()))?;
        gauges(encoder, "mcp_tools", "Tools that the MCP server lists", rows(|server| server.tools))?;
        counters(encoder, "mcp_starts", "Times that the MCP server came up", rows(|server| server.starts))?;
        let of_server = |server: &ServerRow| {
            let label = label(server);
            let row = move |(reason, count): &(&str, u64)| {
                (vec![label.clone(), ("reason", (*reason).to_owned())], *count)
            };
            server.failures.iter().map(row).collect::<Vec<_>>()
        };
        let failures = servers.iter().flat_map(of_server).collect();
        counters(encoder, "mcp_failures", "Times that the MCP server failed, by why", failures)
    }

    fn encode_workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let none = Vec::new;
        let Workers { connected, waiting } = self.upstreams.workers;
        gauges(encoder, "workers", "Workers of agents that are connected", vec![(none(), connected.into())])?;
        let help = "Turns that wait for a worker";
        gauges(encoder, "worker_turns_waiting", help, vec![(none(), waiting.into())])?;
        let running = self.reports.iter().map(|report| report.worker_running as u64).sum();
        gauges(encoder, "worker_turns_running", "Turns that workers have", vec![(none(), running)])?;
        let sum =
            |what: &dyn Fn(&Counts) -> u64| self.reports.iter().map(|report| what(&report.counts)).sum();
        let outcomes = ["done", "failed", "lost", "cancelled"];
        let rows = outcomes.map(|outcome| {
            let count = sum(&|counts| counts.worker_turns.get(outcome).copied().unwrap_or(0));
            (vec![("outcome", outcome.to_owned())], count)
        });
        counters(encoder, "worker_turns", "Turns that workers had, by how that ended", rows.to_vec())?;
        let help = "Messages of workers that made no sense";
        counters(encoder, "worker_faults", help, vec![(none(), sum(&|counts| counts.worker_faults))])?;
        let help = "Messages of workers about calls that were over";
        counters(encoder, "worker_late_messages", help, vec![(none(), sum(&|counts| counts.worker_late))])
    }

    /// Tokens, by the names of OpenTelemetry's conventions for generative AI.
    fn encode_usage(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut models: BTreeMap<&str, [Sizes; 2]> = BTreeMap::new();
        for (model, [input, output]) in self.reports.iter().flat_map(|report| &report.tokens) {
            let [inputs, outputs] = models.entry(model).or_default();
            inputs.add(input);
            outputs.add(output);
        }
        let kind = prometheus_client::metrics::MetricType::Histogram;
        let help = "Tokens of a call to a model, as its provider counts or as we estimate";
        let mut family = encoder.encode_descriptor("gen_ai_client_token_usage", help, None, kind)?;
        for (model, [input, output]) in &models {
            for (kind, sizes) in [("input", input), ("output", output)] {
                let labels = [("gen_ai_request_model", *model), ("gen_ai_token_type", kind)];
                let bounds = SIZES.iter().map(|bound| *bound as f64).chain([f64::MAX]);
                let buckets: Vec<(f64, u64)> = bounds.zip(sizes.buckets).collect();
                let count = sizes.buckets.iter().sum();
                let mut metric = family.encode_family(&labels)?;
                metric.encode_histogram::<[(&str, String); 0]>(sizes.sum as f64, count, &buckets, None)?;
            }
        }
        let Some(books) = self.books else { return Ok(()) };
        let none = Vec::new;
        gauges(encoder, "usage_rows", "Rows of the usage accounts", vec![(none(), books.rows)])?;
        let help = "Rows of the usage accounts whose session was left out to make room";
        counters(encoder, "usage_rows_folded", help, vec![(none(), books.folded)])?;
        let help = "Times that the usage accounts could not be written to disk";
        counters(encoder, "usage_write_failures", help, vec![(none(), books.write_failures)])
    }

    fn encode_tools(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut all = Counted::default();
        self.reports.iter().for_each(|report| all.add(&report.counts.tools));
        if all.is_empty() {
            return Ok(());
        }
        counters(encoder, "tool_calls", "Tool calls, by tool and outcome", all.rows())?;
        let durations = all.durations().map(|(name, took)| (vec![("tool", name.to_owned())], took));
        histograms(encoder, "tool_call_seconds", "How long tool calls take, by tool", durations)
    }

    fn encode_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(first) = self.reports.first() else { return Ok(()) };
        for (at, (name, help, _)) in first.counts.named().into_iter().enumerate() {
            let rows = self.shards().map(|(labels, report)| (labels, report.counts.named()[at].2)).collect();
            counters(encoder, name, help, rows)?;
        }
        Ok(())
    }

    fn sum(&self, what: impl Fn(&Counters) -> u64) -> u64 {
        self.reports.iter().map(|report| what(&report.counters)).sum()
    }

    fn encode_messages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut stages = Rows::new();
        for (labels, report) in self.shards() {
            for stage in Stage::ALL {
                let mut labels = labels.clone();
                labels.push(("stage", stage.name().to_owned()));
                stages.push((labels, report.counters.stage(stage)));
            }
        }
        counters(encoder, "stage_messages", "Messages that passed a stage", stages)?;
        let outcomes = [
            ("answered", self.sum(|c| c.answered)),
            ("cancelled", self.sum(|c| c.cancelled)),
            ("merged", self.sum(|c| c.merged)),
            ("dead", self.sum(|c| c.dead)),
            ("failed", Code::ALL.iter().map(|code| self.sum(|c| c.failed(*code))).sum()),
        ];
        let outcomes = outcomes.map(|(name, value)| (vec![("outcome", name.to_owned())], value)).to_vec();
        counters(encoder, "turns", "Turns that ended, by how", outcomes)?;
        let code_rows = |what: &dyn Fn(Code) -> u64| -> Rows<'_> {
            let all = Code::ALL.iter().map(|code| (vec![("code", code.name().to_owned())], what(*code)));
            all.filter(|(_, value)| *value != 0).collect()
        };
        let place = |code: Code| Code::ALL.iter().position(|known| *known == code).unwrap_or(0);
        let refused = |code: Code| {
            let by_shell: u64 = self.reports.iter().map(|report| report.counts.refused[place(code)]).sum();
            by_shell + self.sum(|c| c.refused(code))
        };
        counters(encoder, "refused", "Requests and messages refused, by code", code_rows(&refused))?;
        let failed = |code: Code| self.sum(|c| c.failed(code));
        counters(encoder, "failed", "Turns that failed, by code", code_rows(&failed))?;
        let ignored = [
            ("sender", Ignored::Sender),
            ("group", Ignored::Group),
            ("unmentioned", Ignored::Unmentioned),
            ("kind", Ignored::Kind),
            ("empty", Ignored::Empty),
        ];
        let ignored = ignored
            .map(|(name, why)| (vec![("why", name.to_owned())], self.sum(|c| c.ignored(why))))
            .to_vec();
        counters(encoder, "ignored", "Messages taken and not answered, by reason", ignored)?;
        let plain = [
            ("messages_accepted", "Messages admitted", self.sum(|c| c.accepted)),
            ("messages_duplicate", "Messages that had been admitted before", self.sum(|c| c.duplicate)),
            ("call_retries", "Calls repeated on the same model", self.sum(|c| c.retries)),
            ("call_fallbacks", "Calls that went to the next model of a chain", self.sum(|c| c.fallbacks)),
            ("sessions_evicted", "Sessions forgotten early to make room", self.sum(|c| c.evicted)),
            (
                "sessions_expired",
                "Sessions forgotten because they were idle for too long",
                self.sum(|c| c.expired),
            ),
        ];
        for (name, help, value) in plain {
            counters(encoder, name, help, vec![(Vec::new(), value)])?;
        }
        Ok(())
    }

    fn encode_load(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = |what: &dyn Fn(&Report) -> u64| -> Rows<'_> {
            self.shards().map(|(labels, report)| (labels, what(report))).collect()
        };
        gauges(encoder, "connections", "Client connections", rows(&|r| r.connections as u64))?;
        gauges(encoder, "sessions", "Sessions in memory", rows(&|r| u64::from(r.load.sessions)))?;
        gauges(
            encoder,
            "turns_running",
            "Turns whose model is being called",
            rows(&|r| u64::from(r.load.running)),
        )?;
        let waiting = |r: &Report| u64::from(r.load.waiting) + u64::from(r.load.ready);
        gauges(encoder, "turns_waiting", "Messages that wait", rows(&waiting))?;
        gauges(
            encoder,
            "turns_delivering",
            "Answers being delivered",
            rows(&|r| u64::from(r.load.delivering)),
        )?;
        gauges(encoder, "upstream_calls", "Calls to models under way", rows(&|r| r.calls as u64))?;
        let mut breakers = Rows::new();
        for (labels, report) in self.shards() {
            for (model, standing) in &report.models {
                let mut labels = labels.clone();
                labels.push(("model", model.clone()));
                breakers.push((labels, standing.breaker as u64));
            }
        }
        gauges(
            encoder,
            "breaker_state",
            "What a model's breaker lets pass: 0 all, 1 nothing, 2 probes",
            breakers,
        )
    }

    fn encode_endpoints(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = |what: &dyn Fn(&clawgate_core::outlets::Standing) -> u64| -> Rows<'_> {
            let of = |(model, name, standing): &EndpointRow| {
                (vec![("model", model.clone()), ("endpoint", name.clone())], what(standing))
            };
            self.upstreams.endpoints.iter().map(of).collect()
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        counters(encoder, "endpoint_calls", "Calls that went to an endpoint", rows(&|s| s.calls))?;
        counters(encoder, "endpoint_failures", "Those that failed there", rows(&|s| s.failures))?;
        let help = "Calls under way at an endpoint";
        gauges(encoder, "endpoint_running", help, rows(&|s| u64::from(s.running)))?;
        let help = "For how long an endpoint is still left alone";
        gauges(encoder, "endpoint_cooling_millis", help, rows(&|s| millis(s.calm)))?;
        let help = "An endpoint's time to the first token: an average that follows peaks";
        gauges(encoder, "endpoint_latency_millis", help, rows(&|s| millis(s.latency)))
    }

    fn encode_dedup(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sum = |what: fn(&Report) -> u64| self.reports.iter().map(what).sum::<u64>();
        let evicted = "Event ids that left memory before their time";
        counters(encoder, "dedup_evicted", evicted, vec![(Vec::new(), sum(|r| r.load.dedup_evicted))])?;
        let lookups = [
            ("asked", sum(|r| r.counters.lookups)),
            ("seen", sum(|r| r.counters.lookups_seen)),
            ("failed", sum(|r| r.counters.lookups_failed)),
        ];
        let lookups = lookups.map(|(what, count)| (vec![("what", what.to_owned())], count)).to_vec();
        let help = "Event ids that the store was asked about, that it had seen, that it said nothing about";
        counters(encoder, "dedup_lookups", help, lookups)?;
        let rows = |what: fn(&Report) -> u32| -> Rows<'_> {
            self.shards().map(|(labels, report)| (labels, u64::from(what(report)))).collect()
        };
        gauges(encoder, "dedup_ids", "Event ids in memory", rows(|r| r.load.dedup_ids))?;
        let help = "Older event ids that the store may be asked about";
        gauges(encoder, "dedup_filtered", help, rows(|r| r.load.dedup_filtered))?;
        let help = "Messages that wait for the store's word on their event id";
        gauges(encoder, "dedup_waiting", help, rows(|r| r.load.lookups))
    }

    fn encode_scaling(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Scaling { agents, load_percent, desired_replicas, hottest_shard_percent } = &self.scaling;
        let rows = |what: fn(&AgentScaling) -> u64| -> Rows<'_> {
            agents.iter().map(|agent| (vec![("agent", agent.name.clone())], what(agent))).collect()
        };
        gauges(encoder, "agent_waiting", "Messages that wait for an agent", rows(|agent| agent.waiting))?;
        gauges(encoder, "agent_running", "Messages that an agent is answering", rows(|agent| agent.running))?;
        let help = "Messages refused because too many wait for an agent, or for too long";
        counters(encoder, "agent_refused", help, rows(|agent| agent.refused))?;
        let mut waits = Rows::new();
        for agent in agents {
            for (class, wait) in ["low", "normal", "vip"].into_iter().zip(agent.wait_millis) {
                waits.push((vec![("agent", agent.name.clone()), ("class", class.to_owned())], wait));
            }
        }
        gauges(encoder, "agent_wait_millis", "What a message that comes now would wait for an agent", waits)?;
        let plain = [
            ("load_percent", "The load of the busiest agent, or of all turns", *load_percent),
            ("desired_replicas", "How many of this process would do what it has to do", *desired_replicas),
            ("hottest_shard_percent", "The busiest core's part of all messages", *hottest_shard_percent),
        ];
        for (name, help, value) in plain {
            gauges(encoder, name, help, vec![(Vec::new(), value)])?;
        }
        Ok(())
    }

    fn encode_reloads(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Reloaded { taken, refused, age } = self.reloaded;
        let rows = [("ok", taken), ("failed", refused)];
        let rows = rows.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count)).to_vec();
        counters(encoder, "config_reloads", "Times that the configuration was read again, by how", rows)?;
        let help = "Since the configuration in force was taken";
        gauges(encoder, "config_age_seconds", help, vec![(Vec::new(), age.as_secs())])
    }

    fn encode_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (mut turn, mut first_piece) = (Durations::default(), Durations::default());
        for report in &self.reports {
            turn.add(&report.counts.turn);
            first_piece.add(&report.counts.first_piece);
        }
        let all = [
            ("turn_seconds", "From a client's message to the end of its answer", turn),
            ("first_piece_seconds", "From a client's message to the first piece of its answer", first_piece),
        ];
        for (name, help, durations) in all {
            histogram(encoder, name, help, &durations)?;
        }
        Ok(())
    }
}
