//! What one call uses, from its start to its end, however it ends: the charge is made when the meter goes.
//!
//! What the provider counts is believed. Where it counts nothing, or the call is over before it has, the rest is estimated
//! from the characters of the prompt and of what was said, and the call is marked.
use super::ledger::{Ledger, Slot};
use super::{Tally, day_of, tokens_of};
use crate::clock::unix_seconds;
use crate::gateway::{Gateway, is_api};
use crate::reload::Current;
use crate::sessions::write_id;
use crate::thread::Thread;
use crate::voice::Voice;
use clawgate_core::event::Piece;
use clawgate_core::id::{AccountId, AgentId, CallId, ModelId};
use clawgate_core::view::Prompt;
use clawgate_providers::said::{CallPart, Counts};
use clawgate_providers::{End, Said};
use std::rc::Rc;

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The model has not heard of it, or refused it: it costs nothing.
    Asking,
    /// The model works on it.
    Answering,
    /// It has said all.
    Finished,
}

/// The meter of one call.
pub(crate) struct Meter {
    ledger: Rc<Ledger>,
    thread: Rc<Thread>,
    gateway: Current,
    slot: Slot,
    session: String,
    is_first: bool,
    prompt_chars: u64,
    said_chars: u64,
    counts: Option<Counts>,
    stage: Stage,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meter({:?})", self.stage)
    }
}

fn chars(text: &str) -> u64 {
    // Most texts are ASCII, and that is found out sixteen bytes at a time.
    (if text.is_ascii() { text.len() } else { text.chars().count() }) as u64
}

/// Characters of what a model is told in a turn; 0 of a whole request, which its reader counts.
pub(crate) fn chars_of(prompt: &Prompt<'_>, system: &str) -> u64 {
    if !prompt.content.is_words() {
        return 0;
    }
    let past: u64 = prompt.history.map(|(_, text)| chars(text)).sum();
    let context: u64 = prompt.variables.map(|(name, value)| chars(name) + chars(value)).sum();
    chars(system) + past + context + chars(prompt.text)
}

/// Who pays for a turn.
pub(crate) fn payer(gateway: &Gateway, prompt: &Prompt<'_>) -> AccountId {
    if prompt.account == AccountId::default() && is_api(prompt.address.channel) {
        // A turn of an earlier run, which remembers for whom it was, and not by which key.
        return gateway.keys.account_of(prompt.address.peer);
    }
    prompt.account
}

impl Meter {
    /// A meter for a call that begins; `None` if its turn is over.
    pub(crate) fn begin(
        thread: &Rc<Thread>,
        gateway: &Current,
        call: CallId,
        agent: AgentId,
        model: ModelId,
    ) -> Option<Self> {
        let shard = thread.shard.borrow();
        let prompt = shard.prompt(call.turn)?;
        let (address, account) = (prompt.address, payer(gateway, &prompt));
        let session = shard.session_of(call.turn)?;
        let mut name = String::new();
        write_id(&mut name, shard.channel_name(session), &address);
        let system = gateway.systems.get(usize::from(agent.0)).map_or("", String::as_str);
        let slot = Slot { day: 0, generation: gateway.generation, account, agent, model, session };
        Some(Self {
            ledger: thread.ledger.clone(),
            thread: thread.clone(),
            gateway: gateway.clone(),
            slot,
            session: name,
            is_first: call.attempt == 0,
            prompt_chars: chars_of(&prompt, system),
            said_chars: 0,
            counts: None,
            stage: Stage::Asking,
        })
    }

    /// The call belongs to a request that is counted already, and so much is said in it.
    pub(crate) const fn continued(mut self, prompt_chars: u64) -> Self {
        (self.is_first, self.prompt_chars) = (false, prompt_chars);
        self
    }

    /// The prompt is a whole request, if one hears the answer: its reader has counted it.
    pub(crate) fn heard_by(&mut self, voice: &Voice) {
        self.prompt_chars = voice.prompt_chars().unwrap_or(self.prompt_chars);
    }

    /// The model works on it: from here on it costs.
    pub(crate) const fn answering(&mut self) {
        self.stage = Stage::Answering;
    }

    /// Hears what the model says.
    pub(crate) fn hear(&mut self, said: &Said<'_>) {
        match said {
            Said::Piece(Piece::Text(text) | Piece::Reasoning(text))
            | Said::Call(CallPart::Arguments { text, .. }) => self.said_chars += chars(text),
            Said::Call(CallPart::Begin { name, .. }) => self.said_chars += chars(name),
            Said::Usage(counts) => self.counts = Some(*counts),
            Said::Ended(End::Finished(_)) => self.stage = Stage::Finished,
            Said::Piece(Piece::Usage(_) | Piece::Alive)
            | Said::Call(CallPart::End { .. })
            | Said::Thought(_)
            | Said::Ended(End::Failed(_)) => {}
        }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally {
            requests: u64::from(self.is_first),
            calls: 1,
            unfinished_calls: u64::from(self.stage != Stage::Finished),
            ..Tally::default()
        };
        if self.stage == Stage::Asking {
            return tally;
        }
        let counts = self.counts.unwrap_or_default();
        let whole = self.counts.is_some() && self.stage == Stage::Finished && !counts.estimated;
        let (mut prompt, mut completion) = (u64::from(counts.prompt), u64::from(counts.completion));
        if !whole {
            // Early counts are right about the prompt, and know the beginning of the answer at most.
            if prompt == 0 {
                prompt = tokens_of(self.prompt_chars);
            }
            completion = completion.max(tokens_of(self.said_chars));
            (tally.estimated_calls, tally.estimated_tokens) = (1, prompt + completion);
        }
        (tally.prompt_tokens, tally.completion_tokens) = (prompt, completion);
        tally.cached_tokens = counts.cached.into();
        tally.cache_created_tokens = counts.cache_created.into();
        tally.reasoning_tokens = counts.reasoning.into();
        tally
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.slot.day = day_of(unix_seconds());
        let tally = self.tally();
        let session = std::mem::take(&mut self.session);
        self.ledger.charge(self.thread.now(), self.slot, &self.gateway, || session, &tally);
    }
}
