//! What the provider counted, for `GET /stats`.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::format::Format;
use super::script::Script;
use super::turn::Asked;

/// Streams whose readers left, and refusals, that are remembered.
const REMEMBERED: usize = 1_024;
/// Models that are told apart.
const MODELS_MAX: usize = 256;

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests for an answer.
    pub requests: u64,
    /// Of these, by format.
    pub formats: BTreeMap<&'static str, u64>,
    /// Of these, by model.
    pub models: BTreeMap<String, u64>,
    /// Of these, streams.
    pub streams: u64,
    /// Requests that the real service would not have taken.
    pub refused: u64,
    /// Why, the last ones.
    pub refusals: VecDeque<String>,
    /// Images in requests.
    pub images: u64,
    /// Answers that were given to their end.
    pub completed: u64,
    /// Streams whose reader left before their end.
    pub aborted: u64,
    /// Tokens that were sent to readers who then left.
    pub tokens_before_abort: u64,
    /// The last of these streams.
    pub left: VecDeque<Left>,
    /// Answers that are being given.
    pub in_flight: u64,
    /// Tokens sent.
    pub tokens: u64,
    /// Faults and errors, by what was asked for.
    pub faults: BTreeMap<String, u64>,
}

/// A stream whose reader left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Which request it was, from 1.
    pub number: u64,
    /// Tokens that were sent.
    pub tokens: u32,
    /// When the last of them were written, in nanoseconds of the machine's monotonic clock: who knows when its reader
    /// left can tell how many came after that.
    pub stamps_ns: Vec<u64>,
    /// When it was noticed.
    pub noticed_ns: u64,
}

impl Stats {
    /// Counts a request; its number, from 1.
    pub(super) fn on_request(&mut self, format: Format) -> u64 {
        self.requests += 1;
        *self.formats.entry(format.name()).or_default() += 1;
        self.requests
    }

    pub(super) fn on_refused(&mut self, format: Format, why: &str) {
        self.refused += 1;
        if REMEMBERED <= self.refusals.len() {
            self.refusals.pop_front();
        }
        self.refusals.push_back(format!("{}: {why}", format.name()));
    }

    pub(super) fn on_asked(&mut self, asked: &Asked, script: &Script) {
        self.images += asked.images;
        if self.models.contains_key(&asked.model) || self.models.len() < MODELS_MAX {
            *self.models.entry(asked.model.clone()).or_default() += 1;
        }
        let name = match (script.status, script.fault) {
            (200, None) => String::new(),
            (200, Some(fault)) => fault.name().to_owned(),
            (status, _) => status.to_string(),
        };
        if !name.is_empty() {
            *self.faults.entry(name).or_default() += 1;
        }
        self.streams += u64::from(asked.stream && script.status == 200);
    }

    pub(super) fn on_left(&mut self, left: Left) {
        self.aborted += 1;
        self.tokens_before_abort += u64::from(left.tokens);
        if REMEMBERED <= self.left.len() {
            self.left.pop_front();
        }
        self.left.push_back(left);
    }
}
