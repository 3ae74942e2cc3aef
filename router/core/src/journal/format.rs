//! The bytes of a segment, version 1: what [`super::writer`] writes and [`super::reader`] reads. All numbers are little
//! endian. It neither reads nor writes a file, and decides nothing.
//!
//! # A segment
//! One file: a header of 4,096 bytes, then records, each beginning at a multiple of 8. Behind the last record stands
//! nothing of meaning: zeros, or what an earlier use of the file left.
//!
//! # The header
//! Two copies, at 0 and at 2,048, so that one sector lost does not take the segment with it. The rest is zero.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CLAWJRNL` |
//! | 8 | 2 | version: 1. These first ten bytes mean the same in every version |
//! | 10 | 2 | shard |
//! | 12 | 4 | flags: 1 the file was used before (what stands behind the last record may be older records) |
//! | 16 | 8 | lineage: counts the starts of the gateway on this data directory |
//! | 24 | 8 | segment: counts the files of this lineage and shard, from 1; some numbers may be missing |
//! | 32 | 8 | lsn of the first record |
//! | 40 | 8 | how many lsns just before it were left out (see [`super::writer`], "What does not fit") |
//! | 48 | 8 | when the segment was begun, milliseconds since 1970 |
//! | 56 | 8 | salt: random, one for each lineage and shard; the seed of every checksum below |
//! | 64 | 8 | XXH3-64 of bytes 0 to 63, seed 0 |
//!
//! # A record
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | XXH3-64 of bytes 8 to the end of the payload, seeded with the salt |
//! | 8 | 8 | lsn: one more than the record's before |
//! | 16 | 4 | bytes of payload; the top bit says: when this was written, all before it was synced |
//! | 20 | 4 | the low half of the XXH3-64 of bytes 8 to 19, seeded with the salt |
//! | 24 | n | payload; what is in it is the shard's affair |
//! | | 0-7 | zeros, up to a multiple of 8 |
//!
//! The second, short sum lets a reader trust a length before it has the payload, and find the next record behind a
//! damaged one. The salt keeps what a client wrote into a message from passing for a record.
use alloc::boxed::Box;
use alloc::vec::Vec;
use twox_hash::XxHash3_64;

/// The format that this code writes, and the only one that it reads.
pub const VERSION: u16 = 1;
/// Bytes before the first record.
pub const HEADER_BYTES: usize = 4_096;
/// Bytes of a record before its payload.
pub const HEAD_BYTES: usize = 24;
/// Bytes of the longest payload.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

const MAGIC: [u8; 8] = *b"CLAWJRNL";
/// Where the copies of the header begin.
const COPIES: [usize; 2] = [0, HEADER_BYTES / 2];
/// Bytes of a copy that mean something.
const COPY_BYTES: usize = 72;
const REUSED: u32 = 1;
/// More than a segment has: what claims a later lsn is no head.
const LSNS_A_SEGMENT_MAX: u64 = 1 << 32;
/// Above the longest payload, and below the flag.
const SYNCED_BEFORE: u32 = 1 << 31;

/// Which file it is; the order is that in which records were written, within a lineage and shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Counts the starts of the gateway on this data directory.
    pub lineage: u64,
    /// Whose records.
    pub shard: u16,
    /// Counts this lineage's and shard's files.
    pub segment: u64,
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which file it is.
    pub name: Name,
    /// The lsn of its first record.
    pub first_lsn: u64,
    /// So many lsns before the first were left out on purpose.
    pub left_out: u64,
    /// When it was begun, milliseconds since 1970.
    pub created_millis: u64,
    /// The seed of its records' checksums.
    pub salt: u64,
    /// Older records may stand behind the last one.
    pub reused: bool,
}

/// Why the beginning of a file is no header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It was never one of ours.
    Foreign,
    /// A later version of the gateway wrote it.
    Newer {
        /// The version of the format.
        version: u16,
    },
    /// It is ours, but says that it is another file than its name does.
    Misplaced {
        /// What it says.
        says: Name,
    },
    /// It is ours, and both copies of the header are damaged.
    Damaged,
}

/// What the beginning of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A segment with records, perhaps.
    Segment(Header),
    /// A file that was prepared, and never begun: no record is in it.
    Unused,
}

impl Header {
    /// The first bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        let mut block = alloc::vec![0; HEADER_BYTES].into_boxed_slice();
        let flags = if self.reused { REUSED } else { 0 };
        for at in COPIES {
            let Some(copy) = block.get_mut(at..at + COPY_BYTES) else { continue };
            copy[..8].copy_from_slice(&MAGIC);
            copy[8..10].copy_from_slice(&VERSION.to_le_bytes());
            copy[10..12].copy_from_slice(&self.name.shard.to_le_bytes());
            copy[12..16].copy_from_slice(&flags.to_le_bytes());
            let words = [
                self.name.lineage,
                self.name.segment,
                self.first_lsn,
                self.left_out,
                self.created_millis,
                self.salt,
            ];
            for (slot, word) in copy[16..64].chunks_exact_mut(8).zip(words) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
            let sum = XxHash3_64::oneshot(&copy[..64]);
            copy[64..].copy_from_slice(&sum.to_le_bytes());
        }
        block
    }

    /// Reads the first [`HEADER_BYTES`] of a file, or all that it has.
    ///
    /// # Errors
    /// Why no record can be read from this file.
    pub fn open(block: &[u8], expected: Name) -> Result<Opened, Unreadable> {
        if is_blank(block) {
            return Ok(Opened::Unused);
        }
        let copies = || COPIES.iter().filter_map(|at| block.get(*at..*at + COPY_BYTES));
        let headers = || copies().filter_map(Self::copy);
        if let Some(header) = headers().find(|header| header.name == expected) {
            return Ok(Opened::Segment(header));
        }
        if let Some(Self { name, .. }) = headers().next() {
            let Name { lineage, shard, segment } = name;
            // It lay under an older name before, whose records were no longer needed.
            let is_reused =
                (lineage, shard) == (expected.lineage, expected.shard) && segment < expected.segment;
            return if is_reused { Ok(Opened::Unused) } else { Err(Unreadable::Misplaced { says: name }) };
        }
        let heads = || COPIES.iter().filter_map(|at| block.get(*at..*at + 10));
        let mut versions = heads().filter(|head| head.starts_with(&MAGIC)).map(|head| half(head, 8));
        match versions.find(|version| VERSION < *version) {
            Some(version) => Err(Unreadable::Newer { version }),
            None if heads().any(|head| head.starts_with(&MAGIC)) => Err(Unreadable::Damaged),
            None => Err(Unreadable::Foreign),
        }
    }

    /// A copy of the header, if it is whole.
    fn copy(copy: &[u8]) -> Option<Self> {
        let sum = XxHash3_64::oneshot(copy.get(..64)?);
        if !copy.starts_with(&MAGIC) || half(copy, 8) != VERSION || word(copy, 64) != sum {
            return None;
        }
        Some(Self {
            name: Name { lineage: word(copy, 16), shard: half(copy, 10), segment: word(copy, 24) },
            first_lsn: word(copy, 32),
            left_out: word(copy, 40),
            created_millis: word(copy, 48),
            salt: word(copy, 56),
            reused: long(copy, 12) & REUSED != 0,
        })
    }
}

/// A record before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) lsn: u64,
    /// Bytes of payload.
    pub(super) len: usize,
    /// All before it was on disk when this was written.
    pub(super) synced_before: bool,
    sum: u64,
}

impl Head {
    /// Reads what stands at the beginning of `bytes`, if it is a head with an lsn of `from` or later.
    pub(super) fn read(bytes: &[u8], salt: u64, from: u64) -> Option<Self> {
        let head = bytes.get(..HEAD_BYTES)?;
        let lsn = word(head, 8);
        // Most of what is looked at is no head: the cheap question comes first.
        let is_near = (from..from.saturating_add(LSNS_A_SEGMENT_MAX)).contains(&lsn);
        if !is_near || long(head, 20) != short_sum(&head[8..20], salt) {
            return None;
        }
        let long = long(head, 16);
        let len = (long & !SYNCED_BEFORE) as usize;
        let synced_before = long & SYNCED_BEFORE != 0;
        (len <= RECORD_BYTES_MAX).then_some(Self { lsn, len, synced_before, sum: word(head, 0) })
    }

    /// Bytes from this record to the next.
    pub(super) const fn stride(&self) -> usize {
        stride(self.len)
    }

    /// The payload, if the record is whole. `bytes` begin where the head does.
    pub(super) fn payload<'b>(&self, bytes: &'b [u8], salt: u64) -> Option<&'b [u8]> {
        let end = HEAD_BYTES + self.len;
        let sum = XxHash3_64::oneshot_with_seed(salt, bytes.get(8..end)?);
        if sum == self.sum { bytes.get(HEAD_BYTES..end) } else { None }
    }
}

/// Bytes that a record with a payload of this length takes.
#[must_use]
pub const fn stride(payload: usize) -> usize {
    (HEAD_BYTES + payload).next_multiple_of(8)
}

/// Appends a record. The payload has at most [`RECORD_BYTES_MAX`].
pub(super) fn put(out: &mut Vec<u8>, salt: u64, lsn: u64, payload: &[u8], synced_before: bool) {
    let at = out.len();
    let flag = if synced_before { SYNCED_BEFORE } else { 0 };
    let len = u32::try_from(payload.len()).unwrap_or(0) | flag;
    out.reserve(stride(payload.len()));
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&lsn.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    let short = short_sum(&out[at + 8..], salt);
    out.extend_from_slice(&short.to_le_bytes());
    out.extend_from_slice(payload);
    let sum = XxHash3_64::oneshot_with_seed(salt, &out[at + 8..]);
    out[at..at + 8].copy_from_slice(&sum.to_le_bytes());
    out.resize(at + stride(payload.len()), 0);
}

/// Is there nothing, or no more than the first bytes of a header that was never written whole?
fn is_blank(block: &[u8]) -> bool {
    block.chunks(HEADER_BYTES / 2).all(|half| {
        let len = half.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        MAGIC.starts_with(&half[..len]) && len < MAGIC.len()
    })
}

fn short_sum(bytes: &[u8], salt: u64) -> u32 {
    (XxHash3_64::oneshot_with_seed(salt, bytes) & 0xFFFF_FFFF) as u32
}

fn half(bytes: &[u8], at: usize) -> u16 {
    number(bytes, at).map_or(0, u16::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at).map_or(0, u32::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at).map_or(0, u64::from_le_bytes)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NAME: Name = Name { lineage: 3, shard: 1, segment: 7 };
    const HEADER: Header = Header {
        name: NAME,
        first_lsn: 40,
        left_out: 2,
        created_millis: 1_795_000_000_000,
        salt: 0x1234_5678_9ABC_DEF0,
        reused: true,
    };

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let block = HEADER.to_bytes();
        assert_eq!(block.len(), HEADER_BYTES);
        assert_eq!(&block[..16], b"CLAWJRNL\x01\x00\x01\x00\x01\x00\x00\x00");
        assert_eq!(
            &block[16..40],
            &[3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(&block[..72], &block[2_048..2_120], "two copies");
        let sums = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
        // By the reference implementation of XXH3.
        assert_eq!(sums(64), 0xa69e_1c39_c646_2d4c);

        let mut bytes = Vec::new();
        put(&mut bytes, HEADER.salt, 40, b"hello", true);
        assert_eq!(&bytes[8..20], &[40, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x80]);
        assert_eq!(&bytes[24..], b"hello\0\0\0");
        assert_eq!(&bytes[..8], 0x3e35_ff12_e3b2_cf0d_u64.to_le_bytes());
        assert_eq!(&bytes[20..24], 0x37d8_4c8f_u32.to_le_bytes());
    }

    #[test]
    fn every_kind_of_beginning_is_told_apart() {
        let block = HEADER.to_bytes();
        let open = |change: &dyn Fn(&mut [u8])| {
            let mut block = block.clone();
            change(&mut block);
            Header::open(&block, NAME)
        };
        assert_eq!(open(&|_| {}), Ok(Opened::Segment(HEADER)));
        for at in 0..HEADER_BYTES {
            assert_eq!(open(&|b| b[at] ^= 0x40), Ok(Opened::Segment(HEADER)), "one copy is enough: {at}");
        }
        assert_eq!(open(&|b| b.fill(0)), Ok(Opened::Unused));
        assert_eq!(open(&|b| b.fill(b'x')), Err(Unreadable::Foreign));
        let both = |b: &mut [u8], at: usize| [0, 2_048].iter().for_each(|copy| b[copy + at] ^= 2);
        assert_eq!(open(&|b| both(b, 40)), Err(Unreadable::Damaged));
        assert_eq!(open(&|b| both(b, 8)), Err(Unreadable::Newer { version: 3 }));
        assert_eq!(open(&|b| both(b, 0)), Err(Unreadable::Foreign));
        let elsewhere = Name { shard: 2, ..NAME };
        assert_eq!(Header::open(&block, elsewhere), Err(Unreadable::Misplaced { says: NAME }));
        let later = Name { segment: 8, ..NAME };
        assert_eq!(Header::open(&block, later), Ok(Opened::Unused), "renamed, and not yet begun");
        assert_eq!(Header::open(&block[..100], NAME), Ok(Opened::Segment(HEADER)), "cut short");
        assert_eq!(Header::open(&block[..60], NAME), Err(Unreadable::Damaged));
        for len in 0..8 {
            assert_eq!(Header::open(&block[..len], NAME), Ok(Opened::Unused), "torn as it was begun: {len}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        for payload in [&b""[..], b"a", b"eight by", &[7; 300]] {
            let mut bytes = Vec::new();
            put(&mut bytes, 9, 5, payload, false);
            assert_eq!(bytes.len(), stride(payload.len()));
            let read = |bytes: &[u8]| {
                let head = Head::read(bytes, 9, 5)?;
                head.payload(bytes, 9).map(|payload| (head.lsn, payload.to_vec()))
            };
            assert_eq!(read(&bytes), Some((5, payload.to_vec())));
            assert_eq!(Head::read(&bytes, 9, 6), None, "an older record is none");
            assert_eq!(Head::read(&bytes, 8, 5), None, "nor is one of another salt");
            for bit in 0..(HEAD_BYTES + payload.len()) * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&flipped), None, "bit {bit}");
            }
        }
    }
}
