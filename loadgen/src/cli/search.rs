//! `loadgen search`: its options, the trials, and what is told of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use clap::Args;
use hdrhistogram::serialization::V2DeflateSerializer;
use serde::Serialize;

use super::run::{self, RunArgs};
use super::{Failure, complain, print};
use crate::compare::turns::fresh;
use crate::gauges::Gauges;
use crate::host::Fingerprint;
use crate::measure::{Interval, Metric};
use crate::report::{
    Chronicle, Circumstances, EXIT_BREACHED, EXIT_INVALID, Places, Report, answers_per_second,
};
use crate::run::{Observer, Outcome, Settings, drive};
use crate::search::bound::{Lookout, Sight, Suspect};
use crate::search::{Answer, Fate, Plan, SCHEMA, Search};
use crate::slo::Slo;
use crate::sys;
use crate::verdict::{self, Verdict, Word};

const HELP: &str = "Each trial is a run of --duration after --warmup, as `loadgen run` makes it; --rate is not used. A trial is \
met if all objectives of --slo are, every message is accounted for, and the gateway answered at least 95 % of what was due in \
the window. A trial in which the generator was late says nothing about the gateway and ends the search from above.

The rate is doubled until a trial is missed, the bracket is halved to --precision, and both its ends are tried --replicates \
times. The interval is where the objectives begin to be missed, at 95 %.

What bound is a guess from figures: the gateway's threads (--gateway-pid), its /metrics (if it has them and the key may read \
them), the codes of its errors, the machine's pressure, the generator's lag.

--out writes search.json, and each trial into a folder of its own: `loadgen capacity --from` reads them.

Exit codes: 0 found, 2 bad arguments, 3 no rate meets the objectives, 6 broken off, or a trial could not be made.";

/// Options of `loadgen search`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct SearchArgs {
    /// The rate that is tried first
    #[arg(long, default_value_t = 1000.0)]
    from: f64,
    /// The largest rate that is tried
    #[arg(long, default_value_t = 1e6)]
    to: f64,
    /// How close the largest rate that is met and the smallest that is not have to come, in percent
    #[arg(long, default_value_t = 5.0)]
    precision: f64,
    /// How often each of the two is tried
    #[arg(long, default_value_t = 3)]
    replicates: u32,
    /// Trials after which it is enough
    #[arg(long, default_value_t = 40)]
    trials_max: u32,
    #[command(flatten)]
    run: RunArgs,
}

/// The share of what was due that must have been answered in the window, or a queue grew.
const KEPT_UP_SHARE: f64 = 0.95;

/// A trial as it is told.
#[derive(Clone, Debug, Serialize)]
struct Told {
    rate: f64,
    fate: Fate,
    verdict: Word,
    answers_per_second: f64,
    p50_ns: u64,
    p99_ns: u64,
    gateway_cores: Option<f64>,
    /// What was missed.
    missed: Vec<String>,
    /// Each shard's part of the messages.
    shard_shares: BTreeMap<String, f64>,
    /// What stood in the way, if it was missed.
    suspects: Vec<Suspect>,
}

/// The whole document.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    command: Vec<String>,
    machine: Fingerprint,
    scenario: String,
    slo: String,
    answer: Answer,
    /// What bound first: of the lowest rate that was missed.
    bound: Vec<Suspect>,
    /// Each shard's part of the messages, in the trial with the largest rate that told.
    shard_shares: BTreeMap<String, f64>,
    interrupted: bool,
    trials: Vec<Told>,
}

/// Searches, prints, and tells what the process ends with.
pub(crate) fn main(mut args: SearchArgs, is_given: &dyn Fn(&str) -> bool) -> Result<u8, Failure> {
    args.run.fill_in(is_given);
    args.run.check_target()?;
    let plan = Plan {
        from: args.from,
        to: args.to,
        precision: args.precision / 100.0,
        replicates: args.replicates,
        trials_max: args.trials_max,
    };
    plan.check().map_err(Failure::usage)?;
    let run = args.run;
    let slo = run.slo.clone().filter(|slo| !slo.is_empty());
    let slo =
        slo.ok_or_else(|| Failure::usage("--slo says what a rate has to meet, as in p99<45ms,loss=0"))?;
    let (json, out, quiet) = (run.json.clone(), run.out.clone(), run.quiet);
    let settings = run::settings(run)?;
    run::check(&settings)?;
    let mut search = Search::new(plan);
    let mut trials: Vec<Told> = Vec::new();
    while let Some(rate) = search.next() {
        let number = trials.len();
        let folder = out.as_ref().map(|out| out.join(format!("trial-{number:02}-{rate:.0}")));
        let settings = Settings { rate, ..fresh(&settings, number as u64) };
        let told = trial(&settings, &slo, folder.as_deref())?;
        if !quiet {
            complain(&told.line(number));
        }
        if told.verdict == Word::Interrupted || sys::interrupted() {
            break;
        }
        search.on_trial(rate, told.fate);
        trials.push(told);
    }
    let document = Document {
        schema: SCHEMA,
        command: run::without_secrets(std::env::args()),
        machine: Fingerprint::read(),
        scenario: settings.scenario.to_string(),
        slo: slo.to_string(),
        answer: search.answer(settings.seed),
        bound: bound(&trials),
        shard_shares: shard_shares(&trials),
        interrupted: sys::interrupted(),
        trials,
    };
    print(&document.to_table());
    let mut places: Vec<_> = json.into_iter().collect();
    places.extend(out.map(|out| out.join("search.json")));
    for place in places {
        write(&place, &document)?;
    }
    Ok(match document.answer.rate {
        _ if document.interrupted => EXIT_INVALID,
        Some(_) => 0,
        None => EXIT_BREACHED,
    })
}

fn write(place: &Path, document: &Document) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::invalid(format!("{}: {error}", place.display()));
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }
    let json = serde_json::to_vec_pretty(document).map_err(|error| failed(&error))?;
    fs::write(place, json).map_err(|error| failed(&error))
}

/// The suspects of the lowest rate that was missed.
fn bound(trials: &[Told]) -> Vec<Suspect> {
    let missed = trials.iter().filter(|told| told.fate != Fate::Met);
    let lowest = missed.min_by(|a, b| a.rate.total_cmp(&b.rate));
    lowest.map(|told| told.suspects.clone()).unwrap_or_default()
}

/// The shards' parts at the largest rate at which the gateway told them.
fn shard_shares(trials: &[Told]) -> BTreeMap<String, f64> {
    let told = trials.iter().filter(|told| !told.shard_shares.is_empty());
    let largest = told.max_by(|a, b| a.rate.total_cmp(&b.rate));
    largest.map(|told| told.shard_shares.clone()).unwrap_or_default()
}

/// Two who watch.
struct Both<'a>(&'a mut dyn Observer, &'a mut dyn Observer);

impl Observer for Both<'_> {
    fn on_second(&mut self, second: u64, interval: &Interval) {
        self.0.on_second(second, interval);
        self.1.on_second(second, interval);
    }
}

fn trial(settings: &Settings, slo: &Slo, folder: Option<&Path>) -> Result<Told, Failure> {
    let failed = |error: std::io::Error| Failure::invalid(format!("a result cannot be written: {error}"));
    let mut places = Places { folder: folder.map(Path::to_owned), ..Places::default() };
    places.prepare().map_err(failed)?;
    let mut log = places.open_hlog().map_err(failed)?;
    let mut serializer = V2DeflateSerializer::new();
    let ask = || Gauges::ask(settings.target, &settings.to.host, &settings.to.key).ok();
    let mut lookout = Lookout::new(settings.gateway_pid, &ask);
    let (outcome, rows) = {
        let log = log.as_mut().map(|log| (log, &mut serializer));
        let mut chronicle = Chronicle::new(log, SystemTime::now(), false).map_err(Failure::invalid)?;
        let both = &mut Both(&mut chronicle, &mut lookout);
        let outcome = drive(settings.clone(), both).map_err(Failure::invalid)?;
        (outcome, chronicle.rows)
    };
    if let Some(log) = &mut log {
        std::io::Write::flush(log).map_err(failed)?;
    }
    let mut sight = lookout.sight;
    sight.gauges.extend(if sight.gauges.is_empty() { None } else { ask() });
    let verdict = verdict::judge(&outcome, settings.duration_ns, settings.spin);
    let told = Told::of(settings, slo, &outcome, &verdict, sight);
    let of = Circumstances {
        settings,
        command: run::without_secrets(std::env::args()),
        commit: None,
        machine: Fingerprint::read(),
        rows,
    };
    let held = slo.hold(&outcome, answers_per_second(settings, &outcome));
    places.write(&Report::new(of, &outcome, verdict, held)).map_err(failed)?;
    Ok(told)
}

impl Told {
    fn of(settings: &Settings, slo: &Slo, outcome: &Outcome, verdict: &Verdict, mut sight: Sight) -> Self {
        let answers = answers_per_second(settings, outcome);
        let tally = outcome.tally();
        let held = slo.hold(outcome, answers);
        let mut missed: Vec<String> =
            held.iter().filter(|held| !held.met).map(|held| held.objective.clone()).collect();
        if !tally.is_exact() {
            missed.push("every message accounted for".to_owned());
        }
        let kept = outcome.sum.counts.answered_in_window as f64 / outcome.due_in_window.max(1) as f64;
        // What is refused is not answered, and is the objective's business.
        let refused = tally.refused as f64 / tally.opened.max(1) as f64;
        if kept + refused < KEPT_UP_SHARE {
            missed.push(format!("answered {:.0} % of what was due", kept * 100.0));
        }
        if outcome.steady.is_drifting && 0.0 < outcome.steady.trend {
            missed.push("times that do not rise to the end".to_owned());
        }
        let quantile =
            |at| outcome.sum.times(Metric::Response).map_or(0, |times| times.value_at_quantile(at));
        let limited = verdict.word == Word::GeneratorLimited;
        sight.generator = limited.then(|| verdict.reasons.join("; "));
        sight.memory_kib = outcome.gateway.map(|[_, to]| (to.resident_kib, Fingerprint::read().memory_kib));
        sight.codes.clone_from(&tally.codes);
        sight.opened = tally.opened;
        sight.median_ns = quantile(0.5) as f64;
        let [from, to] = &outcome.busy;
        sight.pressure_share = from.pressure_share(to);
        let fate = match verdict.word {
            Word::GeneratorLimited | Word::Interrupted => Fate::Limited,
            Word::Valid | Word::Noisy | Word::NotSteady if missed.is_empty() => Fate::Met,
            Word::Valid | Word::Noisy | Word::NotSteady => Fate::Missed,
        };
        let cores = |[from, to]: [crate::host::ProcessUse; 2]| {
            to.cpu_ns.saturating_sub(from.cpu_ns) as f64 / to.at_ns.saturating_sub(from.at_ns).max(1) as f64
        };
        Self {
            rate: settings.rate,
            fate,
            verdict: verdict.word,
            answers_per_second: answers,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            gateway_cores: outcome.gateway.map(cores),
            shard_shares: sight.shard_shares(),
            suspects: if fate == Fate::Met { Vec::new() } else { sight.suspects() },
            missed,
        }
    }

    fn line(&self, number: usize) -> String {
        let fate = match self.fate {
            Fate::Met => "met".to_owned(),
            Fate::Missed => format!("missed: {}", self.missed.join(", ")),
            Fate::Limited => "the generator was the limit".to_owned(),
        };
        format!(
            "trial {:>2}  {:>9.0} msg/s  {:>9.0} answers/s  p50 {:>9.3} ms  p99 {:>9.3} ms  {:<17} {fate}",
            number + 1,
            self.rate,
            self.answers_per_second,
            self.p50_ns as f64 / 1e6,
            self.p99_ns as f64 / 1e6,
            self.verdict.name(),
        )
    }
}

impl Document {
    fn to_table(&self) -> String {
        let Answer { rate, low, high, at_least, resolved } = self.answer;
        let mut table = format!("\n{}: {}\n", self.scenario, self.slo);
        match rate {
            None => table.push_str("  no rate that was tried meets it\n"),
            Some(rate) => table.push_str(&format!(
                "  {}{rate:.0} msg/s; it begins to be missed between {low:.0} and {} (95 %)\n",
                if at_least { "at least " } else { "" },
                high.map_or("nobody knows".to_owned(), |high| format!("{high:.0}")),
            )),
        }
        if !resolved {
            table.push_str("  not resolved: more trials (--trials-max) would narrow it\n");
        }
        match self.bound.split_first() {
            None if self.trials.iter().all(|told| told.fate == Fate::Met) => {
                table.push_str("  nothing bound up to --to\n");
            }
            None => table.push_str(
                "  what bound is not known: give --gateway-pid, and a key that may read /metrics\n",
            ),
            Some((first, others)) => {
                table.push_str(
                    &format!("  bound by the {:?}: {}\n", first.bound, first.evidence).to_lowercase(),
                );
                for other in others {
                    table.push_str(
                        &format!("    then {:?}: {}\n", other.bound, other.evidence).to_lowercase(),
                    );
                }
            }
        }
        let noisy = self.trials.iter().filter(|told| told.verdict == Word::Noisy).count();
        if noisy != 0 {
            table.push_str(&format!(
                "  {noisy} of {} trials were NOISY: a quiet machine may do more\n",
                self.trials.len()
            ));
        }
        table
    }
}
