//! Paths of `core`: whole messages through a shard, with the agent `echo` and no history, as the gateway starts without
//! a configuration.
use super::{Operation, Path};
use crate::inputs::message_text;
use clawgate_core::bounds::Bounds;
use clawgate_core::effect::{Effect, Effects};
use clawgate_core::event::{Class, Delivery, End, Event, Inbound, Mode, Piece, Stop};
use clawgate_core::id::{AgentId, CallId, ChannelId, Client, ModelId, ShardId};
use clawgate_core::limits::Limits;
use clawgate_core::links::Links;
use clawgate_core::plan::{
    Agent, BreakerPlan, Channel, DmPolicy, Excerpt, GroupPolicy, Model, Plan, Unit, WhileRunning,
};
use clawgate_core::route::Strategy;
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

pub(super) const PATHS: &[Path] = &[
    Path::new("core/routed", "a message routed and its answer streamed, 1,000 sessions in turns", || {
        routed(Message { mode: Mode::Stream, with_id: false })
    }),
    Path::new("core/routed-id", "the same with an id against repetition", || {
        routed(Message { mode: Mode::Stream, with_id: true })
    }),
    Path::new("core/routed-whole", "the same, its answer told whole", || {
        routed(Message { mode: Mode::Whole, with_id: false })
    }),
    Path::new("core/routed-deliver", "the same, its answer posted to a platform and confirmed", || {
        routed(Message { mode: Mode::Deliver, with_id: true })
    }),
    Path::new("core/piece", "one piece of an answer streamed, of a turn of 100 pieces", piece),
];

/// Between two messages: 100,000 a second.
const STEP: Duration = Duration::from_micros(10);

/// What kind of message is routed.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// How its answer travels.
    pub mode: Mode,
    /// Does the platform number its events? Then repetition is looked for.
    pub with_id: bool,
}

/// A shard, and sessions that speak in turns.
#[derive(Debug)]
pub struct Routing {
    shard: Shard,
    effects: Effects,
    now: Time,
    sessions: Vec<String>,
    next: usize,
    routed: u64,
    calls: u64,
    text: String,
    prompt: String,
}

impl Routing {
    /// A shard in which each of so many sessions has had two messages, so that all memory is there.
    #[must_use]
    pub fn new(sessions: usize, message: Message) -> Self {
        let plan = Arc::new(plan(sessions.saturating_mul(2)));
        let bounds = Arc::new(Bounds::new(&plan, 1));
        let mut routing = Self {
            shard: Shard::new(ShardId(0), 1, plan, bounds, 1),
            effects: Effects::new(),
            now: Time::ZERO,
            sessions: (0..sessions).map(|n| format!("s{n:07}")).collect(),
            next: 0,
            routed: 0,
            calls: 0,
            text: message_text(70),
            prompt: String::new(),
        };
        // Ids are remembered up to a bound; beyond it each message forgets one, which is how it goes on. Its
        // tables grow once more when those that were forgotten have filled them: nearly all of them by then.
        let rounds = if message.with_id { 10 * DEDUP_IDS as usize } else { 0 };
        (0..(2 * sessions).max(rounds)).for_each(|_| routing.message(message));
        routing
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> &Shard {
        &self.shard
    }

    /// How often the shard was called.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// One message of the next session: admitted, started, answered, settled.
    ///
    /// # Panics
    /// If it is not: what is measured then is not a routed message.
    pub fn message(&mut self, message: Message) {
        let mut id = [b'0'; 20];
        let id = if message.with_id { write_decimal(&mut id, self.routed) } else { "" };
        let call = self.admit(id, message.mode);
        self.prompt.clear();
        let prompt = self.shard.prompt(call.turn).expect("a turn that was started has a prompt");
        self.prompt.push_str(prompt.text);
        let prompt = core::mem::take(&mut self.prompt);
        self.handle(Event::Piece { call, piece: Piece::Text(&prompt) });
        self.prompt = prompt;
        let mut settled = self.handle(Event::Ended { call, end: End::Finished(Stop::Complete) });
        if message.mode == Mode::Deliver {
            let delivered = Event::Delivered {
                turn: call.turn,
                part: 0,
                attempt: 0,
                delivery: Delivery::Confirmed { message: "" },
            };
            settled = self.handle(delivered);
        }
        assert!(settled, "the turn is over");
    }

    /// A message of the next session, up to the call that it starts.
    fn admit(&mut self, id: &str, mode: Mode) -> CallId {
        self.now = self.now + STEP;
        self.routed += 1;
        if self.shard.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.calls += 1;
            self.shard.tick(self.now, &mut self.effects);
            self.effects.clear();
        }
        let session = &self.sessions[self.next];
        self.next = (self.next + 1) % self.sessions.len();
        let inbound = Inbound {
            id,
            thread: session,
            peer: "local",
            name: "local",
            text: &self.text,
            mode,
            ..Inbound::default()
        };
        let client = Client { core: 0, slot: 1, generation: 1, ticket: 1 };
        self.calls += 1;
        self.shard.handle(
            self.now,
            Event::Inbound { client, inbound: black_box(inbound) },
            &mut self.effects,
        );
        let started =
            |effect: &Effect| if let Effect::Start { call, .. } = effect { Some(*call) } else { None };
        let call = self.effects.list().iter().find_map(started);
        black_box(self.effects.list());
        self.effects.clear();
        call.expect("an idle session's message starts at once")
    }

    /// Hands over an event and looks at each effect, as the shell does. Is a turn over?
    fn handle(&mut self, event: Event<'_>) -> bool {
        self.calls += 1;
        self.shard.handle(self.now, black_box(event), &mut self.effects);
        let mut settled = false;
        for effect in self.effects.list() {
            settled |= matches!(effect, Effect::Settled { .. });
            if let Effect::Send { text, .. } | Effect::Deliver { text, .. } = effect {
                black_box(self.effects.text(*text));
            }
        }
        self.effects.clear();
        settled
    }
}

fn routed(message: Message) -> Operation {
    let mut routing = Routing::new(1_000, message);
    Box::new(move || routing.message(message))
}

/// Pieces of an answer before the next turn begins.
const PIECES: usize = 100;

fn piece() -> Operation {
    let mut routing = Routing::new(8, Message { mode: Mode::Stream, with_id: false });
    let mut call = routing.admit("", Mode::Stream);
    let mut left = PIECES;
    Box::new(move || {
        if left == 0 {
            assert!(routing.handle(Event::Ended { call, end: End::Finished(Stop::Complete) }));
            call = routing.admit("", Mode::Stream);
            left = PIECES;
        }
        left -= 1;
        routing.now = routing.now + STEP;
        routing.handle(Event::Piece { call, piece: Piece::Text(black_box(" token")) });
    })
}

/// Into the end of `digits`: no allocation, and no formatting machinery among the instructions.
fn write_decimal(digits: &mut [u8; 20], mut number: u64) -> &str {
    let mut at = digits.len();
    while at != 0 {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    core::str::from_utf8(&digits[at..]).unwrap_or_default()
}

/// Event ids that are remembered: so many that the tables of them soon have the size that they keep.
const DEDUP_IDS: u32 = 1_536;

/// What a gateway without a configuration does, with room for so many sessions.
#[must_use]
pub fn plan(sessions_max: usize) -> Plan {
    let limits = Limits {
        sessions_max: u32::try_from(sessions_max).unwrap_or(u32::MAX),
        turns_max: 20_000,
        session_waiting_max: 32,
        text_bytes_max: 64 << 10,
        request_bytes_max: 768 << 10,
        reply_bytes_max: 256 << 10,
        name_bytes_max: 256,
        history_messages_max: 40,
        history_bytes_max: 64 << 10,
        context_entries_max: 32,
        context_bytes_max: 8 << 10,
        dedup_ids_max: DEDUP_IDS,
        dedup_filter_bytes_max: 0,
        lookups_max: 1,
        dedup_age_max: Duration::from_secs(604_800),
        kept_answers_max: 10_000,
        kept_answer_bytes_max: 16 << 20,
        session_idle_max: Duration::from_secs(86_400),
        waiting_age_max: Duration::from_secs(120),
        slow_client_age_max: Duration::from_secs(30),
        delivery_attempts_max: 8,
        delivery_age_max: Duration::from_secs(20),
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(30),
        load_age_max: Duration::from_secs(2),
    };
    let channel = Channel {
        name: "api".into(),
        text_max: 65_536,
        unit: Unit::Bytes,
        preview_every: Duration::ZERO,
        dm: DmPolicy::Open,
        groups: GroupPolicy::Disabled,
        allowed: Default::default(),
        mention_gating: false,
        agent: None,
        class: Class::Normal,
    };
    debug_assert!(ChannelId(0) == ChannelId::default(), "the inbound messages name no other");
    let route = Strategy::Static(AgentId(0));
    Plan {
        limits,
        channels: vec![channel],
        agents: vec![agent()],
        models: vec![model()],
        route,
        links: Links::default(),
    }
}

fn model() -> Model {
    let breaker = BreakerPlan {
        calls_min: 20,
        failed_percent: 50,
        slow_after: Duration::from_secs(30),
        slow_percent: 0,
        window: Duration::from_secs(60),
        open_min: Duration::from_secs(5),
        open_max: Duration::from_secs(60),
        probes: 3,
    };
    Model {
        name: "echo".into(),
        running_max: 0,
        requests_per_minute: 0,
        tokens_per_minute: 0,
        header_age_max: Duration::from_secs(30),
        first_piece_age_max: Duration::from_secs(120),
        silence_max: Duration::from_secs(60),
        call_age_max: Duration::from_secs(600),
        retry: None,
        fallback: None,
        breaker,
    }
}

fn agent() -> Agent {
    Agent {
        name: "main".into(),
        models: vec![ModelId(0)],
        running_max: 0,
        waiting_max: 1_000,
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
