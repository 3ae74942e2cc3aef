//! How much more comes of more shards: Gunther's universal scalability law, X(N) = r N / (1 + s (N - 1) + k N (N - 1)),
//! fitted to what was measured, with what is left over.

use serde::Serialize;

/// A fitted law.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Law {
    /// What one shard does, r.
    pub one: f64,
    /// What they wait for each other, s.
    pub contention: f64,
    /// What they have to tell each other, k.
    pub crosstalk: f64,
    /// For each point: shards, measured, by the law, and the difference as a share.
    pub residuals: Vec<Residual>,
}

/// How far a point lies from the law.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Residual {
    /// Shards.
    pub shards: u32,
    /// Measured, in messages a second.
    pub measured: f64,
    /// What the law says.
    pub fitted: f64,
    /// Measured above the law, as a share.
    pub share: f64,
}

impl Law {
    /// Fits the law; with two numbers of shards that without crosstalk. Nothing with one: there is no law in a point.
    #[must_use]
    pub fn fit(points: &[(u32, f64)]) -> Option<Self> {
        let mut numbers: Vec<u32> = points.iter().map(|(shards, _)| *shards).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() < 2 || points.iter().any(|(shards, rate)| *shards == 0 || *rate <= 0.0) {
            return None;
        }
        // N / X = (1 + s (N - 1) + k N (N - 1)) / r is linear in 1/r, s/r, k/r. Neither s nor k is below zero: what the
        // best fit would make negative is left out.
        let full = [true, true, 2 < numbers.len()];
        let tries = [full, [true, true, false], [true, false, full[2]], [true, false, false]];
        let fitted = tries.into_iter().filter_map(|terms| least_squares(points, terms));
        let [one, contention, crosstalk] =
            fitted.into_iter().find(|[one, s, k]| 0.0 < *one && 0.0 <= *s && 0.0 <= *k)?;
        let mut law = Self { one, contention, crosstalk, residuals: Vec::new() };
        law.residuals = points
            .iter()
            .map(|(shards, measured)| {
                let fitted = law.at(f64::from(*shards));
                Residual { shards: *shards, measured: *measured, fitted, share: measured / fitted - 1.0 }
            })
            .collect();
        Some(law)
    }

    /// What so many shards do.
    #[must_use]
    pub fn at(&self, shards: f64) -> f64 {
        self.one * shards
            / (1.0 + self.contention * (shards - 1.0) + self.crosstalk * shards * (shards - 1.0))
    }
}

/// Weighted by the rate, so that it is the relative error of the rate that is small. Gives r, s and k.
fn least_squares(points: &[(u32, f64)], terms: [bool; 3]) -> Option<[f64; 3]> {
    let mut matrix = [[0.0_f64; 4]; 3];
    for (shards, rate) in points {
        let n = f64::from(*shards);
        let weight = rate / n;
        let row = [1.0, n - 1.0, n * (n - 1.0)].map(|term| term * weight);
        for (line, left) in matrix.iter_mut().zip(row) {
            for (cell, right) in line.iter_mut().zip([row[0], row[1], row[2], 1.0]) {
                *cell += left * right;
            }
        }
    }
    for (index, wanted) in terms.iter().enumerate() {
        if !wanted {
            matrix[index] = [0.0; 4];
            matrix.iter_mut().for_each(|line| line[index] = 0.0);
            matrix[index][index] = 1.0;
        }
    }
    let [inverse, s, k] = solve(matrix)?;
    (0.0 < inverse).then(|| [1.0 / inverse, s / inverse, k / inverse])
}

/// Gauss and Jordan, with the largest pivot.
fn solve(mut matrix: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot =
            (column..3).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-12 {
            return None;
        }
        matrix.swap(column, pivot);
        let top = matrix[column].map(|cell| cell / matrix[column][column]);
        for (index, line) in matrix.iter_mut().enumerate() {
            let factor = line[column];
            if index != column {
                line.iter_mut().zip(top).for_each(|(cell, above)| *cell -= factor * above);
            }
        }
        matrix[column] = top;
    }
    Some([matrix[0][3], matrix[1][3], matrix[2][3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{found} is not {expected}");
    }

    #[test]
    fn a_law_is_found_again_in_what_it_made() {
        let law = Law { one: 1000.0, contention: 0.03, crosstalk: 0.002, residuals: vec![] };
        let points: Vec<(u32, f64)> = [1, 2, 4, 8, 16].map(|n| (n, law.at(f64::from(n)))).to_vec();
        let found = Law::fit(&points).unwrap();
        close(found.one, law.one);
        close(found.contention, law.contention);
        close(found.crosstalk, law.crosstalk);
        assert!(found.residuals.iter().all(|one| one.share.abs() < 1e-9));
    }

    #[test]
    fn two_points_give_no_crosstalk_and_one_gives_no_law() {
        let found = Law::fit(&[(1, 1000.0), (2, 1900.0)]).unwrap();
        close(found.crosstalk, 0.0);
        close(found.at(2.0), 1900.0);
        assert_eq!(Law::fit(&[(2, 1000.0), (2, 1100.0)]), None);
    }

    #[test]
    fn better_than_linear_is_taken_for_linear_and_shows_in_what_is_left() {
        let found = Law::fit(&[(1, 1000.0), (2, 2100.0), (4, 4400.0)]).unwrap();
        assert_eq!((found.contention, found.crosstalk), (0.0, 0.0));
        assert!(found.residuals.iter().any(|one| 0.01 < one.share.abs()));
    }
}
