//! The judgement of whose turn it is: within a class whoever came first, between the classes by their weights.
use crate::board::{Board, Step};
use crate::plans::Name;
use clawgate_core::event::Class;
use clawgate_core::id::TurnId;

/// How many turns of each class may start in a round.
const WEIGHTS: [u32; 3] = [1, 4, 16];

/// First starts of each class since the last one of each other class: `since[c][d]` counts those of `d` since `c`'s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shares {
    since: [[u32; 3]; 3],
    /// When the last one was started, as a number that grows.
    last: u64,
}

impl Board {
    /// A turn gets its first place: those of its class that came before it have theirs, and no other class with turns
    /// that wait is passed over more often than two rounds allow.
    pub(crate) fn check_queue(&mut self, step: &mut Step<'_>, id: TurnId, agent: Name) {
        let started = &self.turns[&id];
        let (class, ready) = (started.class, started.ready);
        let parked = started.parked_until > clawgate_core::time::Time::ZERO;
        let waiting: Vec<_> = self
            .turns
            .iter()
            .filter(|(other, turn)| {
                **other != id && turn.agent == Some(agent) && turn.waits() && turn.ready.is_some()
            })
            .map(|(other, turn)| (*other, turn.class, turn.ready, turn.parked_until))
            .collect();
        let never_parked = |until: clawgate_core::time::Time| until == clawgate_core::time::Time::ZERO;
        for (other, of, since, until) in &waiting {
            let passed = *of == class && *since < ready && never_parked(*until) && !parked;
            assert!(!passed, "{id:?} ({class:?}) starts before {other:?}, which came first");
        }
        let now = self.next_order();
        let shares = self.shares.entry(agent).or_default();
        let last = std::mem::replace(&mut shares.last, now);
        for c in [Class::Low, Class::Normal, Class::Vip] {
            let waits = waiting.iter().any(|(_, of, _, until)| *of == c && never_parked(*until));
            if c == class || !waits {
                shares.since[c as usize] = [0; 3];
                continue;
            }
            // Those that came since the last start were not passed over by it.
            let all_new =
                waiting.iter().all(|(_, of, since, _)| *of != c || since.is_some_and(|since| last < since));
            if all_new {
                shares.since[c as usize] = [0; 3];
            }
            let passed = &mut shares.since[c as usize][class as usize];
            *passed += 1;
            assert!(
                *passed <= 2 * WEIGHTS[class as usize],
                "{passed} turns of {class:?} started while one of {c:?} waits for {agent}"
            );
            step.mark(format!("{c:?} waits while {class:?} starts"));
        }
    }
}
