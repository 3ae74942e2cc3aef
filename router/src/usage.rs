//! What is used: tokens, calls and requests by day, key, agent, model and session. Counted by each thread for itself, and
//! handed once a second to [`books`], which add up all threads and keep what was counted over a restart.
//!
//! A call is charged when it is over, however it ended: by the provider's own counts, or where it gave none, or was cut
//! short, by an estimate that is marked as one. Obeys `router/docs/usage.md`.
pub(crate) mod account;
pub(crate) mod books;
mod files;
mod ledger;
mod meter;
mod sizes;

pub(crate) use ledger::Ledger;
pub(crate) use meter::{Meter, payer};
pub(crate) use sizes::{SIZES, Sizes};

use crate::thread::Thread;
use clawgate_core::time::Time;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Days since 1970, in UTC.
pub(crate) type Day = u32;

/// Characters of a token, where a provider does not count.
const CHARS_PER_TOKEN: u64 = 4;

const DAY_SECONDS: u64 = 86_400;

/// The day of this moment.
pub(crate) fn day_of(unix_seconds: u64) -> Day {
    Day::try_from(unix_seconds / DAY_SECONDS).unwrap_or(Day::MAX)
}

/// Seconds until the next day begins, at least one.
pub(crate) const fn until_tomorrow(unix_seconds: u64) -> u64 {
    DAY_SECONDS - unix_seconds % DAY_SECONDS
}

/// A day as people write it.
pub(crate) fn day_text(day: Day) -> String {
    let mut text = Vec::new();
    clawgate_adapters::time::write_rfc3339(&mut text, u64::from(day) * DAY_SECONDS * 1_000);
    text.truncate(10);
    String::from_utf8(text).unwrap_or_default()
}

/// The day that this names, as `2026-11-27`.
pub(crate) fn parse_day(text: &str) -> Option<Day> {
    let whole = (text.len() == 10).then(|| format!("{text}T00:00:00Z"))?;
    let millis = clawgate_adapters::time::parse_rfc3339(&whole)?;
    Some(day_of(millis / 1_000))
}

/// Our estimate of so many characters.
pub(crate) const fn tokens_of(chars: u64) -> u64 {
    chars.div_ceil(CHARS_PER_TOKEN)
}

/// What is counted apart. Empty texts are unknown, or none: what a platform's people write has no key, and where there are
/// too many rows sessions are not told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) day: Day,
    pub(crate) key: Box<str>,
    pub(crate) agent: Box<str>,
    pub(crate) model: Box<str>,
    pub(crate) session: Box<str>,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Tally {
    /// Messages and whole requests whose first call this was.
    pub(crate) requests: u64,
    /// Calls to models.
    pub(crate) calls: u64,
    /// Calls that failed or were cancelled.
    pub(crate) unfinished_calls: u64,
    /// Tokens of prompts, those from and to caches included.
    pub(crate) prompt_tokens: u64,
    /// Tokens of answers, their reasoning included.
    pub(crate) completion_tokens: u64,
    /// Of the prompts: from a cache.
    pub(crate) cached_tokens: u64,
    /// Of the prompts: written to a cache.
    pub(crate) cache_created_tokens: u64,
    /// Of the answers: reasoning.
    pub(crate) reasoning_tokens: u64,
    /// Calls whose tokens are, in whole or in part, our estimate.
    pub(crate) estimated_calls: u64,
    /// The tokens of those.
    pub(crate) estimated_tokens: u64,
}

impl Tally {
    /// Adds another one.
    pub(crate) const fn add(&mut self, other: &Self) {
        // Without `..`: a new count must be thought of here.
        let Self {
            requests,
            calls,
            unfinished_calls,
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_created_tokens,
            reasoning_tokens,
            estimated_calls,
            estimated_tokens,
        } = *other;
        self.requests = self.requests.saturating_add(requests);
        self.calls = self.calls.saturating_add(calls);
        self.unfinished_calls = self.unfinished_calls.saturating_add(unfinished_calls);
        self.prompt_tokens = self.prompt_tokens.saturating_add(prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(cached_tokens);
        self.cache_created_tokens = self.cache_created_tokens.saturating_add(cache_created_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(reasoning_tokens);
        self.estimated_calls = self.estimated_calls.saturating_add(estimated_calls);
        self.estimated_tokens = self.estimated_tokens.saturating_add(estimated_tokens);
    }

    /// Tokens in all.
    pub(crate) const fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// Runs at the end of each turn of a thread's loop: hands over what was counted, once it is time.
pub(crate) fn turn(thread: &Rc<Thread>) {
    if thread.ledger.next_deadline().is_some_and(|due| due <= thread.now()) {
        flush(thread);
    }
}

/// Hands over all that was counted.
pub(crate) fn flush(thread: &Thread) {
    let Some(books) = thread.shared.books.get() else { return };
    thread.ledger.flush(thread.now(), books);
}

/// When [`turn`] has something to do next.
pub(crate) fn next_deadline(thread: &Thread) -> Option<Time> {
    thread.ledger.next_deadline()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn days_are_named_in_utc() {
        assert_eq!(day_of(0), 0);
        assert_eq!(day_text(20_784), "2026-11-27");
        assert_eq!(parse_day("2026-11-27"), Some(20_784));
        for bad in ["", "2026-11-2", "2026-11-31x", "2026-13-01", "yesterday!", "2026-11-27T00:00:00Z"] {
            assert_eq!(parse_day(bad), None, "{bad}");
        }
        assert_eq!((until_tomorrow(0), until_tomorrow(86_399), until_tomorrow(86_400)), (86_400, 1, 86_400));
    }

    #[test]
    fn tallies_add_up() {
        let one = Tally { calls: 1, prompt_tokens: 3, completion_tokens: 4, ..Tally::default() };
        let mut sum = Tally { prompt_tokens: u64::MAX, ..one };
        sum.add(&one);
        assert_eq!((sum.calls, sum.prompt_tokens, sum.completion_tokens), (2, u64::MAX, 8));
        assert_eq!((one.tokens(), sum.tokens(), tokens_of(0), tokens_of(5)), (7, u64::MAX, 0, 2));
    }
}
