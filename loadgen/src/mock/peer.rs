//! The server's side of one HTTP/1.1 connection, for the simulators: requests in, whole, one after another; whatever the
//! answer is, written by its owner.

use std::io;
use std::net::SocketAddr;

use clawgate_wire::http1::{
    BodyDecoder, CONTINUE, HeadLimits, Length, Refusal, RequestHead, parse_request, write_response_head,
};

use crate::driver::{self, Listener, Socket};

/// The longest body that a simulator takes.
const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, headers_max: 64, target_bytes_max: 4096 };

/// Serves every connection of an address with tasks that `serve` makes, for as long as the thread runs. Tells where it
/// listens.
///
/// # Errors
/// The system's, if nothing can listen there.
pub fn listen<F: Future<Output = ()> + 'static>(
    address: SocketAddr,
    serve: impl Fn(Peer) -> F + 'static,
) -> io::Result<SocketAddr> {
    let listener = Listener::bind(address)?;
    let address = listener.address()?;
    driver::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(socket) => driver::spawn(serve(Peer::new(socket))),
                // Out of descriptors, or a client that left before it was accepted: the next one may do better.
                Err(_) => driver::sleep(core::time::Duration::from_millis(5)).await,
            }
        }
    });
    Ok(address)
}

/// A connection.
#[derive(Debug)]
pub struct Peer {
    socket: Socket,
    input: Vec<u8>,
    /// What is to be sent next; see [`flush`](Self::flush).
    pub out: Vec<u8>,
    body: Vec<u8>,
    keep_alive: bool,
}

impl Peer {
    fn new(socket: Socket) -> Self {
        Self { socket, input: Vec::new(), out: Vec::new(), body: Vec::new(), keep_alive: true }
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Gives up the HTTP of it: the socket, and what was read beyond the last request.
    #[must_use]
    pub fn into_parts(self) -> (Socket, Vec<u8>) {
        (self.socket, self.input)
    }

    /// Closes the connection with the next [`next`](Self::next).
    pub const fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Sends what was written, then waits for the next request and has it answered. `answer` appends its response to the
    /// buffer that it is given. `None` when there is no next request.
    ///
    /// # Errors
    /// The connection is gone, or does not speak HTTP.
    pub async fn next<T>(
        &mut self,
        answer: impl FnOnce(&RequestHead<'_>, &[u8], &mut Vec<u8>) -> T,
    ) -> io::Result<Option<T>> {
        self.flush().await?;
        if !self.keep_alive {
            return Ok(None);
        }
        let mut continued = false;
        loop {
            match self.whole_request() {
                Ok(Found::Whole(bytes)) => {
                    let head = parse_request(&self.input, &HEAD_LIMITS).ok().flatten();
                    let Some(head) = head else { return Ok(None) };
                    self.keep_alive = head.keep_alive;
                    let answered = answer(&head, &self.body, &mut self.out);
                    self.input.drain(..bytes);
                    return Ok(Some(answered));
                }
                Ok(Found::Continue) if !continued => {
                    continued = true;
                    self.socket.send_all(CONTINUE).await?;
                }
                Ok(Found::Continue | Found::Part) => {}
                Err(refusal) => {
                    write_response_head(&mut self.out, refusal.status(), &[], Length::Exact(0), false);
                    self.keep_alive = false;
                    self.flush().await?;
                    return Ok(None);
                }
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Looks whether a whole request is there, and collects its body.
    fn whole_request(&mut self) -> Result<Found, Refusal> {
        let Some(head) = parse_request(&self.input, &HEAD_LIMITS)? else { return Ok(Found::Part) };
        let (mut at, expects) = (head.bytes, head.expect_continue);
        let mut decoder = BodyDecoder::new(head.body, BODY_BYTES_MAX);
        self.body.clear();
        loop {
            let body = decoder.decode(self.input.get(at..).unwrap_or(&[]))?;
            at += body.consumed;
            self.body.extend_from_slice(body.data);
            if body.done {
                return Ok(Found::Whole(at));
            }
            if body.consumed == 0 {
                return Ok(if expects { Found::Continue } else { Found::Part });
            }
        }
    }

    /// Waits for bytes; `false` if the client has closed its side.
    async fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            self.socket.readable().await?;
            let mut fresh = false;
            loop {
                match self.socket.receive(&mut chunk)? {
                    Some(0) => return Ok(fresh),
                    Some(count) => {
                        self.input.extend_from_slice(&chunk[..count]);
                        fresh = true;
                        if count < chunk.len() {
                            return Ok(true);
                        }
                    }
                    None => break,
                }
            }
            if fresh {
                return Ok(true);
            }
        }
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.send_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }
}

/// What the input holds.
enum Found {
    /// A whole request of so many bytes.
    Whole(usize),
    /// A head whose client waits to be told to go on.
    Continue,
    /// Less.
    Part,
}

/// Writes a whole response with a JSON body.
pub fn write_json(out: &mut Vec<u8>, status: u16, json: &[u8]) {
    write_response_head(
        out,
        status,
        &[("Content-Type", "application/json")],
        Length::Exact(json.len() as u64),
        true,
    );
    out.extend_from_slice(json);
}

/// The value of a parameter in a target's query, without decoding.
#[must_use]
pub fn query<'t>(target: &'t str, name: &str) -> Option<&'t str> {
    let (_, query) = target.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(found, _)| *found == name))
        .map(|(_, value)| value)
}
