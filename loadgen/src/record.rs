//! A proxy that notes what passes to a gateway: when each message came, on which connection, how long it was and by which
//! door. What it says is passed on as it came, looked at for its kind, and neither noted nor kept.
//!
//! The note is a trace: `loadgen run --arrivals trace:FILE` sends as it was sent, at the same moments and from as many
//! sessions as there were connections.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{BodyDecoder, HeadLimits, Length, parse_request};
use clawgate_wire::websocket::{Decoder, Item, Role, Step};

use crate::arrivals::TRACE_MESSAGES_MAX;
use crate::driver::{self, Listener, Socket};
use crate::protocol::find;
use crate::scan::Value;
use crate::sys;

/// What is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// The longest message that is looked at; a connection with a longer one is passed on, and noted no more.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, headers_max: 64, target_bytes_max: 4096 };

/// Connections that pass at the same time.
const CONNECTIONS_MAX: u32 = 10_000;

/// How often it is looked whether the user has had enough.
const LOOK: Duration = Duration::from_millis(50);

/// By which door a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A POST with a body.
    Http,
    /// A message over a WebSocket.
    WebSocket,
}

impl Door {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "ws",
        }
    }
}

/// What was noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Messages.
    pub messages: u64,
    /// Connections.
    pub connections: u32,
    /// Connections of which not all could be noted: too long a message, another protocol, or too many messages in all.
    pub blind: u32,
}

/// Where the notes go.
#[derive(Debug)]
struct Notes {
    out: RefCell<BufWriter<File>>,
    first_ns: Cell<Option<u64>>,
    noted: Cell<Noted>,
    open: Cell<u32>,
    failure: RefCell<Option<io::Error>>,
}

impl Notes {
    fn note(&self, session: u32, door: Door, bytes: usize) {
        let mut noted = self.noted.get();
        if TRACE_MESSAGES_MAX as u64 <= noted.messages {
            return;
        }
        noted.messages += 1;
        self.noted.set(noted);
        let now_ns = sys::now_ns();
        let since_ns = now_ns - self.first_ns.get().unwrap_or(now_ns);
        self.first_ns.set(Some(now_ns - since_ns));
        let written = writeln!(
            self.out.borrow_mut(),
            r#"{{"timestamp":{}.{:06},"session":{session},"bytes":{bytes},"door":"{}"}}"#,
            since_ns / 1_000_000,
            since_ns % 1_000_000,
            door.name()
        );
        if let Err(error) = written {
            self.failure.borrow_mut().get_or_insert(error);
        }
    }

    fn count(&self, count: impl FnOnce(&mut Noted)) {
        let mut noted = self.noted.get();
        count(&mut noted);
        self.noted.set(noted);
    }
}

/// Passes on what comes to `listen`, and notes it in `file`, until the user ends it. `told` hears where it listens.
///
/// # Errors
/// It cannot listen or write there.
pub fn record(
    listen: SocketAddr,
    target: SocketAddr,
    file: &Path,
    told: &mut dyn FnMut(&str),
) -> io::Result<Noted> {
    let out = BufWriter::new(File::create(file)?);
    let notes = Rc::new(Notes {
        out: RefCell::new(out),
        first_ns: Cell::default(),
        noted: Cell::default(),
        open: Cell::default(),
        failure: RefCell::default(),
    });
    let pass = Rc::clone(&notes);
    driver::run(|_| async move {
        let listener = Listener::bind(listen)?;
        told(&format!(
            "what comes to {} is passed on to {target} and noted; Ctrl-C ends it",
            listener.address()?
        ));
        driver::spawn(accept(listener, target, Rc::clone(&pass)));
        while !sys::interrupted() {
            driver::sleep(LOOK).await;
            if let Some(error) = pass.failure.take() {
                return Err(error);
            }
        }
        Ok(())
    })
    .and_then(|ended| ended)?;
    notes.out.borrow_mut().flush()?;
    Ok(notes.noted.get())
}

async fn accept(listener: Listener, target: SocketAddr, notes: Rc<Notes>) {
    loop {
        match listener.accept().await {
            Ok(client) if notes.open.get() < CONNECTIONS_MAX => {
                let session = notes.noted.get().connections;
                notes.count(|noted| noted.connections += 1);
                notes.open.set(notes.open.get() + 1);
                let notes = Rc::clone(&notes);
                driver::spawn(async move {
                    pass(client, target, session, &notes).await;
                    notes.open.set(notes.open.get() - 1);
                });
            }
            // One more than may pass is let go; the next one may find room.
            Ok(_) => {}
            // Out of descriptors, or a client that left before it was accepted.
            Err(_) => driver::sleep(LOOK).await,
        }
    }
}

/// Passes one connection on, both ways, until one side has left.
async fn pass(client: Socket, target: SocketAddr, session: u32, notes: &Rc<Notes>) {
    let Ok(gateway) = Socket::connect(target).await else { return };
    let (client, gateway) = (Rc::new(client), Rc::new(gateway));
    let (back_from, back_to) = (Rc::clone(&gateway), Rc::clone(&client));
    driver::spawn(async move {
        // Whichever side leaves, the other one is told by a closed connection.
        copy(&back_from, &back_to, |_| ()).await.ok();
        back_to.shut_down();
    });
    let mut reader = Reader::default();
    let mut is_blind = false;
    let noting = |bytes: &[u8]| {
        if is_blind {
            return;
        }
        if reader.read(bytes, &mut |door, bytes| notes.note(session, door, bytes)).is_none() {
            is_blind = true;
            notes.count(|noted| noted.blind += 1);
        }
    };
    copy(&client, &gateway, noting).await.ok();
    gateway.shut_down();
}

async fn copy(from: &Socket, to: &Socket, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        from.readable().await?;
        while let Some(count) = from.receive(&mut chunk)? {
            if count == 0 {
                return Ok(());
            }
            let bytes = &chunk[..count];
            seen(bytes);
            to.send_all(bytes).await?;
        }
    }
}

/// Finds the messages in what a client sends.
#[derive(Debug, Default)]
struct Reader {
    /// What is not looked at yet.
    input: Vec<u8>,
    /// The body that is being read, and its bytes so far.
    body: Option<(BodyDecoder, usize)>,
    frames: Option<Frames>,
}

/// A WebSocket's side of a client.
#[derive(Debug)]
struct Frames {
    decoder: Decoder,
    /// The fragments so far of a message.
    message: Vec<u8>,
}

impl Reader {
    /// Takes more bytes; `None` if they cannot be read as messages, and nothing that follows can.
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(Door, usize)) -> Option<()> {
        self.input.extend_from_slice(bytes);
        if MESSAGE_BYTES_MAX < self.input.len() {
            return None;
        }
        loop {
            let (taken, is_waiting) = match (&mut self.frames, &mut self.body) {
                (Some(frames), _) => frames.read(&mut self.input, found)?,
                (None, Some(_)) => self.read_body(found)?,
                (None, None) => self.read_head()?,
            };
            self.input.drain(..taken);
            if is_waiting {
                return Some(());
            }
        }
    }

    fn read_head(&mut self) -> Option<(usize, bool)> {
        let Some(head) = parse_request(&self.input, &HEAD_LIMITS).ok()? else { return Some((0, true)) };
        let is_upgraded =
            head.headers.get("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
        if is_upgraded {
            let decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
            self.frames = Some(Frames { decoder, message: Vec::new() });
        } else if !matches!(head.body, Length::None) {
            self.body = Some((BodyDecoder::new(head.body, MESSAGE_BYTES_MAX as u64), 0));
        }
        Some((head.bytes, false))
    }

    fn read_body(&mut self, found: &mut dyn FnMut(Door, usize)) -> Option<(usize, bool)> {
        let (decoder, so_far) = self.body.as_mut()?;
        let body = decoder.decode(&self.input).ok()?;
        *so_far += body.data.len();
        let (consumed, is_done, bytes) = (body.consumed, body.done, *so_far);
        if is_done {
            self.body = None;
            if bytes != 0 {
                found(Door::Http, bytes);
            }
        }
        Some((consumed, !is_done && consumed == 0))
    }
}

impl Frames {
    fn read(&mut self, input: &mut [u8], found: &mut dyn FnMut(Door, usize)) -> Option<(usize, bool)> {
        match self.decoder.decode(input).ok()? {
            Step::NeedMore(_) => Some((0, true)),
            Step::Frame { consumed, item } => {
                match item {
                    Item::Text(message) | Item::Binary(message) => note_message(message, found),
                    Item::Fragment { payload, last, .. } => {
                        if MESSAGE_BYTES_MAX < self.message.len() + payload.len() {
                            return None;
                        }
                        self.message.extend_from_slice(payload);
                        if last {
                            note_message(&self.message, found);
                            self.message.clear();
                        }
                    }
                    Item::Ping(_) | Item::Pong(_) | Item::Close { .. } => {}
                }
                Some((consumed, false))
            }
        }
    }
}

/// What authenticates or pings is no message.
fn note_message(message: &[u8], found: &mut dyn FnMut(Door, usize)) {
    let kind = find(message, b"type").as_ref().and_then(Value::text);
    if kind.is_none_or(|kind| kind.as_ref() == b"message") {
        found(Door::WebSocket, message.len());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_wire::websocket::{Opcode, write_frame};

    /// What is found in bytes that come in pieces of this length.
    fn found(bytes: &[u8], piece: usize) -> Option<Vec<(Door, usize)>> {
        let (mut reader, mut all) = (Reader::default(), Vec::new());
        for bytes in bytes.chunks(piece) {
            reader.read(bytes, &mut |door, bytes| all.push((door, bytes)))?;
        }
        Some(all)
    }

    #[test]
    fn requests_with_bodies_are_messages_however_they_come() {
        let mut bytes = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
        bytes.extend_from_slice(b"POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        bytes.extend_from_slice(
            b"POST /webhooks/t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        );
        for piece in [1, 7, 1000] {
            assert_eq!(found(&bytes, piece), Some(vec![(Door::Http, 5), (Door::Http, 7)]), "{piece}");
        }
        assert_eq!(found(b"\x16\x03\x01 this is TLS", 100), None);
    }

    #[test]
    fn messages_over_a_websocket_count_and_what_else_is_said_does_not() {
        let mut bytes =
            b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec();
        let mut say = |text: &[u8]| write_frame(&mut bytes, Opcode::Text, true, Some([1, 2, 3, 4]), text);
        say(br#"{"type":"auth","token":"secret"}"#);
        let message = br#"{"type":"message","content":"hello"}"#;
        say(message);
        say(br#"{"type":"ping"}"#);
        say(message);
        for piece in [1, 11, 1000] {
            let expected = vec![(Door::WebSocket, message.len()); 2];
            assert_eq!(found(&bytes, piece), Some(expected), "{piece}");
        }
    }
}
