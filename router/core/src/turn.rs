//! One admitted message and all that is done to answer it. What a turn is, not what happens to it.
use crate::breaker::Pass;
use crate::codes::Code;
use crate::dedup::Mark;
use crate::effect::Outcome;
use crate::event::{Class, Content, Mode, Stop, Usage};
use crate::id::{AccountId, Client, Uid};
use crate::limits::Limits;
use crate::links::Origin;
use crate::list::{Link, Linked};
use crate::preview::Preview;
use crate::record::mark_bytes;
use crate::split::Cursor;
use crate::time::Time;
use crate::timers::Key;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// No place.
pub(crate) const NOWHERE: u16 = u16::MAX;

/// Where a turn stands. Each turn passes from the top down; only `BackingOff` leads back to `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Behind another turn of its session.
    Waiting,
    /// First of its session, until the store has said what it knows of that; `until` is the latest.
    Loading,
    /// First of its session, in a queue of its agent (or, with an [`Errand`], about to run it).
    Ready,
    /// Its call runs; `until` is when its platform is shown more of its answer.
    Running,
    /// Its next attempt is due at `until`.
    BackingOff,
    /// Its answer goes out part by part; `until` is when the attempt counts as failed, or when the next one is due.
    Delivering,
}

/// A turn that asks no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// What an operator says as the bot.
    Outbound,
    /// A message that failed before it was first of its session: its apology goes out when it is.
    Apology(Outcome),
    /// Its answer was known before a restart: what of it was not delivered goes out, and it ends so.
    Resume(Outcome),
    /// Its answer was given before, or is being given to another client, and its client asks for it again.
    Recite,
    /// It is of an earlier run, and nobody can answer it any more.
    Fail(Code),
}

/// What a turn has taken of the bounds, beside its own unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// A waiting place at the agent: admitted and never started.
    pub(crate) waiting: bool,
    /// A running place at the agent.
    pub(crate) agent: bool,
    /// A running place at the model.
    pub(crate) model: bool,
}

/// A model's limits on the time of a call. Kept with the call: a reload does not change a call that runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ages {
    pub(crate) header: u32,
    pub(crate) first_piece: u32,
    pub(crate) silence: u32,
    pub(crate) call: u32,
    pub(crate) slow: u32,
}

/// Milliseconds of a duration, as far as they fit.
pub(crate) fn millis(of: Duration) -> u32 {
    u32::try_from(of.as_millis()).unwrap_or(u32::MAX)
}

/// The time so many milliseconds later.
const fn later(at: Time, millis: u32) -> Time {
    Time(at.0.saturating_add(millis as u64 * 1_000_000))
}

/// The clocks of a call that runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    pub(crate) ages: Ages,
    /// When it was started.
    pub(crate) started: Time,
    /// From when the header and the first piece are waited for: the start, moved on by pauses.
    awaited: Time,
    /// When the last piece came.
    last: Time,
    /// Since when it is paused.
    paused: Option<Time>,
    alive: bool,
    spoke: bool,
    /// Its tools work: nothing is waited for of the model.
    works: bool,
    /// It took long to a first piece.
    pub(crate) slow: bool,
    pub(crate) pass: Pass,
}

/// What of a call was charged to its model's minute before it was asked the last time; nothing where it was asked once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rounds {
    /// Tokens that the provider had counted then.
    pub(crate) counted: u32,
    /// Characters that had been said.
    pub(crate) said_chars: u32,
    /// Tokens of what it was told then, estimated; 0 where it was asked once.
    pub(crate) told: u32,
    /// When it was granted that; before, it is not asked.
    pub(crate) at: Time,
}

impl Call {
    pub(crate) fn new(now: Time, ages: Ages, pass: Pass) -> Self {
        Self { ages, started: now, awaited: now, last: now, pass, ..Self::default() }
    }

    /// A sign of life that is no piece of the answer: the header phase is over.
    pub(crate) const fn on_alive(&mut self) {
        self.alive = true;
    }

    /// A piece of the answer, or a thought. True for the first: another clock counts from here on.
    pub(crate) fn on_spoken(&mut self, now: Time) -> bool {
        let first = !self.spoke;
        if first {
            self.slow |= later(self.awaited, self.ages.slow) < now;
        }
        (self.alive, self.spoke, self.last) = (true, true, now);
        first
    }

    /// Its tools work.
    pub(crate) const fn on_working(&mut self) {
        self.works = true;
    }

    /// Its model is asked once more, at this time.
    pub(crate) const fn ask_again(&mut self, at: Time) {
        (self.alive, self.spoke, self.works) = (false, false, false);
        (self.awaited, self.last) = (at, at);
    }

    /// How much of the time of the whole call is left.
    pub(crate) fn left(&self, now: Time) -> Duration {
        later(self.started, self.ages.call).since(now)
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(crate) const fn pause(&mut self, now: Time) {
        self.paused = Some(now);
    }

    /// The clocks that stood still go on.
    pub(crate) fn resume(&mut self, now: Time) {
        if let Some(since) = self.paused.take() {
            let stood = now.since(since);
            self.awaited = self.awaited + stood;
            self.last = now;
        }
    }

    /// Since when the client took nothing, if that is too long.
    pub(crate) fn is_given_up(&self, now: Time, slow_client_age_max: Duration) -> bool {
        self.paused.is_some_and(|since| since + slow_client_age_max <= now)
    }

    /// The next moment at which one of its clocks runs out.
    pub(crate) fn deadline(&self, slow_client_age_max: Duration) -> Time {
        let whole = later(self.started, self.ages.call);
        let phase = match self.paused {
            // While nothing is read nothing can come: only the client's own time counts.
            Some(since) => since + slow_client_age_max,
            None if self.works => whole,
            None if self.spoke => later(self.last, self.ages.silence),
            None => {
                let first = later(self.awaited, self.ages.first_piece);
                if self.alive { first } else { first.min(later(self.awaited, self.ages.header)) }
            }
        };
        whole.min(phase)
    }
}

/// How far the delivery of an answer is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivering {
    /// Where the part that is being delivered begins, and the one after it.
    pub(crate) at: Cursor,
    pub(crate) next: Cursor,
    pub(crate) part: u16,
    pub(crate) attempt: u16,
    /// Attempts at this part that counted.
    pub(crate) burnt: u16,
    /// Times that the platform itself said when to come back.
    pub(crate) deferred: u16,
    /// An answer of the platform's is awaited.
    pub(crate) in_flight: bool,
    /// What must be on disk before the part is posted is not.
    pub(crate) unwritten: bool,
}

/// What a turn's message was promised beside an answer. Few have any of it, so it lies apart.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    /// The event's id, where a later run must answer a repetition too; empty otherwise.
    id: Box<str>,
    /// The marks of messages with receipts that are part of this one, whose repetitions it answers too; of one that is
    /// recited, the mark of what is asked for again.
    took: Vec<Mark>,
}

/// What most turns have nothing of.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Turns whose messages are part of its own: as long as it may be written again, so is that.
    pub(crate) took: Vec<[u8; 8]>,
    /// Whoever failed in its own words, for the dead letters.
    pub(crate) why: Box<str>,
    /// The account that its message came from, where its conversation is one of several accounts.
    pub(crate) origin: Option<Origin>,
    /// What its platform sees of its answer while that is still being written.
    pub(crate) preview: Option<Preview>,
    /// What of its call was charged before its model was asked the last time.
    pub(crate) rounds: Rounds,
}

/// One turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) link: Link,
    /// Its name for ever.
    pub(crate) uid: Uid,
    /// Its first record in the journal, as last written; 0 where it is not written.
    pub(crate) lsn: u64,
    /// Of its event's id, where a repetition is answered; none otherwise.
    pub(crate) mark: Mark,
    /// What its repetitions are told by, where they are answered.
    pub(crate) receipt: Option<Box<Receipt>>,
    /// Its session's slot. The session stays as long as it has turns.
    pub(crate) session: u32,
    pub(crate) client: Client,
    pub(crate) mode: Mode,
    pub(crate) class: Class,
    pub(crate) state: State,
    pub(crate) errand: Option<Errand>,
    /// What its text is.
    pub(crate) content: Content,
    pub(crate) holds: Holds,
    /// The agent's and the model's places on this shard; [`NOWHERE`] for none.
    pub(crate) desk: u16,
    pub(crate) line: u16,
    /// Which model of the agent's chain is next.
    pub(crate) chain: u16,
    /// Calls made on the present model.
    pub(crate) tries: u16,
    /// Number of the next call.
    pub(crate) calls: u16,
    /// Its answer is kept: it goes out whole, into the history, or to listeners.
    pub(crate) keeps: bool,
    /// The client's outbox is full.
    pub(crate) pressed: bool,
    /// Who pays for it.
    pub(crate) account: AccountId,
    /// Its client named the agent.
    pub(crate) asked: bool,
    /// It is a dead letter that is tried again, and the letter is still there.
    pub(crate) replayed: bool,
    /// It, or one that it took in, was admitted in an earlier run, whose files may tell of it until what takes their place
    /// is safe.
    pub(crate) restored: bool,
    /// The history was forgotten while it ran: it must not come back through the answer.
    pub(crate) forgets: bool,
    /// It is what an operator says as the bot.
    pub(crate) outbound: bool,
    /// Its answer joins the history.
    pub(crate) history: bool,
    /// That is saved once the answer is on disk: what is remembered is what was answered, whatever happens in between.
    pub(crate) unsaid: bool,
    /// Why its model stopped.
    pub(crate) stop: Stop,
    /// Sends so far.
    pub(crate) seq: u32,
    /// The message: the sender's name, then the text. The one copy of it.
    pub(crate) words: String,
    pub(crate) name_len: u32,
    /// The answer so far, where it is kept.
    pub(crate) reply: String,
    pub(crate) reply_bytes: u32,
    pub(crate) reply_chars: u32,
    pub(crate) usage: Option<Usage>,
    pub(crate) admitted: Time,
    /// When its first call was started.
    pub(crate) began: Time,
    pub(crate) until: Time,
    pub(crate) call: Call,
    pub(crate) delivering: Delivering,
    /// How it ends once all is delivered.
    pub(crate) verdict: Outcome,
    /// What most turns have nothing of.
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) timer: Key,
    /// When the timer fires; the turn's own deadline may have moved on since.
    pub(crate) armed: Time,
}

const _: () = assert!(size_of::<Turn>() <= 384, "it is written and dropped with each message");

impl Turn {
    pub(crate) fn text(&self) -> &str {
        self.words.get(self.name_len as usize..).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.words.get(..self.name_len as usize).unwrap_or_default()
    }

    /// Its event's id, where a later run must answer a repetition; empty otherwise.
    pub(crate) fn id(&self) -> &str {
        self.receipt.as_ref().map_or("", |receipt| &receipt.id)
    }

    pub(crate) fn set_id(&mut self, id: &str) {
        if !id.is_empty() {
            self.receipt.get_or_insert_default().id = id.into();
        }
    }

    /// The marks of what became part of it.
    pub(crate) fn took(&self) -> &[Mark] {
        self.receipt.as_ref().map_or(&[], |receipt| &receipt.took)
    }

    /// Messages became part of it, or it recites one.
    pub(crate) fn take_in(&mut self, marks: &[Mark]) {
        if !marks.is_empty() {
            self.receipt.get_or_insert_default().took.extend_from_slice(marks);
        }
    }

    /// Does a repetition of this message hear its answer?
    pub(crate) fn answers(&self, mark: Mark) -> bool {
        (self.mark == mark || self.took().contains(&mark)) && self.errand != Some(Errand::Recite)
    }

    /// Turns whose messages are part of its own.
    pub(crate) fn joined(&self) -> &[[u8; 8]] {
        self.rare.as_ref().map_or(&[], |rare| &rare.took)
    }

    /// The event ids of all its messages, but for one that its record tells itself.
    pub(crate) fn marks(&self) -> Vec<[u8; 16]> {
        let own = Some(&self.mark).filter(|mark| self.id().is_empty() && **mark != Mark::default());
        self.took().iter().chain(own).map(|mark| mark_bytes(mark.words())).collect()
    }

    /// Whoever failed in its own words.
    pub(crate) fn why(&self) -> &str {
        self.rare.as_ref().map_or("", |rare| &rare.why)
    }

    /// The account that it came from, where its conversation is one of several accounts.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.rare.as_ref().and_then(|rare| rare.origin.as_ref())
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Attempts at what it does now: at the part that is delivered, or at its models.
    pub(crate) fn attempts(&self) -> u16 {
        match self.state {
            State::Delivering => self.delivering.attempt.saturating_add(u16::from(self.delivering.in_flight)),
            State::Waiting | State::Loading | State::Ready | State::Running | State::BackingOff => self.calls,
        }
    }

    /// How it ends once its answer is delivered, where that is known.
    pub(crate) fn known_verdict(&self) -> Option<Outcome> {
        match self.errand {
            Some(Errand::Resume(verdict)) => Some(verdict),
            Some(Errand::Outbound | Errand::Apology(_) | Errand::Recite | Errand::Fail(_)) | None => {
                (self.state == State::Delivering).then_some(self.verdict)
            }
        }
    }

    /// Tokens that the provider has counted so far.
    pub(crate) fn counted(&self) -> u32 {
        self.usage.map_or(0, |usage| usage.prompt.saturating_add(usage.completion))
    }

    /// What of its call was charged before its model was asked the last time.
    pub(crate) fn rounds(&self) -> Rounds {
        self.rare.as_ref().map_or_else(Rounds::default, |rare| rare.rounds)
    }

    /// Was anything of an answer shown?
    pub(crate) const fn is_shown(&self) -> bool {
        self.seq != 0
    }

    /// When something must happen to it, if nothing else does.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Time> {
        match self.state {
            State::Waiting | State::Ready => {
                self.holds.waiting.then(|| self.admitted + limits.waiting_age_max)
            }
            State::Running => Some(self.call.deadline(limits.slow_client_age_max).min(self.until)),
            State::Loading | State::BackingOff => Some(self.until),
            // The journal has its own clocks.
            State::Delivering => (!self.delivering.unwritten).then_some(self.until),
        }
    }
}

impl Linked for Turn {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages { header: 3_000, first_piece: 6_000, silence: 2_000, call: 20_000, slow: 1_000 };
    const SLOW_CLIENT: Duration = Duration::from_secs(5);

    fn due(call: &Call) -> u64 {
        call.deadline(SLOW_CLIENT).as_millis()
    }

    #[test]
    fn each_phase_has_its_own_clock() {
        let at = Time::from_millis;
        let mut call = Call::new(at(1_000), AGES, Pass::default());
        assert_eq!(due(&call), 4_000, "header");
        call.on_alive();
        assert_eq!(due(&call), 7_000, "first piece");
        call.on_spoken(at(2_500));
        assert_eq!((due(&call), call.slow), (4_500, true), "silence");
        call.on_spoken(at(4_000));
        assert_eq!(due(&call), 6_000);
        call.on_spoken(at(20_000));
        assert_eq!(due(&call), 21_000, "the whole call");
    }

    #[test]
    fn clocks_stand_still_while_paused() {
        let at = Time::from_millis;
        let mut call = Call::new(at(0), AGES, Pass::default());
        call.pause(at(1_000));
        assert_eq!(due(&call), 6_000, "the client's time");
        assert!(!call.is_given_up(at(5_999), SLOW_CLIENT) && call.is_given_up(at(6_000), SLOW_CLIENT));
        call.resume(at(4_000));
        assert_eq!(due(&call), 6_000, "the header's time, three seconds later");
        call.on_spoken(at(4_500));
        assert!(call.slow, "half a second after the pause, but one and a half in all");
        call.pause(at(5_000));
        call.on_spoken(at(5_100));
        assert_eq!(due(&call), 10_000, "a piece that was on the wire resumes nothing");
        call.resume(at(9_000));
        assert_eq!((due(&call), call.is_paused()), (11_000, false));
    }
}
