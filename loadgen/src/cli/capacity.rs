//! `loadgen capacity`: its options, and the plan as it is told.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::capacity::{self, Node, Plan, Strain, Target, read};
use crate::host::Fingerprint;
use crate::report::{EXIT_BREACHED, EXIT_INVALID};

const HELP: &str = "From results of `loadgen run --gateway-pid … --out`, or better of `loadgen search --gateway-pid … --out`, \
which has several loads and the shards' parts of the messages. Several searches with different numbers of shards give a \
scaling law. Loads with different numbers of sessions give the memory of one.

Each shard is simulated as a queue of its own with the measured service times and the measured skew; the formula of \
Pollaczek and Khinchine stands beside it. What the model says of the loads that were measured is held against what was \
measured. Nothing is said beyond twice of what was measured.

Exit codes: 0 there is a plan, 2 bad arguments, 3 with --nodes if they do not bear it, 6 nothing can be said.";

/// Options of `loadgen capacity`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CapacityArgs {
    /// Results: a folder of `run --out` or `search --out`; may be given several times
    #[arg(long, required = true)]
    from: Vec<PathBuf>,
    /// What the machines have to do, as in "20000 msg/s, 100000 sessions, p99<45ms"
    #[arg(long)]
    target: Target,
    /// Cores of a node, one shard each; by default as many as shards were measured
    #[arg(long)]
    cores: Option<u32>,
    /// Memory of a node for the gateway, in MB; by default this machine's
    #[arg(long)]
    memory: Option<f64>,
    /// Descriptors of a node
    #[arg(long, default_value_t = 65_536)]
    descriptors: u32,
    /// Its network, in Mbit/s
    #[arg(long, default_value_t = 10_000.0)]
    bandwidth: f64,
    /// What of a node's largest rate is left free, in percent
    #[arg(long, default_value_t = 30.0)]
    headroom: f64,
    /// So many nodes, the spare one included; by default as many as are needed
    #[arg(long)]
    nodes: Option<u32>,
    /// The shards' parts of the messages, as in 0.3,0.25,0.25,0.2, if no search measured them
    #[arg(long, value_delimiter = ',')]
    shares: Option<Vec<f64>>,
    /// The seed of the simulation
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the plan as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Plans, prints, and tells what the process ends with.
pub(crate) fn main(args: &CapacityArgs) -> Result<u8, Failure> {
    check(args).map_err(Failure::usage)?;
    let shares = args.shares.as_ref().map(|shares| {
        let all: f64 = shares.iter().sum();
        shares.iter().map(|share| share / all).collect()
    });
    let measured = read::read(&args.from, shares).map_err(Failure::invalid)?;
    let memory_kib =
        args.memory.map_or_else(|| Fingerprint::read().memory_kib as f64, |megabytes| megabytes * 1024.0);
    let node = Node {
        cores: args.cores.unwrap_or(measured.shares.len() as u32),
        memory_kib,
        descriptors: f64::from(args.descriptors),
        bandwidth: args.bandwidth * 1e6,
        headroom: args.headroom / 100.0,
    };
    let plan = capacity::plan(&measured, args.target, node, args.nodes, args.seed)
        .map_err(|refusal| Failure { code: EXIT_INVALID, text: refusal.to_string() })?;
    print(&to_table(&plan));
    if let Some(path) = &args.json {
        let failed = |error: &dyn std::fmt::Display| Failure::invalid(format!("{}: {error}", path.display()));
        let json = serde_json::to_vec_pretty(&plan).map_err(|error| failed(&error))?;
        fs::write(path, json).map_err(|error| failed(&error))?;
    }
    // One node must be able to fail.
    let fails = plan.strains.iter().any(|strain| strain.times <= 1.0 && strain.breaks.is_some());
    Ok(if fails { EXIT_BREACHED } else { 0 })
}

fn check(args: &CapacityArgs) -> Result<(), &'static str> {
    let wrong = [
        (!(0.0..=95.0).contains(&args.headroom), "the headroom is 0 to 95 %"),
        (args.cores.is_some_and(|cores| cores == 0 || 4096 < cores), "a node has 1 to 4,096 cores"),
        (args.nodes.is_some_and(|nodes| nodes < 2), "there are at least two nodes, or none may fail"),
        (args.memory.is_some_and(|memory| !(0.0 < memory && memory < 1e12)), "a node has memory"),
        (!(0.0 < args.bandwidth && args.bandwidth < 1e12), "a node has a network"),
        (
            args.shares.as_ref().is_some_and(|shares| {
                shares.is_empty() || shares.iter().any(|share| !(0.0 < *share && *share < 1e6))
            }),
            "each shard has a part above 0",
        ),
    ];
    wrong.iter().find(|(is_wrong, _)| *is_wrong).map_or(Ok(()), |(_, what)| Err(*what))
}

fn to_table(plan: &Plan) -> String {
    let Target { rate, sessions, quantile, bound_ns } = plan.target;
    let percent = format!("p{}", (quantile * 1e6).round() / 1e4);
    let [each, each_failed] = plan.rate_each;
    let [room, room_failed] = plan.headroom;
    let shares: Vec<String> = plan.shares.iter().map(|share| format!("{:.1} %", share * 100.0)).collect();
    let mut lines = vec![
        format!("\nFor {rate} msg/s, {sessions} sessions, {percent} below {} ms:", bound_ns / 1e6),
        format!("  {} nodes of {} cores (one of them may fail)", plan.nodes, plan.node.cores),
        format!(
            "  each takes {each:.0} msg/s, {each_failed:.0} when one has failed, of {:.0} at most: {:.0} % and {:.0} % left",
            plan.largest,
            room * 100.0,
            room_failed * 100.0
        ),
        format!("  the most is bound by {}", plan.largest_bound),
        format!(
            "  a node needs {:.0} MB, {:.0} descriptors, {:.1} Mbit/s when one has failed",
            plan.memory_kib / 1024.0,
            plan.descriptors,
            plan.bandwidth / 1e6
        ),
        format!(
            "  then it bears {:.2} times the largest rate and {:.2} times the most sessions that were measured",
            plan.beyond[0], plan.beyond[1]
        ),
        format!(
            "\n  load      nodes      msg/s  busiest core  {percent:>6} ms  wait ms  by formula  breaks first"
        ),
    ];
    lines.extend(plan.strains.iter().map(|strain| strain_line(plan, strain)));
    lines.push(format!(
        "\n  a message takes {:.1} us of a core; cs2 {:.2}, from {}; shards {}",
        plan.service[0] / 1e3,
        plan.service[1],
        plan.service_from,
        shares.join(", ")
    ));
    for [rate, measured, simulated] in &plan.checks {
        lines.push(format!(
            "  check: at {rate:.0} msg/s {percent} was {:.3} ms, simulated {}",
            measured / 1e6,
            millis(Some(*simulated).filter(|found| found.is_finite()))
        ));
    }
    if let Some(law) = &plan.law {
        lines.push(format!(
            "  scaling: {:.0} msg/s a shard, contention {:.4}, crosstalk {:.5}",
            law.one, law.contention, law.crosstalk
        ));
        lines.extend(law.residuals.iter().map(|left| {
            format!(
                "    {} shards: measured {:.0}, by the law {:.0} ({:+.1} %)",
                left.shards,
                left.measured,
                left.fitted,
                left.share * 100.0
            )
        }));
    }
    lines.extend(plan.notes.iter().map(|note| format!("  note: {note}")));
    lines.join("\n") + "\n"
}

fn strain_line(plan: &Plan, strain: &Strain) -> String {
    let forecast = strain.forecast;
    let nodes = if strain.one_failed { plan.nodes - 1 } else { plan.nodes };
    let scarcest = strain.resources.first().map_or((0.0, ""), |scarcest| (scarcest.share, scarcest.name));
    format!(
        "  {:>3.1} x {:>10} {:>10.0} {:>11.0} % {:>10} {:>8} {:>11}  {}",
        strain.times,
        nodes,
        forecast.rate,
        forecast.busiest * 100.0,
        millis(forecast.quantile_ns),
        millis(forecast.wait_ns),
        millis(forecast.wait_by_formula_ns),
        strain.breaks.map_or_else(
            || format!("nothing ({:.0} % of {})", scarcest.0 * 100.0, scarcest.1),
            |what| format!("{what} ({:.0} %)", scarcest.0 * 100.0)
        ),
    )
}

/// Milliseconds, or that it grows without end.
fn millis(nanos: Option<f64>) -> String {
    nanos.map_or("grows".to_owned(), |nanos| format!("{:.3}", nanos / 1e6))
}
