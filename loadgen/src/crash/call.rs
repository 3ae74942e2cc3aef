//! One HTTP call after another on a connection that is opened again when it breaks: a client that wants to know of each
//! call what became of it. Owns a socket and what was read from it; decides nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::answer::{Answered, parse_answer};
use crate::driver::{self, Socket};

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
