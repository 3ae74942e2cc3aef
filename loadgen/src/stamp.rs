//! What a message says: who sent it and when it was due, sealed by a checksum, so that an answer that repeats it can be
//! held against it to the last byte.
//!
//! ```text
//! lg1.<run>.<session>.<seq>.<due ns>.<checksum><padding>
//! ```
//! Lower-case hexadecimal of 8, 8, 8, 16 and 16 digits; padding is words, so that an agent that streams by words has some.

use core::ops::Range;

/// Bytes of a stamp without padding: the shortest text that can be sent.
pub const STAMP_BYTES: usize = 64;

const TAG: &[u8] = b"lg1.";
const RUN: Range<usize> = 4..12;
const SESSION: Range<usize> = 13..21;
const SEQ: Range<usize> = 22..30;
const DUE: Range<usize> = 31..47;
const CHECKSUM: Range<usize> = 48..64;
const DOTS: [usize; 4] = [12, 21, 30, 47];

const WORDS: &[u8] = b"the gateway carries what it is given and says when it cannot ";

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run: answers of another one are not ours.
    pub run: u32,
    /// The session.
    pub session: u32,
    /// Its place in the session, from 0.
    pub seq: u32,
    /// When it was due, in nanoseconds after the start of the run.
    pub due_ns: u64,
}

/// Fills `text`, of at least [`STAMP_BYTES`], with the stamp and its padding. All of it is printable ASCII that JSON does
/// not escape, and the last byte is no space.
#[inline]
pub fn write(text: &mut [u8], stamp: &Stamp) {
    debug_assert!(STAMP_BYTES <= text.len(), "no room for a stamp");
    let (head, padding) = text.split_at_mut(STAMP_BYTES);
    head[..4].copy_from_slice(TAG);
    for dot in DOTS {
        head[dot] = b'.';
    }
    write_hex(&mut head[RUN], u64::from(stamp.run));
    write_hex(&mut head[SESSION], u64::from(stamp.session));
    write_hex(&mut head[SEQ], u64::from(stamp.seq));
    write_hex(&mut head[DUE], stamp.due_ns);
    pad(padding, stamp.seq);
    let sum = checksum(&head[..CHECKSUM.start], padding);
    write_hex(&mut head[CHECKSUM], sum);
}

/// A space, then words that start elsewhere with every message, then a full stop.
#[inline]
fn pad(padding: &mut [u8], seq: u32) {
    let mut from = seq as usize % WORDS.len();
    let mut rest = &mut *padding;
    while !rest.is_empty() {
        let words = &WORDS[from..];
        let count = words.len().min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&words[..count]);
        rest = later;
        from = 0;
    }
    if let Some(first) = padding.first_mut() {
        *first = b' ';
    }
    if let Some(last) = padding.last_mut() {
        *last = b'.';
    }
}

/// Reads a text that [`write()`] wrote. `None` if a byte of it is missing, added or changed.
#[inline]
#[must_use]
pub fn read(text: &[u8]) -> Option<Stamp> {
    let stamp = peek(text)?;
    let (head, padding) = text.split_at_checked(STAMP_BYTES)?;
    let sum = read_hex(&head[CHECKSUM])?;
    (sum == checksum(&head[..CHECKSUM.start], padding)).then_some(stamp)
}

/// Reads whose message it claims to be, without the checksum: an answer may still be on its way.
#[inline]
#[must_use]
pub fn peek(text: &[u8]) -> Option<Stamp> {
    let head = text.get(..STAMP_BYTES)?;
    if &head[..4] != TAG || DOTS.iter().any(|dot| head[*dot] != b'.') {
        return None;
    }
    Some(Stamp {
        run: read_hex(&head[RUN])? as u32,
        session: read_hex(&head[SESSION])? as u32,
        seq: read_hex(&head[SEQ])? as u32,
        due_ns: read_hex(&head[DUE])?,
    })
}

/// Eight bytes a step; each step is a bijection of what it takes in, so a change of one word always shows.
#[inline]
fn checksum(head: &[u8], padding: &[u8]) -> u64 {
    fold(fold(0x6C67_315F_7365_616C, head), padding)
}

#[inline]
fn fold(seed: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let (words, tail) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(seed, |sum, word| step(sum, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    step(step(sum, u64::from_le_bytes(last)), bytes.len() as u64)
}

const HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Writes a number in as many hexadecimal digits as `out` has bytes: an even count, at most 16.
#[inline]
pub fn write_hex(out: &mut [u8], number: u64) {
    let bytes = number.to_be_bytes();
    let used = &bytes[bytes.len() - out.len() / 2..];
    for (place, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(used) {
        *place = HEX_PAIRS[usize::from(*byte)];
    }
}

/// Reads what [`write_hex`] wrote. `None` for anything but lower-case digits, or more than 16 of them.
#[inline]
#[must_use]
pub fn read_hex(digits: &[u8]) -> Option<u64> {
    if 16 < digits.len() {
        return None;
    }
    let mut number = 0;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u64::from(value);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STAMP: Stamp = Stamp { run: 0xDEAD_BEEF, session: 7, seq: 0x1234, due_ns: 9_876_543_210 };

    fn text(bytes: usize) -> Vec<u8> {
        let mut text = vec![0; bytes];
        write(&mut text, &STAMP);
        text
    }

    #[test]
    fn what_is_written_is_read_at_every_length() {
        for bytes in STAMP_BYTES..STAMP_BYTES + 200 {
            let text = text(bytes);
            assert_eq!(read(&text), Some(STAMP), "{bytes} bytes");
            assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\'));
            assert_ne!(*text.last().unwrap(), b' ');
        }
    }

    #[test]
    fn every_changed_missing_or_added_byte_shows() {
        let good = text(150);
        for at in 0..good.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert_eq!(read(&bad), None, "byte {at} changed by {flip:#x}");
            }
            let mut shorter = good.clone();
            shorter.remove(at);
            assert_eq!(read(&shorter), None, "byte {at} missing");
            assert_eq!(read(&good[..at]), None, "cut at {at}");
        }
        assert_eq!(read(&[good.as_slice(), b"!"].concat()), None);
        let mut swapped = good.clone();
        swapped.swap(100, 101);
        assert_eq!(read(&swapped), None);
    }

    #[test]
    fn a_stamp_can_be_recognised_before_its_padding_is_there() {
        assert_eq!(peek(&text(150)[..STAMP_BYTES]), Some(STAMP));
        assert_eq!(peek(b"an answer of somebody's own, which is long enough to hold a stamp but none"), None);
    }

    #[test]
    fn hexadecimal_numbers_are_of_a_fixed_width() {
        let mut digits = [0; 8];
        write_hex(&mut digits, 0xAB);
        assert_eq!(&digits, b"000000ab");
        assert_eq!(read_hex(&digits), Some(0xAB));
        assert_eq!(read_hex(b"AB"), None);
        assert_eq!(read_hex(b"00000000000000001"), None);
    }
}
