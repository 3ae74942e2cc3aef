//! One core's thread: its shard, its connections, and the end of each turn of its loop.
//!
//! A turn: tasks that the kernel woke read and handle; what they cause piles up in outboxes and batches. When no task
//! is left to run, [`Thread::turn_end`] handles what other cores sent, fires timers, writes what is owed and says
//! whether the thread may sleep.
use crate::agents;
use crate::clock::Clock;
use crate::connection::{Connection, Place};
use crate::drain::Parting;
use crate::driver::{self, Alarm, Driver, Socket};
use crate::execute;
use crate::gateway::{Gateway, Shared};
use crate::gather::Gathers;
use crate::journal::{self, Journal};
use crate::keep::{self, Keeper};
use crate::kept;
use crate::mesh::{self, Letter, Opened, Outgoing};
use crate::metrics::Counts;
use crate::reload::{Current, Spoken};
use crate::signal::Signal;
use crate::tools::mcp::Asked;
use crate::upstream::Upstreams;
use crate::usage;
use clawgate_adapters::{Json, JsonLimits};
use clawgate_core::bucket::Verdict;
use clawgate_core::codes::Code;
use clawgate_core::effect::Effects;
use clawgate_core::event::{Event, Inbound};
use clawgate_core::home::home;
use clawgate_core::id::{AgentId, CallId, Client, ModelId, ShardId, TurnId};
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use clawgate_core::timers::Timers;
use clawgate_providers::echo::Echo;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes that one read may bring.
const READ_BYTES: usize = 64 * 1024;
/// Batches from other cores handled in one turn, before sockets are looked at again.
const BATCHES_A_TURN: usize = 32;
/// Outboxes kept for the next write, and the most memory that each may keep.
const SPARE_OUTBOXES: usize = 256;
const SPARE_OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// An event that an effect caused: handled after the effects of this one.
#[derive(Debug)]
pub(crate) enum Next {
    /// The echo model answers.
    Echo { call: CallId, echo: Echo, agent: AgentId, model: ModelId },
    /// The client of a turn was gone when its message was admitted.
    Left { turn: TurnId },
    /// A place at an agent is free (a shard may nudge itself).
    Nudged { agent: AgentId },
}

/// The state of one core's thread. Every cell is borrowed for the length of one call, never across an await.
pub(crate) struct Thread {
    pub(crate) id: ShardId,
    pub(crate) shared: Arc<Shared>,
    /// The configuration that this thread works by.
    pub(crate) gateway: RefCell<Current>,
    /// By which the other cores speak.
    pub(crate) spoken: RefCell<Spoken>,
    pub(crate) clock: Clock,
    now: Cell<Time>,
    awake: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    pub(crate) shard: RefCell<Shard>,
    effects: RefCell<Effects>,
    handling: Cell<bool>,
    pub(crate) next: RefCell<VecDeque<Next>>,
    pub(crate) outgoing: RefCell<Outgoing>,
    cursor: Cell<usize>,
    connections: RefCell<Slab<(u32, Option<Rc<Connection>>)>>,
    generation: Cell<u32>,
    timers: RefCell<Timers<Place>>,
    pub(crate) dirty: RefCell<Vec<Rc<Connection>>>,
    pub(crate) resumed: RefCell<Vec<Rc<Connection>>>,
    outboxes: RefCell<Vec<Vec<u8>>>,
    pub(crate) read_buffer: RefCell<Box<[u8]>>,
    pub(crate) plain_buffer: RefCell<Vec<u8>>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) text: RefCell<String>,
    pub(crate) json: RefCell<Json>,
    pub(crate) upstreams: Upstreams,
    pub(crate) gathers: RefCell<Gathers>,
    counts: RefCell<Counts>,
    pub(crate) subscribers: RefCell<Vec<Place>>,
    /// What work ends for, once it does.
    pub(crate) draining: Cell<Option<Parting>>,
    /// Drains that began or were called off: late looks of one of them are told from the next one's.
    pub(crate) drains: Cell<u32>,
    random: Cell<u64>,
    pub(crate) stop: Cell<bool>,
    pub(crate) journal: std::cell::OnceCell<Journal>,
    pub(crate) keeper: std::cell::OnceCell<Keeper>,
    /// Workers of agents, and the turns that they have.
    pub(crate) workers: agents::turns::Here,
    /// Calls of MCP servers' tools that are waited for.
    pub(crate) asked: Asked,
    /// What was used and is not handed over yet.
    pub(crate) ledger: Rc<usage::Ledger>,
    /// Are connections accepted? Those that accept wait here while they are not.
    accepting: Cell<bool>,
    doors: RefCell<Vec<Rc<Signal>>>,
}

/// What this thread's reader of JSON takes.
pub(crate) fn json_limits(gateway: &Gateway) -> JsonLimits {
    let limits = &gateway.limits;
    JsonLimits {
        bytes_max: limits.body_bytes_max.max(limits.frame_bytes_max).max(limits.upstream_body_bytes_max),
        depth_max: limits.json_depth_max,
        keys_max: limits.json_keys_max,
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thread({})", self.id.0)
    }
}

impl Thread {
    pub(crate) fn new(id: ShardId, shared: Arc<Shared>, gateway: Arc<Gateway>) -> Rc<Self> {
        let cores = shared.cores();
        let seed = shared.seed(id);
        let shard = Shard::new(id, cores, gateway.plan.clone(), shared.bounds.clone(), seed);
        Rc::new(Self {
            id,
            spoken: RefCell::new(Spoken::new(cores)),
            clock: shared.clock,
            now: Cell::new(shared.clock.now()),
            awake: Cell::new(true),
            waker: RefCell::default(),
            shard: RefCell::new(shard),
            effects: RefCell::default(),
            handling: Cell::new(false),
            next: RefCell::default(),
            outgoing: RefCell::new(Outgoing::new(id, cores)),
            cursor: Cell::new(0),
            connections: RefCell::default(),
            generation: Cell::new(1),
            timers: RefCell::new(Timers::new()),
            dirty: RefCell::default(),
            resumed: RefCell::default(),
            outboxes: RefCell::default(),
            read_buffer: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            plain_buffer: RefCell::default(),
            scratch: RefCell::default(),
            text: RefCell::default(),
            json: RefCell::new(Json::new(json_limits(&gateway))),
            upstreams: Upstreams::new(&gateway, cores),
            gathers: RefCell::default(),
            counts: RefCell::default(),
            subscribers: RefCell::default(),
            draining: Cell::new(None),
            drains: Cell::new(0),
            random: Cell::new(seed ^ 0x9E37_79B9_7F4A_7C15),
            stop: Cell::new(false),
            journal: std::cell::OnceCell::new(),
            keeper: std::cell::OnceCell::new(),
            workers: agents::turns::Here::default(),
            asked: Asked::default(),
            ledger: Rc::default(),
            accepting: Cell::new(false),
            doors: RefCell::default(),
            gateway: RefCell::new(Current::new(gateway)),
            shared,
        })
    }

    /// The configuration in force. What began under one goes on under it: its ids mean nothing in another.
    pub(crate) fn gateway(&self) -> Current {
        self.gateway.borrow().clone()
    }

    /// Takes one request from the rate of an address, if there is one.
    pub(crate) fn take_address(&self, address: IpAddr) -> Option<Verdict> {
        let gateway = self.gateway();
        Some(self.shared.take_address(address, self.now(), gateway.address_rate()?))
    }

    /// The time of this turn of the loop.
    pub(crate) fn now(&self) -> Time {
        self.now.get()
    }

    /// A number that nobody can guess from outside; not for keys.
    pub(crate) fn random(&self) -> u64 {
        // splitmix64, seeded from the system's randomness.
        let next = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A task of this thread begins to work: the clock is read once a turn, and the turn will be ended.
    pub(crate) fn touch(&self) {
        if !self.awake.replace(true) {
            self.now.set(self.clock.now());
            self.shared.mesh.awake(self.id);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// Hands an event to the shard and carries out what it asks for, and what that causes.
    pub(crate) fn handle(self: &Rc<Self>, event: Event<'_>) {
        assert!(!self.handling.replace(true), "an effect must queue an event, not handle it");
        let mut effects = self.effects.borrow_mut();
        self.shard.borrow_mut().handle(self.now(), event, &mut effects);
        self.drain(&mut effects);
        self.handling.set(false);
    }

    /// Are effects being carried out?
    pub(crate) fn is_handling(&self) -> bool {
        self.handling.get()
    }

    fn drain(self: &Rc<Self>, effects: &mut Effects) {
        loop {
            for effect in effects.list() {
                execute::execute(self, effect, effects);
            }
            effects.clear();
            let Some(next) = self.next.borrow_mut().pop_front() else { return };
            execute::advance(self, next, effects);
        }
    }

    fn tick(self: &Rc<Self>) {
        self.handling.set(true);
        let mut effects = self.effects.borrow_mut();
        self.shard.borrow_mut().tick(self.now(), &mut effects);
        self.drain(&mut effects);
        self.handling.set(false);
    }

    /// The shard on which this message's session lives.
    pub(crate) fn home(&self, inbound: &Inbound<'_>) -> ShardId {
        if self.shared.cores() == 1 {
            return self.id;
        }
        let gateway = self.gateway();
        let Inbound { channel, scope, peer, chat, thread, .. } = *inbound;
        let hash = gateway.plan.hash(self.shared.secret(), channel, scope, peer, chat, thread);
        home(hash, self.shared.cores())
    }

    /// Brings a message to its shard, here or on another core.
    pub(crate) fn submit(self: &Rc<Self>, client: Client, inbound: &Inbound<'_>) {
        let home = self.home(inbound);
        self.submit_at(home, client, inbound);
    }

    /// As [`Self::submit`], where the shard is known.
    pub(crate) fn submit_at(self: &Rc<Self>, home: ShardId, client: Client, inbound: &Inbound<'_>) {
        if home == self.id {
            self.handle(Event::Inbound { client, inbound: *inbound });
            return;
        }
        self.count(|c| &mut c.crossed);
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.is_crowded(home) {
            drop(outgoing);
            let refused = mesh::Reply::Refused { code: Code::Busy, retry_after_millis: 1_000 };
            execute::reply(self, client, refused, "");
        } else {
            outgoing.inbound(home, client, inbound);
        }
    }

    /// Tells a shard something, here or on another core.
    pub(crate) fn tell(self: &Rc<Self>, shard: ShardId, letter: Letter) {
        // While effects are carried out, even our own shard hears it by letter, at the end of the turn. That a client has
        // room again must not overtake that it had none, or its model would be paused for ever.
        let by_letter = self.handling.get() || matches!(letter, Letter::Pressure { .. });
        if shard != self.id || by_letter {
            self.outgoing.borrow_mut().letter(shard, letter);
        } else {
            self.open_letter(letter);
        }
    }

    fn open_letter(self: &Rc<Self>, letter: Letter) {
        match letter {
            Letter::Left { turn } => self.handle(Event::Left { turn }),
            Letter::Pressure { turn, high } => self.handle(Event::Pressure { turn, high }),
            Letter::Nudged { agent } => self.handle(Event::Nudged { agent }),
            Letter::Errand(errand) => errand(self),
            // Batches open these themselves, with their texts.
            Letter::Inbound { .. } | Letter::Reply { .. } => {}
        }
    }

    fn receive(self: &Rc<Self>) -> bool {
        for _ in 0..BATCHES_A_TURN {
            let mut cursor = self.cursor.get();
            let batch = mesh::next_batch(&self.shared.mesh, self.id, &mut cursor);
            self.cursor.set(cursor);
            let Some((from, mut batch)) = batch else { break };
            batch.open(|opened| match opened {
                Opened::Inbound { client, inbound } => self.hear_inbound(from, client, inbound),
                Opened::Reply { client, reply, text } => {
                    let reply = self.in_our_words(from, reply);
                    execute::reply(self, client, reply, text);
                }
                Opened::Other(Letter::Nudged { agent }) => self.hear_nudge(from, agent),
                Opened::Other(letter) => self.open_letter(letter),
            });
            self.outgoing.borrow_mut().recycle(batch);
        }
        for _ in 0..BATCHES_A_TURN {
            let Some(errand) = self.shared.mesh.next_errand(self.id) else { return true };
            errand(self);
        }
        false
    }

    /// Runs when no task is left to run. Ready when the thread is done for good.
    fn turn_end(self: &Rc<Self>, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<()> {
        // Not `touch`: it would wake this very function, for ever.
        if !self.awake.replace(true) {
            self.now.set(self.clock.now());
            self.shared.mesh.awake(self.id);
        }
        self.count(|c| &mut c.turns);
        let heard_all = self.receive();
        self.fire_timers();
        loop {
            let resumed = self.resumed.take();
            if resumed.is_empty() {
                break;
            }
            for connection in resumed {
                // A connection that moves does so when it is read; here it only waits for that.
                let _ = connection.feed(self, &mut []);
            }
        }
        kept::turn(self);
        keep::turn(self);
        journal::turn(self);
        agents::turns::turn(self);
        usage::turn(self);
        for connection in self.dirty.take() {
            connection.flush(self);
        }
        let stuck = self.outgoing.borrow_mut().flush(&self.shared.mesh);
        if self.stop.get() {
            return Poll::Ready(());
        }
        let journal = self.journal.get().and_then(Journal::next_deadline);
        let keeper = self.keeper.get().and_then(Keeper::next_deadline);
        let next = [
            self.shard.borrow().next_deadline(),
            self.timers.borrow().next(),
            journal,
            keeper,
            usage::next_deadline(self),
            agents::turns::next_deadline(self),
        ]
        .into_iter()
        .flatten()
        .min();
        let due = alarm.poll(cx, &self.clock, next);
        if due || stuck || !heard_all || !self.dirty.borrow().is_empty() {
            // Come again, but after the kernel was asked for what is ready: the bell is one such thing.
            self.shared.mesh.ring(self.id);
        }
        if self.shared.mesh.may_sleep(self.id) {
            self.awake.set(false);
        } else {
            self.awake.set(false);
            self.shared.mesh.ring(self.id);
        }
        Poll::Pending
    }

    fn fire_timers(self: &Rc<Self>) {
        let now = self.now();
        if self.shard.borrow().next_deadline().is_some_and(|next| next <= now) {
            self.tick();
        }
        let mut fired = Vec::new();
        self.timers.borrow_mut().expire(now, |place| fired.push(place));
        for place in fired {
            let Some(connection) = self.connection(place) else { continue };
            // A deadline that moved ahead left its old timer behind.
            if now < connection.alarm.get() {
                continue;
            }
            connection.alarm.set(Time(u64::MAX));
            if let Some(next) = connection.on_alarm(self) {
                connection.wake_at(self, next);
            }
        }
    }

    pub(crate) fn alarm(&self, at: Time, place: Place) {
        self.timers.borrow_mut().insert(at, place);
    }

    /// The connection at this place, if it is still there.
    pub(crate) fn connection(&self, place: Place) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let (generation, connection) = connections.get(place.slot as usize)?;
        (*generation == place.generation).then(|| connection.clone()).flatten()
    }

    /// Takes a connection into the table and begins to read it.
    pub(crate) fn admit(self: &Rc<Self>, make: impl FnOnce(Place) -> Connection) {
        let generation = self.generation.get();
        self.generation.set(generation.wrapping_add(1));
        let place = {
            let mut connections = self.connections.borrow_mut();
            let slot = connections.insert((generation, None));
            Place { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation }
        };
        let connection = Rc::new(make(place));
        connection.alarm.set(Time(u64::MAX));
        self.connections.borrow_mut()[place.slot as usize].1 = Some(connection.clone());
        if let Some(next) = connection.on_alarm(self) {
            connection.wake_at(self, next);
        }
        driver::spawn(crate::connection::read_task(self.clone(), connection));
    }

    /// Takes a connection out of the table, and tells the shards that its clients are gone.
    pub(crate) fn forget(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.touch();
        connection.vanish();
        agents::worker::gone(self, connection);
        self.leave_table(connection);
        let mut turns = Vec::new();
        turns.extend(connection.tickets.borrow_mut().open_ones().filter_map(|ticket| {
            let leaves = ticket.form != crate::tickets::Form::Webhook;
            ticket.turn.filter(|_| leaves)
        }));
        for (shard, turn) in turns {
            self.tell(shard, Letter::Left { turn });
        }
        self.shared.connection_closed(connection.address);
    }

    fn leave_table(self: &Rc<Self>, connection: &Connection) {
        let mut connections = self.connections.borrow_mut();
        let slot = connection.place.slot as usize;
        if connections.get(slot).is_some_and(|(generation, _)| *generation == connection.place.generation) {
            connections.remove(slot);
        }
        drop(connections);
        crate::events::unsubscribe(self, connection.place);
    }

    /// Moves a connection to the core of its session; false if it must stay.
    pub(crate) fn hand_over(self: &Rc<Self>, connection: &Rc<Connection>, to: ShardId) -> bool {
        let Some(moving) = connection.depart(self) else {
            crate::websocket::stay(connection);
            let _ = connection.feed(self, &mut []);
            return false;
        };
        self.count(|c| &mut c.moved);
        self.leave_table(connection);
        self.outgoing.borrow_mut().letter(to, Letter::Errand(Box::new(move |there| moving.arrive(there))));
        true
    }

    /// Connections are accepted.
    pub(crate) fn open_doors(&self) {
        self.accepting.set(true);
        self.doors.borrow().iter().for_each(|door| door.raise());
    }

    /// Connections wait with the kernel.
    pub(crate) fn shut_doors(&self) {
        self.accepting.set(false);
    }

    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.get()
    }

    /// One more that accepts; what it waits for while it must not.
    pub(crate) fn new_door(&self) -> Rc<Signal> {
        let door = Rc::new(Signal::default());
        self.doors.borrow_mut().push(door.clone());
        door
    }

    /// Connections in the table, copied so that they may leave it while the caller walks.
    pub(crate) fn all_connections(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().iter().filter_map(|(_, (_, connection))| connection.clone()).collect()
    }

    /// How many connections this core has.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    pub(crate) fn spare_outbox(&self) -> Vec<u8> {
        self.outboxes.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(1_024))
    }

    pub(crate) fn give_outbox(&self, outbox: Vec<u8>) {
        let mut outboxes = self.outboxes.borrow_mut();
        if outboxes.len() < SPARE_OUTBOXES && outbox.capacity() <= SPARE_OUTBOX_BYTES_MAX {
            outboxes.push(outbox);
        }
    }

    /// Adds one to a counter.
    pub(crate) fn count(&self, which: impl FnOnce(&mut Counts) -> &mut u64) {
        *which(&mut self.counts.borrow_mut()) += 1;
    }

    /// Adds more to a counter.
    pub(crate) fn count_by(&self, which: impl FnOnce(&mut Counts) -> &mut u64, by: usize) {
        *which(&mut self.counts.borrow_mut()) += by as u64;
    }

    /// Counts a tool call and how it ended.
    pub(crate) fn count_tool(&self, tool: &Arc<str>, code: Option<Code>, took: Duration) {
        self.counts.borrow_mut().tools.record(tool, code, took);
    }

    /// Counts a refusal that the shell made itself.
    pub(crate) fn refused(&self, code: Code) {
        self.counts.borrow_mut().refuse(code);
    }

    /// What this thread counted.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    /// Records how long a turn took from its message to its end.
    pub(crate) fn took(&self, began: Time) {
        self.counts.borrow_mut().turn_took(self.now().since(began));
    }

    /// Records how long a turn took from its message to its first piece.
    pub(crate) fn first_piece_took(&self, began: Time) {
        self.counts.borrow_mut().first_piece_took(self.now().since(began));
    }
}

/// Runs a thread until it is stopped. `begin` opens its listeners.
pub(crate) fn run(driver: Driver, thread: &Rc<Thread>, begin: impl FnOnce(&Rc<Thread>)) {
    let mut begin = Some(begin);
    let mut alarm = None;
    driver.run(poll_fn(move |cx| {
        if let Some(begin) = begin.take() {
            *thread.waker.borrow_mut() = Some(cx.waker().clone());
            driver::spawn(hear_bell(thread.clone()));
            begin(thread);
        }
        let alarm = alarm.get_or_insert_with(Alarm::new);
        thread.turn_end(cx, alarm)
    }));
}

async fn hear_bell(thread: Rc<Thread>) {
    let Ok(fd) = thread.shared.mesh.bell(thread.id).as_fd().try_clone_to_owned() else { return };
    let Ok(bell) = Socket::new(fd) else { return };
    loop {
        if bell.readable().await.is_err() {
            return;
        }
        thread.shared.mesh.hear(thread.id);
        thread.touch();
    }
}
