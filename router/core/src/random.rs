//! Randomness from a seed (`SplitMix64`, Steele, Lea and Flood 2014): jitter and ties, never secrets.
use core::time::Duration;

/// A stream of random numbers; the same seed gives the same stream.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// A time from zero to `longest`, both included.
    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }
}

/// Spreads the bits of a number over all bits of another, one to one.
pub(crate) const fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_within_bounds() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        for n in 0..1_000 {
            let drawn = one.below(n);
            assert_eq!(drawn, two.below(n));
            assert!(drawn < n.max(1));
        }
        assert!(one.up_to(Duration::from_secs(1)) <= Duration::from_secs(1));
        assert_eq!(one.up_to(Duration::ZERO), Duration::ZERO);
    }
}
