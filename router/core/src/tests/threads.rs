//! Shards on threads of their own, as in the process: what the simulator's one thread cannot show. A wake-up that is
//! lost leaves a shard waiting for a nudge that never comes, and a place taken twice shows in the count.
use super::*;
use crate::bucket::{Rate, Table};
use crate::home::Secret;
use crate::random::Random;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel as queue};
use std::thread;

const SHARDS: u16 = 4;
const MESSAGES: u32 = 1_500;
const ROUNDS: u32 = 30_000;
/// Looks at the inbox without a result, far more than the other thread ever needs: seconds.
const SPINS: u32 = 100_000_000;
/// Far longer than any machine needs; only a lost wake-up lasts for ever.
const PATIENCE: Duration = Duration::from_secs(60);

enum Post {
    Nudged(AgentId),
    Stop,
}

/// What the threads share: calls that run, and shards that have nothing left to do.
#[derive(Default)]
struct Common {
    running: AtomicU32,
    finished: AtomicU32,
}

struct Core<'a> {
    shard: Shard,
    out: Effects,
    calls: Vec<CallId>,
    settled: u32,
    most: u32,
    common: &'a Common,
    posts: Vec<Sender<Post>>,
}

impl Core<'_> {
    fn handle(&mut self, event: Event<'_>) {
        self.out.clear();
        self.shard.handle(Time::from_millis(1), event, &mut self.out);
        for effect in self.out.list() {
            match effect {
                Effect::Start { call, .. } => {
                    let running = self.common.running.fetch_add(1, Ordering::SeqCst);
                    assert!(running < self.most, "{running} run already");
                    self.calls.push(*call);
                }
                Effect::Settled { .. } => self.settled += 1,
                Effect::Nudge { shard, agent } => {
                    // The last threads may be gone by the time of the last nudge.
                    let _ = self.posts[usize::from(shard.0)].send(Post::Nudged(*agent));
                }
                _ => {}
            }
        }
    }

    fn end_one(&mut self, random: &mut Random) {
        let place = usize::try_from(random.below(self.calls.len() as u64)).unwrap();
        let call = self.calls.swap_remove(place);
        self.common.running.fetch_sub(1, Ordering::SeqCst);
        let left = random.below(4) == 0;
        let end = Event::Ended { call, end: End::Finished(Stop::Complete) };
        self.handle(if left { Event::Left { turn: call.turn } } else { end });
    }

    fn run(&mut self, inbox: &Receiver<Post>, random: &mut Random) {
        let (mut sent, mut told) = (0, false);
        loop {
            let idle = sent == MESSAGES && self.calls.is_empty();
            if idle && self.settled == MESSAGES && !told {
                told = true;
                if self.common.finished.fetch_add(1, Ordering::SeqCst) + 1 == u32::from(SHARDS) {
                    self.posts.iter().for_each(|post| drop(post.send(Post::Stop)));
                }
            }
            let post = if idle { inbox.recv_timeout(PATIENCE).ok() } else { inbox.try_recv().ok() };
            match post {
                Some(Post::Nudged(agent)) => self.handle(Event::Nudged { agent }),
                Some(Post::Stop) => return,
                None if idle => panic!("{} of {MESSAGES} settled, and nobody wakes this shard", self.settled),
                None if sent < MESSAGES && random.below(2) == 0 => {
                    sent += 1;
                    let peer = (sent % 300).to_string();
                    self.handle(Event::Inbound { client: Client::default(), inbound: says(&peer, "hi") });
                }
                None if !self.calls.is_empty() => self.end_one(random),
                None => give_way(),
            }
        }
    }

    /// One message, and then no more until the other shard's is done too: a wake-up that is lost is not made up for by
    /// the next one. Both begin each round at the same moment, as far as that can be.
    fn rounds(&mut self, inbox: &Receiver<Post>) {
        let mut done = 0;
        for round in 1..=ROUNDS {
            self.handle(Event::Inbound { client: Client::default(), inbound: says("ann", "hi") });
            let mut spins = 0_u32;
            while done < round || self.common.finished.load(Ordering::SeqCst) < 2 * round {
                if let Some(call) = self.calls.pop() {
                    self.common.running.fetch_sub(1, Ordering::SeqCst);
                    self.handle(Event::Ended { call, end: End::Finished(Stop::Complete) });
                } else if done < self.settled {
                    done = self.settled;
                    self.common.finished.fetch_add(1, Ordering::SeqCst);
                } else if let Ok(Post::Nudged(agent)) = inbox.try_recv() {
                    self.handle(Event::Nudged { agent });
                } else {
                    spins += 1;
                    assert!(spins < SPINS, "round {round}: {done} done, and nobody wakes this shard");
                    if spins.is_multiple_of(256) {
                        give_way();
                    }
                }
            }
        }
    }
}

/// Lets another thread run, if one can: there may be fewer processors than shards.
fn give_way() {
    thread::park_timeout(Duration::from_nanos(1));
}

fn race(running_max: u32, model_max: u32, seed: u64) {
    let mut plan = plan();
    plan.agents[0].running_max = running_max;
    plan.agents[0].models.truncate(1);
    plan.models[0].running_max = model_max;
    (plan.limits.turns_max, plan.limits.sessions_max, plan.limits.session_waiting_max) = (0, 0, u16::MAX);
    let most = if model_max == 0 { running_max } else { running_max.min(model_max) };
    let scene = scene_of(plan, SHARDS);
    let common = Common::default();
    let (posts, inboxes): (Vec<_>, Vec<_>) = (0..SHARDS).map(|_| queue()).unzip();
    thread::scope(|scope| {
        for (shard, inbox) in scene.shards.into_iter().zip(inboxes) {
            let (common, posts) = (&common, posts.clone());
            scope.spawn(move || {
                let mut random = Random::new(seed ^ u64::from(shard.id.0));
                let out = Effects::new();
                let mut core = Core { shard, out, calls: Vec::new(), settled: 0, most, common, posts };
                core.run(&inbox, &mut random);
            });
        }
    });
    assert_eq!(common.running.load(Ordering::SeqCst), 0);
}

#[test]
fn nobody_is_forgotten_and_no_place_is_taken_twice() {
    for (seed, (running_max, model_max)) in
        [(1, 0), (2, 1), (3, 2), (200, 3), (200, 150)].into_iter().enumerate()
    {
        race(running_max, model_max, seed as u64);
    }
}

#[test]
fn the_last_place_is_handed_over_each_time() {
    let mut plan = plan();
    plan.agents[0].running_max = 1;
    let scene = scene_of(plan, 2);
    let common = Common::default();
    let (posts, inboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| queue()).unzip();
    thread::scope(|scope| {
        for (shard, inbox) in scene.shards.into_iter().zip(inboxes) {
            let (common, posts) = (&common, posts.clone());
            scope.spawn(move || {
                let out = Effects::new();
                Core { shard, out, calls: Vec::new(), settled: 0, most: 1, common, posts }.rounds(&inbox);
            });
        }
    });
}

#[test]
fn a_bucket_grants_its_burst_and_no_more_to_all_threads() {
    let table = Table::new(64, Secret([1, 2]));
    let rate = Rate { burst: 1_000, per: Duration::from_secs(3_600) };
    let granted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..SHARDS {
            scope.spawn(|| {
                for _ in 0..500 {
                    let verdict = table.take(b"one key", Time::from_millis(1), &rate);
                    granted.fetch_add(u64::from(verdict.is_granted()), Ordering::SeqCst);
                }
            });
        }
    });
    // Each grant pays in at least one of the key's two cells; alone in both it may find them apart for a moment.
    let granted = granted.load(Ordering::SeqCst);
    assert!((1_000..=1_000 + u64::from(SHARDS)).contains(&granted), "{granted}");
}
