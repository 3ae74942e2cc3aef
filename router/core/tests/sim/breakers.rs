//! The shadow of the breakers: a plain list of verdicts for each model of a shard.
//!
//! The contract says "a rolling window"; how finely it rolls is the shard's affair. So a breaker may open if some window
//! between nine tenths and the whole of its length says so, and must if all of them do.
use clawgate_core::breaker::State;
use clawgate_core::plan::BreakerPlan;
use clawgate_core::time::Time;
use std::collections::VecDeque;

/// What one call said about its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good { slow: bool },
    Failed,
    Neutral,
}

/// One model's breaker on one shard.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    pub(crate) state: State,
    /// Counts the changes; a call's verdict counts only in the period in which it began.
    pub(crate) period: u32,
    verdicts: VecDeque<(Time, Verdict)>,
    /// When it opened.
    since: Time,
    /// How often it opened without closing.
    opened: u32,
    probes_running: u16,
    probes_good: u16,
}

impl Breaker {
    /// May a call begin? Names why not.
    pub(crate) fn begin(&mut self, plan: &BreakerPlan) -> Result<u32, String> {
        match self.state {
            State::Closed => {}
            State::Open => return Err("its breaker is open".to_owned()),
            State::HalfOpen => {
                if plan.probes.max(1) <= self.probes_running + self.probes_good {
                    return Err(format!("{} probes are enough", plan.probes));
                }
                self.probes_running += 1;
            }
        }
        Ok(self.period)
    }

    /// A call of this period ended. Returns the state that the breaker must be in then, where that is certain.
    pub(crate) fn end(
        &mut self,
        now: Time,
        plan: &BreakerPlan,
        period: u32,
        verdict: Verdict,
    ) -> Option<State> {
        if period != self.period {
            return Some(self.state);
        }
        match self.state {
            State::Open => Some(State::Open),
            State::Closed => {
                self.verdicts.push_back((now, verdict));
                self.roll(now, plan);
                // Only what went wrong opens it, not a good call that makes the number full.
                let bad = matches!(verdict, Verdict::Failed | Verdict::Good { slow: true });
                match self.broken(now, plan) {
                    (true, true) if bad => Some(State::Open),
                    (true, _) if bad => None,
                    (true | false, _) => Some(State::Closed),
                }
            }
            State::HalfOpen => Some(self.probed(plan, verdict)),
        }
    }

    fn probed(&mut self, plan: &BreakerPlan, verdict: Verdict) -> State {
        self.probes_running -= 1;
        match verdict {
            Verdict::Neutral => State::HalfOpen,
            Verdict::Good { slow } if !slow || plan.slow_percent == 0 => {
                self.probes_good += 1;
                if plan.probes.max(1) <= self.probes_good { State::Closed } else { State::HalfOpen }
            }
            Verdict::Good { .. } | Verdict::Failed => State::Open,
        }
    }

    fn roll(&mut self, now: Time, plan: &BreakerPlan) {
        while self.verdicts.front().is_some_and(|(at, _)| plan.window < now.since(*at)) {
            self.verdicts.pop_front();
        }
    }

    /// Do some windows say that it is broken, and do all?
    fn broken(&self, now: Time, plan: &BreakerPlan) -> (bool, bool) {
        let surely = self.verdicts.iter().position(|(at, _)| now.since(*at) < plan.window * 9 / 10);
        let surely = surely.unwrap_or(self.verdicts.len());
        let says = |from: usize| {
            let (mut calls, mut failed, mut slow) = (0_u32, 0_u32, 0_u32);
            for (_, verdict) in self.verdicts.iter().skip(from) {
                match verdict {
                    Verdict::Neutral => {}
                    Verdict::Failed => (calls, failed) = (calls + 1, failed + 1),
                    Verdict::Good { slow: was } => (calls, slow) = (calls + 1, slow + u32::from(*was)),
                }
            }
            let over = |part: u32, percent: u8| percent != 0 && u32::from(percent) * calls <= part * 100;
            plan.calls_min.max(1) <= calls
                && (over(failed, plan.failed_percent) || over(slow, plan.slow_percent))
        };
        ((0..=surely).any(says), (0..=surely).all(says))
    }

    /// The shard says that it changed. Names what is wrong with that.
    pub(crate) fn change(&mut self, now: Time, plan: &BreakerPlan, state: State) -> Result<(), String> {
        let open_min = plan.open_min.saturating_mul(1 << (self.opened.max(1) - 1).min(20)).min(plan.open_max);
        match (self.state, state) {
            (State::Closed, State::Open) if !self.broken(now, plan).0 => {
                return Err("it opened without enough failures".to_owned());
            }
            (State::Open, State::HalfOpen) if now.since(self.since) < open_min => {
                return Err(format!("it was open for {:?}, not for {open_min:?}", now.since(self.since)));
            }
            (State::HalfOpen, State::Closed) if self.probes_good < plan.probes.max(1) => {
                return Err(format!("it closed after {} good probes", self.probes_good));
            }
            (State::Closed | State::HalfOpen, State::Open)
            | (State::Open, State::HalfOpen)
            | (State::HalfOpen, State::Closed) => {}
            (from, to) => return Err(format!("it went from {from:?} to {to:?}")),
        }
        match state {
            State::Open => {
                self.since = now;
                self.opened += 1;
            }
            State::Closed => {
                self.opened = 0;
                self.verdicts.clear();
            }
            State::HalfOpen => {}
        }
        self.state = state;
        self.period += 1;
        (self.probes_running, self.probes_good) = (0, 0);
        Ok(())
    }

    /// May it let a call pass by now?
    pub(crate) fn may_pass(&self, now: Time, plan: &BreakerPlan) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => {
                let base =
                    plan.open_min.saturating_mul(1 << (self.opened.max(1) - 1).min(20)).min(plan.open_max);
                base <= now.since(self.since)
            }
            State::HalfOpen => self.probes_running + self.probes_good < plan.probes.max(1),
        }
    }

    /// Must it let a call pass by now?
    pub(crate) fn must_pass(&self, now: Time, plan: &BreakerPlan) -> bool {
        match self.state {
            State::Open => {
                let base =
                    plan.open_min.saturating_mul(1 << (self.opened.max(1) - 1).min(20)).min(plan.open_max);
                base + base / 10 <= now.since(self.since)
            }
            State::Closed | State::HalfOpen => self.may_pass(now, plan),
        }
    }
}
