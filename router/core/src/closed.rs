//! Sessions that were closed a while ago: one that begins anew under the same name must not inherit what the journal still
//! tells of its former life, should the process die before the journal has forgotten that.
use crate::id::Uid;
use alloc::collections::{BTreeMap, VecDeque};

/// Closed sessions that a shard remembers: far more than are closed while the store takes in a batch.
const CLOSED_MAX: usize = 4_096;

/// When each was closed last, by the hash of its conversation.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    last: BTreeMap<u64, Uid>,
    order: VecDeque<(u64, Uid)>,
}

impl Closed {
    pub(crate) const fn new() -> Self {
        Self { last: BTreeMap::new(), order: VecDeque::new() }
    }

    /// It was closed under this name; what was said under an earlier one counts no more.
    pub(crate) fn remember(&mut self, hash: u64, uid: Uid) {
        if self.order.len() == CLOSED_MAX
            && let Some((hash, uid)) = self.order.pop_front()
            && self.last.get(&hash) == Some(&uid)
        {
            self.last.remove(&hash);
        }
        let last = self.last.entry(hash).or_default();
        *last = uid.max(*last);
        self.order.push_back((hash, *last));
    }

    /// From where on history counts in a session that begins.
    pub(crate) fn history_from(&self, hash: u64) -> Uid {
        self.last.get(&hash).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let mut closed = Closed::new();
        closed.remember(7, Uid(5));
        closed.remember(7, Uid(3));
        assert_eq!((closed.history_from(7), closed.history_from(8)), (Uid(5), Uid(0)));
        for n in 0..CLOSED_MAX as u64 - 1 {
            closed.remember(100 + n, Uid(n));
        }
        closed.remember(7, Uid(9));
        assert_eq!(closed.history_from(7), Uid(9));
        for n in 0..CLOSED_MAX as u64 {
            closed.remember(10_000 + n, Uid(n));
        }
        assert_eq!(closed.history_from(7), Uid(0));
        assert_eq!((closed.last.len(), closed.order.len()), (CLOSED_MAX, CLOSED_MAX));
    }
}
