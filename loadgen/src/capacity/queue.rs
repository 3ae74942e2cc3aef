//! Queues: simulated arrival by arrival, and by formula where there is one. First come, first served; seeded; no clock.
//!
//! The formulas are those of Kleinrock, Queueing Systems, volume I: 3.2 (M/M/1), 3.5 (M/M/c), 5.6 (M/G/1, Pollaczek and
//! Khinchine). They check the simulation, and stand beside it in a plan.

use crate::rng::Rng;

/// How long something takes, or how long it is until the next comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Times {
    /// Always as long.
    Constant(f64),
    /// Exponential, with this mean.
    Exponential(f64),
    /// So many at once, with exponential gaps between the crowds; the mean is of a single one.
    Crowds(f64, u32),
    /// Drawn from values that were measured, each as likely.
    Drawn(Vec<f64>),
}

impl Times {
    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::Crowds(mean, _) => *mean,
            Self::Drawn(values) => crate::stats::mean(values),
        }
    }

    /// The variance, as a multiple of the squared mean.
    #[must_use]
    pub fn variation(&self) -> f64 {
        match self {
            Self::Constant(_) => 0.0,
            Self::Exponential(_) => 1.0,
            // Gaps are zero within a crowd and exponential between two.
            Self::Crowds(_, size) => 2.0 * f64::from((*size).max(1)) - 1.0,
            Self::Drawn(values) => {
                let mean = self.mean();
                let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
                squares / values.len().max(1) as f64 / (mean * mean).max(f64::MIN_POSITIVE)
            }
        }
    }

    fn draw(&self, number: u32, rng: &mut Rng) -> f64 {
        match self {
            Self::Constant(mean) => *mean,
            Self::Exponential(mean) => -rng.unit().ln() * mean,
            Self::Crowds(mean, size) => {
                let size = (*size).max(1);
                if number.is_multiple_of(size) { -rng.unit().ln() * mean * f64::from(size) } else { 0.0 }
            }
            Self::Drawn(values) => match values.len() {
                0 => 0.0,
                count => values[rng.below(count as u64) as usize],
            },
        }
    }
}

/// Waits of a simulated queue, service apart, in order of size.
#[derive(Clone, Debug)]
pub struct Waits {
    sorted: Vec<f64>,
}

impl Waits {
    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        crate::stats::mean(&self.sorted)
    }

    /// A quantile.
    #[must_use]
    pub fn quantile(&self, at: f64) -> f64 {
        crate::stats::quantile(&self.sorted, at)
    }

    /// All of them, in order of size.
    #[must_use]
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }
}

/// The first share of the arrivals finds the queue emptier than it will be, and is left out.
const WARMUP_SHARE: u32 = 10;

/// Simulates `count` arrivals at one queue before `servers` servers.
#[must_use]
pub fn simulate(gaps: &Times, service: &Times, servers: usize, count: u32, seed: u64) -> Waits {
    let mut waits = arrivals(gaps, service, servers, count, seed);
    waits.sort_unstable_by(f64::total_cmp);
    Waits { sorted: waits }
}

/// The same in order of arrival.
fn arrivals(gaps: &Times, service: &Times, servers: usize, count: u32, seed: u64) -> Vec<f64> {
    let (mut between, mut taking) = (Rng::new(seed), Rng::new(!seed));
    // When each server is free again.
    let mut free = vec![0.0_f64; servers.max(1)];
    let mut now = 0.0;
    let mut waits = Vec::with_capacity(count as usize);
    for number in 0..count {
        now += gaps.draw(number, &mut between);
        let next = free.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(next, _)| next);
        let start = free[next].max(now);
        free[next] = start + service.draw(number, &mut taking);
        if count / WARMUP_SHARE <= number {
            waits.push(start - now);
        }
    }
    waits
}

/// The mean wait of M/G/1 by Pollaczek and Khinchine; infinite where the queue only grows.
#[must_use]
pub fn wait_by_formula(rate: f64, service: &Times) -> f64 {
    let load = rate * service.mean();
    if 1.0 <= load {
        return f64::INFINITY;
    }
    load * service.mean() * (1.0 + service.variation()) / 2.0 / (1.0 - load)
}

/// A quantile of that wait, if its tail is taken for exponential.
#[must_use]
pub fn wait_quantile_by_formula(rate: f64, service: &Times, at: f64) -> f64 {
    let load = rate * service.mean();
    let mean = wait_by_formula(rate, service);
    if mean.is_infinite() || load <= 0.0 {
        return mean;
    }
    (mean / load * (load / (1.0 - at)).ln()).max(0.0)
}

/// The probability of having to wait in M/M/c (Erlang's C).
#[must_use]
pub fn erlang_c(servers: u32, load: f64) -> f64 {
    // Erlang's B by its recurrence, which does not overflow.
    let offered = load * f64::from(servers);
    let blocked = (1..=servers).fold(1.0, |b, n| offered * b / (f64::from(n) + offered * b));
    blocked / (1.0 - load * (1.0 - blocked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u32 = 3_000_000;

    fn within_two_percent(found: f64, expected: f64, what: &str) {
        assert!((found / expected - 1.0).abs() < 0.02, "{what}: simulated {found}, by formula {expected}");
    }

    #[test]
    fn one_server_and_exponential_service_wait_as_the_formula_says() {
        for load in [0.3, 0.5, 0.7] {
            let waits = simulate(&Times::Exponential(1.0 / load), &Times::Exponential(1.0), 1, COUNT, 1);
            within_two_percent(waits.mean(), load / (1.0 - load), "M/M/1");
            let p99 = (load / 0.01_f64).ln() / (1.0 - load);
            within_two_percent(waits.quantile(0.99), p99, "M/M/1 at p99");
            let formula = wait_quantile_by_formula(load, &Times::Exponential(1.0), 0.99);
            within_two_percent(formula, p99, "the formula of the tail");
        }
    }

    #[test]
    fn one_server_and_constant_service_wait_half_as_long() {
        for load in [0.3, 0.7] {
            let waits = simulate(&Times::Exponential(1.0 / load), &Times::Constant(1.0), 1, COUNT, 2);
            within_two_percent(waits.mean(), load / (1.0 - load) / 2.0, "M/D/1");
        }
    }

    #[test]
    fn one_server_and_any_service_wait_as_pollaczek_and_khinchine_say() {
        // Nine short ones and a long one: cs² is 1.74.
        let uneven = Times::Drawn([vec![0.5; 9], vec![5.0]].concat());
        let even = Times::Drawn((1..=100).map(|n| f64::from(n) / 50.5).collect());
        for (service, seed) in [(uneven, 3), (even, 4)] {
            for load in [0.5, 0.7] {
                let rate = load / service.mean();
                let waits = simulate(&Times::Exponential(1.0 / rate), &service, 1, COUNT, seed);
                let second: f64 = service.mean().powi(2) * (1.0 + service.variation());
                let expected = rate * second / 2.0 / (1.0 - load);
                within_two_percent(waits.mean(), expected, "M/G/1");
                within_two_percent(wait_by_formula(rate, &service), expected, "the formula");
            }
        }
    }

    #[test]
    fn several_servers_before_one_queue_wait_as_erlang_says() {
        for (servers, load) in [(2, 0.7), (4, 0.7), (8, 0.7)] {
            let gaps = Times::Exponential(1.0 / (load * f64::from(servers)));
            let waits = simulate(&gaps, &Times::Exponential(1.0), servers as usize, COUNT, 5);
            let expected = erlang_c(servers, load) / (f64::from(servers) * (1.0 - load));
            within_two_percent(waits.mean(), expected, "M/M/c");
        }
        assert!((erlang_c(1, 0.6) - 0.6).abs() < 1e-12);
        assert!((erlang_c(2, 0.5) - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn crowds_wait_longer_and_the_same_seed_gives_the_same_waits() {
        let service = Times::Exponential(1.0);
        let even = simulate(&Times::Exponential(2.0), &service, 1, 200_000, 6).mean();
        let crowds = simulate(&Times::Crowds(2.0, 10), &service, 1, 200_000, 6);
        assert!(even * 3.0 < crowds.mean());
        let again = simulate(&Times::Crowds(2.0, 10), &service, 1, 200_000, 6);
        assert_eq!(crowds.sorted(), again.sorted());
        assert!(wait_by_formula(1.5, &service).is_infinite());
    }
}
