//! Which event ids may have been seen: what memory has no room for any more leaves seven bits here. What is not found was
//! not seen; what is found may have been, and the store is asked.
//!
//! Layers of blocks, each of one cache line; an id touches one block of each layer. A layer takes so many ids and goes as
//! a whole: once all of it is too old, or for want of room, and then [`Filter::insert`] says up to when ids are missing.
use crate::random::mix;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;

/// Layers: what the room is divided by, and so how much of it holds what is too old.
const LAYERS: usize = 8;
/// Bits of a block.
const BLOCK_BITS: usize = 512;
const BLOCK_BYTES: usize = BLOCK_BITS / 8;
/// Ids of a block: sixteen bits for each.
const BLOCK_IDS: usize = BLOCK_BITS / 16;
/// Bits of an id, and those that say which one.
const PROBES: u32 = 7;
const PROBE_BITS: u32 = BLOCK_BITS.ilog2();

type Block = [u64; BLOCK_BITS / 64];

#[derive(Debug)]
struct Layer<T> {
    blocks: Box<[Block]>,
    ids: usize,
    /// The time of the latest id in it.
    last: T,
}

/// Ids by their hashes, with times of the type `T`.
#[derive(Debug)]
pub(crate) struct Filter<T> {
    layers: VecDeque<Layer<T>>,
}

/// The block of an id, of so many, and its bits in there.
fn places(hash: u64, blocks: usize) -> (usize, impl Iterator<Item = (usize, u64)>) {
    let block = (u128::from(hash) * blocks as u128) >> 64;
    let bits = mix(hash);
    let probes = (0..PROBES).map(move |n| {
        let bit = (bits >> (n * PROBE_BITS)) as usize % BLOCK_BITS;
        (bit / 64, 1 << (bit % 64))
    });
    (usize::try_from(block).unwrap_or(0), probes)
}

impl<T: Copy + Ord> Filter<T> {
    pub(crate) const fn new() -> Self {
        Self { layers: VecDeque::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Ids in it.
    pub(crate) fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.ids).sum()
    }

    /// Ids that it takes in so many bytes.
    pub(crate) const fn ids_max(bytes_max: usize) -> usize {
        layer_blocks(bytes_max) * LAYERS * BLOCK_IDS
    }

    /// May this one be in it, and not as old as that?
    pub(crate) fn has(&self, hash: u64, is_old: impl Fn(T) -> bool) -> bool {
        self.layers.iter().filter(|layer| !is_old(layer.last)).any(|layer| {
            let (block, mut probes) = places(hash, layer.blocks.len());
            layer.blocks.get(block).is_some_and(|block| probes.all(|(word, bit)| block[word] & bit != 0))
        })
    }

    /// Puts one in. Returns the time of the latest id that is in it no more, where one had to go.
    pub(crate) fn insert(&mut self, hash: u64, at: T, bytes_max: usize) -> Option<T> {
        let blocks = layer_blocks(bytes_max);
        if blocks == 0 {
            return Some(at);
        }
        let mut gone = None;
        if self.layers.back().is_none_or(|layer| layer.blocks.len() * BLOCK_IDS <= layer.ids) {
            while LAYERS <= self.layers.len() {
                gone = gone.max(self.layers.pop_front().map(|layer| layer.last));
            }
            let blocks = vec![[0; BLOCK_BITS / 64]; blocks].into_boxed_slice();
            self.layers.push_back(Layer { blocks, ids: 0, last: at });
        }
        if let Some(layer) = self.layers.back_mut() {
            let (block, probes) = places(hash, layer.blocks.len());
            if let Some(block) = layer.blocks.get_mut(block) {
                probes.for_each(|(word, bit)| block[word] |= bit);
            }
            layer.ids += 1;
            layer.last = layer.last.max(at);
        }
        gone
    }

    /// Forgets what is too old, a layer at a time.
    pub(crate) fn forget(&mut self, is_old: impl Fn(T) -> bool) {
        while self.layers.pop_front_if(|layer| is_old(layer.last)).is_some() {}
    }
}

const fn layer_blocks(bytes_max: usize) -> usize {
    bytes_max / LAYERS / BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const BYTES: usize = 64 << 10;

    #[test]
    fn whatever_was_put_in_is_found_and_little_else() {
        let (mut filter, mut random) = (Filter::new(), Random::new(9));
        let most = Filter::<u32>::ids_max(BYTES);
        assert_eq!(most, BYTES / 2, "two bytes an id");
        let hashes: vec::Vec<u64> = (0..most).map(|_| random.next()).collect();
        for (n, hash) in hashes.iter().enumerate() {
            assert_eq!(filter.insert(*hash, n, BYTES), None);
        }
        assert_eq!(filter.len(), most);
        assert!(hashes.iter().all(|hash| filter.has(*hash, |_| false)));
        let found = (0..100_000).filter(|_| filter.has(random.next(), |_| false)).count();
        assert!(found < 1_500, "{found} of 100,000 are found that were never put in");
    }

    #[test]
    fn what_has_no_room_is_said_and_what_is_old_goes() {
        let (mut filter, mut random) = (Filter::new(), Random::new(4));
        let most = Filter::<usize>::ids_max(BYTES);
        let gone: vec::Vec<usize> =
            (0..most + 1).filter_map(|n| filter.insert(random.next(), n, BYTES)).collect();
        assert_eq!(gone, [most / LAYERS - 1], "the latest of the first layer");
        assert!(filter.layers.iter().all(|layer| layer.ids != 0));
        filter.forget(|last| last < most);
        assert_eq!(filter.len(), 1);
        filter.forget(|_| true);
        assert!(filter.is_empty() && !filter.has(1, |_| false));
        assert_eq!(filter.insert(1, 7, 0), Some(7), "no room at all");
    }
}
