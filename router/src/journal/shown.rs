//! What is shown of the journal: metrics, and a part of `/health/detailed`.
use super::{Journals, Report};
use clawgate_core::journal::writer::State;
use serde_json::{Value, json};

/// A number of each shard's journal: its name, its help, whether it only grows, and where it stands.
type Number = (&'static str, &'static str, bool, fn(&Report) -> u64);

/// All of them.
pub(crate) const NUMBERS: [Number; 11] = [
    ("journal_records", "Records appended to the journal", true, |report| report.counts.records),
    ("journal_appended_bytes", "Bytes of records appended to the journal", true, |report| {
        report.counts.bytes
    }),
    (
        "journal_records_left_out",
        "Records that found the journal's buffer full, and are carried on later",
        true,
        |report| report.counts.left_out,
    ),
    ("journal_writes", "Writes to the journal's files that succeeded", true, |report| report.counts.writes),
    ("journal_syncs", "Syncs of the journal's files that succeeded", true, |report| report.counts.syncs),
    ("journal_segments_begun", "Files of the journal that were made or used again", true, |report| {
        report.counts.segments_begun
    }),
    ("journal_failures", "Writes, syncs and makings of files that the disk refused", true, |report| {
        report.counts.failures
    }),
    ("journal_disk_bytes", "Bytes of the journal's files", false, |report| report.disk_bytes),
    ("journal_segments", "Files of the journal", false, |report| report.segments as u64),
    ("journal_buffered_bytes", "Bytes of records that are not known to be safe on disk", false, |report| {
        report.buffered as u64
    }),
    (
        "journal_state",
        "Whether the journal takes records: 0 yes, 1 it is full, 2 it cannot be written",
        false,
        |report| report.state as u64,
    ),
];

/// The name of a state.
const fn name(state: State) -> &'static str {
    match state {
        State::Open => "ok",
        State::Full => "full",
        State::Failed => "failed",
    }
}

/// The worst of the shards' states, if it is not that all is well.
pub(crate) fn trouble<'r>(reports: impl Iterator<Item = &'r Report>) -> Option<&'static str> {
    let worst = reports.map(|report| report.state).max_by_key(|state| *state as u64)?;
    (worst != State::Open).then(|| name(worst))
}

/// The part of `/health/detailed`.
pub(crate) fn health(journals: Option<&Journals>, reports: &[&Report]) -> Value {
    let Some(journals) = journals else { return json!({ "status": "off" }) };
    let sum = |what: fn(&Report) -> u64| -> u64 { reports.iter().map(|report| what(report)).sum() };
    let past = journals.past();
    json!({
        "status": trouble(reports.iter().copied()).unwrap_or("ok"),
        "folder": journals.folder().display().to_string(),
        "lineage": past.lineage,
        "diskBytes": sum(|report| report.disk_bytes),
        "segments": sum(|report| report.segments as u64),
        "bufferedBytes": sum(|report| report.buffered as u64),
        "failures": sum(|report| report.counts.failures),
        "past": {
            "records": past.records,
            "recordsLost": past.records_lost,
            "filesUnreadable": past.unreadable,
            "filesLeft": journals.older_left(),
        },
    })
}
