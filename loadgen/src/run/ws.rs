//! WebSocket clients: many sessions a connection, many messages in flight, every frame of a turn in one write.
//!
//! Owns the client's side of `/ws`: upgrade, authentication, messages out, answers in. A connection that breaks is counted
//! and opened again; what was in flight on it stays in the account until it is answered or lost.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{HeadLimits, parse_response};
use clawgate_wire::json;
use clawgate_wire::websocket::{
    Decoder, Item, Opcode, Role, Step, check_upgrade_response, client_key, write_close, write_frame,
    write_upgrade_request,
};

use crate::driver::{self, Socket};
use crate::ledger::{Expect, Ledger};
use crate::pipe::{Pipe, Read};
use crate::protocol::{Addressing, Incoming, Said, Template, is_session_id, read_message_id};
use crate::rng::{Rng, mix};
use crate::run::lane::{Books, Lane};
use crate::run::{CONNECT_TIMEOUT, Spread, read_token_stamp};
use crate::scenario::Kind;
use crate::schedule::Due;

/// Connections of a lane that are opened at the same time.
const OPENING_MAX: u32 = 64;

/// The longest message that is taken from the gateway.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 16 * 1024, headers_max: 64, target_bytes_max: 1024 };

/// The first wait before a broken connection is opened again; it doubles up to a second.
const BACKOFF: Duration = Duration::from_millis(50);

/// A message that has its place in the account and is not written yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Due,
    seq: u32,
}

/// One connection.
#[derive(Debug, Default)]
struct Conn {
    /// `None` while it is not open.
    pipe: RefCell<Option<Rc<Pipe>>>,
    decoder: RefCell<Option<Decoder>>,
    /// The pieces so far of a message that the gateway sends in fragments.
    fragments: RefCell<Vec<u8>>,
    /// Messages that are written and not sent yet.
    unsent: RefCell<Vec<(u32, u32)>>,
    /// Messages that were due while it was not open.
    waiting: RefCell<Vec<Waiting>>,
    dirty: Cell<bool>,
}

/// The connections of one lane, for one part of the scenario.
#[derive(Debug)]
pub(crate) struct Fleet {
    lane: Rc<Lane>,
    to: Addressing,
    ledger: Rc<RefCell<Ledger>>,
    template: RefCell<Template>,
    conns: Vec<Conn>,
    dirty: RefCell<Vec<usize>>,
    streams: bool,
}

impl Fleet {
    /// Opens and authenticates all connections.
    pub(crate) async fn open(
        lane: &Rc<Lane>,
        kind: Kind,
        to: Addressing,
        books: Books,
    ) -> Result<Rc<Self>, String> {
        let Books::Own(ledger) = books else {
            return Err("a WebSocket's answers come to the lane that asked".to_owned());
        };
        let settings = &lane.settings;
        let count = lane.own(settings.connections.min(settings.sessions));
        let fleet = Rc::new(Self {
            lane: Rc::clone(lane),
            ledger,
            template: RefCell::new(Template::websocket(&to, kind.streams())),
            to,
            conns: (0..count).map(|_| Conn::default()).collect(),
            dirty: RefCell::default(),
            streams: kind.streams(),
        });
        let failure: Rc<RefCell<Option<String>>> = Rc::default();
        let open = Rc::new(Cell::new(0));
        for first in 0..OPENING_MAX.min(count) {
            let (fleet, failure, open) = (Rc::clone(&fleet), Rc::clone(&failure), Rc::clone(&open));
            driver::spawn(async move {
                for at in (first..count).step_by(OPENING_MAX as usize) {
                    match fleet.connect(at as usize).await {
                        Ok(()) => open.set(open.get() + 1),
                        Err(error) => *failure.borrow_mut() = Some(error),
                    }
                    if failure.borrow().is_some() {
                        return;
                    }
                    driver::spawn(Rc::clone(&fleet).serve(at as usize));
                }
            });
        }
        while open.get() < count {
            if let Some(failure) = failure.take() {
                return Err(failure);
            }
            driver::sleep(Duration::from_millis(1)).await;
        }
        Ok(fleet)
    }

    /// Opens one connection.
    async fn connect(&self, at: usize) -> Result<(), String> {
        let settings = &self.lane.settings;
        let door = Door { target: settings.target, host: &self.to.host, key: &self.to.key };
        let (socket, decoder, rest) = door.open(&self.lane.rng).await?;
        let Some(conn) = self.conns.get(at) else { return Ok(()) };
        conn.fragments.take();
        conn.decoder.replace(Some(decoder));
        conn.pipe.replace(Some(Pipe::new(socket, rest, &self.lane.scratch)));
        Ok(())
    }

    /// Reads one connection for as long as the run goes on.
    async fn serve(self: Rc<Self>, at: usize) {
        let Some(conn) = self.conns.get(at) else { return };
        let mut backoff = BACKOFF;
        loop {
            let pipe = conn.pipe.borrow().clone();
            if let Some(pipe) = pipe {
                self.read_to_end(conn, at, &pipe).await;
                conn.pipe.take();
                conn.unsent.borrow_mut().clear();
                if self.lane.ending.get() {
                    return;
                }
                self.lane.recorder.borrow_mut().counts().disconnects += 1;
            }
            driver::sleep(backoff).await;
            backoff = (backoff * 2).min(Duration::from_secs(1));
            if self.lane.ending.get() {
                return;
            }
            if self.connect(at).await.is_ok() {
                backoff = BACKOFF;
                self.send_waiting(conn, at);
            }
        }
    }

    async fn read_to_end(&self, conn: &Conn, at: usize, pipe: &Rc<Pipe>) {
        // What came with the handshake is looked at before anything new is waited for.
        loop {
            let read = pipe.read(|bytes| self.on_bytes(conn, pipe, bytes));
            match read {
                Ok(Read::Some(bytes)) => {
                    let mut recorder = self.lane.recorder.borrow_mut();
                    recorder.counts().reads += u64::from(bytes != 0);
                    recorder.counts().bytes_in += bytes as u64;
                }
                Ok(Read::Closed) | Err(_) => return,
            }
            if pipe.has_output() {
                self.flush_one(at);
            }
            if pipe.socket().readable().await.is_err() {
                return;
            }
        }
    }

    /// Takes every frame that is there.
    fn on_bytes(&self, conn: &Conn, pipe: &Pipe, bytes: &mut [u8]) -> io::Result<usize> {
        let now_ns = self.lane.now();
        let mut decoder = conn.decoder.borrow_mut();
        let Some(decoder) = decoder.as_mut() else { return Ok(0) };
        let mut done = 0;
        while done < bytes.len() {
            match decoder.decode(&mut bytes[done..]) {
                Ok(Step::NeedMore(_)) => break,
                Ok(Step::Frame { consumed, item }) => {
                    self.on_item(conn, pipe, item, now_ns)?;
                    done += consumed;
                }
                Err(violation) => {
                    self.ledger.borrow_mut().tally_mut().count_code(violation.code());
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(done)
    }

    #[inline]
    fn on_item(&self, conn: &Conn, pipe: &Pipe, item: Item<'_>, now_ns: u64) -> io::Result<()> {
        match item {
            Item::Text(message) | Item::Binary(message) => self.on_message(message, now_ns),
            Item::Fragment { payload, last, .. } => {
                let mut message = conn.fragments.borrow_mut();
                message.extend_from_slice(payload);
                if last {
                    self.on_message(&message, now_ns);
                    message.clear();
                }
            }
            Item::Ping(payload) => {
                write_frame(&mut pipe.out(), Opcode::Pong, true, Some(self.lane.mask()), payload);
            }
            Item::Pong(_) => {}
            Item::Close { code, .. } => {
                if !self.lane.ending.get() {
                    let code = code.map_or("WS_CLOSE".to_owned(), |code| format!("WS_CLOSE_{code}"));
                    self.ledger.borrow_mut().tally_mut().count_code(&code);
                }
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(())
    }

    #[inline]
    fn on_message(&self, message: &[u8], now_ns: u64) {
        let Some(incoming) = Incoming::read(message) else {
            self.ledger.borrow_mut().on_garbled();
            return;
        };
        match incoming.said {
            Said::Chunk | Said::Message | Said::Done => self.on_answer(&incoming, now_ns),
            Said::Error => self.on_error(&incoming),
            Said::AuthOk | Said::Accepted | Said::Pong | Said::Other => {}
        }
    }

    #[inline]
    fn on_answer(&self, incoming: &Incoming<'_>, now_ns: u64) {
        let settings = &self.lane.settings;
        let mut ledger = self.ledger.borrow_mut();
        let named = incoming.id.as_deref().and_then(|id| read_message_id(id, self.to.run));
        let Some((session, seq)) = named else {
            ledger.tally_mut().strays += 1;
            return;
        };
        let session_id = incoming.session_id.as_deref();
        if session_id.is_some_and(|id| !is_session_id(id, &self.to.session_prefix, session)) {
            ledger.on_garbled();
            return;
        }
        let mut recorder = self.lane.recorder.borrow_mut();
        if incoming.said == Said::Done {
            if let Some(times) = ledger.on_done(session, seq, now_ns) {
                recorder.on_done(times, now_ns);
            }
            return;
        }
        recorder.counts().pieces += 1;
        let text = incoming.content.as_deref().unwrap_or(b"");
        let first = ledger.on_piece(session, seq, text);
        if let Some(times) = first.filter(|_| self.streams) {
            recorder.on_first(times, now_ns);
        }
        if settings.expect == Expect::Anything
            && let Some(nanos) = read_token_stamp(text)
        {
            recorder.on_transit(nanos, now_ns);
        }
    }

    #[cold]
    fn on_error(&self, incoming: &Incoming<'_>) {
        let code = String::from_utf8_lossy(incoming.code.as_deref().unwrap_or(b"(no code)")).into_owned();
        let run = self.to.run;
        let mut ledger = self.ledger.borrow_mut();
        match incoming.id.as_deref().and_then(|id| read_message_id(id, run)) {
            Some((session, seq)) => {
                ledger.on_refused(session, seq, &code);
                self.lane.recorder.borrow_mut().counts().refused += 1;
            }
            None => ledger.tally_mut().count_code(&code),
        }
    }

    /// Opens a message's place in the account and writes it; it leaves with the next [`flush`](Self::flush).
    #[inline]
    pub(crate) fn submit(&self, due: &Due) {
        let settings = &self.lane.settings;
        let seq = {
            let mut ledger = self.ledger.borrow_mut();
            if settings.inflight_max <= ledger.outstanding() {
                self.lane.recorder.borrow_mut().counts().shed += 1;
                return;
            }
            ledger.open(due.session, due.at_ns)
        };
        let own = u64::from(due.session / settings.threads);
        let place = match settings.spread {
            Spread::Even => own,
            Spread::Random => mix(own ^ settings.seed),
        };
        let at = (place % self.conns.len() as u64) as usize;
        self.write(at, Waiting { due: *due, seq });
    }

    #[inline]
    fn write(&self, at: usize, message: Waiting) {
        let Some(conn) = self.conns.get(at) else { return };
        let pipe = conn.pipe.borrow();
        let Some(pipe) = pipe.as_ref() else {
            conn.waiting.borrow_mut().push(message);
            return;
        };
        let Waiting { due, seq } = message;
        let mut template = self.template.borrow_mut();
        let text = template.fill(due.session, seq, due.at_ns, due.index);
        write_frame(&mut pipe.out(), Opcode::Text, true, Some(self.lane.mask()), text);
        conn.unsent.borrow_mut().push((due.session, seq));
        if !conn.dirty.replace(true) {
            self.dirty.borrow_mut().push(at);
        }
    }

    /// What was due while the connection was not open.
    fn send_waiting(&self, conn: &Conn, at: usize) {
        for message in conn.waiting.take() {
            self.write(at, message);
        }
        self.flush();
    }

    /// Sends what was written since the last time: one write a connection.
    #[inline]
    pub(crate) fn flush(&self) {
        loop {
            let next = self.dirty.borrow_mut().pop();
            let Some(at) = next else { return };
            self.flush_one(at);
        }
    }

    fn flush_one(&self, at: usize) {
        let Some(conn) = self.conns.get(at) else { return };
        conn.dirty.set(false);
        let pipe = conn.pipe.borrow().clone();
        let Some(pipe) = pipe else { return };
        let mut recorder = self.lane.recorder.borrow_mut();
        let mut ledger = self.ledger.borrow_mut();
        // What a peer does not read in time is its delay, not ours: sent is what was handed over to be sent.
        let now_ns = self.lane.now();
        for (session, seq) in conn.unsent.borrow_mut().drain(..) {
            let due_ns = ledger.on_sent(session, seq, now_ns);
            recorder.on_sent(due_ns, due_ns, now_ns);
        }
        let counts = recorder.counts();
        counts.bytes_out += pipe.output_bytes() as u64;
        // If the connection is gone, its reader sees it too.
        counts.writes += u64::from(pipe.flush().unwrap_or(false));
    }

    /// Whether nothing waits for a connection to be opened again.
    pub(crate) fn is_sent(&self) -> bool {
        self.conns.iter().all(|conn| conn.waiting.borrow().is_empty())
    }

    /// Takes leave of the gateway.
    pub(crate) fn hang_up(&self) {
        for conn in &self.conns {
            if let Some(pipe) = conn.pipe.borrow().as_ref() {
                write_close(&mut pipe.out(), Some(self.lane.mask()), 1000, "");
                // The run is over: a peer that is gone already is no news.
                pipe.flush().ok();
            }
        }
    }
}

/// Where a WebSocket is opened, and as whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door<'a> {
    /// The gateway.
    pub(crate) target: SocketAddr,
    /// Its authority.
    pub(crate) host: &'a str,
    /// The key; if it is empty, nothing is said about it.
    pub(crate) key: &'a str,
}

impl Door<'_> {
    /// Opens a connection, upgrades and authenticates it. What came behind the last answer is handed back.
    pub(crate) async fn open(&self, rng: &RefCell<Rng>) -> Result<(Socket, Decoder, Vec<u8>), String> {
        let target = self.target;
        let opened = driver::within(CONNECT_TIMEOUT, Socket::connect(target)).await;
        let socket = opened.map_err(|error| format!("cannot connect to {target}: {error}"))?;
        let (nonce, mask) = {
            let mut rng = rng.borrow_mut();
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&rng.draw().to_le_bytes());
            nonce[8..].copy_from_slice(&rng.draw().to_le_bytes());
            (nonce, (rng.draw() as u32).to_le_bytes())
        };
        let key = client_key(nonce);
        let key = core::str::from_utf8(&key).unwrap_or_default();
        let mut out = Vec::new();
        write_upgrade_request(&mut out, "/ws", self.host, key, &[]);
        let gone = |error: io::Error| format!("{target} hung up during the handshake: {error}");
        socket.send_all(&out).await.map_err(gone)?;
        let mut input = Vec::new();
        loop {
            receive_more(&socket, &mut input).await.map_err(gone)?;
            let head = parse_response(&input, &HEAD_LIMITS, false)
                .map_err(|refusal| format!("{target} does not answer in HTTP/1.1: {refusal}"))?;
            let Some(head) = head else { continue };
            check_upgrade_response(&head, key).map_err(|failure| {
                format!("{target}/ws is no WebSocket: {failure} (status {})", head.status)
            })?;
            let bytes = head.bytes;
            input.drain(..bytes);
            break;
        }
        let mut decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
        if !self.key.is_empty() {
            self.authenticate(&socket, &mut decoder, &mut input, mask).await?;
        }
        Ok((socket, decoder, input))
    }

    /// Sends the key and waits for the answer.
    async fn authenticate(
        &self,
        socket: &Socket,
        decoder: &mut Decoder,
        input: &mut Vec<u8>,
        mask: [u8; 4],
    ) -> Result<(), String> {
        let gone = |error: io::Error| format!("{} hung up during authentication: {error}", self.target);
        socket.send_all(&auth_frame(self.key, mask)).await.map_err(gone)?;
        loop {
            let done = match decoder.decode(input) {
                Ok(Step::NeedMore(_)) => None,
                Ok(Step::Frame { consumed, item }) => Some((consumed, answer_to_auth(item)?)),
                Err(violation) => return Err(format!("the gateway broke the protocol: {violation}")),
            };
            match done {
                None => receive_more(socket, input).await.map_err(gone)?,
                Some((consumed, accepted)) => {
                    input.drain(..consumed);
                    if accepted {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// The first message of a client.
pub(crate) fn auth_frame(key: &str, mask: [u8; 4]) -> Vec<u8> {
    let mut message = br#"{"type":"auth","token":"#.to_vec();
    json::write_str(&mut message, key);
    message.push(b'}');
    let mut out = Vec::new();
    write_frame(&mut out, Opcode::Text, true, Some(mask), &message);
    out
}

/// Whether the key was taken; `false` if the message says nothing about it.
fn answer_to_auth(item: Item<'_>) -> Result<bool, String> {
    match item {
        Item::Text(message) | Item::Binary(message) => match Incoming::read(message) {
            Some(Incoming { said: Said::AuthOk, .. }) => Ok(true),
            Some(Incoming { said: Said::Error, code, .. }) => {
                let code = code.unwrap_or_default();
                Err(format!("the gateway does not take the key: {}", String::from_utf8_lossy(&code)))
            }
            Some(_) | None => Ok(false),
        },
        Item::Close { code, reason } => {
            Err(format!("the gateway does not take the key: close {} {reason}", code.unwrap_or(1005)))
        }
        Item::Fragment { .. } | Item::Ping(_) | Item::Pong(_) => Ok(false),
    }
}

/// Waits for bytes and appends them.
async fn receive_more(socket: &Socket, input: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 2048];
    loop {
        driver::within(CONNECT_TIMEOUT, socket.readable()).await?;
        match socket.receive(&mut chunk)? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(count) => {
                input.extend_from_slice(&chunk[..count]);
                return Ok(());
            }
            None => {}
        }
    }
}
