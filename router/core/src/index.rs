//! From a hash to a slot. Many small tables instead of one: each grows by itself, so no message pays for moving a
//! million entries; and entries carry a part of the hash, so growing touches nothing but the table.
use crate::random::mix;
use core::fmt;
use hashbrown::HashTable;

/// Tables; a power of two.
const TABLES: usize = 64;

#[derive(Clone, Copy)]
struct Entry {
    tag: u32,
    slot: u32,
}

/// Slots by hash. Equal hashes may stand for different things: the caller says which it means.
pub(crate) struct Index {
    tables: [HashTable<Entry>; TABLES],
    len: usize,
}

impl fmt::Debug for Index {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Index").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Which table, and the tag in it.
fn places(hash: u64) -> (usize, u32) {
    let tag = u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0);
    (usize::try_from(hash >> 58).unwrap_or(0) % TABLES, tag)
}

const fn spread(tag: u32) -> u64 {
    mix(tag as u64)
}

impl Index {
    pub(crate) const fn new() -> Self {
        Self { tables: [const { HashTable::new() }; TABLES], len: 0 }
    }

    /// The slot under this hash for which `is` holds.
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (table, tag) = places(hash);
        let found = self.tables[table].find(spread(tag), |entry| entry.tag == tag && is(entry.slot));
        found.map(|entry| entry.slot)
    }

    /// Adds a slot, which must not be there.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32) {
        let (table, tag) = places(hash);
        self.tables[table].insert_unique(spread(tag), Entry { tag, slot }, |entry| spread(entry.tag));
        self.len += 1;
    }

    /// Removes a slot.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        let (table, tag) = places(hash);
        let entry =
            self.tables[table].find_entry(spread(tag), |entry| entry.tag == tag && entry.slot == slot);
        if let Ok(entry) = entry {
            entry.remove();
            self.len -= 1;
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_among_equal_hashes() {
        let mut index = Index::new();
        for slot in 0..1_000_u32 {
            index.insert(mix(u64::from(slot / 2)), slot);
        }
        assert_eq!(index.len(), 1_000);
        for slot in 0..1_000_u32 {
            let hash = mix(u64::from(slot / 2));
            assert_eq!(index.find(hash, |found| found == slot), Some(slot));
            index.remove(hash, slot);
            assert_eq!(index.find(hash, |found| found == slot), None);
            index.remove(hash, slot);
        }
        assert_eq!(index.len(), 0);
    }
}
