//! The world around the shards: one clock, the mesh between the cores, the actors, and the shadow that watches all.
//!
//! Owns every shard and carries out their effects as a shell would. One step is one event or one tick of one shard.
use crate::agenda::Agenda;
use crate::dice::Dice;
use crate::marks::Marks;
use crate::people::{CHANNELS, Draft, People};
use crate::plans::{self, Name, Setup, known};
use crate::platform::Answer;
use crate::shadow::{Cause, Shadow, Step};
use crate::trace::Trace;
use crate::upstream::{Act, Call};
use crate::weather::{Action, Swarm, Weather};
use clawgate_core::bounds::Bounds;
use clawgate_core::effect::{Effect, Effects};
use clawgate_core::event::{Event, Operation};
use clawgate_core::home::{Secret, home, session_hash};
use clawgate_core::id::{AgentId, CallId, Client, SessionId, ShardId, TurnId};
use clawgate_core::plan::RunningMode;
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Things that may happen before all is at rest.
const REST_MAX: u32 = 1_000_000;
/// Messages remembered to be sent again.
const SENT_KEPT: usize = 800;

/// What an operator orders; owns its texts.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Reset,
    Close,
    Send(String),
    Set(String, String),
    Assign(AgentId),
    Stop,
    Mode(Option<RunningMode>),
}

impl Order {
    const fn operation(&self) -> Operation<'_> {
        match self {
            Self::Reset => Operation::Reset,
            Self::Close => Operation::Close,
            Self::Send(text) => Operation::Send(text.as_str()),
            Self::Set(name, value) => Operation::Set { name: name.as_str(), value: value.as_str() },
            Self::Assign(agent) => Operation::Assign(*agent),
            Self::Stop => Operation::Stop,
            Self::Mode(mode) => Operation::Mode(*mode),
        }
    }
}

/// Something that will happen to one shard.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Inbound {
        client: Client,
        draft: Box<Draft>,
    },
    /// The call's next act.
    Act {
        call: CallId,
    },
    Answer {
        turn: TurnId,
        part: u16,
        attempt: u16,
        answer: Answer,
    },
    Left {
        turn: TurnId,
    },
    Pressure {
        turn: TurnId,
        high: bool,
    },
    /// Names whom the sender meant; nobody, where nobody sent it.
    Nudged {
        agent: AgentId,
        name: Option<Name>,
    },
    Operate {
        client: Client,
        session: SessionId,
        order: Order,
    },
    Listeners {
        any: bool,
    },
    Reconfigure {
        setup: Box<Setup>,
    },
    Drain,
    /// Its client's core sends this on.
    Sent {
        from: usize,
        item: Box<Self>,
    },
}

/// A client that waits for an answer, as its own core knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// It stops reading after this many pieces.
    pub(crate) full_after: Option<u32>,
    /// It reads again after this long, if ever.
    pub(crate) room_after: Option<Duration>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) step: u64,
    pub(crate) trace: Trace,
    pub(crate) marks: Marks,
    pub(crate) dice: Dice,
    pub(crate) now: Time,
    secret: Secret,
    shards: Vec<Shard>,
    pub(crate) shadow: Shadow,
    effects: Effects,
    pub(crate) agenda: Agenda<(usize, Item)>,
    people: People,
    swarm: Swarm,
    pub(crate) weather: Weather,
    weather_left: u64,
    draft: plans::Draft,
    setup: Setup,
    pub(crate) calls: BTreeMap<(usize, CallId), Call>,
    pub(crate) clients: BTreeMap<(usize, TurnId), Waiting>,
    sent: VecDeque<Draft>,
    tickets: u32,
    backward: bool,
    /// The step at which it begins to stop.
    drain_at: u64,
}

impl World {
    pub(crate) fn new(seed: u64, steps: u64, echo: bool) -> Self {
        let mut dice = Dice::new(seed);
        let count = dice.between(2, 8) as u16;
        let draft = plans::Draft::draw(&mut dice);
        let setup = draft.setup();
        let bounds = Arc::new(Bounds::new(&setup.plan, count));
        let shards: Vec<Shard> = (0..count)
            .map(|n| Shard::new(ShardId(n), count, setup.plan.clone(), bounds.clone(), dice.next()))
            .collect();
        let people = People::draw(&mut dice);
        let swarm = Swarm::draw(&mut dice);
        let mut world = Self {
            step: 0,
            trace: Trace::new(echo),
            marks: Marks::default(),
            now: Time::ZERO,
            secret: Secret([dice.next(), dice.next()]),
            shadow: Shadow::new(&setup, bounds, usize::from(count)),
            shards,
            effects: Effects::new(),
            agenda: Agenda::new(),
            people,
            swarm,
            weather: Weather::calm(),
            weather_left: 300,
            draft,
            setup,
            calls: BTreeMap::new(),
            clients: BTreeMap::new(),
            sent: VecDeque::new(),
            tickets: 0,
            backward: false,
            drain_at: if dice.chance(700) { steps - steps.min(dice.between(50, 1_500)) } else { 0 },
            dice,
        };
        world.swarm.limit(&mut world.weather);
        world.trace.line(format_args!("seed {seed}: {count} shards, {:?}", world.swarm));
        world.trace.line(format_args!("{:?}", world.setup));
        world
    }

    /// Does one thing.
    pub(crate) fn step(&mut self) {
        self.step += 1;
        if self.weather_left == 0 {
            self.weather = Weather::next(&self.swarm, &mut self.dice);
            self.weather_left = self.dice.between(100, 900);
            self.marks.hit(self.weather.name);
            self.trace.line(format_args!("-- {}", self.weather.name));
        }
        self.weather_left -= 1;
        if self.drain_at == self.step {
            self.drain();
        }
        let action = self.weather.action(&mut self.dice);
        self.marks.hit(action.name());
        match action {
            Action::Advance => self.advance(),
            Action::Arrive => self.arrive(),
            Action::Repeat => self.repeat(),
            Action::Leave => self.leave(),
            Action::Press => self.press(),
            Action::Operate => self.operate(),
            Action::Jump => self.jump(),
            Action::Backward => self.backward = true,
            Action::Reconfigure => self.reconfigure(),
            Action::Listeners => self.listeners(),
            Action::Stale => self.stale(),
        }
    }

    /// Lets time pass until something is due, and does it. Returns false when nothing ever will be.
    fn pass(&mut self) -> bool {
        let deadlines: Vec<(Time, usize)> = self
            .shards
            .iter()
            .enumerate()
            .filter_map(|(n, shard)| Some((shard.next_deadline()?, n)))
            .collect();
        let tick = deadlines.iter().map(|(at, _)| *at).min();
        let item = self.agenda.next_at();
        let Some(next) = tick.into_iter().chain(item).min() else { return false };
        self.now = self.now.max(next);
        let due: Vec<usize> = deadlines.iter().filter(|(at, _)| *at <= self.now).map(|(_, n)| *n).collect();
        // After a jump both are due, and a loop may come to either first.
        let item_due = item.is_some_and(|at| at <= self.now);
        if !due.is_empty() && (!item_due || self.dice.chance(500)) {
            let shard = *self.dice.pick(&due);
            self.tick(shard);
        } else if let Some((shard, item)) = self.agenda.take(self.now) {
            self.happen(shard, item);
        }
        true
    }

    fn advance(&mut self) {
        if !self.pass() {
            self.arrive();
        }
    }

    // ---- the actions ----

    fn arrive(&mut self) {
        let limits = self.setup.plan.limits.clone();
        let draft = self.people.write(&mut self.dice, &self.weather, &limits);
        if self.sent.len() == SENT_KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back(draft.clone());
        self.submit(draft);
    }

    fn repeat(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let index = if self.dice.chance(600) {
            self.sent.len() - 1 - self.dice.index(self.sent.len().min(12))
        } else {
            self.dice.index(self.sent.len())
        };
        let draft = self.sent[index].clone();
        self.submit(draft);
    }

    /// A message reaches a core, which sends it on to its home.
    fn submit(&mut self, draft: Draft) {
        let person = &draft.person;
        let channel = CHANNELS[person.channel];
        let hash =
            session_hash(&self.secret, channel, person.scope, &person.peer, &person.chat, &person.thread);
        let shard = usize::from(home(hash, self.shards.len() as u16).0);
        let core = self.dice.index(self.shards.len());
        self.tickets += 1;
        let client = Client {
            core: core as u16,
            slot: self.tickets % 97,
            generation: self.tickets / 97,
            ticket: self.tickets,
        };
        let item = Item::Inbound { client, draft: Box::new(draft) };
        if core == shard && self.dice.chance(800) {
            self.happen(shard, item)
        } else {
            self.mesh(core, shard, item)
        }
    }

    fn leave(&mut self) {
        if let Some((shard, turn)) = self.shadow.any_turn(&mut self.dice) {
            self.happen(shard, Item::Left { turn });
        }
    }

    fn press(&mut self) {
        if let Some((shard, turn)) = self.shadow.any_turn(&mut self.dice) {
            let high = self.dice.chance(500);
            self.happen(shard, Item::Pressure { turn, high });
            if high && self.dice.chance(700) {
                let at = self.now + self.dice.millis(1, 7_000);
                self.agenda.add(at, (shard, Item::Pressure { turn, high: false }));
            }
        }
    }

    fn operate(&mut self) {
        let Some((shard, session)) = self.shadow.any_session(&mut self.dice) else { return };
        let order = match self.dice.below(18) {
            0 => Order::Reset,
            1 | 2 => Order::Close,
            3..=5 => Order::Send(if self.dice.chance(100) {
                String::new()
            } else {
                "a word from the operator".to_owned()
            }),
            6..=10 => {
                let name = format!("k{}", self.dice.below(7));
                let value =
                    if self.dice.chance(200) { String::new() } else { "v".repeat(self.dice.index(120)) };
                Order::Set(name, value)
            }
            11 | 12 => {
                Order::Assign(AgentId(self.dice.below(self.setup.plan.agents.len() as u64 + 1) as u16))
            }
            13..=15 => Order::Stop,
            _ => Order::Mode(self.dice.chance(800).then(|| *self.dice.pick(&RunningMode::ALL))),
        };
        self.tickets += 1;
        let client = Client { core: 0, slot: 0, generation: 0, ticket: self.tickets };
        self.happen(shard, Item::Operate { client, session, order });
    }

    fn jump(&mut self) {
        let by = match self.dice.below(6) {
            0 => Duration::from_secs(self.dice.between(600, 20_000)),
            1 => Duration::from_secs(self.dice.between(60, 600)),
            _ => Duration::from_millis(self.dice.between(1_000, 40_000)),
        };
        self.now = self.now + by;
        self.trace.line(format_args!("{} the clock jumps by {by:?}", self.now.as_millis()));
        self.shadow.jumped(self.now);
    }

    /// The gateway is to stop; people go on writing.
    fn drain(&mut self) {
        for shard in 0..self.shards.len() {
            self.mesh(0, shard, Item::Drain);
        }
    }

    fn reconfigure(&mut self) {
        self.draft.vary(&mut self.dice);
        self.setup = self.draft.setup();
        for shard in 0..self.shards.len() {
            let setup = Box::new(self.setup.clone());
            let late = if self.dice.chance(250) { self.dice.millis(10, 3_000) } else { Duration::ZERO };
            let delay = late + Duration::from_micros(self.dice.between(20, 2_000));
            self.agenda.send(self.now, 0, shard as u16, delay, (shard, Item::Reconfigure { setup }));
        }
    }

    fn listeners(&mut self) {
        let any = self.dice.chance(600);
        for shard in 0..self.shards.len() {
            self.mesh(0, shard, Item::Listeners { any });
        }
    }

    /// Something for what is not there: a stranger's turn, a call of another generation, a place that nobody waits for.
    fn stale(&mut self) {
        let shard = self.dice.index(self.shards.len());
        let turn = TurnId { slot: self.dice.below(100) as u32, generation: self.dice.below(400) as u32 };
        if self.shadow.lives(shard, turn) {
            return;
        }
        let call = CallId { turn, attempt: self.dice.below(3) as u16 };
        let item = match self.dice.below(5) {
            0 => Item::Left { turn },
            1 => Item::Pressure { turn, high: self.dice.chance(500) },
            2 => {
                Item::Answer { turn, part: self.dice.below(2) as u16, attempt: 0, answer: Answer::Confirmed }
            }
            3 => Item::Nudged { agent: AgentId(self.dice.below(6) as u16), name: None },
            _ => {
                let act =
                    if self.dice.chance(500) { Act::Alive } else { Act::Say("from nowhere".to_owned()) };
                self.hand(shard, act.event(call));
                return;
            }
        };
        self.happen(shard, item);
    }

    // ---- what happens to a shard ----

    fn mesh(&mut self, from: usize, to: usize, item: Item) {
        let delay = Duration::from_micros(if self.dice.chance(50) {
            self.dice.between(10_000, 400_000)
        } else {
            self.dice.between(20, 2_000)
        });
        self.agenda.send(self.now, from as u16, to as u16, delay, (to, item));
    }

    fn happen(&mut self, shard: usize, item: Item) {
        match item {
            Item::Inbound { client, draft } => {
                let plan = self.shadow.plan(shard);
                let inbound = draft.inbound(&plan);
                self.hand(shard, Event::Inbound { client, inbound });
            }
            Item::Act { call } => self.act(shard, call),
            Item::Answer { turn, part, attempt, answer } => {
                self.hand(shard, answer.event(turn, part, attempt))
            }
            Item::Left { turn } => {
                if self.shadow.has_client(shard, turn) {
                    self.hand(shard, Event::Left { turn });
                }
            }
            Item::Pressure { turn, high } => self.hand(shard, Event::Pressure { turn, high }),
            Item::Nudged { agent, name } => {
                if let Some(name) = name {
                    self.shadow.nudge_arrives(name);
                }
                self.hand(shard, Event::Nudged { agent });
            }
            Item::Operate { client, session, order } => {
                self.hand(shard, Event::Operate { client, session, operation: order.operation() });
            }
            Item::Listeners { any } => self.hand(shard, Event::Listeners { any }),
            Item::Reconfigure { setup } => {
                self.trace.line(format_args!("{} {shard} reconfigure {setup:?}", self.now.as_millis()));
                self.shards[shard].reconfigure(setup.plan.clone());
                self.shadow.reconfigured(shard, &setup);
            }
            Item::Drain => self.hand(shard, Event::Drain),
            Item::Sent { from, item } if from == shard => self.happen(shard, *item),
            Item::Sent { from, item } => self.mesh(from, shard, *item),
        }
    }

    /// Hands an event to a shard, lets the shadow judge what it does with it, and does what it asks for.
    pub(crate) fn hand(&mut self, shard: usize, event: Event<'_>) {
        let now = self.clock();
        self.trace.line(format_args!("{} {shard} <- {event:?}", now.as_millis()));
        self.effects.clear();
        self.shards[shard].handle(now, event, &mut self.effects);
        self.after(shard, now, Cause::Event(event));
    }

    fn tick(&mut self, shard: usize) {
        let now = self.clock();
        self.trace.line(format_args!("{} {shard} <- tick", now.as_millis()));
        self.effects.clear();
        self.shards[shard].tick(now, &mut self.effects);
        self.after(shard, now, Cause::Tick);
    }

    /// The time that is handed in: sometimes a caller's mistake.
    fn clock(&mut self) -> Time {
        if std::mem::take(&mut self.backward) {
            let back = Duration::from_millis(self.dice.between(1, 30_000));
            // What begins at a wrong time ends at a wrong time.
            self.shadow.jumped(self.now);
            return Time(self.now.0.saturating_sub(back.as_nanos() as u64));
        }
        self.now
    }

    fn after(&mut self, shard: usize, now: Time, cause: Cause<'_>) {
        for effect in self.effects.list() {
            self.trace.line(format_args!("    {shard} -> {effect:?}"));
        }
        let mut step = Step::new(cause, &self.effects, &self.shards[shard], self.shadow.jumped_at());
        self.shadow.judge(shard, now, &mut step, &mut self.marks);
        let effects = std::mem::take(&mut self.effects);
        for effect in effects.list() {
            self.execute(shard, effect);
        }
        self.effects = effects;
        self.shadow.between(&self.shards);
    }

    /// Does what a shard asks for, as a shell would.
    fn execute(&mut self, shard: usize, effect: &Effect) {
        match *effect {
            Effect::Start { call, model, .. } => self.start(shard, call, model),
            Effect::Cancel { call, overdue: _ } => {
                let wire =
                    if self.dice.chance(self.weather.echoing) { self.dice.between(1, 3) as u32 } else { 0 };
                self.with_call(shard, call, |call| call.cancel(wire));
            }
            Effect::Pause { call } => {
                let wire = self.dice.below(3) as u32;
                self.with_call(shard, call, |call| call.pause(wire));
            }
            Effect::Resume { call } => self.with_call(shard, call, Call::resume),
            Effect::Accepted { client, turn, .. } => self.accepted(shard, client, turn),
            Effect::Send { client, turn, seq, .. } => self.piece_sent(shard, client, turn, seq),
            Effect::Deliver { turn, part, attempt, .. } => self.deliver(shard, turn, part, attempt),
            Effect::Nudge { shard: to, agent } => {
                let name = known(&self.shadow.plan(shard).agents[usize::from(agent.0)].name);
                self.shadow.nudge_leaves(name);
                self.mesh(shard, usize::from(to.0), Item::Nudged { agent, name: Some(name) });
            }
            Effect::Settled { turn, .. } => {
                self.clients.remove(&(shard, turn));
            }
            Effect::Duplicate { .. }
            | Effect::Ignored { .. }
            | Effect::Refused { .. }
            | Effect::Finish { .. }
            | Effect::Merged { .. }
            | Effect::Fail { .. }
            | Effect::Publish { .. }
            | Effect::Operated { .. }
            | Effect::Attached { .. }
            | Effect::Durable { .. }
            | Effect::Append { .. }
            | Effect::LookUp { .. }
            | Effect::Load { .. }
            | Effect::Save { .. }
            | Effect::Breaker { .. } => {}
            // What the board has refused already.
            Effect::Ask { .. } => {}
        }
    }
}

impl World {
    /// Comes to rest: nobody writes any more, everything that was begun ends, and nothing may be left.
    pub(crate) fn rest(&mut self) {
        self.trace.line(format_args!("-- rest"));
        self.weather = Weather::calm();
        self.swarm.limit(&mut self.weather);
        for _ in 0..REST_MAX {
            if !self.pass() {
                let open = self.calls.iter().find(|(_, call)| !call.over);
                assert!(open.is_none(), "a call that its shard has forgotten: {open:?}");
                self.shadow.check_rest(&self.shards);
                return;
            }
        }
        panic!("it does not come to rest: {} things are still to happen", self.agenda.len());
    }
}
