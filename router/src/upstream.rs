//! Connections to upstreams: models and platforms. Opened, kept alive, reused, and given up on one core each.
//!
//! A connection is waited for by readiness and read by direct calls, so that nothing read is ever lost to a
//! cancellation: to cancel is to shut the socket, and whoever waits wakes and finds the end.
use crate::driver::{self, Socket};
use crate::gateway::Gateway;
use crate::net::{self, Moved};
use crate::signal::Signal;
use crate::thread::Thread;
use crate::tls::ClientTls;
use crate::tools::address::Reach;
use crate::usage::Meter;
use clawgate_core::id::CallId;
use clawgate_core::time::Time;
use clawgate_providers::Said;
use clawgate_wire::http1::{
    BodyDecoder, HeadLimits, Headers, Length, Refusal, parse_response, write_request_head,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a name's addresses are believed.
const NAME_AGE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for a descriptor while there is none.
const DESCRIPTOR_LOOK: Duration = Duration::from_millis(20);
/// Names remembered on one core.
const NAMES_MAX: usize = 1_024;
/// Heads of upstreams' answers.
const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 64 * 1024, headers_max: 64, target_bytes_max: 0 };

/// Where requests go: one pool of connections each.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What TLS trusts there; `None` in clear.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    /// Its connections are counted against the bound of the process. Those of models are not: the shards start no more
    /// calls than there may be, and one that is over may still be read to its end while the next begins.
    pub(crate) counted: bool,
    /// To connect, the TLS handshake included.
    pub(crate) connect_age_max: Duration,
    /// What may be connected to there; `None` for whatever its name means.
    reach: Option<Arc<Reach>>,
}

impl Origin {
    /// The origin of an absolute URI; `None` for one without a host.
    pub(crate) fn of(
        uri: &http::Uri,
        tls: &Arc<rustls::ClientConfig>,
        connect_age_max: Duration,
    ) -> Option<Self> {
        let secure = uri.scheme_str() == Some("https");
        Some(Self {
            host: uri.host()?.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            tls: secure.then(|| tls.clone()),
            counted: false,
            connect_age_max,
            reach: None,
        })
    }

    /// The same, counted.
    pub(crate) fn counted(self) -> Self {
        Self { counted: true, ..self }
    }

    /// The same, where no address is connected to that is not to be reached.
    pub(crate) fn guarded(self, reach: &Arc<Reach>) -> Self {
        Self { reach: Some(reach.clone()), ..self }
    }

    fn key(&self) -> Key {
        let (tls, reach) = (self.tls.clone().map(Same), self.reach.clone().map(Same));
        Key { host: self.host.clone(), port: self.port, tls, reach, counted: self.counted }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: u16,
    /// Connections made under one trust are not used under another.
    tls: Option<Same<rustls::ClientConfig>>,
    /// The same of what may be reached.
    reach: Option<Same<Reach>>,
    counted: bool,
}

/// Told apart by identity. Held by those who use it: an address that was given to another one would take the old one's
/// connections over.
#[derive(Debug)]
struct Same<T>(Arc<T>);

impl<T> Clone for Same<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Same<T> {}

impl<T> std::hash::Hash for Same<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).addr().hash(state);
    }
}

/// Why nothing, or no more, came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Resolving, connecting or the TLS handshake failed; says what.
    Unreachable(String),
    /// Its name means an address that is not to be reached.
    Forbidden(IpAddr),
    /// The connection ended or broke.
    Closed,
    /// The deadline passed.
    TimedOut,
    /// The upstream does not speak HTTP as we do.
    Malformed(Refusal),
    /// It was cancelled from our side.
    Cancelled,
    /// Our bound on connections to this upstream is reached.
    Full,
    /// All descriptors that such connections may have are taken.
    NoDescriptor,
}

impl Fault {
    /// In words, for the client and the log.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Unreachable(why) => format!("cannot be reached: {why}"),
            Self::Forbidden(address) => format!("is {address}, which is not to be reached"),
            Self::Closed => "closed the connection".to_owned(),
            Self::TimedOut => "did not answer in time".to_owned(),
            Self::Malformed(refusal) => format!("did not speak HTTP/1.1: {}", refusal.code()),
            Self::Cancelled => "was cancelled".to_owned(),
            Self::Full => "has as many connections as limits.upstreamConnectionsMax allows".to_owned(),
            Self::NoDescriptor => {
                "got no connection: no descriptor is free; raise LimitNOFILE, or limits.descriptorsReserved"
                    .to_owned()
            }
        }
    }
}

/// The strings that a running request hangs by.
#[derive(Debug, Default)]
pub(crate) struct Control {
    cancelled: Cell<bool>,
    overdue: Cell<bool>,
    paused: Cell<bool>,
    resumed: Signal,
    /// Its model may be asked once more, after so long.
    asked: Cell<Option<Duration>>,
    socket: RefCell<Option<Rc<Socket>>>,
    /// What the request uses, if that is counted.
    meter: RefCell<Option<Meter>>,
    /// The request is written.
    sent: Cell<bool>,
    /// Whoever waits for something else on behalf of the request.
    bell: RefCell<Option<Rc<Signal>>>,
}

impl Control {
    /// Ends the request from our side.
    pub(crate) fn cancel(&self) {
        self.cancelled.set(true);
        if let Some(mut meter) = self.meter.take()
            && self.sent.get()
        {
            // What a model was asked, it works on, though nobody waits for it.
            meter.answering();
        }
        self.paused.set(false);
        self.resumed.raise();
        if let Some(socket) = &*self.socket.borrow() {
            net::shut(&**socket);
        }
        if let Some(bell) = &*self.bell.borrow() {
            bell.raise();
        }
    }

    /// Wakes whoever waits for this too, once it is cancelled.
    pub(crate) fn rings(&self, bell: &Rc<Signal>) {
        self.bell.replace(Some(bell.clone()));
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Takes the shard's word that the model may be asked once more: after how long.
    pub(crate) fn take_asked(&self) -> Option<Duration> {
        self.asked.take()
    }

    /// Counts what the request uses from here on; what was counted before is charged.
    pub(crate) fn count_by(&self, meter: Option<Meter>) {
        self.sent.set(false);
        drop(self.meter.replace(meter));
    }

    /// Acts on the meter, if what the request uses is counted.
    pub(crate) fn meter(&self, act: impl FnOnce(&mut Meter)) {
        if let Some(meter) = &mut *self.meter.borrow_mut() {
            act(meter);
        }
    }

    /// What was said is counted; with its end, the request is charged.
    pub(crate) fn hear(&self, said: &Said<'_>) {
        self.meter(|meter| meter.hear(said));
        if matches!(said, Said::Ended(_)) {
            drop(self.meter.take());
        }
    }

    /// Was it cancelled because its upstream took too long?
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// Waits while the shard wants no more.
    pub(crate) async fn flow(&self) {
        while self.paused.get() {
            self.resumed.wait().await;
        }
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub(crate) struct Wire {
    key: Key,
    socket: Rc<Socket>,
    tls: Option<ClientTls>,
    /// What was read and not yet used, in clear.
    pub(crate) inbox: Vec<u8>,
    outbox: Vec<u8>,
    sealed: Vec<u8>,
    reused: bool,
    idle_since: Time,
    /// Held while the connection lives, where connections are counted.
    _share: Option<Share>,
}

/// One of the process's connections to an upstream; given back when it is dropped.
#[derive(Debug)]
struct Share(Arc<std::sync::atomic::AtomicU32>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
    }
}

/// The connections and requests of one core.
#[derive(Debug)]
pub(crate) struct Upstreams {
    idle: RefCell<HashMap<Key, Vec<Wire>>>,
    calls: RefCell<HashMap<CallId, Rc<Control>>>,
    names: RefCell<HashMap<(String, u16), Name>>,
    idle_max: Cell<usize>,
}

/// What is known about a name.
#[derive(Debug)]
enum Name {
    Asked(Vec<Rc<Signal>>),
    Known(Result<Vec<SocketAddr>, String>, Time),
}

impl Upstreams {
    pub(crate) fn new(gateway: &Gateway, cores: u16) -> Self {
        let upstreams = Self {
            idle: RefCell::default(),
            calls: RefCell::default(),
            names: RefCell::default(),
            idle_max: Cell::new(1),
        };
        upstreams.reconfigure(gateway, cores);
        upstreams
    }

    /// Goes on with another configuration.
    pub(crate) fn reconfigure(&self, gateway: &Gateway, cores: u16) {
        self.idle_max.set((gateway.limits.upstream_connections_max / u32::from(cores)).max(1) as usize);
    }

    /// Registers a call to a model.
    pub(crate) fn begin(&self, call: CallId) -> Rc<Control> {
        let control = Rc::new(Control::default());
        self.calls.borrow_mut().insert(call, control.clone());
        control
    }

    pub(crate) fn end(&self, call: CallId) {
        self.calls.borrow_mut().remove(&call);
    }

    /// The shard wants nothing more of this call.
    pub(crate) fn cancel(&self, call: CallId, overdue: bool) {
        if let Some(control) = self.calls.borrow_mut().remove(&call) {
            control.overdue.set(overdue);
            control.cancel();
        }
    }

    /// The shard lets the model of this call be asked once more.
    pub(crate) fn ask(&self, call: CallId, after_millis: u32) {
        if let Some(control) = self.calls.borrow().get(&call) {
            control.asked.set(Some(Duration::from_millis(after_millis.into())));
        }
    }

    pub(crate) fn pause(&self, call: CallId, paused: bool) {
        if let Some(control) = self.calls.borrow().get(&call) {
            control.paused.set(paused);
            if !paused {
                control.resumed.raise();
            }
        }
    }

    /// Calls that run.
    pub(crate) fn running(&self) -> usize {
        self.calls.borrow().len()
    }

    /// Cancels all that runs, at the end of a drain.
    pub(crate) fn cancel_all(&self) {
        for (_, control) in self.calls.borrow_mut().drain() {
            control.cancel();
        }
    }

    fn take_idle(&self, key: &Key, now: Time, age_max: Duration) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        let pool = idle.get_mut(key)?;
        while let Some(wire) = pool.pop() {
            if now.since(wire.idle_since) < age_max && !net::is_stale(&*wire.socket) {
                return Some(wire);
            }
        }
        None
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(crate) fn keep(&self, mut wire: Wire, now: Time) {
        if !wire.inbox.is_empty() || self.idle_max.get() == 0 {
            return;
        }
        wire.idle_since = now;
        wire.inbox = Vec::new();
        wire.outbox = Vec::new();
        wire.sealed = Vec::new();
        let mut idle = self.idle.borrow_mut();
        let pool = idle.entry(wire.key.clone()).or_default();
        if pool.len() < self.idle_max.get() {
            pool.push(wire);
        }
    }

    /// Closes connections that nobody used for too long.
    pub(crate) fn sweep(&self, now: Time, age_max: Duration) {
        self.idle.borrow_mut().retain(|_, pool| {
            pool.retain(|wire| now.since(wire.idle_since) < age_max);
            !pool.is_empty()
        });
    }
}

/// The addresses of a host, in the order in which to try them.
async fn resolve(thread: &Rc<Thread>, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let key = (host.to_owned(), port);
    loop {
        let signal = Rc::new(Signal::default());
        let ask = {
            let mut names = thread.upstreams.names.borrow_mut();
            if let Some(Name::Known(_, since)) = names.get(&key)
                && NAME_AGE_MAX <= thread.now().since(*since)
            {
                names.remove(&key);
            }
            match names.get_mut(&key) {
                Some(Name::Known(Ok(addresses), _)) => return Ok(addresses.clone()),
                Some(Name::Known(Err(why), _)) => return Err(Fault::Unreachable(why.clone())),
                Some(Name::Asked(waiting)) => {
                    waiting.push(signal.clone());
                    false
                }
                None => {
                    if NAMES_MAX <= names.len() {
                        names.retain(|_, name| matches!(name, Name::Asked(_)));
                    }
                    names.insert(key.clone(), Name::Asked(vec![signal.clone()]));
                    true
                }
            }
        };
        if ask {
            let answered = key.clone();
            let asked = thread.shared.resolver.ask(thread, host, port, move |thread, found| {
                thread.upstreams.learn(answered, found, thread.now());
            });
            if let Err(why) = asked {
                thread.upstreams.learn(key.clone(), Err(why), thread.now());
            }
        }
        signal.wait().await;
    }
}

impl Upstreams {
    fn learn(&self, key: (String, u16), found: Result<Vec<SocketAddr>, String>, now: Time) {
        let known = Name::Known(found, now);
        if let Some(Name::Asked(waiting)) = self.names.borrow_mut().insert(key, known) {
            waiting.iter().for_each(|signal| signal.raise());
        }
    }
}

/// Waits until a connection may take a descriptor, at most so long. Idle connections make room for it.
async fn await_descriptor(thread: &Rc<Thread>, control: &Control, limit: Duration) -> Result<(), Fault> {
    let Some(descriptors) = thread.shared.descriptors.get() else { return Ok(()) };
    if descriptors.has_upstream(thread.shared.mesh.bell(thread.id)) {
        return Ok(());
    }
    thread.count(|c| &mut c.descriptors_refused);
    let deadline = thread.now() + limit;
    loop {
        thread.upstreams.idle.borrow_mut().clear();
        if descriptors.has_upstream(thread.shared.mesh.bell(thread.id)) {
            return Ok(());
        }
        if control.is_cancelled() {
            return Err(Fault::Cancelled);
        }
        if deadline <= thread.now() {
            return Err(Fault::NoDescriptor);
        }
        driver::sleep(DESCRIPTOR_LOOK).await;
        thread.touch();
    }
}

impl Wire {
    /// A connection to this origin: an idle one, or a new one with its handshake done.
    pub(crate) async fn open(
        thread: &Rc<Thread>,
        origin: &Origin,
        control: &Control,
        fresh: bool,
    ) -> Result<Self, Fault> {
        let gateway = thread.gateway();
        let limits = &gateway.limits;
        let key = origin.key();
        if !fresh
            && let Some(mut wire) =
                thread.upstreams.take_idle(&key, thread.now(), limits.upstream_idle_age_max)
        {
            wire.reused = true;
            control.socket.replace(Some(wire.socket.clone()));
            return Ok(wire);
        }
        let mut share = None;
        if origin.counted {
            let max = limits.upstream_connections_max;
            let taken = thread.shared.upstream_share(&origin.host, origin.port, max);
            share = Some(Share(taken.ok_or(Fault::Full)?));
        }
        await_descriptor(thread, control, origin.connect_age_max).await?;
        let deadline = thread.now() + origin.connect_age_max;
        let mut last = Fault::Unreachable("it has no address".to_owned());
        let addresses = resolve(thread, &origin.host, origin.port).await?;
        for (left, address) in (1..=addresses.len()).rev().zip(addresses.iter().copied()) {
            if control.is_cancelled() {
                return Err(Fault::Cancelled);
            }
            thread.touch();
            // One that answers nothing leaves the others their part of the time.
            let limit = deadline.since(thread.now()) / u32::try_from(left).unwrap_or(1);
            if limit.is_zero() {
                return Err(Fault::Unreachable("it took too long to find".to_owned()));
            }
            // The address that was checked is the one that is connected to.
            if origin.reach.as_ref().is_some_and(|reach| !reach.permits(address.ip())) {
                last = Fault::Forbidden(address.ip());
                continue;
            }
            match Socket::connect(address, limit).await {
                Ok(socket) => {
                    thread.touch();
                    thread.count(|c| &mut c.upstream_connects);
                    let mut wire = Self {
                        key,
                        socket: Rc::new(socket),
                        tls: None,
                        inbox: Vec::new(),
                        outbox: Vec::new(),
                        sealed: Vec::new(),
                        reused: false,
                        idle_since: thread.now(),
                        _share: share,
                    };
                    control.socket.replace(Some(wire.socket.clone()));
                    if let Some(tls) = &origin.tls {
                        wire.handshake(thread, tls, &origin.host, control, deadline).await?;
                    }
                    return Ok(wire);
                }
                Err(why) => last = Fault::Unreachable(format!("{address}: {why}")),
            }
        }
        Err(last)
    }

    async fn handshake(
        &mut self,
        thread: &Rc<Thread>,
        config: &Arc<rustls::ClientConfig>,
        host: &str,
        control: &Control,
        deadline: Time,
    ) -> Result<(), Fault> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut tls = ClientTls::new(config.clone(), bare).map_err(|broken| Fault::Unreachable(broken.0))?;
        tls.seal(&[], &mut self.sealed);
        self.tls = Some(tls);
        loop {
            self.drain(control).await?;
            if !self.tls.as_ref().is_some_and(ClientTls::is_handshaking) {
                return Ok(());
            }
            if self.fill(thread, control, Some(deadline)).await? == 0 {
                return Err(Fault::Unreachable("the TLS handshake was cut off".to_owned()));
            }
        }
    }

    /// Writes a request.
    pub(crate) async fn request(
        &mut self,
        control: &Control,
        request: &http::Request<()>,
        body: &[u8],
    ) -> Result<(), Fault> {
        let uri = request.uri();
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let headers: Vec<(&str, &str)> = request
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
            .collect();
        let length = Length::Exact(body.len() as u64);
        self.outbox.clear();
        write_request_head(&mut self.outbox, request.method().as_str(), target, host, &headers, length, true);
        self.outbox.extend_from_slice(body);
        match &mut self.tls {
            Some(tls) => tls.seal(&self.outbox, &mut self.sealed),
            None => std::mem::swap(&mut self.outbox, &mut self.sealed),
        }
        self.drain(control).await?;
        control.sent.set(true);
        Ok(())
    }

    async fn drain(&mut self, control: &Control) -> Result<(), Fault> {
        let mut sent = 0;
        while sent < self.sealed.len() {
            match net::send(&*self.socket, &self.sealed[sent..]) {
                Moved::Bytes(bytes) => sent += bytes,
                Moved::NotReady => self.socket.writable().await.map_err(|_| Fault::Closed)?,
                Moved::Broken => {
                    return Err(if control.is_cancelled() { Fault::Cancelled } else { Fault::Closed });
                }
            }
        }
        self.sealed.clear();
        Ok(())
    }

    /// Waits for bytes and adds them to the inbox; 0 when the upstream closed.
    pub(crate) async fn fill(
        &mut self,
        thread: &Rc<Thread>,
        control: &Control,
        deadline: Option<Time>,
    ) -> Result<usize, Fault> {
        loop {
            if control.is_cancelled() {
                return Err(Fault::Cancelled);
            }
            match deadline {
                None => self.socket.readable().await.map_err(|_| Fault::Closed)?,
                Some(at) => {
                    let left = at.since(thread.clock.now());
                    if left.is_zero()
                        || !self.socket.readable_within(left).await.map_err(|_| Fault::Closed)?
                    {
                        return Err(Fault::TimedOut);
                    }
                }
            }
            thread.touch();
            if control.is_cancelled() {
                return Err(Fault::Cancelled);
            }
            let before = self.inbox.len();
            let (bytes, answer) = {
                let mut buffer = thread.read_buffer.borrow_mut();
                let bytes = match net::receive(&*self.socket, &mut buffer) {
                    Moved::Bytes(0) => return Ok(0),
                    Moved::Bytes(bytes) => bytes,
                    Moved::NotReady => continue,
                    Moved::Broken => return Err(Fault::Closed),
                };
                match &mut self.tls {
                    None => {
                        self.inbox.extend_from_slice(&buffer[..bytes]);
                        (bytes, false)
                    }
                    Some(tls) => {
                        tls.open(&buffer[..bytes], &mut self.inbox, &mut self.sealed)
                            .map_err(|broken| Fault::Unreachable(broken.0))?;
                        (bytes, !self.sealed.is_empty())
                    }
                }
            };
            thread.count_by(|c| &mut c.upstream_bytes_in, bytes);
            if answer {
                self.drain(control).await?;
            }
            // Part of a TLS record is no plaintext yet, except in a handshake, where every byte counts.
            let handshaking = self.tls.as_ref().is_some_and(ClientTls::is_handshaking);
            if before < self.inbox.len()
                || handshaking
                || (self.tls.is_some() && before == 0 && self.is_fresh())
            {
                return Ok(bytes);
            }
        }
    }

    /// Nothing was asked on it yet.
    fn is_fresh(&self) -> bool {
        !self.reused && self.outbox.is_empty()
    }
}

/// The head of an upstream's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) keep_alive: bool,
    pub(crate) body: BodyDecoder,
    /// The head's bytes, for [`Self::headers`].
    head: Vec<u8>,
}

impl Answer {
    /// Its fields, read once more from the head. `None` never comes of a head that [`exchange`] returned.
    pub(crate) fn headers(&self) -> Option<Headers<'_>> {
        let head = parse_response(&self.head, &HEAD_LIMITS, false).ok().flatten()?;
        Some(head.headers)
    }
}

/// Sends a request and reads the head of its answer. An idle connection that the upstream closed while we wrote is
/// replaced by a fresh one, once, if no byte of an answer came.
pub(crate) async fn exchange(
    thread: &Rc<Thread>,
    origin: &Origin,
    control: &Control,
    request: &http::Request<()>,
    body: &[u8],
    body_bytes_max: u64,
    deadline: Option<Time>,
) -> Result<(Wire, Answer), Fault> {
    let mut fresh = false;
    loop {
        let mut wire = Wire::open(thread, origin, control, fresh).await?;
        let tried = match wire.request(control, request, body).await {
            Ok(()) => read_head(thread, &mut wire, control, body_bytes_max, deadline).await,
            Err(fault) => Err(fault),
        };
        match tried {
            Ok(answer) => return Ok((wire, answer)),
            Err(Fault::Closed) if wire.reused && wire.inbox.is_empty() && !control.is_cancelled() => {
                fresh = true
            }
            Err(_) if control.is_cancelled() => return Err(Fault::Cancelled),
            Err(fault) => return Err(fault),
        }
    }
}

async fn read_head(
    thread: &Rc<Thread>,
    wire: &mut Wire,
    control: &Control,
    body_bytes_max: u64,
    deadline: Option<Time>,
) -> Result<Answer, Fault> {
    loop {
        let parsed = parse_response(&wire.inbox, &HEAD_LIMITS, false).map_err(Fault::Malformed)?;
        if let Some(head) = parsed {
            let (status, keep_alive, length, bytes) = (head.status, head.keep_alive, head.body, head.bytes);
            if (100..200).contains(&status) {
                wire.inbox.drain(..bytes);
                continue;
            }
            let head = wire.inbox.drain(..bytes).collect();
            let body = BodyDecoder::new(length, body_bytes_max);
            return Ok(Answer { status, keep_alive, body, head });
        }
        if wire.fill(thread, control, deadline).await? == 0 {
            return Err(Fault::Closed);
        }
    }
}

/// Reads what is left of a body, whole.
pub(crate) async fn read_whole(
    thread: &Rc<Thread>,
    wire: &mut Wire,
    answer: &mut Answer,
    control: &Control,
    deadline: Option<Time>,
) -> Result<Vec<u8>, Fault> {
    let mut whole = Vec::new();
    loop {
        take_body(wire, answer, &mut whole)?;
        if answer.body.is_done() {
            return Ok(whole);
        }
        if wire.fill(thread, control, deadline).await? == 0 {
            return if answer.body.may_close() { Ok(whole) } else { Err(Fault::Closed) };
        }
    }
}

/// Moves what the inbox holds of the body to `into`.
pub(crate) fn take_body(wire: &mut Wire, answer: &mut Answer, into: &mut Vec<u8>) -> Result<(), Fault> {
    let mut used = 0;
    while !answer.body.is_done() {
        let part = answer.body.decode(&wire.inbox[used..]).map_err(Fault::Malformed)?;
        into.extend_from_slice(part.data);
        used += part.consumed;
        if part.consumed == 0 {
            break;
        }
    }
    wire.inbox.drain(..used);
    Ok(())
}
