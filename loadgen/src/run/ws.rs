//! WebSocket clients: many sessions a connection, many messages in flight, every frame of a turn in one write.
//!
//! Owns the client's side of `/ws`: upgrade, authentication, messages out, answers in. A connection that breaks is counted
//! and opened again; what was in flight on it stays in the account until it is answered or lost.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
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
use crate::hazards::Ending;
use crate::ledger::{Expect, Ledger};
use crate::pipe::{Pipe, Read};
use crate::protocol::{Addressing, Incoming, Said, Template, is_session_id, read_message_id};
use crate::rng::{Rng, mix};
use crate::run::lane::{Books, Lane};
use crate::run::storm::{self, Dropped, Storms};
use crate::run::wire::Wire;
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

/// How often a client that reads slowly reads.
const SLOW_STEP: Duration = Duration::from_millis(50);

/// What the kernel holds for a client that reads slowly, in bytes: the rest is the gateway's to hold.
const SLOW_BUFFER: i32 = 64 * 1024;

/// And for one that reads what it is owed at the end.
const DRAIN_BUFFER: i32 = 1024 * 1024;

/// The close code that a client gets that does not read.
const CLOSE_SLOW: u16 = 4409;

/// A message that has its place in the account and is not written yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Due,
    seq: u32,
    /// It was sent before, on a connection that was dropped.
    again: bool,
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
    /// It reads slowly on purpose.
    slow: bool,
    /// A storm or a restart dropped it, and its client is not back.
    dropped: Cell<Option<Dropped>>,
    /// When it was opened, in nanoseconds after the start of the run.
    opened_ns: Cell<u64>,
    /// What the gateway closed it with.
    closed_with: Cell<Option<u16>>,
}

/// The connections of one lane, for one part of the scenario.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(super) lane: Rc<Lane>,
    pub(super) to: Addressing,
    pub(super) ledger: Rc<RefCell<Ledger>>,
    pub(super) storms: Storms,
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
        let slow = settings.hazards.slow.map_or(0, |slow| slow.of(count));
        let is_resent = settings.hazards.is_resent();
        let conn = |at| Conn { slow: at < slow, ..Conn::default() };
        let fleet = Rc::new(Self {
            lane: Rc::clone(lane),
            ledger,
            storms: Storms::default(),
            template: RefCell::new(Template::websocket(&to, kind.streams(), is_resent)),
            to,
            conns: (0..count).map(conn).collect(),
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
        if let Some(storm) = &settings.hazards.storm {
            driver::spawn(storm::watch(Rc::clone(&fleet), storm.at_ns.clone(), Some(storm.ending)));
        }
        if let Some(restart) = &settings.hazards.restart {
            driver::spawn(storm::watch(Rc::clone(&fleet), restart.at_ns.clone(), None));
        }
        Ok(fleet)
    }

    /// Opens one connection.
    async fn connect(&self, at: usize) -> Result<(), String> {
        let settings = &self.lane.settings;
        let door = Door { target: settings.target, host: &self.to.host, key: &self.to.key };
        let (socket, decoder, rest) = door.open(&self.lane.rng).await?;
        let Some(conn) = self.conns.get(at) else { return Ok(()) };
        if conn.slow {
            socket.set_receive_buffer(SLOW_BUFFER).map_err(|error| format!("a receive buffer: {error}"))?;
        }
        conn.fragments.take();
        conn.closed_with.take();
        conn.opened_ns.set(self.lane.now());
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
                if conn.slow {
                    self.read_slowly(conn, at, &pipe).await;
                    // With so little room what is left would take longer than the run; refused, it takes longer.
                    pipe.socket().set_receive_buffer(DRAIN_BUFFER).ok();
                }
                self.read_to_end(conn, at, &pipe).await;
                conn.pipe.take();
                conn.unsent.borrow_mut().clear();
                if self.lane.ending.get() {
                    return;
                }
                self.on_closed(conn, at);
            }
            let is_dropped = conn.dropped.get().is_some() && backoff == BACKOFF;
            driver::sleep(if is_dropped { self.jitter() } else { backoff }).await;
            backoff = (backoff * 2).min(Duration::from_secs(1));
            if self.lane.ending.get() {
                return;
            }
            if self.connect(at).await.is_ok() {
                backoff = BACKOFF;
                self.on_opened_again(conn, at);
            }
        }
    }

    /// A connection is gone. That of a client which does not read may be: with the code for it, or without one, which the
    /// client did not come to read.
    fn on_closed(&self, conn: &Conn, at: usize) {
        if conn.dropped.get().is_some() {
            return;
        }
        if self.lane.settings.hazards.restart.is_some()
            && let Some(dropped) = self.storms.on_left(self.lane.now())
        {
            conn.dropped.set(Some(dropped));
            let is_told = conn.closed_with.get().is_some();
            self.lane.recorder.borrow_mut().counts().disconnects += u64::from(!is_told);
            return;
        }
        let mut recorder = self.lane.recorder.borrow_mut();
        if !conn.slow || conn.closed_with.get().is_some_and(|code| code != CLOSE_SLOW) {
            recorder.counts().disconnects += 1;
            return;
        }
        recorder.counts().slow_closes += 1;
        let mut ledger = self.ledger.borrow_mut();
        self.sessions_of(at).for_each(|session| ledger.give_up(session));
    }

    /// The sessions that speak on a connection.
    fn sessions_of(&self, at: usize) -> impl Iterator<Item = u32> {
        let settings = &self.lane.settings;
        let own = (self.lane.number..settings.sessions).step_by(settings.threads as usize);
        own.filter(move |session| self.place_of(*session) == at)
    }

    /// Drops every connection that is open, and tells how many those were.
    pub(super) fn drop_all(&self, storm: usize, now_ns: u64, ending: Ending) -> u64 {
        let mut count = 0;
        for conn in &self.conns {
            let pipe = conn.pipe.borrow();
            let Some(pipe) = pipe.as_ref() else { continue };
            count += 1;
            conn.dropped.set(Some(Dropped { storm, at_ns: now_ns }));
            match ending {
                Ending::Abort => {
                    // Where that is refused, the peer sees an end instead: it is dropped all the same.
                    pipe.socket().reset_on_close().ok();
                    pipe.socket().stop_reading();
                }
                Ending::Polite => {
                    write_close(&mut pipe.out(), Some(self.lane.mask()), 1000, "");
                    pipe.flush().ok();
                    pipe.socket().shut_down();
                }
            }
        }
        count
    }

    /// How long a client waits that was dropped.
    fn jitter(&self) -> Duration {
        let jitter_ns = self.lane.settings.hazards.storm.as_ref().map_or(0, |storm| storm.jitter_ns);
        Duration::from_nanos((self.lane.rng.borrow_mut().unit() * jitter_ns as f64) as u64)
    }

    /// A client is back: after a storm or a restart it sends again what was not answered, in order and under the same ids.
    fn on_opened_again(&self, conn: &Conn, at: usize) {
        let Some(dropped) = conn.dropped.take() else { return self.send_waiting(conn, at) };
        let nanos = self.storms.on_back(dropped, self.lane.now());
        self.lane.recorder.borrow_mut().on_back(nanos);
        let unsent: HashSet<(u32, u32)> =
            conn.waiting.take().iter().map(|waiting| (waiting.due.session, waiting.seq)).collect();
        for session in self.sessions_of(at) {
            let unanswered = self.ledger.borrow_mut().begin_again(session);
            for (seq, due_ns) in unanswered {
                let due = Due { at_ns: due_ns, index: 0, part: 0, session };
                self.write(at, Waiting { due, seq, again: !unsent.contains(&(session, seq)) });
            }
        }
        self.flush();
    }

    /// Reads as slowly as the scenario wants it, until everything was sent or the gateway is seen to have left.
    async fn read_slowly(self: &Rc<Self>, conn: &Conn, at: usize, pipe: &Rc<Pipe>) {
        let pace = self.lane.settings.hazards.slow.map_or(0, |slow| slow.bytes_per_second);
        let (mut allowance, mut since_ns) = (0.0, self.lane.now());
        while !self.lane.draining.get() && !pipe.is_broken() {
            driver::sleep(SLOW_STEP).await;
            let now_ns = self.lane.now();
            allowance += pace as f64 * now_ns.saturating_sub(since_ns) as f64 / 1e9;
            // What was not there to be read is not saved up for more than a second.
            allowance = allowance.min(pace as f64);
            since_ns = now_ns;
            if allowance < 1.0 {
                continue;
            }
            match pipe.read_within(allowance as usize, |bytes| self.on_bytes(conn, pipe, bytes)) {
                Ok(Read::Some(bytes)) => {
                    allowance -= bytes as f64;
                    self.lane.note_read(bytes);
                }
                Ok(Read::Closed) | Err(_) => return,
            }
            if pipe.has_output() {
                self.flush_one(at);
            }
        }
    }

    async fn read_to_end(self: &Rc<Self>, conn: &Conn, at: usize, pipe: &Rc<Pipe>) {
        // What came with the handshake is looked at before anything new is waited for.
        loop {
            let read = pipe.read(|bytes| self.on_bytes(conn, pipe, bytes));
            match read {
                Ok(Read::Some(bytes)) => self.lane.note_read(bytes),
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
    fn on_bytes(self: &Rc<Self>, conn: &Conn, pipe: &Pipe, bytes: &mut [u8]) -> io::Result<usize> {
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
    fn on_item(self: &Rc<Self>, conn: &Conn, pipe: &Pipe, item: Item<'_>, now_ns: u64) -> io::Result<()> {
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
                conn.closed_with.set(code);
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
    fn on_message(self: &Rc<Self>, message: &[u8], now_ns: u64) {
        let Some(incoming) = Incoming::read(message) else {
            self.ledger.borrow_mut().on_garbled();
            return;
        };
        match incoming.said {
            Said::Chunk | Said::Message | Said::Done => self.on_answer(&incoming, now_ns),
            Said::Error => self.on_error(&incoming, now_ns),
            Said::Accepted if incoming.duplicate => self.on_known(&incoming),
            Said::AuthOk | Said::Accepted | Said::Pong | Said::Other => {}
        }
    }

    /// A message that was sent again was answered to nobody: its answer is in its session's history.
    #[cold]
    fn on_known(self: &Rc<Self>, incoming: &Incoming<'_>) {
        if let Some((session, seq)) = incoming.id.as_deref().and_then(|id| read_message_id(id, self.to.run)) {
            storm::look_up(self, session, seq);
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
            match ledger.on_done(session, seq, now_ns) {
                Some(times) if self.is_slow(session) => recorder.on_slow(times, now_ns),
                Some(times) => recorder.on_done(times, now_ns),
                None => {}
            }
            return;
        }
        recorder.counts().pieces += 1;
        let text = incoming.content.as_deref().unwrap_or(b"");
        let first = ledger.on_piece(session, seq, text);
        if let Some(times) = first.filter(|_| self.streams && !self.is_slow(session)) {
            recorder.on_first(times, now_ns);
        }
        if settings.expect == Expect::Anything
            && !self.is_slow(session)
            && let Some(nanos) = read_token_stamp(text)
        {
            recorder.on_transit(nanos, now_ns);
        }
    }

    #[cold]
    fn on_error(&self, incoming: &Incoming<'_>, now_ns: u64) {
        let code = String::from_utf8_lossy(incoming.code.as_deref().unwrap_or(b"(no code)")).into_owned();
        let run = self.to.run;
        let mut ledger = self.ledger.borrow_mut();
        match incoming.id.as_deref().and_then(|id| read_message_id(id, run)) {
            Some((session, seq)) => {
                ledger.on_refused(session, seq, &code);
                self.lane.recorder.borrow_mut().on_refused(now_ns);
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
        self.write(self.place_of(due.session), Waiting { due: *due, seq, again: false });
    }

    /// The connection of a session.
    #[inline]
    fn place_of(&self, session: u32) -> usize {
        let settings = &self.lane.settings;
        let own = u64::from(session / settings.threads);
        let place = match settings.spread {
            Spread::Even => own,
            Spread::Random => mix(own ^ settings.seed),
        };
        (place % self.conns.len() as u64) as usize
    }

    #[inline]
    fn is_slow(&self, session: u32) -> bool {
        self.conns.get(self.place_of(session)).is_some_and(|conn| conn.slow)
    }

    #[inline]
    fn write(&self, at: usize, message: Waiting) {
        let Some(conn) = self.conns.get(at) else { return };
        let pipe = conn.pipe.borrow();
        let Some(pipe) = pipe.as_ref() else {
            conn.waiting.borrow_mut().push(message);
            return;
        };
        let Waiting { due, seq, again } = message;
        let mut template = self.template.borrow_mut();
        let text = template.fill(due.session, seq, due.at_ns, due.index);
        write_frame(&mut pipe.out(), Opcode::Text, true, Some(self.lane.mask()), text);
        if again {
            self.lane.recorder.borrow_mut().counts().repeats += 1;
        } else {
            conn.unsent.borrow_mut().push((due.session, seq));
        }
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
        let is_resent = self.lane.settings.hazards.is_resent();
        for (session, seq) in conn.unsent.borrow_mut().drain(..) {
            let due_ns = ledger.on_sent(session, seq, now_ns);
            // What was due while a storm had it closed could not be sent before it was open.
            let ready_ns = if is_resent { due_ns.max(conn.opened_ns.get()) } else { due_ns };
            recorder.on_sent(due_ns, ready_ns, now_ns);
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
    /// Opens a connection without TLS, upgrades and authenticates it. What came behind the last answer is handed back.
    pub(crate) async fn open(&self, rng: &RefCell<Rng>) -> Result<(Socket, Decoder, Vec<u8>), String> {
        let wire = Wire::open(self.target, None).await;
        let mut wire = wire.map_err(|error| format!("cannot connect to {}: {error}", self.target))?;
        let (decoder, input) = self.greet(&mut wire, rng).await?;
        Ok((wire.into_socket(), decoder, input))
    }

    /// Upgrades and authenticates a connection. What came behind the last answer is handed back.
    pub(crate) async fn greet(
        &self,
        wire: &mut Wire,
        rng: &RefCell<Rng>,
    ) -> Result<(Decoder, Vec<u8>), String> {
        let target = self.target;
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
        wire.send_all(&out).await.map_err(gone)?;
        let mut input = Vec::new();
        loop {
            receive_more(wire, &mut input).await.map_err(gone)?;
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
            self.authenticate(wire, &mut decoder, &mut input, mask).await?;
        }
        Ok((decoder, input))
    }

    /// Sends the key and waits for the answer.
    async fn authenticate(
        &self,
        wire: &mut Wire,
        decoder: &mut Decoder,
        input: &mut Vec<u8>,
        mask: [u8; 4],
    ) -> Result<(), String> {
        let gone = |error: io::Error| format!("{} hung up during authentication: {error}", self.target);
        wire.send_all(&auth_frame(self.key, mask)).await.map_err(gone)?;
        loop {
            let done = match decoder.decode(input) {
                Ok(Step::NeedMore(_)) => None,
                Ok(Step::Frame { consumed, item }) => Some((consumed, answer_to_auth(item)?)),
                Err(violation) => return Err(format!("the gateway broke the protocol: {violation}")),
            };
            match done {
                None => receive_more(wire, input).await.map_err(gone)?,
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
async fn receive_more(wire: &mut Wire, input: &mut Vec<u8>) -> io::Result<()> {
    match wire.receive(input, CONNECT_TIMEOUT).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
