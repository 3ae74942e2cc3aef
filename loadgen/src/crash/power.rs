//! Loss of power: a run under load is recorded down to each write and sync, and the real gateway is started on what a disk
//! may hold after a cut at any moment of it. What was acknowledged before the cut has to be answered.
//!
//! The run has two lives, so that recovery itself is cut too.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::child::{Life, Tracer};
use super::disk::Record;
use super::evidence::{copy, remove};
use super::history::{History, Judgement, judge};
use super::report::Account;
use super::rounds::{enlist, has_panicked, settle};
use super::{World, config, evidence, platforms};
use crate::rng::Rng;
use crate::{driver, sys};

/// How long each of the recorded lives carries its load.
const LOAD: Duration = Duration::from_millis(1200);
/// How long strace may take to write down the last of what it saw.
const RECORD_LIMIT: Duration = Duration::from_secs(10);
/// Of the cuts so many in a hundred fall right after an acknowledgement, within this time: where a lie is found.
const AFTER_ACK_PERCENT: u64 = 60;
const AFTER_ACK_NS: u64 = 2_000_000;
/// Messages that are posted again after the cut, those that were acknowledged last: they are not to be answered twice.
const REPEATED_MAX: usize = 10;
/// How long the simulators go on listening after a cut when nothing is owed any more.
const LINGER: Duration = Duration::from_millis(100);

/// Records a run, then cuts it so often; whether every promise was kept.
///
/// # Errors
/// There is no strace, what it saw cannot be modelled, or the gateway does not come up.
pub(super) async fn cuts(
    world: Rc<World>,
    cuts: u32,
    account: &mut Account,
    print: &mut dyn FnMut(&str),
) -> Result<bool, String> {
    let addresses =
        platforms::listen(&world).map_err(|error| format!("the simulators cannot listen: {error}"))?;
    config::write(&world.plan, &world.launch.config, world.launch.address, addresses)?;
    let data = world.plan.data.clone();
    let mut record = Record::new(&data);
    // strace stamps by the wall clock, we by the monotonic one.
    let offset_ns = sys::unix_ns() - sys::now_ns();
    let begin_ns = sys::now_ns();
    enlist(&world);
    for _ in 0..2 {
        record_life(&world, &mut record).await?;
    }
    let end_ns = sys::now_ns();
    leave(&world).await;
    let base = world.history.take();
    let acks = base.acks();
    print(&format!("  recorded {} changes to files, {} messages acknowledged", record.len(), acks.len()));
    let mut is_kept = true;
    let mut rng = Rng::new(world.plan.seed);
    for cut in 1..=cuts {
        let cut_ns = match acks.get(rng.below(acks.len().max(1) as u64) as usize) {
            Some((acked_ns, _)) if rng.below(100) < AFTER_ACK_PERCENT => {
                acked_ns + 1 + rng.below(AFTER_ACK_NS)
            }
            Some(_) | None => begin_ns + rng.below(end_ns - begin_ns),
        };
        // Emptied, not removed: it may be a mount.
        evidence::empty(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        let restored = record.restore(cut_ns + offset_ns, &mut rng, &data);
        restored.map_err(|error| format!("{}: {error}", data.display()))?;
        let kept = world.plan.work.join(format!("cut-{cut}"));
        copy(&data, &kept)?;
        let (judgement, start_ns) = one(&world, &base, cut_ns, account).await?;
        print(&told(cut, cut_ns - begin_ns, &judgement));
        if judgement.is_kept() {
            remove(&kept)?;
        } else {
            is_kept = false;
            evidence::tell_stories(&world, &judgement, &kept.join("evidence.json"));
        }
        account.restarts_ns.push(start_ns);
        account.cuts += 1;
        account.judgement.add(judgement);
        if sys::interrupted() {
            break;
        }
    }
    world.over.set(true);
    let is_well = !has_panicked(&world);
    account.ended_well &= is_well;
    Ok(is_kept && is_well)
}

/// One life under load, written down; it ends by a kill.
async fn record_life(world: &World, record: &mut Record) -> Result<(), String> {
    let file = world.plan.work.join(format!("strace-{}", world.life.get() + 1));
    world.life.set(world.life.get() + 1);
    let started = Life::start(&world.launch, Tracer::Record(&file), false);
    let mut life = started.map_err(|error| format!("the gateway cannot be started under strace: {error}"))?;
    life.ready(&world.launch, world.plan.start_limit).await?;
    world.alive.set(true);
    world.sending.set(true);
    life.end_within(LOAD).await;
    if let Some(status) = life.ended() {
        return Err(format!("the gateway ended by itself: {status}"));
    }
    life.kill();
    life.end_within(world.plan.start_limit).await;
    world.alive.set(false);
    world.history.borrow_mut().on_end(world.life.get(), life.ended_ns(), true);
    let text = read_record(&file).await?;
    record.read(&text)
}

/// What strace wrote, once it has written all of it: its last line tells of the end.
async fn read_record(file: &Path) -> Result<String, String> {
    let deadline_ns = sys::now_ns() + RECORD_LIMIT.as_nanos() as u64;
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.trim_end().ends_with("+++ killed by SIGKILL +++") {
            return Ok(text);
        }
        if deadline_ns <= sys::now_ns() {
            return Err(format!("strace did not finish {} within {RECORD_LIMIT:?}", file.display()));
        }
        driver::sleep(Duration::from_millis(20)).await;
    }
}

/// Has everyone who writes go home.
async fn leave(world: &World) {
    world.sending.set(false);
    world.over.set(true);
    // Longer than any of them sleeps between two looks.
    driver::sleep(Duration::from_millis(800)).await;
    world.over.set(false);
}

/// Starts the gateway on what a cut left, and judges. Tells how long the start took, too.
async fn one(
    world: &World,
    base: &History,
    cut_ns: u64,
    account: &mut Account,
) -> Result<(Judgement, u64), String> {
    world.history.replace(base.until(cut_ns));
    world.life.set(world.life.get() + 1);
    let begin_ns = sys::now_ns();
    let started = Life::start(&world.launch, Tracer::None, false);
    let mut life = started.map_err(|error| format!("the gateway cannot be started: {error}"))?;
    life.ready(&world.launch, world.plan.start_limit).await?;
    let start_ns = sys::now_ns() - begin_ns;
    let acks = world.history.borrow().acks();
    let last: Vec<_> = acks.iter().rev().take(REPEATED_MAX).map(|(_, key)| *key).collect();
    super::senders::repeat(world, &last).await;
    settle(world, &mut life, LINGER).await;
    life.kill();
    life.end_within(world.plan.start_limit).await;
    account.add(&world.tally.take());
    Ok((judge(&world.history.borrow(), world.plan.in_flight_ns), start_ns))
}

fn told(cut: u32, after_ns: u64, judgement: &Judgement) -> String {
    format!(
        "  cut {cut:>4} at {:>7.1} ms: acknowledged {}, lost {} / doubled {} / reordered {}; excused {}{}",
        after_ns as f64 / 1e6,
        judgement.acked,
        judgement.lost.len(),
        judgement.unexcused().count(),
        judgement.reordered.len(),
        judgement.doubled.len() - judgement.unexcused().count(),
        if judgement.is_kept() { String::new() } else { format!("  BROKEN, kept as cut-{cut}") },
    )
}
