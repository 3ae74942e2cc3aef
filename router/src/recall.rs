//! Which event ids the store remembers of earlier runs, told to the shards: as many as memory has room for before anything
//! is admitted, the older ones while the gateway works. Until all are told, and where there is no room for all, shards ask
//! the store themselves (see `clawgate_core::dedup`).
use crate::clock::{Clock, unix_millis};
use crate::driver;
use crate::keep::mark_words;
use crate::mesh::Letter;
use crate::store::{Answer, MARKS_MAX, Mark, MarkPlace, Query, Store, Trouble};
use crate::thread::Thread;
use clawgate_core::dedup::older_ids_max;
use clawgate_core::home::home;
use clawgate_core::id::ShardId;
use clawgate_core::limits::Limits;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The start waits so long for the store.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ids of one page while the gateway works: a shard takes one in within a millisecond.
const PAGE: usize = 8_192;
/// How often it is looked whether a page is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// When a store that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What of it is still to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    /// From here on; the newest day comes first.
    after: Option<MarkPlace>,
    /// Ids that were seen before this are forgotten.
    since_millis: u64,
}

/// A mark, and when it was seen, milliseconds since 1970.
pub(crate) type Seen = (Mark, u64);

/// What the store says at the start, the oldest first, and what is left; `None`: nothing.
pub(crate) fn begin(store: &Store, limits: &Limits, clock: Clock) -> (Vec<Seen>, Option<Rest>) {
    let age_millis = u64::try_from(limits.dedup_age_max.as_millis()).unwrap_or(u64::MAX);
    let since_millis = unix_millis().saturating_sub(age_millis);
    let most = limits.dedup_ids_max as usize;
    let (mut all, deadline) = (Vec::new(), clock.now() + PATIENCE);
    let mut rest = Some(Rest { after: None, since_millis });
    while let Some(Rest { after, .. }) = rest
        && all.len() < most
        && clock.now() < deadline
    {
        let (answer, answered) = sync_channel(1);
        let limit = (most - all.len()).min(MARKS_MAX);
        let query = Query::SeenSince { unix_millis: since_millis, after, limit };
        // Nobody hears a late answer.
        let asked = store.read(query, PATIENCE, move |said| drop(answer.send(said)));
        let said = asked.ok().and_then(|()| answered.recv_timeout(PATIENCE).ok());
        let Some(Ok(Answer::Seen { marks, next })) = said else {
            tracing::warn!(
                "the store does not say which messages were seen: until it does, it is asked about each one that is to \
                 be answered once, and those that it says nothing about are refused"
            );
            break;
        };
        all.extend(marks);
        rest = next.map(|after| Rest { after: Some(after), since_millis });
    }
    all.sort_by_key(|(_, at)| *at);
    (all, rest)
}

/// Tells the shards the rest, as far as there is room. On one thread.
pub(crate) async fn task(thread: Rc<Thread>, rest: Rest) {
    let (limits, shards) = (thread.gateway().plan.limits.clone(), u32::from(thread.shared.cores()));
    // Shards have not exactly the same share.
    let room = older_ids_max((limits.dedup_filter_bytes_max / shards) as usize) * shards as usize / 8 * 7;
    let (mut rest, mut told) = (rest, 0);
    loop {
        let Ok(Answer::Seen { marks, next }) = page(&thread, rest).await else {
            driver::sleep(AGAIN).await;
            continue;
        };
        told += marks.len();
        tell(&thread, &marks);
        let Some(after) = next else { break finish(&thread, None) };
        rest.after = Some(after);
        if room < told {
            tracing::warn!(
                told,
                "the store remembers more messages than there is room for in `limits.dedupIdsMax` and \
                 `limits.dedupFilterBytesMax`: for a time it is asked about each one that is to be answered once"
            );
            break finish(&thread, Some(after.is_whole_from()));
        }
    }
}

async fn page(thread: &Rc<Thread>, rest: Rest) -> Result<Answer, Trouble> {
    let late = || Trouble::Late("too many questions wait".to_owned());
    let store = thread.keeper.get().map(|keeper| keeper.store().clone()).ok_or_else(late)?;
    let query = Query::SeenSince { unix_millis: rest.since_millis, after: rest.after, limit: PAGE };
    let (slot, filled) = (Arc::new(Mutex::new(None)), |slot: &Mutex<Option<_>>| {
        slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    });
    let to = slot.clone();
    let fill = move |said| *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    store.read(query, PATIENCE, fill).map_err(|_| late())?;
    loop {
        driver::sleep(LOOK_EVERY).await;
        if let Some(said) = filled(&slot) {
            return said;
        }
    }
}

fn tell(thread: &Rc<Thread>, marks: &[Seen]) {
    let shards = thread.shared.cores();
    let mut shares: Vec<Vec<([u64; 2], u64)>> = (0..shards).map(|_| Vec::new()).collect();
    for (mark, at) in marks {
        let words = mark_words(mark);
        shares[usize::from(home(words[0], shards).0)].push((words, *at));
    }
    for (shard, share) in (0..shards).zip(shares) {
        send(thread, shard, move |there| {
            let mut shard = there.shard.borrow_mut();
            share.iter().for_each(|(mark, at)| shard.remember_older_mark(*mark, *at));
        });
    }
}

/// All was told, or all from this time on.
fn finish(thread: &Rc<Thread>, since_millis: Option<u64>) {
    for shard in 0..thread.shared.cores() {
        send(thread, shard, move |there| there.shard.borrow_mut().remembers_since(since_millis));
    }
}

fn send(thread: &Rc<Thread>, shard: u16, what: impl FnOnce(&Rc<Thread>) + Send + 'static) {
    thread.touch();
    thread.outgoing.borrow_mut().letter(ShardId(shard), Letter::Errand(Box::new(what)));
}
