//! Statistics as plain functions: ranks, intervals, corrections. Deterministic; where chance is needed, a seed is an
//! argument. Owns no file, no clock, and no opinion on what a difference means: `compare` has that.
//!
//! Rank statistics throughout, for times of computers are anything but normal: Hollander, Wolfe, Chicken, Nonparametric
//! Statistical Methods, 3rd edition, sections 3.1 to 3.3 (signed ranks) and 4.1 to 4.3 (rank sums).

use crate::rng::Rng;

/// Up to how many values the distribution of signed ranks is counted out; beyond, a normal one is close enough.
const EXACT_MAX: usize = 60;

/// An estimate with its interval. An interval that so few values cannot give is infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub middle: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The probability of such values, or of rarer ones, if there were no shift; two-sided.
    pub p: f64,
}

impl Estimate {
    /// Nothing known.
    pub const UNKNOWN: Self = Self { middle: 0.0, low: f64::NEG_INFINITY, high: f64::INFINITY, p: 1.0 };
}

/// The mean; 0 of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of a sample; 0 of fewer than two.
#[must_use]
pub fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}

/// A quantile of values that are in order, between neighbours in proportion; NaN of nothing.
#[must_use]
pub fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let below = place.floor();
    let (Some(low), Some(high)) = (sorted.get(below as usize), sorted.get(place.ceil() as usize)) else {
        return f64::NAN;
    };
    low + (high - low) * (place - below)
}

/// The median; NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// In order.
#[must_use]
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The probability that a standard normal value is at most `z`, to 1e-7 (Abramowitz and Stegun 26.2.17).
#[must_use]
pub fn normal_below(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    let tail = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// The standard normal value that others are below with this probability: [`normal_below`] turned round by halving.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if normal_below(middle) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// A standard normal value (Box and Muller).
pub fn draw_normal(rng: &mut Rng) -> f64 {
    (-2.0 * rng.unit().ln()).sqrt() * (2.0 * std::f64::consts::PI * rng.unit()).cos()
}

/// Hodges and Lehmann's estimate of the centre of differences, with its interval and the p of Wilcoxon's signed ranks.
/// `alpha` is what the interval may miss: 0.01 for 99 %.
#[must_use]
pub fn paired_shift(differences: &[f64], alpha: f64) -> Estimate {
    let count = differences.len();
    if count == 0 {
        return Estimate::UNKNOWN;
    }
    let mut walsh = Vec::with_capacity(count * (count + 1) / 2);
    for (number, first) in differences.iter().enumerate() {
        walsh.extend(differences[number..].iter().map(|second| f64::midpoint(*first, *second)));
    }
    walsh.sort_unstable_by(f64::total_cmp);
    // Signed ranks are counted by the averages above zero; half of those that are zero.
    let above = walsh.iter().filter(|value| 0.0 < **value).count() as f64;
    let at_zero = walsh.iter().filter(|value| **value == 0.0).count() as f64;
    let ranks = SignedRanks::new(count);
    estimate(&walsh, above + at_zero / 2.0, |most| ranks.at_most(most), alpha)
}

/// The same for two samples that are not paired: the shift from `base` to `head`, and the p of Mann and Whitney.
#[must_use]
pub fn unpaired_shift(base: &[f64], head: &[f64], alpha: f64) -> Estimate {
    if base.is_empty() || head.is_empty() {
        return Estimate::UNKNOWN;
    }
    let mut shifts: Vec<f64> = head.iter().flat_map(|b| base.iter().map(move |a| b - a)).collect();
    shifts.sort_unstable_by(f64::total_cmp);
    let above = shifts.iter().filter(|value| 0.0 < **value).count() as f64;
    let at_zero = shifts.iter().filter(|value| **value == 0.0).count() as f64;
    let sums = RankSums::new(base.len(), head.len());
    estimate(&shifts, above + at_zero / 2.0, |most| sums.at_most(most), alpha)
}

/// Turns the values that a rank statistic counts into an estimate: their median, the interval between the places that
/// the statistic's distribution names, and its p. The distribution is symmetric around half of the values' number.
fn estimate(values: &[f64], above: f64, at_most: impl Fn(f64) -> f64, alpha: f64) -> Estimate {
    let total = values.len();
    let p = (2.0 * at_most(above.min(total as f64 - above))).min(1.0);
    // As many values as can be left out at each end.
    let mut left_out = 0;
    while left_out * 2 < total && at_most(left_out as f64) <= alpha / 2.0 {
        left_out += 1;
    }
    let (low, high) = match left_out {
        0 => (f64::NEG_INFINITY, f64::INFINITY),
        some => (values[some - 1], values[total - some]),
    };
    Estimate { middle: quantile(values, 0.5), low, high, p }
}

/// The distribution of Wilcoxon's signed rank statistic without ties.
struct SignedRanks {
    count: usize,
    /// How likely each value is, or nothing where a normal distribution stands in.
    chances: Vec<f64>,
}

impl SignedRanks {
    fn new(count: usize) -> Self {
        if EXACT_MAX < count {
            return Self { count, chances: Vec::new() };
        }
        // Each rank is in the sum or not, with the same chance.
        let mut chances = vec![0.0; count * (count + 1) / 2 + 1];
        chances[0] = 1.0;
        for rank in 1..=count {
            for sum in (0..chances.len()).rev() {
                let with = if rank <= sum { chances[sum - rank] } else { 0.0 };
                chances[sum] = f64::midpoint(chances[sum], with);
            }
        }
        Self { count, chances }
    }

    fn at_most(&self, value: f64) -> f64 {
        if self.chances.is_empty() {
            let n = self.count as f64;
            let (middle, variance) = (n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0);
            return normal_below((value + 0.5 - middle) / variance.sqrt());
        }
        cumulated(&self.chances, value)
    }
}

/// The distribution of Mann and Whitney's statistic without ties.
struct RankSums {
    sizes: (usize, usize),
    chances: Vec<f64>,
}

/// Up to how many pairs it is counted out.
const PAIRS_EXACT_MAX: usize = 900;

impl RankSums {
    fn new(first: usize, second: usize) -> Self {
        let sizes = (first, second);
        if PAIRS_EXACT_MAX < first * second {
            return Self { sizes, chances: Vec::new() };
        }
        // The generating function is a Gaussian binomial: the product of (1 - q^(second + i)) / (1 - q^i).
        let top = first * second;
        let mut counts = vec![0.0_f64; top + 1];
        counts[0] = 1.0;
        for i in 1..=first {
            for sum in (second + i..=top).rev() {
                counts[sum] -= counts[sum - second - i];
            }
            for sum in i..=top {
                counts[sum] += counts[sum - i];
            }
        }
        let all: f64 = counts.iter().sum();
        Self { sizes, chances: counts.iter().map(|count| count / all).collect() }
    }

    fn at_most(&self, value: f64) -> f64 {
        if self.chances.is_empty() {
            let (m, n) = (self.sizes.0 as f64, self.sizes.1 as f64);
            return normal_below((value + 0.5 - m * n / 2.0) / (m * n * (m + n + 1.0) / 12.0).sqrt());
        }
        cumulated(&self.chances, value)
    }
}

/// The chance of a value up to this one. With ties a statistic may end in a half, which is taken for the next whole: the
/// careful side.
fn cumulated(chances: &[f64], value: f64) -> f64 {
    chances.iter().take(value.ceil().max(0.0) as usize + 1).sum()
}

/// Holm's correction: each p as it is after so many questions were asked, in the order given.
#[must_use]
pub fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let mut adjusted = vec![1.0; ps.len()];
    let mut highest = 0.0_f64;
    for (place, index) in order.into_iter().enumerate() {
        highest = highest.max(ps[index] * (ps.len() - place) as f64).min(1.0);
        adjusted[index] = highest;
    }
    adjusted
}

/// The shift that pure noise reaches in one of a hundred comparisons of `pairs` pairs, given differences between things
/// that are the same: their sizes are drawn again under signs of chance. `quantile` is 0.99 for one of a hundred.
#[must_use]
pub fn noise_floor(same: &[f64], pairs: usize, quantile_at: f64, seed: u64) -> f64 {
    const DRAWS: usize = 200;
    if same.is_empty() || pairs == 0 {
        return 0.0;
    }
    let mut rng = Rng::new(seed);
    let mut shifts = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        let drawn: Vec<f64> = (0..pairs)
            .map(|_| {
                let value = same[rng.below(same.len() as u64) as usize];
                if rng.draw() & 1 == 0 { value } else { -value }
            })
            .collect();
        shifts.push(centre(&drawn).abs());
    }
    shifts.sort_unstable_by(f64::total_cmp);
    quantile(&shifts, quantile_at)
}

/// Hodges and Lehmann's estimate alone.
#[must_use]
pub fn centre(differences: &[f64]) -> f64 {
    let mut walsh = Vec::with_capacity(differences.len() * (differences.len() + 1) / 2);
    for (number, first) in differences.iter().enumerate() {
        walsh.extend(differences[number..].iter().map(|second| f64::midpoint(*first, *second)));
    }
    if walsh.is_empty() {
        return 0.0;
    }
    let middle = walsh.len() / 2;
    *walsh.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Wilson's interval for a share of successes; `z` is 1.96 for 95 %.
#[must_use]
pub fn wilson(successes: u64, trials: u64, z: f64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let (n, share) = (trials as f64, successes as f64 / trials as f64);
    let middle = share + z * z / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + z * z / n;
    (((middle - spread) / whole).max(0.0), ((middle + spread) / whole).min(1.0))
}

/// The closest sequence that never rises, by weighted squares (pool adjacent violators). Values with their weights.
#[must_use]
pub fn falling(values: &[(f64, f64)]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (value, weight) in values {
        pools.push((*value, *weight, 1));
        while let [.., (before, w, n), (last, v, m)] = pools.as_slice()
            && before < last
        {
            let pooled = ((before * w + last * v) / (w + v), w + v, n + m);
            pools.truncate(pools.len() - 2);
            pools.push(pooled);
        }
    }
    pools.into_iter().flat_map(|(value, _, count)| std::iter::repeat_n(value, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, within: f64) {
        assert!((found - expected).abs() <= within, "{found} is not {expected} within {within}");
    }

    #[test]
    fn the_normal_distribution_is_that_of_the_tables() {
        for (z, p) in
            [(0.0, 0.5), (1.0, 0.841_344_7), (1.96, 0.975_002_1), (-2.575_829, 0.005), (3.0, 0.998_650_1)]
        {
            close(normal_below(z), p, 2e-7);
            close(normal_quantile(p), z, 2e-4);
        }
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        close(median(&[3.0, 1.0, 2.0]), 2.0, 0.0);
        close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5, 0.0);
        close(quantile(&[10.0, 20.0], 0.25), 12.5, 1e-12);
        assert!(median(&[]).is_nan());
        close(deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), 2.138_089_9, 1e-6);
    }

    /// The depression data of Hollander and Wolfe, example 3.1: nine patients before and after; the one-sided p is 0.019,
    /// the estimate -0.46, the interval at 96.1 % from -0.786 to -0.010.
    #[test]
    #[expect(clippy::approx_constant, reason = "a patient's score")]
    fn signed_ranks_give_the_books_answer() {
        let before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30];
        let after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29];
        let differences: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let found = paired_shift(&differences, 0.0401);
        close(found.p, 0.0390625, 1e-9);
        close(found.middle, -0.46, 1e-9);
        close(found.low, -0.786, 1e-9);
        close(found.high, -0.010, 1e-9);
    }

    /// The permeability data of Hollander and Wolfe, example 4.1: the one-sided p is 0.1272, the estimate -0.305.
    #[test]
    fn rank_sums_give_the_books_answer() {
        let term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
        let early = [1.15, 0.88, 0.90, 0.74, 1.21];
        let found = unpaired_shift(&term, &early, 0.05);
        close(found.p, 2.0 * 0.127_2, 2e-4);
        close(found.middle, -0.305, 1e-9);
        close(found.low, -0.76, 1e-9);
        close(found.high, 0.15, 1e-9);
    }

    #[test]
    fn too_few_values_say_nothing_and_many_agree_with_the_normal_distribution() {
        let found = paired_shift(&[1.0, 2.0, 3.0], 0.01);
        assert_eq!((found.low, found.high), (f64::NEG_INFINITY, f64::INFINITY));
        close(found.p, 0.25, 1e-12);
        assert_eq!(paired_shift(&[], 0.01), Estimate::UNKNOWN);
        let exact = SignedRanks::new(EXACT_MAX);
        let close_to = SignedRanks { count: EXACT_MAX, chances: Vec::new() };
        for value in [500.0, 600.0, 700.0, 900.0] {
            close(exact.at_most(value), close_to.at_most(value), 1e-3);
        }
        let (exact, near) = (RankSums::new(30, 30), RankSums { sizes: (30, 30), chances: Vec::new() });
        for value in [250.0, 300.0, 400.0, 450.0] {
            close(exact.at_most(value), near.at_most(value), 2e-3);
        }
    }

    #[test]
    fn ties_at_nothing_are_no_shift() {
        let found = paired_shift(&[0.0; 20], 0.01);
        assert_eq!((found.middle, found.low, found.high), (0.0, 0.0, 0.0));
        close(found.p, 1.0, 1e-12);
    }

    #[test]
    fn holm_multiplies_by_what_is_left_and_never_falls() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(*found, expected, 1e-12);
        }
    }

    /// 81 of 263: Newcombe 1998, table I, method 3.
    #[test]
    fn wilson_is_that_of_the_paper() {
        let (low, high) = wilson(81, 263, 1.959_964);
        close(low, 0.2553, 5e-5);
        close(high, 0.3662, 5e-5);
        assert_eq!(wilson(0, 0, 1.96), (0.0, 1.0));
    }

    #[test]
    fn what_rises_is_pooled() {
        let found = falling(&[(1.0, 1.0), (0.5, 1.0), (0.7, 1.0), (0.2, 2.0), (0.5, 1.0)]);
        for (found, expected) in found.iter().zip([1.0, 0.6, 0.6, 0.3, 0.3]) {
            close(*found, expected, 1e-12);
        }
    }

    /// The spread of a Hodges-Lehmann centre of normal differences is sd / sqrt(n) / sqrt(3 / pi); 2.576 of them are
    /// passed by one in a hundred.
    #[test]
    fn the_floor_is_what_noise_reaches_once_in_a_hundred() {
        let mut rng = Rng::new(5);
        let same: Vec<f64> = (0..400).map(|_| draw_normal(&mut rng) * 0.03).collect();
        let floor = noise_floor(&same, 20, 0.99, 1);
        close(floor, 2.576 * 0.03 / 20_f64.sqrt() / (3.0 / std::f64::consts::PI).sqrt(), 0.003);
        close(floor, noise_floor(&same, 20, 0.99, 1), 0.0);
    }
}
