//! What the shadow knows of one turn: which promises were made to whom, and which clocks run against it.
//!
//! Written from the contract alone. A clock is kept as the contract words it, so that a time-out that comes too early,
//! too late or without a cause is seen.
use crate::breakers::Verdict;
use crate::plans::Name;
use clawgate_core::codes::Code;
use clawgate_core::effect::Outcome;
use clawgate_core::event::{Class, Mode, Retry, Stop, Usage};
use clawgate_core::id::{CallId, Client, SessionId};
use clawgate_core::limits::Limits;
use clawgate_core::plan::{Model, Plan};
use clawgate_core::time::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Has a timer for this moment fired by `now`? Timers tick in whole milliseconds and are never early.
pub(crate) const fn fired(at: Time, now: Time) -> bool {
    at.0.div_ceil(1_000_000) <= now.as_millis()
}

/// Which clock ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Clock {
    Header,
    FirstPiece,
    Silence,
    Call,
    SlowClient,
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: CallId,
    pub(crate) model: Name,
    /// In which period of its breaker it began.
    pub(crate) period: u32,
    pub(crate) started: Time,
    /// From when its first words are waited for: the start, later by all pauses.
    pub(crate) awaited: Time,
    /// There was a sign of life.
    pub(crate) alive: bool,
    /// There was a text or a thought.
    pub(crate) spoke: bool,
    /// Its first words took long.
    pub(crate) slow: bool,
    /// Its last words, or the end of the last pause.
    pub(crate) last: Time,
    pub(crate) paused: Option<Time>,
    /// Its upstream means to fall silent or never to end.
    pub(crate) stalls: bool,
    /// It was paused at some time.
    pub(crate) was_paused: bool,
    pub(crate) said: String,
    pub(crate) usage: Option<Usage>,
}

impl Live {
    pub(crate) const fn new(id: CallId, model: Name, period: u32, now: Time) -> Self {
        Self {
            id,
            model,
            period,
            started: now,
            awaited: now,
            alive: false,
            spoke: false,
            slow: false,
            last: now,
            paused: None,
            stalls: false,
            was_paused: false,
            said: String::new(),
            usage: None,
        }
    }

    /// It said something, or thought.
    pub(crate) fn speak(&mut self, now: Time, slow_after: Duration) {
        if !self.spoke {
            self.slow = slow_after < now.since(self.awaited);
        }
        (self.spoke, self.last) = (true, now);
    }

    pub(crate) const fn pause(&mut self, now: Time) {
        self.paused = Some(now);
        self.was_paused = true;
    }

    /// The clocks that stood still go on.
    pub(crate) fn resume(&mut self, now: Time) {
        if let Some(since) = self.paused.take() {
            self.awaited = self.awaited + now.since(since);
            self.last = now;
        }
    }

    /// The clocks that run, with when each runs out.
    pub(crate) fn clocks(&self, model: &Model, slow_client_age_max: Duration) -> Vec<(Clock, Time)> {
        let mut clocks = vec![(Clock::Call, self.started + model.call_age_max)];
        match self.paused {
            // While nothing is read nothing can come.
            Some(since) => clocks.push((Clock::SlowClient, since + slow_client_age_max)),
            None if self.spoke => clocks.push((Clock::Silence, self.last + model.silence_max)),
            None => {
                clocks.push((Clock::FirstPiece, self.awaited + model.first_piece_age_max));
                if !self.alive {
                    clocks.push((Clock::Header, self.awaited + model.header_age_max));
                }
            }
        }
        clocks
    }
}

/// Why a call is over, where it did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Left,
    Operator,
    TooLong,
    /// A newer message of the session cancelled it.
    Interrupted,
    /// A newer message joined it: it is made anew.
    Steered,
    Clock(Clock),
}

/// How a call was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finale {
    Finished(Stop),
    Failed { code: Code, retry: Retry, detail: String },
    Cut(Cut),
}

impl Finale {
    /// May the turn be tried again, as far as this goes?
    pub(crate) const fn retry(&self) -> Retry {
        match self {
            Self::Failed { retry, .. } => *retry,
            Self::Cut(Cut::Clock(Clock::Header | Clock::FirstPiece | Clock::Silence | Clock::Call)) => {
                Retry::Backoff
            }
            Self::Cut(
                Cut::Clock(Clock::SlowClient)
                | Cut::Left
                | Cut::Operator
                | Cut::TooLong
                | Cut::Interrupted
                | Cut::Steered,
            )
            | Self::Finished(_) => Retry::Never,
        }
    }

    /// What its client is told, if it comes to that.
    pub(crate) const fn code(&self) -> Option<Code> {
        match self {
            Self::Finished(_) | Self::Cut(Cut::Left | Cut::Steered) => None,
            Self::Failed { code, .. } => Some(*code),
            Self::Cut(Cut::Operator | Cut::Interrupted) => Some(Code::Cancelled),
            Self::Cut(Cut::TooLong) => Some(Code::ReplyTooLong),
            Self::Cut(Cut::Clock(Clock::SlowClient)) => Some(Code::SlowConsumer),
            Self::Cut(Cut::Clock(Clock::Header | Clock::FirstPiece | Clock::Silence | Clock::Call)) => {
                Some(Code::UpstreamTimeout)
            }
        }
    }

    /// What the model's breaker hears of it.
    pub(crate) const fn verdict(&self, live: &Live) -> Verdict {
        match self {
            Self::Finished(_) => Verdict::Good { slow: live.slow },
            Self::Failed { retry: Retry::Backoff | Retry::After(_), .. } => Verdict::Failed,
            Self::Failed { retry: Retry::AtOnce | Retry::Elsewhere | Retry::Never, .. } => Verdict::Neutral,
            // A model that was not read says nothing about itself.
            Self::Cut(Cut::Clock(Clock::Header | Clock::FirstPiece | Clock::Silence | Clock::Call))
                if live.paused.is_none() =>
            {
                Verdict::Failed
            }
            Self::Cut(_) => Verdict::Neutral,
        }
    }
}

/// Until the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// Not before.
    pub(crate) from: Time,
    /// At the latest.
    pub(crate) until: Time,
}

impl Rest {
    /// The pause after so many attempts: at least the least one, at most one that doubles with each.
    pub(crate) fn backoff(now: Time, attempts: u16, limits: &Limits) -> Self {
        let most = limits.backoff_min.saturating_mul(1 << attempts.clamp(1, 20)).min(limits.backoff_max);
        Self { from: now + limits.backoff_min, until: now + most }
    }
}

/// What comes after an attempt to deliver a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next part, or the end, at once.
    Part,
    /// The same part again.
    Again(Rest),
    /// Nothing: the platform does not take it.
    Dead,
}

/// An answer on its way to a platform.
#[derive(Debug)]
pub(crate) struct Posting {
    /// All that is to be posted.
    pub(crate) text: String,
    /// What was confirmed of it.
    pub(crate) posted: String,
    /// How the turn may end once all is confirmed.
    pub(crate) outcomes: Vec<Outcome>,
    /// The part under way, or confirmed last; `None` before the first.
    pub(crate) part: Option<u16>,
    pub(crate) attempt: u16,
    /// The text of that part.
    pub(crate) current: String,
    /// The plan under which it was cut.
    pub(crate) plan: Arc<Plan>,
    /// An attempt is under way since then.
    pub(crate) since: Option<Time>,
    /// Attempts at this part that count against the limit.
    pub(crate) burnt: u16,
    /// Times that the platform said when to come back.
    pub(crate) deferred: u16,
    pub(crate) next: Next,
    /// The platform means to lose this attempt, or to answer it late.
    pub(crate) stalls: bool,
}

/// Times that a platform may say "later" for one part before its word counts as a failed attempt.
const DEFERRED_MAX: u16 = 10;

impl Posting {
    pub(crate) const fn new(text: String, outcomes: Vec<Outcome>, plan: Arc<Plan>) -> Self {
        Self {
            text,
            posted: String::new(),
            outcomes,
            part: None,
            attempt: 0,
            current: String::new(),
            plan,
            since: None,
            burnt: 0,
            deferred: 0,
            next: Next::Part,
            stalls: false,
        }
    }

    /// The attempt failed; `after` is the platform's own word on when to come back, zero for none.
    pub(crate) fn fail(&mut self, now: Time, after: Duration, limits: &Limits) {
        self.since = None;
        let after = after.min(limits.backoff_max);
        if !after.is_zero() && self.deferred < DEFERRED_MAX {
            self.deferred += 1;
            self.next = Next::Again(Rest { from: now + after, until: now + after });
            return;
        }
        self.burnt += 1;
        self.next = if limits.delivery_attempts_max <= self.burnt {
            Next::Dead
        } else {
            let rest = Rest::backoff(now, self.burnt, limits);
            Next::Again(Rest { from: rest.from.max(now + after), until: rest.until.max(now + after) })
        };
    }
}

/// Where a turn is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Admitted and never started.
    Waiting,
    Calling(Box<Live>),
    /// Its call is over; what follows is owed in the same step.
    Ended(Box<Live>, Finale),
    /// Between two calls. Keeps its place at the agent.
    Resting(Rest),
    Posting(Box<Posting>),
    /// Its end was told; `Settled` is owed in the same step.
    Over,
}

/// One admitted message.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) client: Client,
    pub(crate) mode: Mode,
    /// Written by an operator: there is nothing to ask a model.
    pub(crate) outbound: bool,
    pub(crate) session: SessionId,
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) class: Class,
    pub(crate) admitted: Time,
    /// When its first call was started.
    pub(crate) began: Time,
    /// Who answers; nobody where nothing is asked.
    pub(crate) agent: Option<Name>,
    /// Who else may have been meant, where the turn was over before anybody could tell.
    pub(crate) others: Vec<Name>,
    /// Sends so far.
    pub(crate) seq: u32,
    /// The number of the next call.
    pub(crate) calls: u16,
    /// Calls by model.
    pub(crate) tried: BTreeMap<Name, u16>,
    /// The model of its last call, and why that failed.
    pub(crate) last: Option<(Name, Finale)>,
    /// Its client's outbox is full.
    pub(crate) high: bool,
    /// The history was forgotten while it was answered.
    pub(crate) forgets: bool,
    pub(crate) phase: Phase,
    /// What was told of its end.
    pub(crate) told: Option<Outcome>,
    /// When it became the first of its session, as a number that grows.
    pub(crate) ready: Option<u64>,
    /// It failed behind others of its session, and owes its apology when it is first.
    pub(crate) failed_behind: bool,
    /// None of its models took calls at some time until then: it may wait for that, unseen.
    pub(crate) parked_until: Time,
}

impl Turn {
    /// Its call of this id, if that runs.
    pub(crate) fn live(&mut self, id: CallId) -> Option<&mut Live> {
        match &mut self.phase {
            Phase::Calling(live) if live.id == id => Some(live),
            Phase::Waiting
            | Phase::Calling(_)
            | Phase::Ended(..)
            | Phase::Resting(_)
            | Phase::Posting(_)
            | Phase::Over => None,
        }
    }

    /// It waits for a place that it never had.
    pub(crate) const fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waiting) && !self.outbound
    }

    /// Something is said to its client, under this number.
    pub(crate) fn speak(&mut self, client: Client, seq: u32) {
        assert_eq!(client, self.client, "another client is told");
        assert_eq!(seq, self.seq + 1, "what a client is told is numbered without gaps");
        assert!(self.told.is_none() && !self.outbound, "something is told after the end");
        self.seq = seq;
    }

    /// Its end was told, or needs no word.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        assert!(self.told.is_none(), "two ends: {:?} and {outcome:?}", self.told);
        self.told = Some(outcome);
        self.phase = Phase::Over;
    }
}

/// A name for marks, without numbers.
pub(crate) const fn kind(retry: Retry) -> &'static str {
    match retry {
        Retry::Backoff => "Backoff",
        Retry::AtOnce => "AtOnce",
        Retry::After(_) => "After",
        Retry::Elsewhere => "Elsewhere",
        Retry::Never => "Never",
    }
}
