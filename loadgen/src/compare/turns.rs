//! Two gateways run in turn on one machine, A B B A: each a process of its own that is started, loaded and ended, so that
//! what the machine does meanwhile hits both, and a steady drift hits neither. Owns the processes; judges nothing.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use super::stored::Stored;
use super::{Metric, Series};
use crate::host::Fingerprint;
use crate::report::{Circumstances, Report};
use crate::rng::mix;
use crate::run::{Settings, Unwatched, drive};
use crate::{sys, verdict};

/// What stands for the address in a command: each start gets a port of its own.
pub const LISTEN: &str = "{listen}";

/// How long a gateway may take to listen, and to end.
const START_LIMIT_NS: u64 = 20_000_000_000;
const END_LIMIT_NS: u64 = 20_000_000_000;
const LOOK: Duration = Duration::from_millis(10);

/// The order of a round: which side runs.
const ROUND: [usize; 4] = [0, 1, 1, 0];

/// What the rounds brought.
#[derive(Debug, Default)]
pub struct Turns {
    /// The results of each side, in the order of the rounds: two a round.
    pub sides: [Vec<Stored>; 2],
    /// Rounds that were left out, and why.
    pub left_out: Vec<String>,
    /// Messages of each side that were lost, doubled, reordered or corrupted, in rounds that were left out too.
    pub inexact: [u64; 2],
    /// The user broke it off.
    pub interrupted: bool,
}

/// Runs `rounds` rounds. `told` hears of each run.
///
/// # Errors
/// A gateway that does not start, or a run that cannot be made.
pub fn take(
    commands: &[String; 2],
    settings: &Settings,
    rounds: u32,
    told: &mut dyn FnMut(&str),
) -> Result<Turns, String> {
    let mut turns = Turns::default();
    for round in 0..rounds {
        let mut results = Vec::new();
        for (place, side) in ROUND.into_iter().enumerate() {
            let number = u64::from(round) * ROUND.len() as u64 + place as u64;
            let result = run_once(&commands[side], &fresh(settings, number))?;
            told(&format!(
                "round {} of {rounds}, {}: p50 {:.3} ms, {}",
                round + 1,
                ["base", "head"][side],
                result.number("/times_ns/response/p50").unwrap_or(f64::NAN) / 1e6,
                result.verdict()
            ));
            turns.inexact[side] += result.inexact();
            if sys::interrupted() {
                turns.interrupted = true;
                return Ok(turns);
            }
            results.push(result);
        }
        // The noise of the machine is in both and is measured; a generator that was late measured itself.
        let bad = results.iter().find(|one| !matches!(one.verdict(), "VALID" | "NOISY"));
        if let Some(bad) = bad {
            turns.left_out.push(format!("round {} is left out: {}", round + 1, bad.verdict()));
            continue;
        }
        for (side, result) in ROUND.into_iter().zip(results) {
            turns.sides[side].push(result);
        }
    }
    Ok(turns)
}

/// The same load for another process: with messages of its own.
#[must_use]
pub fn fresh(settings: &Settings, number: u64) -> Settings {
    let mut settings = settings.clone();
    let run = (mix(u64::from(settings.to.run) << 32 ^ number) >> 32) as u32;
    if settings.to.session_prefix == format!("lg-{:08x}-", settings.to.run) {
        settings.to.session_prefix = format!("lg-{run:08x}-");
    }
    settings.to.run = run;
    settings
}

fn run_once(command: &str, settings: &Settings) -> Result<Stored, String> {
    let (command, address) = placed(command, settings.target).map_err(|error| error.to_string())?;
    let gateway = Gateway::start(&command, address)?;
    let mut settings = settings.clone();
    if settings.target != address {
        settings.to.host = address.to_string();
    }
    settings.target = address;
    settings.gateway_pid = Some(gateway.process.id());
    let outcome = drive(settings.clone(), &mut Unwatched)?;
    gateway.end()?;
    let verdict = verdict::judge(&outcome, settings.duration_ns, settings.spin);
    let of = Circumstances {
        settings: &settings,
        command: Vec::new(),
        commit: None,
        machine: Fingerprint::read(),
        rows: Vec::new(),
    };
    let report = Report::new(of, &outcome, verdict, Vec::new());
    let json: Value = serde_json::to_value(&report).map_err(|error| error.to_string())?;
    Ok(Stored { path: command.into(), json })
}

/// The command with an address that is free, if it asks for one.
fn placed(command: &str, target: SocketAddr) -> io::Result<(String, SocketAddr)> {
    if !command.contains(LISTEN) {
        return Ok((command.to_owned(), target));
    }
    let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    Ok((command.replace(LISTEN, &address.to_string()), address))
}

/// A gateway's process; it does not outlive this.
#[derive(Debug)]
pub struct Gateway {
    process: Child,
}

impl Gateway {
    /// Starts it, and waits until something listens where it should.
    ///
    /// # Errors
    /// It ends before, or listens nowhere for too long.
    pub fn start(command: &str, address: SocketAddr) -> Result<Self, String> {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return Err(format!("something listens on {address} already"));
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {command}")]);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = shell.spawn().map_err(|error| format!("{command}: {error}"))?;
        let mut gateway = Self { process };
        let deadline_ns = sys::now_ns() + START_LIMIT_NS;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Ok(Some(status)) = gateway.process.try_wait() {
                return Err(format!("{command}: ended before it listened on {address}: {status}"));
            }
            if deadline_ns < sys::now_ns() || sys::interrupted() {
                return Err(format!("{command}: does not listen on {address}"));
            }
            pause(LOOK);
        }
        Ok(gateway)
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It does not end, or had ended by itself.
    pub fn end(mut self) -> Result<(), String> {
        if let Ok(Some(status)) = self.process.try_wait() {
            return Err(format!("the gateway ended while it was loaded: {status}"));
        }
        sys::terminate(self.process.id());
        let deadline_ns = sys::now_ns() + END_LIMIT_NS;
        while let Ok(None) = self.process.try_wait() {
            if deadline_ns < sys::now_ns() {
                return Err("the gateway does not end when it is asked to".to_owned());
            }
            pause(LOOK);
        }
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It has ended, as a rule; what cannot be killed cannot be helped.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Waits for nothing.
fn pause(duration: Duration) {
    let (nobody, nothing) = channel::<()>();
    nothing.recv_timeout(duration).ok();
    drop(nobody);
}

/// Both sides as pairs: a round has two, each of neighbours, and the two runs of each side are alike.
#[must_use]
pub fn series(turns: &Turns, metrics: &[Metric]) -> Vec<Series> {
    let values = |side: usize, metric: &Metric| -> Option<Vec<f64>> {
        turns.sides[side].iter().map(|one| one.number(metric.pointer)).collect()
    };
    let series = |metric: &Metric| {
        let (base, head) = (values(0, metric)?, values(1, metric)?);
        let alike = base.chunks_exact(2).chain(head.chunks_exact(2));
        let alike = alike.filter(|pair| pair.iter().all(|value| 0.0 < *value));
        let same = alike.map(|pair| (pair[1] / pair[0]).ln()).collect();
        Some(Series { metric: *metric, base, head, paired: true, same })
    };
    metrics.iter().filter_map(series).collect()
}
