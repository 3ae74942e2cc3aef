//! One HTTP call after another on a connection that is opened again when it breaks: a client that wants to know of each
//! call what became of it. Owns a socket and what was read from it; decides nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clawgate_wire::http1::{BodyDecoder, HeadLimits, parse_response};

use crate::driver::{self, Socket};

/// The longest body that is taken: a page of the dead-letter queue may be long.
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

/// A connection, or the wish to have one.
#[derive(Debug)]
pub(crate) struct Caller {
    target: SocketAddr,
    socket: Option<Socket>,
}

impl Caller {
    pub(crate) const fn new(target: SocketAddr) -> Self {
        Self { target, socket: None }
    }

    /// Sends a request and reads its whole answer. A kept connection that was closed before a byte of the answer came may
    /// have been idle for too long: then the request is sent again on a new one, as every HTTP client does. After an error
    /// the next call opens a new connection.
    ///
    /// # Errors
    /// The connection could not be had, or it broke, or it was silent for `limit` before the answer was whole.
    pub(crate) async fn call(&mut self, request: &[u8], limit: Duration) -> io::Result<Answered> {
        if let Some(socket) = self.socket.take().filter(|socket| !socket.peer_left()) {
            match self.ask(socket, request, limit).await {
                Err(Broken { error, silent: true }) if error.kind() != io::ErrorKind::TimedOut => {}
                done => return done.map_err(|broken| broken.error),
            }
        }
        let socket = driver::within(limit, Socket::connect(self.target)).await?;
        self.ask(socket, request, limit).await.map_err(|broken| broken.error)
    }

    async fn ask(&mut self, socket: Socket, request: &[u8], limit: Duration) -> Result<Answered, Broken> {
        socket.send_all(request).await.map_err(|error| Broken { error, silent: true })?;
        let mut input = Vec::new();
        let read = read_answer(&socket, limit, &mut input).await;
        let (answered, keep_alive) = read.map_err(|error| Broken { error, silent: input.is_empty() })?;
        if keep_alive {
            self.socket = Some(socket);
        }
        Ok(answered)
    }
}

/// A call that came to nothing.
struct Broken {
    error: io::Error,
    /// Not a byte of an answer had come.
    silent: bool,
}

async fn read_answer(socket: &Socket, limit: Duration, input: &mut Vec<u8>) -> io::Result<(Answered, bool)> {
    let mut chunk = [0; 4096];
    loop {
        driver::within(limit, socket.readable()).await?;
        while let Some(count) = socket.receive(&mut chunk)? {
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.extend_from_slice(&chunk[..count]);
            if count < chunk.len() {
                break;
            }
        }
        if let Some(whole) = parse_answer(input)? {
            return Ok(whole);
        }
    }
}

/// An answer that is whole, and whether its connection may be used again.
fn parse_answer(input: &[u8]) -> io::Result<Option<(Answered, bool)>> {
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
