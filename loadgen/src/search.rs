//! The largest rate that meets the objectives: which rate to try next, and what the trials say. A function of the trials
//! so far, without clock or socket; who makes them is the command line's.
//!
//! A bracket is found by doubling and narrowed by halving on a logarithmic scale; then its two ends are tried again. A
//! trial near the edge may go either way, so levels are judged by their shares of success, smoothed so that they never
//! rise with the rate, and the interval comes from drawing the trials anew.

pub mod bound;

use serde::Serialize;

use crate::rng::Rng;
use crate::stats;

/// The version of the document of a search.
pub const SCHEMA: &str = "clawgate.loadgen.search/1";

/// How the search goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The rate that is tried first, in messages a second.
    pub from: f64,
    /// No rate above is tried.
    pub to: f64,
    /// How close the ends of the bracket have to come: 0.05 for 5 %.
    pub precision: f64,
    /// How often each end of the bracket is tried.
    pub replicates: u32,
    /// Trials after which it is enough.
    pub trials_max: u32,
}

impl Plan {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let sound = 0.0 < self.from && self.from <= self.to && self.to <= 1e8;
        if !sound {
            return Err("the first rate is above 0, and not above the last, which is at most 1e8".to_owned());
        }
        if !(0.005..=1.0).contains(&self.precision) {
            return Err("the precision is 0.5 to 100 %".to_owned());
        }
        if self.replicates == 0 || self.trials_max < 3 || 10_000 < self.trials_max {
            return Err("there is at least one replicate, and 3 to 10,000 trials".to_owned());
        }
        Ok(())
    }
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// All objectives were met, every message was accounted for, and the gateway kept up.
    Met,
    /// Not so.
    Missed,
    /// The generator did not keep up: nothing is known about the gateway.
    Limited,
}

/// The trials so far, and what follows from them.
#[derive(Clone, Debug)]
pub struct Search {
    plan: Plan,
    trials: Vec<(f64, Fate)>,
}

/// All trials of one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    rate: f64,
    met: u32,
    limited: u32,
    count: u32,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The largest rate that was met; nothing if none was.
    pub rate: Option<f64>,
    /// The 95 % interval of where the objectives begin to be missed. Open above where nothing was missed.
    pub low: f64,
    /// See `low`.
    pub high: Option<f64>,
    /// The rate beyond was missed because of the generator, or not tried: the gateway may do more.
    pub at_least: bool,
    /// Both ends were tried as often as the plan wants.
    pub resolved: bool,
}

/// The lowest rate that is tried when the first is too much already.
const RATE_MIN: f64 = 0.5;

impl Search {
    /// A search without trials.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self { plan, trials: Vec::new() }
    }

    /// Takes note of a trial.
    pub fn on_trial(&mut self, rate: f64, fate: Fate) {
        self.trials.push((rate, fate));
    }

    /// The rate to try next; nothing when all is known that can be.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        if self.plan.trials_max as usize <= self.trials.len() {
            return None;
        }
        let levels = self.levels();
        let (good, bad) = edge(&levels);
        let enough = |level: &Level| self.plan.replicates <= level.count;
        match (good, bad) {
            (None, None) => Some(self.plan.from),
            (Some(good), None) if good.rate < self.plan.to => Some((good.rate * 2.0).min(self.plan.to)),
            (Some(good), None) => (!enough(good)).then_some(good.rate),
            (None, Some(bad)) if RATE_MIN < bad.rate => Some((bad.rate / 2.0).max(RATE_MIN)),
            (None, Some(bad)) => (!enough(bad)).then_some(bad.rate),
            (Some(good), Some(bad)) if 1.0 + self.plan.precision < bad.rate / good.rate => {
                Some((good.rate * bad.rate).sqrt())
            }
            (Some(good), Some(bad)) if good.count <= bad.count && !enough(good) => Some(good.rate),
            (Some(good), Some(bad)) => {
                [bad, good].into_iter().find(|level| !enough(level)).map(|level| level.rate)
            }
        }
    }

    /// What is known. `seed` is for the interval's draws.
    #[must_use]
    pub fn answer(&self, seed: u64) -> Answer {
        let levels = self.levels();
        let (good, bad) = edge(&levels);
        let enough = |level: Option<&Level>| level.is_none_or(|level| self.plan.replicates <= level.count);
        let resolved =
            (good.is_some() || bad.is_some()) && enough(good) && enough(bad) && self.next().is_none();
        let (low, high) = interval(&levels, seed);
        let rate = good.map(|level| level.rate);
        let low = low.min(rate.unwrap_or(0.0));
        let limited = bad.is_some_and(|level| level.count < level.limited * 2);
        Answer {
            rate,
            low: if rate.is_none() { 0.0 } else { low },
            high: bad.map(|bad| high.max(bad.rate)).filter(|_| !limited),
            at_least: rate.is_some() && (bad.is_none() || limited),
            resolved,
        }
    }

    fn levels(&self) -> Vec<Level> {
        let mut levels: Vec<Level> = Vec::new();
        for (rate, fate) in &self.trials {
            let found = levels.iter_mut().find(|level| (level.rate / rate - 1.0).abs() < 1e-9);
            let level = match found {
                Some(level) => level,
                None => {
                    levels.push(Level { rate: *rate, met: 0, limited: 0, count: 0 });
                    let last = levels.len() - 1;
                    &mut levels[last]
                }
            };
            level.count += 1;
            level.met += u32::from(*fate == Fate::Met);
            level.limited += u32::from(*fate == Fate::Limited);
        }
        levels.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        levels
    }
}

/// The highest level that is met and the lowest that is not, after smoothing.
fn edge(levels: &[Level]) -> (Option<&Level>, Option<&Level>) {
    let shares: Vec<(f64, f64)> = levels
        .iter()
        .map(|level| (f64::from(level.met) / f64::from(level.count), f64::from(level.count)))
        .collect();
    let smooth = stats::falling(&shares);
    let bad = smooth.iter().position(|share| *share <= 0.5).unwrap_or(levels.len());
    (bad.checked_sub(1).and_then(|good| levels.get(good)), levels.get(bad))
}

/// Where the share of success falls through a half, on a logarithmic scale: the middle 95 % of what other draws of the
/// same trials would have given. A level that was tried n times with the same result is not taken for certain: half a
/// success and half a failure are added.
fn interval(levels: &[Level], seed: u64) -> (f64, f64) {
    const DRAWS: u32 = 2000;
    let mut rng = Rng::new(seed);
    let mut crossings = Vec::with_capacity(DRAWS as usize);
    for _ in 0..DRAWS {
        let shares: Vec<(f64, f64)> = levels
            .iter()
            .map(|level| {
                let chance = (f64::from(level.met) + 0.5) / (f64::from(level.count) + 1.0);
                let met = (0..level.count).filter(|_| rng.unit() <= chance).count();
                (met as f64 / f64::from(level.count), f64::from(level.count))
            })
            .collect();
        crossings.push(crossing(levels, &stats::falling(&shares)));
    }
    crossings.sort_unstable_by(f64::total_cmp);
    (stats::quantile(&crossings, 0.025), stats::quantile(&crossings, 0.975))
}

fn crossing(levels: &[Level], shares: &[f64]) -> f64 {
    let Some(bad) = shares.iter().position(|share| *share <= 0.5) else {
        return levels.last().map_or(0.0, |level| level.rate);
    };
    let Some(good) = bad.checked_sub(1) else { return levels[bad].rate };
    let part = (shares[good] - 0.5) / (shares[good] - shares[bad]);
    levels[good].rate * (levels[bad].rate / levels[good].rate).powf(part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PLAN: Plan = Plan { from: 1000.0, to: 1e6, precision: 0.05, replicates: 3, trials_max: 60 };

    /// Searches on a made-up gateway that meets the objectives up to `capacity`; `blur` is how far from it a trial may go
    /// either way.
    fn search(plan: Plan, capacity: f64, blur: f64, seed: u64) -> (Search, Answer) {
        let mut rng = Rng::new(seed);
        let mut search = Search::new(plan);
        while let Some(rate) = search.next() {
            let chance = 1.0 / (1.0 + ((rate / capacity).ln() / blur).exp());
            search.on_trial(rate, if rng.unit() <= chance { Fate::Met } else { Fate::Missed });
        }
        let answer = search.answer(seed);
        (search, answer)
    }

    #[test]
    fn a_sharp_edge_is_found_to_the_precision() {
        for capacity in [3.0, 700.0, 1000.5, 12_345.0, 654_321.0] {
            let (search, answer) = search(PLAN, capacity, 1e-9, 1);
            let rate = answer.rate.unwrap();
            assert!(rate <= capacity && capacity <= rate * 1.0501, "{capacity} {answer:?}");
            assert!(answer.low <= capacity && capacity <= answer.high.unwrap(), "{capacity} {answer:?}");
            assert!(answer.resolved && !answer.at_least);
            assert!(search.trials.len() <= 24, "{}", search.trials.len());
        }
    }

    #[test]
    fn a_blurred_edge_is_within_its_interval_nine_times_of_ten() {
        let (mut within, mut near) = (0, 0);
        for seed in 0..300 {
            let capacity = 5000.0 * (1.0 + seed as f64 / 100.0);
            let (search, answer) = search(PLAN, capacity, 0.03, seed);
            within += u32::from(answer.low <= capacity && capacity <= answer.high.unwrap());
            near += u32::from((answer.rate.unwrap() / capacity - 1.0).abs() < 0.12);
            assert!(search.trials.len() <= 60);
        }
        assert!(270 <= within, "{within} of 300");
        assert!(285 <= near, "{near} of 300");
    }

    #[test]
    fn a_generator_that_is_the_limit_leaves_the_end_open() {
        let mut search = Search::new(PLAN);
        while let Some(rate) = search.next() {
            search.on_trial(rate, if rate < 40_000.0 { Fate::Met } else { Fate::Limited });
        }
        let answer = search.answer(1);
        assert!(answer.at_least && answer.high.is_none(), "{answer:?}");
        assert!((36_000.0..40_000.0).contains(&answer.rate.unwrap()));
    }

    #[test]
    fn what_always_or_never_holds_is_said_so() {
        let (_, always) = search(Plan { to: 8000.0, ..PLAN }, 1e9, 1e-9, 1);
        assert_eq!((always.rate, always.at_least, always.resolved), (Some(8000.0), true, true));
        let (found, never) = search(PLAN, 1e-9, 1e-9, 1);
        assert_eq!((never.rate, never.at_least), (None, false));
        assert!(found.trials.len() < 20, "{}", found.trials.len());
    }

    #[test]
    fn it_ends_when_it_was_told_to() {
        let (search, answer) = search(Plan { trials_max: 4, ..PLAN }, 50_000.0, 1e-9, 1);
        assert_eq!(search.trials.len(), 4);
        assert!(!answer.resolved);
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        assert_eq!(PLAN.check(), Ok(()));
        let bad = [
            Plan { from: 0.0, ..PLAN },
            Plan { to: 10.0, ..PLAN },
            Plan { precision: 0.0, ..PLAN },
            Plan { replicates: 0, ..PLAN },
        ];
        assert!(bad.iter().all(|plan| plan.check().is_err()));
    }
}
