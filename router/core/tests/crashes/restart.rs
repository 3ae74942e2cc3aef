//! The process dies, and another one starts on what is left, with another number of shards.
use super::gateway::Life;
use super::ledger::{Found, PART_CHARS, number_of, numbers_of};
use super::links::{Kinship, hash_of, mark_of};
use super::people::Place;
use super::store::{Letter, Op};
use super::world::World;
use crate::dice::Dice;
use clawgate_core::bounds::Bounds;
use clawgate_core::effect::{Effect, Effects};
use clawgate_core::event::{Class, Event};
use clawgate_core::home::Secret;
use clawgate_core::id::{AgentId, Client, ModelId, ShardId, Uid};
use clawgate_core::journal::writer::{Mode, Owner, Settings, Writer};
use clawgate_core::limits::Limits;
use clawgate_core::links::CHANNEL;
use clawgate_core::log::{JournalState, Start};
use clawgate_core::past::{Fact, Left, Past};
use clawgate_core::plan::{
    Agent, BreakerPlan, Channel, DmPolicy, DropPolicy, Excerpt, GroupPolicy, Model, Plan, RunningMode, Unit,
    WhileRunning,
};
use clawgate_core::record::{Accepted, Forgot, Record};
use clawgate_core::route::Strategy;
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const LIMITS: Limits = Limits {
    sessions_max: 15,
    // What runs must fit into the journal: what is refused at its bound is only what is new.
    text_bytes_max: 400,
    turns_max: 60,
    session_waiting_max: 6,
    dedup_ids_max: 60,
    dedup_filter_bytes_max: 8_192,
    lookups_max: 40,
    dedup_age_max: Duration::from_secs(7 * 24 * 3_600),
    kept_answers_max: 1 << 14,
    kept_answer_bytes_max: 1 << 24,
    session_idle_max: Duration::from_millis(700),
    waiting_age_max: Duration::from_secs(3),
    delivery_age_max: Duration::from_millis(200),
    backoff_min: Duration::from_millis(15),
    backoff_max: Duration::from_millis(150),
    load_age_max: Duration::from_millis(250),
    ..Limits::TEST
};

fn model(name: &str) -> Model {
    Model {
        name: name.into(),
        running_max: 0,
        requests_per_minute: 0,
        tokens_per_minute: 0,
        header_age_max: Duration::from_millis(200),
        first_piece_age_max: Duration::from_millis(300),
        silence_max: Duration::from_millis(300),
        call_age_max: Duration::from_secs(2),
        retry: None,
        fallback: None,
        breaker: BreakerPlan {
            calls_min: 10,
            failed_percent: 60,
            slow_after: Duration::from_secs(2),
            slow_percent: 0,
            window: Duration::from_secs(2),
            open_min: Duration::from_millis(100),
            open_max: Duration::from_millis(400),
            probes: 2,
        },
    }
}

/// What becomes of messages that arrive while one is answered: anything.
fn while_running(dice: &mut Dice) -> WhileRunning {
    use RunningMode::{Collect, Followup, Interrupt, Steer};
    WhileRunning {
        mode: *dice.pick(&[Followup, Followup, Followup, Collect, Collect, Steer, Steer, Interrupt]),
        cap: *dice.pick(&[0, 0, 1, 2, 3]),
        drop: *dice.pick(&[DropPolicy::Newest, DropPolicy::Oldest, DropPolicy::Merge]),
    }
}

fn agent(dice: &mut Dice, name: &str, history: bool) -> Agent {
    Agent {
        name: name.into(),
        models: vec![ModelId(0), ModelId(1)],
        running_max: 0,
        waiting_max: 0,
        attempts_max: 2,
        fallback: None,
        history,
        excerpt: Excerpt::ALL,
        needs_history: false,
        while_running: while_running(dice),
        wait_target: Duration::ZERO,
        failure_text: history.then(|| "sorry, it did not work".into()),
    }
}

fn channel(dice: &mut Dice, name: &str, agent: Option<AgentId>) -> Channel {
    Channel {
        name: name.into(),
        text_max: PART_CHARS,
        unit: Unit::Chars,
        preview_every: Duration::from_millis(*dice.pick(&[0, 5, 10, 30])),
        dm: DmPolicy::Open,
        groups: GroupPolicy::Open,
        allowed: BTreeSet::new(),
        mention_gating: false,
        agent,
        class: Class::Normal,
    }
}

/// The configuration of a life: now and then a channel or an agent is gone, unless it is to be whole. A channel whose
/// accounts may be linked stays.
pub(crate) fn plan(dice: &mut Dice, is_whole: bool, (kinship, places): (&Kinship, &[Place])) -> Plan {
    let (has_app, has_bob) = (is_whole || dice.chance(850), is_whole || dice.chance(850));
    let bob = has_bob.then_some(AgentId(1));
    let mut channels = vec![channel(dice, "web", None)];
    let mut agents = vec![agent(dice, "ada", true)];
    if has_app || kinship.is_there() {
        channels.insert(0, channel(dice, "app", bob));
    }
    if has_bob {
        agents.push(agent(dice, "bob", false));
    }
    if kinship.is_there() {
        channels.push(channel(dice, CHANNEL, None));
    }
    let links = kinship.links(places, &channels);
    Plan {
        limits: LIMITS,
        channels,
        agents,
        models: vec![model("big"), model("small")],
        route: Strategy::Static(AgentId(0)),
        links,
    }
}

/// How a life begins.
pub(crate) struct Begin {
    pub(crate) lineage: u64,
    pub(crate) born: Time,
    pub(crate) unix_micros: u64,
    pub(crate) uid_after: Uid,
    pub(crate) plan: Arc<Plan>,
}

impl Life {
    pub(crate) fn new(
        dice: &mut Dice,
        settings: &Settings,
        secret: Secret,
        Begin { lineage, born, unix_micros, uid_after, plan }: Begin,
    ) -> Self {
        let shards = u16::try_from(dice.between(1, 4)).unwrap();
        let bounds = Arc::new(Bounds::new(&plan, shards));
        let lsn = 1 + dice.below(3);
        let start = Start { secret, unix_micros, uid_after, lsn, journal: true, store: true, outlives: true };
        let make = |n| {
            let mut shard = Shard::new(ShardId(n), shards, plan.clone(), bounds.clone(), dice.next());
            shard.begin_with(&start);
            shard
        };
        let made: Vec<Shard> = (0..shards).map(make).collect();
        let has_older = lineage != 1;
        let writer = |shard| {
            let owner = Owner { lineage, shard, salt: dice.next(), first_lsn: lsn, has_older };
            Writer::new(settings.clone(), owner)
        };
        Self {
            born,
            lineage,
            plan,
            writers: (0..shards).map(writer).collect(),
            states: vec![JournalState::Open; usize::from(shards)],
            inputs: VecDeque::new(),
            turns: BTreeMap::new(),
            about: None,
            older: Vec::new(),
            was_lied_to: false,
            after: vec![lsn - 1; usize::from(shards)],
            facts_until: 0,
            fuse: None,
            is_dead: false,
            appended: vec![lsn - 1; usize::from(shards)],
            shards: made,
        }
    }
}

impl World {
    /// Dies, and starts again. The next process may die while it starts.
    pub(crate) fn restart(&mut self) {
        self.crash();
        self.start();
        while self.life.is_dead {
            self.crash();
            self.start();
        }
    }

    fn crash(&mut self) {
        self.marks.hit("crash");
        let left_out = self.life.writers.iter().map(|writer| writer.counts().left_out).sum();
        self.marks.add("records left out", left_out);
        let has_lied = self.life.was_lied_to && !self.life.older.is_empty();
        let cut = self.settings.mode == Mode::Always && !has_lied && self.dice.chance(500);
        self.trace.line(format_args!("crash {}", if cut { "of the power" } else { "of the process" }));
        if cut {
            self.marks.hit("power cut");
            self.disk.cut();
        } else {
            self.disk.kill();
        }
        self.store.crash(&mut self.dice);
        self.loads.clear();
        self.ledger.on_crash();
        self.hang_up_all();
        if self.is_resting {
            return;
        }
        let pause = self.dice.millis(0, 500);
        self.now = self.now + pause;
    }

    fn start(&mut self) {
        let last = self.life.lineage;
        let was_lied_to = self.life.was_lied_to && !self.life.older.is_empty();
        let shelves = self.disk.recover();
        self.disk.sync_all();
        let (mut past, mut facts) = (Past::new(), Vec::new());
        let (mut present, mut closed) = (BTreeSet::new(), Vec::new());
        let (has_turned, is_whole) = (self.kinship.turn(), self.is_resting);
        if has_turned {
            self.marks.hit("other links after a crash");
        }
        let plan = Arc::new(plan(&mut self.dice, is_whole, (&self.kinship, &self.places)));
        let mut reader = Reader {
            secret: self.secret,
            plan: plan.clone(),
            kinship: &self.kinship,
            closed: BTreeMap::new(),
        };
        for ((lineage, shard), shelf) in &shelves {
            for (lsn, bytes) in &shelf.records {
                if *lineage == last {
                    present.insert((usize::from(*shard), *lsn));
                }
                if *lineage == last {
                    self.trace.line(format_args!("{shard} found {lsn} {:?}", Record::decode(bytes)));
                }
                let mut take = |fact: Fact<'_>| {
                    closed.extend(reader.closed_by(&fact));
                    reader.closed.extend(reader.closed_by(&fact));
                    facts.extend(reader.told(fact));
                };
                assert!(past.take(bytes, &mut take), "it can be read");
            }
        }
        let uid_after = past.last().max(self.store.last_uid());
        let left: Vec<_> = past.into_left().collect();
        let found = left.iter().map(|left| {
            let restored = left.restored().unwrap();
            let reply = restored.reply.map(|(verdict, text)| (verdict, text.to_owned()));
            let numbers = numbers_of(restored.accepted.text);
            (
                restored.accepted.uid,
                Found {
                    reply,
                    parts: restored.parts,
                    shown: Some(restored.shown.to_owned()).filter(|shown| !shown.is_empty()),
                    numbers,
                },
            )
        });
        self.ledger.on_recovered(&present, &found.collect());
        self.ledger.forget_previews();
        // The system's clock may have been set back meanwhile.
        let back = if self.dice.chance(200) { self.dice.below(4_000_000) } else { 0 };
        let unix_micros = self.clock_micros + self.now.0 / 1_000 - back;
        let (lineage, born) = (last + 1, self.now);
        let begin = Begin { lineage, born, unix_micros, uid_after, plan };
        self.life = Life::new(&mut self.dice, &self.settings, self.secret, begin);
        if has_turned {
            self.ledger.on_linked(|place| (self.kinship.owner(place), self.kinship.changes(place)));
        }
        self.life.older = self.disk.names();
        // What an earlier life failed to sync is read from the system's memory, and nobody can sync it again.
        self.life.was_lied_to = std::mem::take(&mut self.disk.has_lied) || was_lied_to;
        if self.life.older.is_empty() {
            self.life.writers.iter_mut().for_each(Writer::older_gone);
        }
        if !self.is_resting && self.dice.chance(100) {
            self.life.fuse = Some(1 + u32::try_from(self.dice.below(60)).unwrap());
        }
        self.tell_marks();
        for (hash, uid) in closed {
            self.life.shards.iter_mut().for_each(|shard| shard.remember_closed(hash, uid));
        }
        self.tell_store(facts);
        for left in &left {
            if self.life.is_dead {
                return;
            }
            self.take_up(left);
        }
        self.life.after.clone_from(&self.life.appended);
        (0..self.life.shards.len()).for_each(|shard| self.turn_journal(shard));
    }

    /// What the store remembers of earlier lives: it says all of it, or not, and then it is asked.
    fn tell_marks(&mut self) {
        let says_all = self.dice.chance(930);
        let mut marks: Vec<_> = self.store.seen.iter().map(|(mark, at)| (*at, *mark)).collect();
        marks.sort_unstable();
        for (unix_millis, mark) in marks.into_iter().skip(if says_all { 0 } else { 10 }) {
            self.life.shards.iter_mut().for_each(|shard| shard.remember_mark(mark, unix_millis));
        }
        if says_all {
            self.life.shards.iter_mut().for_each(|shard| shard.remembers_since(None));
        }
    }

    /// What the store may not know, and what the shards remember of what was seen.
    fn tell_store(&mut self, facts: Vec<Op>) {
        for op in facts {
            if let Op::Seen { mark, unix_millis } = op {
                self.life.shards.iter_mut().for_each(|shard| shard.remember_mark(mark, unix_millis));
            }
            self.trace.line(format_args!("fact {op:?}"));
            if let Op::Ended { mark, ending } = op {
                let Some(number) = self.ledger.ids.get(&mark).copied() else { panic!("nobody's id") };
                let shard = self.home_of(self.ledger.messages[number].place);
                self.life.shards[shard].keep_ending_before(mark, ending.as_deref().map_err(|code| *code));
                self.ledger.messages[number].is_kept = true;
                continue;
            }
            self.store.take(op, None);
        }
        self.life.facts_until = self.store.taken;
    }

    fn take_up(&mut self, left: &Left) {
        let restored = left.restored().unwrap();
        self.marks.hit("restored");
        if restored.reply.is_some() {
            self.marks.hit("restored with its answer");
        }
        let accepted = &restored.accepted;
        let place = place_of(accepted);
        let shard = self.home_of(place);
        if self.kinship.is_linked(place) {
            self.marks.hit("restored into a shared conversation");
        }
        self.trace.line(format_args!("{shard} restore {:?} {}", accepted.uid, accepted.text));
        self.life.about = Some(self.ledger.own_number(accepted.uid, accepted.text));
        let now = self.local();
        let mut out = Effects::new();
        let event = Event::Restore { client: Client::NOBODY, restored: &restored };
        self.life.shards[shard].handle(now, event, &mut out);
        // Also where its channel is gone: then it ends in words.
        let is_taken = out.list().iter().any(|effect| matches!(effect, Effect::Accepted { .. }));
        self.out = Effects::new();
        let about = self.life.about;
        self.carry_out_restored(shard, &mut out, about);
        assert!(is_taken, "{:?} was acknowledged, and nobody takes it up", accepted.uid);
    }
}

/// Where a message came from.
fn place_of(accepted: &Accepted<'_>) -> usize {
    number_of(if accepted.peer.is_empty() { accepted.chat } else { accepted.peer })
}

/// A dead letter, as far as a replay needs it.
pub(crate) fn letter_of(accepted: &Accepted<'_>, reply: Option<&str>, parts: u16) -> Letter {
    Letter {
        place: place_of(accepted),
        outbound: accepted.outbound,
        text: accepted.text.to_owned(),
        reply: reply.map(str::to_owned),
        parts,
    }
}

/// Reads the journal of the lives before, by the links of the one that begins.
struct Reader<'a> {
    secret: Secret,
    plan: Arc<Plan>,
    kinship: &'a Kinship,
    /// When each session was closed, by its hash.
    closed: BTreeMap<u64, Uid>,
}

impl Reader<'_> {
    /// The session that a fact says was closed, and when.
    fn closed_by(&self, fact: &Fact<'_>) -> Option<(u64, Uid)> {
        let Fact::Forgot(forgot @ Forgot { uid, closed: true, .. }) = *fact else { return None };
        Some((forgot.session_hash(&self.secret), uid))
    }

    /// A fact as the store takes it.
    fn told(&self, fact: Fact<'_>) -> Vec<Op> {
        let mark = |accepted: &Accepted<'_>| mark_of(&self.plan, &self.secret, accepted);
        let op = match fact {
            Fact::Seen(accepted) => Op::Seen { mark: mark(&accepted), unix_millis: accepted.unix_millis },
            Fact::Ended { accepted, ending } => {
                Op::Ended { mark: mark(&accepted), ending: ending.map(str::to_owned) }
            }
            Fact::Said { accepted, reply } => {
                let hash = hash_of(&self.plan, &self.secret, &accepted);
                if self.closed.get(&hash).is_some_and(|closed| accepted.uid < *closed) {
                    return Vec::new();
                }
                let session = self.kinship.owner(place_of(&accepted));
                let (text, reply) = (accepted.text.to_owned(), reply.to_owned());
                let bare = Op::Session { session, revision: Uid(1), history_from: Uid(0) };
                return vec![bare, Op::Said { session, uid: accepted.uid, text, reply }];
            }
            Fact::Dead { accepted, reply, parts, .. } => {
                Op::Dead { uid: accepted.uid, letter: letter_of(&accepted, reply, parts) }
            }
            Fact::EndedAs { mark, ending } => Op::Ended { mark, ending: ending.map(str::to_owned) },
            Fact::Mark { mark, unix_millis } => Op::Seen { mark, unix_millis },
            Fact::Revived(uid) => Op::Revived { uid },
            Fact::Forgot(Forgot { uid, from, closed, peer, chat, .. }) => {
                let session = number_of(if peer.is_empty() { chat } else { peer });
                if closed {
                    Op::Closed { session, revision: uid }
                } else {
                    Op::Session { session, revision: uid, history_from: from }
                }
            }
            Fact::Cursor { .. } => panic!("nobody polls here"),
        };
        vec![op]
    }
}
