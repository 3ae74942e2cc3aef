//! Scenarios as files: what is driven and how, under a name, with its purpose and the rule by which it passes. Those that
//! come with the program are such files too. Reads and checks; carries nothing out.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::arrivals::Arrivals;
use crate::formats::Unreadable;
use crate::hazards::{Ending, parse_span};
use crate::mock::provider::Script;
use crate::run::RATE_MAX;
use crate::scenario::{Kind, PARTS_MAX, Part, Scenario};
use crate::slo::{Slo, parse_duration};
use crate::stamp::STAMP_BYTES;

/// What a file says; what it leaves out is the command line's, or its default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Plan {
    /// What it is for, in words.
    pub purpose: String,
    /// When it passes, in words.
    pub passes: String,
    /// Messages a second.
    #[serde(deserialize_with = "rate")]
    pub rate: Option<f64>,
    /// Sessions of each part.
    #[serde(deserialize_with = "count")]
    pub sessions: Option<u32>,
    /// Of a hundred messages of each part, how many are one session's beside what it gets as the others do.
    #[serde(deserialize_with = "percent")]
    pub hot_percent: Option<u32>,
    /// The exponent of Zipf's law by which messages are spread over sessions.
    pub zipf: Option<f64>,
    /// Of the messages of platforms, the share that is delivered twice.
    pub repeats: Option<f64>,
    /// And that is delivered once more some seconds later.
    pub late: Option<f64>,
    /// And that is preceded by a delivery that has to be refused.
    pub malformed: Option<f64>,
    /// Of a hundred connections, how many read slowly.
    #[serde(deserialize_with = "percent")]
    pub slow_percent: Option<u32>,
    /// Bytes a second that each of these reads.
    pub slow_rate: Option<u64>,
    /// When all connections are dropped at once, in nanoseconds after the start of the run.
    #[serde(deserialize_with = "durations")]
    pub storms: Option<Vec<u64>>,
    /// How they end then.
    #[serde(deserialize_with = "parsed")]
    pub storm_end: Option<Ending>,
    /// For how long a client waits at most before it comes back, in nanoseconds.
    #[serde(deserialize_with = "duration")]
    pub storm_jitter: Option<u64>,
    /// When the gateway is restarted, in nanoseconds after the start of the run.
    #[serde(deserialize_with = "durations")]
    pub restarts: Option<Vec<u64>>,
    /// With what, for a shell.
    pub restart_with: Option<String>,
    /// When the provider in this process is not well, in nanoseconds after the start of the run.
    #[serde(deserialize_with = "spans")]
    pub brownouts: Option<Vec<Range<u64>>>,
    /// What it does then.
    #[serde(deserialize_with = "parsed")]
    pub brownout: Option<Script>,
    /// Connections of each part.
    #[serde(deserialize_with = "count")]
    pub connections: Option<u32>,
    /// What is measured, in nanoseconds.
    #[serde(deserialize_with = "duration")]
    pub duration: Option<u64>,
    /// What is sent before it, in nanoseconds.
    #[serde(deserialize_with = "duration")]
    pub warmup: Option<u64>,
    /// How long answers are waited for at the end, in nanoseconds.
    #[serde(deserialize_with = "duration")]
    pub drain: Option<u64>,
    /// How messages arrive.
    #[serde(deserialize_with = "parsed")]
    pub arrivals: Option<Arrivals>,
    /// The seed.
    pub seed: Option<u64>,
    /// Bytes of a message's text.
    #[serde(deserialize_with = "payload")]
    pub payload: Option<usize>,
    /// Generator threads.
    #[serde(deserialize_with = "count")]
    pub threads: Option<u32>,
    /// Objectives.
    #[serde(deserialize_with = "parsed")]
    pub slo: Option<Slo>,
    /// What is mixed.
    #[serde(rename = "part", deserialize_with = "parts")]
    pub scenario: Option<Scenario>,
}

fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let rate = f64::deserialize(from)?;
    if 0.0 < rate && rate <= RATE_MAX {
        return Ok(Some(rate));
    }
    Err(D::Error::custom(format!("{rate} is no rate; write messages a second, above 0 and up to {RATE_MAX}")))
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let count = i64::deserialize(from)?;
    let found = u32::try_from(count).ok().filter(|count| *count != 0);
    found
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{count} is not enough or too many; write 1 or more")))
}

fn percent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let percent = i64::deserialize(from)?;
    let found = u32::try_from(percent).ok().filter(|percent| *percent <= 100);
    found.map(Some).ok_or_else(|| D::Error::custom(format!("{percent} is no share; write 0 to 100")))
}

fn payload<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let bytes = i64::deserialize(from)?;
    let found = usize::try_from(bytes).ok().filter(|bytes| STAMP_BYTES <= *bytes);
    found
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{bytes} is too short; write {STAMP_BYTES} or more")))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_duration(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn durations<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u64>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let read: Result<_, _> = texts.iter().map(|text| parse_duration(text)).collect();
    read.map(Some).map_err(D::Error::custom)
}

fn spans<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Range<u64>>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let read: Result<_, _> = texts.iter().map(|text| parse_span(text)).collect();
    read.map(Some).map_err(D::Error::custom)
}

fn parsed<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

/// One `[[part]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartOf {
    #[serde(deserialize_with = "kind")]
    scenario: Kind,
    #[serde(default = "one")]
    weight: u32,
}

const fn one() -> u32 {
    1
}

fn kind<'de, D: Deserializer<'de>>(from: D) -> Result<Kind, D::Error> {
    let name = String::deserialize(from)?;
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| {
        let names = Kind::ALL.map(Kind::name).join(", ");
        D::Error::custom(format!("there is nothing called {name:?} to drive; write one of {names}"))
    })
}

fn parts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Scenario>, D::Error> {
    let parts: Vec<PartOf> = Vec::deserialize(from)?;
    if parts.is_empty() || PARTS_MAX < parts.len() {
        return Err(D::Error::custom(format!("write 1 to {PARTS_MAX} [[part]]")));
    }
    if let Some(part) = parts.iter().find(|part| part.weight == 0 || 1_000_000 < part.weight) {
        return Err(D::Error::custom(format!("the weight {} is no number from 1 to 1000000", part.weight)));
    }
    let parts = parts.into_iter().map(|part| Part { kind: part.scenario, weight: part.weight });
    Ok(Some(Scenario::from_parts(parts.collect())))
}

impl Plan {
    /// Reads a file's text; `name` is what the file is called when something is wrong with it.
    ///
    /// # Errors
    /// What is wrong and where, as `file:line:column`.
    pub fn parse(name: &str, text: &str) -> Result<Self, Unreadable> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let source = text.lines().nth(line - 1).unwrap_or_default();
            Unreadable(format!("{name}:{line}:{column}: {}\n  {source}", error.message()))
        })
    }
}

/// A scenario that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

/// All of them.
pub const BUILT_IN: [BuiltIn; 12] = [
    BuiltIn { name: "paper", text: include_str!("../scenarios/paper.toml") },
    BuiltIn { name: "burst", text: include_str!("../scenarios/burst.toml") },
    BuiltIn { name: "ramp", text: include_str!("../scenarios/ramp.toml") },
    BuiltIn { name: "hot-session", text: include_str!("../scenarios/hot-session.toml") },
    BuiltIn { name: "webhook-flood", text: include_str!("../scenarios/webhook-flood.toml") },
    BuiltIn { name: "slow-consumers", text: include_str!("../scenarios/slow-consumers.toml") },
    BuiltIn { name: "reconnect-storm", text: include_str!("../scenarios/reconnect-storm.toml") },
    BuiltIn { name: "provider-brownout", text: include_str!("../scenarios/provider-brownout.toml") },
    BuiltIn { name: "rolling-restart", text: include_str!("../scenarios/rolling-restart.toml") },
    BuiltIn { name: "replay", text: include_str!("../scenarios/replay.toml") },
    BuiltIn { name: "churn", text: include_str!("../scenarios/churn.toml") },
    BuiltIn { name: "soak", text: include_str!("../scenarios/soak.toml") },
];

impl BuiltIn {
    /// The one of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        BUILT_IN.into_iter().find(|built_in| built_in.name == name)
    }

    /// What it says.
    ///
    /// # Errors
    /// None: those that come with the program are tested to be right.
    pub fn plan(self) -> Result<Plan, Unreadable> {
        Plan::parse(self.name, self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_says_what_is_driven_and_how() {
        let text = "purpose = 'try'\nrate = 500\nduration = '90s'\narrivals = 'bursty:400%,20%,1s'\nslo = 'p99<45ms,loss=0'\n\
                    [[part]]\nscenario = 'ws-chat'\nweight = 3\n[[part]]\nscenario = 'rest'\n";
        let plan = Plan::parse("a.toml", text).unwrap();
        assert_eq!((plan.rate, plan.duration), (Some(500.0), Some(90_000_000_000)));
        assert_eq!(plan.scenario.unwrap().to_string(), "ws-chat=3,rest=1");
        assert!(plan.slo.is_some() && plan.sessions.is_none());
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_what_can_be_written() {
        let table = [
            ("rate = 500\nsesions = 3\n", "a.toml:2:1", "`sessions`"),
            ("rate = 'fast'\n", "a.toml:1:8", "expected f64"),
            ("purpose = 'x'\n\nduration = '10'\n", "a.toml:3:12", "write 250us, 45ms"),
            ("storms = ['soon']\n", "a.toml:1:10", "write 250us, 45ms"),
            ("storm-end = 'loud'\n", "a.toml:1:13", "abort or polite"),
            ("brownouts = ['2s..1s']\n", "a.toml:1:13", "10s..20s"),
            ("brownout = 'ill'\n", "a.toml:1:12", "mock provider"),
            ("arrivals = 'sometimes'\n", "a.toml:1:12", "bursty:400%"),
            ("slo = 'quick'\n", "a.toml:1:7", "p99<45ms"),
            ("[[part]]\nscenario = 'ws'\n", "a.toml:2:12", "ws-chat"),
            ("[[part]]\nweight = 2\n", "a.toml:1:", "scenario"),
            ("[[part]]\nscenario = 'rest'\nweight = 0\n", "a.toml:", "from 1 to"),
            ("rate = \n", "a.toml:1:", ""),
            ("\nrate = -1\n", "a.toml:2:8", "above 0"),
            ("rate = nan\n", "a.toml:1:8", "above 0"),
            ("sessions = 0\n", "a.toml:1:12", "1 or more"),
            ("threads = 5000000000\n", "a.toml:1:11", "1 or more"),
            ("hot-percent = 101\n", "a.toml:1:15", "0 to 100"),
            ("payload = 3\n", "a.toml:1:11", "64 or more"),
            ("part = []\n", "a.toml:1:8", "[[part]]"),
            ("arrivals = 'trace:/nowhere'\n", "a.toml:1:12", "/nowhere"),
            ("rate = 1\nrate = 2\n", "a.toml:2:", "duplicate"),
        ];
        for (text, place, words) in table {
            let error = Plan::parse("a.toml", text).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_comes_with_the_program_is_right_and_says_what_it_is_for() {
        for built_in in BUILT_IN {
            let plan = built_in.plan().unwrap();
            assert!(!plan.purpose.is_empty() && !plan.passes.is_empty(), "{}", built_in.name);
            assert!(plan.slo.is_some() && plan.scenario.is_some(), "{}", built_in.name);
            assert!(built_in.name.parse::<Scenario>().is_err(), "{} is a way in too", built_in.name);
        }
    }
}
