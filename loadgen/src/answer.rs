//! An HTTP answer that is read whole, whoever reads it.
use std::io;

use clawgate_wire::http1::{BodyDecoder, HeadLimits, parse_response};

/// The longest body that is taken: a page of the dead-letter queue or of metrics may be long.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, headers_max: 64, target_bytes_max: 1024 };

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// `Retry-After`, in seconds.
    pub(crate) retry_after_seconds: Option<u64>,
    pub(crate) body: Vec<u8>,
}

/// An answer that is whole, and whether its connection may be used again; `None` while something is missing.
///
/// # Errors
/// It is no answer, or longer than what is taken.
pub(crate) fn parse_answer(input: &[u8]) -> io::Result<Option<(Answered, bool)>> {
    let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
    let Some(head) = parse_response(input, &HEAD_LIMITS, false).map_err(bad)? else { return Ok(None) };
    let mut decoder = BodyDecoder::new(head.body, BODY_BYTES_MAX);
    let (mut body, mut at) = (Vec::new(), head.bytes);
    loop {
        let piece = decoder.decode(input.get(at..).unwrap_or(&[])).map_err(bad)?;
        body.extend_from_slice(piece.data);
        at += piece.consumed;
        if piece.done {
            let retry_after_seconds = head.headers.get("retry-after").and_then(|value| value.parse().ok());
            return Ok(Some((Answered { status: head.status, retry_after_seconds, body }, head.keep_alive)));
        }
        if piece.consumed == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nbusy";
        for end in 0..text.len() {
            assert_eq!(parse_answer(&text[..end]).unwrap(), None, "cut at {end}");
        }
        let expected = Answered { status: 503, retry_after_seconds: Some(2), body: b"busy".to_vec() };
        assert_eq!(parse_answer(text).unwrap(), Some((expected, true)));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        let expected = Answered { status: 200, retry_after_seconds: None, body: b"hi".to_vec() };
        assert_eq!(parse_answer(chunked).unwrap(), Some((expected, false)));
        assert!(parse_answer(b"garbage\r\n\r\n").is_err());
    }
}
