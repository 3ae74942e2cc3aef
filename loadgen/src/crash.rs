//! The proof that nothing is lost: the real gateway is killed again and again under load, and what it acknowledged is held
//! against what it answered, over all its lives.
//!
//! Owns what all of a run share. The rounds of load, kill and restart are `rounds`; who writes is `senders` and `sockets`,
//! who takes the answers `platforms`, who judges [`history`]; what is left for whoever has to find out is `evidence`.
//! Everything that is drawn is drawn from one seed; everything that is waited for has a bound.

pub(crate) mod call;
mod child;
mod config;
mod disk;
mod evidence;
pub mod history;
mod platforms;
mod power;
mod report;
mod rounds;
mod senders;
pub(crate) mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use self::child::Launch;
use self::history::{DOORS, Door, History};
use self::report::Account;
use crate::cli::Failure;
use crate::mock::provider::Script;
use crate::protocol::Addressing;
use crate::report::EXIT_NOT_EXACT;
use crate::rng::{Rng, mix};
use crate::{driver, sys};

/// Ports that are tried until one is free.
const PORTS_TRIED_MAX: u32 = 100;

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
            Self::Descriptors => Some("TOO_MANY_CONNECTIONS"),
            Self::Random | Self::Syscall | Self::Term | Self::Takeover | Self::Slow => None,
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
    /// What the run is called in a table.
    pub name: String,
    /// Where configuration, log and evidence go.
    pub work: PathBuf,
    /// The data directory, which may be on a disk of its own; what is in it goes when a batch begins.
    pub data: PathBuf,
    /// Kills.
    pub rounds: u32,
    /// Kills over one data directory and one ledger; after so many both begin anew, under the next seed.
    pub batch: u32,
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
    /// A table in Markdown to which the run adds its row.
    pub table: Option<PathBuf>,
}

/// What all tasks of a run share.
#[derive(Debug)]
pub(crate) struct World {
    plan: Plan,
    launch: Launch,
    begin_ns: u64,
    history: RefCell<History>,
    tally: RefCell<Tally>,
    /// What the rounds do: the same for the same seed.
    rng: RefCell<Rng>,
    /// How long platforms take, which depends on how many answers come between.
    platform_rng: RefCell<Rng>,
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
            platform_rng: RefCell::new(Rng::new(mix(plan.seed))),
            begin_ns: sys::now_ns(),
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

    /// Writes a line of our own into the gateway's log, for whoever reads it.
    fn note(&self, text: &str) {
        let mut options = std::fs::OpenOptions::new();
        let log = options.create(true).append(true).open(&self.launch.log);
        // Where not even that can be written, nobody will read it.
        log.and_then(|mut log| writeln!(log, "loadgen: {text}")).ok();
    }

    fn platform_millis(&self) -> u64 {
        self.platform_rng.borrow_mut().below(self.plan.platform_millis + 1)
    }

    /// A number below `bound`, for what the rounds decide.
    fn draw(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }
}

/// Runs all rounds, tells what came of them, and with which code to end.
///
/// # Errors
/// The run could not be made: no gateway, no port, no simulator, or a gateway that does not come up at all.
pub fn main(plan: Plan, print: &mut dyn FnMut(&str)) -> Result<u8, Failure> {
    let mut account = Account::new(&plan);
    print(&account.head());
    let whole = if plan.power_cuts == 0 { plan.rounds } else { plan.power_cuts }.max(1);
    let batch = if plan.batch == 0 { whole } else { plan.batch };
    let mut done = 0;
    for number in 0..whole.div_ceil(batch) {
        let count = batch.min(whole - done);
        let mut part = Plan { seed: plan.seed + u64::from(number), rounds: count, ..plan.clone() };
        part.power_cuts = part.power_cuts.min(count);
        if batch < whole {
            part.work = plan.work.join(format!("batch-{number}"));
            print(&format!("  batch {number}, seed {}", part.seed));
        }
        run(part, &mut account, print)?;
        done += count;
        if sys::interrupted() {
            break;
        }
    }
    print(&account.text());
    if let Some(out) = &plan.out {
        write_file(out, &account.json(), false)?;
    }
    if let Some(table) = &plan.table {
        let head = if table.exists() { "" } else { Account::TABLE_HEAD };
        write_file(table, format!("{head}{}", account.table_row(&plan.name)).as_bytes(), true)?;
    }
    Ok(if account.is_kept() { 0 } else { EXIT_NOT_EXACT })
}

/// One batch: a data directory and a ledger of its own. What it leaves stays only if a promise was broken.
fn run(plan: Plan, account: &mut Account, print: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let bad = |path: &PathBuf, error: &dyn std::fmt::Display| {
        Failure::invalid(format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(&plan.work).map_err(|error| bad(&plan.work, &error))?;
    std::fs::create_dir_all(&plan.data).map_err(|error| bad(&plan.data, &error))?;
    evidence::empty(&plan.data).map_err(|error| bad(&plan.data, &error))?;
    let address =
        free_address(plan.seed).map_err(|error| Failure::invalid(format!("no port is free: {error}")))?;
    let (cuts, seed) = (plan.power_cuts, plan.seed);
    let world = Rc::new(World::new(plan, address));
    let ran = if cuts == 0 {
        driver::run(|_| rounds::run(Rc::clone(&world), account, print))
    } else {
        driver::run(|_| power::cuts(Rc::clone(&world), cuts, account, print))
    };
    let ran = ran.map_err(|error| Failure::invalid(error.to_string()))?;
    match ran {
        Ok(true) => {
            // What cannot be removed is in nobody's way.
            evidence::clear(&world.plan).ok();
            return Ok(());
        }
        Ok(false) => {}
        // Nothing of it worked: there is nothing to be judged.
        Err(why) if account.is_empty() => return Err(Failure::invalid(why)),
        Err(why) => account.faults.push(format!("seed {seed}: {why}")),
    }
    let kept = evidence::keep_all(&world).map_err(|error| bad(&world.plan.work, &error))?;
    print(&format!("  BROKEN: what is left of it: {}", kept.display()));
    Ok(())
}

fn write_file(path: &PathBuf, text: &[u8], at_end: bool) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(at_end).write(true).truncate(!at_end);
    let written = options.open(path).and_then(|mut file| file.write_all(text));
    written.map_err(|error| Failure::invalid(format!("{}: {error}", path.display())))
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
