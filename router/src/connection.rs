//! One client connection of a core: its bytes in and out, its deadlines, its end. Which protocol the bytes speak is
//! `http.rs`'s and `websocket.rs`'s to know.
//!
//! One task reads, and handles all that a read brought before the next wait. Nothing is written at once: all that is
//! owed to a socket leaves in one write at the end of the loop's turn. A socket that takes no more gets a task that
//! waits for it, so that a client that does not read blocks nobody.
use crate::driver::{self, Socket};
use crate::http::Http;
use crate::mesh::Letter;
use crate::net::{self, Moved};
use crate::signal::Signal;
use crate::thread::Thread;
use crate::tickets::Tickets;
use crate::tls::ServerTls;
use crate::websocket::{Moving, WebSocket};
use clawgate_core::codes::Code;
use clawgate_core::id::{Client, ShardId};
use clawgate_core::time::Time;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

/// How long a connection that we ended may take to read our last words.
const LINGER: Duration = Duration::from_secs(2);
/// Outboxes keep no more memory than this when they are empty.
const IDLE_BYTES_MAX: usize = 0;

/// Where a connection stands in its core's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What a connection speaks.
#[derive(Debug)]
pub(crate) enum Protocol {
    Http(Http),
    WebSocket(Box<WebSocket>),
}

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It does.
    Open,
    /// When the outbox is empty our side is closed, and what still comes is thrown away.
    AfterFlush,
    /// Our side is closed.
    Lingering,
    /// It is gone.
    Gone,
}

/// What the reading task does next.
#[derive(Debug)]
pub(crate) enum Go {
    /// Waits for more.
    On,
    /// Waits until there is room again, then for more.
    Pause,
    /// Hands the connection to another core.
    Move(ShardId),
    /// Ends.
    Stop,
}

/// What feeding bytes to the protocol came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// So many bytes are done with; the rest waits for more, or for an answer to leave.
    Consumed(usize),
    /// As above, and what follows belongs on another core.
    Move(usize, ShardId),
}

/// A client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) place: Place,
    pub(crate) address: IpAddr,
    pub(crate) socket: Socket,
    pub(crate) tls: Option<RefCell<Box<ServerTls>>>,
    pub(crate) protocol: RefCell<Protocol>,
    pub(crate) tickets: RefCell<Tickets>,
    /// Bytes of a request or frame that is not complete, or waits for the answer before it.
    carry: RefCell<Vec<u8>>,
    /// What is owed to the client, from `sent` on.
    out: RefCell<Vec<u8>>,
    sent: Cell<usize>,
    dirty: Cell<bool>,
    /// A task waits until the socket takes more.
    stuck: Cell<bool>,
    ending: Cell<Ending>,
    clogged: Cell<bool>,
    room: Signal,
    /// When the client was last heard, and since when it takes nothing.
    pub(crate) heard: Cell<Time>,
    stuck_since: Cell<Time>,
    /// When the table's timer looks at it next.
    pub(crate) alarm: Cell<Time>,
}

impl Connection {
    pub(crate) fn new(
        place: Place,
        address: IpAddr,
        socket: Socket,
        tls: Option<Box<ServerTls>>,
        protocol: Protocol,
        now: Time,
    ) -> Self {
        Self {
            place,
            address,
            socket,
            tls: tls.map(RefCell::new),
            protocol: RefCell::new(protocol),
            tickets: RefCell::default(),
            carry: RefCell::default(),
            out: RefCell::default(),
            sent: Cell::new(0),
            dirty: Cell::new(false),
            stuck: Cell::new(false),
            ending: Cell::new(Ending::Open),
            clogged: Cell::new(false),
            room: Signal::default(),
            heard: Cell::new(now),
            stuck_since: Cell::new(now),
            alarm: Cell::new(now),
        }
    }

    /// The client of one of its requests, as the core names it.
    pub(crate) fn client(&self, thread: &Thread, ticket: u32) -> Client {
        Client { core: thread.id.0, slot: self.place.slot, generation: self.place.generation, ticket }
    }

    /// Are we done with it, but for our last words?
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.get() != Ending::Open
    }

    /// Bytes owed to the client.
    pub(crate) fn owed(&self) -> usize {
        self.out.borrow().len() - self.sent.get()
    }

    /// Is a request or frame begun and not complete?
    pub(crate) fn has_carry(&self) -> bool {
        !self.carry.borrow().is_empty()
    }

    /// Nothing is under way on it, in either direction.
    pub(crate) fn is_quiet(&self) -> bool {
        let answering = crate::http::with(self, |http| http.exchange.is_some()).unwrap_or(false);
        let idle = !answering && !self.has_carry() && self.owed() == 0 && self.tickets.borrow().is_empty();
        self.ending.get() == Ending::Gone || (idle && !self.is_ending())
    }

    /// Writes to the outbox; it leaves at the end of the loop's turn.
    pub(crate) fn write(self: &Rc<Self>, thread: &Thread, write: impl FnOnce(&mut Vec<u8>)) {
        if matches!(self.ending.get(), Ending::Lingering | Ending::Gone) {
            return;
        }
        let mut out = self.out.borrow_mut();
        if out.capacity() == 0 {
            *out = thread.spare_outbox();
        }
        match &self.tls {
            None => write(&mut out),
            Some(tls) => {
                let mut plain = thread.scratch.borrow_mut();
                plain.clear();
                write(&mut plain);
                tls.borrow_mut().seal(&plain, &mut out);
            }
        }
        drop(out);
        self.mark_dirty(thread);
    }

    fn mark_dirty(self: &Rc<Self>, thread: &Thread) {
        if !self.dirty.replace(true) {
            thread.dirty.borrow_mut().push(self.clone());
        }
    }

    /// As [`Self::check_pressure`], after a write: it made no room.
    #[inline]
    pub(crate) fn check_growth(self: &Rc<Self>, thread: &Rc<Thread>) {
        if thread.gateway().limits.outbox_high_bytes < self.owed() {
            self.check_pressure(thread);
        }
    }

    /// Tells the shards of running turns whether their pieces still find room, and gives up a client that let too
    /// much pile up.
    pub(crate) fn check_pressure(self: &Rc<Self>, thread: &Rc<Thread>) {
        let gateway = thread.gateway();
        let limits = &gateway.limits;
        if limits.outbox_bytes_max < self.owed() && !self.stuck.get() && !self.is_ending() {
            // Much came in one turn of the loop; whoever was not asked to take it is not slow.
            self.flush(thread);
        }
        let owed = self.owed();
        if limits.outbox_bytes_max < owed {
            thread.count(|c| &mut c.slow_consumers);
            self.abort(thread, Code::SlowConsumer);
        } else if limits.outbox_high_bytes < owed {
            self.press(thread, true);
        } else if owed <= limits.outbox_high_bytes / 2 {
            self.press(thread, false);
        }
    }

    fn press(&self, thread: &Rc<Thread>, high: bool) {
        if !high {
            self.room.raise();
            if !self.clogged.get() {
                return;
            }
        }
        self.clogged.set(high);
        let mut told = Vec::new();
        for ticket in self.tickets.borrow_mut().open_ones() {
            if let Some((shard, turn)) = ticket.turn
                && ticket.clogged != high
            {
                ticket.clogged = high;
                told.push((shard, turn));
            }
        }
        for (shard, turn) in told {
            thread.tell(shard, Letter::Pressure { turn, high });
        }
    }

    /// Writes what is owed, as far as the socket takes it. Called at the end of each turn of the loop.
    pub(crate) fn flush(self: &Rc<Self>, thread: &Rc<Thread>) {
        self.dirty.set(false);
        if self.stuck.get() || self.ending.get() == Ending::Gone {
            return;
        }
        match self.push_out(thread) {
            Moved::Bytes(_) => self.flushed(thread),
            Moved::NotReady => {
                self.stuck.set(true);
                self.stuck_since.set(thread.now());
                driver::spawn(write_task(thread.clone(), self.clone()));
                self.check_pressure(thread);
            }
            Moved::Broken => self.vanish(),
        }
    }

    /// Writes until all is out or the socket takes no more.
    fn push_out(&self, thread: &Thread) -> Moved {
        let mut out = self.out.borrow_mut();
        loop {
            let rest = &out[self.sent.get()..];
            if rest.is_empty() {
                break;
            }
            thread.count(|c| &mut c.writes);
            match net::send(&self.socket, rest) {
                Moved::Bytes(bytes) => {
                    thread.count_by(|c| &mut c.bytes_out, bytes);
                    self.sent.set(self.sent.get() + bytes);
                }
                stopped @ (Moved::NotReady | Moved::Broken) => {
                    // What is out is out: do not let it grow behind a slow reader.
                    if out.len() / 2 < self.sent.get() {
                        out.drain(..self.sent.replace(0));
                    }
                    return stopped;
                }
            }
        }
        self.sent.set(0);
        out.clear();
        if IDLE_BYTES_MAX < out.capacity() {
            thread.give_outbox(std::mem::take(&mut out));
        }
        Moved::Bytes(0)
    }

    fn flushed(self: &Rc<Self>, thread: &Rc<Thread>) {
        self.check_pressure(thread);
        if self.ending.get() == Ending::AfterFlush {
            self.ending.set(Ending::Lingering);
            self.wake_at(thread, thread.now() + LINGER);
            net::shut_write(&self.socket);
        }
    }

    /// Closes our side once all that is owed is out.
    pub(crate) fn end(self: &Rc<Self>, thread: &Thread) {
        if self.ending.get() == Ending::Open {
            self.ending.set(Ending::AfterFlush);
            if let Some(tls) = &self.tls {
                tls.borrow_mut().close(&mut self.out.borrow_mut());
            }
            self.carry.take();
            self.mark_dirty(thread);
        }
    }

    /// Says why, and closes.
    pub(crate) fn abort(self: &Rc<Self>, thread: &Rc<Thread>, code: Code) {
        if self.is_ending() {
            self.vanish();
            return;
        }
        thread.refused(code);
        let is_websocket = matches!(*self.protocol.borrow(), Protocol::WebSocket(_));
        if is_websocket {
            crate::websocket::close_with(thread, self, code);
        } else {
            crate::http::close_with(thread, self, code);
        }
    }

    /// Ends it at once: the reading task wakes, finds the end, and takes it out of the table.
    pub(crate) fn vanish(&self) {
        self.ending.set(Ending::Gone);
        net::shut(&self.socket);
        self.room.raise();
    }

    /// Feeds bytes that arrived, after those that waited, to the protocol.
    pub(crate) fn feed(self: &Rc<Self>, thread: &Rc<Thread>, fresh: &mut [u8]) -> Option<ShardId> {
        if self.is_ending() {
            return None;
        }
        if !self.has_carry() {
            return match self.process(thread, fresh) {
                Fed::Consumed(done) => {
                    self.keep(&fresh[done..]);
                    None
                }
                Fed::Move(done, to) => {
                    self.keep(&fresh[done..]);
                    Some(to)
                }
            };
        }
        let mut carry = self.carry.take();
        carry.extend_from_slice(fresh);
        let (done, to) = match self.process(thread, &mut carry) {
            Fed::Consumed(done) => (done, None),
            Fed::Move(done, to) => (done, Some(to)),
        };
        if done == carry.len() || self.is_ending() {
            return to;
        }
        carry.drain(..done);
        self.carry.replace(carry);
        to
    }

    /// Bytes that a connection read on another core and did not handle there.
    pub(crate) fn bring(&self, carry: Vec<u8>) {
        self.carry.replace(carry);
    }

    fn keep(&self, rest: &[u8]) {
        if !rest.is_empty() && !self.is_ending() {
            self.carry.borrow_mut().extend_from_slice(rest);
        }
    }

    fn process(self: &Rc<Self>, thread: &Rc<Thread>, bytes: &mut [u8]) -> Fed {
        let mut done = 0;
        // An upgrade changes the protocol in mid-read: what follows the request are frames.
        loop {
            let is_websocket = matches!(*self.protocol.borrow(), Protocol::WebSocket(_));
            if is_websocket {
                return match crate::websocket::on_bytes(thread, self, &mut bytes[done..]) {
                    Fed::Consumed(more) => Fed::Consumed(done + more),
                    Fed::Move(more, to) => Fed::Move(done + more, to),
                };
            }
            done += crate::http::on_bytes(thread, self, &mut bytes[done..]);
            let upgraded = matches!(*self.protocol.borrow(), Protocol::WebSocket(_));
            if !upgraded || self.is_ending() {
                return Fed::Consumed(done);
            }
        }
    }

    /// The reading task must wait: too much is owed, or too much waits to be handled.
    fn is_full(&self, thread: &Thread) -> bool {
        let gateway = thread.gateway();
        let limits = &gateway.limits;
        limits.outbox_high_bytes < self.owed() || self.carry_max(thread) <= self.carry.borrow().len()
    }

    fn carry_max(&self, thread: &Thread) -> usize {
        let gateway = thread.gateway();
        let limits = &gateway.limits;
        limits.head_bytes_max + limits.body_bytes_max.max(limits.frame_bytes_max) + 64 * 1024
    }

    /// An answer left: what waited behind it can be handled, at the end of the loop's turn.
    pub(crate) fn resume(self: &Rc<Self>, thread: &Thread) {
        if self.has_carry() {
            thread.resumed.borrow_mut().push(self.clone());
        }
        self.room.raise();
    }

    /// Looks at it no later than `at`.
    pub(crate) fn wake_at(&self, thread: &Thread, at: Time) {
        if at < self.alarm.get() {
            self.alarm.set(at);
            thread.alarm(at, self.place);
        }
    }

    /// The table's timer fired: what is overdue ends it. Returns when to look again.
    pub(crate) fn on_alarm(self: &Rc<Self>, thread: &Rc<Thread>) -> Option<Time> {
        let now = thread.now();
        if matches!(self.ending.get(), Ending::Gone) {
            return None;
        }
        if self.is_ending() && self.ending.get() == Ending::Lingering {
            self.vanish();
            return None;
        }
        let slow_max = thread.gateway().plan.limits.slow_client_age_max;
        if self.stuck.get() && slow_max <= now.since(self.stuck_since.get()) {
            thread.count(|c| &mut c.slow_consumers);
            self.vanish();
            return None;
        }
        if self.is_ending() {
            return Some(now + LINGER);
        }
        let is_websocket = matches!(*self.protocol.borrow(), Protocol::WebSocket(_));
        let next = if is_websocket {
            crate::websocket::on_alarm(thread, self)
        } else {
            crate::http::on_alarm(thread, self)
        };
        Some(if self.stuck.get() { next.min(self.stuck_since.get() + slow_max) } else { next })
    }

    /// Takes it apart to be handed to another core; `None` while it owes something, or something is under way.
    pub(crate) fn depart(self: &Rc<Self>, thread: &Rc<Thread>) -> Option<Moving> {
        if !self.tickets.borrow().is_empty() {
            return None;
        }
        self.flush(thread);
        if self.owed() != 0 || self.stuck.get() || self.is_ending() {
            return None;
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(self.socket.as_fd(), 0).ok()?;
        let protocol = self.protocol.replace(Protocol::Http(Http::default()));
        let Protocol::WebSocket(websocket) = protocol else { return None };
        let tls = self.tls.as_ref().map(|tls| std::mem::replace(&mut *tls.borrow_mut(), ServerTls::spent()));
        self.ending.set(Ending::Gone);
        Some(Moving { fd, address: self.address, tls, websocket, carry: self.carry.take() })
    }
}

/// Reads a connection until it ends or moves.
pub(crate) async fn read_task(thread: Rc<Thread>, connection: Rc<Connection>) {
    // What a connection brought along from another core is handled first.
    let mut go = thread.read(&connection, true);
    loop {
        match go {
            Go::On => {
                if connection.socket.readable().await.is_err() {
                    break;
                }
            }
            Go::Pause => {
                connection.room.wait().await;
                if connection.is_full(&thread) && connection.ending.get() != Ending::Gone {
                    continue;
                }
            }
            Go::Move(to) => {
                if thread.hand_over(&connection, to) {
                    return;
                }
            }
            Go::Stop => break,
        }
        go = thread.read(&connection, false);
    }
    thread.forget(&connection);
}

impl Thread {
    /// One read, and all that it brought.
    fn read(self: &Rc<Self>, connection: &Rc<Connection>, carried: bool) -> Go {
        self.touch();
        if connection.ending.get() == Ending::Gone {
            return Go::Stop;
        }
        let mut to = None;
        if carried {
            to = connection.feed(self, &mut []);
        } else {
            let mut buffer = self.read_buffer.borrow_mut();
            self.count(|c| &mut c.reads);
            let bytes = match net::receive(&connection.socket, &mut buffer) {
                Moved::Bytes(0) | Moved::Broken => return Go::Stop,
                Moved::Bytes(bytes) => bytes,
                Moved::NotReady => return Go::On,
            };
            self.count_by(|c| &mut c.bytes_in, bytes);
            connection.heard.set(self.now());
            match &connection.tls {
                None => to = connection.feed(self, &mut buffer[..bytes]),
                Some(tls) => {
                    let mut plain = self.plain_buffer.borrow_mut();
                    plain.clear();
                    let opened =
                        tls.borrow_mut().open(&buffer[..bytes], &mut plain, &mut connection.out.borrow_mut());
                    connection.mark_dirty(self);
                    match opened {
                        Ok(()) => to = connection.feed(self, &mut plain),
                        Err(_) => {
                            self.count(|c| &mut c.tls_failures);
                            connection.end(self);
                        }
                    }
                }
            }
        }
        if connection.ending.get() == Ending::Gone {
            Go::Stop
        } else if let Some(to) = to {
            Go::Move(to)
        } else if connection.is_full(self) {
            Go::Pause
        } else {
            Go::On
        }
    }
}

/// Waits for a socket that takes no more, until it has taken all.
async fn write_task(thread: Rc<Thread>, connection: Rc<Connection>) {
    let slow_max = thread.gateway().plan.limits.slow_client_age_max;
    connection.wake_at(&thread, thread.now() + slow_max);
    loop {
        if connection.socket.writable().await.is_err() {
            connection.vanish();
            return;
        }
        thread.touch();
        let before = connection.owed();
        match connection.push_out(&thread) {
            Moved::Bytes(_) => break,
            Moved::NotReady => {
                if connection.owed() < before {
                    connection.stuck_since.set(thread.now());
                }
                connection.check_pressure(&thread);
            }
            Moved::Broken => {
                connection.vanish();
                return;
            }
        }
        if connection.ending.get() == Ending::Gone {
            return;
        }
    }
    connection.stuck.set(false);
    connection.flushed(&thread);
}
