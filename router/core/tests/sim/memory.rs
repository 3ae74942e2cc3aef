//! What the shadow remembers of event ids, the plain way: a list in the order of their coming.
use clawgate_core::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The ids that a shard must know again.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    order: VecDeque<(Time, String)>,
    /// How often each is in the list; twice where it expired and came again.
    known: BTreeMap<String, u32>,
}

impl Memory {
    /// Forgets what is too old or too much.
    pub(crate) fn forget(&mut self, now: Time, age_max: Duration, ids_max: usize) {
        while let Some((at, _)) = self.order.front() {
            if *at + age_max > now && self.order.len() <= ids_max {
                break;
            }
            let Some((_, key)) = self.order.pop_front() else { break };
            if let Some(count) = self.known.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.known.remove(&key);
                }
            }
        }
    }

    pub(crate) fn knows(&self, key: &str) -> bool {
        self.known.contains_key(key)
    }

    pub(crate) fn remember(&mut self, now: Time, key: String) {
        *self.known.entry(key.clone()).or_default() += 1;
        self.order.push_back((now, key));
    }
}
