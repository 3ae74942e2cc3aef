//! The judgement of how long an agent's turns take: each shard keeps an average, by which it tells clients when to come
//! back.
use crate::board::{Board, Step};
use crate::plans::{Name, known};
use crate::turn::{Clock, Cut, Finale};
use clawgate_core::event::Retry;
use clawgate_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};

/// What the averages of the agents may be, milliseconds. Whether a turn whose call failed goes on is not always known.
pub(crate) type Paces = BTreeMap<Name, BTreeSet<u32>>;

/// The average with one more turn in it, which counts an eighth.
const fn joined(average: u32, took: u32) -> u32 {
    if average == 0 { took } else { average / 8 * 7 + took / 8 }
}

impl Board {
    /// A call of a turn that began then is over, and the turn with it, or perhaps not.
    pub(crate) fn learn_pace(&mut self, step: &mut Step<'_>, agent: Name, began: Time, finale: &Finale) {
        let goes_on = match finale {
            Finale::Finished(_) | Finale::Failed { retry: Retry::Never, .. } => false,
            Finale::Failed { .. }
            | Finale::Cut(Cut::Clock(Clock::Header | Clock::FirstPiece | Clock::Silence | Clock::Call)) => {
                true
            }
            // What is stopped says nothing of how long it would have taken.
            Finale::Cut(
                Cut::Clock(Clock::SlowClient)
                | Cut::Left
                | Cut::Operator
                | Cut::TooLong
                | Cut::Interrupted
                | Cut::Steered,
            ) => return,
        };
        let took = self.now.since(began).as_millis() as u32;
        let pace = self.paces.entry(agent).or_insert_with(|| BTreeSet::from([0]));
        let mut after: BTreeSet<u32> = pace.iter().map(|average| joined(*average, took)).collect();
        if goes_on {
            after.extend(pace.iter());
        }
        *pace = after;
        step.learned.push(agent);
    }

    /// The averages that this step changed are those that the shard shows.
    pub(crate) fn check_paces(&mut self, step: &Step<'_>) {
        if step.learned.is_empty() {
            return;
        }
        let load = step.shard.load();
        for (agent, load) in self.plan.agents.iter().zip(&load.agents) {
            let name = known(&agent.name);
            let Some(pace) = self.paces.get_mut(name) else { continue };
            assert!(pace.contains(&load.turn_millis), "{name} takes {} ms, not {pace:?}", load.turn_millis);
            *pace = BTreeSet::from([load.turn_millis]);
        }
    }
}
