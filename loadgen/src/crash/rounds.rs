//! Rounds of load, kill and restart over one data directory, and what is asked of the last life.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{Length, write_request_head};

use super::call::Caller;
use super::child::{Life, Tracer, Trap};
use super::history::{DOORS, Door, Key, judge};
use super::report::{Account, Row};
use super::{Kill, World, config, evidence, platforms, senders, sockets};
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
/// How often the harness looks whether all is answered.
const LOOK: Duration = Duration::from_millis(5);
/// Dead letters of one page, and pages at most.
const LETTERS_A_PAGE: u32 = 500;
const PAGES_MAX: u32 = 100;

/// All rounds of a batch; whether every promise was kept.
///
/// # Errors
/// The gateway does not come up, ends by itself, does not end when it should, or does not heal.
pub(super) async fn run(
    world: Rc<World>,
    account: &mut Account,
    print: &mut dyn FnMut(&str),
) -> Result<bool, String> {
    let addresses =
        platforms::listen(&world).map_err(|error| format!("the simulators cannot listen: {error}"))?;
    config::write(&world.plan, &world.launch.config, world.launch.address, addresses)?;
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
        let row = Row::new(&world.plan, round, how, load_ns, start_ns);
        (life, start_ns) = match next {
            Some(taken_over) => taken_over,
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
    Ok(finish(&world, life, account).await)
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
        on_killed_at_start(world, &life);
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
                on_killed_at_start(world, &life);
                ending.trap = ending.trap.take().and_then(|trap| trap.later(world.plan.calls_max));
            }
            Err(why) => return Err(format!("the gateway does not come back: {why}")),
        }
    }
}

fn on_killed_at_start(world: &World, life: &Life) {
    world.tally.borrow_mut().killed_at_start += 1;
    world.history.borrow_mut().on_end(world.life.get(), life.ended_ns(), true);
    evidence::keep_kill(world, world.life.get());
}

/// One that took over, and how long that took.
type Successor = (Life, u64);

/// Lets it carry its load, then ends it. Tells who took over, and what ended it.
async fn end_life(
    world: &World,
    mut life: Life,
    ending: &Ending,
) -> Result<(Option<Successor>, String), String> {
    let load = Duration::from_millis(LOAD_MILLIS.0 + world.draw(LOAD_MILLIS.1 + 1));
    match ending.kill {
        Kill::Full => fill(world, &mut life).await?,
        Kill::Descriptors => crowd(world, &mut life).await?,
        Kill::Eio => {
            let failed = wait_for(world, &mut life, |world| is_refused(world, "JOURNAL_FAILED")).await;
            failed.map_err(|why| format!("syncs fail and nothing is refused with JOURNAL_FAILED: {why}"))?;
        }
        Kill::Random | Kill::Syscall | Kill::Term | Kill::Takeover | Kill::Slow => {}
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
                "random".clone_into(&mut how);
                life.kill();
            }
            Kill::Random | Kill::Eio | Kill::Slow | Kill::Full | Kill::Descriptors => life.kill(),
            Kill::Term => {
                life.terminate();
                killed = false;
            }
            Kill::Takeover => {
                next = Some(take_over(world, &mut life).await?);
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
    world.history.borrow_mut().on_end(old, life.ended_ns(), killed);
    world.alive.set(next.is_some());
    if killed {
        evidence::keep_kill(world, old);
    }
    // Connections that the dead one opened are accepted and counted as its own before the next one lives.
    driver::sleep(Duration::from_millis(2)).await;
    Ok((next, how))
}

/// Waits until clients have been refused for want of descriptors, and messages are acknowledged all the same.
async fn crowd(world: &World, life: &mut Life) -> Result<(), String> {
    let crowded = wait_for(world, life, |world| is_refused(world, "TOO_MANY_CONNECTIONS")).await;
    crowded.map_err(|why| format!("no client is refused though descriptors are few: {why}"))?;
    let before = world.tally.borrow().acked;
    let goes_on = wait_for(world, life, |world| before + HEALED_ACKS <= world.tally.borrow().acked).await;
    goes_on.map_err(|why| format!("with few descriptors nothing is acknowledged: {why}"))
}

/// Takes all the room that is left on the disk until the gateway refuses new work for it, gives the room back, and waits
/// until the gateway takes work again.
async fn fill(world: &World, life: &mut Life) -> Result<(), String> {
    let ballast = world.plan.data.join("ballast");
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
    let full = wait_for(world, life, |world| is_refused(world, "JOURNAL_FULL")).await;
    std::fs::remove_file(&ballast).map_err(bad)?;
    full.map_err(|why| format!("the disk is full and nothing is refused with JOURNAL_FULL: {why}"))?;
    let before = world.tally.borrow().acked;
    let healed = wait_for(world, life, |world| before + HEALED_ACKS <= world.tally.borrow().acked).await;
    healed.map_err(|why| format!("the disk has room again and nothing is acknowledged: {why}"))
}

/// Was new work refused with this code in this round?
fn is_refused(world: &World, code: &str) -> bool {
    world.tally.borrow().refused.contains_key(code)
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

/// Starts another one that takes the sockets of the one that runs, and waits until that one has gone and the new one
/// answers.
async fn take_over(world: &World, old: &mut Life) -> Result<Successor, String> {
    world.life.set(world.life.get() + 1);
    let begin_ns = sys::now_ns();
    let started = Life::start(&world.launch, Tracer::None, true);
    let mut next = started.map_err(|error| format!("the next gateway cannot be started: {error}"))?;
    let limit = world.plan.start_limit;
    // Until then it is the old one that answers, so its end is waited for first.
    match driver::race(old.end_within(limit), next.end_within(limit)).await {
        driver::First::One(Some(_)) => {}
        driver::First::Other(Some(status)) => {
            return Err(format!("the one that was to take over ended with {status}"));
        }
        driver::First::One(None) | driver::First::Other(None) => {
            return Err(format!("nobody had taken over within {limit:?}"));
        }
    }
    next.ready(&world.launch, limit).await?;
    Ok((next, sys::now_ns() - begin_ns))
}

/// Starts everyone who writes.
pub(super) fn enlist(world: &Rc<World>) {
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

/// Waits until all is answered, asks for what cannot be seen from outside, has the last life end in peace, and judges.
async fn finish(world: &World, mut life: Life, account: &mut Account) -> bool {
    settle(world, &mut life, LINGER).await;
    world.over.set(true);
    life.terminate();
    let ended = life.end_within(world.plan.start_limit).await;
    let is_well = ended.is_some_and(|status| status.success()) && !has_panicked(world);
    account.ended_well &= is_well;
    account.add(&std::mem::take(&mut *world.tally.borrow_mut()));
    let judgement = judge(&world.history.borrow(), world.plan.in_flight_ns);
    let kept = is_well && judgement.is_kept();
    account.judgement.add(judgement);
    kept
}

/// Whether the gateway's log tells of a panic.
pub(super) fn has_panicked(world: &World) -> bool {
    std::fs::read(&world.launch.log).is_ok_and(|log| memchr::memmem::find(&log, b"panicked at").is_some())
}

/// Waits until all is answered and `linger` more, then asks for what cannot be seen from outside.
pub(super) async fn settle(world: &World, life: &mut Life, linger: Duration) {
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
    let (host, bearer) = (world.launch.address.to_string(), format!("Bearer {}", config::API_KEY));
    let headers = [("Authorization", bearer.as_str())];
    let mut caller = Caller::new(world.launch.address);
    let mut target = format!("/api/dlq?limit={LETTERS_A_PAGE}");
    for _ in 0..PAGES_MAX {
        let mut request = Vec::new();
        write_request_head(&mut request, "GET", &target, &host, &headers, Length::None, true);
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
        let page: serde_json::Value = serde_json::from_slice(&answered.body).unwrap_or_default();
        let Some(next) = page["data"]["next"].as_str() else { return };
        target = format!("/api/dlq?limit={LETTERS_A_PAGE}&cursor={next}");
    }
}
