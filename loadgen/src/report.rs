//! What a run is told as: a line a second, a table, a JSON document, an interval log for HDR tools. Computes nothing but
//! quotients; judges nothing.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

use crate::host::Fingerprint;
use crate::ledger::Tally;
use crate::measure::{BrownoutEnd, Counts, Interval, Metric, Times64};
use crate::run::{Observer, Outcome, RestartEnd, Settings, StormEnd};
use crate::slo::Held;
use crate::steady::Steady;
use crate::verdict::{Verdict, Word};

/// The version of the JSON document. It grows by one when a field changes its meaning or goes.
pub const SCHEMA: &str = "clawgate.loadgen.result/1";

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Seconds after the start.
    pub second: u64,
    /// Messages sent.
    pub sent: u64,
    /// Whole answers.
    pub answered: u64,
    /// Errors.
    pub refused: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// The median response that was complete in this second, in nanoseconds; 0 if none was timed, as in the warm-up.
    pub p50_ns: u64,
    /// The same at 99 %.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// The generator's lag at 99 %.
    pub lag_p99_ns: u64,
}

impl Row {
    fn new(second: u64, interval: &Interval) -> Self {
        let quantile =
            |metric, at| interval.times(metric).map_or(0, |times: &Times64| times.value_at_quantile(at));
        Self {
            second,
            sent: interval.counts.sent,
            answered: interval.counts.answered,
            refused: interval.counts.refused,
            disconnects: interval.counts.disconnects,
            p50_ns: quantile(Metric::Response, 0.5),
            p99_ns: quantile(Metric::Response, 0.99),
            max_ns: quantile(Metric::Response, 1.0),
            lag_p99_ns: quantile(Metric::Lag, 0.99),
        }
    }
}

/// Watches a run: keeps its rows, writes its log, says how it goes.
pub struct Chronicle<'a, W: Write> {
    /// The seconds so far.
    pub rows: Vec<Row>,
    /// The first thing that went wrong with the log.
    pub failure: Option<String>,
    log: Option<IntervalLogWriter<'a, 'a, W, V2DeflateSerializer>>,
    live: bool,
}

impl<W: Write> core::fmt::Debug for Chronicle<'_, W> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Chronicle").field("rows", &self.rows.len()).field("live", &self.live).finish()
    }
}

impl<'a, W: Write> Chronicle<'a, W> {
    /// Writes intervals to `log`, if there is one, and a line a second to the standard error, if it is `live`.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn new(
        log: Option<(&'a mut W, &'a mut V2DeflateSerializer)>,
        started: SystemTime,
        live: bool,
    ) -> Result<Self, String> {
        let begin = |(writer, serializer)| {
            IntervalLogWriterBuilder::new()
                .add_comment("clawgate loadgen; values in nanoseconds, times after the start of the run")
                .with_start_time(started)
                .with_base_time(started)
                .with_max_value_divisor(1e6)
                .begin_log_with(writer, serializer)
                .map_err(|error| format!("the interval log cannot be written: {error:?}"))
        };
        Ok(Self { rows: Vec::new(), failure: None, log: log.map(begin).transpose()?, live })
    }

    fn write_log(&mut self, second: u64, interval: &Interval) {
        let Some(log) = &mut self.log else { return };
        for metric in Metric::ALL {
            let (Some(times), Some(tag)) = (interval.times(metric), Tag::new(metric.name())) else {
                continue;
            };
            let written =
                log.write_histogram(times, Duration::from_secs(second), Duration::from_secs(1), Some(tag));
            if let Err(error) = written {
                self.failure.get_or_insert(format!("the interval log cannot be written: {error:?}"));
            }
        }
    }
}

impl<W: Write> Observer for Chronicle<'_, W> {
    fn on_second(&mut self, second: u64, interval: &Interval) {
        self.write_log(second, interval);
        let row = Row::new(second, interval);
        if self.live {
            let line = format!(
                "{:>5} s  sent {:>8}  answered {:>8}  p50 {}  p99 {}  max {}  lag p99 {}\n",
                second + 1,
                row.sent,
                row.answered,
                millis(row.p50_ns),
                millis(row.p99_ns),
                millis(row.max_ns),
                millis(row.lag_p99_ns)
            );
            // Nobody has to look.
            io::stderr().write_all(line.as_bytes()).ok();
        }
        self.rows.push(row);
    }
}

/// Nanoseconds as milliseconds, in a column.
fn millis(nanos: u64) -> String {
    format!("{:>9.3} ms", nanos as f64 / 1e6)
}

/// The distribution of one metric, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Values.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub stdev: f64,
    /// Quantiles.
    pub p50: u64,
    /// See `p50`.
    pub p75: u64,
    /// See `p50`.
    pub p90: u64,
    /// See `p50`.
    pub p95: u64,
    /// See `p50`.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// 99.99 %.
    pub p9999: u64,
    /// The longest.
    pub max: u64,
}

impl Distribution {
    /// Of a histogram.
    #[must_use]
    pub fn of(times: &Times64) -> Self {
        let at = |quantile| times.value_at_quantile(quantile);
        Self {
            count: times.len(),
            min: times.min(),
            mean: times.mean(),
            stdev: times.stdev(),
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: times.max(),
        }
    }
}

/// The rates of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Asked for, in messages a second.
    pub target: f64,
    /// Due in the measured window.
    pub due_in_window: u64,
    /// Of these, the share that was sent in it.
    pub sent_share: f64,
    /// Whole answers a second of the window.
    pub answers_per_second: f64,
    /// Little's law: the mean number of messages under way, from the rate and the mean response.
    pub mean_in_flight: f64,
}

/// What the gateway used in the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayCost {
    /// Processor time for each answer, in microseconds.
    pub cpu_us_per_message: f64,
    /// Processors in use on average: 0.5 is half of one core.
    pub cores: f64,
    /// Resident memory at the window's start, in KiB.
    pub resident_kib_before: u64,
    /// And at its end.
    pub resident_kib_after: u64,
    /// Its threads.
    pub threads: u64,
}

/// What the generator used in the measured window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GeneratorCost {
    /// Processor time for each answer, in nanoseconds, verification included.
    pub cpu_ns_per_message: f64,
    /// The share of a core that each thread used.
    pub thread_shares: Vec<f64>,
    /// What waited for its sockets.
    pub backend: &'static str,
}

/// How busy the machine was in the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The share of the time in which something waited for a processor (`/proc/pressure/cpu`).
    pub pressure_share: Option<f64>,
    /// The counter at the window's start and end, in microseconds.
    pub pressure_us: [Option<u64>; 2],
    /// The share of the machine's time that the hypervisor gave away.
    pub steal_share: f64,
}

/// The account of a run, or of a part of it, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// What was run.
    pub scenario: String,
    /// What became of its messages.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What was counted, as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
struct Traffic {
    sent: u64,
    answered: u64,
    pieces: u64,
    refused: u64,
    shed: u64,
    repeats: u64,
    malformed: u64,
    malformed_refused: u64,
    disconnects: u64,
    recalled: u64,
    slow_closes: u64,
    reads: u64,
    writes: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl From<&Counts> for Traffic {
    fn from(counts: &Counts) -> Self {
        Self {
            sent: counts.sent,
            answered: counts.answered,
            pieces: counts.pieces,
            refused: counts.refused,
            shed: counts.shed,
            repeats: counts.repeats,
            malformed: counts.malformed,
            malformed_refused: counts.malformed_refused,
            disconnects: counts.disconnects,
            recalled: counts.recalled,
            slow_closes: counts.slow_closes,
            reads: counts.reads,
            writes: counts.writes,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
        }
    }
}

/// Whether the run was steady, as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
struct SteadyTold {
    seconds: usize,
    cut_seconds: usize,
    from_second: u64,
    trend_share: f64,
    p: f64,
}

impl From<&Steady> for SteadyTold {
    fn from(steady: &Steady) -> Self {
        let Steady { seconds, cut, from_second, trend, p, .. } = *steady;
        Self { seconds, cut_seconds: cut, from_second, trend_share: trend, p }
    }
}

/// A storm, as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
struct StormTold {
    at_ns: u64,
    dropped: u64,
    back: u64,
    last_back_ns: u64,
}

impl From<&StormEnd> for StormTold {
    fn from(storm: &StormEnd) -> Self {
        let StormEnd { at_ns, dropped, back, last_back_ns } = *storm;
        Self { at_ns, dropped, back, last_back_ns }
    }
}

impl StormTold {
    /// As words; `what` is what it was, and `gone` what became of the connections.
    fn told(&self, what: &str, gone: &str) -> String {
        let (at, last) = (self.at_ns as f64 / 1e9, self.last_back_ns as f64 / 1e9);
        let Self { dropped, back, .. } = self;
        if back == dropped {
            return format!("{what} at {at:.1} s: {dropped} {gone}, all back after {last:.3} s");
        }
        format!("{what} at {at:.1} s: {dropped} {gone}, {back} of them back, the last after {last:.3} s")
    }
}

/// A restart, as it is written.
#[derive(Clone, Debug, Serialize)]
struct RestartTold {
    at_ns: u64,
    /// How its command ended, if not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// What the WebSocket clients saw of it.
    clients: StormTold,
}

impl RestartTold {
    fn of(outcome: &Outcome) -> Vec<Self> {
        let none = StormEnd::default();
        let clients = outcome.storms.iter().chain(std::iter::repeat(&none));
        let told = |(RestartEnd { at_ns, failure }, clients): (&RestartEnd, &StormEnd)| {
            let clients = StormTold::from(clients);
            Self { at_ns: *at_ns, failure: failure.clone(), clients }
        };
        outcome.restarts.iter().zip(clients).map(told).collect()
    }

    fn told(&self) -> String {
        let mut told = StormTold { at_ns: self.at_ns, ..self.clients }.told("restart", "WebSockets closed");
        if let Some(failure) = &self.failure {
            told.push_str(&format!("; its command failed: {failure}"));
        }
        told
    }
}

/// A brownout, as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
struct BrownoutTold {
    from_ns: u64,
    to_ns: u64,
    asked: u64,
    answered: u64,
    refused: u64,
    refused_after: u64,
    recovery_ns: Option<u64>,
}

impl From<&BrownoutEnd> for BrownoutTold {
    fn from(end: &BrownoutEnd) -> Self {
        let BrownoutEnd { during, asked, answered, refused, refused_after, .. } = end;
        Self {
            from_ns: during.start,
            to_ns: during.end,
            asked: *asked,
            answered: *answered,
            refused: *refused,
            refused_after: *refused_after,
            recovery_ns: end.recovery_ns(),
        }
    }
}

impl BrownoutTold {
    fn told(&self) -> String {
        let Self { asked, answered, refused, refused_after, .. } = self;
        let (from, to) = (self.from_ns as f64 / 1e9, self.to_ns as f64 / 1e9);
        let recovery = match self.recovery_ns {
            Some(nanos) => format!("recovered {:.3} s after its end", nanos as f64 / 1e9),
            None => "not recovered".to_owned(),
        };
        format!(
            "brownout {from:.1} s to {to:.1} s: provider asked {asked} times; messages answered {answered}, failed \
             {refused}, failed after it {refused_after}; {recovery}"
        )
    }
}

/// The settings that a comparison has to know.
#[derive(Clone, Debug, Serialize)]
struct Asked {
    scenario: String,
    rate: f64,
    arrivals: String,
    sessions: u32,
    hot_percent: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hazards: Vec<String>,
    connections: u32,
    threads: u32,
    duration_ns: u64,
    warmup_ns: u64,
    payload_bytes: usize,
    seed: u64,
    spread: String,
    spin: bool,
    run: String,
}

/// The whole result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// How it can be made again; keys and tokens are left out.
    command: Vec<String>,
    commit: Option<String>,
    started_unix_seconds: u64,
    machine: Fingerprint,
    asked: Asked,
    /// Whether the figures mean anything.
    pub verdict: Verdict,
    /// Nothing lost, doubled, reordered or corrupted.
    pub exact: bool,
    account: Account,
    parts: Vec<Account>,
    rates: Rates,
    steady: SteadyTold,
    times_ns: std::collections::BTreeMap<&'static str, Distribution>,
    traffic: Traffic,
    /// When all connections were dropped at once, and how long their clients took to be back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    storms: Vec<StormTold>,
    /// When the gateway was restarted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    restarts: Vec<RestartTold>,
    /// When the provider was not well, and what came of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    brownouts: Vec<BrownoutTold>,
    gateway: Option<GatewayCost>,
    generator: GeneratorCost,
    noise: Noise,
    /// The objectives that it was held against.
    pub slo: Vec<Held>,
    schedule_digest: String,
    seconds: Vec<Row>,
}

/// What a report needs besides the outcome.
#[derive(Debug)]
pub struct Circumstances<'a> {
    /// What was asked for.
    pub settings: &'a Settings,
    /// The command line, without secrets.
    pub command: Vec<String>,
    /// The gateway's commit, if somebody said.
    pub commit: Option<String>,
    /// The machine, read before the run.
    pub machine: Fingerprint,
    /// The seconds.
    pub rows: Vec<Row>,
}

/// Answers a second of the measured window.
#[must_use]
pub fn answers_per_second(settings: &Settings, outcome: &Outcome) -> f64 {
    outcome.sum.counts.answered_in_window as f64 * 1e9 / settings.duration_ns as f64
}

impl Report {
    /// Puts a report together.
    #[must_use]
    pub fn new(of: Circumstances<'_>, outcome: &Outcome, verdict: Verdict, slo: Vec<Held>) -> Self {
        let settings = of.settings;
        let tally = outcome.tally();
        let scenario = settings.scenario.to_string();
        let parts = settings.scenario.parts().iter().zip(&outcome.tallies);
        let [from, to] = outcome.busy;
        let times = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.name(), Distribution::of(outcome.sum.times(metric)?))));
        Self {
            schema: SCHEMA,
            command: of.command,
            commit: of.commit,
            started_unix_seconds: settings.started_unix_seconds,
            machine: of.machine,
            asked: asked(settings),
            verdict,
            exact: tally.is_exact(),
            parts: parts
                .map(|(part, tally)| Account { scenario: part.kind.name().to_owned(), tally: tally.clone() })
                .collect(),
            account: Account { scenario, tally },
            rates: rates(settings, outcome),
            steady: SteadyTold::from(&outcome.steady),
            times_ns: times.collect(),
            traffic: Traffic::from(&outcome.sum.counts),
            brownouts: outcome.brownouts.iter().map(BrownoutTold::from).collect(),
            storms: if settings.hazards.storm.is_some() {
                outcome.storms.iter().map(StormTold::from).collect()
            } else {
                Vec::new()
            },
            restarts: RestartTold::of(outcome),
            gateway: gateway_cost(outcome),
            generator: generator_cost(settings, outcome),
            noise: Noise {
                pressure_share: from.pressure_share(&to),
                pressure_us: [from.pressure_us, to.pressure_us],
                steal_share: from.steal_share(&to),
            },
            slo,
            schedule_digest: format!("{:016x}", outcome.digest),
            seconds: of.rows,
        }
    }

    /// As a JSON document.
    ///
    /// # Errors
    /// None that is known: every field can be written.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// As a table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let mut table = String::new();
        self.write_head(&mut table);
        self.write_times(&mut table);
        self.write_costs(&mut table);
        self.write_account(&mut table);
        table
    }

    fn write_head(&self, table: &mut String) {
        let Asked { scenario, rate, arrivals, sessions, connections, threads, .. } = &self.asked;
        line(
            table,
            &format!(
                "\n{scenario}: {rate} msg/s {arrivals}, {sessions} sessions, {connections} connections, \
                 {threads} threads, {} bytes, {} s after {} s warm-up, seed {}",
                self.asked.payload_bytes,
                self.asked.duration_ns as f64 / 1e9,
                self.asked.warmup_ns as f64 / 1e9,
                self.asked.seed,
            ),
        );
        line(
            table,
            &format!(
                "{} on {} cores, Linux {}, {}{}",
                self.machine.cpu,
                self.machine.cores,
                self.machine.kernel,
                self.generator.backend,
                if self.machine.optimised { "" } else { ", DEBUG BUILD" },
            ),
        );
    }

    fn write_times(&self, table: &mut String) {
        line(
            table,
            "\n  ms              p50        p90        p99      p99.9     p99.99        max       mean      count",
        );
        for metric in Metric::ALL {
            let Some(times) = self.times_ns.get(metric.name()) else { continue };
            let mut row = format!("  {:<9}", metric.name());
            for nanos in [times.p50, times.p90, times.p99, times.p999, times.p9999, times.max] {
                row.push_str(&format!(" {:>10.3}", nanos as f64 / 1e6));
            }
            row.push_str(&format!(" {:>10.3} {:>10}", times.mean / 1e6, times.count));
            line(table, &row);
        }
    }

    fn write_costs(&self, table: &mut String) {
        let Rates { target, answers_per_second, sent_share, mean_in_flight, .. } = self.rates;
        line(
            table,
            &format!(
                "\n  rate       {answers_per_second:.0} answers/s of {target:.0}, {:.2} % sent in time, \
                 {mean_in_flight:.1} in flight on average",
                sent_share * 100.0
            ),
        );
        if let Some(gateway) = self.gateway {
            line(
                table,
                &format!(
                    "  gateway    {:.2} us CPU a message, {:.1} % of a core, {} threads, {:.1} MB resident",
                    gateway.cpu_us_per_message,
                    gateway.cores * 100.0,
                    gateway.threads,
                    gateway.resident_kib_after as f64 / 1024.0
                ),
            );
        }
        let shares: Vec<String> =
            self.generator.thread_shares.iter().map(|share| format!("{:.0} %", share * 100.0)).collect();
        let Traffic { reads, writes, sent, .. } = self.traffic;
        line(
            table,
            &format!(
                "  generator  {:.2} us CPU a message, {} of a core; {:.2} messages a write, {:.2} a read",
                self.generator.cpu_ns_per_message / 1e3,
                shares.join(", "),
                sent as f64 / writes.max(1) as f64,
                sent as f64 / reads.max(1) as f64,
            ),
        );
        let pressure =
            self.noise.pressure_share.map_or("unknown".to_owned(), |share| format!("{:.0} %", share * 100.0));
        line(
            table,
            &format!("  machine    CPU pressure {pressure}, steal {:.1} %", self.noise.steal_share * 100.0),
        );
    }

    fn write_account(&self, table: &mut String) {
        let account = &self.account.tally;
        line(
            table,
            &format!(
                "\n  lost {} / doubled {} / reordered {} / corrupted {} of {}",
                account.lost, account.doubled, account.reordered, account.corrupted, account.opened
            ),
        );
        let Traffic { shed, repeats, recalled, disconnects, slow_closes, .. } = self.traffic;
        let beside = [
            ("refused", account.refused),
            ("of these failed by their model", account.failed),
            ("given up with slow clients", account.given_up),
            ("unfinished", account.unfinished),
            ("late", account.late),
            ("strays", account.strays),
            ("shed", shed),
            ("sent again", repeats),
            ("answers found in histories", recalled),
            ("disconnects", disconnects),
            ("slow clients closed", slow_closes),
        ];
        let beside: Vec<String> = beside
            .iter()
            .filter(|(_, count)| *count != 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if !beside.is_empty() {
            line(table, &format!("  {}", beside.join(", ")));
        }
        for (code, count) in &account.codes {
            line(table, &format!("  {code} {count}"));
        }
        if self.steady.cut_seconds != 0 {
            let cut = self.steady.cut_seconds;
            line(table, &format!("  the first {cut} s of the window were not steady yet and are not timed"));
        }
        for storm in &self.storms {
            line(table, &format!("  {}", storm.told("storm", "dropped")));
        }
        for restart in &self.restarts {
            line(table, &format!("  {}", restart.told()));
        }
        for brownout in &self.brownouts {
            line(table, &format!("  {}", brownout.told()));
        }
        for held in &self.slo {
            let word = if held.met { "met" } else { "BREACHED" };
            line(table, &format!("  {}: {word}, found {}", held.objective, held.found));
        }
        line(table, &format!("\n  {}", self.verdict.word.name()));
        for reason in &self.verdict.reasons {
            line(table, &format!("    {reason}"));
        }
    }

    /// What the process ends with: see `loadgen run --help`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let is_breached = self.slo.iter().any(|held| !held.met);
        match self.verdict.word {
            _ if !self.exact => EXIT_NOT_EXACT,
            // It was not restarted as often as it should have been: nothing is known of the restarts that were not.
            _ if self.restarts.iter().any(|restart| restart.failure.is_some()) => EXIT_INVALID,
            Word::GeneratorLimited | Word::Interrupted => EXIT_INVALID,
            // On a noisy machine, or while times drift, an objective can be neither met nor breached.
            Word::Noisy | Word::NotSteady if !self.slo.is_empty() => EXIT_INVALID,
            Word::Valid if is_breached => EXIT_BREACHED,
            Word::Noisy | Word::NotSteady | Word::Valid => 0,
        }
    }
}

/// The arguments cannot be read.
pub const EXIT_USAGE: u8 = 2;
/// An objective was not met.
pub const EXIT_BREACHED: u8 = 3;
/// A message was lost, doubled, reordered or corrupted.
pub const EXIT_NOT_EXACT: u8 = 4;
/// `compare`: something got worse.
pub const EXIT_REGRESSION: u8 = 5;
/// The run is worth nothing, or could not be made.
pub const EXIT_INVALID: u8 = 6;
/// The machine does not allow what the run needs: nothing was sent.
pub const EXIT_LACKING: u8 = 7;

fn line(table: &mut String, text: &str) {
    table.push_str(text);
    table.push('\n');
}

fn asked(settings: &Settings) -> Asked {
    Asked {
        scenario: settings.scenario.to_string(),
        rate: settings.rate,
        arrivals: settings.arrivals.to_string(),
        sessions: settings.sessions,
        hot_percent: settings.hot_percent,
        hazards: settings.hazards.names(),
        connections: settings.connections,
        threads: settings.threads,
        duration_ns: settings.duration_ns,
        warmup_ns: settings.warmup_ns,
        payload_bytes: settings.to.payload_bytes,
        seed: settings.seed,
        spread: format!("{:?}", settings.spread).to_lowercase(),
        spin: settings.spin,
        run: format!("{:08x}", settings.to.run),
    }
}

fn rates(settings: &Settings, outcome: &Outcome) -> Rates {
    let answers = answers_per_second(settings, outcome);
    let mean_ns = outcome.sum.times(Metric::Response).map_or(0.0, Times64::mean);
    Rates {
        target: settings.rate,
        due_in_window: outcome.due_in_window,
        sent_share: outcome.sum.counts.sent_in_window as f64 / outcome.due_in_window.max(1) as f64,
        answers_per_second: answers,
        mean_in_flight: answers * mean_ns / 1e9,
    }
}

fn gateway_cost(outcome: &Outcome) -> Option<GatewayCost> {
    let [from, to] = outcome.gateway?;
    let cpu_ns = to.cpu_ns.saturating_sub(from.cpu_ns) as f64;
    Some(GatewayCost {
        cpu_us_per_message: cpu_ns / 1e3 / outcome.sum.counts.answered_in_window.max(1) as f64,
        cores: cpu_ns / to.at_ns.saturating_sub(from.at_ns).max(1) as f64,
        resident_kib_before: from.resident_kib,
        resident_kib_after: to.resident_kib,
        threads: to.threads,
    })
}

fn generator_cost(settings: &Settings, outcome: &Outcome) -> GeneratorCost {
    let cpu_ns: u64 = outcome.lanes.iter().map(|lane| lane.window_cpu_ns).sum();
    let share = |cpu_ns: u64| cpu_ns as f64 / settings.duration_ns as f64;
    GeneratorCost {
        cpu_ns_per_message: cpu_ns as f64 / outcome.sum.counts.answered_in_window.max(1) as f64,
        thread_shares: outcome.lanes.iter().map(|lane| share(lane.window_cpu_ns)).collect(),
        backend: outcome.backend.name(),
    }
}

/// Where a run's results go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The JSON document.
    pub json: Option<PathBuf>,
    /// The interval log.
    pub hlog: Option<PathBuf>,
    /// A folder for all of it: `result.json`, `latency.hlog`, `summary.txt`.
    pub folder: Option<PathBuf>,
}

impl Places {
    /// Fills in what the folder implies, and makes it.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn prepare(&mut self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        fs::create_dir_all(folder)?;
        self.json.get_or_insert(folder.join("result.json"));
        self.hlog.get_or_insert(folder.join("latency.hlog"));
        Ok(())
    }

    /// Opens the interval log, if one is wanted.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open_hlog(&self) -> io::Result<Option<BufWriter<File>>> {
        self.hlog.as_ref().map(|path| File::create(path).map(BufWriter::new)).transpose()
    }

    /// Writes the report's files.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn write(&self, report: &Report) -> io::Result<()> {
        if let Some(path) = &self.json {
            write_file(path, &report.to_json()?)?;
        }
        if let Some(folder) = &self.folder {
            write_file(&folder.join("summary.txt"), report.to_table().as_bytes())?;
        }
        Ok(())
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::arrivals::Arrivals;
    use crate::hazards::Hazards;
    use crate::ledger::Expect;
    use crate::protocol::Addressing;
    use crate::run::{Flaws, Spread};
    use crate::scenario::Kind;
    use crate::slo::Slo;
    use crate::verdict::judge;
    use crate::verdict::tests::{WINDOW_NS, outcome};

    fn settings() -> Settings {
        Settings {
            scenario: Kind::WsStream.into(),
            target: ([127, 0, 0, 1], 1).into(),
            trust: None,
            to: Addressing {
                run: 1,
                payload_bytes: 64,
                session_prefix: String::new(),
                channel: "api".to_owned(),
                host: String::new(),
                key: "secret".to_owned(),
            },
            rate: 100.0,
            sessions: 1,
            hot_percent: 0,
            hazards: Hazards::default(),
            connections: 1,
            duration_ns: WINDOW_NS,
            warmup_ns: 0,
            arrivals: Arrivals::Constant,
            seed: 1,
            threads: 1,
            spread: Spread::Even,
            expect: Expect::Echo,
            drain_ns: 0,
            linger_ns: 0,
            inflight_max: 1,
            spin: false,
            telegram: None,
            signed: None,
            flaws: Flaws::default(),
            zipf: 0.0,
            started_unix_seconds: 0,
            gateway_pid: None,
        }
    }

    /// The report of a run whose messages took 2 ms, changed as the case wants it.
    fn report(slo: &str, change: impl FnOnce(&mut Outcome)) -> Report {
        let mut outcome = outcome(2_000_000, 0);
        outcome.tallies = vec![Tally { opened: 100, answered: 100, ..Tally::default() }];
        change(&mut outcome);
        let settings = settings();
        let slo: Slo = if slo.is_empty() { Slo::default() } else { slo.parse().unwrap() };
        let held = slo.hold(&outcome, answers_per_second(&settings, &outcome));
        let verdict = judge(&outcome, WINDOW_NS, false);
        let of = Circumstances {
            settings: &settings,
            command: vec!["loadgen".to_owned()],
            commit: None,
            machine: Fingerprint::default(),
            rows: vec![],
        };
        Report::new(of, &outcome, verdict, held)
    }

    fn noisy(outcome: &mut Outcome) {
        outcome.busy[1].pressure_us = Some(900_000);
    }

    #[test]
    fn the_exit_code_tells_the_gravest_thing_that_can_be_said() {
        assert_eq!(report("", |_| {}).exit_code(), 0);
        assert_eq!(report("p99<3ms,loss=0,rate>=99", |_| {}).exit_code(), 0);
        assert_eq!(report("p99<1ms", |_| {}).exit_code(), EXIT_BREACHED);
        assert_eq!(report("first_p99<1s", |_| {}).exit_code(), EXIT_BREACHED, "nothing was streamed");
        assert_eq!(report("", noisy).exit_code(), 0);
        assert_eq!(report("p99<1ms", noisy).exit_code(), EXIT_INVALID);
        assert_eq!(report("p99<3ms", noisy).exit_code(), EXIT_INVALID);
        assert_eq!(report("", |outcome| outcome.complete = false).exit_code(), EXIT_INVALID);
        let restarted = |failure: Option<&str>| {
            let end = RestartEnd { at_ns: 1, failure: failure.map(str::to_owned) };
            report("", |outcome| outcome.restarts = vec![end])
        };
        assert_eq!(restarted(None).exit_code(), 0);
        assert_eq!(restarted(Some("exit status: 3")).exit_code(), EXIT_INVALID);
        assert!(restarted(Some("exit status: 3")).to_table().contains("its command failed: exit status: 3"));
        let lossy = |outcome: &mut Outcome| {
            outcome.tallies[0].lost = 1;
            outcome.complete = false;
        };
        assert_eq!(report("", lossy).exit_code(), EXIT_NOT_EXACT);
    }

    #[test]
    fn the_table_and_the_document_say_the_same() {
        let report = report("p99<1ms", |outcome| {
            outcome.tallies[0].refused = 3;
            outcome.tallies[0].codes.insert("BUSY".to_owned(), 3);
        });
        let json: serde_json::Value = serde_json::from_slice(&report.to_json().unwrap()).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["verdict"]["word"], "VALID");
        assert_eq!(json["account"]["codes"]["BUSY"], 3);
        assert_eq!(json["times_ns"]["response"]["count"], 100);
        assert_eq!(json["slo"][0]["met"], false);
        assert!(!json.to_string().contains("secret"));
        let table = report.to_table();
        for words in [
            "lost 0 / doubled 0 / reordered 0 / corrupted 0 of 100",
            "refused 3",
            "BUSY 3",
            "BREACHED",
            "VALID",
        ] {
            assert!(table.contains(words), "{words} in {table}");
        }
    }
}
