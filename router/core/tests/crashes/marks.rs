//! What happened, and how often: a run in which nothing went wrong proves nothing.
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What must happen in a full run, and how often at the least.
pub(crate) type Wanted = &'static [(&'static str, u64)];

/// With linked accounts.
pub(crate) const WANTED_OF_LINKS: Wanted = &[
    ("crash", 300),
    ("acknowledged", 5_000),
    ("dead letter", 300),
    ("replayed", 50),
    ("repeated", 100),
    ("merged", 1_000),
    ("answers to linked accounts", 5_000),
    ("restored into a shared conversation", 1_000),
    ("other links after a crash", 100),
    ("not repeated: other links", 10),
];

/// Without.
pub(crate) const WANTED: Wanted = &[
    ("crash", 300),
    ("power cut", 60),
    ("acknowledged", 15_000),
    ("receipt", 5_000),
    ("answered", 14_000),
    ("failed", 100),
    ("cancelled", 500),
    ("dead letter", 600),
    ("replayed", 100),
    ("dropped", 50),
    ("repeated", 300),
    ("attached", 1_000),
    ("asked again after the answer", 50),
    ("answers that were lost", 500),
    ("previews", 500),
    ("previews that grow", 500),
    ("previews that become the answer", 500),
    ("parts in doubt at a crash", 500),
    ("restored", 5_000),
    ("restored with its answer", 500),
    ("channel gone", 100),
    ("not replayed: channel gone", 100),
    ("merged", 8_000),
    ("told that it is merged", 2_000),
    ("gave way", 2_000),
    ("records left out", 1_000),
    ("carried", 1_000),
    ("journal shut", 200),
    ("saves left out", 100),
    ("asked the store for an id", 1_000),
    ("known to the store alone", 300),
];

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(BTreeMap<&'static str, u64>);

impl Marks {
    pub(crate) fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }

    pub(crate) fn missing(&self, wanted: Wanted) -> Vec<&'static str> {
        let seen = |what| self.0.get(what).copied().unwrap_or(0);
        wanted.iter().filter(|(what, least)| seen(what) < *least).map(|(what, _)| *what).collect()
    }

    pub(crate) fn table(&self) -> String {
        self.0.iter().fold(String::new(), |mut table, (what, count)| {
            // Writing into a String cannot fail.
            let _ = writeln!(table, "{count:>9} {what}");
            table
        })
    }
}
