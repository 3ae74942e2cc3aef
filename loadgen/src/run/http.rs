//! HTTP clients: a pool of kept connections with one request in flight each. What finds no free connection waits, and its
//! waiting counts: it was due when it was due.
//!
//! Owns `POST /api/chat` (JSON and server-sent events) and webhook deliveries. A session has one request in flight at most,
//! since two connections keep no order between them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clawgate_wire::http1::{BodyDecoder, HeadLimits, Length, parse_response};
use clawgate_wire::sse;

use crate::driver::{self, Socket};
use crate::ledger::Expect;
use crate::pipe::{Pipe, Read};
use crate::protocol::{Addressing, Envelope, Incoming, Said, Template, is_session_id};
use crate::rng::mix;
use crate::run::lane::{Books, Lane};
use crate::run::platform::{Platform, Seal};
use crate::run::{CONNECT_TIMEOUT, read_token_stamp};
use crate::scenario::Kind;
use crate::schedule::Due;

const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, headers_max: 64, target_bytes_max: 1024 };

/// The first wait before a connection that cannot be opened is tried again; it doubles up to a second.
const BACKOFF: Duration = Duration::from_millis(20);

/// One request to be sent.
#[derive(Clone, Copy, Debug)]
struct Job {
    due: Due,
    seq: u32,
    /// When it could be sent: when it was due, or when its session was free.
    ready_ns: u64,
    sort: Sort,
    /// How often its platform has posted it, the first time not counted.
    attempt: u8,
}

impl Job {
    /// Whether the account hears of what becomes of it.
    const fn counts(self) -> bool {
        match self.sort {
            Sort::First | Sort::Again => true,
            Sort::Repeat | Sort::Unreadable | Sort::Unsigned => false,
        }
    }
}

/// Which sending of a message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    First,
    /// It was sent before, and closed or refused, and is sent until it is taken.
    Again,
    /// The platform delivers on purpose what was taken already: the same update again.
    Repeat,
    /// What nobody can read, under a good signature.
    Unreadable,
    /// Under a bad one.
    Unsigned,
}

/// When a late delivery comes, after the first one was taken.
const LATE: Duration = Duration::from_secs(2);

/// The response that a connection is reading.
#[derive(Debug)]
struct Reply {
    /// Status, and whether the connection may be used again; `None` until the head is there.
    head: Option<(u16, bool)>,
    body: BodyDecoder,
    bytes: Vec<u8>,
    events: sse::Decoder,
    /// What it tells to wait, in seconds.
    wait_seconds: Option<u32>,
}

impl Reply {
    fn new() -> Self {
        Self {
            head: None,
            body: BodyDecoder::new(Length::None, 0),
            bytes: Vec::new(),
            events: sse::Decoder::new(BODY_BYTES_MAX as usize),
            wait_seconds: None,
        }
    }

    /// Makes ready for the next response. Tells whether the connection may be used for one.
    fn clear(&mut self) -> bool {
        let keep_alive = self.head.take().is_some_and(|(_, keep_alive)| keep_alive);
        self.bytes.clear();
        self.events = sse::Decoder::new(BODY_BYTES_MAX as usize);
        keep_alive
    }
}

#[derive(Debug)]
struct Conn {
    /// `None` while it is not open.
    pipe: RefCell<Option<Rc<Pipe>>>,
    job: Cell<Option<Job>>,
    reply: RefCell<Reply>,
    /// When it was opened, in nanoseconds after the start of the run.
    opened_ns: Cell<u64>,
}

/// The connections of one lane, for one part of the scenario.
#[derive(Debug)]
pub(crate) struct Pool {
    lane: Rc<Lane>,
    to: Addressing,
    kind: Kind,
    books: Books,
    platform: Option<Arc<dyn Platform>>,
    template: RefCell<Template>,
    /// Deliveries that their platform will try again.
    pending: Cell<u32>,
    conns: Vec<Conn>,
    idle: RefCell<Vec<usize>>,
    /// Requests without a connection, in order.
    waiting: RefCell<VecDeque<Job>>,
    /// Whether a session has a request in flight or waiting.
    busy: RefCell<Vec<bool>>,
    /// What waits for its own session's request.
    held: RefCell<HashMap<u32, VecDeque<Job>>>,
}

impl Pool {
    /// Opens all connections.
    pub(crate) async fn open(
        lane: &Rc<Lane>,
        kind: Kind,
        to: Addressing,
        (books, platform): (Books, Option<Arc<dyn Platform>>),
    ) -> Result<Rc<Self>, String> {
        let settings = &lane.settings;
        let template = match &platform {
            Some(platform) => platform.template(&to, settings.started_unix_seconds),
            None => Template::chat(&to, kind.streams()),
        };
        let conn = |_| Conn {
            pipe: RefCell::default(),
            job: Cell::default(),
            reply: RefCell::new(Reply::new()),
            opened_ns: Cell::new(0),
        };
        let count = lane.own(settings.connections);
        let pool = Rc::new(Self {
            lane: Rc::clone(lane),
            to,
            kind,
            books,
            platform,
            template: RefCell::new(template),
            pending: Cell::new(0),
            conns: (0..count).map(conn).collect(),
            idle: RefCell::default(),
            waiting: RefCell::default(),
            busy: RefCell::new(vec![false; lane.own(settings.sessions) as usize]),
            held: RefCell::default(),
        });
        for at in 0..pool.conns.len() {
            pool.connect(at).await?;
            driver::spawn(Rc::clone(&pool).serve(at));
        }
        Ok(pool)
    }

    async fn connect(&self, at: usize) -> Result<(), String> {
        let target = self.lane.settings.target;
        let opened = driver::within(CONNECT_TIMEOUT, Socket::connect(target)).await;
        let socket = opened.map_err(|error| format!("cannot connect to {target}: {error}"))?;
        let Some(conn) = self.conns.get(at) else { return Ok(()) };
        conn.reply.replace(Reply::new());
        conn.opened_ns.set(self.lane.now());
        conn.pipe.replace(Some(Pipe::new(socket, Vec::new(), &self.lane.scratch)));
        self.next_job(at);
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
                Rc::clone(&self).on_closed(conn, at);
                backoff = BACKOFF;
            }
            if self.lane.ending.get() {
                return;
            }
            if self.connect(at).await.is_err() {
                driver::sleep(backoff).await;
                backoff = (backoff * 2).min(Duration::from_secs(1));
            }
        }
    }

    async fn read_to_end(self: &Rc<Self>, conn: &Conn, at: usize, pipe: &Rc<Pipe>) {
        loop {
            if pipe.socket().readable().await.is_err() {
                return;
            }
            match pipe.read(|bytes| self.on_bytes(conn, at, bytes)) {
                Ok(Read::Some(bytes)) => self.lane.note_read(bytes),
                Ok(Read::Closed) | Err(_) => return,
            }
        }
    }

    /// The connection is gone. A body that ends with it is complete; a request without an answer stays open in the
    /// account, and its session goes on.
    fn on_closed(self: Rc<Self>, conn: &Conn, at: usize) {
        conn.pipe.take();
        self.idle.borrow_mut().retain(|idle| *idle != at);
        let whole = {
            let reply = conn.reply.borrow();
            reply.head.is_some() && reply.body.may_close()
        };
        if whole {
            self.on_reply(conn, self.lane.now());
        } else if let Some(job) = conn.job.take() {
            if self.lane.settings.hazards.restart.is_some() && !self.lane.ending.get() {
                return self.ask_again(job);
            }
            self.lane.recorder.borrow_mut().counts().disconnects += 1;
            if !self.post_again(job, Duration::ZERO) {
                self.release(job);
            }
        }
    }

    /// The gateway closed a connection that a request had just gone to, as it may between two of them: it is asked anew,
    /// under the same id, so that it is answered once whatever became of the first time.
    fn ask_again(&self, job: Job) {
        if job.counts() {
            self.books.with(job.due.session, |ledger| ledger.begin_again(job.due.session));
        }
        let sort = if job.sort == Sort::First { Sort::Again } else { job.sort };
        self.dispatch(Job { sort, ..job });
    }

    /// A platform posts again what was not taken, when its schedule says so or when it is told to, whichever is later.
    /// `false` if it is no platform's, or the schedule is over.
    fn post_again(self: &Rc<Self>, job: Job, told: Duration) -> bool {
        let Some(platform) = self.platform.as_ref().filter(|_| job.counts()) else { return false };
        let Some(wait) = platform.retries().get(usize::from(job.attempt)) else { return false };
        self.later((*wait).max(told), Job { sort: Sort::Again, attempt: job.attempt + 1, ..job });
        true
    }

    /// Sends it after a while.
    fn later(self: &Rc<Self>, wait: Duration, job: Job) {
        let pool = Rc::clone(self);
        pool.pending.set(pool.pending.get() + u32::from(job.counts()));
        driver::spawn(async move {
            driver::sleep(wait).await;
            pool.pending.set(pool.pending.get() - u32::from(job.counts()));
            if !pool.lane.ending.get() {
                pool.dispatch(job);
            }
        });
    }

    fn on_bytes(self: &Rc<Self>, conn: &Conn, at: usize, bytes: &mut [u8]) -> io::Result<usize> {
        let now_ns = self.lane.now();
        let mut done = 0;
        while done < bytes.len() {
            let Some(job) = conn.job.get() else {
                // An answer that nobody asked for.
                return Err(io::ErrorKind::InvalidData.into());
            };
            let taken = self.on_reply_bytes(&mut conn.reply.borrow_mut(), job, &bytes[done..], now_ns)?;
            done += taken.bytes;
            if taken.whole {
                self.on_reply(conn, now_ns);
                if !conn.reply.borrow_mut().clear() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                self.next_job(at);
            } else if taken.bytes == 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Takes a part of a response.
    fn on_reply_bytes(&self, reply: &mut Reply, job: Job, bytes: &[u8], now_ns: u64) -> io::Result<Taken> {
        let mut done = 0;
        if reply.head.is_none() {
            let head = parse_response(bytes, &HEAD_LIMITS, false).map_err(|bad| self.on_refusal(bad))?;
            let Some(head) = head else { return Ok(Taken { bytes: 0, whole: false }) };
            done = head.bytes;
            if head.status < 200 {
                return Ok(Taken { bytes: done, whole: false });
            }
            reply.head = Some((head.status, head.keep_alive));
            reply.body = BodyDecoder::new(head.body, BODY_BYTES_MAX);
            reply.wait_seconds = head.headers.get("retry-after").and_then(|value| value.parse().ok());
            if self.platform.is_some() && job.counts() && head.status < 300 {
                self.lane.recorder.borrow_mut().on_ack(job.due.at_ns, now_ns);
            }
        }
        let rest = bytes.get(done..).unwrap_or(&[]);
        let body = reply.body.decode(rest).map_err(|bad| self.on_refusal(bad))?;
        reply.bytes.extend_from_slice(body.data);
        if self.kind == Kind::SseStream && reply.head.is_some_and(|(status, _)| status == 200) {
            self.on_events(job, reply, now_ns);
        }
        Ok(Taken { bytes: done + body.consumed, whole: body.done })
    }

    #[cold]
    fn on_refusal(&self, refusal: clawgate_wire::http1::Refusal) -> io::Error {
        self.books.with(0, |ledger| ledger.tally_mut().count_code(refusal.code()));
        io::ErrorKind::InvalidData.into()
    }

    /// Every server-sent event that is complete.
    fn on_events(&self, job: Job, reply: &mut Reply, now_ns: u64) {
        let mut done = 0;
        loop {
            let rest = reply.bytes.get_mut(done..).unwrap_or(&mut []);
            match reply.events.decode(rest) {
                Ok(sse::Step::Event { consumed, data, .. }) => {
                    self.on_event(job, data, now_ns);
                    done += consumed;
                }
                Ok(
                    sse::Step::Id { consumed, .. }
                    | sse::Step::Comment { consumed }
                    | sse::Step::Skip { consumed },
                ) => done += consumed,
                Ok(sse::Step::NeedMore) => break,
                Err(_) => {
                    self.books.with(job.due.session, |ledger| ledger.on_garbled());
                    done = reply.bytes.len();
                    break;
                }
            }
        }
        reply.bytes.drain(..done);
    }

    fn on_event(&self, job: Job, data: &[u8], now_ns: u64) {
        let session = job.due.session;
        let Some(incoming) = Incoming::read(data) else {
            self.books.with(session, |ledger| ledger.on_garbled());
            return;
        };
        let prefix = &self.to.session_prefix;
        if incoming.session_id.as_deref().is_some_and(|id| !is_session_id(id, prefix, session)) {
            self.books.with(session, |ledger| ledger.on_garbled());
            return;
        }
        let mut recorder = self.lane.recorder.borrow_mut();
        match incoming.said {
            Said::Chunk | Said::Message => {
                let text = incoming.content.as_deref().unwrap_or(b"");
                recorder.counts().pieces += 1;
                if let Some(times) =
                    self.books.with(session, |ledger| ledger.on_piece(session, job.seq, text))
                {
                    recorder.on_first(times, now_ns);
                }
                if self.lane.settings.expect == Expect::Anything
                    && let Some(nanos) = read_token_stamp(text)
                {
                    recorder.on_transit(nanos, now_ns);
                }
            }
            Said::Done => {
                if let Some(times) =
                    self.books.with(session, |ledger| ledger.on_done(session, job.seq, now_ns))
                {
                    recorder.on_done(times, now_ns);
                }
            }
            Said::Error => {
                let code = String::from_utf8_lossy(incoming.code.as_deref().unwrap_or(b"(no code)"));
                recorder.on_refused(now_ns);
                self.books.with(session, |ledger| ledger.on_refused(session, job.seq, &code));
            }
            Said::AuthOk | Said::Accepted | Said::Pong | Said::Other => {}
        }
    }

    /// A response is complete.
    fn on_reply(self: &Rc<Self>, conn: &Conn, now_ns: u64) {
        let Some(job) = conn.job.take() else { return };
        let reply = conn.reply.borrow();
        let status = reply.head.map_or(0, |(status, _)| status);
        match (self.kind, status) {
            _ if matches!(job.sort, Sort::Unreadable | Sort::Unsigned) => {
                let counts = &mut self.lane.recorder.borrow_mut();
                counts.counts().malformed_refused += u64::from((400..500).contains(&status));
            }
            _ if !job.counts() => {}
            (_, 200..300) if self.platform.is_some() => {}
            (Kind::SseStream, 200) => {}
            (_, 200) => self.on_envelope(job, &reply.bytes, now_ns),
            (_, 408 | 409 | 423 | 425 | 429 | 500..) => {
                let told = Duration::from_secs(u64::from(reply.wait_seconds.unwrap_or(0)));
                if self.post_again(job, told) {
                    return;
                }
                self.on_failure(job, status, &reply.bytes);
            }
            (_, _) => self.on_failure(job, status, &reply.bytes),
        }
        self.release(job);
    }

    fn on_envelope(&self, job: Job, body: &[u8], now_ns: u64) {
        let session = job.due.session;
        let prefix = &self.to.session_prefix;
        match Envelope::read(body) {
            Some(Envelope::Success { message, session_id }) => {
                if session_id.is_some_and(|id| !is_session_id(&id, prefix, session)) {
                    self.books.with(session, |ledger| ledger.on_garbled());
                }
                let times = self.books.with(session, |ledger| {
                    ledger.on_piece(session, job.seq, &message);
                    ledger.on_done(session, job.seq, now_ns)
                });
                if let Some(times) = times {
                    self.lane.recorder.borrow_mut().on_done(times, now_ns);
                }
            }
            Some(Envelope::Error { .. }) => self.on_failure(job, 200, body),
            None => self.books.with(session, |ledger| ledger.on_garbled()),
        }
    }

    #[cold]
    fn on_failure(&self, job: Job, status: u16, body: &[u8]) {
        let code = match Envelope::read(body) {
            Some(Envelope::Error { code }) => String::from_utf8_lossy(&code).into_owned(),
            Some(Envelope::Success { .. }) | None => format!("HTTP_{status}"),
        };
        self.lane.recorder.borrow_mut().on_refused(self.lane.now());
        let session = job.due.session;
        self.books.with(session, |ledger| ledger.on_refused(session, job.seq, &code));
    }

    /// Opens a message's place in the account and sends it, or has it wait for a connection or for its session.
    pub(crate) fn submit(&self, due: &Due) {
        let settings = &self.lane.settings;
        let inflight = self.waiting.borrow().len() + self.conns.len();
        if settings.inflight_max <= inflight as u64 {
            self.lane.recorder.borrow_mut().counts().shed += 1;
            return;
        }
        let seq = self.books.with(due.session, |ledger| ledger.open(due.session, due.at_ns));
        let job = Job { due: *due, seq, ready_ns: due.at_ns, sort: Sort::First, attempt: 0 };
        let own = (due.session / settings.threads) as usize;
        let was_busy = self.busy.borrow_mut().get_mut(own).is_some_and(|busy| std::mem::replace(busy, true));
        if was_busy {
            self.held.borrow_mut().entry(due.session).or_default().push_back(job);
        } else {
            self.dispatch(job);
        }
    }

    /// Sends a request over a free connection, or queues it for the next one.
    fn dispatch(&self, job: Job) {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(at) => self.start(at, job),
            None => self.waiting.borrow_mut().push_back(job),
        }
    }

    /// A connection is free: it takes what waits.
    fn next_job(&self, at: usize) {
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            Some(job) => self.start(at, job),
            None => self.idle.borrow_mut().push(at),
        }
    }

    fn start(&self, at: usize, job: Job) {
        let Some(conn) = self.conns.get(at) else { return };
        let pipe = conn.pipe.borrow().clone();
        let Some(pipe) = pipe else {
            self.waiting.borrow_mut().push_front(job);
            return;
        };
        conn.job.set(Some(job));
        let Job { due, seq, ready_ns, sort, .. } = job;
        {
            let mut template = self.template.borrow_mut();
            template.fill(due.session, seq, due.at_ns, due.index);
            let (request, seal) = template.sealed();
            if let Some(platform) = &self.platform {
                seal_request(&**platform, request, seal, sort, self.lane.unix_seconds());
            }
            pipe.out().extend_from_slice(request);
        }
        let now_ns = self.lane.now();
        let bytes = pipe.output_bytes() as u64;
        let wrote = pipe.flush().unwrap_or(false);
        let mut recorder = self.lane.recorder.borrow_mut();
        recorder.counts().writes += u64::from(wrote);
        recorder.counts().bytes_out += bytes;
        match sort {
            Sort::First => {}
            Sort::Again | Sort::Repeat => {
                recorder.counts().repeats += 1;
                return;
            }
            Sort::Unreadable | Sort::Unsigned => {
                recorder.counts().malformed += 1;
                return;
            }
        }
        self.books.with(due.session, |ledger| ledger.on_sent(due.session, seq, now_ns));
        // What was due while a restart had it closed could not be sent before it was open.
        let is_restarted = self.lane.settings.hazards.restart.is_some();
        let ready_ns = if is_restarted { ready_ns.max(conn.opened_ns.get()) } else { ready_ns };
        recorder.on_sent(due.at_ns, ready_ns, now_ns);
        drop(recorder);
        match self.flaw(job) {
            Some(Flaw::AtOnce) => self.dispatch(Job { sort: Sort::Repeat, ..job }),
            Some(Flaw::Malformed(sort)) => self.dispatch(Job { sort, ..job }),
            Some(Flaw::Then | Flaw::Late) | None => {}
        }
    }

    /// A request is done with: its session's next one may go.
    fn release(self: &Rc<Self>, job: Job) {
        if !job.counts() {
            return;
        }
        match self.flaw(job) {
            Some(Flaw::Then) => self.dispatch(Job { sort: Sort::Repeat, ..job }),
            Some(Flaw::Late) => self.later(LATE, Job { sort: Sort::Repeat, ..job }),
            Some(Flaw::AtOnce | Flaw::Malformed(_)) | None => {}
        }
        let session = job.due.session;
        let mut held = self.held.borrow_mut();
        if let Some(queue) = held.get_mut(&session) {
            let next = queue.pop_front();
            if queue.is_empty() {
                held.remove(&session);
            }
            drop(held);
            if let Some(next) = next {
                self.dispatch(Job { ready_ns: next.due.at_ns.max(self.lane.now()), ..next });
            }
            return;
        }
        let own = (session / self.lane.settings.threads) as usize;
        if let Some(busy) = self.busy.borrow_mut().get_mut(own) {
            *busy = false;
        }
    }

    /// What its platform does with a message that is not well, as the seed says.
    fn flaw(&self, job: Job) -> Option<Flaw> {
        self.platform.as_ref()?;
        let flaws = &self.lane.settings.flaws;
        let draw = mix(self.lane.settings.seed ^ job.due.digest());
        let (is_even, at) = (draw & 1 == 0, (draw >> 32) as f64 / f64::from(u32::MAX));
        match at {
            at if at < flaws.repeats => Some(if is_even { Flaw::AtOnce } else { Flaw::Then }),
            at if at < flaws.repeats + flaws.late => Some(Flaw::Late),
            at if at < flaws.repeats + flaws.late + flaws.malformed => {
                Some(Flaw::Malformed(if is_even { Sort::Unreadable } else { Sort::Unsigned }))
            }
            _ => None,
        }
    }

    /// Whether everything that was due has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.pending.get() == 0
            && self.waiting.borrow().is_empty()
            && self.held.borrow().is_empty()
            && self.conns.iter().all(|conn| conn.job.get().is_none())
    }
}

/// What a platform does that is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// It delivers twice, the second time before the first is answered.
    AtOnce,
    /// Or after it.
    Then,
    /// Or some seconds later.
    Late,
    /// It delivers something else beside it.
    Malformed(Sort),
}

/// Signs a request, and spoils it if it is to be refused.
fn seal_request(platform: &dyn Platform, request: &mut [u8], seal: &Seal, sort: Sort, unix_seconds: u64) {
    // Neither spoils what is sent after it: what is spoilt here is filled or signed anew.
    if let Some(first) = request.get_mut(seal.body.start) {
        *first = if sort == Sort::Unreadable { b'[' } else { b'{' };
    }
    platform.sign(request, seal, unix_seconds);
    if sort == Sort::Unsigned
        && let Some(digit) = request.get_mut(seal.signature.start.midpoint(seal.signature.end))
    {
        *digit = if *digit == b'A' { b'B' } else { b'A' };
    }
}

/// What was taken of a response.
#[derive(Clone, Copy, Debug)]
struct Taken {
    bytes: usize,
    whole: bool,
}
