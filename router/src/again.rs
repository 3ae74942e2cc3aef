//! What the store could never hold, tried again: because the gateway is a newer one, or the database another. It blocks,
//! and is for a thread of its own.
//!
//! The file is put aside first, and removed once the store has confirmed all that it took of it; what it refuses again it
//! sets aside again. Rows are the same however often they are written, so that a crash anywhere loses and doubles nothing.
use crate::gateway::Shared;
use crate::kept::Kept;
use crate::store::Op;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

/// How long the store may take for all of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait before it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retried {
    /// Rows that were offered.
    pub(crate) rows: u64,
    /// Of these, rows that the store refused again.
    pub(crate) refused: u64,
    /// Lines that are no rows.
    pub(crate) unreadable: u64,
}

/// Offers all that was set aside to the store.
///
/// # Errors
/// In words; nothing is lost, and it may be tried again.
pub(crate) fn retry(shared: &Shared) -> Result<Retried, String> {
    let Some(kept) = shared.kept.get() else { return Err("the gateway is starting".to_owned()) };
    let Ok(_alone) = kept.retrying.try_lock() else {
        return Err("somebody else tries it just now".to_owned());
    };
    let aside = kept.store.take_refused().map_err(|why| format!("the file of refused rows: {why}"))?;
    let Some(file) = aside else { return Ok(Retried::default()) };
    let before = kept.store.counters().set_aside;
    let broken = |why: io::Error| format!("{}: {why}", file.display());
    let mut retried = Retried::default();
    let last = offer_all(shared, kept, &file, &mut retried)?;
    await_confirmed(shared, last)?;
    std::fs::remove_file(&file).map_err(broken)?;
    retried.refused = kept.store.counters().set_aside.saturating_sub(before);
    Ok(retried)
}

/// The number under which the last of it is confirmed.
fn offer_all(shared: &Shared, kept: &Kept, file: &Path, retried: &mut Retried) -> Result<u64, String> {
    let broken = |why: io::Error| format!("{}: {why}", file.display());
    let mut lines = BufReader::new(File::open(file).map_err(broken)?);
    let (mut line, mut last) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).map_err(broken)?;
        if read == 0 {
            return Ok(last);
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Op>(text) {
            Ok(op) => {
                retried.rows += 1;
                // Alone: what is handed over together is refused together.
                last = offer(shared, kept, &mut vec![op])?;
            }
            Err(_) => {
                kept.store.refuse_again(text).map_err(broken)?;
                retried.unreadable += 1;
            }
        }
    }
}

fn offer(shared: &Shared, kept: &Kept, ops: &mut Vec<Op>) -> Result<u64, String> {
    let deadline = shared.clock.now() + PATIENCE;
    loop {
        if let Some(number) = kept.offer_again(shared, ops) {
            return Ok(number);
        }
        if deadline <= shared.clock.now() {
            return Err("the store does not take them now; nothing is lost, try it again later".to_owned());
        }
        shared.confirmations.await_more(LOOK_AGAIN);
    }
}

fn await_confirmed(shared: &Shared, number: u64) -> Result<(), String> {
    let deadline = shared.clock.now() + PATIENCE;
    while shared.confirmations.of_past() < number {
        if deadline <= shared.clock.now() {
            return Err(
                "the store has not confirmed them yet; nothing is lost, try it again later".to_owned()
            );
        }
        shared.confirmations.await_more(LOOK_AGAIN);
    }
    Ok(())
}
