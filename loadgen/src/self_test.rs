//! Known answers for the measuring itself: a server that stands still must show in the times, and the generator must know
//! how much it can do.
//!
//! The stall is what most tools get wrong: a client that waits for its answers sends nothing while the server stands
//! still, and so measures one slow message where a thousand were late.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::arrivals::Arrivals;
use crate::cli::Failure;
use crate::driver;
use crate::hazards::Hazards;
use crate::ledger::Expect;
use crate::measure::{Metric, TIME_MAX_NS};
use crate::mock::gateway::{self, Faults, GatewaySettings};
use crate::protocol::Addressing;
use crate::report::{EXIT_INVALID, EXIT_NOT_EXACT, answers_per_second};
use crate::run::{Flaws, Outcome, Settings, Spread, Unwatched, drive};
use crate::scenario::Kind;

const KEY: &str = "self-test";

/// An echoing gateway on a thread of its own, for as long as this is kept.
#[derive(Debug)]
pub struct EchoThread {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoThread {
    /// Starts it on a port that the system chooses.
    ///
    /// # Errors
    /// It cannot listen, or its thread gets no ring.
    pub fn start(settings: GatewaySettings) -> Result<Self, String> {
        let (address_in, address) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
            let ran = driver::run(|_| async move {
                let listening = gateway::serve(SocketAddr::from(([127, 0, 0, 1], 0)), settings);
                // Whoever started this thread waits for it.
                address_in.send(listening.map_err(|error| error.to_string())).ok();
                while !stopped.load(Ordering::Relaxed) {
                    driver::sleep(Duration::from_millis(5)).await;
                }
            });
            // Without a ring the sender of the address is gone, and that is what is waited for.
            drop(ran);
        });
        let thread = thread.map_err(|error| format!("the echo thread cannot be started: {error}"))?;
        let address = address.recv().map_err(|_| "the echo thread gets no ring".to_owned())??;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for EchoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, the run before has failed already.
            thread.join().ok();
        }
    }
}

/// Settings of a run against an echo thread.
fn settings(target: SocketAddr, rate: f64, duration_ns: u64) -> Settings {
    Settings {
        scenario: Kind::WsChat.into(),
        target,
        trust: None,
        to: Addressing {
            run: 0x5E1F,
            payload_bytes: 128,
            session_prefix: "lg-self-test-".to_owned(),
            channel: "api".to_owned(),
            host: target.to_string(),
            key: KEY.to_owned(),
        },
        rate,
        sessions: 1000,
        hot_percent: 0,
        hazards: Hazards::default(),
        connections: 16,
        duration_ns,
        warmup_ns: 0,
        arrivals: Arrivals::Constant,
        seed: 1,
        threads: 1,
        spread: Spread::Even,
        expect: Expect::Echo,
        drain_ns: 10_000_000_000,
        linger_ns: 20_000_000,
        inflight_max: 4_000_000,
        spin: false,
        telegram: None,
        signed: None,
        flaws: Flaws::default(),
        zipf: 0.0,
        started_unix_seconds: 0,
        gateway_pid: None,
    }
}

fn echo(faults: Faults) -> GatewaySettings {
    GatewaySettings {
        key: KEY.to_owned(),
        chunk_bytes: 0,
        remembers: false,
        faults,
        telegram: None,
        signed: None,
    }
}

/// What a run over a server that stands still once has measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// How long it stood still, in nanoseconds.
    pub stall_ns: u64,
    /// The longest response.
    pub max_ns: u64,
    /// Responses of at least [`SLOW_NS`].
    pub slow: u64,
    /// How many there must be at the least: those that were due while the stall had that long to go.
    pub slow_expected: u64,
    /// Whether the account is exact.
    pub exact: bool,
}

/// What counts as slow: far beyond what an echo takes, and well within the stall.
pub const SLOW_NS: u64 = 50_000_000;

impl Stall {
    /// Whether the stall is in the times as it must be.
    #[must_use]
    pub const fn is_seen(&self) -> bool {
        // Two in a hundred, for the messages that are due just when it ends.
        self.exact && self.stall_ns <= self.max_ns && self.slow_expected * 98 <= self.slow * 100
    }
}

/// Has a server stand still for `stall` in the middle of a run of `rate` messages a second.
///
/// # Errors
/// The run could not be made.
pub fn stall(rate: f64, stall: Duration) -> Result<Stall, String> {
    let at = (rate * 0.3) as u64;
    let server = EchoThread::start(echo(Faults { stall: Some((at, stall)), ..Faults::default() }))?;
    let outcome = drive(settings(server.address, rate, 1_000_000_000), &mut Unwatched)?;
    let stall_ns = stall.as_nanos() as u64;
    let times = outcome.sum.times(Metric::Response);
    Ok(Stall {
        stall_ns,
        max_ns: times.map_or(0, hdrhistogram::Histogram::max),
        slow: times.map_or(0, |times| times.count_between(SLOW_NS, TIME_MAX_NS)),
        slow_expected: (rate * (stall_ns.saturating_sub(SLOW_NS)) as f64 / 1e9) as u64,
        exact: outcome.tally().is_exact(),
    })
}

/// The rates that the search for the ceiling tries, in messages a second.
const RATES: [f64; 8] = [25e3, 50e3, 100e3, 150e3, 200e3, 300e3, 500e3, 800e3];

/// Runs all tests and prints what they found. Tells what the process ends with.
///
/// # Errors
/// A test that could not be made.
pub fn main(quick: bool, print: &mut dyn FnMut(&str)) -> Result<u8, Failure> {
    let rate = 5_000.0;
    let found = stall(rate, Duration::from_millis(200)).map_err(Failure::invalid)?;
    print(&format!(
        "stall: a server that stood still for {} ms at {rate} msg/s: longest response {:.1} ms, {} messages of at \
         least {} ms (at least {} were due), account {}",
        found.stall_ns / 1_000_000,
        found.max_ns as f64 / 1e6,
        found.slow,
        SLOW_NS / 1_000_000,
        found.slow_expected,
        if found.exact { "exact" } else { "NOT EXACT" },
    ));
    if !found.is_seen() {
        print("stall: FAILED: the times do not show it");
        return Ok(if found.exact { EXIT_INVALID } else { EXIT_NOT_EXACT });
    }
    if quick {
        return Ok(0);
    }
    ceiling(print)
}

/// A run over an echo in this process: its median response, and the generator's processor time a message.
///
/// # Errors
/// The run could not be made, or was not exact.
pub(crate) fn echo_run(rate: f64, duration_ns: u64) -> Result<(f64, f64), String> {
    let server = EchoThread::start(echo(Faults::default()))?;
    let settings = Settings { warmup_ns: 100_000_000, ..settings(server.address, rate, duration_ns) };
    let outcome = drive(settings.clone(), &mut Unwatched)?;
    if !outcome.tally().is_exact() {
        return Err(format!("an echo in this process was not exact: {:?}", outcome.tally()));
    }
    let step = Step::of(&settings, &outcome);
    Ok((step.response_ns as f64, step.cpu_ns))
}

/// Raises the rate until the generator cannot keep it.
fn ceiling(print: &mut dyn FnMut(&str)) -> Result<u8, Failure> {
    print("ceiling: one generator thread, one echo thread, answers verified");
    print(
        "     target   answers/s  sent in time   lag p99 ms  response p50 ms  CPU ns/msg  of a core  msg/write",
    );
    let mut best = 0.0_f64;
    let mut cheapest = f64::INFINITY;
    for rate in RATES {
        let server = EchoThread::start(echo(Faults::default())).map_err(Failure::invalid)?;
        let settings = Settings { warmup_ns: 200_000_000, ..settings(server.address, rate, 1_000_000_000) };
        let outcome = drive(settings.clone(), &mut Unwatched).map_err(Failure::invalid)?;
        if !outcome.tally().is_exact() {
            print(&format!("ceiling: FAILED: {:?}", outcome.tally()));
            return Ok(EXIT_NOT_EXACT);
        }
        let step = Step::of(&settings, &outcome);
        print(&step.line(rate));
        if 0.99 <= step.sent_share {
            best = best.max(step.answers);
        }
        if step.sent_share < 0.9 {
            break;
        }
        cheapest = cheapest.min(step.cpu_ns);
    }
    print(&format!(
        "ceiling: {best:.0} messages a second from one thread beside the echo, all verified; {:.0} by its processor \
         time of {cheapest:.0} ns a message",
        1e9 / cheapest
    ));
    Ok(0)
}

/// One step of the search.
struct Step {
    answers: f64,
    sent_share: f64,
    lag_ns: u64,
    response_ns: u64,
    cpu_ns: f64,
    core_share: f64,
    per_write: f64,
}

impl Step {
    fn of(settings: &Settings, outcome: &Outcome) -> Self {
        let counts = &outcome.sum.counts;
        let at =
            |metric, quantile| outcome.sum.times(metric).map_or(0, |times| times.value_at_quantile(quantile));
        let cpu_ns: u64 = outcome.lanes.iter().map(|lane| lane.window_cpu_ns).sum();
        Self {
            answers: answers_per_second(settings, outcome),
            sent_share: counts.sent_in_window as f64 / outcome.due_in_window.max(1) as f64,
            lag_ns: at(Metric::Lag, 0.99),
            response_ns: at(Metric::Response, 0.5),
            cpu_ns: cpu_ns as f64 / counts.answered_in_window.max(1) as f64,
            core_share: cpu_ns as f64 / settings.duration_ns as f64,
            per_write: counts.sent as f64 / counts.writes.max(1) as f64,
        }
    }

    fn line(&self, rate: f64) -> String {
        format!(
            "  {rate:>9.0} {:>11.0} {:>11.1} % {:>12.3} {:>16.3} {:>11.0} {:>8.0} % {:>10.1}",
            self.answers,
            self.sent_share * 100.0,
            self.lag_ns as f64 / 1e6,
            self.response_ns as f64 / 1e6,
            self.cpu_ns,
            self.core_share * 100.0,
            self.per_write,
        )
    }
}
