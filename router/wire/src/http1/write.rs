//! Heads and chunks, written into the caller's buffer. RFC 9112. Nothing that a caller passes can end a line or a
//! head early: bytes that could are dropped, and in debug builds they are a bug.

use alloc::vec::Vec;

use super::{Length, is_token_byte, is_value_byte};

/// What a client that expects it waits for before it sends its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes a request's head. `host` is the authority of the server. [`Length::None`] announces no body;
/// [`Length::UntilClose`] is no request's and counts as none.
pub fn write_request_head(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    host: &str,
    headers: &[(&str, &str)],
    length: Length,
    keep_alive: bool,
) {
    debug_assert!(length != Length::UntilClose, "a request cannot end with its connection");
    write_visible(out, method);
    out.push(b' ');
    write_target(out, target);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    write_visible(out, host);
    out.extend_from_slice(b"\r\n");
    write_fields(out, headers);
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    write_length(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes a response's head. [`Length::None`] announces no body, as a 204 or a 304 must; an empty body of another status
/// is `Length::Exact(0)`. [`Length::UntilClose`] closes the connection whatever `keep_alive` says.
pub fn write_response_head(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    length: Length,
    keep_alive: bool,
) {
    debug_assert!((100..=999).contains(&status), "a status has three digits");
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    write_fields(out, headers);
    if !keep_alive || length == Length::UntilClose {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    write_length(out, length);
    out.extend_from_slice(b"\r\n");
}

fn write_length(out: &mut Vec<u8>, length: Length) {
    match length {
        Length::None | Length::UntilClose => {}
        Length::Exact(bytes) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Length::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

/// A field that would break the head is dropped whole: half a value is worse than none.
#[inline]
pub(crate) fn write_fields(out: &mut Vec<u8>, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        debug_assert!(name.bytes().all(is_token_byte), "a header that would break the head: {name}");
        debug_assert!(value.bytes().all(is_value_byte), "a header that would break the head: {name}");
        // Names are constants of ours for the most part: what is looked at here is what could break out of the line.
        let plain = |byte: u8| matches!(byte, 0x21..=0x7E) & (byte != b':');
        if name.is_empty() || !every_byte(name, plain) || !every_byte(value, is_value_byte) {
            debug_assert!(false, "a header that would break the head: {name}");
            continue;
        }
        out.reserve(name.len() + value.len() + 4);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Looks at every byte, whatever the ones before it: that is what the compiler turns into vector code.
#[inline]
fn every_byte(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & allowed(byte))
}

#[inline]
const fn is_visible(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E)
}

/// Writes a request target; bytes that cannot be in one are escaped (RFC 3986 2.1).
#[inline]
pub(crate) fn write_target(out: &mut Vec<u8>, target: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if every_byte(target, is_visible) {
        out.extend_from_slice(target.as_bytes());
        return;
    }
    for byte in target.bytes() {
        if is_visible(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Writes what has no white space and no control bytes: a method, an authority, a key. Bytes that would break the head are
/// left out.
#[inline]
pub(crate) fn write_visible(out: &mut Vec<u8>, text: &str) {
    if every_byte(text, is_visible) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    debug_assert!(false, "a byte that would break the head: {text:?}");
    out.extend(text.bytes().filter(|byte| is_visible(*byte)));
}

/// Writes one chunk. Nothing is written for no data, because an empty chunk would end the body.
#[inline]
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    out.reserve(data.len() + LONG_SIZE_DIGITS + 4);
    let start = begin_chunk(out);
    out.extend_from_slice(data);
    end_chunk(out, start);
}

/// Writes the chunk that ends a body, without trailers.
#[inline]
pub fn write_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// Where a chunk that is being written starts.
#[derive(Debug)]
#[must_use = "a chunk that is begun must be ended"]
pub struct ChunkStart(usize);

/// A chunk's size is written once its data is there, in the digits kept for it: RFC 9112 7.1 allows zeros in front.
const SIZE_DIGITS: usize = 4;
const LONG_SIZE_DIGITS: usize = 16;

/// Starts a chunk whose data is then written straight into `out`.
#[inline]
pub fn begin_chunk(out: &mut Vec<u8>) -> ChunkStart {
    let start = out.len();
    out.extend_from_slice(b"0000\r\n");
    ChunkStart(start)
}

/// Ends a chunk: fills in its size. A chunk without data leaves no trace, because it would end the body.
#[inline]
pub fn end_chunk(out: &mut Vec<u8>, start: ChunkStart) {
    let ChunkStart(start) = start;
    let data_start = start + SIZE_DIGITS + 2;
    debug_assert!(data_start <= out.len(), "the buffer was cut while a chunk was open");
    let bytes = out.len().saturating_sub(data_start);
    if bytes == 0 {
        out.truncate(start);
        return;
    }
    if bytes <= 0xFFFF {
        if let Some(size) = out.get_mut(start..start + SIZE_DIGITS) {
            write_hex(size, bytes);
        }
    } else {
        let mut size = [0; LONG_SIZE_DIGITS];
        write_hex(&mut size, bytes);
        // No zeros in front here: some peers count digits.
        let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4) as usize;
        out.splice(start..start + SIZE_DIGITS, size.iter().copied().skip(LONG_SIZE_DIGITS - digits));
    }
    out.extend_from_slice(b"\r\n");
}

/// Fills all of `digits`, zeros in front.
#[inline]
fn write_hex(digits: &mut [u8], mut number: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for digit in digits.iter_mut().rev() {
        *digit = HEX[number & 15];
        number >>= 4;
    }
}

/// The reason phrase of a status (RFC 9110 15, RFC 6585); empty for one that is not registered.
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    extern crate std;
    use alloc::string::String;
    use alloc::vec;

    use super::super::{BodyDecoder, HeadLimits, parse_request, parse_response};
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 1024, headers_max: 16, target_bytes_max: 256 };

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_is_written() {
        let headers = [("Accept", "text/event-stream"), ("X", "é\t")];
        let head = text(|out| {
            write_request_head(out, "POST", "/v1/chat", "api.example:443", &headers, Length::Exact(12), true);
        });
        assert_eq!(
            head,
            "POST /v1/chat HTTP/1.1\r\nHost: api.example:443\r\nAccept: text/event-stream\r\nX: é\t\r\n\
             Content-Length: 12\r\n\r\n"
        );
        let read = parse_request(head.as_bytes(), &LIMITS).unwrap().unwrap();
        assert_eq!((read.body, read.keep_alive, read.bytes), (Length::Exact(12), true, head.len()));
        let head = text(|out| write_request_head(out, "GET", "/", "a", &[], Length::None, false));
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn a_response_is_written() {
        let cases = [
            (200, Length::Exact(0), true, "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n"),
            (204, Length::None, true, "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"),
            (
                429,
                Length::Chunked,
                false,
                "HTTP/1.1 429 Too Many Requests\r\nA: b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (200, Length::UntilClose, true, "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n"),
            (799, Length::Exact(1), true, "HTTP/1.1 799 \r\nA: b\r\nContent-Length: 1\r\n\r\n"),
        ];
        for (status, length, keep_alive, expected) in cases {
            let head = text(|out| write_response_head(out, status, &[("A", "b")], length, keep_alive));
            assert_eq!(head, expected);
            let read = parse_response(head.as_bytes(), &LIMITS, false).unwrap().unwrap();
            assert_eq!((read.status, read.reason, read.body), (status, reason(status), length));
            assert_eq!(read.keep_alive, keep_alive && length != Length::UntilClose);
        }
    }

    #[test]
    fn a_target_cannot_split_a_request() {
        let head = text(|out| write_target(out, "/a b\r\nX: y\u{e9}%20\x7f"));
        assert_eq!(head, "/a%20b%0D%0AX:%20y%C3%A9%20%7F");
    }

    /// In debug builds these are bugs; in release builds the field is left out.
    #[test]
    fn fields_that_would_break_the_head_are_caught() {
        let bad = [
            ("X", "a\r\nY: z"),
            ("X", "a\nb"),
            ("X", "\0"),
            ("X Y", "a"),
            ("X:", "a"),
            ("", "a"),
            ("X", "\x7f"),
        ];
        for field in bad {
            let written = catch(|out| write_fields(out, &[field, ("Good", "1")]));
            assert_eq!(written.as_deref(), if cfg!(debug_assertions) { None } else { Some("Good: 1\r\n") });
        }
        let written = catch(|out| write_request_head(out, "G T", "/", "a\r\nX: y", &[], Length::None, true));
        let expected = "GT / HTTP/1.1\r\nHost: aX:y\r\n\r\n";
        assert_eq!(written.as_deref(), if cfg!(debug_assertions) { None } else { Some(expected) });
    }

    /// What is written, or `None` if an assertion fails.
    fn catch(write: impl FnOnce(&mut Vec<u8>) + std::panic::UnwindSafe) -> Option<String> {
        std::panic::catch_unwind(|| text(write)).ok()
    }

    #[test]
    fn chunks_are_written_and_read_back() {
        assert_eq!(text(|out| write_chunk(out, b"abc")), "0003\r\nabc\r\n");
        assert_eq!(text(|out| write_chunk(out, b"")), "", "an empty chunk would end the body");
        assert_eq!(text(write_last_chunk), "0\r\n\r\n");
        let mut out = Vec::new();
        write_chunk(&mut out, &[0; 0x1_2345]);
        assert_eq!(out[..7], *b"12345\r\n");
        for bytes in [1, 9, 15, 16, 255, 4096, 65_535, 65_536, 70_000] {
            let data = vec![b'x'; bytes];
            let mut out = vec![b'?'; 3];
            write_chunk(&mut out, &data);
            let start = begin_chunk(&mut out);
            end_chunk(&mut out, start);
            write_last_chunk(&mut out);
            let mut decoder = BodyDecoder::new(Length::Chunked, bytes as u64);
            let body = decoder.decode(&out[3..]).unwrap();
            assert_eq!((body.data, body.consumed, body.done), (&data[..], out.len() - 3, true));
        }
    }

    #[test]
    fn every_status_that_is_answered_has_a_reason() {
        for status in [200, 400, 413, 414, 426, 429, 431, 501, 503, 505] {
            assert_ne!(reason(status), "");
        }
    }
}
