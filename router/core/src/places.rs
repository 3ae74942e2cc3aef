//! What a shard knows of each agent, model and channel: by name, at a place of its own that never moves. Ids are
//! places in the plan; they move when another plan comes, and are translated here, at the door. So a reload touches no
//! session and no turn.
use crate::bounds::{Bounds, Lease, ModelCounts};
use crate::breaker::Breaker;
use crate::criteria::Criteria;
use crate::id::{AgentId, ChannelId, ModelId};
use crate::list::List;
use crate::plan::{BreakerPlan, Excerpt, Plan, WhileRunning};
use crate::queue::Queue;
use crate::time::Time;
use crate::turn::{Ages, NOWHERE, millis};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

/// A channel.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) name: Box<str>,
    /// Its id in the present plan; `None` once it is gone.
    pub(crate) id: Option<ChannelId>,
}

/// An agent.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) name: Box<str>,
    pub(crate) id: Option<AgentId>,
    /// Where the process counts it.
    pub(crate) seat: usize,
    /// Its models' places, in order of preference.
    pub(crate) chain: Vec<u16>,
    pub(crate) attempts_max: u16,
    pub(crate) fallback: Option<Criteria>,
    pub(crate) history: bool,
    pub(crate) excerpt: Excerpt,
    pub(crate) needs_history: bool,
    pub(crate) failure_text: Option<Box<str>>,
    pub(crate) waiting: Lease,
    pub(crate) running: Lease,
    pub(crate) while_running: WhileRunning,
    /// Milliseconds that a message may wait for its place when it comes; 0 for any time.
    pub(crate) wait_target: u32,
    /// Turns that wait for their first start.
    pub(crate) queue: Queue,
    /// Since when somebody waits in a class, by class, where somebody does.
    pub(crate) crowded: [Time; 3],
    /// Turns that were started before and keep their place at the agent while they wait for one at a model.
    pub(crate) resumed: List,
    /// This shard's bit is set among those that wait for the agent, as far as this shard knows.
    pub(crate) announced: bool,
    /// Places that were freed and are to be handed on.
    pub(crate) freed: u32,
    /// Something was queued or a place was promised: try to start.
    pub(crate) fresh: bool,
    /// Another shard promised a place: if it is not used here, it goes on to the next.
    pub(crate) nudged: bool,
    /// It is on the list of desks to be served.
    pub(crate) marked: bool,
    /// Moving average of the time from a turn's start to the end of its last call, milliseconds; 0 before the first.
    pub(crate) turn_millis: u32,
    /// When that last changed.
    pub(crate) learned: Time,
    /// Messages refused because too many wait.
    pub(crate) refused: u64,
}

/// A model.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: Box<str>,
    pub(crate) id: Option<ModelId>,
    pub(crate) seat: usize,
    pub(crate) running: Lease,
    /// Calls and tokens in a minute; 0 for no bound.
    pub(crate) per_minute: (u32, u32),
    /// Nothing of them is left until then, as far as this shard was told.
    pub(crate) spent_until: Time,
    pub(crate) breaker: Breaker,
    pub(crate) plan: BreakerPlan,
    pub(crate) retry: Option<Criteria>,
    pub(crate) fallback: Option<Criteria>,
    pub(crate) ages: Ages,
    /// The model itself asked for calm until then: others of a chain are preferred.
    pub(crate) calm_until: Time,
    /// The agents that may call it.
    pub(crate) desks: Vec<u16>,
}

/// The places of one shard.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) posts: Vec<Post>,
    pub(crate) desks: Vec<Desk>,
    pub(crate) lines: Vec<Line>,
    /// From the present plan's ids to places.
    post_of: Vec<u16>,
    desk_of: Vec<u16>,
}

impl Places {
    pub(crate) fn post_of(&self, id: ChannelId) -> Option<u16> {
        self.post_of.get(usize::from(id.0)).copied()
    }

    pub(crate) fn desk_of(&self, id: AgentId) -> Option<u16> {
        self.desk_of.get(usize::from(id.0)).copied()
    }

    pub(crate) fn line_of(&self, id: ModelId) -> Option<&Line> {
        self.lines.iter().find(|line| line.id == Some(id))
    }

    pub(crate) fn post(&self, place: u16) -> Option<&Post> {
        self.posts.get(usize::from(place))
    }

    /// The place of the channel of this name, also of one that the plan does not name.
    pub(crate) fn post_named(&mut self, name: &str) -> u16 {
        place_of(&mut self.posts, |post| *post.name == *name, || Post { name: name.into(), id: None })
    }

    /// The present id of the channel of this name, if there is one.
    pub(crate) fn id_named(&self, name: &str) -> Option<ChannelId> {
        self.posts.iter().find(|post| *post.name == *name)?.id
    }

    pub(crate) fn desk(&self, place: u16) -> Option<&Desk> {
        self.desks.get(usize::from(place))
    }

    pub(crate) fn desk_mut(&mut self, place: u16) -> Option<&mut Desk> {
        self.desks.get_mut(usize::from(place))
    }

    pub(crate) fn line(&self, place: u16) -> Option<&Line> {
        self.lines.get(usize::from(place))
    }

    pub(crate) fn line_mut(&mut self, place: u16) -> Option<&mut Line> {
        self.lines.get_mut(usize::from(place))
    }

    /// Finds or makes the places of all that this plan names. Those that it does not name stay, without an id.
    pub(crate) fn adopt(&mut self, plan: &Plan, bounds: &Bounds) {
        self.posts.iter_mut().for_each(|post| post.id = None);
        self.post_of.clear();
        for (n, channel) in plan.channels.iter().enumerate() {
            let place = place_of(
                &mut self.posts,
                |post| post.name == channel.name,
                || Post { name: channel.name.clone(), id: None },
            );
            self.posts[usize::from(place)].id = id(n).map(ChannelId);
            self.post_of.push(place);
        }
        let line_of = self.adopt_models(plan, bounds);
        self.adopt_agents(plan, bounds, &line_of);
        for (place, desk) in self.desks.iter().enumerate() {
            for &line in &desk.chain {
                let desks = &mut self.lines[usize::from(line)].desks;
                let place = u16::try_from(place).unwrap_or(NOWHERE);
                if !desks.contains(&place) {
                    desks.push(place);
                }
            }
        }
    }

    fn adopt_models(&mut self, plan: &Plan, bounds: &Bounds) -> Vec<u16> {
        let shards = bounds.shards();
        for line in &mut self.lines {
            line.id = None;
            line.desks.clear();
        }
        let mut line_of = Vec::new();
        for (n, model) in plan.models.iter().enumerate() {
            let place = place_of(
                &mut self.lines,
                |line| line.name == model.name,
                || Line {
                    name: model.name.clone(),
                    id: None,
                    seat: bounds.model_seat(&model.name),
                    running: Lease::new(model.running_max, shards),
                    per_minute: (0, 0),
                    spent_until: Time::ZERO,
                    breaker: Breaker::new(),
                    plan: model.breaker,
                    retry: None,
                    fallback: None,
                    ages: Ages::default(),
                    calm_until: Time::ZERO,
                    desks: Vec::new(),
                },
            );
            let line = &mut self.lines[usize::from(place)];
            line.id = id(n).map(ModelId);
            line.running.set_max(model.running_max, shards, &bounds.model_at(line.seat).running);
            line.per_minute = (model.requests_per_minute, model.tokens_per_minute);
            line.spent_until = Time::ZERO;
            line.plan = model.breaker;
            (line.retry, line.fallback) = (model.retry, model.fallback);
            line.ages = Ages {
                header: millis(model.header_age_max),
                first_piece: millis(model.first_piece_age_max),
                silence: millis(model.silence_max),
                call: millis(model.call_age_max),
                slow: millis(model.breaker.slow_after),
            };
            line_of.push(place);
        }
        line_of
    }

    fn adopt_agents(&mut self, plan: &Plan, bounds: &Bounds, line_of: &[u16]) {
        let shards = bounds.shards();
        self.desks.iter_mut().for_each(|desk| desk.id = None);
        self.desk_of.clear();
        for (n, agent) in plan.agents.iter().enumerate() {
            let place = place_of(
                &mut self.desks,
                |desk| desk.name == agent.name,
                || Desk::new(agent.name.clone(), bounds.agent_seat(&agent.name)),
            );
            let desk = &mut self.desks[usize::from(place)];
            let counts = bounds.agent_at(desk.seat);
            desk.id = id(n).map(AgentId);
            desk.chain.clear();
            desk.chain.extend(agent.models.iter().filter_map(|model| line_of.get(usize::from(model.0))));
            desk.attempts_max = agent.attempts_max;
            desk.fallback = agent.fallback;
            desk.history = agent.history;
            desk.excerpt = agent.excerpt;
            desk.needs_history = agent.needs_history;
            desk.while_running = agent.while_running;
            desk.wait_target = millis(agent.wait_target);
            desk.failure_text = agent.failure_text.clone().filter(|text| !text.trim().is_empty());
            desk.waiting.set_max(agent.waiting_max, shards, &counts.waiting);
            desk.running.set_max(agent.running_max, shards, &counts.running);
            self.desk_of.push(place);
        }
    }
}

impl Desk {
    fn new(name: Box<str>, seat: usize) -> Self {
        Self {
            name,
            id: None,
            seat,
            chain: Vec::new(),
            attempts_max: 1,
            fallback: None,
            history: false,
            excerpt: Excerpt::ALL,
            needs_history: true,
            failure_text: None,
            waiting: Lease::default(),
            running: Lease::default(),
            while_running: WhileRunning::default(),
            wait_target: 0,
            queue: Queue::new(),
            crowded: [Time::ZERO; 3],
            resumed: List::new(),
            announced: false,
            freed: 0,
            fresh: false,
            nudged: false,
            marked: false,
            turn_millis: 0,
            learned: Time::ZERO,
            refused: 0,
        }
    }

    /// Does nobody wait here for a place?
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.resumed.is_empty()
    }

    /// Takes the time of one more turn into the average; each counts an eighth.
    pub(crate) fn learn(&mut self, now: Time, took: Duration) {
        self.learned = now;
        let took = millis(took);
        self.turn_millis = if self.turn_millis == 0 { took } else { self.turn_millis / 8 * 7 + took / 8 };
    }

    /// When a message that finds so many ahead of it might come again: between a second and a minute.
    pub(crate) fn retry_after_millis(&self, ahead: u32) -> u32 {
        let rounds = ahead / self.running.used().max(1);
        self.turn_millis.saturating_mul(rounds.max(1)).clamp(1_000, 60_000)
    }
}

impl Line {
    /// Takes a call with so many tokens from what its model grants in a minute. If that is spent, it is known until when.
    pub(crate) fn take_quota(&mut self, counts: &ModelCounts, now: Time, tokens: u32) -> bool {
        let (requests_max, tokens_max) = self.per_minute;
        let taken = counts.requests.take(now, requests_max, 1).and_then(|()| {
            let taken = counts.tokens.take(now, tokens_max, tokens);
            if taken.is_err() {
                counts.requests.give(requests_max, 1);
            }
            taken
        });
        if let Err(wait) = taken {
            self.spent_until = now + wait;
        }
        taken.is_ok()
    }

    /// Takes that for later, if it is granted within `most`: how long until then.
    ///
    /// # Errors
    /// How long it would be.
    pub(crate) fn book_quota(
        &self,
        counts: &ModelCounts,
        now: Time,
        tokens: u32,
        most: Duration,
    ) -> Result<Duration, Duration> {
        let (requests_max, tokens_max) = self.per_minute;
        let requests = counts.requests.book(now, requests_max, 1, most)?;
        let tokens = counts.tokens.book(now, tokens_max, tokens, most).inspect_err(|_| {
            counts.requests.give(requests_max, 1);
        })?;
        Ok(requests.max(tokens))
    }

    /// Gives that back: the call did not begin.
    pub(crate) fn give_quota(&self, counts: &ModelCounts, tokens: u32) {
        let (requests_max, tokens_max) = self.per_minute;
        counts.requests.give(requests_max, 1);
        counts.tokens.give(tokens_max, tokens);
    }

    /// Is anything counted by the minute?
    pub(crate) const fn has_quota(&self) -> bool {
        self.per_minute.0 != 0 || self.per_minute.1 != 0
    }

    /// Would its breaker let a call pass?
    pub(crate) fn lets(&self, now: Time) -> bool {
        self.id.is_some() && self.breaker.lets(now, &self.plan)
    }
}

fn id(place: usize) -> Option<u16> {
    u16::try_from(place).ok()
}

/// Finds an entry or adds one. A table that is full of names that came and went keeps the last place for all others.
fn place_of<T>(list: &mut Vec<T>, is: impl FnMut(&T) -> bool, make: impl FnOnce() -> T) -> u16 {
    let found = list.iter().position(is);
    let place = found.unwrap_or_else(|| {
        if list.len() < usize::from(NOWHERE) {
            list.push(make());
        }
        list.len() - 1
    });
    u16::try_from(place).unwrap_or(NOWHERE - 1)
}
