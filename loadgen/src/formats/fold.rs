//! An interval log, folded while it is read into what is drawn of it: a day of seconds takes no more memory than a minute.

use std::collections::BTreeMap;

use base64::Engine as _;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::measure::{Metric, Times64, new_histogram};

/// Points of one line of the spectrum.
const SPECTRUM_POINTS: u32 = 90;
/// Nines beyond which nothing is drawn: one in ten million.
pub(super) const NINES_MAX: f64 = 7.0;
/// Bands of time that a factor of ten is divided into.
pub(super) const BANDS_PER_DECADE: f64 = 20.0;
/// Stretches of time that are kept apart.
const STRETCHES_MAX: usize = 300;

/// How many nines a quantile has: 0.9 one, 0.99 two.
pub(super) fn nines_of(quantile: f64) -> f64 {
    (-(1.0 - quantile).log10()).clamp(0.0, NINES_MAX)
}

/// The distribution over time: for each stretch, how many responses lay in which band.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heat {
    /// Seconds of a stretch.
    pub(super) seconds: u64,
    pub(super) stretches: Vec<BTreeMap<u16, u64>>,
}

impl Default for Heat {
    fn default() -> Self {
        Self { seconds: 1, stretches: Vec::new() }
    }
}

impl Heat {
    /// The band of a time.
    fn band(nanos: u64) -> u16 {
        ((nanos.max(1) as f64).log10() * BANDS_PER_DECADE) as u16
    }

    /// Where a band begins, in nanoseconds.
    pub(super) fn begin(band: u16) -> f64 {
        10_f64.powf(f64::from(band) / BANDS_PER_DECADE)
    }

    pub(super) fn add(&mut self, second: u64, times: &Times64) {
        // A second beyond all reason belongs to a log that is not ours.
        let second = second.min(1 << 32);
        while STRETCHES_MAX as u64 <= second / self.seconds {
            self.halve();
        }
        let at = (second / self.seconds) as usize;
        if self.stretches.len() <= at {
            self.stretches.resize(at + 1, BTreeMap::new());
        }
        for value in times.iter_recorded() {
            let count = value.count_since_last_iteration();
            *self.stretches[at].entry(Self::band(value.value_iterated_to())).or_default() += count;
        }
    }

    /// Makes one stretch of each two.
    pub(super) fn halve(&mut self) {
        self.seconds *= 2;
        let stretches = std::mem::take(&mut self.stretches);
        for pair in stretches.chunks(2) {
            let mut sum = pair[0].clone();
            for (band, count) in pair.get(1).into_iter().flatten() {
                *sum.entry(*band).or_default() += count;
            }
            self.stretches.push(sum);
        }
    }
}

/// What is drawn of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Folded {
    /// The spectrum of each metric, by its name: nines and nanoseconds.
    pub(super) curves: BTreeMap<&'static str, Vec<(f64, f64)>>,
    pub(super) heat: Heat,
}

/// Folds logs.
#[derive(Default)]
pub(super) struct Folder {
    sums: [Option<Box<Times64>>; Metric::ALL.len()],
    heat: Heat,
}

impl Folder {
    pub(super) fn add(&mut self, second: u64, metric: Metric, times: &Times64) {
        // Times that do not fit were written by something else, and stay out.
        self.sums[metric as usize].get_or_insert_with(|| Box::new(new_histogram())).add(times).ok();
        if metric == Metric::Response {
            self.heat.add(second, times);
        }
    }

    pub(super) fn fold(self) -> Folded {
        let mut curves = BTreeMap::new();
        for metric in Metric::ALL {
            if let Some(sum) = self.sums[metric as usize].as_deref().filter(|sum| !sum.is_empty()) {
                curves.insert(metric.name(), spectrum_points(sum));
            }
        }
        Folded { curves, heat: self.heat }
    }
}

/// Folds a log, from this second on: what was before it was not steady yet.
///
/// # Errors
/// It is none, or damaged.
pub(super) fn fold_log(bytes: &[u8], from_second: u64) -> Result<Folded, String> {
    let mut folder = Folder::default();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(bytes) {
        let LogEntry::Interval(interval) =
            entry.map_err(|error| format!("this is no interval log: {error:?}"))?
        else {
            continue;
        };
        if interval.start_timestamp().as_secs() < from_second {
            continue;
        }
        let tag = interval.tag().map_or("", |tag| tag.as_str());
        let Some(metric) = Metric::ALL.into_iter().find(|metric| metric.name() == tag) else { continue };
        let encoded = base64::engine::general_purpose::STANDARD
            .decode(interval.encoded_histogram())
            .map_err(|error| format!("a histogram of its log is damaged: {error}"))?;
        let times = deserializer
            .deserialize(&mut encoded.as_slice())
            .map_err(|error| format!("a histogram of its log is damaged: {error:?}"))?;
        folder.add(interval.start_timestamp().as_secs(), metric, &times);
    }
    Ok(folder.fold())
}

/// The values at evenly spaced nines, as far as there are values to tell them apart.
fn spectrum_points(times: &Times64) -> Vec<(f64, f64)> {
    let most = (times.len() as f64).log10().clamp(0.1, NINES_MAX);
    let at = |step: u32| {
        let nines = most * f64::from(step) / f64::from(SPECTRUM_POINTS);
        (nines, times.value_at_quantile(1.0 - 10_f64.powf(-nines)) as f64)
    };
    (0..=SPECTRUM_POINTS).map(at).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_nine_has_the_same_room() {
        for (quantile, nines) in [(0.0, 0.0), (0.9, 1.0), (0.99, 2.0), (0.999, 3.0), (1.0, NINES_MAX)] {
            assert!((nines_of(quantile) - nines).abs() < 1e-9, "{quantile}");
        }
    }

    #[test]
    fn a_curve_rises_and_ends_where_its_values_end() {
        let mut times = new_histogram();
        (1..=1_000_u64).for_each(|step| times.record(step * 1_000).unwrap());
        let curve = spectrum_points(&times);
        assert!(curve.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1));
        let end = curve.last().unwrap().0;
        assert!((end - 3.0).abs() < 1e-9, "{end}: a thousand values tell no more nines apart");
    }

    #[test]
    fn a_long_log_is_folded_and_keeps_every_count() {
        let mut times = new_histogram();
        times.record_n(1_500_000, 7).unwrap();
        let mut heat = Heat::default();
        (0..5_000).for_each(|second| heat.add(second, &times));
        assert!(heat.stretches.len() <= STRETCHES_MAX);
        let counted: u64 = heat.stretches.iter().flat_map(BTreeMap::values).sum();
        assert_eq!(counted, 35_000);
        assert!((157..=313).contains(&heat.stretches.len()), "{}", heat.stretches.len());
        heat.add(u64::MAX, &times);
        assert!(heat.stretches.len() <= STRETCHES_MAX);
    }

    #[test]
    fn a_damaged_log_is_told() {
        assert!(fold_log(b"Tag=response,1.0,1.0,5.0,!!!\n", 0).is_err());
        assert_eq!(fold_log(b"#[a comment]\n", 0).unwrap(), Folded::default());
    }
}
