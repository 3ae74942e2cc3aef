//! The shard, tested through its only doors: given these events, exactly these effects.
//!
//! A [`Scene`] is a shard, a clock and the effects of the last event as lines; each file tells one part of a message's
//! way. The simulator in `tests/sim.rs` does what nobody thought of.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one effect among all")]

mod admission;
mod calls;
mod delivery;
mod durable;
mod links;
mod lookups;
mod operations;
mod overload;
mod places;
mod previews;
mod quotas;
mod reload;
mod requests;
mod retries;
mod rounds;
mod sessions;
mod threads;
mod while_running;
mod writer;

use crate::bounds::Bounds;
use crate::codes::Code;
use crate::effect::{Dead, Effect, Effects, Notice, Outcome, Saved};
use crate::event::{
    Class, Delivery, End, Event, Failure, Inbound, Mode, Operation, Piece, Retry, Scope, Stop,
};
use crate::id::{AgentId, CallId, ChannelId, Client, ModelId, SessionId, ShardId, TurnId};
use crate::limits::Limits;
use crate::links::Links;
use crate::plan::{
    Agent, BreakerPlan, Channel, DmPolicy, Excerpt, GroupPolicy, Model, Plan, Unit, WhileRunning,
};
use crate::preview::PREVIEW;
use crate::record::Record;
use crate::route::Strategy;
use crate::shard::Shard;
use crate::time::Time;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

/// A model with a second for each phase.
pub(crate) fn model(name: &str) -> Model {
    Model {
        name: name.into(),
        running_max: 0,
        requests_per_minute: 0,
        tokens_per_minute: 0,
        header_age_max: Duration::from_secs(2),
        first_piece_age_max: Duration::from_secs(4),
        silence_max: Duration::from_secs(3),
        call_age_max: Duration::from_secs(30),
        retry: None,
        fallback: None,
        breaker: BreakerPlan {
            calls_min: 3,
            failed_percent: 50,
            slow_after: Duration::from_secs(2),
            slow_percent: 0,
            window: Duration::from_secs(60),
            open_min: Duration::from_secs(10),
            open_max: Duration::from_secs(60),
            probes: 1,
        },
    }
}

pub(crate) fn agent(name: &str, models: &[u16]) -> Agent {
    Agent {
        name: name.into(),
        models: models.iter().map(|&id| ModelId(id)).collect(),
        running_max: 0,
        waiting_max: 0,
        attempts_max: 2,
        fallback: None,
        history: false,
        excerpt: Excerpt::ALL,
        needs_history: true,
        while_running: WhileRunning::default(),
        wait_target: Duration::ZERO,
        failure_text: None,
    }
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel {
        name: name.into(),
        text_max: 20,
        unit: Unit::Chars,
        preview_every: Duration::ZERO,
        dm: DmPolicy::Open,
        groups: GroupPolicy::Open,
        allowed: BTreeSet::new(),
        mention_gating: false,
        agent: None,
        class: Class::Normal,
    }
}

/// One agent with two models, one channel.
pub(crate) fn plan() -> Plan {
    Plan {
        limits: Limits::TEST,
        channels: vec![channel("web")],
        agents: vec![agent("ada", &[0, 1])],
        models: vec![model("big"), model("small")],
        route: Strategy::Static(AgentId(0)),
        links: Links::default(),
    }
}

/// One shard or several, under one clock.
pub(crate) struct Scene {
    pub(crate) shards: Vec<Shard>,
    pub(crate) now: Time,
    pub(crate) out: Effects,
    tickets: u32,
}

pub(crate) fn scene(plan: Plan) -> Scene {
    scene_of(plan, 1)
}

pub(crate) fn scene_of(plan: Plan, shards: u16) -> Scene {
    let plan = Arc::new(plan);
    let bounds = Arc::new(Bounds::new(&plan, shards));
    let shard = |n| Shard::new(ShardId(n), shards, plan.clone(), bounds.clone(), u64::from(n) + 7);
    Scene {
        shards: (0..shards).map(shard).collect(),
        now: Time::from_millis(1_000),
        out: Effects::new(),
        tickets: 0,
    }
}

/// A direct message, answered as a stream.
pub(crate) fn says<'a>(peer: &'a str, text: &'a str) -> Inbound<'a> {
    Inbound { peer, text, ..Inbound::default() }
}

/// A message of a platform's.
pub(crate) fn posts<'a>(peer: &'a str, text: &'a str) -> Inbound<'a> {
    Inbound { peer, text, chat: "room", mode: Mode::Deliver, ..Inbound::default() }
}

pub(crate) fn turn(slot: u32, generation: u32) -> TurnId {
    TurnId { slot, generation }
}

pub(crate) fn call(slot: u32, generation: u32, attempt: u16) -> CallId {
    CallId { turn: turn(slot, generation), attempt }
}

pub(crate) fn failed(code: Code, retry: Retry) -> End<'static> {
    End::Failed(Failure { code, retry, status: 0, detail: "its words" })
}

pub(crate) fn failed_with(status: u16, retry: Retry) -> End<'static> {
    End::Failed(Failure { code: Code::UpstreamFailed, retry, status, detail: "its words" })
}

impl Scene {
    pub(crate) fn shard(&mut self) -> &mut Shard {
        &mut self.shards[0]
    }

    pub(crate) fn sleep(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    pub(crate) fn on(&mut self, shard: usize, event: Event<'_>) -> Vec<String> {
        self.out.clear();
        self.shards[shard].handle(self.now, event, &mut self.out);
        self.lines()
    }

    pub(crate) fn event(&mut self, event: Event<'_>) -> Vec<String> {
        self.on(0, event)
    }

    pub(crate) fn send_to(&mut self, shard: usize, inbound: Inbound<'_>) -> Vec<String> {
        self.tickets += 1;
        let client = Client { ticket: self.tickets, ..Client::default() };
        self.on(shard, Event::Inbound { client, inbound })
    }

    pub(crate) fn send(&mut self, inbound: Inbound<'_>) -> Vec<String> {
        self.send_to(0, inbound)
    }

    pub(crate) fn piece(&mut self, call: CallId, piece: Piece<'_>) -> Vec<String> {
        self.event(Event::Piece { call, piece })
    }

    pub(crate) fn text(&mut self, call: CallId, text: &str) -> Vec<String> {
        self.piece(call, Piece::Text(text))
    }

    pub(crate) fn ends(&mut self, call: CallId, end: End<'_>) -> Vec<String> {
        self.event(Event::Ended { call, end })
    }

    pub(crate) fn finishes(&mut self, call: CallId) -> Vec<String> {
        self.ends(call, End::Finished(Stop::Complete))
    }

    pub(crate) fn delivered(
        &mut self,
        turn: TurnId,
        part: u16,
        attempt: u16,
        delivery: Delivery<'_>,
    ) -> Vec<String> {
        self.event(Event::Delivered { turn, part, attempt, delivery })
    }

    pub(crate) fn operates(&mut self, session: SessionId, operation: Operation<'_>) -> Vec<String> {
        self.event(Event::Operate { client: Client::default(), session, operation })
    }

    pub(crate) fn tick(&mut self) -> Vec<String> {
        self.out.clear();
        self.shards[0].tick(self.now, &mut self.out);
        self.lines()
    }

    /// Lets time pass to the next deadlines until something happens; says when and what.
    pub(crate) fn next(&mut self) -> (u64, Vec<String>) {
        for _ in 0..100 {
            let Some(at) = self.shards[0].next_deadline() else { return (0, Vec::new()) };
            self.now = self.now.max(at);
            let lines = self.tick();
            if !lines.is_empty() {
                return (self.now.as_millis(), lines);
            }
        }
        panic!("a hundred ticks without an effect");
    }

    pub(crate) fn find(&self, peer: &str) -> Option<SessionId> {
        self.shards[0].find(ChannelId(0), Scope::Direct, peer, "", "")
    }

    fn lines(&self) -> Vec<String> {
        self.out.list().iter().map(|effect| line(effect, &self.out)).collect()
    }
}

fn of(turn: TurnId) -> String {
    format!("{}.{}", turn.slot, turn.generation)
}

fn of_call(call: CallId) -> String {
    format!("{}#{}", of(call.turn), call.attempt)
}

fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answered => "answered".to_string(),
        Outcome::Failed(code) => format!("failed {}", code.name()),
        Outcome::Cancelled => "cancelled".to_string(),
        Outcome::Dead(code) => format!("dead {}", code.name()),
        Outcome::Merged => "merged".to_string(),
    }
}

/// An effect as a short line.
fn line(effect: &Effect, out: &Effects) -> String {
    match *effect {
        Effect::Accepted { turn, ahead, .. } => format!("accepted {} ahead {ahead}", of(turn)),
        Effect::Duplicate { .. } => "duplicate".to_string(),
        Effect::Ignored { why, .. } => format!("ignored {why:?}"),
        Effect::Refused { code, retry_after_millis, .. } => {
            format!("refused {} {retry_after_millis}", code.name())
        }
        Effect::Start { call, agent, model } => {
            format!("start {} agent {} model {}", of_call(call), agent.0, model.0)
        }
        Effect::Cancel { call, overdue: _ } => format!("cancel {}", of_call(call)),
        Effect::Ask { call, after_millis } => format!("ask {} after {after_millis}", of_call(call)),
        Effect::Pause { call } => format!("pause {}", of_call(call)),
        Effect::Resume { call } => format!("resume {}", of_call(call)),
        Effect::Send { turn, seq, text, .. } => format!("send {} {seq} {}", of(turn), out.text(text)),
        Effect::Finish { turn, seq, text, model, .. } => {
            format!("finish {} {seq} [{}] by {}", of(turn), out.text(text), model.0)
        }
        Effect::Fail { turn, seq, code, detail, retry_after_millis, .. } => {
            format!("fail {} {seq} {} [{}] {retry_after_millis}", of(turn), code.name(), out.text(detail))
        }
        Effect::Merged { turn, seq, into, .. } => format!("merged {} {seq} into {}", of(turn), of(into)),
        Effect::Deliver { turn, part, attempt, text, edits, .. } => {
            let part = if part == PREVIEW { "preview".to_string() } else { format!("part {part}") };
            let edits = if out.text(edits).is_empty() { "" } else { &format!(" into {}", out.text(edits)) };
            format!("deliver {} {part} attempt {attempt} [{}]{edits}", of(turn), out.text(text))
        }
        Effect::Settled { turn, outcome: how, .. } => format!("settled {} {}", of(turn), outcome(how)),
        Effect::Publish { notice, text, .. } => publish(notice, out.text(text)),
        Effect::Operated { refused, .. } => format!("operated {}", refused.map_or("ok", Code::name)),
        Effect::Nudge { shard, agent } => format!("nudge {} agent {}", shard.0, agent.0),
        Effect::Breaker { model, state } => format!("breaker {} {state:?}", model.0),
        Effect::Attached { turn, durable, .. } => format!("attached {} {durable}", of(turn)),
        Effect::Durable { turn, .. } => format!("durable {}", of(turn)),
        Effect::Append { lsn, record } => format!("append {lsn} {}", written(out.bytes(record))),
        Effect::LookUp { lookup, .. } => format!("look up {lookup}"),
        Effect::Load { session } => format!("load {}.{}", session.slot, session.generation),
        Effect::Save { save, saved, .. } => format!("save {save} {}", kept(saved, out)),
    }
}

fn publish(notice: Notice, text: &str) -> String {
    format!("publish {notice:?} [{text}]")
}

fn written(bytes: &[u8]) -> String {
    match Record::decode(bytes) {
        Some(Record::Accepted(accepted)) => {
            let took = accepted.took.iter().count();
            let took = if took == 0 { String::new() } else { format!(" for {took} more") };
            let seen = accepted.seen.iter().count();
            let seen = if seen == 0 { String::new() } else { format!(" with {seen} id") };
            let ending = if accepted.ending { ", over" } else { "" };
            format!("accepted {} {}{took}{seen}{ending}", accepted.id, accepted.text)
        }
        Some(Record::Reply { verdict, text, .. }) => format!("reply {} {text}", outcome(verdict)),
        Some(Record::Delivered { part, message, .. }) => format!("delivered {part} {message}"),
        Some(Record::Shown { message, .. }) => format!("shown in {message}"),
        Some(Record::Settled { outcome: how, attempts, detail, .. }) => {
            format!("settled {} {attempts} {detail}", outcome(how))
        }
        Some(Record::Cursor { channel, value }) => format!("cursor {channel} {value}"),
        Some(Record::Forgot(forgot)) => {
            let what = if forgot.closed { "closed" } else { "reset" };
            format!("forgot {} {what}", forgot.peer)
        }
        Some(Record::Seen { .. }) => "seen".to_string(),
        Some(Record::Dropped { uid }) => format!("dropped {}", uid.0),
        None => "nothing".to_string(),
    }
}

fn kept(saved: Saved, out: &Effects) -> String {
    match saved {
        Saved::Said { text, reply, .. } => format!("said {:?} {:?}", out.text(text), out.text(reply)),
        Saved::Session { .. } => "session".to_string(),
        Saved::Closed { .. } => "closed".to_string(),
        Saved::Seen { .. } => "seen".to_string(),
        Saved::Dead(Dead { record, code, attempts, answered, parts, detail, reply }) => format!(
            "dead {} {attempts} {:?} {:?} answered {answered} {parts} {:?}",
            code.name(),
            out.text(detail),
            written(out.bytes(record)),
            out.text(reply)
        ),
        Saved::Revived { .. } => "revived".to_string(),
    }
}
