//! What a capacity plan is made from, read from results: loads with their histograms, searches with their shards.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use super::queue::Times;
use super::{Measured, Point};
use crate::compare::stored::{self, Stored};
use crate::measure::{Times64, new_histogram};

/// Values that a histogram is taken down to.
const VALUES: u32 = 4000;

/// Reads all results and searches of these folders. `shares` are the shards' parts, if somebody knows better.
///
/// # Errors
/// What is missing, and how it is made.
pub fn read(places: &[impl AsRef<Path>], shares: Option<Vec<f64>>) -> Result<Measured, String> {
    let mut points = Vec::new();
    let mut searches = Vec::new();
    let mut gaps = Times::Exponential(1.0);
    for place in places {
        let place = place.as_ref();
        for one in stored::read(place)? {
            // A generator that was late measured itself, and what was broken off measured nothing.
            if matches!(one.verdict(), "VALID" | "NOISY") {
                gaps = gaps_of(one.json["asked"]["arrivals"].as_str().unwrap_or("poisson"));
                points.push(point(&one)?);
            }
        }
        searches.extend(read_search(&place.join("search.json"))?);
    }
    points.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    if points.is_empty() {
        return Err("no run here is VALID or NOISY: there is nothing to plan from".to_owned());
    }
    let found = searches.iter().map(|search| search.shares.clone()).max_by_key(Vec::len);
    let (shares, shares_guessed) = match shares.or(found.filter(|shares| !shares.is_empty())) {
        Some(shares) => (shares, false),
        None => (vec![1.0], true),
    };
    let largest = searches
        .iter()
        .filter_map(|search| {
            Some((u32::try_from(search.shares.len()).ok().filter(|n| 0 < *n)?, search.rate?))
        })
        .collect();
    Ok(Measured { points, shares, shares_guessed, largest, gaps })
}

fn gaps_of(arrivals: &str) -> Times {
    let size = arrivals
        .strip_prefix("burst:")
        .or_else(|| arrivals.strip_prefix("burst(").and_then(|rest| rest.strip_suffix(')')));
    match size.and_then(|size| size.parse().ok()) {
        Some(size) => Times::Crowds(1.0, size),
        // Evenly over all shards is not evenly on each: sessions are drawn. Waves and recordings are nothing that a plan
        // for a steady load has.
        None => Times::Exponential(1.0),
    }
}

fn point(one: &Stored) -> Result<Point, String> {
    let path = one.path.display();
    let need = |pointer: &str, how: &str| one.number(pointer).ok_or_else(|| format!("{path}: {how}"));
    let pid = "no processor time of the gateway: run it with --gateway-pid";
    let answered = one.number("/traffic/answered").unwrap_or(0.0).max(1.0);
    let bytes =
        ["/traffic/bytes_in", "/traffic/bytes_out"].iter().filter_map(|name| one.number(name)).sum::<f64>();
    let log = one.path.with_file_name("latency.hlog");
    let responses = histogram(&log, "response").map_err(|why| format!("{}: {why}", log.display()))?;
    Ok(Point {
        name: path.to_string(),
        rate: need("/rates/answers_per_second", "no rate")?,
        sessions: need("/asked/sessions", "no sessions")?,
        cpu_ns: need("/gateway/cpu_us_per_message", pid)? * 1e3,
        resident_kib: need("/gateway/resident_kib_after", pid)?,
        bytes: bytes / answered,
        responses_ns: values(&responses),
        count: responses.len() as f64,
    })
}

/// Evenly spaced quantiles.
fn values(histogram: &Times64) -> Vec<f64> {
    let at = |number: u32| histogram.value_at_quantile((f64::from(number) + 0.5) / f64::from(VALUES)) as f64;
    (0..VALUES).map(at).collect()
}

/// Adds up one metric of an interval log.
fn histogram(path: &Path, metric: &str) -> Result<Times64, String> {
    let text = fs::read(path)
        .map_err(|error| format!("{error}; `loadgen run --out` writes it beside the result"))?;
    let mut sum = new_histogram();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(&text) {
        let entry = entry.map_err(|error| format!("no interval log: {error:?}"))?;
        let LogEntry::Interval(interval) = entry else { continue };
        if interval.tag().is_none_or(|tag| tag.as_str() != metric) {
            continue;
        }
        let encoded = base64::engine::general_purpose::STANDARD.decode(interval.encoded_histogram());
        let bytes = encoded.map_err(|error| format!("a damaged histogram: {error}"))?;
        let one: Times64 = deserializer
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| format!("a damaged histogram: {error:?}"))?;
        sum.add(&one).map_err(|error| format!("a histogram of another kind: {error:?}"))?;
    }
    if sum.is_empty() { Err(format!("it has no {metric} times")) } else { Ok(sum) }
}

struct SearchFound {
    shares: Vec<f64>,
    rate: Option<f64>,
}

fn read_search(path: &Path) -> Result<Option<SearchFound>, String> {
    let Ok(text) = fs::read(path) else { return Ok(None) };
    let json: Value =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let schema = json["schema"].as_str().unwrap_or("none");
    if schema != crate::search::SCHEMA {
        return Err(format!(
            "{}: its schema is {schema}, and this loadgen reads {}",
            path.display(),
            crate::search::SCHEMA
        ));
    }
    let shares = json["shard_shares"].as_object().into_iter().flat_map(|shares| shares.values());
    let shares = shares.filter_map(Value::as_f64).collect();
    let at_least = json["answer"]["at_least"].as_bool() == Some(true);
    Ok(Some(SearchFound { shares, rate: json["answer"]["rate"].as_f64().filter(|_| !at_least) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_known_by_what_a_result_calls_them() {
        // As results of earlier builds call it, too.
        for crowd in ["burst:50", "burst(50)"] {
            assert_eq!(gaps_of(crowd), Times::Crowds(1.0, 50));
        }
        for other in ["constant", "poisson", "bursty:400%,20%,500ms", "ramp:100", "trace:gone.csv"] {
            assert_eq!(gaps_of(other), Times::Exponential(1.0), "{other}");
        }
    }

    #[test]
    fn quantiles_of_a_histogram_have_its_mean() {
        let mut histogram = new_histogram();
        (1..=10_000_u64).for_each(|value| histogram.saturating_record(value * 100));
        let mean = crate::stats::mean(&values(&histogram));
        assert!((mean / histogram.mean() - 1.0).abs() < 0.01, "{mean}");
    }
}
