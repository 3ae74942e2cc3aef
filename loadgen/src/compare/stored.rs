//! Results that runs left behind: found, read, and held against each other before anybody compares their figures. Reads
//! files; judges nothing but whether two results are about the same thing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Better, Metric, Series};
use crate::report::SCHEMA;

/// One result, as it was written.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where it is.
    pub path: PathBuf,
    /// The document.
    pub json: Value,
}

/// Reads a result, the result of a folder, or those of all its folders, by name.
///
/// # Errors
/// There is none, or one of them cannot be read: what and where.
pub fn read(path: &Path) -> Result<Vec<Stored>, String> {
    let places = if path.is_file() { vec![path.to_owned()] } else { inside(path)? };
    places.into_iter().map(read_one).collect()
}

fn inside(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let own = folder.join("result.json");
    if own.is_file() {
        return Ok(vec![own]);
    }
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path().join("result.json"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    if found.is_empty() {
        let folder = folder.display();
        return Err(format!(
            "{folder}: no result.json here or in its folders; `loadgen run --out {folder}` makes one"
        ));
    }
    Ok(found)
}

fn read_one(path: PathBuf) -> Result<Stored, String> {
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let json: Value = serde_json::from_slice(&text)
        .map_err(|error| format!("{}: no JSON document: {error}", path.display()))?;
    match json["schema"].as_str() {
        Some(SCHEMA) => Ok(Stored { path, json }),
        Some(other) => Err(format!(
            "{}: its schema is {other}, and this loadgen reads {SCHEMA}: make the result again, or compare with the \
             loadgen that wrote it",
            path.display()
        )),
        None => Err(format!("{}: no result of a run: it names no schema", path.display())),
    }
}

impl Stored {
    /// A number of it.
    #[must_use]
    pub fn number(&self, pointer: &str) -> Option<f64> {
        self.json.pointer(pointer)?.as_f64()
    }

    /// Messages that were lost, doubled, reordered or corrupted.
    #[must_use]
    pub fn inexact(&self) -> u64 {
        ["lost", "doubled", "reordered", "corrupted"]
            .iter()
            .filter_map(|name| self.json["account"][name].as_u64())
            .sum()
    }

    /// Its verdict's word.
    #[must_use]
    pub fn verdict(&self) -> &str {
        self.json["verdict"]["word"].as_str().unwrap_or("unknown")
    }
}

/// What tells machines apart.
const MACHINE: [&str; 6] = ["cpu", "cores", "memory_kib", "kernel", "clocksource", "optimised"];
/// What must have been asked for alike.
const ASKED: [&str; 8] =
    ["scenario", "rate", "arrivals", "sessions", "hazards", "connections", "payload_bytes", "spread"];

/// Why these results should not be compared: other machines, other loads, runs that are worth nothing.
#[must_use]
pub fn objections(base: &[Stored], head: &[Stored]) -> Vec<String> {
    let mut found = Vec::new();
    let Some(first) = base.first() else { return found };
    for other in base.iter().chain(head).skip(1) {
        for (part, names, what) in
            [("machine", &MACHINE[..], "another machine"), ("asked", &ASKED[..], "another load")]
        {
            for name in names {
                let (a, b) = (&first.json[part][name], &other.json[part][name]);
                if a != b {
                    found.push(format!("{}: {what}: its {name} is {b}, not {a}", other.path.display()));
                }
            }
        }
    }
    for one in base.iter().chain(head).filter(|one| one.verdict() != "VALID") {
        let reasons: Vec<&str> = one.json["verdict"]["reasons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        found.push(format!("{}: {}: {}", one.path.display(), one.verdict(), reasons.join("; ")));
    }
    found
}

/// Logarithms of the ratios of neighbours: runs of one side, one after another.
#[must_use]
pub fn neighbours(values: &[f64]) -> Vec<f64> {
    let pairs = values.windows(2).filter(|pair| pair.iter().all(|value| 0.0 < *value));
    pairs.map(|pair| (pair[1] / pair[0]).ln()).collect()
}

/// The metrics that all results have, as series.
#[must_use]
pub fn series(base: &[Stored], head: &[Stored], metrics: &[Metric]) -> Vec<Series> {
    let values = |side: &[Stored], metric: &Metric| -> Option<Vec<f64>> {
        side.iter().map(|one| one.number(metric.pointer)).collect()
    };
    let series = |metric: &Metric| {
        let (base, head) = (values(base, metric)?, values(head, metric)?);
        let mut same = neighbours(&base);
        same.extend(neighbours(&head));
        Some(Series { metric: *metric, base, head, paired: false, same })
    };
    metrics.iter().filter_map(series).collect()
}

/// Which metrics are missing from some result, for a note.
#[must_use]
pub fn missing<'m>(series: &[Series], metrics: &'m [Metric]) -> Vec<&'m str> {
    let has = |metric: &&Metric| !series.iter().any(|one| one.metric.name == metric.name);
    metrics.iter().filter(has).map(|metric| metric.name).collect()
}

/// Whether a rate is what the schedule asked for on both sides: then it says nothing about what could be had.
#[must_use]
pub fn is_bound_by_schedule(series: &[Series], asked: f64) -> bool {
    let near = |value: &f64| (value / asked - 1.0).abs() < 0.02;
    series
        .iter()
        .filter(|one| one.metric.better == Better::Higher)
        .any(|one| one.base.iter().chain(&one.head).all(near))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn stored(name: &str, change: impl FnOnce(&mut Value)) -> Stored {
        let mut json = json!({
            "schema": SCHEMA,
            "machine": { "cpu": "x", "cores": 2, "load_average": name },
            "asked": { "scenario": "ws-chat", "rate": 100.0 },
            "verdict": { "word": "VALID", "reasons": [] },
            "account": { "lost": 1, "doubled": 2 },
            "times_ns": { "response": { "p50": 5 } },
        });
        change(&mut json);
        Stored { path: PathBuf::from(name), json }
    }

    #[test]
    fn other_machines_and_loads_and_bad_runs_are_objected_to() {
        let base = [stored("a", |_| {})];
        assert!(objections(&base, &[stored("b", |_| {})]).is_empty(), "the load average is no difference");
        let other = |json: &mut Value| {
            json["machine"]["cores"] = json!(4);
            json["asked"]["rate"] = json!(200.0);
            json["verdict"] = json!({ "word": "NOISY", "reasons": ["busy"] });
        };
        let found = objections(&base, &[stored("b", other)]).join("\n");
        for words in
            ["b: another machine: its cores is 4, not 2", "another load: its rate is 200.0", "NOISY: busy"]
        {
            assert!(found.contains(words), "{found}");
        }
    }

    #[test]
    fn figures_are_read_and_what_some_lack_is_told() {
        let side = [stored("a", |_| {}), stored("b", |_| {})];
        let metrics = super::super::read_metrics("p50,cpu").unwrap();
        let series = series(&side, &side, &metrics);
        assert_eq!((series.len(), series[0].base.as_slice()), (1, &[5.0, 5.0][..]));
        assert_eq!(missing(&series, &metrics), ["cpu"]);
        assert_eq!(side[0].inexact(), 3);
    }
}
