//! Several endpoints and keys behind one model: which of them the next call goes to, and which is left alone for a while.
//!
//! Owns the choice and what it is made from; knows no address and no key. The figures of an outlet are the process's,
//! shared by all shards as single atomic words without a lock: each is a hint, and one that is a moment old costs a
//! slightly worse choice and nothing else. Time and randomness come in.
//!
//! **The choice** is that of two at random (Mitzenmacher 2001), the second one taken only if it is clearly better. The first
//! is drawn by weight, so that equals are called in proportion to their weights; "better" is the lower product of
//! latency and load. The latency is a moving average that follows a peak at once and forgets it slowly (the peak EWMA of
//! Twitter's Finagle), and is believed the less the older it is, so that a slow one is tried again; the load is what runs
//! there, by its share of the weights.
//!
//! **The cooldown** is of one outlet alone. Each failure in a row doubles it, up to the longest, with jitter; a wait that
//! the provider asks for is honoured up to the same. After it one call goes there, and the others once that has succeeded.
//! Where all are cooling, the one that is ready first is called all the same: whether the *model* is called is the
//! shards' decision, see [`crate::breaker`].
use crate::random::Random;
use crate::time::Time;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

/// Outlets of one model.
pub const OUTLETS_MAX: usize = 64;

/// In which time an average loses half of what is believed of it.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// Costs within this factor of each other are the same: weights decide.
const CLEARLY: u128 = 2;

/// What the process knows of one endpoint with its key.
#[derive(Debug, Default)]
pub struct Outlet {
    /// Calls that run there.
    running: AtomicU32,
    /// Failures in a row.
    failed: AtomicU32,
    /// It asked to be left alone until then.
    asked_until: AtomicU64,
    /// Others are preferred until then: after what it asked for or what failed there, and a little more.
    cool_until: AtomicU64,
    /// The average time to the first token, microseconds; 0 before the first.
    latency: AtomicU64,
    /// When that was last learned.
    learned: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
}

/// How a call to an outlet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Good,
    /// It failed: broken, unreachable, silent.
    Failed,
    /// It asked to be left alone for this long: a rate of its own.
    Calm(Duration),
    /// The key or the address is refused, or its account is empty: waiting hardly helps.
    Denied,
    /// It says nothing about the outlet: the caller left, or was at fault.
    Neutral,
}

/// How long an outlet is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooldown {
    /// After the first failure; doubled with each further one in a row.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

/// The outlets of one model, in the order of the configuration.
#[derive(Debug)]
pub struct Outlets {
    list: Vec<(Arc<Outlet>, u32)>,
    cooldown: Cooldown,
}

/// Those that a turn has called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// None yet?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This one too.
    pub fn add(&mut self, at: usize) {
        self.0 |= bit(at);
    }

    const fn has(self, at: usize) -> bool {
        self.0 & bit(at) != 0
    }
}

const fn bit(at: usize) -> u64 {
    1 << (at % OUTLETS_MAX)
}

/// An outlet as it stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Calls that run there.
    pub running: u32,
    /// Failures in a row.
    pub failed: u32,
    /// For how long it is still left alone.
    pub calm: Duration,
    /// The average time to the first token; zero before the first.
    pub latency: Duration,
    /// Calls so far.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
}

impl Outlets {
    /// The outlets of a model, at most [`OUTLETS_MAX`] and at least one, with their weights.
    #[must_use]
    pub const fn new(list: Vec<(Arc<Outlet>, u32)>, cooldown: Cooldown) -> Self {
        Self { list, cooldown }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Is there none? Then there is no model.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What is known of one, to be shared with the outlets of the next configuration.
    #[must_use]
    pub fn outlet(&self, at: usize) -> Option<&Arc<Outlet>> {
        self.list.get(at).map(|(outlet, _)| outlet)
    }

    /// The one to call next, among those that were not tried. After the first only such as are ready: one that is not is
    /// no help. `random` is a random number.
    #[must_use]
    pub fn choose(&self, now: Time, tried: Tried, random: u64) -> Option<usize> {
        let mut random = Random::new(random);
        let is_ready =
            |at: usize| !tried.has(at) && self.list.get(at).is_some_and(|(outlet, _)| outlet.is_ready(now));
        let Some(first) = self.draw(&mut random, &is_ready) else {
            let soonest = self.list.iter().enumerate().min_by_key(|(_, (outlet, _))| outlet.calm_until());
            return soonest.map(|(at, _)| at).filter(|_| tried.is_empty());
        };
        let second = self.draw(&mut random, &|at| at != first && is_ready(at));
        Some(second.filter(|&second| self.is_clearly_better(second, first, now)).unwrap_or(first))
    }

    /// One of those that fit, by weight.
    fn draw(&self, random: &mut Random, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
        let fitting = || self.list.iter().enumerate().filter(|(at, _)| fits(*at));
        let sum: u64 = fitting().map(|(_, (_, weight))| u64::from(*weight)).sum();
        let mut left = random.below(sum);
        for (at, (_, weight)) in fitting() {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return Some(at),
            }
        }
        None
    }

    /// Would this one answer so much sooner that weights do not matter?
    fn is_clearly_better(&self, one: usize, other: usize, now: Time) -> bool {
        let (Some((a, a_weight)), Some((b, b_weight))) = (self.list.get(one), self.list.get(other)) else {
            return false;
        };
        let (a_running, b_running) = (a.running.load(Relaxed), b.running.load(Relaxed));
        let (mut a_latency, mut b_latency) = (a.believed(now), b.believed(now));
        if a_latency == 0 || b_latency == 0 {
            // Of one that was never heard of one call finds out; until then the load alone counts.
            if a_latency == 0 && b_latency != 0 && a_running == 0 {
                return true;
            }
            if a_latency != 0 && b_running == 0 {
                return false;
            }
            (a_latency, b_latency) = (1, 1);
        }
        let cost = |latency: u64, running: u32, weight: u32, other: u32| {
            let sum = u128::from(weight) + u128::from(other);
            u128::from(latency) * (2 * u128::from(weight) + u128::from(running) * sum) * u128::from(other)
        };
        let a_cost = cost(a_latency, a_running, *a_weight, *b_weight);
        let b_cost = cost(b_latency, b_running, *b_weight, *a_weight);
        CLEARLY * a_cost < b_cost
    }

    /// A call goes there.
    pub fn begin(&self, at: usize) {
        if let Some((outlet, _)) = self.list.get(at) {
            outlet.running.fetch_add(1, Relaxed);
            outlet.calls.fetch_add(1, Relaxed);
        }
    }

    /// A call that went there is over. `waited` is the time to its first token, or to its end if there was none.
    pub fn end(&self, at: usize, now: Time, waited: Duration, verdict: Verdict, random: u64) {
        let Some((outlet, _)) = self.list.get(at) else { return };
        let before = outlet.running.fetch_sub(1, Relaxed);
        debug_assert!(0 < before, "a call ended that never began");
        let Cooldown { first, longest } = self.cooldown;
        let pause = match verdict {
            Verdict::Neutral => return outlet.learn_at_least(now, waited),
            Verdict::Good => {
                // One that began before the failures says nothing of what came after.
                if outlet.calm_until() <= now {
                    outlet.failed.store(0, Relaxed);
                }
                return outlet.learn(now, waited);
            }
            Verdict::Calm(wait) => wait.min(longest),
            Verdict::Denied => longest,
            Verdict::Failed => {
                let failed = outlet.failed.load(Relaxed).min(20);
                first.saturating_mul(1 << failed).min(longest)
            }
        };
        if !matches!(verdict, Verdict::Calm(_)) {
            outlet.failures.fetch_add(1, Relaxed);
            outlet.learn_at_least(now, waited);
            // Those that ran together fail together: that is one failure.
            if now < outlet.calm_until() {
                return;
            }
            outlet.failed.fetch_add(1, Relaxed);
        }
        if matches!(verdict, Verdict::Calm(_)) {
            outlet.asked_until.fetch_max((now + pause).0, Relaxed);
        }
        outlet.cool(now, pause, random);
    }

    /// An outlet said, without failing, that it has nothing left for this long.
    pub fn calm(&self, at: usize, now: Time, wait: Duration, random: u64) {
        if let Some((outlet, _)) = self.list.get(at) {
            let wait = wait.min(self.cooldown.longest);
            outlet.asked_until.fetch_max((now + wait).0, Relaxed);
            outlet.cool(now, wait, random);
        }
    }

    /// How long until one of them is ready; zero if one is.
    #[must_use]
    pub fn wait(&self, now: Time) -> Duration {
        self.list.iter().map(|(outlet, _)| outlet.calm_until().since(now)).min().unwrap_or_default()
    }

    /// How long until one of them did not ask to be left alone: zero if one did not. A model whose every key is at its rate
    /// need not be called to hear so.
    #[must_use]
    pub fn asked(&self, now: Time) -> Duration {
        let asked = |outlet: &Outlet| Time(outlet.asked_until.load(Relaxed)).since(now);
        self.list.iter().map(|(outlet, _)| asked(outlet)).min().unwrap_or_default()
    }

    /// An operator says that all is well.
    pub fn reset(&self) {
        for (outlet, _) in &self.list {
            outlet.failed.store(0, Relaxed);
            outlet.asked_until.store(0, Relaxed);
            outlet.cool_until.store(0, Relaxed);
            outlet.latency.store(0, Relaxed);
        }
    }

    /// How they stand.
    pub fn standings(&self, now: Time) -> impl Iterator<Item = Standing> {
        self.list.iter().map(move |(outlet, _)| Standing {
            running: outlet.running.load(Relaxed),
            failed: outlet.failed.load(Relaxed),
            calm: outlet.calm_until().since(now),
            latency: Duration::from_micros(outlet.latency.load(Relaxed)),
            calls: outlet.calls.load(Relaxed),
            failures: outlet.failures.load(Relaxed),
        })
    }
}

impl Outlet {
    fn calm_until(&self) -> Time {
        Time(self.cool_until.load(Relaxed))
    }

    /// Leaves it alone for this long, up to a tenth more, so that not all come back at once.
    fn cool(&self, now: Time, wait: Duration, random: u64) {
        let until = now + wait + Random::new(random).up_to(wait / 10);
        self.cool_until.fetch_max(until.0, Relaxed);
    }

    /// May it be called? After a failure by one call at a time, until one succeeds.
    fn is_ready(&self, now: Time) -> bool {
        self.calm_until() <= now && (self.failed.load(Relaxed) == 0 || self.running.load(Relaxed) == 0)
    }

    /// What is believed of its latency, microseconds: the average, the less the older it is.
    fn believed(&self, now: Time) -> u64 {
        let age = now.since(Time(self.learned.load(Relaxed)));
        let latency = self.latency.load(Relaxed);
        if latency == 0 { 0 } else { scaled(latency, HALF_LIFE, HALF_LIFE + age).max(1) }
    }

    /// Takes a time to the first token into the average: a longer one at once, a shorter one the more the longer ago the
    /// last was.
    fn learn(&self, now: Time, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency.load(Relaxed);
        let age = now.since(Time(self.learned.load(Relaxed)));
        let latency = if before <= took {
            took
        } else {
            // At least an eighth of the way, so that a burst of calls is heard too.
            let kept = scaled(before - took, HALF_LIFE, HALF_LIFE + age);
            took + kept.min((before - took) / 8 * 7)
        };
        self.latency.store(latency, Relaxed);
        self.learned.store(now.0, Relaxed);
    }

    /// It took at least this long, and would have taken longer.
    fn learn_at_least(&self, now: Time, waited: Duration) {
        let waited_micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        if self.latency.load(Relaxed) < waited_micros {
            self.learn(now, waited);
        }
    }
}

/// This part of a number.
fn scaled(number: u64, part: Duration, whole: Duration) -> u64 {
    let scaled = u128::from(number) * part.as_nanos() / whole.as_nanos().max(1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloc::vec;

    const COOLDOWN: Cooldown = Cooldown { first: Duration::from_secs(5), longest: Duration::from_secs(60) };
    const NONE: Tried = Tried(0);

    fn outlets(weights: &[u32]) -> Outlets {
        Outlets::new(weights.iter().map(|&weight| (Arc::default(), weight)).collect(), COOLDOWN)
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    /// One call after the other, each over in `millis` by its outlet; how often each was called.
    fn shares(outlets: &Outlets, calls: u64, millis: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; outlets.len()];
        let mut now = at(100);
        for call in 0..calls {
            let chosen = outlets.choose(now, NONE, call).unwrap();
            outlets.begin(chosen);
            let took = Duration::from_millis(millis[chosen]);
            now = now + took;
            outlets.end(chosen, now, took, Verdict::Good, call);
            counts[chosen] += 1;
        }
        counts
    }

    #[test]
    fn equals_are_called_by_their_weights() {
        let counts = shares(&outlets(&[1, 1, 1, 1]), 4_000, &[20; 4]);
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        let counts = shares(&outlets(&[6, 3, 1]), 4_000, &[20; 3]);
        assert!((2_250..2_550).contains(&counts[0]) && (330..470).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn a_slow_one_is_called_seldom_but_not_never() {
        let counts = shares(&outlets(&[1, 1]), 4_000, &[20, 400]);
        assert!((1..200).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn a_peak_is_believed_at_once_and_forgotten_slowly() {
        let outlets = outlets(&[1, 1]);
        shares(&outlets, 100, &[20, 20]);
        let now = at(1_000);
        outlets.begin(0);
        outlets.end(0, now, Duration::from_secs(3), Verdict::Good, 1);
        outlets.begin(1);
        outlets.end(1, now, Duration::from_millis(20), Verdict::Good, 1);
        assert!((0..100).all(|n| outlets.choose(now, NONE, n) == Some(1)));
        outlets.begin(0);
        outlets.end(0, now + Duration::from_secs(1), Duration::from_millis(20), Verdict::Good, 1);
        let latency = outlets.standings(now).next().unwrap().latency;
        assert!(Duration::from_secs(2) < latency && latency < Duration::from_secs(3), "{latency:?}");
    }

    #[test]
    fn the_least_busy_is_preferred() {
        let outlets = outlets(&[1, 1]);
        for _ in 0..3 {
            outlets.begin(0);
        }
        assert!((0..100).all(|n| outlets.choose(at(1), NONE, n) == Some(1)));
        // Many at once share by their weights.
        let outlets = self::outlets(&[3, 1]);
        for n in 0..400 {
            outlets.begin(outlets.choose(at(1), NONE, n).unwrap());
        }
        let running: Vec<u32> = outlets.standings(at(1)).map(|one| one.running).collect();
        assert!((270..330).contains(&running[0]), "{running:?}");
    }

    #[test]
    fn a_cooldown_is_of_one_alone_doubles_and_ends_with_one_trial() {
        let outlets = outlets(&[1, 1]);
        let mut now = at(10);
        for pause in [5_u64, 10, 20, 40, 60, 60] {
            outlets.begin(0);
            outlets.begin(0);
            outlets.end(0, now, Duration::ZERO, Verdict::Failed, 7);
            outlets.end(0, now, Duration::ZERO, Verdict::Failed, 7);
            let calm = outlets.standings(now).next().unwrap().calm;
            let least = Duration::from_secs(pause);
            assert!(least <= calm && calm <= least + least / 10, "{pause}: {calm:?}");
            assert!((0..50).all(|n| outlets.choose(now, NONE, n) == Some(1)));
            assert_eq!((outlets.wait(now), outlets.asked(now)), (Duration::ZERO, Duration::ZERO));
            now = now + calm;
        }
        // Both are ready; of the first one call finds out.
        let first = (0..50).find(|&n| outlets.choose(now, NONE, n) == Some(0));
        assert!(first.is_some());
        outlets.begin(0);
        assert!((0..50).all(|n| outlets.choose(now, NONE, n) == Some(1)));
        outlets.end(0, now, Duration::from_millis(1), Verdict::Good, 1);
        assert_eq!(outlets.standings(now).next().unwrap().failed, 0);
    }

    #[test]
    fn what_is_asked_for_is_honoured_up_to_the_longest() {
        let outlets = outlets(&[1, 1]);
        let now = at(10);
        outlets.begin(0);
        outlets.end(0, now, Duration::ZERO, Verdict::Calm(Duration::from_secs(9)), 1);
        outlets.calm(1, now, Duration::from_secs(86_400), 1);
        let standings: Vec<Standing> = outlets.standings(now).collect();
        assert!(Duration::from_secs(9) <= standings[0].calm && standings[0].calm < Duration::from_secs(10));
        assert!(standings[1].calm <= Duration::from_secs(66));
        assert_eq!((standings[0].failed, standings[0].failures), (0, 0), "to be busy is no failure");
        // All are cooling: the one that is ready first is called all the same, but not as a second try.
        assert_eq!(outlets.choose(now, NONE, 3), Some(0));
        let mut tried = NONE;
        tried.add(0);
        assert_eq!(outlets.choose(now, tried, 3), None);
        assert_eq!((outlets.wait(now), outlets.asked(now)), (standings[0].calm, Duration::from_secs(9)));
        outlets.reset();
        assert_eq!(outlets.wait(now), Duration::ZERO);
        assert_eq!(outlets.choose(now, tried, 3), Some(1));
    }

    /// Whatever happens: what is chosen exists and was not tried, one that cools is not chosen while another is ready, and
    /// what runs is what began and did not end.
    #[test]
    fn any_sequence_keeps_the_promises() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let count = 1 + usize::try_from(random.below(6)).unwrap();
            let weights: Vec<u32> = (0..count).map(|_| 1 + u32::try_from(random.below(9)).unwrap()).collect();
            let outlets = outlets(&weights);
            let (mut now, mut running) = (at(1), Vec::new());
            for _ in 0..300 {
                now = now + random.up_to(Duration::from_secs(2));
                if random.below(3) == 0 && !running.is_empty() {
                    let over = usize::try_from(random.below(running.len() as u64)).unwrap();
                    let at: usize = running.swap_remove(over);
                    let verdict = match random.below(5) {
                        0 => Verdict::Failed,
                        1 => Verdict::Calm(random.up_to(Duration::from_secs(100))),
                        2 => Verdict::Denied,
                        3 => Verdict::Neutral,
                        _ => Verdict::Good,
                    };
                    outlets.end(at, now, random.up_to(Duration::from_secs(9)), verdict, random.next());
                }
                let mut tried = NONE;
                while let Some(chosen) = outlets.choose(now, tried, random.next()) {
                    let ready = |at: usize| outlets.list[at].0.is_ready(now);
                    assert!(chosen < count && !tried.has(chosen), "seed {seed}");
                    let other = (0..count).any(|at| !tried.has(at) && ready(at));
                    assert!(ready(chosen) || (!other && tried.is_empty()), "seed {seed}");
                    tried.add(chosen);
                    if random.below(2) == 0 {
                        outlets.begin(chosen);
                        running.push(chosen);
                        break;
                    }
                }
                for (at, standing) in outlets.standings(now).enumerate() {
                    let began = running.iter().filter(|other| **other == at).count();
                    assert_eq!(standing.running as usize, began, "seed {seed}");
                    assert!(standing.calm <= Duration::from_secs(66), "seed {seed}: {standing:?}");
                }
            }
        }
    }
}
