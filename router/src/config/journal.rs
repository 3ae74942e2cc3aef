//! What is acknowledged and survives a crash: section `journal`.
use super::path::Path;
use super::report::Report;
use clawgate_core::limits::Limits;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes on disk for each message that is under way: twice 8 KiB, for itself and its answer, because half of the room is
/// what the journal keeps to move the rest.
const TURN_BYTES: u64 = 16 << 10;
/// Files of a thread at the least: the largest message and its answer must fit into one.
const FILES_MIN: u64 = 8;

/// What is acknowledged and survives a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// There is one, if there is a data directory.
    pub(crate) enabled: bool,
    /// When a record counts as durable.
    pub(crate) mode: Mode,
    /// In the mode `interval`: how often it is synced.
    pub(crate) interval: Duration,
    /// Bytes of a file.
    pub(crate) segment_bytes: u64,
    /// Bytes of all files of a process.
    pub(crate) disk_bytes_max: u64,
    /// Bytes that a thread holds in memory until they are safe.
    pub(crate) buffer_bytes_max: usize,
}

/// When a record counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// When it was synced: what is acknowledged survives a loss of power.
    #[default]
    Always,
    /// When it was written: it survives the end of the process; what came within `intervalMillis` before a loss of power
    /// may be gone.
    Interval,
    /// When it was written; when it is synced is left to the system, which may take half a minute.
    Os,
}

/// What is acknowledged and survives a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct JournalSection {
    /// Messages of webhooks, and those that ask for a receipt, are written down before they are acknowledged. Needs
    /// `data.folder`.
    pub(super) enabled: bool,
    /// When what was written down is acknowledged.
    pub(super) mode: Mode,
    /// In the mode `interval`: how often it is synced.
    #[schemars(range(min = 1, max = 60_000))]
    pub(super) interval_millis: u32,
    /// Bytes of a file of the journal. Smaller where `diskBytesMax` is small: each thread has at least eight.
    #[schemars(range(min = 131_072, max = 1_073_741_824))]
    pub(super) segment_bytes: u64,
    /// Bytes of the journal on disk, all threads together. At three quarters of it new work is refused with
    /// `JOURNAL_FULL`; what runs may finish. While the files of an earlier start are read there may be twice as much. Half
    /// of it must hold the messages and answers that are under way: give it 16 KiB for each of `limits.turnsMax`, or
    /// twice what they take in your case. Where they take all of it, an eighth more is used, so that they can end.
    #[schemars(range(min = 16_777_216, max = 1_099_511_627_776_u64))]
    pub(super) disk_bytes_max: u64,
    /// Bytes that each thread holds in memory until they are safe on disk; two copies of it at most. When three quarters
    /// are taken, new work is refused with `JOURNAL_FULL`.
    #[schemars(range(min = 65_536, max = 268_435_456))]
    pub(super) buffer_bytes_max: u32,
}

impl Default for JournalSection {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: Mode::Always,
            interval_millis: 100,
            segment_bytes: 64 << 20,
            disk_bytes_max: 4 << 30,
            buffer_bytes_max: 8 << 20,
        }
    }
}

impl JournalSection {
    /// Checks and resolves.
    pub(super) fn resolve(&self, limits: &Limits, shards: u16, report: &mut Report<'_>) -> Journal {
        if self.disk_bytes_max / 8 < self.segment_bytes
            && report.is_written(&Path::of("journal").key("segmentBytes"))
        {
            let at = Path::of("journal").key("segmentBytes");
            let message =
                "eight files of this size do not fit into `diskBytesMax`: they will be smaller".to_owned();
            report.warning(&at, message, "lower it, or raise `journal.diskBytesMax`");
        }
        self.check_room(limits, shards, report);
        Journal {
            enabled: self.enabled,
            mode: self.mode,
            interval: Duration::from_millis(u64::from(self.interval_millis)),
            segment_bytes: self.segment_bytes,
            disk_bytes_max: self.disk_bytes_max,
            buffer_bytes_max: self.buffer_bytes_max as usize,
        }
    }

    /// What is under way is carried from file to file as old files go. Where it takes more than half of the room, the
    /// journal fills with it, and new messages are refused.
    fn check_room(&self, limits: &Limits, shards: u16, report: &mut Report<'_>) {
        if !self.enabled {
            return;
        }
        let (disk, threads) = (self.disk_bytes_max, u64::from(shards.max(1)));
        let largest = u64::from(limits.text_bytes_max) + u64::from(limits.reply_bytes_max);
        let needed = FILES_MIN * threads * largest;
        let at = Path::of("journal").key("diskBytesMax");
        if disk < needed {
            let message = format!(
                "a message of `limits.textBytesMax` and an answer of `limits.replyBytesMax` do not fit into an eighth of a \
                 thread's share of the journal, {} bytes",
                disk / threads / FILES_MIN
            );
            let help = format!(
                "raise it to {needed} (8 × threads × (textBytesMax + replyBytesMax)), or lower those"
            );
            report.error(&at, message, help);
            return;
        }
        let turns = u64::from(limits.turns_max);
        let needed = TURN_BYTES * turns;
        if disk < needed {
            let message = format!(
                "with as many messages under way as `limits.turnsMax` allows ({turns}), each may take {} bytes of the \
                 journal with its answer: when they take more, new ones are refused with JOURNAL_FULL",
                disk / 2 / turns.max(1)
            );
            let help = format!(
                "raise it to {needed} (16 KiB × turnsMax), or lower `limits.turnsMax` to {}",
                disk / TURN_BYTES
            );
            report.warning(&at, message, help);
        }
    }
}
