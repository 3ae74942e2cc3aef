//! The comparer's own known answers: how often it cries wolf, and how often it sees one.
use super::*;
use crate::rng::{Rng, mix};
use crate::stats::draw_normal;

/// What disturbs a made-up machine.
#[derive(Clone, Copy)]
struct Disturbance {
    /// The spread of one run, as a share.
    noise: f64,
    /// How much of its slowness the next run inherits.
    drift: f64,
    /// How many runs of a hundred take half as long again.
    outliers: u64,
}

const CALM: Disturbance = Disturbance { noise: 0.03, drift: 0.0, outliers: 0 };
const DRIFTING: Disturbance = Disturbance { noise: 0.03, drift: 0.7, outliers: 0 };
const SHAKEN: Disturbance = Disturbance { noise: 0.03, drift: 0.3, outliers: 5 };

/// A session of runs A B B A as `turns` makes them; the head takes `effect` times as long.
fn session(seed: u64, pairs: usize, of: Disturbance, effects: &[f64]) -> Vec<Series> {
    let mut all = Vec::new();
    for (number, effect) in effects.iter().enumerate() {
        let mut rng = Rng::new(mix(seed) ^ number as u64);
        let mut slowness = 0.0;
        let mut run = |effect: f64| {
            slowness = of.drift * slowness + draw_normal(&mut rng) * of.noise;
            let outlier = if rng.below(100) < of.outliers { 1.5 } else { 1.0 };
            1000.0 * f64::exp(slowness) * effect * outlier
        };
        let (mut base, mut head, mut same) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..pairs / 2 {
            let [a, b, c, d] = [1.0, *effect, *effect, 1.0].map(&mut run);
            base.extend([a, d]);
            head.extend([b, c]);
            same.extend([(d / a).ln(), (c / b).ln()]);
        }
        all.push(Series { metric: METRICS[number], base, head, paired: true, same });
    }
    all
}

fn share(trials: u64, mut holds: impl FnMut(u64) -> bool) -> f64 {
    (0..trials).filter(|seed| holds(*seed)).count() as f64 / trials as f64
}

fn alarms(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| matches!(finding.word, Word::Regression | Word::Improvement))
}

#[test]
fn fewer_than_one_comparison_of_a_hundred_cries_wolf() {
    let rules = Rules::default();
    for (name, of) in [("calm", CALM), ("drifting", DRIFTING), ("shaken", SHAKEN)] {
        let found = share(1000, |seed| alarms(&judge(&session(seed, 20, of, &[1.0; 4]), &rules)));
        assert!(found < 0.01, "{name}: {found}");
    }
}

#[test]
fn results_made_apart_cry_wolf_as_rarely() {
    let rules = Rules::default();
    let apart = |seed| {
        let mut series = session(seed, 12, CALM, &[1.0; 4]);
        for one in &mut series {
            one.paired = false;
            one.same = stored::neighbours(&one.base);
            one.same.extend(stored::neighbours(&one.head));
        }
        series
    };
    let found = share(1000, |seed| alarms(&judge(&apart(seed), &rules)));
    assert!(found < 0.01, "{found}");
}

#[test]
fn a_twentieth_more_is_seen_four_times_of_five_and_called_by_its_name() {
    let rules = Rules::default();
    // Where one run of twenty is far out, it takes more of them.
    for (name, of, pairs) in [("calm", CALM, 24), ("drifting", DRIFTING, 24), ("shaken", SHAKEN, 40)] {
        let seen = share(300, |seed| {
            let findings = judge(&session(seed, pairs, of, &[1.05, 1.0, 1.0, 1.0]), &rules);
            findings[0].word == Word::Regression
        });
        assert!(0.8 < seen, "{name}: {seen}");
        let seen = share(300, |seed| {
            let findings = judge(&session(seed, pairs, of, &[1.0 / 1.05, 1.0, 1.0, 1.0]), &rules);
            findings[0].word == Word::Improvement
        });
        assert!(0.8 < seen, "{name}: {seen}");
    }
}

#[test]
fn a_shift_is_estimated_without_bias_and_its_interval_holds_it() {
    let rules = Rules::default();
    let mut sum = 0.0;
    let held = share(300, |seed| {
        let finding = judge(&session(seed, 24, CALM, &[1.1]), &rules).remove(0);
        sum += finding.shift;
        finding.interval.is_some_and(|[low, high]| low <= 0.1 && 0.1 <= high)
    });
    assert!((sum / 300.0 - 0.1).abs() < 0.002, "{}", sum / 300.0);
    assert!(0.97 < held, "{held}");
}

#[test]
fn what_is_the_same_is_said_to_be_so_where_the_noise_lets_it() {
    let quiet = Disturbance { noise: 0.01, ..CALM };
    let finding = judge(&session(1, 24, quiet, &[1.0]), &Rules::default()).remove(0);
    assert!(matches!(finding.word, Word::NoChange { within } if within < 0.03), "{:?}", finding.word);
    let loud = Disturbance { noise: 0.2, ..CALM };
    let finding = judge(&session(1, 24, loud, &[1.0]), &Rules::default()).remove(0);
    assert!(matches!(finding.word, Word::Undecided { more } if 1 < more), "{:?}", finding.word);
}

#[test]
fn so_many_runs_more_as_were_asked_for_do_decide() {
    let of = Disturbance { noise: 0.06, ..CALM };
    let decided = share(100, |seed| {
        let finding = judge(&session(seed, 10, of, &[1.0]), &Rules::default()).remove(0);
        let Word::Undecided { more } = finding.word else { return true };
        let again = judge(&session(seed ^ 0xAAAA, 10 + more as usize * 2, of, &[1.0]), &Rules::default());
        !matches!(again[0].word, Word::Undecided { .. })
    });
    assert!(0.6 < decided, "twice as many as asked for decide mostly: {decided}");
}

#[test]
fn one_run_a_side_decides_nothing() {
    let series = Series { metric: METRICS[0], base: vec![1.0], head: vec![2.0], paired: false, same: vec![] };
    let finding = judge(&[series], &Rules::default()).remove(0);
    assert_eq!(finding.interval, None);
    assert!(matches!(finding.word, Word::Undecided { .. }));
}

#[test]
fn more_is_better_for_a_rate() {
    let rules = Rules::default();
    let mut series = session(3, 24, CALM, &[1.2]);
    series[0].metric = METRICS[11];
    assert_eq!(judge(&series, &rules)[0].word, Word::Improvement);
    series[0].metric = METRICS[0];
    assert_eq!(judge(&series, &rules)[0].word, Word::Regression);
}

#[test]
fn metrics_are_known_by_name() {
    assert_eq!(read_metrics(USUAL).map(|metrics| metrics.len()), Ok(4));
    assert!(read_metrics("p50,speed").is_err_and(|error| error.contains("first_p99")));
}
