//! The least that a server can do: one thread, epoll, a read and a write. What the gateway is held against.
//!
//! Owns the sockets that it accepts and answers what comes: its own bytes, or one fixed response to each request. Parses
//! nothing but where a request ends, which no server can leave out. Knows no message. With a file it is the least that a
//! server can do which keeps what it acknowledges: all that a wait brought is appended at once, and then answered.
pub mod append;

use append::Append;
use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, read, write};
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::OnceLock;

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes that came.
    Echo,
    /// [`RESPONSE`], to every request that is whole.
    Http,
    /// A chat completion, likewise.
    Completion,
    /// A streamed chat completion of [`TOKENS`] tokens, likewise, in one write.
    Stream,
}

/// Tokens of [`Answer::Stream`].
pub const TOKENS: usize = 50;

impl Answer {
    /// What is answered to a request.
    #[must_use]
    pub fn response(self) -> &'static [u8] {
        static COMPLETION: OnceLock<Vec<u8>> = OnceLock::new();
        static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
        match self {
            Self::Echo | Self::Http => RESPONSE,
            Self::Completion => COMPLETION.get_or_init(completion),
            Self::Stream => STREAM.get_or_init(stream),
        }
    }
}

/// The words of a token.
const TOKEN: &str = " gateway";

/// As OpenAI writes it.
fn completion() -> Vec<u8> {
    let text = TOKEN.repeat(TOKENS);
    let body = format!(
        "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1710000000,\"model\":\"main\",\
         \"system_fingerprint\":null,\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\
         \"{text}\",\"refusal\":null}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":60,\
         \"completion_tokens\":{TOKENS},\"total_tokens\":{}}}}}",
        60 + TOKENS
    );
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}

fn stream() -> Vec<u8> {
    let chunk = |delta: &str, finish: &str| {
        format!(
            "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1710000000,\"model\":\"main\",\
             \"system_fingerprint\":null,\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"logprobs\":null,\
             \"finish_reason\":{finish}}}]}}"
        )
    };
    let mut events = vec![chunk("\"role\":\"assistant\",\"content\":\"\"", "null")];
    events.extend((0..TOKENS).map(|_| chunk(&format!("\"content\":\"{TOKEN}\""), "null")));
    events.extend([chunk("", "\"stop\""), "[DONE]".to_owned()]);
    let mut out =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for event in events {
        clawgate_wire::http1::write_chunk(&mut out, format!("data: {event}\n\n").as_bytes());
    }
    clawgate_wire::http1::write_last_chunk(&mut out);
    out
}

/// The response to every request; of the Bot API's form, so that a gateway can deliver to this server.
pub const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n\
    {\"ok\":true,\"result\":{\"message_id\":1}}";

/// Events of one wait.
const EVENTS: usize = 256;
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// The event of the listener; no connection has it.
const LISTENER: u64 = u64::MAX;

/// Accepts and answers until accepting fails; what it answers is in the file before, if there is one.
///
/// # Errors
/// The system's, where it gives out no epoll, does not accept, or cannot write.
pub fn serve(listener: TcpListener, answer: Answer, file: Option<Append>) -> io::Result<()> {
    let mut floor = Floor::new(listener, answer)?;
    floor.kept = file.map(|file| Box::new(Kept { file, bytes: Vec::new(), owed: Vec::new() }));
    loop {
        floor.turn(None)?;
    }
}

/// The server, a turn of its loop at a time.
pub struct Floor {
    epoll: OwnedFd,
    listener: TcpListener,
    answer: Answer,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    events: Vec<Event>,
    kept: Option<Box<Kept>>,
}

/// What is written down before it is answered.
#[derive(Debug)]
struct Kept {
    file: Append,
    /// What the present wait brought.
    bytes: Vec<u8>,
    /// Connections, and how many responses each is owed for it.
    owed: Vec<(usize, usize)>,
}

/// 16 bytes while it owes nothing and waits for nothing.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// What is there of a request, or what the socket did not take; none in the ordinary case.
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Default)]
struct Rest {
    request: Vec<u8>,
    owed: Vec<u8>,
}

impl fmt::Debug for Floor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Floor").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl AsFd for Floor {
    /// Readable whenever [`Floor::turn`] has something to do: for a loop that has others to wait for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Floor {
    /// A server on this listener, without connections.
    ///
    /// # Errors
    /// The system's, where it gives out no epoll.
    pub fn new(listener: TcpListener, answer: Answer) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let (buffer, events) = (vec![0; READ_BYTES], Vec::with_capacity(EVENTS));
        let (connections, free) = (Vec::new(), Vec::new());
        Ok(Self { epoll, listener, answer, connections, free, buffer, events, kept: None })
    }

    /// Waits, at most so long, and does what is to be done. Returns how many requests were answered; of an echo, reads.
    ///
    /// # Errors
    /// The system's, where it does not accept, or cannot write.
    pub fn turn(&mut self, wait: Option<&Timespec>) -> io::Result<u64> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), wait) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        let mut answered = 0;
        for event in &events {
            match event.data.u64() {
                LISTENER => self.accept()?,
                at => answered += self.on_ready(usize::try_from(at).unwrap_or(usize::MAX)),
            }
        }
        self.events = events;
        self.answer_kept()?;
        Ok(answered)
    }

    /// Writes down what this wait brought, and answers it.
    fn answer_kept(&mut self) -> io::Result<()> {
        let Some(kept) = self.kept.as_deref_mut().filter(|kept| !kept.owed.is_empty()) else { return Ok(()) };
        kept.file.append(&kept.bytes)?;
        kept.bytes.clear();
        for (at, count) in std::mem::take(&mut kept.owed) {
            let Some(Some(connection)) = self.connections.get_mut(at) else { continue };
            if connection.respond(&self.epoll, at, self.answer, count).is_none() {
                self.close(at);
            }
        }
        Ok(())
    }

    /// Closing takes it out of the epoll.
    fn close(&mut self, at: usize) {
        self.connections[at] = None;
        self.free.push(at);
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It went before it was taken.
                Err(why) if why.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(why) => return Err(why),
            };
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let at = self.free.pop().unwrap_or(self.connections.len());
            epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), EventFlags::IN)?;
            let connection = Some(Connection { socket: socket.into(), rest: None });
            match self.connections.get_mut(at) {
                Some(place) => *place = connection,
                None => self.connections.push(connection),
            }
        }
    }

    /// One read, and the answer to what it brought. Returns how much was answered.
    fn on_ready(&mut self, at: usize) -> u64 {
        let Some(Some(connection)) = self.connections.get_mut(at) else { return 0 };
        let kept = self.kept.as_deref_mut();
        if let Some(answered) = connection.answer(&self.epoll, at, self.answer, &mut self.buffer, kept) {
            return answered;
        }
        self.close(at);
        0
    }
}

impl Connection {
    /// `None` once it is over. What is to be kept is answered when it is.
    fn answer(
        &mut self,
        epoll: &OwnedFd,
        at: usize,
        answer: Answer,
        buffer: &mut [u8],
        kept: Option<&mut Kept>,
    ) -> Option<u64> {
        if self.rest.as_ref().is_some_and(|rest| !rest.owed.is_empty()) {
            // What it owes goes first; what came stays in the socket.
            self.pay(epoll, at)?;
            return Some(0);
        }
        let read = match read(&self.socket, &mut *buffer) {
            Ok(0) => return None,
            Ok(read) => &buffer[..read],
            Err(Errno::AGAIN | Errno::INTR) => return Some(0),
            Err(_) => return None,
        };
        match answer {
            Answer::Echo => {
                let (socket, rest) = (&self.socket, &mut self.rest);
                send(socket, rest, read, epoll, at)?;
                Some(1)
            }
            Answer::Http | Answer::Completion | Answer::Stream => {
                let count = self.requests_in(read);
                match kept {
                    None => self.respond(epoll, at, answer, count)?,
                    Some(kept) => {
                        kept.bytes.extend_from_slice(read);
                        kept.owed.push((at, count));
                    }
                }
                Some(count as u64)
            }
        }
    }

    /// So many responses at once. `None` if the connection is over.
    fn respond(&mut self, epoll: &OwnedFd, at: usize, answer: Answer, count: usize) -> Option<()> {
        let response = answer.response();
        let many = if 1 < count { response.repeat(count) } else { Vec::new() };
        let responses = [response, &many][usize::from(count != 1)];
        send(&self.socket, &mut self.rest, responses, epoll, at)
    }

    /// How many requests end with these bytes; keeps what is there of the next.
    fn requests_in(&mut self, read: &[u8]) -> usize {
        let mut joined = self.rest.as_mut().map(|rest| std::mem::take(&mut rest.request)).unwrap_or_default();
        let bytes = if joined.is_empty() {
            read
        } else {
            joined.extend_from_slice(read);
            &joined
        };
        let (mut at, mut count) = (0, 0);
        while let Some(end) = request_end(&bytes[at..]) {
            at += end;
            count += 1;
        }
        if at < bytes.len() {
            let left = bytes[at..].to_vec();
            self.rest.get_or_insert_default().request = left;
        }
        count
    }

    fn pay(&mut self, epoll: &OwnedFd, at: usize) -> Option<()> {
        let rest = self.rest.as_mut()?;
        let owed = std::mem::take(&mut rest.owed);
        send(&self.socket, &mut self.rest, &owed, epoll, at)?;
        if self.rest.as_ref().is_some_and(|rest| rest.owed.is_empty()) {
            epoll::modify(epoll, &self.socket, EventData::new_u64(at as u64), EventFlags::IN).ok()?;
        }
        Some(())
    }
}

/// Writes, and keeps what the socket does not take until it does. `None` if the connection is over.
fn send(
    socket: &OwnedFd,
    rest: &mut Option<Box<Rest>>,
    bytes: &[u8],
    epoll: &OwnedFd,
    at: usize,
) -> Option<()> {
    if bytes.is_empty() {
        return Some(());
    }
    let taken = match write(socket, bytes) {
        Ok(taken) => taken,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => return None,
    };
    if taken < bytes.len() {
        rest.get_or_insert_default().owed = bytes[taken..].to_vec();
        let wanted = EventFlags::IN | EventFlags::OUT;
        epoll::modify(epoll, socket, EventData::new_u64(at as u64), wanted).ok()?;
    }
    Some(())
}

/// Where the first request ends, if it is whole: its head, and as many bytes as `Content-Length` says.
fn request_end(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let field = [&b"ontent-Length: "[..], b"ontent-length: "];
    let found = field.iter().find_map(|name| Some(memmem::find(&bytes[..head], name)? + name.len()));
    let digits = found.map_or(&[][..], |at| &bytes[at..head]);
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let length =
        length.fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    let end = head.saturating_add(length);
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inputs::{WEBHOOK_HEAD, telegram_update};
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    fn floor(answer: Answer) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        // It ends with the process of the tests.
        std::thread::spawn(move || serve(listener, answer, None));
        client
    }

    #[test]
    fn what_is_answered_is_in_the_file() {
        let path = std::env::temp_dir().join(format!("clawgate-floor-{}", std::process::id()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let file = Append::create(&path, append::Policy::Always).unwrap();
        std::thread::spawn(move || serve(listener, Answer::Http, Some(file)));
        let request = [WEBHOOK_HEAD, &telegram_update(1, 1)].concat();
        for count in 1..4 {
            client.write_all(&request).unwrap();
            let mut heard = vec![0; RESPONSE.len()];
            client.read_exact(&mut heard).unwrap();
            assert!(heard == RESPONSE && std::fs::read(&path).unwrap() == request.repeat(count));
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_echo_says_what_came_however_much() {
        let mut client = floor(Answer::Echo);
        // More than sockets hold, so that the floor must keep and wait.
        let said: Vec<u8> = (0..8_000_000_u32).map(|n| (n / 251) as u8).collect();
        let mut writer = client.try_clone().unwrap();
        let expected = said.clone();
        let writing = std::thread::spawn(move || writer.write_all(&said));
        let mut heard = vec![0; expected.len()];
        client.read_exact(&mut heard).unwrap();
        writing.join().unwrap().unwrap();
        assert!(heard == expected);
    }

    #[test]
    fn each_request_has_its_response() {
        let mut client = floor(Answer::Http);
        let request = [WEBHOOK_HEAD, &telegram_update(1, 1)].concat();
        let get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let all = [&request[..], get, &request].concat();
        for cut in [0, 1, WEBHOOK_HEAD.len() - 2, WEBHOOK_HEAD.len(), request.len() - 1, request.len() + 3] {
            client.write_all(&all[..cut]).unwrap();
            client.write_all(&all[cut..]).unwrap();
            let mut heard = vec![0; 3 * RESPONSE.len()];
            client.read_exact(&mut heard).unwrap();
            assert!(heard == RESPONSE.repeat(3));
        }
    }

    #[test]
    fn the_response_is_as_long_as_it_says() {
        let (head, body) = RESPONSE.split_at(memmem::find(RESPONSE, b"\r\n\r\n").unwrap() + 4);
        let length = format!("Content-Length: {}\r\n", body.len());
        assert!(memmem::find(head, length.as_bytes()).is_some(), "{length}");
    }

    #[test]
    fn the_end_of_a_request_is_found_in_any_prefix() {
        let request = [WEBHOOK_HEAD, &telegram_update(1, 1)].concat();
        for length in 0..request.len() {
            assert_eq!(request_end(&request[..length]), None, "{length}");
        }
        assert_eq!(request_end(&request), Some(request.len()));
        assert_eq!(request_end(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET"), Some(27));
    }
}
