//! Which conversation is next, as it is with people: the first ones often, the last ones rarely.

use std::cmp::Ordering;

use crate::rng::Rng;

/// A distribution over `0..count` in which the share of rank `n` falls with a power of `n`.
#[derive(Clone, Debug)]
pub struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    /// Over so many, at least one; with the exponent 0 all are alike.
    #[must_use]
    pub fn new(count: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count.max(1)).map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        });
        Self { sums: sums.collect() }
    }

    /// One of them.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        let at = rng.unit() * self.sums.last().copied().unwrap_or(1.0);
        let found = self.sums.binary_search_by(|sum| sum.partial_cmp(&at).unwrap_or(Ordering::Equal));
        found.unwrap_or_else(|place| place).min(self.sums.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_hundred_gets_its_share_and_the_last_is_not_left_out() {
        let zipf = Zipf::new(100, 1.0);
        let mut rng = Rng::new(4);
        let mut counts = [0_u32; 100];
        (0..100_000).for_each(|_| counts[zipf.draw(&mut rng) as usize] += 1);
        // Of a hundred the first has 1 / (1 + 1/2 + … + 1/100) = 19.3 %.
        assert!((18_500..20_100).contains(&counts[0]), "{}", counts[0]);
        assert!((8_900..10_400).contains(&counts[1]) && 0 < counts[99], "{counts:?}");
    }
}
