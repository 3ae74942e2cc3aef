//! JSON text, written out. RFC 8259 section 7. Owns escaping and numbers; never builds a tree, never reads more than
//! a string that holds no escape.

use alloc::vec::Vec;

/// Writes a string: quoted, escaped.
#[inline]
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_str_body(out, text);
    out.push(b'"');
}

/// Writes the inside of a string, escaped: the quotes are the caller's, who may join several texts between them.
#[inline]
pub fn write_str_body(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, escaped) = rest.split_at(plain_prefix(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = escaped.split_first() else { return };
        write_escape(out, *byte);
        rest = after;
    }
}

/// RFC 8259 7: "All Unicode characters may be placed within the quotation marks, except for the characters that MUST be
/// escaped: quotation mark, reverse solidus, and the control characters (U+0000 through U+001F)."
#[inline]
const fn must_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The length of a string whose opening quotation mark was read, if it holds no escape: where its last quotation mark is.
/// `None` if an escape or a control character comes first, or the text ends.
#[inline]
#[must_use]
pub fn plain_len(text: &[u8]) -> Option<usize> {
    let mut len = 0;
    // Names and most values end within two words; blocks are for those that do not.
    while len < 16
        && let Some(word) = text.get(len..).and_then(|rest| rest.first_chunk::<8>())
    {
        let hits = escapes_in(u64::from_le_bytes(*word));
        if hits != 0 {
            len += first_byte(hits);
            return (text.get(len) == Some(&b'"')).then_some(len);
        }
        len += word.len();
    }
    len += plain_prefix(text.get(len..).unwrap_or(&[]));
    (text.get(len) == Some(&b'"')).then_some(len)
}

/// How many bytes from the start need no escape: by blocks as long as there is nothing to find, then by words, which tell
/// the place.
#[inline]
#[must_use]
pub fn plain_prefix(text: &[u8]) -> usize {
    let mut plain = 0;
    for block in text.as_chunks::<32>().0 {
        // Every byte is looked at, whatever the ones before it: that is what the compiler turns into vector code.
        if block.iter().fold(false, |hit, byte| hit | must_escape(*byte)) {
            break;
        }
        plain += block.len();
    }
    let rest = text.get(plain..).unwrap_or(&[]);
    let (words, tail) = rest.as_chunks::<8>();
    for word in words {
        let hits = escapes_in(u64::from_le_bytes(*word));
        if hits != 0 {
            return plain + first_byte(hits);
        }
        plain += word.len();
    }
    match rest.last_chunk::<8>() {
        _ if tail.is_empty() => plain,
        // The last eight bytes again, less those that were looked at.
        Some(word) => {
            let seen = 8 - tail.len();
            let hits = escapes_in(u64::from_le_bytes(*word)) >> (8 * seen);
            if hits == 0 { text.len() } else { plain + first_byte(hits) }
        }
        None if is_plain(tail) => plain + tail.len(),
        None => plain + tail.iter().position(|byte| must_escape(*byte)).unwrap_or(tail.len()),
    }
}

/// Is there nothing to escape in a text shorter than a word? At four bytes and more two halves that overlap tell.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            let word = u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
            escapes_in(word) == 0
        }
        _ => !text.iter().any(|byte| must_escape(*byte)),
    }
}

/// Marks, by the top bit of its byte, the lowest byte of a word that must be escaped. Bytes above that one may be marked
/// wrongly, as a borrow runs upwards only.
#[inline]
const fn escapes_in(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = ONES << 7;
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    // Flipping a byte to look for one of ASCII keeps its top bit, so one complement serves all three.
    (control | quote | backslash) & !word & TOPS
}

/// The place of the lowest byte that is marked.
#[inline]
const fn first_byte(hits: u64) -> usize {
    (hits.trailing_zeros() / 8) as usize
}

#[inline]
fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digits[0], digits[1]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Writes an unsigned number.
#[inline]
pub fn write_u64(out: &mut Vec<u8>, number: u64) {
    // Most numbers that are told count something small.
    if number < 100 {
        let (tens, ones) = (number as u8 / 10, number as u8 % 10);
        if tens != 0 {
            out.push(b'0' + tens);
        }
        out.push(b'0' + ones);
        return;
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes a signed number.
#[inline]
pub fn write_i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes `true` or `false`.
#[inline]
pub fn write_bool(out: &mut Vec<u8>, truth: bool) {
    out.extend_from_slice(if truth { b"true" } else { b"false" });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::format;
    use alloc::string::String;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_str(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_must_be_escaped_is() {
        assert_eq!(written(""), r#""""#);
        assert_eq!(written("plain é€😀\u{7f}\u{2028}"), "\"plain é€😀\u{7f}\u{2028}\"");
        assert_eq!(written("\"\\/"), r#""\"\\/""#);
        assert_eq!(written("\u{8}\t\n\u{c}\r"), r#""\b\t\n\f\r""#);
        assert_eq!(written("\0\u{1}\u{b}\u{1f}\u{20}"), r#""\u0000\u0001\u000b\u001f ""#);
    }

    /// One escape at every place of texts of every length, across the blocks that are looked at together.
    #[test]
    fn an_escape_is_found_wherever_it_is() {
        for bytes in 0..70 {
            for at in 0..bytes {
                let (before, after) = ("x".repeat(at), "é".repeat(bytes - at - 1));
                assert_eq!(written(&format!("{before}\n{after}")), format!("\"{before}\\n{after}\""));
                assert_eq!(
                    written(&format!("{before}\u{1f}\"{after}")),
                    format!("\"{before}\\u001f\\\"{after}\"")
                );
            }
            let plain = "x".repeat(bytes);
            assert_eq!(written(&plain), format!("\"{plain}\""));
        }
    }

    /// Strings of every length: whole, cut off, and with something in them that must be escaped.
    #[test]
    fn plain_strings_end_at_their_quotation_mark() {
        for bytes in 0..70 {
            let text = "é".repeat(bytes / 2) + &"x".repeat(bytes % 2);
            assert_eq!(plain_len(format!("{text}\",\"\n").as_bytes()), Some(bytes));
            assert_eq!(plain_len(text.as_bytes()), None);
            for escape in ["\\", "\n", "\0"] {
                assert_eq!(plain_len(format!("{text}{escape}x\"").as_bytes()), None, "{bytes}");
            }
        }
    }

    #[test]
    fn numbers_and_truths() {
        let mut out = Vec::new();
        write_u64(&mut out, u64::MAX);
        out.push(b' ');
        write_i64(&mut out, i64::MIN);
        out.push(b' ');
        write_bool(&mut out, true);
        write_bool(&mut out, false);
        assert_eq!(out, b"18446744073709551615 -9223372036854775808 truefalse");
        for number in 0..1_100 {
            out.clear();
            write_u64(&mut out, number);
            assert_eq!(out, format!("{number}").as_bytes());
        }
    }
}
