//! The circuit breaker of one model on one shard: closed, open, half open.
//!
//! Counts calls, failures and slow calls over a rolling window. Each shard learns for itself, so that nothing is shared;
//! a broken model is found by each within its own [`BreakerPlan::calls_min`] calls.
use crate::plan::BreakerPlan;
use crate::random::Random;
use crate::time::Time;
use core::time::Duration;

/// What a breaker lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything.
    #[default]
    Closed,
    /// Nothing.
    Open,
    /// A few probes.
    HalfOpen,
}

/// Parts of the rolling window.
const BUCKETS: usize = 10;

/// How a call ended, as the breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered; `slow` if its first piece took longer than the plan's `slow_after`.
    Good { slow: bool },
    /// The model failed, or ran out of time.
    Failed,
    /// It says nothing about the model: cancelled, or the caller's own fault.
    Neutral,
}

/// Given to each call that passes, and handed back with its verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// In which period of the breaker the call began; verdicts of earlier ones are not heard.
    period: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    calls: u32,
    failed: u32,
    slow: u32,
}

/// One model's breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Counts the changes of state.
    period: u32,
    buckets: [Bucket; BUCKETS],
    /// Which part of time the newest bucket stands for, and when that is over.
    newest: u64,
    newest_until: u64,
    /// When it is half open, while it is open.
    until: Time,
    /// How often it opened without closing.
    opened: u32,
    probes_running: u16,
    probes_good: u16,
}

impl Breaker {
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Closed,
            period: 0,
            buckets: [Bucket { calls: 0, failed: 0, slow: 0 }; BUCKETS],
            newest: 0,
            newest_until: 0,
            until: Time::ZERO,
            opened: 0,
            probes_running: 0,
            probes_good: 0,
        }
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// Would a call pass?
    pub(crate) fn lets(&self, now: Time, plan: &BreakerPlan) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => self.until <= now,
            State::HalfOpen => self.probes_running + self.probes_good < plan.probes.max(1),
        }
    }

    /// When it is half open by itself, while it is open.
    pub(crate) const fn half_open_at(&self) -> Option<Time> {
        match self.state {
            State::Open => Some(self.until),
            State::Closed | State::HalfOpen => None,
        }
    }

    /// How long until a call might pass; zero if one would.
    pub(crate) fn wait(&self, now: Time) -> Duration {
        match self.state {
            State::Closed | State::HalfOpen => Duration::ZERO,
            State::Open => self.until.since(now),
        }
    }

    /// A call begins, which [`Self::lets`] pass. True if the state changed.
    pub(crate) fn begin(&mut self, now: Time) -> (Pass, bool) {
        let changed = self.state == State::Open && self.until <= now;
        if changed {
            self.enter(State::HalfOpen);
        }
        if self.state == State::HalfOpen {
            self.probes_running += 1;
        }
        (Pass { period: self.period }, changed)
    }

    /// A call ended. True if the state changed.
    pub(crate) fn end(
        &mut self,
        now: Time,
        plan: &BreakerPlan,
        pass: Pass,
        verdict: Verdict,
        random: &mut Random,
    ) -> bool {
        if pass.period != self.period {
            return false;
        }
        match self.state {
            State::Open => false,
            State::Closed => {
                self.count(now, plan, verdict);
                let bad = verdict == Verdict::Failed || verdict == Verdict::Good { slow: true };
                let broken = bad && self.is_broken(plan);
                if broken {
                    self.open(now, plan, random);
                }
                broken
            }
            State::HalfOpen => self.probed(now, plan, verdict, random),
        }
    }

    /// Closes it, whatever was before. True if the state changed.
    pub(crate) fn reset(&mut self) -> bool {
        let changed = self.state != State::Closed;
        self.enter(State::Closed);
        (self.opened, self.until) = (0, Time::ZERO);
        self.buckets = [Bucket::default(); BUCKETS];
        changed
    }

    fn probed(&mut self, now: Time, plan: &BreakerPlan, verdict: Verdict, random: &mut Random) -> bool {
        self.probes_running = self.probes_running.saturating_sub(1);
        match verdict {
            Verdict::Neutral => false,
            Verdict::Good { slow } if !slow || plan.slow_percent == 0 => {
                self.probes_good += 1;
                let healed = plan.probes.max(1) <= self.probes_good;
                if healed {
                    self.enter(State::Closed);
                    self.opened = 0;
                    self.buckets = [Bucket::default(); BUCKETS];
                }
                healed
            }
            Verdict::Good { .. } | Verdict::Failed => {
                self.open(now, plan, random);
                true
            }
        }
    }

    fn open(&mut self, now: Time, plan: &BreakerPlan, random: &mut Random) {
        let doubled = plan.open_min.saturating_mul(1 << self.opened.min(20));
        let base = doubled.min(plan.open_max.max(plan.open_min));
        // Up to a tenth more, so that the shards do not all probe at the same moment.
        self.until = now + base + random.up_to(base / 10);
        self.opened = self.opened.saturating_add(1);
        self.enter(State::Open);
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.period = self.period.wrapping_add(1);
        (self.probes_running, self.probes_good) = (0, 0);
    }

    fn count(&mut self, now: Time, plan: &BreakerPlan, verdict: Verdict) {
        self.roll(now, plan.window);
        let bucket = &mut self.buckets[usize::try_from(self.newest % BUCKETS as u64).unwrap_or(0)];
        match verdict {
            Verdict::Neutral => {}
            Verdict::Good { slow } => {
                bucket.calls += 1;
                bucket.slow += u32::from(slow);
            }
            Verdict::Failed => {
                bucket.calls += 1;
                bucket.failed += 1;
            }
        }
    }

    /// Empties the buckets whose time is over.
    fn roll(&mut self, now: Time, window: Duration) {
        if now.0 < self.newest_until {
            return;
        }
        let width = u64::try_from(window.as_nanos() / BUCKETS as u128).unwrap_or(u64::MAX).max(1);
        let newest = (now.0 / width).max(self.newest);
        let passed = (newest - self.newest).min(BUCKETS as u64);
        for n in 0..passed {
            let bucket = usize::try_from((newest - n) % BUCKETS as u64).unwrap_or(0);
            self.buckets[bucket] = Bucket::default();
        }
        self.newest = newest;
        self.newest_until = newest.saturating_add(1).saturating_mul(width);
    }

    fn is_broken(&self, plan: &BreakerPlan) -> bool {
        let sum =
            |of: fn(&Bucket) -> u32| self.buckets.iter().map(|bucket| u64::from(of(bucket))).sum::<u64>();
        let (calls, failed, slow) = (sum(|b| b.calls), sum(|b| b.failed), sum(|b| b.slow));
        let over = |part: u64, percent: u8| percent != 0 && u64::from(percent) * calls <= part * 100;
        u64::from(plan.calls_min.max(1)) <= calls
            && (over(failed, plan.failed_percent) || over(slow, plan.slow_percent))
    }

    pub(crate) fn check(&self, plan: &BreakerPlan) {
        let half_open = self.state == State::HalfOpen;
        assert!(half_open || self.probes_running == 0, "probes only while half open");
        assert!(self.probes_good <= plan.probes.max(1) || !half_open, "closed once all probes are good");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: BreakerPlan = BreakerPlan {
        calls_min: 4,
        failed_percent: 50,
        slow_after: Duration::from_secs(1),
        slow_percent: 75,
        window: Duration::from_secs(10),
        open_min: Duration::from_secs(8),
        open_max: Duration::from_secs(20),
        probes: 2,
    };
    const GOOD: Verdict = Verdict::Good { slow: false };
    const SLOW: Verdict = Verdict::Good { slow: true };

    struct Bench {
        breaker: Breaker,
        random: Random,
        now: Time,
    }

    impl Bench {
        fn new() -> Self {
            Self { breaker: Breaker::new(), random: Random::new(1), now: Time::from_millis(50_000) }
        }

        fn end(&mut self, pass: Pass, verdict: Verdict) -> State {
            self.breaker.end(self.now, &PLAN, pass, verdict, &mut self.random);
            self.breaker.check(&PLAN);
            self.breaker.state()
        }

        fn call(&mut self, verdict: Verdict) -> State {
            assert!(self.breaker.lets(self.now, &PLAN), "it lets the call pass");
            let (pass, _) = self.breaker.begin(self.now);
            self.end(pass, verdict)
        }

        fn sleep(&mut self, millis: u64) {
            self.now = self.now + Duration::from_millis(millis);
        }

        fn broken() -> Self {
            let mut bench = Self::new();
            for _ in 0..4 {
                bench.call(Verdict::Failed);
            }
            assert_eq!(bench.breaker.state(), State::Open);
            bench
        }
    }

    #[test]
    fn opens_at_the_rate_and_not_before_enough_calls() {
        let table: [(&[Verdict], State); 5] = [
            (&[Verdict::Failed; 3], State::Closed),
            (&[Verdict::Failed, GOOD, GOOD, Verdict::Failed], State::Open),
            (&[Verdict::Failed, GOOD, GOOD, GOOD, Verdict::Neutral], State::Closed),
            (&[SLOW, SLOW, GOOD, SLOW], State::Open),
            (&[SLOW, GOOD, GOOD, SLOW], State::Closed),
        ];
        for (calls, expected) in table {
            let mut bench = Bench::new();
            let mut state = State::Closed;
            for &verdict in calls {
                state = bench.call(verdict);
            }
            assert_eq!(state, expected, "{calls:?}");
        }
    }

    #[test]
    fn failures_roll_out_of_the_window() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.call(Verdict::Failed);
        }
        bench.sleep(11_000);
        assert_eq!(bench.call(Verdict::Failed), State::Closed);
        bench.sleep(5_000);
        assert_eq!(bench.call(GOOD), State::Closed);
        bench.call(GOOD);
        assert_eq!(bench.call(Verdict::Failed), State::Open, "two of four within ten seconds");
    }

    #[test]
    fn probes_heal_it() {
        let mut bench = Bench::broken();
        assert!(!bench.breaker.lets(bench.now, &PLAN));
        bench.sleep(8_900);
        let (one, changed) = bench.breaker.begin(bench.now);
        assert!(changed && bench.breaker.state() == State::HalfOpen);
        let (two, changed) = bench.breaker.begin(bench.now);
        assert!(!changed && !bench.breaker.lets(bench.now, &PLAN), "two probes and no more");
        assert_eq!(bench.end(one, Verdict::Neutral), State::HalfOpen);
        assert!(bench.breaker.lets(bench.now, &PLAN), "a cancelled probe leaves its place to another");
        assert_eq!(bench.end(two, GOOD), State::HalfOpen);
        assert_eq!(bench.call(GOOD), State::Closed);
        assert_eq!(bench.call(Verdict::Failed), State::Closed, "what was before is forgotten");
    }

    #[test]
    fn a_failed_probe_doubles_the_wait_up_to_the_longest() {
        let mut bench = Bench::broken();
        for expected in [8_u64, 16, 20, 20] {
            let wait = bench.breaker.wait(bench.now);
            assert!(Duration::from_secs(expected) <= wait && wait <= Duration::from_millis(expected * 1_100));
            bench.sleep(expected * 1_100);
            assert_eq!(bench.breaker.wait(bench.now), Duration::ZERO);
            assert_eq!(bench.call(Verdict::Failed), State::Open);
        }
        bench.sleep(30_000);
        bench.call(GOOD);
        assert_eq!(bench.call(GOOD), State::Closed);
        for _ in 0..4 {
            bench.call(Verdict::Failed);
        }
        assert!(bench.breaker.wait(bench.now) < Duration::from_secs(9), "healed, it begins anew");
    }

    #[test]
    fn a_reset_forgets_everything() {
        let mut bench = Bench::broken();
        let (old, _) = bench.breaker.begin(bench.now);
        assert!(bench.breaker.reset() && !bench.breaker.reset());
        assert_eq!(bench.end(old, Verdict::Failed), State::Closed, "it is of before");
        for _ in 0..3 {
            assert_eq!(bench.call(Verdict::Failed), State::Closed);
        }
        assert_eq!(bench.call(Verdict::Failed), State::Open);
        assert!(bench.breaker.wait(bench.now) < Duration::from_secs(9), "the shortest time");
    }

    #[test]
    fn late_verdicts_of_another_period_are_not_heard() {
        let mut bench = Bench::new();
        let (old, _) = bench.breaker.begin(bench.now);
        for _ in 0..4 {
            bench.call(Verdict::Failed);
        }
        assert_eq!(bench.end(old, GOOD), State::Open);
        bench.sleep(9_000);
        let (probe, _) = bench.breaker.begin(bench.now);
        assert_eq!(bench.end(old, Verdict::Failed), State::HalfOpen);
        assert_eq!(bench.end(probe, SLOW), State::Open, "a slow probe is no cure");
    }
}
