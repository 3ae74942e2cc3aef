//! Frames, written into the caller's buffer. RFC 6455 section 5. A server's payload can be written straight into its
//! place; the header is filled in once the length is known.

use alloc::vec::Vec;

use super::{FINAL, MASKED, Opcode, unmask};

/// Writes one frame. A client gives a key for each frame, fresh and unpredictable (RFC 6455 5.3); a server gives none. The
/// payload of a control frame is cut to 125 bytes.
#[inline]
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, last: bool, mask: Option<[u8; 4]>, payload: &[u8]) {
    let payload = match opcode {
        Opcode::Continuation | Opcode::Text | Opcode::Binary => payload,
        Opcode::Close | Opcode::Ping | Opcode::Pong => {
            debug_assert!(payload.len() <= 125 && last, "a control frame that is too long or in fragments");
            payload.get(..125).unwrap_or(payload)
        }
    };
    out.reserve(payload.len() + HEADER_BYTES_MAX + 4);
    let (header, bytes) = header(opcode, last, payload.len());
    out.extend_from_slice(header.get(..bytes).unwrap_or(&[]));
    let Some(key) = mask else {
        out.extend_from_slice(payload);
        return;
    };
    if let Some(length) = out.len().checked_sub(bytes).and_then(|start| out.get_mut(start + 1)) {
        *length |= MASKED;
    }
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(out.get_mut(start..).unwrap_or(&mut []), key, 0);
}

/// Where a frame that is being written starts.
#[derive(Debug)]
#[must_use = "a frame that is begun must be ended"]
pub struct FrameStart(usize);

/// The header kept free for a frame of unknown length: that of 126 to 65,535 bytes. A shorter payload moves by two bytes,
/// at most 125 of them; a longer one by six, and a copy of 64 KiB is nothing beside sending it.
const HEADER_BYTES_GUESS: usize = 4;
const HEADER_BYTES_MAX: usize = 10;

/// Starts a server's frame whose payload is then written straight into `out`.
#[inline]
pub fn begin_frame(out: &mut Vec<u8>) -> FrameStart {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES_GUESS]);
    FrameStart(start)
}

/// Ends a server's frame, the last or only one of its message: fills in its header.
#[inline]
pub fn end_frame(out: &mut Vec<u8>, start: FrameStart, opcode: Opcode) {
    let FrameStart(start) = start;
    let payload_start = start + HEADER_BYTES_GUESS;
    debug_assert!(payload_start <= out.len(), "the buffer was cut while a frame was open");
    let payload_bytes = out.len().saturating_sub(payload_start);
    let (header, bytes) = header(opcode, true, payload_bytes);
    let header = header.get(..bytes).unwrap_or(&[]);
    if bytes < HEADER_BYTES_GUESS {
        out.copy_within(payload_start.., start + bytes);
        out.truncate(start + bytes + payload_bytes);
    } else if HEADER_BYTES_GUESS < bytes {
        out.splice(payload_start..payload_start, [0; HEADER_BYTES_MAX - HEADER_BYTES_GUESS]);
    }
    if let Some(place) = out.get_mut(start..start + bytes) {
        place.copy_from_slice(header);
    }
}

/// The header of an unmasked frame and how many of its bytes count.
#[inline]
fn header(opcode: Opcode, last: bool, payload_bytes: usize) -> ([u8; HEADER_BYTES_MAX], usize) {
    let mut header = [0; HEADER_BYTES_MAX];
    header[0] = opcode.bits() | if last { FINAL } else { 0 };
    // RFC 6455 5.2: "the minimal number of bytes MUST be used to encode the length".
    if payload_bytes < 126 {
        header[1] = payload_bytes as u8;
        (header, 2)
    } else if payload_bytes <= 0xFFFF {
        let [high, low] = (payload_bytes as u16).to_be_bytes();
        header[1] = 126;
        header[2] = high;
        header[3] = low;
        (header, 4)
    } else {
        header[1] = 127;
        header[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
        (header, HEADER_BYTES_MAX)
    }
}

/// Writes a close frame. The reason is cut to 123 bytes, at the end of a character. A code that no frame may carry (1005,
/// 1006, 1015 and the like) is a bug of the caller's; it goes out as a frame without code.
pub fn write_close(out: &mut Vec<u8>, mask: Option<[u8; 4]>, code: u16, reason: &str) {
    let allowed = super::is_close_code(code);
    debug_assert!(allowed, "a close frame cannot carry {code}");
    if !allowed {
        write_frame(out, Opcode::Close, true, mask, &[]);
        return;
    }
    let reason = reason.get(..reason.floor_char_boundary(123)).unwrap_or("").as_bytes();
    let mut payload = [0; 125];
    let [high, low] = code.to_be_bytes();
    payload[0] = high;
    payload[1] = low;
    payload[2..2 + reason.len()].copy_from_slice(reason);
    write_frame(out, Opcode::Close, true, mask, payload.get(..2 + reason.len()).unwrap_or(&[]));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::vec;

    use super::super::{Decoder, Item, Role, Step};
    use super::*;

    /// Every length class, and the lengths around its edges.
    const LENGTHS: [usize; 9] = [0, 1, 124, 125, 126, 127, 65_535, 65_536, 70_000];

    #[test]
    fn a_payload_written_in_place_makes_the_same_frame() {
        for bytes in LENGTHS {
            let payload: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
            let mut expected = b"before".to_vec();
            write_frame(&mut expected, Opcode::Binary, true, None, &payload);
            write_frame(&mut expected, Opcode::Text, true, None, b"after");
            let mut out = b"before".to_vec();
            for (opcode, payload) in [(Opcode::Binary, &payload[..]), (Opcode::Text, b"after")] {
                let start = begin_frame(&mut out);
                out.extend_from_slice(payload);
                end_frame(&mut out, start, opcode);
            }
            assert_eq!(out, expected, "{bytes} bytes");
        }
    }

    #[test]
    fn a_masked_frame_is_read_back() {
        for bytes in LENGTHS {
            let payload: Vec<u8> = (0..bytes).map(|at| (at * 7) as u8).collect();
            let mut wire = Vec::new();
            write_frame(&mut wire, Opcode::Binary, true, Some([1, 2, 3, 4]), &payload);
            let consumed = wire.len();
            let step = Step::Frame { consumed, item: Item::Binary(&mut payload.clone()) };
            assert_eq!(Decoder::new(Role::Server, bytes).decode(&mut wire), Ok(step));
        }
    }

    #[test]
    fn a_frame_goes_behind_what_is_there() {
        let mut out = vec![1, 2, 3];
        write_frame(&mut out, Opcode::Ping, true, Some([0; 4]), b"ab");
        assert_eq!(out, [1, 2, 3, 0x89, 0x82, 0, 0, 0, 0, b'a', b'b']);
        write_frame(&mut out, Opcode::Continuation, false, None, b"");
        assert_eq!(out[11..], [0x00, 0x00]);
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        let read = |reason: &str| {
            let mut wire = Vec::new();
            write_close(&mut wire, None, 4000, reason);
            let mut decoder = Decoder::new(Role::Client, 0);
            match decoder.decode(&mut wire) {
                Ok(Step::Frame { item: Item::Close { code: Some(4000), reason }, .. }) => reason.len(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read(""), 0);
        assert_eq!(read(&"x".repeat(123)), 123);
        assert_eq!(read(&"x".repeat(124)), 123);
        assert_eq!(read(&"€".repeat(50)), 123);
        assert_eq!(read(&"😀".repeat(50)), 120);
    }
}
