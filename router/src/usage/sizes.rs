//! How many tokens calls use, as a histogram: `gen_ai.client.token.usage` of OpenTelemetry's conventions for generative AI.

/// Upper bounds, as those conventions advise.
pub(crate) const SIZES: [u64; 14] =
    [1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];

/// Numbers of tokens, counted by size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) buckets: [u64; SIZES.len() + 1],
    pub(crate) sum: u64,
}

impl Sizes {
    pub(crate) fn record(&mut self, tokens: u64) {
        let at = SIZES.partition_point(|bound| *bound < tokens);
        self.buckets[at] += 1;
        self.sum = self.sum.saturating_add(tokens);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut sizes = Sizes::default();
        for tokens in [0, 1, 2, 4, 5, u64::MAX] {
            sizes.record(tokens);
        }
        let mut all = Sizes::default();
        all.add(&sizes);
        assert_eq!((all.buckets[0], all.buckets[1], all.buckets[2], all.buckets[SIZES.len()]), (2, 2, 1, 1));
    }
}
