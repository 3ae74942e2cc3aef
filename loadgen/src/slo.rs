//! Objectives that a run is held against: `p99<45ms,loss=0`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::measure::Metric;
use crate::run::Outcome;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// A quantile of a metric, in nanoseconds; 1 is the longest.
    Quantile(Metric, f64),
    /// The mean of a metric, in nanoseconds.
    Mean(Metric),
    /// Lost messages.
    Loss,
    /// Answers beyond the first.
    Doubled,
    /// Answers out of order.
    Reordered,
    /// Answers that are not what was asked.
    Corrupted,
    /// Refused messages.
    Refused,
    /// Answers a second in the measured window.
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Below,
    AtMost,
    Equal,
    AtLeast,
    Above,
}

/// Longer signs first: `<` is the start of `<=`.
const SIGNS: [(&str, Sign); 5] =
    [("<=", Sign::AtMost), (">=", Sign::AtLeast), ("<", Sign::Below), (">", Sign::Above), ("=", Sign::Equal)];

#[derive(Clone, Debug, PartialEq)]
struct Objective {
    text: String,
    figure: Figure,
    sign: Sign,
    bound: f64,
}

/// A set of objectives; a run meets it if it meets each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slo {
    objectives: Vec<Objective>,
}

/// How one objective fared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// The objective.
    pub objective: String,
    /// What was found: nanoseconds for times.
    pub found: f64,
    /// Whether it was met.
    pub met: bool,
}

impl Slo {
    /// Whether there is nothing to meet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objectives.is_empty()
    }

    /// Holds a run against the objectives. A metric without values meets none that is about it.
    #[must_use]
    pub fn hold(&self, outcome: &Outcome, answers_per_second: f64) -> Vec<Held> {
        let hold = |objective: &Objective| {
            let found = objective.figure.find(outcome, answers_per_second);
            let met = match objective.sign {
                Sign::Below => found < objective.bound,
                Sign::AtMost => found <= objective.bound,
                Sign::Equal => (found - objective.bound).abs() < 1e-9,
                Sign::AtLeast => objective.bound <= found,
                Sign::Above => objective.bound < found,
            };
            Held { objective: objective.text.clone(), found, met }
        };
        self.objectives.iter().map(hold).collect()
    }
}

impl Figure {
    fn find(self, outcome: &Outcome, answers_per_second: f64) -> f64 {
        let tally = outcome.tally();
        match self {
            Self::Quantile(metric, quantile) => outcome
                .sum
                .times(metric)
                .map_or(f64::INFINITY, |times| times.value_at_quantile(quantile) as f64),
            Self::Mean(metric) => {
                outcome.sum.times(metric).map_or(f64::INFINITY, hdrhistogram::Histogram::mean)
            }
            Self::Loss => tally.lost as f64,
            Self::Doubled => tally.doubled as f64,
            Self::Reordered => tally.reordered as f64,
            Self::Corrupted => tally.corrupted as f64,
            Self::Refused => tally.refused as f64,
            Self::Rate => answers_per_second,
        }
    }

    /// `p99`, `mean`, `max`, `first_p99`, `loss`, …
    fn read(name: &str) -> Option<Self> {
        match name {
            "loss" => return Some(Self::Loss),
            "dup" => return Some(Self::Doubled),
            "reorder" => return Some(Self::Reordered),
            "corrupt" => return Some(Self::Corrupted),
            "refused" => return Some(Self::Refused),
            "rate" => return Some(Self::Rate),
            _ => {}
        }
        let (metric, figure) = match name.split_once('_') {
            Some((metric, figure)) => (Metric::ALL.into_iter().find(|known| known.name() == metric)?, figure),
            None => (Metric::Response, name),
        };
        match figure {
            "max" => Some(Self::Quantile(metric, 1.0)),
            "mean" => Some(Self::Mean(metric)),
            _ => {
                let percent: f64 = figure.strip_prefix('p')?.parse().ok()?;
                (0.0 < percent && percent <= 100.0).then_some(Self::Quantile(metric, percent / 100.0))
            }
        }
    }

    const fn is_time(self) -> bool {
        match self {
            Self::Quantile(..) | Self::Mean(_) => true,
            Self::Loss | Self::Doubled | Self::Reordered | Self::Corrupted | Self::Refused | Self::Rate => {
                false
            }
        }
    }
}

/// Why a text is no objective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadObjective(String);

impl fmt::Display for BadObjective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no objective; examples are p99<45ms, p99.9<=100ms, first_p95<300ms, max<1s, loss=0, \
             dup=0, reorder=0, corrupt=0, refused=0, rate>=12000",
            self.0
        )
    }
}

impl std::error::Error for BadObjective {}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.objectives.iter().map(|one| one.text.as_str()).collect();
        f.write_str(&texts.join(","))
    }
}

impl FromStr for Slo {
    type Err = BadObjective;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let objectives = text.split(',').map(|one| read(one).ok_or_else(|| BadObjective(one.to_owned())));
        Ok(Self { objectives: objectives.collect::<Result<_, _>>()? })
    }
}

fn read(text: &str) -> Option<Objective> {
    let text = text.trim();
    let (name, sign, bound) =
        SIGNS.iter().find_map(|(sign, meaning)| text.split_once(sign).map(|(a, b)| (a, *meaning, b)))?;
    let figure = Figure::read(name.trim())?;
    let bound = bound.trim();
    let bound = if figure.is_time() {
        parse_duration(bound).ok()? as f64
    } else {
        bound.parse().ok().filter(|bound: &f64| 0.0 <= *bound)?
    };
    Some(Objective { text: text.to_owned(), figure, sign, bound })
}

/// Reads a duration with its unit: `250us`, `45ms`, `10s`, `1.5m`, `2h`. In nanoseconds.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let nanos = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return Err(format!("{text:?} is no duration: write 250us, 45ms, 10s, 5m or 1h")),
    };
    match number.parse::<f64>() {
        Ok(number) if number * nanos <= 1e18 => Ok((number * nanos).round() as u64),
        Ok(_) | Err(_) => Err(format!("{text:?} is no duration: write 250us, 45ms, 10s, 5m or 1h")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let table =
            [("250us", 250_000), ("45ms", 45_000_000), ("1.5s", 1_500_000_000), ("2m", 120_000_000_000)];
        for (text, nanos) in table {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
        }
        for bad in ["", "10", "ms", "1x", "-1s", "1..2s", "9999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn objectives_are_read_as_they_are_meant() {
        let slo: Slo = "p99<45ms, p99.9<=0.1s,first_p95<300ms,loss=0,rate>=12000,max<1s".parse().unwrap();
        let read: Vec<(Figure, Sign, f64)> =
            slo.objectives.iter().map(|one| (one.figure, one.sign, one.bound)).collect();
        assert_eq!(read[0], (Figure::Quantile(Metric::Response, 0.99), Sign::Below, 45e6));
        assert!(matches!(read[1], (Figure::Quantile(Metric::Response, _), Sign::AtMost, 1e8)));
        assert_eq!(read[2], (Figure::Quantile(Metric::First, 0.95), Sign::Below, 3e8));
        assert_eq!(read[3], (Figure::Loss, Sign::Equal, 0.0));
        assert_eq!(read[4], (Figure::Rate, Sign::AtLeast, 12_000.0));
        assert_eq!(read[5], (Figure::Quantile(Metric::Response, 1.0), Sign::Below, 1e9));
        for bad in ["", "p99", "p99<45", "p0<1ms", "p101<1ms", "speed>3", "loss<x", "nothing_p50<1ms"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
    }
}
