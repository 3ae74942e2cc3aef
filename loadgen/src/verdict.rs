//! Whether a run's figures mean anything: not if the generator was slow, the machine was busy with other things, the times
//! drifted all the while, or somebody broke it off.

use serde::Serialize;

use crate::host::Busy;
use crate::measure::{Metric, Times64};
use crate::run::Outcome;
use crate::steady::Steady;

/// What a run is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Word {
    /// Its figures can be used.
    #[serde(rename = "VALID")]
    Valid,
    /// The machine was too busy: exactness holds, times do not.
    #[serde(rename = "NOISY")]
    Noisy,
    /// The times rose or fell to the end: no figure stands for the run.
    #[serde(rename = "NOT-STEADY")]
    NotSteady,
    /// The generator did not keep to its schedule: its figures are about itself.
    #[serde(rename = "GENERATOR-LIMITED")]
    GeneratorLimited,
    /// It did not come to its end.
    #[serde(rename = "INTERRUPTED")]
    Interrupted,
}

impl Word {
    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Noisy => "NOISY",
            Self::NotSteady => "NOT-STEADY",
            Self::GeneratorLimited => "GENERATOR-LIMITED",
            Self::Interrupted => "INTERRUPTED",
        }
    }
}

/// The verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The gravest of what was found.
    pub word: Word,
    /// What was found, in words; empty if the run is valid.
    pub reasons: Vec<String>,
}

/// A lag at p99 up to this is never the generator's fault.
const LAG_ALWAYS_NS: f64 = 1e6;
/// Beyond it, the lag at p99 is held against the median response.
const LAG_SHARE_MAX: f64 = 0.5;
/// The share of due messages that must have been sent in the window.
const SENT_SHARE_MIN: f64 = 0.99;
/// The share of a core above which a lane may be the bottleneck, and the lag at p99 above which it then is: a lane that is
/// never idle takes more messages a turn, and keeps its time, for long after it has stopped to sleep.
const LANE_SHARE_MAX: f64 = 0.9;
const LANE_LAG_NS: f64 = 5e5;
/// The share of the window in which somebody waited for a processor.
const PRESSURE_SHARE_MAX: f64 = 0.25;
/// The share of the machine's time that the hypervisor gave away.
const STEAL_SHARE_MAX: f64 = 0.02;

/// Judges a run that measured for `window_ns`.
#[must_use]
pub fn judge(outcome: &Outcome, window_ns: u64, spin: bool) -> Verdict {
    let mut found = Vec::new();
    if !outcome.complete {
        found.push((Word::Interrupted, "it was broken off before its end".to_owned()));
    }
    judge_generator(outcome, window_ns, spin, &mut found);
    let [from, to] = &outcome.busy;
    judge_machine([from, to], &mut found);
    let Steady { trend, is_drifting, seconds, cut, .. } = outcome.steady;
    if is_drifting {
        let reason = format!("its median changed by {:+.0} % over {} s", trend * 100.0, seconds - cut);
        found.push((Word::NotSteady, reason));
    }
    let word = found.iter().map(|(word, _)| *word).max().unwrap_or(Word::Valid);
    Verdict { word, reasons: found.into_iter().map(|(_, reason)| reason).collect() }
}

/// What can be said while a run goes on, by the times so far, what was shed, and the machine from its beginning on.
#[must_use]
pub fn so_far(response: &Times64, lag: &Times64, shed: u64, busy: [&Busy; 2]) -> Verdict {
    let mut found = Vec::new();
    judge_lag(response.value_at_quantile(0.5) as f64, lag.value_at_quantile(0.99) as f64, &mut found);
    judge_shed(shed, &mut found);
    judge_machine(busy, &mut found);
    let word = found.iter().map(|(word, _)| *word).max().unwrap_or(Word::Valid);
    Verdict { word, reasons: found.into_iter().map(|(_, reason)| reason).collect() }
}

fn judge_lag(response: f64, lag: f64, found: &mut Vec<(Word, String)>) {
    let lag_max = LAG_ALWAYS_NS.max(response * LAG_SHARE_MAX);
    if lag_max < lag {
        let reason = format!("its lag at p99 is {:.2} ms, more than {:.2} ms", lag / 1e6, lag_max / 1e6);
        found.push((Word::GeneratorLimited, reason));
    }
}

fn judge_shed(shed: u64, found: &mut Vec<(Word, String)>) {
    if shed != 0 {
        let reason = format!("{shed} messages were not sent, because too many were unanswered");
        found.push((Word::GeneratorLimited, reason));
    }
}

fn judge_generator(outcome: &Outcome, window_ns: u64, spin: bool, found: &mut Vec<(Word, String)>) {
    let quantile = |metric, quantile| {
        outcome.sum.times(metric).map_or(0.0, |times| times.value_at_quantile(quantile) as f64)
    };
    let lag = quantile(Metric::Lag, 0.99);
    judge_lag(quantile(Metric::Response, 0.5), lag, found);
    let counts = &outcome.sum.counts;
    let sent = counts.sent_in_window as f64 / (outcome.due_in_window.max(1)) as f64;
    if outcome.complete && sent < SENT_SHARE_MIN {
        let reason = format!("it sent {:.1} % of what was due in the window", sent * 100.0);
        found.push((Word::GeneratorLimited, reason));
    }
    judge_shed(counts.shed, found);
    for (number, lane) in outcome.lanes.iter().enumerate() {
        let share = lane.window_cpu_ns as f64 / window_ns as f64;
        // A lane that spins uses a core whatever it does; its lag tells whether it kept up.
        if !spin && LANE_SHARE_MAX < share && LANE_LAG_NS < lag {
            let reason = format!(
                "thread {number} used {:.0} % of a core, and its lag at p99 is {:.2} ms",
                share * 100.0,
                lag / 1e6
            );
            found.push((Word::GeneratorLimited, reason));
        }
    }
}

fn judge_machine([from, to]: [&Busy; 2], found: &mut Vec<(Word, String)>) {
    if let Some(pressure) = from.pressure_share(to).filter(|share| PRESSURE_SHARE_MAX < *share) {
        let reason = format!("something waited for a processor {:.0} % of the time", pressure * 100.0);
        found.push((Word::Noisy, reason));
    }
    let steal = from.steal_share(to);
    if STEAL_SHARE_MAX < steal {
        let reason = format!("the hypervisor took {:.1} % of the machine's time", steal * 100.0);
        found.push((Word::Noisy, reason));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::driver::Backend;
    use crate::ledger::Times;
    use crate::measure::{Interval, Recorder};
    use crate::run::LaneUse;

    pub(crate) const WINDOW_NS: u64 = 1_000_000_000;

    /// A run of 100 messages that all took as long and were sent as late.
    pub(crate) fn outcome(response_ns: u64, lag_ns: u64) -> Outcome {
        let mut recorder = Recorder::new(0..WINDOW_NS);
        for due_ns in 0..100 {
            recorder.on_sent(due_ns, due_ns, due_ns + lag_ns);
            recorder.on_done(Times { due_ns, sent_ns: due_ns + lag_ns }, due_ns + response_ns);
        }
        let busy = |at_ns| Busy { at_ns, pressure_us: Some(0), ticks: at_ns / 10_000_000, stolen_ticks: 0 };
        Outcome {
            backend: Backend::IoUring,
            tallies: vec![],
            sum: recorder.take(Interval::default()),
            due_in_window: 100,
            digest: 0,
            lanes: vec![LaneUse { window_cpu_ns: WINDOW_NS / 2, cpu_ns: WINDOW_NS }],
            steady: Steady::default(),
            storms: vec![],
            restarts: vec![],
            brownouts: vec![],
            complete: true,
            busy: [busy(0), busy(WINDOW_NS)],
            gateway: None,
        }
    }

    fn word(outcome: &Outcome) -> Word {
        let verdict = judge(outcome, WINDOW_NS, false);
        assert_eq!(verdict.reasons.is_empty(), verdict.word == Word::Valid);
        verdict.word
    }

    #[test]
    fn a_run_that_kept_its_schedule_on_a_quiet_machine_is_valid() {
        assert_eq!(word(&outcome(2_000_000, 50_000)), Word::Valid);
    }

    #[test]
    fn a_late_generator_is_found_out_against_the_response_it_measured() {
        assert_eq!(word(&outcome(3_000_000, 2_000_000)), Word::GeneratorLimited);
        assert_eq!(word(&outcome(10_000_000, 2_000_000)), Word::Valid);
    }

    #[test]
    fn a_generator_that_sent_too_little_or_burnt_its_core_is_found_out() {
        let mut behind = outcome(2_000_000, 0);
        behind.due_in_window = 102;
        assert_eq!(word(&behind), Word::GeneratorLimited);
        let mut shedding = outcome(2_000_000, 0);
        shedding.sum.counts.shed = 1;
        assert_eq!(word(&shedding), Word::GeneratorLimited);
        let hot = |lag_ns| {
            let mut hot = outcome(2_000_000, lag_ns);
            hot.lanes.push(LaneUse { window_cpu_ns: WINDOW_NS * 95 / 100, cpu_ns: WINDOW_NS });
            hot
        };
        assert_eq!(word(&hot(100_000)), Word::Valid);
        let hot = hot(700_000);
        assert_eq!(word(&hot), Word::GeneratorLimited);
        assert_eq!(judge(&hot, WINDOW_NS, true).word, Word::Valid);
    }

    #[test]
    fn what_is_said_on_the_way_is_what_would_be_said_at_the_end() {
        for of in [outcome(2_000_000, 50_000), outcome(3_000_000, 2_000_000)] {
            let times = |metric| of.sum.times(metric).unwrap();
            let [from, to] = &of.busy;
            let said = so_far(times(Metric::Response), times(Metric::Lag), 0, [from, to]);
            assert_eq!(said, judge(&of, WINDOW_NS, false));
            let shed = so_far(times(Metric::Response), times(Metric::Lag), 3, [from, to]);
            assert_eq!(shed.word, Word::GeneratorLimited);
        }
    }

    #[test]
    fn a_busy_machine_makes_noise_and_the_gravest_word_wins() {
        let mut noisy = outcome(2_000_000, 0);
        noisy.busy[1].pressure_us = Some(400_000);
        assert_eq!(word(&noisy), Word::Noisy);
        noisy.busy[1].pressure_us = None;
        noisy.busy[1].stolen_ticks = 5;
        assert_eq!(word(&noisy), Word::Noisy);
        noisy.steady = Steady { seconds: 20, cut: 2, trend: 0.5, is_drifting: true, ..Steady::default() };
        assert_eq!(word(&noisy), Word::NotSteady);
        assert!(judge(&noisy, WINDOW_NS, false).reasons.join(" ").contains("+50 % over 18 s"));
        noisy.complete = false;
        assert_eq!(word(&noisy), Word::Interrupted);
    }
}
