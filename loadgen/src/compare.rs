//! Two sides, several runs each: did anything change? Judges and nothing else; where the figures come from is
//! [`stored`]'s (results on disk) and [`turns`]'s (two binaries run in turn).
//!
//! A run is one observation, whatever it counted: a thousand messages of one process share its luck. A change is called
//! one only if chance is ruled out after all metrics have been asked (Holm over Wilcoxon's or Mann and Whitney's p), and
//! if it is larger than what runs of the same side differ by among themselves. What is not ruled out is not thereby
//! shown to be nothing: that takes an interval that lies within the margin.

pub mod stored;
pub mod turns;

use std::fmt;

use serde::Serialize;

use crate::stats;

/// The JSON document of a comparison.
pub const SCHEMA: &str = "clawgate.loadgen.comparison/1";

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times and costs.
    Lower,
    /// Rates.
    Higher,
}

/// A figure of a run that can be compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its unit in tables.
    pub unit: &'static str,
    /// What the stored value is divided by for the table.
    pub divisor: f64,
    /// Where it is in a result.
    pub pointer: &'static str,
    /// Which way is good.
    pub better: Better,
}

const fn time(name: &'static str, pointer: &'static str) -> Metric {
    Metric { name, unit: "ms", divisor: 1e6, pointer, better: Better::Lower }
}

/// All that can be asked for.
pub const METRICS: [Metric; 12] = [
    time("p50", "/times_ns/response/p50"),
    time("p90", "/times_ns/response/p90"),
    time("p99", "/times_ns/response/p99"),
    time("p999", "/times_ns/response/p999"),
    time("mean", "/times_ns/response/mean"),
    time("first_p50", "/times_ns/first/p50"),
    time("first_p99", "/times_ns/first/p99"),
    time("ack_p50", "/times_ns/ack/p50"),
    time("transit_p50", "/times_ns/transit/p50"),
    Metric {
        name: "cpu",
        unit: "us",
        divisor: 1.0,
        pointer: "/gateway/cpu_us_per_message",
        better: Better::Lower,
    },
    Metric {
        name: "memory",
        unit: "MB",
        divisor: 1024.0,
        pointer: "/gateway/resident_kib_after",
        better: Better::Lower,
    },
    Metric {
        name: "rate",
        unit: "/s",
        divisor: 1.0,
        pointer: "/rates/answers_per_second",
        better: Better::Higher,
    },
];

/// What is compared if nothing is said. Every question more makes the others harder to answer.
pub const USUAL: &str = "p50,p99,cpu,rate";

/// Reads a list of names.
///
/// # Errors
/// The name that is none, and those there are.
pub fn read_metrics(list: &str) -> Result<Vec<Metric>, String> {
    let read = |name: &str| {
        METRICS.into_iter().find(|metric| metric.name == name.trim()).ok_or_else(|| {
            let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
            format!("there is no metric {name:?}; there are {}", names.join(", "))
        })
    };
    list.split(',').map(read).collect()
}

/// How a comparison is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How likely any false alarm may be, over all metrics: 0.005 for one comparison of two hundred.
    pub alarms: f64,
    /// The share up to which a change does not matter: 0.05 for 5 %.
    pub margin: f64,
    /// The share below which no change is called one, however certain.
    pub least: f64,
    /// For the draws that the floor is made of.
    pub seed: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { alarms: 0.005, margin: 0.05, least: 0.01, seed: 1 }
    }
}

/// One metric of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Which.
    pub metric: Metric,
    /// Its values, one a run.
    pub base: Vec<f64>,
    /// Paired with those of the base if `paired`.
    pub head: Vec<f64>,
    /// Runs were made in turn, so that neighbours share what the machine did.
    pub paired: bool,
    /// Logarithms of ratios between runs of the same side.
    pub same: Vec<f64>,
}

/// What is said of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "word")]
pub enum Word {
    /// It changed for the worse.
    Regression,
    /// It changed for the better.
    Improvement,
    /// It changed by less than `within`, a share.
    NoChange {
        /// The interval's farther end.
        within: f64,
    },
    /// Too few runs for their noise.
    Undecided {
        /// How many pairs, or runs a side, more would probably decide.
        more: u64,
    },
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regression => f.write_str("REGRESSION"),
            Self::Improvement => f.write_str("improvement"),
            Self::NoChange { within } => write!(f, "no change within {:.1} %", within * 100.0),
            Self::Undecided { more } => write!(f, "undecided (needs {more} more)"),
        }
    }
}

/// What was found of one metric. Shares: 0.05 is 5 % more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Its name.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Pairs, or the runs of the smaller side.
    pub count: usize,
    /// The median of the base, in its unit.
    pub base: f64,
    /// That of the head.
    pub head: f64,
    /// Hodges and Lehmann's shift.
    pub shift: f64,
    /// The ends of its 99 % interval; nothing where so few runs give none.
    pub interval: Option<[f64; 2]>,
    /// How likely chance alone does this, after Holm's correction.
    pub p: f64,
    /// What a shift must be larger than to count.
    pub floor: f64,
    /// The verdict.
    #[serde(flatten)]
    pub word: Word,
}

/// What an interval may miss.
const INTERVAL_MISSES: f64 = 0.01;

/// The most runs more that are told: beyond, the answer is that this machine cannot tell.
const MORE_MAX: f64 = 100_000.0;

/// Judges all metrics together.
#[must_use]
pub fn judge(series: &[Series], rules: &Rules) -> Vec<Finding> {
    let estimates: Vec<(Logs, stats::Estimate)> = series
        .iter()
        .map(|one| {
            let logs = Logs::of(one);
            let estimate = logs.estimate();
            (logs, estimate)
        })
        .collect();
    let ps: Vec<f64> = estimates.iter().map(|(_, estimate)| estimate.p).collect();
    let adjusted = stats::holm(&ps);
    let questions = series.len().max(1) as f64;
    let finding = |((one, (logs, estimate)), p): ((&Series, &(Logs, stats::Estimate)), f64)| {
        let floor = logs.floor(&one.same, rules);
        let verdict = Question { estimate, p, floor, count: logs.count(), questions };
        Finding {
            metric: one.metric.name,
            unit: one.metric.unit,
            count: logs.count(),
            base: stats::median(&one.base) / one.metric.divisor,
            head: stats::median(&one.head) / one.metric.divisor,
            shift: estimate.middle.exp_m1(),
            interval: estimate.low.is_finite().then(|| [estimate.low.exp_m1(), estimate.high.exp_m1()]),
            p,
            floor: floor.exp_m1(),
            word: verdict.answer(one.metric.better, rules),
        }
    };
    series.iter().zip(&estimates).zip(adjusted).map(finding).collect()
}

/// Both sides as logarithms: what a change multiplies becomes what it adds.
enum Logs {
    Paired(Vec<f64>),
    Apart(Vec<f64>, Vec<f64>),
}

impl Logs {
    fn of(series: &Series) -> Self {
        let logs = |values: &[f64]| values.iter().filter(|value| 0.0 < **value).map(|v| v.ln()).collect();
        if !series.paired {
            return Self::Apart(logs(&series.base), logs(&series.head));
        }
        let pairs = series.base.iter().zip(&series.head);
        let pairs = pairs.filter(|(base, head)| 0.0 < **base && 0.0 < **head);
        Self::Paired(pairs.map(|(base, head)| (head / base).ln()).collect())
    }

    fn estimate(&self) -> stats::Estimate {
        match self {
            Self::Paired(ratios) => stats::paired_shift(ratios, INTERVAL_MISSES),
            Self::Apart(base, head) => stats::unpaired_shift(base, head, INTERVAL_MISSES),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Paired(ratios) => ratios.len(),
            Self::Apart(base, head) => base.len().min(head.len()),
        }
    }

    /// What the noise of this session makes of nothing: the shift that it reaches once in a hundred, and the one that runs
    /// of the same side show, if that is larger: then the session drifted.
    fn floor(&self, same: &[f64], rules: &Rules) -> f64 {
        let pairs = match self {
            Self::Paired(ratios) => ratios.len(),
            // As precise as so many pairs would be.
            Self::Apart(base, head) => 2 * base.len() * head.len() / (base.len() + head.len()).max(1),
        };
        let noise = stats::noise_floor(same, pairs, 0.99, rules.seed);
        noise.max(stats::centre(same).abs()).max(rules.least.ln_1p())
    }
}

/// What is known of one metric, on the scale of logarithms.
struct Question<'a> {
    estimate: &'a stats::Estimate,
    p: f64,
    floor: f64,
    count: usize,
    questions: f64,
}

impl Question<'_> {
    fn answer(&self, better: Better, rules: &Rules) -> Word {
        let shift = self.estimate.middle;
        if self.p <= rules.alarms && self.floor < shift.abs() {
            let grew = 0.0 < shift;
            return if grew == (better == Better::Higher) { Word::Improvement } else { Word::Regression };
        }
        let within = self.estimate.low.abs().max(self.estimate.high.abs());
        if within <= rules.margin.ln_1p() {
            return Word::NoChange { within: within.exp_m1() };
        }
        Word::Undecided { more: self.more(rules) }
    }

    /// How many runs more would either show the shift that is seen, or bring the interval within the margin. Both shrink
    /// with the root of the number.
    fn more(&self, rules: &Rules) -> u64 {
        let count = self.count as f64;
        // With fewer than this even the rarest order of ranks is common.
        let least = (2.0 * self.questions / rules.alarms).log2().ceil();
        let half = (self.estimate.high - self.estimate.low) / 2.0;
        if !half.is_finite() || count < least {
            return (least - count).max(1.0) as u64;
        }
        let shift = self.estimate.middle.abs();
        let to_show = (half.max(self.floor) / shift).powi(2);
        let room = rules.margin.ln_1p() - shift;
        let to_rule_out = if 0.0 < room { (half / room).powi(2) } else { f64::INFINITY };
        let more = count * to_show.min(to_rule_out) - count;
        more.ceil().clamp(1.0, MORE_MAX) as u64
    }
}

/// Everything that a comparison says.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The document's version.
    pub schema: &'static str,
    /// What was compared with what.
    pub sides: [String; 2],
    /// `in turn` or `stored`.
    pub kind: &'static str,
    /// Things that the reader should know.
    pub notes: Vec<String>,
    /// Messages lost, doubled, reordered or corrupted, of each side.
    pub inexact: [u64; 2],
    /// The metrics.
    pub findings: Vec<Finding>,
}

impl Comparison {
    /// Something got worse.
    #[must_use]
    pub fn has_regression(&self) -> bool {
        self.is_less_exact() || self.findings.iter().any(|finding| finding.word == Word::Regression)
    }

    /// There was nothing to compare.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.findings.iter().all(|finding| finding.count == 0)
    }

    /// Something could not be told.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.is_empty() || self.findings.iter().any(|finding| matches!(finding.word, Word::Undecided { .. }))
    }

    /// The head breaks a promise that the base keeps. One message is enough: this is no matter of chance.
    #[must_use]
    pub const fn is_less_exact(&self) -> bool {
        self.inexact[0] == 0 && self.inexact[1] != 0
    }

    /// As a table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let [base, head] = &self.sides;
        let mut table = format!("base  {base}\nhead  {head}\n\n");
        table.push_str(
            "  metric               base         head     shift     99 % interval      floor     p (Holm)\n",
        );
        for finding in &self.findings {
            let interval = finding.interval.map_or("unknown".to_owned(), |[low, high]| {
                format!("{:+.1} .. {:+.1} %", low * 100.0, high * 100.0)
            });
            table.push_str(&format!(
                "  {:<12} {:>12} {:>12} {:>+7.1} % {:>17} {:>8.1} % {:>12}  {}\n",
                format!("{} {}", finding.metric, finding.unit),
                shown(finding.base),
                shown(finding.head),
                finding.shift * 100.0,
                interval,
                finding.floor * 100.0,
                if finding.p < 1e-4 { "< 0.0001".to_owned() } else { format!("{:.4}", finding.p) },
                finding.word,
            ));
        }
        table.push_str(&format!(
            "\n  lost, doubled, reordered or corrupted: base {}, head {}{}\n",
            self.inexact[0],
            self.inexact[1],
            if self.is_less_exact() { ": REGRESSION" } else { "" }
        ));
        for note in &self.notes {
            table.push_str(&format!("  note: {note}\n"));
        }
        table
    }
}

/// Four digits that mean something, or the whole number.
fn shown(value: f64) -> String {
    let decimals = if value.abs() < 1.0 { 4 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 3) };
    format!("{value:.0$}", decimals as usize)
}

#[cfg(test)]
mod tests;
