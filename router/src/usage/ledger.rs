//! What one thread has counted and not handed over yet. Lines are told apart by numbers; their names are written once a
//! second, when they are handed over.
use super::account::Account;
use super::books::{Books, Line};
use super::{Day, Entry, Sizes, Tally};
use crate::reload::Current;
use clawgate_core::id::{AccountId, AgentId, ModelId, SessionId};
use clawgate_core::time::Time;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

/// How long a line waits for others: so much may be lost if the process is killed.
const FLUSH_AGE: Duration = Duration::from_secs(1);
/// Lines that are handed over before that.
const LINES_MAX: usize = 4_096;
/// Models that the metrics tell apart, over all configurations of the process.
const MODELS_MAX: usize = 1_024;
/// The name of those beyond.
const OTHERS: &str = "other";

/// Whose line it is, in numbers of one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) day: Day,
    pub(crate) generation: u64,
    pub(crate) account: AccountId,
    pub(crate) agent: AgentId,
    pub(crate) model: ModelId,
    /// The session, or the default where sessions are not told apart.
    pub(crate) session: SessionId,
}

/// What was counted, and its names.
struct Open {
    gateway: Current,
    session: Box<str>,
    tally: Tally,
}

/// The ledger of one thread.
#[derive(Default)]
pub(crate) struct Ledger {
    open: RefCell<HashMap<Slot, Open>>,
    due: Cell<Option<Time>>,
    sizes: RefCell<HashMap<Box<str>, [Sizes; 2]>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({} lines)", self.open.borrow().len())
    }
}

impl Ledger {
    /// Counts.
    pub(crate) fn charge(
        &self,
        now: Time,
        mut slot: Slot,
        gateway: &Current,
        session: impl FnOnce() -> String,
        tally: &Tally,
    ) {
        self.measure(gateway.model_name(slot.model), tally);
        if let Some(account) = gateway.keys.account(slot.account) {
            account.tokens.add(slot.day, tally.tokens());
        }
        let mut open = self.open.borrow_mut();
        if open.is_empty() {
            self.due.set(Some(now + FLUSH_AGE));
        }
        let mut told_apart = true;
        if LINES_MAX <= open.len() && !open.contains_key(&slot) {
            // The books do not keep up: what is counted stays right, and sessions are added up.
            slot.session = SessionId { slot: u32::MAX, generation: 0 };
            told_apart = false;
        }
        let line = open.entry(slot).or_insert_with(|| Open {
            gateway: gateway.clone(),
            session: if told_apart { session().into_boxed_str() } else { Box::default() },
            tally: Tally::default(),
        });
        line.tally.add(tally);
        if LINES_MAX <= open.len() {
            self.due.set(Some(self.due.get().map_or(now, |due| due.min(now))));
        }
    }

    fn measure(&self, model: &str, tally: &Tally) {
        if tally.tokens() == 0 {
            return;
        }
        let mut sizes = self.sizes.borrow_mut();
        let model = if sizes.contains_key(model) || sizes.len() < MODELS_MAX { model } else { OTHERS };
        if !sizes.contains_key(model) {
            sizes.insert(model.into(), Default::default());
        }
        if let Some([input, output]) = sizes.get_mut(model) {
            input.record(tally.prompt_tokens);
            output.record(tally.completion_tokens);
        }
    }

    /// When there is something to hand over.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.due.get()
    }

    /// Hands over what was counted; where the books do not take it, it stays.
    pub(crate) fn flush(&self, now: Time, books: &Books) {
        let mut open = self.open.borrow_mut();
        self.due.set(None);
        if open.is_empty() {
            return;
        }
        if books.offer(|| open.drain().map(|(slot, line)| line.named(&slot)).collect()) {
            // A burst must not keep its memory for ever.
            open.shrink_to(LINES_MAX / 16);
        } else {
            self.due.set(Some(now + FLUSH_AGE));
        }
    }

    /// By model: tokens of prompts and of answers.
    pub(crate) fn sizes(&self) -> Vec<(String, [Sizes; 2])> {
        self.sizes.borrow().iter().map(|(model, sizes)| (model.to_string(), sizes.clone())).collect()
    }
}

impl Open {
    fn named(self, slot: &Slot) -> Line {
        let gateway = &self.gateway;
        let agent = gateway.plan.agents.get(usize::from(slot.agent.0));
        let key = gateway.keys.account(slot.account).map_or_else(Box::default, |of: &Account| of.key.clone());
        let entry = Entry {
            day: slot.day,
            key,
            agent: agent.map_or_else(Box::default, |agent| agent.name.clone()),
            model: gateway.model_name(slot.model).into(),
            session: self.session,
        };
        (entry, self.tally)
    }
}
