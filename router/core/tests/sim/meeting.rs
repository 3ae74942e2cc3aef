//! The judgement of messages that meet a turn of their session that runs: who joins whom, who gives way to whom, and
//! with what text a model is asked then.
use crate::board::{Board, Cause, Step};
use crate::plans::Name;
use crate::turn::{Phase, Rest, Turn, fired};
use clawgate_core::effect::{Effect, Outcome};
use clawgate_core::event::{Class, Inbound, Mode};
use clawgate_core::id::{Client, SessionId, TurnId};
use clawgate_core::plan::{DropPolicy, RunningMode};
use std::collections::BTreeMap;

/// What must come of a meeting by the end of the step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meeting {
    /// Turns that join another, and which.
    pub(crate) into: BTreeMap<TurnId, TurnId>,
    /// The turn whose call is made anew.
    pub(crate) steered: Option<TurnId>,
    /// The turn that a newer message cancels.
    pub(crate) interrupted: Option<TurnId>,
    /// The turn that gives way at the cap.
    pub(crate) dropped: Option<TurnId>,
}

/// What one message says.
#[derive(Clone, Copy, Debug)]
struct Said<'a> {
    agent: Name,
    delivered: bool,
    name: &'a str,
    text: &'a str,
}

impl<'a> Said<'a> {
    fn of(turn: &'a Turn) -> Option<Self> {
        let agent = turn.agent.filter(|_| asks(turn))?;
        Some(Self { agent, delivered: turn.mode == Mode::Deliver, name: &turn.name, text: &turn.text })
    }
}

/// Is it a message for a model that did not fail?
const fn asks(turn: &Turn) -> bool {
    !turn.outbound && !turn.failed_behind
}

/// What several messages say together: the name that they share, and the text; `None` if they do not go together.
fn together(said: &[Said<'_>], text_bytes_max: usize) -> Option<(String, String)> {
    let first = said.first()?;
    let alike = said.iter().all(|other| (other.agent, other.delivered) == (first.agent, first.delivered));
    let shared = said.iter().all(|other| other.name == first.name);
    let lines = said.iter().map(|said| {
        if shared || said.name.is_empty() {
            said.text.to_owned()
        } else {
            format!("{}: {}", said.name, said.text)
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let name = if shared { first.name.to_owned() } else { String::new() };
    (alike && text.len() <= text_bytes_max).then_some((name, text))
}

impl Board {
    fn text_bytes_max(&self) -> usize {
        self.limits().text_bytes_max as usize
    }

    fn running_mode(&self, session: SessionId, agent: Name) -> RunningMode {
        self.sessions[&session].running_mode.unwrap_or(self.agent(agent).while_running.mode)
    }

    fn cap(&self, agent: Name) -> usize {
        let most = self.limits().session_waiting_max;
        let own = self.agent(agent).while_running.cap;
        usize::from(if own == 0 { most } else { own.min(most) })
    }

    /// The oldest turn that waits in a session and may give way.
    fn oldest(&self, session: SessionId) -> Option<TurnId> {
        self.sessions[&session].queue.iter().skip(1).find(|id| asks(&self.turns[id])).copied()
    }

    /// May one more message for this agent wait in the session, or will something give way?
    pub(crate) fn has_room(&self, session: SessionId, agent: Name, inbound: &Inbound<'_>) -> bool {
        let queue = &self.sessions[&session].queue;
        let Some(front) = queue.front().map(|id| &self.turns[id]) else { return true };
        let interrupts = self.running_mode(session, agent) == RunningMode::Interrupt && asks(front);
        if queue.len() <= self.cap(agent) || interrupts {
            return true;
        }
        match self.agent(agent).while_running.drop {
            DropPolicy::Newest => false,
            DropPolicy::Oldest => self.oldest(session).is_some(),
            DropPolicy::Merge => {
                let last = queue.iter().skip(1).next_back().and_then(|id| Said::of(&self.turns[id]));
                let name_max = usize::from(self.limits().name_bytes_max);
                let name = crate::admission::clip(inbound.name, name_max);
                let new = Said { agent, delivered: inbound.mode == Mode::Deliver, name, text: inbound.text };
                last.is_some_and(|last| together(&[last, new], self.text_bytes_max()).is_some())
            }
        }
    }

    /// A message that is taken had room.
    pub(crate) fn check_room(&self, step: &Step<'_>, turn: &Turn) {
        let session = turn.session;
        let Cause::Event(clawgate_core::event::Event::Inbound { inbound, .. }) = step.cause else {
            let most = usize::from(self.limits().session_waiting_max);
            assert!(self.sessions[&session].queue.len() <= most, "{session:?} has too many turns");
            return;
        };
        let agents = turn.agent.iter().chain(&turn.others);
        let mut fits = agents.map(|agent| self.has_room(session, agent, &inbound));
        assert!(fits.any(|fits| fits), "{session:?} has too many turns: {:?}", self.sessions[&session].queue);
    }

    /// A message was taken: what it does to the turn that runs, or to those that wait.
    pub(crate) fn meet_running(&mut self, step: &mut Step<'_>, id: TurnId) {
        let session = self.turns[&id].session;
        let queue: Vec<TurnId> = self.sessions[&session].queue.iter().copied().collect();
        let (&[front, .., last], Some(agent)) = (&queue[..], self.turns[&id].agent) else { return };
        assert_eq!(last, id, "it is the last");
        // Of a message that joined at once only that tells whom it asked.
        let joined = is_merged(step, id);
        let agent = self.turns[&front].agent.filter(|_| joined).unwrap_or(agent);
        let mode = self.running_mode(session, agent);
        if joined {
            let candidates =
                [&self.turns[&id].others[..], &[self.turns[&id].agent.unwrap_or(agent)]].concat();
            assert!(candidates.contains(&agent), "{id:?} joins one that asks {agent}, not {candidates:?}");
            self.turn(id).agent = Some(agent);
        }
        let steers = mode == RunningMode::Steer && queue.len() == 2 && self.is_open(front);
        let both = steers.then(|| self.join(&[front, id])).flatten();
        assert_eq!(joined, both.is_some(), "{id:?} meets {front:?} in mode {mode:?}");
        if both.is_some() {
            step.mark("steered");
            step.meeting.steered = Some(front);
            self.merge(step, &[front, id], front, both);
            return;
        }
        if mode == RunningMode::Interrupt && asks(&self.turns[&front]) {
            step.mark("interrupted");
            step.meeting.interrupted = Some(front);
            return;
        }
        if queue.len() - 1 <= self.cap(agent) {
            return;
        }
        match self.agent(agent).while_running.drop {
            DropPolicy::Newest => panic!("{session:?} has too many turns"),
            DropPolicy::Oldest => step.meeting.dropped = self.oldest(session),
            DropPolicy::Merge => {
                step.mark("merged at the cap");
                let pair = [queue[queue.len() - 2], id];
                let both = self.join(&pair);
                self.merge(step, &pair, id, both);
            }
        }
    }

    /// Was nothing of its answer shown, and may it be asked anew?
    fn is_open(&self, id: TurnId) -> bool {
        let turn = &self.turns[&id];
        let early = matches!(turn.phase, Phase::Waiting | Phase::Calling(_) | Phase::Resting(_));
        early && turn.seq == 0 && !turn.forgets && asks(turn)
    }

    fn join(&self, ids: &[TurnId]) -> Option<(String, String)> {
        let said: Option<Vec<Said<'_>>> = ids.iter().map(|id| Said::of(&self.turns[id])).collect();
        together(&said?, self.text_bytes_max())
    }

    /// From here on `into` says what all of these say.
    fn merge(&mut self, step: &mut Step<'_>, ids: &[TurnId], into: TurnId, both: Option<(String, String)>) {
        let Some((name, text)) = both else { panic!("{ids:?} do not go together") };
        if name.is_empty() && ids.iter().any(|id| !self.turns[id].name.is_empty()) {
            step.mark("names before texts");
        }
        let class = ids.iter().map(|id| self.turns[id].class).max();
        step.meeting.into.extend(ids.iter().filter(|id| **id != into).map(|id| (*id, into)));
        let waits = step.meeting.steered != Some(into);
        let turn = self.turn(into);
        (turn.name, turn.text) = (name, text);
        turn.class = class.filter(|_| waits).unwrap_or(turn.class);
    }

    /// The running turn of a session is over: those that wait at the front and go together become one.
    pub(crate) fn collect(&mut self, step: &mut Step<'_>, session: SessionId) {
        let queue: Vec<TurnId> = self.sessions[&session].queue.iter().copied().collect();
        let [head, _, ..] = queue[..] else { return };
        let Some(agent) = self.turns[&head].agent else { return };
        match self.running_mode(session, agent) {
            RunningMode::Collect | RunningMode::Steer => {}
            RunningMode::Followup | RunningMode::Interrupt => return,
        }
        let mut run: Vec<TurnId> = Vec::new();
        for id in queue {
            let longer = [&run[..], &[id]].concat();
            // Whether one failed in this very tick before it was looked at only what became of those before it tells.
            let unsure = self.may_have_failed(step, id);
            let evidence = run.last().map_or(is_merged(step, id), |before| is_merged(step, *before));
            if (unsure && !evidence) || self.join(&longer).is_none() {
                break;
            }
            run = longer;
        }
        if let [_, .., last] = run[..] {
            step.mark("collected");
            let both = self.join(&run);
            self.merge(step, &run, last, both);
        }
    }

    /// It may have waited for too long, and owe its apology since this tick.
    fn may_have_failed(&self, step: &Step<'_>, id: TurnId) -> bool {
        let turn = &self.turns[&id];
        let due = fired(turn.admitted + self.limits().waiting_age_max, self.now);
        matches!(step.cause, Cause::Tick) && due && self.owes_apology(turn)
    }

    /// Its call was cancelled to be made anew: it keeps its place, and nothing counts against it.
    pub(crate) fn restart(&mut self, id: TurnId) {
        let now = self.now;
        let turn = self.turn(id);
        turn.phase = Phase::Resting(Rest { from: now, until: now });
        turn.tried.clear();
        turn.last = None;
    }

    pub(crate) fn on_merged(
        &mut self,
        step: &mut Step<'_>,
        client: Client,
        id: TurnId,
        seq: u32,
        into: TurnId,
    ) {
        step.mark("effect Merged");
        assert_eq!(step.meeting.into.get(&id), Some(&into), "{id:?} joins {into:?}, and should not");
        assert!(self.turns.contains_key(&into), "{id:?} joins {into:?}, which is over");
        let turn = self.turn(id);
        assert_ne!(turn.mode, Mode::Deliver, "{id:?}: nobody waits to be told that it is merged");
        assert!(matches!(turn.phase, Phase::Waiting), "{id:?} is merged in {:?}", turn.phase);
        turn.speak(client, seq);
        turn.end(Outcome::Merged);
    }

    /// All that a meeting had to lead to has come.
    pub(crate) fn check_meeting(&self, step: &Step<'_>) {
        let Meeting { into, interrupted, dropped, steered: _ } = &step.meeting;
        for id in into.keys().chain(interrupted).chain(dropped) {
            assert!(!self.turns.contains_key(id), "{id:?} is not over: {:?}", step.meeting);
        }
    }

    /// May a message of this class for this agent be refused because others of that class wait here for too long?
    pub(crate) fn is_crowded(&self, agent: Name, class: Class) -> bool {
        let waits = |turn: &Turn| {
            (turn.agent, turn.class) == (Some(agent), class) && turn.waits() && turn.ready.is_some()
        };
        !self.agent(agent).wait_target.is_zero() && self.turns.values().any(waits)
    }
}

/// Did this turn join another in this step?
#[expect(clippy::wildcard_enum_match_arm, reason = "what else there is says nothing of these")]
fn is_merged(step: &Step<'_>, id: TurnId) -> bool {
    step.effects.list().iter().any(|effect| match effect {
        Effect::Settled { turn, outcome, .. } => *turn == id && *outcome == Outcome::Merged,
        _ => false,
    })
}
