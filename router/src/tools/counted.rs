//! What a thread counts about tool calls. The names are those of the configuration, tools and servers of tools, so that
//! there are never more of them than somebody wrote down.
use crate::metrics::{Durations, Rows};
use clawgate_core::codes::Code;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Names of earlier configurations that are remembered beside those in force.
const NAMES_MAX: usize = 1_024;
/// What is counted under where there are more.
const OTHER: &str = "other";

/// The outcome of a call that went well.
pub(crate) const OK: &str = "ok";

/// Tool calls, by tool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(BTreeMap<Arc<str>, Tool>);

#[derive(Clone, Debug, Default)]
struct Tool {
    outcomes: BTreeMap<&'static str, u64>,
    took: Durations,
}

impl Counted {
    /// Counts a call.
    pub(crate) fn record(&mut self, tool: &Arc<str>, code: Option<Code>, took: Duration) {
        let known = self.0.contains_key(tool) || self.0.len() < NAMES_MAX;
        let name = if known { tool.clone() } else { OTHER.into() };
        let counted = self.0.entry(name).or_default();
        *counted.outcomes.entry(code.map_or(OK, Code::name)).or_default() += 1;
        counted.took.record(took);
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, theirs) in &other.0 {
            let ours = self.0.entry(name.clone()).or_default();
            for (outcome, count) in &theirs.outcomes {
                *ours.outcomes.entry(outcome).or_default() += count;
            }
            ours.took.add(&theirs.took);
        }
    }

    /// Was nothing called?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls by tool and outcome.
    pub(crate) fn rows(&self) -> Rows<'static> {
        let of_tool = |(name, tool): (&Arc<str>, &Tool)| {
            let label = ("tool", name.to_string());
            let row = move |(outcome, count): (&&'static str, &u64)| {
                (vec![label.clone(), ("outcome", (*outcome).to_owned())], *count)
            };
            tool.outcomes.iter().map(row).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_tool).collect()
    }

    /// How long calls took, by tool.
    pub(crate) fn durations(&self) -> impl Iterator<Item = (&str, &Durations)> {
        self.0.iter().map(|(name, tool)| (&**name, &tool.took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_and_names_are_bounded() {
        let (mut counted, mut other) = (Counted::default(), Counted::default());
        let took = Duration::from_millis(3);
        counted.record(&"time".into(), None, took);
        other.record(&"time".into(), None, took);
        other.record(&"time".into(), Some(Code::ToolTimeout), took);
        counted.add(&other);
        let row = |outcome: &str| vec![("tool", "time".to_owned()), ("outcome", outcome.to_owned())];
        assert_eq!(counted.rows(), [(row("TOOL_TIMEOUT"), 1), (row("ok"), 2)]);
        for number in 0..2 * NAMES_MAX {
            counted.record(&format!("tool-{number}").into(), None, took);
        }
        assert_eq!(counted.0.len(), NAMES_MAX + 1);
        assert_eq!(counted.durations().count(), NAMES_MAX + 1);
    }
}
