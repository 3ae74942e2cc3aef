//! WebSocket frames, both roles, and the handshake. RFC 6455.
//!
//! Owns framing, masking, the rules about fragments and control frames, and the validity of text. Unmasks in the caller's
//! buffer; never assembles a fragmented message, never answers a ping, never negotiates an extension.

mod handshake;
mod utf8;
mod write;

pub use handshake::{
    Upgrade, UpgradeFailure, UpgradeRefusal, accept_key, check_upgrade, check_upgrade_response, client_key,
    write_upgrade_refusal, write_upgrade_request, write_upgrade_response,
};
pub use utf8::{BadUtf8, Utf8};
pub use write::{FrameStart, begin_frame, end_frame, write_close, write_frame};

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accepted it: the peer masks, we do not.
    Server,
    /// We opened it: we mask, the peer does not.
    Client,
}

/// What a frame is (RFC 6455 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation,
    /// Text, whole or its first fragment.
    Text,
    /// Bytes, whole or their first fragment.
    Binary,
    /// The last frame of a side.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping, or says that a side is alive.
    Pong,
}

impl Opcode {
    #[inline]
    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// How the peer broke the protocol. The connection is to be closed with [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A reserved bit is set, and no extension was negotiated.
    ReservedBits,
    /// An opcode that is reserved.
    BadOpcode,
    /// A client's frame that is not masked.
    Unmasked,
    /// A server's frame that is masked.
    Masked,
    /// A control frame in fragments.
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    ControlTooLong,
    /// A length written in more bytes than it needs.
    LengthNotMinimal,
    /// A length of 64 bits with the top bit set.
    LengthTopBit,
    /// A close code that must not be sent.
    BadCloseCode,
    /// A close frame of one byte: half a code.
    BadClosePayload,
    /// Text or a close reason that is not UTF-8.
    BadUtf8,
    /// A continuation of nothing.
    ContinuationWithoutStart,
    /// A new message inside a fragmented one.
    DataInsideFragments,
    /// Bytes after a close frame.
    DataAfterClose,
    /// A message longer than allowed, all its fragments counted.
    MessageTooBig,
}

impl Violation {
    /// What the close frame that answers it says (RFC 6455 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::BadOpcode
            | Self::Unmasked
            | Self::Masked
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::LengthNotMinimal
            | Self::LengthTopBit
            | Self::BadCloseCode
            | Self::BadClosePayload
            | Self::ContinuationWithoutStart
            | Self::DataInsideFragments
            | Self::DataAfterClose => 1002,
            Self::BadUtf8 => 1007,
            Self::MessageTooBig => 1009,
        }
    }

    /// A stable name for logs, metrics and close reasons.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::ReservedBits => "WS_RESERVED_BITS",
            Self::BadOpcode => "WS_BAD_OPCODE",
            Self::Unmasked => "WS_UNMASKED",
            Self::Masked => "WS_MASKED",
            Self::FragmentedControl => "WS_FRAGMENTED_CONTROL",
            Self::ControlTooLong => "WS_CONTROL_TOO_LONG",
            Self::LengthNotMinimal => "WS_LENGTH_NOT_MINIMAL",
            Self::LengthTopBit => "WS_LENGTH_TOP_BIT",
            Self::BadCloseCode => "WS_BAD_CLOSE_CODE",
            Self::BadClosePayload => "WS_BAD_CLOSE_PAYLOAD",
            Self::BadUtf8 => "WS_BAD_UTF8",
            Self::ContinuationWithoutStart => "WS_CONTINUATION_WITHOUT_START",
            Self::DataInsideFragments => "WS_DATA_INSIDE_FRAGMENTS",
            Self::DataAfterClose => "WS_DATA_AFTER_CLOSE",
            Self::MessageTooBig => "WS_MESSAGE_TOO_BIG",
        }
    }
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.code())
    }
}

impl core::error::Error for Violation {}

/// What one call found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// At least this many bytes are missing, one or more. Call again with the same bytes and those that came after them.
    NeedMore(usize),
    /// A whole frame.
    Frame {
        /// Bytes of the buffer that it took.
        consumed: usize,
        /// What it says.
        item: Item<'b>,
    },
}

/// What a frame says. Payloads are unmasked in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'b> {
    /// A whole message of text: valid UTF-8.
    Text(&'b mut [u8]),
    /// A whole message of bytes.
    Binary(&'b mut [u8]),
    /// A piece of a message that came in fragments; the caller assembles them.
    Fragment {
        /// Whether the message is text. All fragments together are then valid UTF-8; one alone may end inside of a
        /// character.
        text: bool,
        /// The piece.
        payload: &'b mut [u8],
        /// Whether the message starts with it.
        first: bool,
        /// Whether the message ends with it.
        last: bool,
    },
    /// To be answered with a pong of the same payload.
    Ping(&'b [u8]),
    /// An answer to a ping, or a sign of life.
    Pong(&'b [u8]),
    /// The peer's last frame; to be answered with a close frame, unless we sent ours first.
    Close {
        /// Why, if the peer says so.
        code: Option<u16>,
        /// Why in words, possibly none.
        reason: &'b str,
    },
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A new message.
    Idle,
    /// The rest of a message of text.
    InText,
    /// The rest of a message of bytes.
    InBinary,
    /// Nothing: the peer has closed.
    Closed,
}

/// Takes a peer's frames from a buffer.
#[derive(Clone, Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    /// Bytes of the fragments so far.
    message_bytes: usize,
    utf8: Utf8,
    phase: Phase,
    role: Role,
}

const _: () = assert!(size_of::<Decoder>() <= 24);

/// The two bytes that every frame starts with (RFC 6455 5.2).
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7F;
/// RFC 6455 5.5: "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."
const CONTROL_BYTES_MAX: u8 = 125;

/// A frame whose header was found in order.
struct Frame {
    final_frame: bool,
    opcode: Opcode,
    /// The bytes before the payload, key included.
    header_bytes: usize,
    payload_bytes: usize,
}

/// What there is of a header.
enum Header {
    Whole(Frame),
    /// At least this many bytes are still to come.
    Missing(usize),
}

impl Decoder {
    /// A decoder for the peer of `role`. A message of more than `message_bytes_max` bytes is refused when the header
    /// that makes it too long arrives, before its payload does.
    #[must_use]
    pub const fn new(role: Role, message_bytes_max: usize) -> Self {
        Self { message_bytes_max, message_bytes: 0, utf8: Utf8::new(), phase: Phase::Idle, role }
    }

    /// Allows messages of another size from the next frame on: small before a client has authenticated, larger after.
    pub const fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// Takes the frame at the front of `buf`. A frame is handed out whole, so the buffer must be able to hold the
    /// largest one allowed: `message_bytes_max` and 14 bytes of header.
    ///
    /// # Errors
    /// Any [`Violation`], as early as the bytes that are there tell; the decoder is not to be used after it.
    #[inline]
    pub fn decode<'b>(&mut self, buf: &'b mut [u8]) -> Result<Step<'b>, Violation> {
        let frame = match self.header(buf)? {
            Header::Whole(frame) => frame,
            Header::Missing(bytes) => return Ok(Step::NeedMore(bytes)),
        };
        // Cannot overflow where the payload is in memory; where it is not, it is not in the buffer either.
        let consumed = frame.header_bytes.saturating_add(frame.payload_bytes);
        let missing = consumed.saturating_sub(buf.len());
        if missing > 0 {
            return Ok(Step::NeedMore(missing));
        }
        let Some((header, payload)) =
            buf.get_mut(..consumed).and_then(|whole| whole.split_at_mut_checked(frame.header_bytes))
        else {
            return Ok(Step::NeedMore(1));
        };
        if let (Role::Server, Some(key)) = (self.role, header.last_chunk::<4>()) {
            unmask(payload, *key, 0);
        }
        let item = match frame.opcode {
            Opcode::Text if frame.final_frame => {
                // RFC 6455 8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte
                // stream is not, in fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_."
                if !is_utf8(payload) {
                    return Err(Violation::BadUtf8);
                }
                Item::Text(payload)
            }
            Opcode::Binary if frame.final_frame => Item::Binary(payload),
            Opcode::Text | Opcode::Binary | Opcode::Continuation => self.fragment(&frame, payload)?,
            Opcode::Ping => Item::Ping(payload),
            Opcode::Pong => Item::Pong(payload),
            Opcode::Close => self.close(payload)?,
        };
        Ok(Step::Frame { consumed, item })
    }

    /// Reads and checks a header.
    #[inline]
    fn header(&self, buf: &[u8]) -> Result<Header, Violation> {
        let [first, second, after @ ..] = buf else {
            if self.phase == Phase::Closed && !buf.is_empty() {
                return Err(Violation::DataAfterClose);
            }
            return Ok(Header::Missing(2 - buf.len()));
        };
        let opcode = self.check_start(*first, *second)?;
        let key_bytes = match self.role {
            Role::Server => 4,
            Role::Client => 0,
        };
        let (length, length_bytes) = match second & LENGTH {
            126 => {
                let Some(length) = after.first_chunk::<2>() else {
                    return Ok(Header::Missing(2 - after.len()));
                };
                (u64::from(u16::from_be_bytes(*length)), 2)
            }
            127 => {
                let Some(length) = after.first_chunk::<8>() else {
                    return Ok(Header::Missing(8 - after.len()));
                };
                (u64::from_be_bytes(*length), 8)
            }
            length => (u64::from(length), 0),
        };
        // RFC 6455 5.2: "the minimal number of bytes MUST be used to encode the length", and of 64 bits "the most
        // significant bit MUST be 0".
        match length_bytes {
            2 if length < 126 => return Err(Violation::LengthNotMinimal),
            8 if length >> 63 != 0 => return Err(Violation::LengthTopBit),
            8 if length <= 0xFFFF => return Err(Violation::LengthNotMinimal),
            _ => {}
        }
        let payload_bytes = match opcode {
            Opcode::Text | Opcode::Binary | Opcode::Continuation => self.check_size(length)?,
            Opcode::Close | Opcode::Ping | Opcode::Pong => usize::from(second & LENGTH),
        };
        let header_bytes = 2 + length_bytes + key_bytes;
        Ok(Header::Whole(Frame { final_frame: first & FINAL != 0, opcode, header_bytes, payload_bytes }))
    }

    /// What the first two bytes tell.
    #[inline]
    fn check_start(&self, first: u8, second: u8) -> Result<Opcode, Violation> {
        if self.phase == Phase::Closed {
            return Err(Violation::DataAfterClose);
        }
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        let in_message = self.phase != Phase::Idle;
        let opcode = match first & OPCODE {
            0x0 if in_message => Opcode::Continuation,
            0x0 => return Err(Violation::ContinuationWithoutStart),
            0x1 | 0x2 if in_message => return Err(Violation::DataInsideFragments),
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            bits @ 0x8..=0xA => {
                if first & FINAL == 0 {
                    return Err(Violation::FragmentedControl);
                }
                if CONTROL_BYTES_MAX < second & LENGTH {
                    return Err(Violation::ControlTooLong);
                }
                match bits {
                    0x8 => Opcode::Close,
                    0x9 => Opcode::Ping,
                    _ => Opcode::Pong,
                }
            }
            _ => return Err(Violation::BadOpcode),
        };
        // RFC 6455 5.1: "The server MUST close the connection upon receiving a frame that is not masked", and "A client
        // MUST close a connection if it detects a masked frame."
        match (self.role, second & MASKED != 0) {
            (Role::Server, false) => Err(Violation::Unmasked),
            (Role::Client, true) => Err(Violation::Masked),
            (Role::Server, true) | (Role::Client, false) => Ok(opcode),
        }
    }

    #[inline]
    fn check_size(&self, length: u64) -> Result<usize, Violation> {
        let room = self.message_bytes_max.saturating_sub(self.message_bytes);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= room => Ok(bytes),
            Ok(_) | Err(_) => Err(Violation::MessageTooBig),
        }
    }

    /// One frame of a message that has several, or is the last of them.
    fn fragment<'b>(&mut self, frame: &Frame, payload: &'b mut [u8]) -> Result<Item<'b>, Violation> {
        let first = frame.opcode != Opcode::Continuation;
        let text = frame.opcode == Opcode::Text || self.phase == Phase::InText;
        let last = frame.final_frame;
        if text {
            let whole = self.utf8.feed(payload).map_err(|_| Violation::BadUtf8)?;
            if last && !whole {
                return Err(Violation::BadUtf8);
            }
        }
        if last {
            self.phase = Phase::Idle;
            self.message_bytes = 0;
        } else {
            self.phase = if text { Phase::InText } else { Phase::InBinary };
            self.message_bytes += payload.len();
        }
        Ok(Item::Fragment { text, payload, first, last })
    }

    fn close<'b>(&mut self, payload: &'b [u8]) -> Result<Item<'b>, Violation> {
        self.phase = Phase::Closed;
        // RFC 6455 5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer".
        let (code, reason) = match payload {
            [] => return Ok(Item::Close { code: None, reason: "" }),
            [_] => return Err(Violation::BadClosePayload),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        if !is_close_code(code) {
            return Err(Violation::BadCloseCode);
        }
        let reason = core::str::from_utf8(reason).map_err(|_| Violation::BadUtf8)?;
        Ok(Item::Close { code: Some(code), reason })
    }
}

/// RFC 6455 7.4 and its registry: codes that a close frame may carry. 1004 is reserved, 1005, 1006 and 1015 "MUST NOT be
/// set as a status code in a Close control frame by an endpoint"; from 3000 on they are for libraries and applications.
#[inline]
const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Vectors need 64 bytes to work on; most that is shorter is ASCII, which is told by words.
#[inline]
fn is_utf8(text: &[u8]) -> bool {
    (text.len() < 64 && text.is_ascii()) || simdutf8::basic::from_utf8(text).is_ok()
}

/// Masks or unmasks `payload`, which starts `offset` bytes into its frame's payload (RFC 6455 5.3). By words of eight
/// bytes, four at a time, which the compiler turns into vectors.
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let key = u32::from_ne_bytes(key);
    // The byte of the key that is due first must come first in memory, whatever the order of bytes in a word.
    let turn = 8 * (offset & 3) as u32;
    let key = if cfg!(target_endian = "little") { key.rotate_right(turn) } else { key.rotate_left(turn) };
    let wide = u64::from(key) << 32 | u64::from(key);
    let (blocks, rest) = payload.as_chunks_mut::<32>();
    for block in blocks {
        for word in block.as_chunks_mut::<8>().0 {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
    }
    let (words, tail) = rest.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    let (halves, tail) = tail.as_chunks_mut::<4>();
    for half in halves {
        *half = (u32::from_ne_bytes(*half) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    /// A client's frame, its header as given: first byte, then a payload whose length is written minimally.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Binary, true, Some(KEY), payload);
        frame[0] = first;
        frame
    }

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Binary, true, None, payload);
        frame[0] = first;
        frame
    }

    /// Decodes one frame after another until something is refused or nothing is left; answers with the last result.
    fn last(role: Role, message_bytes_max: usize, wire: &[u8]) -> Result<usize, Violation> {
        let (mut decoder, mut wire) = (Decoder::new(role, message_bytes_max), wire.to_vec());
        let mut at = 0;
        loop {
            match decoder.decode(&mut wire[at..])? {
                Step::Frame { consumed, .. } => at += consumed,
                Step::NeedMore(missing) => return Ok(missing),
            }
        }
    }

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 6455 5.7.
        let mut decoder = Decoder::new(Role::Client, 100);
        let mut wire = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(
            decoder.decode(&mut wire).unwrap(),
            Step::Frame { consumed: 7, item: Item::Text(&mut b"Hello".clone()) }
        );
        let mut wire = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let mut decoder = Decoder::new(Role::Server, 100);
        assert_eq!(
            decoder.decode(&mut wire).unwrap(),
            Step::Frame { consumed: 11, item: Item::Text(&mut b"Hello".clone()) }
        );
        let mut decoder = Decoder::new(Role::Client, 100);
        let mut wire = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        let item = Item::Fragment { text: true, payload: &mut b"Hel".clone(), first: true, last: false };
        assert_eq!(decoder.decode(&mut wire).unwrap(), Step::Frame { consumed: 5, item });
        let item = Item::Fragment { text: true, payload: &mut b"lo".clone(), first: false, last: true };
        assert_eq!(decoder.decode(&mut wire[5..]).unwrap(), Step::Frame { consumed: 4, item });
        let mut wire = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(
            decoder.decode(&mut wire).unwrap(),
            Step::Frame { consumed: 7, item: Item::Ping(b"Hello") }
        );
        let mut wire = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let mut decoder = Decoder::new(Role::Server, 100);
        assert_eq!(
            decoder.decode(&mut wire).unwrap(),
            Step::Frame { consumed: 11, item: Item::Pong(b"Hello") }
        );
        for (bytes, header) in
            [(256_usize, &[0x82, 0x7E, 0x01, 0x00][..]), (65_536, &[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0])]
        {
            let mut wire = header.to_vec();
            wire.resize(header.len() + bytes, 7);
            let expected = Step::Frame { consumed: wire.len(), item: Item::Binary(&mut vec![7; bytes]) };
            assert_eq!(Decoder::new(Role::Client, bytes).decode(&mut wire.clone()).unwrap(), expected);
            let mut written = Vec::new();
            write_frame(&mut written, Opcode::Binary, true, None, &vec![7; bytes]);
            assert_eq!(written, wire);
        }
    }

    #[test]
    fn violations_by_their_name() {
        use Violation::*;
        let long = vec![b'x'; 126];
        let cases: Vec<(Vec<u8>, Violation)> = vec![
            (client_frame(0xC1, b"a"), ReservedBits),
            (client_frame(0xA1, b"a"), ReservedBits),
            (client_frame(0x91, b"a"), ReservedBits),
            (client_frame(0x83, b"a"), BadOpcode),
            (client_frame(0x87, b"a"), BadOpcode),
            (client_frame(0x8B, b"a"), BadOpcode),
            (client_frame(0x8F, b"a"), BadOpcode),
            (server_frame(0x81, b"a"), Unmasked),
            (server_frame(0x88, b""), Unmasked),
            (client_frame(0x08, b""), FragmentedControl),
            (client_frame(0x09, b""), FragmentedControl),
            (client_frame(0x0A, b""), FragmentedControl),
            (client_frame(0x88, &long), ControlTooLong),
            (client_frame(0x89, &long), ControlTooLong),
            (client_frame(0x8A, &long), ControlTooLong),
            (client_frame(0x80, b"a"), ContinuationWithoutStart),
            (client_frame(0x00, b"a"), ContinuationWithoutStart),
            ([client_frame(0x01, b"a"), client_frame(0x81, b"b")].concat(), DataInsideFragments),
            ([client_frame(0x02, b"a"), client_frame(0x02, b"b")].concat(), DataInsideFragments),
            (
                [client_frame(0x01, b"a"), client_frame(0x80, b"b"), client_frame(0x80, b"c")].concat(),
                ContinuationWithoutStart,
            ),
            ([client_frame(0x88, b""), client_frame(0x89, b"")].concat(), DataAfterClose),
            ([client_frame(0x88, b"\x03\xE8"), vec![0x81]].concat(), DataAfterClose),
            (client_frame(0x88, b"\x03"), BadClosePayload),
            (client_frame(0x88, b"\x03\xE8\xFF"), BadUtf8),
            (client_frame(0x81, b"\xFF"), BadUtf8),
            (client_frame(0x81, b"\xE2\x82"), BadUtf8),
            (
                [client_frame(0x01, b"\xE2"), client_frame(0x00, b"\x82"), client_frame(0x80, b"")].concat(),
                BadUtf8,
            ),
            // Surrogates and what is beyond U+10FFFF are refused before the character is whole.
            ([client_frame(0x01, b"\xED"), client_frame(0x00, b"\xA0")].concat(), BadUtf8),
            ([client_frame(0x01, b"\xF4"), client_frame(0x00, b"\x90")].concat(), BadUtf8),
            ([client_frame(0x01, b"ok"), client_frame(0x00, b"\xC0")].concat(), BadUtf8),
            (vec![0x82, 0xFE, 0, 125], LengthNotMinimal),
            (vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], LengthNotMinimal),
            (vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], LengthTopBit),
            // Refused from the header alone.
            (vec![0x82, 0xFE, 0x03, 0xE9], MessageTooBig),
            (vec![0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], MessageTooBig),
            ([client_frame(0x02, &[0; 600]), vec![0x00, 0xFE, 0x01, 0x91]].concat(), MessageTooBig),
        ];
        for (wire, expected) in cases {
            assert_eq!(last(Role::Server, 1000, &wire), Err(expected), "{wire:x?}");
        }
        assert_eq!(last(Role::Client, 1000, &client_frame(0x81, b"a")), Err(Masked));
    }

    #[test]
    fn close_codes_that_may_be_sent() {
        for code in 0..=u16::MAX {
            let payload = code.to_be_bytes();
            let mut wire = server_frame(0x88, &payload);
            let allowed = match code {
                1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(0),
                _ => Err(Violation::BadCloseCode),
            };
            assert_eq!(last(Role::Client, 9, &wire).map(|_| 0), allowed, "{code}");
            if allowed.is_ok() {
                let mut decoder = Decoder::new(Role::Client, 9);
                let item = Item::Close { code: Some(code), reason: "" };
                assert_eq!(decoder.decode(&mut wire), Ok(Step::Frame { consumed: 4, item }));
            }
        }
    }

    #[test]
    fn a_message_of_the_size_allowed_is_taken() {
        let fragments =
            [client_frame(0x02, &[0; 600]), client_frame(0x89, &[0; 125]), client_frame(0x80, &[0; 400])]
                .concat();
        assert_eq!(last(Role::Server, 1000, &fragments), Ok(2));
        // The next message starts from nothing again.
        assert_eq!(last(Role::Server, 1000, &[&fragments[..], &fragments].concat()), Ok(2));
        assert_eq!(last(Role::Server, 999, &fragments), Err(Violation::MessageTooBig));
        // A limit below what fragments have used already leaves no room, and does not underflow.
        let mut decoder = Decoder::new(Role::Server, 1000);
        let mut wire = fragments.clone();
        let Step::Frame { consumed, .. } = decoder.decode(&mut wire).unwrap() else { unreachable!() };
        decoder.set_message_bytes_max(10);
        let mut rest = client_frame(0x80, b"a");
        assert_eq!(consumed, 600 + 8);
        assert_eq!(decoder.decode(&mut rest), Err(Violation::MessageTooBig));
    }

    #[test]
    fn what_is_missing_is_told() {
        let mut wire = client_frame(0x82, &[7; 300]);
        let whole = wire.len();
        let mut decoder = Decoder::new(Role::Server, 1000);
        for end in 0..whole {
            let missing = match end {
                0..2 => 2 - end,
                2..4 => 4 - end,
                _ => whole - end,
            };
            assert_eq!(decoder.decode(&mut wire[..end]), Ok(Step::NeedMore(missing)), "{end} bytes");
        }
        assert!(matches!(decoder.decode(&mut wire), Ok(Step::Frame { consumed, .. }) if consumed == whole));
    }

    #[test]
    fn masking_by_words_is_masking_by_bytes() {
        let data: Vec<u8> = (0..100).map(|byte| byte as u8 ^ 0x5A).collect();
        for start in 0..16 {
            for end in start..=data.len() {
                for offset in 0..9 {
                    let mut words = data[start..end].to_vec();
                    unmask(&mut words, KEY, offset);
                    let bytes =
                        data[start..end].iter().enumerate().map(|(at, byte)| byte ^ KEY[(at + offset) & 3]);
                    assert!(words.iter().copied().eq(bytes), "{start}..{end} at {offset}");
                }
            }
        }
    }
}
