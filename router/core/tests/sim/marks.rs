//! Coverage marks: what the simulation has seen happen at least once, so that a fault nobody throws any more is noticed.
use std::collections::BTreeMap;

/// How often each named thing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(BTreeMap<String, u64>);

impl Marks {
    /// It happened.
    pub(crate) fn hit(&mut self, name: &str) {
        if let Some(count) = self.0.get_mut(name) {
            *count += 1;
        } else {
            self.0.insert(name.to_owned(), 1);
        }
    }

    /// Adds another run's.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    /// Those of the wanted that never happened.
    pub(crate) fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        wanted.iter().copied().filter(|name| !self.0.contains_key(*name)).collect()
    }

    /// All, one a line.
    pub(crate) fn table(&self) -> String {
        self.0.iter().map(|(name, count)| format!("{count:>10}  {name}\n")).collect()
    }
}
