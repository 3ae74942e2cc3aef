//! Results as they are stored, read back. What a newer version has added is passed over; a version that means something
//! else by its fields is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::fold::{Folded, fold_log};
use crate::host::Fingerprint;
use crate::measure::Metric;
use crate::report::{Account, Distribution, GatewayCost, Noise, Rates, Row, SCHEMA};

/// What is wrong with a file, and where: a result, or a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub(crate) String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Whether a document of this schema is one that this version reads.
#[must_use]
pub fn is_result_schema(schema: &str) -> bool {
    schema == SCHEMA
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunAsked {
    pub(crate) scenario: String,
    pub(crate) arrivals: String,
    pub(crate) rate: f64,
    pub(crate) sessions: u32,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    pub(crate) duration_ns: u64,
    pub(crate) warmup_ns: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) seed: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunVerdict {
    pub(crate) word: String,
    pub(crate) reasons: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunObjective {
    pub(crate) objective: String,
    /// Nothing where no value was found.
    pub(crate) found: Option<f64>,
    pub(crate) met: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunGenerator {
    pub(crate) cpu_ns_per_message: f64,
    pub(crate) thread_shares: Vec<f64>,
    pub(crate) backend: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunSteady {
    /// The first second that was timed; 0 if nothing was cut.
    pub(crate) from_second: u64,
}

/// A stored result.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Run {
    /// What it is called among others: its folder.
    #[serde(skip)]
    pub name: String,
    pub(crate) schema: String,
    /// How it can be made again.
    pub command: Vec<String>,
    /// Of the gateway.
    pub commit: Option<String>,
    /// When it began.
    pub started_unix_seconds: u64,
    /// Where it was made.
    pub machine: Fingerprint,
    pub(crate) asked: RunAsked,
    pub(crate) verdict: RunVerdict,
    /// Nothing lost, doubled, reordered or corrupted.
    pub exact: bool,
    /// What became of its messages.
    pub account: Account,
    /// The same for each part of a mixture.
    pub parts: Vec<Account>,
    pub(crate) rates: Option<Rates>,
    pub(crate) steady: RunSteady,
    /// The times by metric, in nanoseconds.
    pub times_ns: BTreeMap<String, Distribution>,
    pub(crate) gateway: Option<GatewayCost>,
    pub(crate) generator: RunGenerator,
    pub(crate) noise: Option<Noise>,
    pub(crate) slo: Vec<RunObjective>,
    pub(crate) schedule_digest: String,
    /// Its seconds.
    pub seconds: Vec<Row>,
    /// What is drawn of its interval log.
    #[serde(skip)]
    pub(crate) log: Folded,
}

impl Run {
    /// Reads a folder with `result.json` and, if it is there, `latency.hlog`; or a result's JSON file alone.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub fn read(place: &Path) -> Result<Self, Unreadable> {
        let folder = place.is_dir();
        let file = if folder { place.join("result.json") } else { place.to_owned() };
        let told = |error: &dyn fmt::Display| Unreadable(format!("{}: {error}", file.display()));
        let bytes = fs::read(&file).map_err(|error| told(&error))?;
        let mut run = Self::parse(&bytes).map_err(|error| told(&error))?;
        let named = if folder { place } else { place.parent().unwrap_or(place) };
        let named = named.canonicalize().unwrap_or_else(|_| named.to_owned());
        run.name = named.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let log = named.join("latency.hlog");
        if let Ok(bytes) = fs::read(&log) {
            run.log = fold_log(&bytes, run.steady.from_second)
                .map_err(|error| Unreadable(format!("{}: {error}", log.display())))?;
        }
        Ok(run)
    }

    /// Reads a result's document.
    ///
    /// # Errors
    /// It is none, or of a version that this program does not read.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let run: Self = serde_json::from_slice(bytes)
            .map_err(|error| Unreadable(format!("this is no result of loadgen: {error}")))?;
        if !is_result_schema(&run.schema) {
            return Err(Unreadable(format!(
                "its schema is {:?}, and this version reads {SCHEMA:?}: show it with the version that wrote it",
                run.schema
            )));
        }
        Ok(run)
    }

    /// What most people ask for first.
    pub(crate) fn response(&self) -> Option<&Distribution> {
        self.times_ns.get(Metric::Response.name())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::formats::fold::Folder;
    use crate::ledger::Tally;
    use crate::measure::new_histogram;

    /// A stored run of eight seconds whose times lie around `centre_ns`.
    pub(in crate::formats) fn run(name: &str, rate: f64, centre_ns: u64) -> Run {
        let mut run = Run {
            name: name.to_owned(),
            schema: SCHEMA.to_owned(),
            command: ["loadgen", "run", "ws-chat", "--key", "***"].map(str::to_owned).to_vec(),
            exact: true,
            asked: RunAsked {
                scenario: "ws-chat".to_owned(),
                rate,
                duration_ns: 8_000_000_000,
                ..RunAsked::default()
            },
            verdict: RunVerdict { word: "VALID".to_owned(), reasons: vec![] },
            account: Account {
                tally: Tally { opened: 8_000, answered: 8_000, ..Tally::default() },
                ..Account::default()
            },
            ..Run::default()
        };
        let mut folder = Folder::default();
        let mut sum = new_histogram();
        for second in 0..8 {
            let mut times = new_histogram();
            for step in 1..=1_000_u64 {
                times.record(centre_ns / 2 + centre_ns * step / 1_000 + centre_ns / (1_001 - step)).unwrap();
            }
            run.seconds.push(Row { second, sent: 1_000, answered: 1_000, ..Row::default() });
            folder.add(second, Metric::Response, &times);
            sum.add(&times).unwrap();
        }
        run.log = folder.fold();
        run.times_ns.insert("response".to_owned(), Distribution::of(&sum));
        run.rates = Some(Rates {
            target: rate,
            due_in_window: 8_000,
            sent_share: 1.0,
            answers_per_second: rate,
            mean_in_flight: 1.0,
        });
        run
    }

    #[test]
    fn a_result_of_another_version_or_none_at_all_is_refused_in_words() {
        let error = Run::parse(br#"{"schema":"clawgate.loadgen.result/99"}"#).unwrap_err().to_string();
        assert!(error.contains("result/99") && error.contains(SCHEMA), "{error}");
        assert!(Run::parse(b"<html>").unwrap_err().to_string().contains("no result"));
        let error = Run::read(Path::new("/nowhere/at-all")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at-all"), "{error}");
    }

    #[test]
    fn a_field_that_this_version_does_not_know_is_passed_over() {
        let text =
            format!(r#"{{"schema":"{SCHEMA}","exact":true,"something_new":[1],"slo":[{{"found":null}}]}}"#);
        let run = Run::parse(text.as_bytes()).unwrap();
        assert!(run.exact && run.slo[0].found.is_none());
    }
}
