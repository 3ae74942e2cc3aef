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
        let mut consumed = 0;
        let mut data: &[u8] = &[];
        while let Some(rest) = buf.get(consumed..).filter(|rest| !rest.is_empty()) {
            if self.state == State::Data {
                if !data.is_empty() {
                    break;
                }
                data = self.take(rest);
                consumed += data.len();
                if self.left == 0 {
                    self.state = State::DataCr;
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
            if self.state == State::Done {
                break;
            }
        }
        Ok(Body { consumed, data, done: self.is_done() })
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
            (State::DataLf, b'\n') => {
                self.left = 0;
                Ok(State::Size(0))
            }
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
        let digit = if byte.is_ascii_digit() { byte - b'0' } else { (byte | 0x20) - b'a' + 10 };
        self.left = self.left << 4 | u64::from(digit);
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
