//! Sessions that a shard asks the store for, and what it hears. So many questions are under way at once that their
//! answers always find room on their way back; the others wait here, in order, as after a restart with very many
//! messages that go on.
use crate::keep::{self, Keeper, key_of};
use crate::mesh::{ERRANDS_MAX, Letter};
use crate::store::{Answer, Loaded, Query};
use crate::thread::Thread;
use clawgate_core::event::{Event, Stored};
use clawgate_core::id::{SessionId, Uid};
use clawgate_core::plan::RunningMode;
use clawgate_core::view::Role;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Questions of a shard under way: a quarter of the errands that may wait for it, which others need too.
const UNDER_WAY_MAX: usize = ERRANDS_MAX / 4;

/// What a shard asks for.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    under_way: Arc<AtomicUsize>,
    waiting: RefCell<VecDeque<SessionId>>,
}

/// A question is under way until this is gone: with its answer, or with the errand that found no room.
#[derive(Debug)]
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Loads {
    /// Lets a session wait for its turn, unless so many wait already.
    fn wait(&self, session: SessionId, waiting_max: usize) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let has_room = waiting.len() < waiting_max;
        if has_room {
            waiting.push_back(session);
        }
        has_room
    }

    /// The next that is asked for, while fewer than `most` are under way.
    fn next(&self, most: usize) -> Option<(SessionId, Arc<UnderWay>)> {
        if most <= self.under_way.load(Ordering::Acquire) {
            return None;
        }
        let session = self.waiting.borrow_mut().pop_front()?;
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Some((session, Arc::new(UnderWay(self.under_way.clone()))))
    }
}

/// How many a shard may have under way: the store bounds what waits at it, for all shards and for whoever else asks.
fn most_under_way(reads_max: usize, cores: u16) -> usize {
    UNDER_WAY_MAX.min(reads_max / 2 / usize::from(cores)).max(1)
}

/// Asks the store for a session, now or once others have their answers.
pub(crate) fn ask(thread: &Rc<Thread>, keeper: &Keeper, session: SessionId) {
    // Nobody asks for more sessions than there are turns, but some of those that wait here may have given up.
    if !keeper.loads.wait(session, thread.gateway().plan.limits.turns_max as usize) {
        // Not at once: effects are being carried out.
        let errand = Box::new(move |there: &Rc<Thread>| tell_loaded(there, session, None));
        thread.outgoing.borrow_mut().letter(thread.id, Letter::Errand(errand));
    }
    go_on(thread, keeper);
}

fn go_on(thread: &Rc<Thread>, keeper: &Keeper) {
    let most = most_under_way(keeper.store.reads_max(), thread.shared.cores());
    while let Some((session, under_way)) = keeper.loads.next(most) {
        // It may have ended while it waited.
        let Some(key) = key_of(thread, session) else { continue };
        let gateway = thread.gateway();
        let limits = &gateway.plan.limits;
        let query = Query::Load {
            key,
            messages_max: usize::from(limits.history_messages_max),
            bytes_max: limits.history_bytes_max as usize,
        };
        keep::ask(thread, keeper, query, (session, under_way), |there, (session, under_way), answer| {
            let loaded = match answer {
                Some(Answer::Loaded(loaded)) => Some(loaded),
                Some(_) | None => None,
            };
            tell_loaded(there, session, loaded);
            drop(under_way);
            if let Some(keeper) = there.keeper.get() {
                go_on(there, keeper);
            }
        });
    }
}

fn tell_loaded(thread: &Rc<Thread>, session: SessionId, loaded: Option<Option<Box<Loaded>>>) {
    let Some(found) = loaded else {
        thread.handle(Event::Loaded { session, stored: None });
        return;
    };
    let Some(loaded) = found else {
        thread.handle(Event::Loaded { session, stored: Some(&Stored::default()) });
        return;
    };
    with_stored(&loaded, |stored| thread.handle(Event::Loaded { session, stored: Some(&stored) }));
}

/// What the store knows of a session, as the shard hears it.
pub(crate) fn with_stored(loaded: &Loaded, tell: impl FnOnce(Stored<'_>)) {
    let history: Vec<(Role, &str)> =
        loaded.history.iter().map(|said| (said.role, said.text.as_str())).collect();
    let row = &loaded.session;
    let context: Vec<(&str, &str)> =
        row.context.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stored = Stored {
        agent: row.agent.as_deref().unwrap_or_default(),
        messages: u32::try_from(row.messages).unwrap_or(u32::MAX),
        history: &history,
        context: &context,
        history_from: Uid(row.history_from),
        mode: RunningMode::ALL.into_iter().find(|mode| row.running_mode.as_deref() == Some(mode.name())),
        found: true,
        created_millis: row.created_millis,
    };
    tell(stored);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u32) -> SessionId {
        SessionId { slot, generation: 1 }
    }

    /// All that may be asked for now.
    fn ask_all(loads: &Loads, most: usize, under_way: &mut VecDeque<Arc<UnderWay>>) -> Vec<u32> {
        let next = std::iter::from_fn(|| loads.next(most));
        next.map(|(session, guard)| {
            under_way.push_back(guard);
            session.slot
        })
        .collect()
    }

    #[test]
    fn no_more_than_the_bound_is_under_way_and_the_rest_is_asked_in_order() {
        let (loads, most) = (Loads::default(), most_under_way(1_000_000, 1));
        assert!((0..10_000).all(|slot| loads.wait(session(slot), 10_000)));
        let mut under_way = VecDeque::new();
        let mut asked = ask_all(&loads, most, &mut under_way);
        assert_eq!(under_way.len(), most, "some of the errands are left to others");
        while !under_way.is_empty() {
            // Whichever answer comes first, or finds no room, or was refused: one goes, and one comes.
            drop(under_way.remove(asked.len() * 7 % under_way.len()));
            asked.extend(ask_all(&loads, most, &mut under_way));
            assert!(under_way.len() <= most, "{} are under way", under_way.len());
        }
        assert!(asked.iter().copied().eq(0..10_000), "each once, in order: {asked:?}");
        assert_eq!(loads.under_way.load(Ordering::Acquire), 0);
    }

    #[test]
    fn one_that_ended_while_it_waited_takes_nobodys_place() {
        let loads = Loads::default();
        assert!((0..3).all(|slot| loads.wait(session(slot), 3)));
        let first = loads.next(1);
        assert_eq!(first.as_ref().map(|(session, _)| session.slot), Some(0));
        assert!(loads.next(1).is_none());
        drop(first);
        // Nobody asks for it: it is gone as it is looked at.
        assert_eq!(loads.next(1).map(|(session, _)| session.slot), Some(1));
        assert_eq!(loads.next(1).map(|(session, _)| session.slot), Some(2));
    }

    #[test]
    fn a_question_is_under_way_until_the_last_who_may_answer_it_is_gone() {
        let loads = Loads::default();
        assert!((0..2).all(|slot| loads.wait(session(slot), 2)));
        let Some((_, answer)) = loads.next(1) else { panic!("it waits") };
        let refusal = answer.clone();
        drop(answer);
        assert!(loads.next(1).is_none());
        drop(refusal);
        assert!(loads.next(1).is_some());
    }

    #[test]
    fn no_more_wait_than_there_may_be() {
        let loads = Loads::default();
        assert!(loads.wait(session(0), 2) && loads.wait(session(1), 2));
        assert!(!loads.wait(session(2), 2), "it is refused");
        assert_eq!(ask_all(&loads, 8, &mut VecDeque::new()), [0, 1]);
    }

    #[test]
    fn all_shards_together_leave_half_of_the_store_to_others() {
        for (reads_max, cores) in [(4_096, 1), (4_096, 8), (1_000_000, 2), (100, 16)] {
            let most = most_under_way(reads_max, cores);
            assert!(most * usize::from(cores) <= reads_max / 2, "{reads_max} {cores}: {most}");
            assert!(most <= ERRANDS_MAX / 4, "{reads_max} {cores}: {most}");
        }
        assert_eq!(most_under_way(1, 64), 1, "nobody waits for ever");
    }
}
