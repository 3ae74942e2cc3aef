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
