//! The proof that nothing is lost: the real gateway is killed again and again under load, and what it acknowledged is held
//! against what it answered, over all its lives.
//!
//! Owns the rounds: load, kill, restart. Who writes is `senders` and `sockets`, who takes the answers `platforms`, who
//! judges [`history`]. Everything that is drawn is drawn from one seed; everything that is waited for has a bound.

mod call;
mod child;
mod config;
mod disk;
pub mod history;
mod platforms;
mod power;
mod report;
mod senders;
mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use clawgate_wire::http1::{Length, write_request_head};

use self::call::Caller;
use self::child::{Launch, Life, Tracer, Trap};
use self::history::{DOORS, Door, History, Key, judge};
use self::report::{Account, Row};
use crate::cli::Failure;
use crate::mock::provider::Script;
use crate::protocol::Addressing;
use crate::report::EXIT_NOT_EXACT;
use crate::rng::{Rng, mix};
use crate::{driver, stamp, sys};

/// The load of one round before its kill, in milliseconds: from, and how much more at most.
const LOAD_MILLIS: (u64, u64) = (200, 600);
/// How long a system call is waited for that is to kill, before the gateway is killed without it.
const TRAP_LIMIT: Duration = Duration::from_millis(1500);
/// Of so many restarts one is killed before it is ready: it must survive that too.
const PREMATURE_ONE_IN: u64 = 8;
/// The longest that such a restart is left alive, in milliseconds.
const PREMATURE_MILLIS: u64 = 60;
/// How long the simulators go on listening when nothing is owed any more: what came twice may still be on its way.
const LINGER: Duration = Duration::from_millis(700);
/// Syncs of a thread that succeed before they fail, at most, and how many fail then.
const SYNCS_BEFORE_MAX: u64 = 40;
const SYNCS_FAILED: u64 = 20;
/// What a slow disk adds to each sync.
const SLOW_SYNC: Duration = Duration::from_millis(40);
/// Descriptors that a gateway may open which gets few: less than its clients, the platforms and the model want of it.
const DESCRIPTORS_MAX: u32 = 64;
/// What a disk may hold that is filled up.
const BALLAST_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Acknowledgements after which a disk that was full counts as healed.
const HEALED_ACKS: u64 = 20;
/// Ports that are tried until one is free.
const PORTS_TRIED_MAX: u32 = 100;
/// How often the harness looks whether all is answered.
const LOOK: Duration = Duration::from_millis(5);

/// How the gateway is ended in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// SIGKILL at a random moment.
    Random,
    /// SIGKILL as it enters a system call of its file work or its ring.
    Syscall,
    /// SIGTERM: it drains.
    Term,
    /// Another one takes its sockets over while it drains.
    Takeover,
    /// Its syncs fail for a while, then SIGKILL.
    Eio,
    /// Its syncs take long, then SIGKILL.
    Slow,
    /// Its disk is full for a while, then SIGKILL.
    Full,
    /// It may open few descriptors; SIGKILL.
    Descriptors,
}

/// All of them.
const KILLS: [Kill; 8] = [
    Kill::Random,
    Kill::Syscall,
    Kill::Term,
    Kill::Takeover,
    Kill::Eio,
    Kill::Slow,
    Kill::Full,
    Kill::Descriptors,
];

impl Kill {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Syscall => "syscall",
            Self::Term => "term",
            Self::Takeover => "takeover",
            Self::Eio => "eio",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Descriptors => "descriptors",
        }
    }

    /// What the gateway has to refuse new work with while this is done to it; nothing where it need not.
    const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Eio => Some("JOURNAL_FAILED"),
            Self::Full => Some("JOURNAL_FULL"),
            Self::Random | Self::Syscall | Self::Term | Self::Takeover | Self::Slow | Self::Descriptors => {
                None
            }
        }
    }
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = KILLS.into_iter().find(|kill| kill.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of {}", KILLS.map(Self::name).join(", ")))
    }
}

/// What is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// What is laid over the configuration.
    pub config: Option<PathBuf>,
    /// `server.driver`.
    pub driver: String,
    /// Where configuration, data and log go.
    pub work: PathBuf,
    /// Kills.
    pub rounds: u32,
    /// Instead of kills so many losses of power, out of one recorded run.
    pub power_cuts: u32,
    /// The seed.
    pub seed: u64,
    /// How it is killed: one of these each round, drawn.
    pub kills: Vec<Kill>,
    /// System calls to kill at, one of these each round, drawn.
    pub calls: Vec<String>,
    /// The highest count of that call, of one thread, at which it is killed.
    pub calls_max: u64,
    /// Messages a second of each posting platform.
    pub rate: f64,
    /// Connections of each posting platform.
    pub lanes: u32,
    /// Conversations of each posting platform.
    pub chats: u32,
    /// WebSocket clients, and the messages a second of all of them.
    pub sockets: u32,
    /// See `sockets`(Self::sockets).
    pub socket_rate: f64,
    /// Connections for calls that wait for their answer, and the calls a second of all of them.
    pub rest_lanes: u32,
    /// See [`rest_lanes`](Self::rest_lanes).
    pub rest_rate: f64,
    /// How the model answers.
    pub script: Script,
    /// The longest that a platform takes to confirm an answer, in milliseconds; drawn anew for each.
    pub platform_millis: u64,
    /// How long before the kill an answer may have been confirmed and still count as in flight, in nanoseconds.
    pub in_flight_ns: u64,
    /// How long a restart may take.
    pub start_limit: Duration,
    /// How long is waited at the end until all is answered.
    pub drain_limit: Duration,
    /// Where the account is written as JSON.
    pub out: Option<PathBuf>,
}

/// What all tasks of a run share.
#[derive(Debug)]
pub(crate) struct World {
    plan: Plan,
    launch: Launch,
    history: RefCell<History>,
    tally: RefCell<Tally>,
    rng: RefCell<Rng>,
    /// The number of the gateway's life, from 1.
    life: Cell<u32>,
    /// Whether it is up, as far as we know.
    alive: Cell<bool>,
    /// Whether new messages are sent.
    sending: Cell<bool>,
    /// Whether everybody goes home.
    over: Cell<bool>,
}

/// What was counted since the last round.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Lives that ended before they were ready.
    killed_at_start: u64,
    sent: u64,
    acked: u64,
    /// Sends whose connection broke.
    broken: u64,
    rest_answered: u64,
    rest_failed: u64,
    /// Calls that were neither answered nor visibly not.
    rest_silent: u64,
    refused: BTreeMap<String, u64>,
}

impl Tally {
    /// A refusal; a gateway gone mad has no more codes than these.
    fn refuse(&mut self, code: &str) {
        const CODES_MAX: usize = 64;
        let code = if CODES_MAX <= self.refused.len() { "OTHER" } else { code };
        *self.refused.entry(code.to_owned()).or_default() += 1;
    }
}

impl World {
    fn new(plan: Plan, address: SocketAddr) -> Self {
        let launch = Launch {
            binary: plan.gateway.clone(),
            config: plan.work.join("clawgate.json"),
            log: plan.work.join("log"),
            address,
        };
        Self {
            rng: RefCell::new(Rng::new(plan.seed)),
            plan,
            launch,
            history: RefCell::default(),
            tally: RefCell::default(),
            life: Cell::new(0),
            alive: Cell::new(false),
            sending: Cell::new(false),
            over: Cell::new(false),
        }
    }

    /// The number by which a door's messages are known: of this seed, and of no other door.
    fn run_of(&self, door: Door) -> u32 {
        (mix(self.plan.seed) as u32 & !0xF) + door as u32
    }

    fn rest_run(&self) -> u32 {
        (mix(self.plan.seed) as u32 & !0xF) + DOORS.len() as u32
    }

    fn addressing(&self, door: Door) -> Addressing {
        Addressing {
            run: self.run_of(door),
            payload_bytes: senders::TEXT_BYTES,
            session_prefix: "crash-".to_owned(),
            channel: "api".to_owned(),
            host: self.launch.address.to_string(),
            key: config::API_KEY.to_owned(),
        }
    }

    fn platform_millis(&self) -> u64 {
        self.rng.borrow_mut().below(self.plan.platform_millis + 1)
    }

    /// A number below `bound`, for what the rounds decide.
    fn draw(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }
}

/// Runs all rounds, tells what came of them, and with which code to end.
///
/// # Errors
/// The run could not be made: no gateway, no port, no simulator, or a gateway that does not come back.
pub fn main(plan: Plan, print: &mut dyn FnMut(&str)) -> Result<u8, Failure> {
    std::fs::create_dir_all(&plan.work)
        .map_err(|error| Failure::invalid(format!("{}: {error}", plan.work.display())))?;
    let address =
        free_address(plan.seed).map_err(|error| Failure::invalid(format!("no port is free: {error}")))?;
    let out = plan.out.clone();
    let cuts = plan.power_cuts;
    let world = Rc::new(World::new(plan, address));
    let ran = if cuts == 0 {
        driver::run(|_| rounds(world, print))
    } else {
        driver::run(|_| power::cuts(world, cuts, print))
    };
    let account = ran.map_err(|error| Failure::invalid(error.to_string()))?.map_err(Failure::invalid)?;
    print(&account.text());
    if let Some(out) = out {
        let json = serde_json::to_vec_pretty(&account).unwrap_or_default();
        std::fs::write(&out, json)
            .map_err(|error| Failure::invalid(format!("{}: {error}", out.display())))?;
    }
    Ok(if account.is_kept() { 0 } else { EXIT_NOT_EXACT })
}

/// A port of this machine that nobody uses; the gateway keeps it over all its lives. It is none of those that the system
/// gives to connections (from 32768 on): one of them could have it while the gateway is dead.
fn free_address(seed: u64) -> std::io::Result<SocketAddr> {
    let mut rng = Rng::new(mix(seed ^ u64::from(std::process::id())));
    let mut last = Err(std::io::ErrorKind::AddrInUse.into());
    for _ in 0..PORTS_TRIED_MAX {
        let port = 16_384 + rng.below(16_384) as u16;
        last =
            TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).and_then(|bound| bound.local_addr());
        if last.is_ok() {
            break;
        }
    }
    last
}

async fn rounds(world: Rc<World>, print: &mut dyn FnMut(&str)) -> Result<Account, String> {
    let addresses =
        platforms::listen(&world).map_err(|error| format!("the simulators cannot listen: {error}"))?;
    config::write(&world.plan, &world.launch.config, world.launch.address, addresses)?;
    let mut account = Account::new(&world.plan);
    print(&account.head());
    let mut ending = world.next_ending();
    let (mut life, mut start_ns) = start(&world, &mut ending).await?;
    enlist(&world);
    for round in 1..=world.plan.rounds {
        let begin_ns = sys::now_ns();
        world.sending.set(true);
        let (next, how) = end_life(&world, life, &ending).await?;
        let load_ns = sys::now_ns() - begin_ns;
        let last = round == world.plan.rounds || sys::interrupted();
        ending = if last { Ending::none() } else { world.next_ending() };
        world.sending.set(!last);
        let row = Row::new(round, how, load_ns, start_ns);
        (life, start_ns) = match next {
            Some(taken_over) => (taken_over, 0),
            None => start(&world, &mut ending).await?,
        };
        let tally = std::mem::take(&mut *world.tally.borrow_mut());
        account.add(&tally);
        let row = row.finish(&tally, world.history.borrow().counts());
        print(&row.text());
        account.rows.push(row);
        if last {
            break;
        }
    }
    finish(&world, life, &mut account).await;
    Ok(account)
}

/// How the next life ends.
#[derive(Clone, Debug)]
struct Ending {
    kill: Kill,
    trap: Option<Trap>,
    /// What strace has go wrong.
    fault: Option<String>,
}

impl Ending {
    /// The last life is not killed.
    const fn none() -> Self {
        Self { kill: Kill::Term, trap: None, fault: None }
    }

    fn tracer(&self) -> Tracer<'_> {
        match (&self.trap, &self.fault, self.kill) {
            (Some(trap), ..) => Tracer::Kill(trap),
            (None, Some(fault), _) => Tracer::Fault(fault),
            (None, None, Kill::Descriptors) => Tracer::Descriptors(DESCRIPTORS_MAX),
            (None, None, _) => Tracer::None,
        }
    }
}

impl World {
    fn next_ending(&self) -> Ending {
        let kills = &self.plan.kills;
        let kill = kills.get(self.draw(kills.len().max(1) as u64) as usize).copied().unwrap_or(Kill::Random);
        let calls = &self.plan.calls;
        let trap = (kill == Kill::Syscall).then(|| {
            let call = calls.get(self.draw(calls.len().max(1) as u64) as usize).cloned().unwrap_or_default();
            // Low counts are as likely as high ones: the first calls are those of the start.
            let bound = 1 << self.draw(u64::from(self.plan.calls_max.max(1).ilog2()) + 1);
            let when = 1 + self.draw(bound * 2);
            Trap { call, when }
        });
        let fault = match kill {
            // From some sync on so many of a thread fail: no disk that fails is healed before the journal has met it.
            Kill::Eio => {
                let first = 1 + self.draw(SYNCS_BEFORE_MAX);
                Some(format!("fdatasync:error=EIO:when={first}..{}", first + SYNCS_FAILED))
            }
            Kill::Slow => Some(format!("fdatasync:delay_exit={}", SLOW_SYNC.as_micros())),
            Kill::Random | Kill::Syscall | Kill::Term | Kill::Takeover | Kill::Full | Kill::Descriptors => {
                None
            }
        };
        Ending { kill, trap, fault }
    }
}

/// Starts a life and waits until it is ready; sometimes another one before it, that is killed while it starts. Tells how
/// long that took. A trap that closes while the gateway starts is a kill like any other: `ending` gets a later one.
async fn start(world: &World, ending: &mut Ending) -> Result<(Life, u64), String> {
    let bad = |error: std::io::Error| format!("{} cannot be started: {error}", world.launch.binary.display());
    if 0 < world.life.get() && world.draw(PREMATURE_ONE_IN) == 0 {
        world.life.set(world.life.get() + 1);
        let mut life = Life::start(&world.launch, Tracer::None, false).map_err(bad)?;
        driver::sleep(Duration::from_millis(world.draw(PREMATURE_MILLIS))).await;
        life.kill();
        life.end_within(world.plan.start_limit).await;
        on_killed_at_start(world);
    }
    loop {
        world.life.set(world.life.get() + 1);
        let begin_ns = sys::now_ns();
        let mut life = Life::start(&world.launch, ending.tracer(), false).map_err(bad)?;
        match life.ready(&world.launch, world.plan.start_limit).await {
            Ok(()) => {
                world.alive.set(true);
                return Ok((life, sys::now_ns() - begin_ns));
            }
            Err(_)
                if ending.trap.is_some() && life.ended().is_some_and(|status| status.signal().is_some()) =>
            {
                on_killed_at_start(world);
                ending.trap = ending.trap.take().and_then(|trap| trap.later(world.plan.calls_max));
            }
            Err(why) => return Err(format!("the gateway does not come back: {why}")),
        }
    }
}

fn on_killed_at_start(world: &World) {
    world.tally.borrow_mut().killed_at_start += 1;
    world.history.borrow_mut().on_end(world.life.get(), sys::now_ns(), true);
}

/// Lets it carry its load, then ends it. Tells what ended it, and who took over.
async fn end_life(world: &World, mut life: Life, ending: &Ending) -> Result<(Option<Life>, String), String> {
    let load = Duration::from_millis(LOAD_MILLIS.0 + world.draw(LOAD_MILLIS.1 + 1));
    if ending.kill == Kill::Full {
        fill(world, &mut life).await?;
    }
    match &ending.trap {
        // The trap decides when; without it the gateway would be killed at a random moment.
        Some(_) => life.end_within(load + TRAP_LIMIT).await,
        None => life.end_within(load).await,
    };
    let (mut how, mut killed, mut next) = (ending.kill.name().to_owned(), true, None);
    if let Some(status) = life.ended() {
        let Some(trap) = &ending.trap else { return Err(format!("the gateway ended by itself: {status}")) };
        how = format!("{} {}", trap.call, trap.when);
    } else {
        match ending.kill {
            Kill::Syscall => {
                how = "random".to_owned();
                life.kill();
            }
            Kill::Random | Kill::Eio | Kill::Slow | Kill::Full | Kill::Descriptors => life.kill(),
            Kill::Term => {
                life.terminate();
                killed = false;
            }
            Kill::Takeover => {
                next = Some(take_over(world).await?);
                killed = false;
            }
        }
        let limit = world.plan.start_limit;
        let status =
            life.end_within(limit).await.ok_or_else(|| format!("it did not end within {limit:?}"))?;
        if !killed && !status.success() {
            return Err(format!("it was asked to go and ended with {status}"));
        }
    }
    let old = world.life.get() - u32::from(next.is_some());
    world.history.borrow_mut().on_end(old, sys::now_ns(), killed);
    world.alive.set(next.is_some());
    // Connections that the dead one opened are accepted and counted as its own before the next one lives.
    driver::sleep(Duration::from_millis(2)).await;
    Ok((next, how))
}

/// Takes all the room that is left on the disk until the gateway refuses new work for it, gives the room back, and waits
/// until the gateway takes work again.
async fn fill(world: &World, life: &mut Life) -> Result<(), String> {
    let ballast = world.plan.work.join("data/ballast");
    let bad = |error: std::io::Error| format!("{}: {error}", ballast.display());
    let mut file = std::fs::File::create(&ballast).map_err(bad)?;
    let block = vec![0xBA; 64 * 1024];
    for taken in 0.. {
        match file.write_all(&block) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(bad(error)),
            Ok(()) if taken * block.len() < BALLAST_BYTES_MAX => {}
            Ok(()) => {
                std::fs::remove_file(&ballast).map_err(bad)?;
                return Err("the data directory is on a large disk: mount a small one there".to_owned());
            }
        }
    }
    drop(file);
    let refused = |world: &World| world.tally.borrow().refused.contains_key("JOURNAL_FULL");
    let full = wait_for(world, life, refused).await;
    std::fs::remove_file(&ballast).map_err(bad)?;
    full.map_err(|why| format!("the disk is full and nothing is refused with JOURNAL_FULL: {why}"))?;
    let before = world.tally.borrow().acked;
    let healed = wait_for(world, life, |world| before + HEALED_ACKS <= world.tally.borrow().acked).await;
    healed.map_err(|why| format!("the disk has room again and nothing is acknowledged: {why}"))
}

/// Waits for something that the gateway has to come to, for as long as a start may take.
async fn wait_for(world: &World, life: &mut Life, is_so: impl Fn(&World) -> bool) -> Result<(), String> {
    let limit = world.plan.start_limit;
    let deadline_ns = sys::now_ns() + limit.as_nanos() as u64;
    while !is_so(world) {
        if let Some(status) = life.ended() {
            return Err(format!("it ended: {status}"));
        }
        if deadline_ns <= sys::now_ns() {
            return Err(format!("not within {limit:?}"));
        }
        driver::sleep(LOOK).await;
    }
    Ok(())
}

/// Starts another one that takes the sockets of the one that runs.
async fn take_over(world: &World) -> Result<Life, String> {
    world.life.set(world.life.get() + 1);
    let started = Life::start(&world.launch, Tracer::None, true);
    let mut next = started.map_err(|error| format!("the next gateway cannot be started: {error}"))?;
    next.ready(&world.launch, world.plan.start_limit).await?;
    Ok(next)
}

/// Starts everyone who writes.
fn enlist(world: &Rc<World>) {
    let plan = &world.plan;
    for lane in 0..plan.lanes {
        driver::spawn(senders::post(Rc::clone(world), Door::Telegram, lane));
        driver::spawn(senders::post(Rc::clone(world), Door::Webhook, lane));
    }
    for lane in 0..plan.rest_lanes {
        driver::spawn(senders::call(Rc::clone(world), lane));
    }
    for lane in 0..plan.sockets {
        driver::spawn(sockets::run(Rc::clone(world), lane));
    }
}

/// Waits until all is answered, asks for what cannot be seen from outside, and has the last life end in peace.
async fn finish(world: &World, mut life: Life, account: &mut Account) {
    settle(world, &mut life, LINGER).await;
    world.over.set(true);
    life.terminate();
    let ended = life.end_within(world.plan.start_limit).await;
    account.ended_well = ended.is_some_and(|status| status.success());
    account.panicked = has_panicked(world);
    account.add(&world.tally.borrow());
    account.judgement = judge(&world.history.borrow(), world.plan.in_flight_ns);
}

/// Whether the gateway's log tells of a panic.
fn has_panicked(world: &World) -> bool {
    std::fs::read(&world.launch.log).is_ok_and(|log| memchr::memmem::find(&log, b"panicked at").is_some())
}

/// Waits until all is answered and `linger` more, then asks for what cannot be seen from outside.
async fn settle(world: &World, life: &mut Life, linger: Duration) {
    let deadline_ns = sys::now_ns() + world.plan.drain_limit.as_nanos() as u64;
    while world.history.borrow().outstanding() != 0 && sys::now_ns() < deadline_ns && life.ended().is_none() {
        driver::sleep(LOOK).await;
    }
    driver::sleep(linger).await;
    dead_letters(world).await;
    sockets::recall(world).await;
}

/// Whatever the dead-letter queue holds, by the stamps in it: its form is the gateway's own affair.
async fn dead_letters(world: &World) {
    let mut request = Vec::new();
    let (host, bearer) = (world.launch.address.to_string(), format!("Bearer {}", config::API_KEY));
    let headers = [("Authorization", bearer.as_str())];
    write_request_head(&mut request, "GET", "/api/dlq?limit=500", &host, &headers, Length::None, true);
    let mut caller = Caller::new(world.launch.address);
    let Ok(answered) = caller.call(&request, Duration::from_secs(10)).await else { return };
    if answered.status != 200 {
        return;
    }
    for at in memchr::memmem::find_iter(&answered.body, b"lg1.") {
        let Some(stamp) = stamp::peek(&answered.body[at..]) else { continue };
        if let Some(door) = DOORS.into_iter().find(|door| world.run_of(*door) == stamp.run) {
            world.history.borrow_mut().on_dead(Key { door, chat: stamp.session, seq: stamp.seq });
        }
    }
}
