//! `loadgen compare`: its options, and what becomes of them.

use std::fs;
use std::path::Path;

use clap::Args;

use super::run::{self, RunArgs};
use super::{Failure, complain, print};
use crate::compare::{self, Comparison, Metric, Rules, SCHEMA, stored, turns};
use crate::report::{EXIT_INVALID, EXIT_REGRESSION};

const HELP: &str = "Results that were stored: each side is a result.json, its folder, or a folder of such folders, one a run. A \
run is one observation: five runs a side are few, one decides nothing.

Two gateways in turn: with --exec each side is a command, which is started anew for each run, in the order base head head \
base, loaded as `loadgen run` would with the same options, and ended by SIGTERM. `{listen}` in a command stands for an \
address of its own:

  loadgen compare --exec 'old/clawgate --config c.json --listen {listen}' 'new/clawgate --config c.json --listen {listen}' \\
      ws-chat --rate 5000 --duration 2s --warmup 1s --key KEY

Verdicts: REGRESSION and improvement need a p (Holm) of at most --alarms and a shift beyond the floor, which is what runs \
of the same side differ by; `no change within x %` is an interval within --margin; else undecided, with a guess at how \
many pairs (or runs a side) more would decide.

Exit codes: 0 no regression, 2 bad arguments, 5 a regression, 6 results that cannot be compared, and with --strict also if \
something is undecided.";

/// Options of `loadgen compare`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CompareArgs {
    /// What there was: a result, a folder; with --exec a command
    base: String,
    /// What there is to be
    head: String,
    /// Both sides are commands that start a gateway
    #[arg(long)]
    exec: bool,
    /// Pairs of runs, with --exec; two a round
    #[arg(long, default_value_t = 20)]
    pairs: u32,
    /// What is compared: p50 p90 p99 p999 mean first_p50 first_p99 ack_p50 transit_p50 cpu memory rate
    #[arg(long, default_value = compare::USUAL, value_parser = parse_metrics)]
    metrics: Metrics,
    /// A change up to so many percent does not matter
    #[arg(long, default_value_t = 5.0)]
    margin: f64,
    /// The chance of any false alarm, over all metrics
    #[arg(long, default_value_t = 0.005)]
    alarms: f64,
    /// Compare whatever speaks against it: other machines, other loads, runs that are not valid
    #[arg(long)]
    force: bool,
    /// What is undecided is not good enough
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// A list, so that clap takes it for one value.
#[derive(Clone, Debug)]
struct Metrics(Vec<Metric>);

fn parse_metrics(list: &str) -> Result<Metrics, String> {
    compare::read_metrics(list).map(Metrics)
}

/// Compares, prints, and tells what the process ends with.
pub(crate) fn main(mut args: CompareArgs, is_given: &dyn Fn(&str) -> bool) -> Result<u8, Failure> {
    args.run.fill_in(is_given);
    if !(0.0 < args.margin && args.margin <= 100.0 && 0.0 < args.alarms && args.alarms <= 0.2) {
        return Err(Failure::usage(
            "the margin is above 0 and up to 100 %, the alarms above 0 and up to 0.2",
        ));
    }
    let (strict, json, out) = (args.strict, args.run.json.clone(), args.run.out.clone());
    let (comparison, interrupted) = if args.exec { in_turn(args)? } else { (of_stored(&args)?, false) };
    print(&comparison.to_table());
    let mut places: Vec<_> = json.into_iter().collect();
    if let Some(folder) = out {
        fs::create_dir_all(&folder).map_err(|error| Failure::invalid(error.to_string()))?;
        places.push(folder.join("comparison.json"));
    }
    for place in places {
        write(&place, &comparison)?;
    }
    Ok(if comparison.has_regression() {
        EXIT_REGRESSION
    } else if interrupted || comparison.is_empty() || (strict && comparison.is_undecided()) {
        EXIT_INVALID
    } else {
        0
    })
}

fn write(place: &Path, comparison: &Comparison) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::invalid(format!("{}: {error}", place.display()));
    let json = serde_json::to_vec_pretty(comparison).map_err(|error| failed(&error))?;
    fs::write(place, json).map_err(|error| failed(&error))
}

fn rules(args: &CompareArgs) -> Rules {
    Rules { alarms: args.alarms, margin: args.margin / 100.0, seed: args.run.seed, ..Rules::default() }
}

fn of_stored(args: &CompareArgs) -> Result<Comparison, Failure> {
    let read = |path: &str| stored::read(Path::new(path)).map_err(Failure::invalid);
    let (base, head) = (read(&args.base)?, read(&args.head)?);
    let mut notes = stored::objections(&base, &head);
    if !notes.is_empty() && !args.force {
        notes.push("these are not compared without --force".to_owned());
        return Err(Failure::invalid(notes.join("\n  ")));
    }
    let metrics = &args.metrics.0;
    let series = stored::series(&base, &head, metrics);
    note_gaps(&mut notes, &series, metrics, base.first().and_then(|one| one.number("/asked/rate")));
    notes.push(
        "what a machine does differently from one hour to the next is in the shift: --exec is not so"
            .to_owned(),
    );
    let inexact = [&base, &head].map(|side| side.iter().map(stored::Stored::inexact).sum());
    Ok(Comparison {
        schema: SCHEMA,
        sides: [
            format!("{} ({} runs)", args.base, base.len()),
            format!("{} ({} runs)", args.head, head.len()),
        ],
        kind: "stored",
        notes,
        inexact,
        findings: compare::judge(&series, &rules(args)),
    })
}

fn in_turn(args: CompareArgs) -> Result<(Comparison, bool), Failure> {
    let rules = rules(&args);
    let CompareArgs { base, head, pairs, metrics: Metrics(metrics), run, .. } = args;
    if pairs == 0 || 10_000 < pairs {
        return Err(Failure::usage("there are 1 to 10,000 pairs"));
    }
    let quiet = run.quiet;
    let settings = run::settings(run)?;
    run::check(&settings)?;
    let sides = [base, head];
    let mut told = |line: &str| {
        if !quiet {
            complain(line);
        }
    };
    let turns = turns::take(&sides, &settings, pairs.div_ceil(2), &mut told).map_err(Failure::invalid)?;
    let series = turns::series(&turns, &metrics);
    let mut notes = turns.left_out.clone();
    note_gaps(&mut notes, &series, &metrics, Some(settings.rate));
    if turns.interrupted {
        notes.push("it was broken off before its end".to_owned());
    }
    let comparison = Comparison {
        schema: SCHEMA,
        sides,
        kind: "in turn",
        notes,
        inexact: turns.inexact,
        findings: compare::judge(&series, &rules),
    };
    Ok((comparison, turns.interrupted))
}

fn note_gaps(notes: &mut Vec<String>, series: &[compare::Series], metrics: &[Metric], asked: Option<f64>) {
    let missing = stored::missing(series, metrics);
    if !missing.is_empty() {
        notes.push(format!("not in all results: {}", missing.join(", ")));
    }
    if asked.is_some_and(|asked| stored::is_bound_by_schedule(series, asked)) {
        notes.push(
            "the rate is what was asked for on both sides; the largest is `loadgen search`'s".to_owned(),
        );
    }
}
