//! Bodies: counted, chunked, or until the connection closes. RFC 9112 sections 6 and 7. Hands out slices of the
//! caller's buffer; keeps no byte of it, so a body of any length costs the same few words.

use super::{Length, Refusal, is_token_byte, is_value_byte};

/// What one call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'b> {
    /// How much of the buffer is done with, framing included.
    pub consumed: usize,
    /// A piece of the body, in the consumed part of the buffer.
    pub data: &'b [u8],
    /// Whether the body is complete. What follows in the buffer is the next message.
    pub done: bool,
}

/// Where in the body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Exact,
    UntilClose,
    /// In a chunk's size, after this many digits.
    Size(u8),
    /// In white space after a chunk's size: only an extension may follow.
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Refused(Refusal),
}

/// Chunk extensions and trailers of one body, in bytes. RFC 9112 7.1.1: "A server ought to limit the total length of
/// chunk extensions received in a request to an amount reasonable for the services provided".
const OVERHEAD_BYTES_MAX: u16 = 16 * 1024;

/// RFC 9112 7.1: "A recipient MUST anticipate potentially large hexadecimal numerals and prevent parsing errors due to
/// integer conversion overflows". Sixteen digits are all that 64 bits hold; zeros before them count.
const SIZE_DIGITS_MAX: u8 = 16;

/// Takes one body apart.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    overhead: u16,
    /// Bytes still to come of the body, if it is counted, or of the chunk; the chunk's size while it is being read.
    left: u64,
    /// Bytes that the body may still have beyond `left`.
    budget: u64,
}

const _: () = assert!(size_of::<BodyDecoder>() <= 24);

impl BodyDecoder {
    /// A decoder for a body that `length` delimits. A body of more than `body_bytes_max` bytes is refused as soon as
    /// that is known: by the first call, where its length was announced.
    #[must_use]
    pub const fn new(length: Length, body_bytes_max: u64) -> Self {
        let (state, left) = match length {
            Length::None | Length::Exact(0) => (State::Done, 0),
            Length::Exact(bytes) if body_bytes_max < bytes => (State::Refused(Refusal::BodyTooLong), 0),
            Length::Exact(bytes) => (State::Exact, bytes),
            Length::Chunked => (State::Size(0), 0),
            Length::UntilClose => (State::UntilClose, 0),
        };
        Self { state, overhead: OVERHEAD_BYTES_MAX, left, budget: body_bytes_max }
    }

    /// Takes the next piece from the start of `buf`; drop `consumed` bytes and call again. Nothing consumed and not
    /// done means that more bytes are needed.
    ///
    /// # Errors
    /// A malformed or too long body; every call after that repeats it. What came before the fault is handed out first.
    #[inline]
    pub fn decode<'b>(&mut self, buf: &'b [u8]) -> Result<Body<'b>, Refusal> {
        let data = match self.state {
            State::Refused(refusal) => return Err(refusal),
            State::Done => &[],
            State::Exact => self.take(buf),
            State::UntilClose => self.take_until_close(buf)?,
            State::Size(_)
            | State::SizeSpace
            | State::Extension
            | State::SizeLf
            | State::Data
            | State::DataCr
            | State::DataLf
            | State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => return self.decode_chunked(buf),
        };
        if self.state == State::Exact && self.left == 0 {
            self.state = State::Done;
        }
        Ok(Body { consumed: data.len(), data, done: self.is_done() })
    }

    /// Whether the body is complete. A body that ends with the connection never is by its bytes.
    #[inline]
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the body is whole if the connection closes here; otherwise it was cut short.
    #[inline]
    #[must_use]
    pub const fn may_close(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// What `buf` has of the bytes that are left.
    #[inline]
    fn take<'b>(&mut self, buf: &'b [u8]) -> &'b [u8] {
        let bytes = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        self.left -= bytes as u64;
        buf.get(..bytes).unwrap_or(&[])
    }

    fn take_until_close<'b>(&mut self, buf: &'b [u8]) -> Result<&'b [u8], Refusal> {
        if self.budget == 0 && !buf.is_empty() {
            self.state = State::Refused(Refusal::BodyTooLong);
            return Err(Refusal::BodyTooLong);
        }
        self.left = self.budget;
        let data = self.take(buf);
        self.budget = self.left;
        Ok(data)
    }

    /// One chunk's data at most, and all of the framing before and behind it: the end of a body is then seen in the
    /// call that hands out its last piece.
    fn decode_chunked<'b>(&mut self, buf: &'b [u8]) -> Result<Body<'b>, Refusal> {
        let mut consumed = self.skip_plain_framing(buf);
        let mut data: &[u8] = &[];
        while let Some(rest) =
            buf.get(consumed..).filter(|rest| !rest.is_empty() && self.state != State::Done)
        {
            if self.state == State::Data {
                if !data.is_empty() {
                    break;
                }
                data = self.take(rest);
                consumed += data.len();
                if self.left == 0 {
                    self.state = State::DataCr;
                    consumed += self.skip_plain_framing(buf.get(consumed..).unwrap_or(&[]));
                }
                continue;
            }
            match self.on_byte(rest.first().copied().unwrap_or(0)) {
                Ok(state) => self.state = state,
                Err(refusal) => {
                    self.state = State::Refused(refusal);
                    if data.is_empty() {
                        return Err(refusal);
                    }
                    break;
                }
            }
            consumed += 1;
        }
        Ok(Body { consumed, data, done: self.is_done() })
    }

    /// Steps over framing in the form in which nearly every peer sends it, if all of it is there: the end of a chunk, a
    /// size of few digits, the end of the body. What is there otherwise is left to [`on_byte`](Self::on_byte), which
    /// comes to the same.
    #[inline]
    fn skip_plain_framing(&mut self, buf: &[u8]) -> usize {
        let mut skipped = 0;
        if self.state == State::DataCr && buf.starts_with(b"\r\n") {
            self.state = State::Size(0);
            skipped = 2;
        }
        let rest = buf.get(skipped..).unwrap_or(&[]);
        if self.state != State::Size(0) {
            return skipped;
        }
        if rest.starts_with(b"0\r\n\r\n") {
            self.state = State::Done;
            return skipped + 5;
        }
        let mut size = 0;
        for (digits, byte) in rest.iter().take(8).enumerate() {
            if let Some(digit) = hex_digit(*byte) {
                size = size << 4 | digit;
                continue;
            }
            let plain = size != 0 && size <= self.budget && rest.get(digits..digits + 2) == Some(b"\r\n");
            if plain {
                self.budget -= size;
                self.left = size;
                self.state = State::Data;
                skipped += digits + 2;
            }
            break;
        }
        skipped
    }

    /// The state after one byte of framing.
    fn on_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        match (self.state, byte) {
            (State::Size(digits), _) if byte.is_ascii_hexdigit() => self.on_size_digit(digits, byte),
            (State::Size(1..), b';') | (State::SizeSpace, b';') => self.spend(State::Extension),
            // RFC 9112 7.1.1 has "bad" white space before an extension, and none before the line's end.
            (State::Size(1..), b' ' | b'\t') | (State::SizeSpace, b' ' | b'\t') => {
                self.spend(State::SizeSpace)
            }
            (State::Size(1..), b'\r') | (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) if is_value_byte(byte) => self.spend(State::Extension),
            (State::SizeLf, b'\n') => self.on_size_end(),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => {
                self.spend(State::TrailerName)
            }
            (State::TrailerName, b':') => self.spend(State::TrailerValue),
            (State::TrailerValue, b'\r') => self.spend(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => self.spend(State::TrailerValue),
            (State::TrailerLf, b'\n') => self.spend(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(Refusal::ChunkSyntax),
        }
    }

    fn on_size_digit(&mut self, digits: u8, byte: u8) -> Result<State, Refusal> {
        if SIZE_DIGITS_MAX <= digits {
            return Err(Refusal::ChunkSyntax);
        }
        self.left = self.left << 4 | hex_digit(byte).unwrap_or(0);
        Ok(State::Size(digits + 1))
    }

    fn on_size_end(&mut self) -> Result<State, Refusal> {
        if self.left == 0 {
            return Ok(State::TrailerStart);
        }
        self.budget = self.budget.checked_sub(self.left).ok_or(Refusal::BodyTooLong)?;
        Ok(State::Data)
    }

    fn spend(&mut self, next: State) -> Result<State, Refusal> {
        self.overhead = self.overhead.checked_sub(1).ok_or(Refusal::ChunkOverhead)?;
        Ok(next)
    }
}

#[inline]
const fn hex_digit(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some((byte - b'0') as u64),
        b'a'..=b'f' => Some((byte - b'a' + 10) as u64),
        b'A'..=b'F' => Some((byte - b'A' + 10) as u64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::format;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// Feeds `wire` in pieces that end at `cuts`; answers with the data, what is left over, and how it ended. After a
    /// refusal nothing on the connection is of use, so nothing counts as left.
    fn decode(
        length: Length,
        max: u64,
        wire: &[u8],
        cuts: &[usize],
    ) -> (Vec<u8>, usize, Result<bool, Refusal>) {
        let mut decoder = BodyDecoder::new(length, max);
        let (mut data, mut at) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([wire.len()]) {
            loop {
                let body = match decoder.decode(&wire[at..end]) {
                    Ok(body) => body,
                    Err(refusal) => {
                        assert_eq!(decoder.decode(&wire[at..]), Err(refusal), "a refusal is repeated");
                        return (data, 0, Err(refusal));
                    }
                };
                data.extend_from_slice(body.data);
                at += body.consumed;
                assert_eq!(body.done, decoder.is_done());
                if body.done || body.consumed == 0 {
                    break;
                }
            }
        }
        (data, wire.len() - at, Ok(decoder.is_done()))
    }

    /// The same result whole, byte by byte, and cut in two or three anywhere.
    fn check(length: Length, max: u64, wire: &[u8], data: &[u8], left: usize, end: Result<bool, Refusal>) {
        let expected = (data.to_vec(), left, end);
        assert_eq!(decode(length, max, wire, &[]), expected, "{wire:?}");
        let every: Vec<usize> = (0..=wire.len()).collect();
        assert_eq!(decode(length, max, wire, &every), expected, "{wire:?}, byte by byte");
        for first in 0..=wire.len() {
            for second in first..=wire.len() {
                assert_eq!(
                    decode(length, max, wire, &[first, second]),
                    expected,
                    "{wire:?} at {first}, {second}"
                );
            }
        }
    }

    #[test]
    fn counted_bodies() {
        check(Length::None, 9, b"next", b"", 4, Ok(true));
        check(Length::Exact(0), 9, b"next", b"", 4, Ok(true));
        check(Length::Exact(3), 3, b"abcnext", b"abc", 4, Ok(true));
        check(Length::Exact(9), 9, b"abc", b"abc", 0, Ok(false));
        check(Length::Exact(4), 3, b"abcd", b"", 0, Err(Refusal::BodyTooLong));
        check(Length::UntilClose, 9, b"abc", b"abc", 0, Ok(false));
        check(Length::UntilClose, 3, b"abc", b"abc", 0, Ok(false));
        check(Length::UntilClose, 2, b"abc", b"ab", 0, Err(Refusal::BodyTooLong));
    }

    #[test]
    fn chunked_bodies() {
        let chunked = |wire: &[u8], data: &[u8], left| check(Length::Chunked, 99, wire, data, left, Ok(true));
        chunked(b"0\r\n\r\n", b"", 0);
        chunked(b"0\r\n\r\nGET /", b"", 5);
        chunked(b"3\r\nabc\r\n0\r\n\r\n", b"abc", 0);
        chunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nnext", b"abc0123456789", 4);
        chunked(b"0003\r\na\r\n\r\n000\r\n\r\n", b"a\r\n", 0);
        chunked(b"3;x\r\nabc\r\n0;y=\"z\"\r\n\r\n", b"abc", 0);
        chunked(b"3 \t;x = 1;z\r\nabc\r\n0\r\n\r\n", b"abc", 0);
        chunked(b"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\nn", b"a", 1);
        check(Length::Chunked, 99, b"3\r\nab", b"ab", 0, Ok(false));
        check(Length::Chunked, 99, b"3\r\nabc\r\n0\r\n", b"abc", 0, Ok(false));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let refused = |wire: &[u8], data: &[u8], refusal| {
            check(Length::Chunked, 99, wire, data, 0, Err(refusal));
        };
        let syntax = Refusal::ChunkSyntax;
        refused(b"\r\n", b"", syntax);
        refused(b";x\r\n", b"", syntax);
        refused(b" 3\r\n", b"", syntax);
        refused(b"0x3\r\n", b"", syntax);
        refused(b"+3\r\n", b"", syntax);
        refused(b"-3\r\n", b"", syntax);
        refused(b"g\r\n", b"", syntax);
        // "5 " and then the line's end: white space belongs before an extension only.
        refused(b"3 \r\nabc", b"", syntax);
        refused(b"3\nabc\r\n", b"", syntax);
        refused(b"3\rabc\r\n", b"", syntax);
        refused(b"3;x\nabc\r\n", b"", syntax);
        refused(b"3;\0\r\n", b"", syntax);
        // The data is longer or shorter than the size says, or its line end is not CRLF.
        refused(b"3\r\nabcd\r\n", b"abc", syntax);
        refused(b"3\r\nabc\n0\r\n", b"abc", syntax);
        refused(b"3\r\nabc\r0", b"abc", syntax);
        refused(b"3\r\nab\r\n0\r\n\r\n", b"ab\r", syntax);
        refused(b"3\r\nabc0\r\n\r\n", b"abc", syntax);
        refused(b"10000000000000000\r\n", b"", syntax);
        refused(b"00000000000000003\r\n", b"", syntax);
        // Trailers.
        refused(b"0\r\nX\r\n\r\n", b"", syntax);
        refused(b"0\r\nX : y\r\n\r\n", b"", syntax);
        refused(b"0\r\n X: y\r\n\r\n", b"", syntax);
        refused(b"0\r\nX: y\n\r\n", b"", syntax);
        refused(b"0\r\n\n", b"", syntax);
        refused(b"0\r\n\rX", b"", syntax);
        refused(b"0\r\nX: \0\r\n\r\n", b"", syntax);
    }

    #[test]
    fn a_body_is_refused_before_its_data_comes() {
        check(Length::Chunked, 4, b"4\r\nabcd\r\n0\r\n\r\n", b"abcd", 0, Ok(true));
        check(Length::Chunked, 4, b"5\r\nabcde\r\n", b"", 0, Err(Refusal::BodyTooLong));
        check(Length::Chunked, 4, b"3\r\nabc\r\n2\r\nde", b"abc", 0, Err(Refusal::BodyTooLong));
        check(Length::Chunked, 99, b"ffffffffffffffff\r\n", b"", 0, Err(Refusal::BodyTooLong));
    }

    /// CVE-2023-39326: chunks of one byte, each with an extension, made a server read far more than the body.
    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut wire = Vec::new();
        for _ in 0..20 {
            wire.extend_from_slice(format!("1;{}\r\na\r\n", "x".repeat(1000)).as_bytes());
        }
        let (data, _, end) = decode(Length::Chunked, 99, &wire, &[]);
        assert_eq!((data, end), (vec![b'a'; 16], Err(Refusal::ChunkOverhead)));
        let wire = format!("0\r\nX: {}\r\n", "y".repeat(17_000));
        assert_eq!(decode(Length::Chunked, 99, wire.as_bytes(), &[]).2, Err(Refusal::ChunkOverhead));
    }

    #[test]
    fn a_connection_may_close_where_the_body_allows_it() {
        let may_close = |length, wire: &[u8]| {
            let mut decoder = BodyDecoder::new(length, 99);
            decoder.decode(wire).unwrap();
            decoder.may_close()
        };
        assert!(may_close(Length::None, b""));
        assert!(may_close(Length::UntilClose, b"ab"));
        assert!(may_close(Length::Exact(2), b"ab"));
        assert!(!may_close(Length::Exact(3), b"ab"));
        assert!(may_close(Length::Chunked, b"0\r\n\r\n"));
        assert!(!may_close(Length::Chunked, b"0\r\n"));
    }
}
