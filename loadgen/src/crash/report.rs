//! What the rounds are told as: a row each, the ledger at the end, and the same as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::{Cause, Double, Judgement, Key, Loss};
use super::{Kill, Plan, Tally};
use crate::host::Fingerprint;

/// Names of messages that are told one by one; the rest is in the JSON.
const TOLD_MAX: usize = 10;

/// One round.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// The seed of its batch, and its place there.
    seed: u64,
    round: u32,
    /// What ended it.
    killed_by: String,
    load_ns: u64,
    /// How long the gateway that was killed took to start.
    start_ns: u64,
    /// Lives after it that were killed before they were ready.
    killed_at_start: u64,
    sent: u64,
    acked: u64,
    refused: u64,
    broken: u64,
    rest_answered: u64,
    rest_failed: u64,
    /// Messages acknowledged and answers taken since the first round.
    acked_so_far: u64,
    answers_so_far: u64,
}

impl Row {
    pub(super) fn new(plan: &Plan, round: u32, killed_by: String, load_ns: u64, start_ns: u64) -> Self {
        Self { seed: plan.seed, round, killed_by, load_ns, start_ns, ..Self::default() }
    }

    pub(super) fn finish(self, tally: &Tally, so_far: (u64, u64)) -> Self {
        Self {
            killed_at_start: tally.killed_at_start,
            sent: tally.sent,
            acked: tally.acked,
            refused: tally.refused.values().sum(),
            broken: tally.broken,
            rest_answered: tally.rest_answered,
            rest_failed: tally.rest_failed,
            acked_so_far: so_far.0,
            answers_so_far: so_far.1,
            ..self
        }
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{:>6} {:<22} {:>8.0} {:>8.0} {:>8} {:>7} {:>7} {:>7} {:>7} {:>6}/{:<6} {:>9} {:>9}",
            self.round,
            self.killed_by,
            self.start_ns as f64 / 1e6,
            self.load_ns as f64 / 1e6,
            self.killed_at_start,
            self.sent,
            self.acked,
            self.refused,
            self.broken,
            self.rest_answered,
            self.rest_failed,
            self.acked_so_far,
            self.answers_so_far,
        )
    }
}

/// The whole account.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Account {
    schema: &'static str,
    machine: Fingerprint,
    driver: String,
    seed: u64,
    kills: Vec<&'static str>,
    /// Codes with which new work had to be refused, of which there is none.
    missing_refusals: Vec<&'static str>,
    #[serde(skip)]
    expected: Vec<&'static str>,
    /// Losses of power.
    pub(super) cuts: u32,
    /// How long starts after losses of power took.
    pub(super) restarts_ns: Vec<u64>,
    pub(super) rows: Vec<Row>,
    /// What went so wrong that a batch could not go on.
    pub(super) faults: Vec<String>,
    /// Refusals by code, over all rounds.
    refused: BTreeMap<String, u64>,
    /// Calls without a journal that were neither answered nor visibly not.
    rest_silent: u64,
    /// The last life of each batch ended with code 0 when it was asked to, and no log tells of a panic.
    pub(super) ended_well: bool,
    pub(super) judgement: Judgement,
}

impl Account {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            schema: "clawgate.loadgen.crash/1",
            machine: Fingerprint::read(),
            driver: plan.driver.clone(),
            seed: plan.seed,
            kills: plan.kills.iter().copied().map(Kill::name).collect(),
            missing_refusals: Vec::new(),
            expected: plan.kills.iter().filter_map(|kill| kill.refusal()).collect(),
            cuts: 0,
            restarts_ns: Vec::new(),
            rows: Vec::new(),
            faults: Vec::new(),
            refused: BTreeMap::new(),
            rest_silent: 0,
            ended_well: true,
            judgement: Judgement::default(),
        }
    }

    /// Adds what was counted since the last time.
    pub(super) fn add(&mut self, tally: &Tally) {
        for (code, count) in &tally.refused {
            *self.refused.entry(code.clone()).or_default() += count;
        }
        self.rest_silent += tally.rest_silent;
        let missing = |code: &&'static str| !self.refused.contains_key(*code);
        self.missing_refusals = self.expected.iter().copied().filter(missing).collect();
    }

    /// Requests that broke or failed where none may: the sockets only changed hands.
    fn dropped(&self) -> u64 {
        if self.kills.iter().any(|kill| *kill != Kill::Takeover.name()) {
            return 0;
        }
        self.rows.iter().map(|row| row.broken + row.rest_failed).sum()
    }

    /// Whether nothing was done yet.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.cuts == 0
    }

    /// How long starts took, the shortest first, in nanoseconds. A hand-over counts from its beginning to its end.
    fn starts_ns(&self) -> Vec<u64> {
        let rows = self.rows.iter().map(|row| row.start_ns);
        let mut starts: Vec<u64> = self.restarts_ns.iter().copied().chain(rows).collect();
        starts.sort_unstable();
        starts
    }

    /// As JSON: a line for each round and each message.
    pub(super) fn json(&self) -> Vec<u8> {
        let mut text = String::new();
        write_json(&mut text, &serde_json::to_value(self).unwrap_or_default(), 0);
        text.push('\n');
        text.into_bytes()
    }

    /// The heads of a table that has a row for each run, in Markdown.
    pub(super) const TABLE_HEAD: &str = "| run | driver | rounds | acknowledged | answered | dead letters | lost | doubled | \
        doubled in flight | reordered | forgotten | start p50 / p99 / longest, ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";

    /// The row of this run.
    pub(super) fn table_row(&self, name: &str) -> String {
        let judgement = &self.judgement;
        let unexcused = judgement.unexcused().count();
        let starts = self.starts_ns();
        let at = |hundredth: usize| {
            let place = (starts.len() * hundredth).div_ceil(100).saturating_sub(1);
            starts.get(place).copied().unwrap_or(0) as f64 / 1e6
        };
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {unexcused} | {} | {} | {} | {:.0} / {:.0} / {:.0} |\n",
            self.driver,
            self.rows.len() + self.cuts as usize,
            judgement.acked,
            judgement.answered,
            judgement.dead,
            judgement.lost.len(),
            judgement.doubled.len() - unexcused,
            judgement.reordered.len(),
            judgement.forgotten.len(),
            at(50),
            at(99),
            at(100),
        )
    }

    /// Whether every promise was kept.
    pub(super) fn is_kept(&self) -> bool {
        self.judgement.is_kept()
            && self.rest_silent == 0
            && self.ended_well
            && self.faults.is_empty()
            && 0 < self.judgement.acked
            && self.missing_refusals.is_empty()
            && self.dropped() == 0
    }

    /// The heads of the rows.
    pub(super) fn head(&self) -> String {
        format!(
            "kills: {}; driver {}, seed {}\n{:>6} {:<22} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>13} {:>9} {:>9}",
            self.kills.join(", "),
            self.driver,
            self.seed,
            "round",
            "ended by",
            "start ms",
            "load ms",
            "at start",
            "sent",
            "acked",
            "refused",
            "broken",
            "REST ok/fail",
            "all acked",
            "answers",
        )
    }

    /// The ledger.
    pub(super) fn text(&self) -> String {
        let judgement = &self.judgement;
        let excused = judgement.doubled.len() - judgement.unexcused().count();
        let mut text = format!(
            "\n  acknowledged {}, answered {}, dead-lettered {}\n  never acknowledged {}, of these answered {}\n  \
             answers sent again under their key and dropped: {}\n  lost {} / doubled {} / reordered {} / forgotten {} / \
             garbled {} / stray {}; doubled with an excuse: {excused}\n",
            judgement.acked,
            judgement.answered,
            judgement.dead,
            judgement.unacked,
            judgement.unacked_answered,
            judgement.repeats,
            judgement.lost.len(),
            judgement.unexcused().count(),
            judgement.reordered.len(),
            judgement.forgotten.len(),
            judgement.garbled,
            judgement.strays,
        );
        tell_counts(&mut text, "refused", &self.refused);
        tell_counts(&mut text, "ended with an error after they were acknowledged", &judgement.failed);
        tell_names(&mut text, "lost", judgement.lost.iter().map(tell_loss));
        tell_names(&mut text, "reordered", judgement.reordered.iter().map(name));
        tell_names(&mut text, "forgotten", judgement.forgotten.iter().map(name));
        tell_names(&mut text, "doubled", judgement.unexcused().map(describe));
        let excused =
            judgement.doubled.iter().filter(|double| matches!(double.cause, Cause::InFlight { .. }));
        tell_names(&mut text, "doubled in flight", excused.map(describe));
        if self.rest_silent != 0 {
            text += &format!("  calls that were neither answered nor visibly not: {}\n", self.rest_silent);
        }
        if !self.ended_well {
            text += "  a last life did not end with code 0 when it was asked to, or a log tells of a panic\n";
        }
        if self.dropped() != 0 {
            text +=
                &format!("  requests dropped though the sockets only changed hands: {}\n", self.dropped());
        }
        for code in &self.missing_refusals {
            text += &format!("  nothing was refused with {code}\n");
        }
        for fault in &self.faults {
            text += &format!("  {fault}\n");
        }
        if judgement.acked == 0 {
            text += "  nothing was acknowledged, which proves nothing\n";
        }
        text += if self.is_kept() { "  nothing was lost" } else { "  THE PROMISE IS BROKEN" };
        text
    }
}

/// Objects spread over lines down to the second level, lists with an element a line.
fn write_json(text: &mut String, value: &serde_json::Value, depth: usize) {
    use serde_json::Value;
    let indent = "  ".repeat(depth + 1);
    let mut parts = Vec::new();
    let (open, close) = match value {
        Value::Object(fields) if depth < 2 && !fields.is_empty() => {
            for (name, field) in fields {
                let mut part = format!("{indent}\"{name}\": ");
                write_json(&mut part, field, depth + 1);
                parts.push(part);
            }
            ('{', '}')
        }
        Value::Array(elements) if elements.iter().any(Value::is_object) => {
            parts.extend(elements.iter().map(|element| format!("{indent}{element}")));
            ('[', ']')
        }
        plain @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_)) => {
            *text += &plain.to_string();
            return;
        }
    };
    *text += &format!("{open}\n{}\n{}{close}", parts.join(",\n"), "  ".repeat(depth));
}

fn tell_counts(text: &mut String, what: &str, counts: &BTreeMap<String, u64>) {
    if !counts.is_empty() {
        let counts: Vec<String> = counts.iter().map(|(code, count)| format!("{code} {count}")).collect();
        *text += &format!("  {what}: {}\n", counts.join(", "));
    }
}

fn tell_names(text: &mut String, what: &str, names: impl Iterator<Item = String>) {
    let names: Vec<String> = names.collect();
    for told in names.iter().take(TOLD_MAX) {
        *text += &format!("  {what}: {told}\n");
    }
    if TOLD_MAX < names.len() {
        *text += &format!("  {what}: and {} more, in the JSON of --out\n", names.len() - TOLD_MAX);
    }
}

fn name(key: &Key) -> String {
    format!("{} chat {} message {}", key.door.name(), key.chat, key.seq)
}

fn tell_loss(loss: &Loss) -> String {
    let before_ms = loss.before_end_ns as f64 / 1e6;
    format!("{}, acknowledged in life {}, {before_ms:.1} ms before its end", name(&loss.key), loss.life)
}

fn describe(double: &Double) -> String {
    let why = match double.cause {
        Cause::InFlight { age_ns } => {
            format!("in flight, confirmed {:.1} ms before the kill", age_ns as f64 / 1e6)
        }
        Cause::Unacknowledged => "it had no receipt at the kill, and was said again".to_owned(),
        Cause::NoKill => "nobody killed the gateway between both".to_owned(),
        Cause::Settled => "a later answer of the chat had come before the kill".to_owned(),
        Cause::LongBefore { age_ns } => format!("confirmed {:.1} ms before the kill", age_ns as f64 / 1e6),
        Cause::Keyed => "this door has what a repetition is known by".to_owned(),
    };
    format!("{}, in lives {} and {}: {why}", name(&double.key), double.lives.0, double.lives.1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn json_has_a_line_for_each_element_and_is_what_it_was() {
        let value = serde_json::json!({
            "schema": "x/1", "empty": {}, "none": [], "numbers": [1, 2],
            "judgement": { "acked": 2, "lost": [{ "key": { "chat": 1 } }, { "key": { "chat": 2 } }] },
            "rows": [{ "round": 1 }, { "round": 2 }, { "round": 3 }],
        });
        let mut text = String::new();
        write_json(&mut text, &value, 0);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert_eq!(text.lines().filter(|line| line.contains("\"round\"")).count(), 3);
        assert_eq!(text.lines().filter(|line| line.contains("\"chat\"")).count(), 2);
    }
}
