//! Places at agents and models, over several shards: nothing beyond the limit, nobody forgotten.
use super::*;
use crate::random::Random;

fn bounded(running_max: u32) -> Plan {
    let mut plan = plan();
    plan.agents[0].running_max = running_max;
    plan
}

#[test]
fn a_freed_place_goes_to_the_shard_that_waits() {
    let mut scene = scene_of(bounded(1), 2);
    assert_eq!(scene.send_to(0, says("ann", "1")).len(), 2);
    assert_eq!(scene.send_to(1, says("bob", "2")), ["accepted 0.1 ahead 0"]);
    assert_eq!(scene.finishes(call(0, 1, 0))[2..], ["nudge 1 agent 0"]);
    assert_eq!(scene.on(1, Event::Nudged { agent: AgentId(0) }), ["start 0.1#0 agent 0 model 0"]);
    assert_eq!(scene.on(1, Event::Nudged { agent: AgentId(0) }), [""; 0], "a nudge too many");
}

#[test]
fn the_one_who_frees_comes_last() {
    let mut scene = scene_of(bounded(1), 3);
    scene.send(says("ann", "1"));
    scene.send(says("bob", "2"));
    scene.send_to(1, says("cyd", "3"));
    scene.send_to(2, says("dan", "4"));
    assert_eq!(scene.finishes(call(0, 1, 0))[2..], ["nudge 1 agent 0"]);
    assert_eq!(scene.on(1, Event::Nudged { agent: AgentId(0) })[0], "start 0.1#0 agent 0 model 0");
    let end = Event::Ended { call: call(0, 1, 0), end: End::Finished(Stop::Complete) };
    assert_eq!(scene.on(1, end)[2..], ["nudge 2 agent 0"]);
    scene.on(2, Event::Nudged { agent: AgentId(0) });
    assert_eq!(scene.on(2, end)[2..], ["nudge 0 agent 0"]);
    assert_eq!(scene.event(Event::Nudged { agent: AgentId(0) })[0], "start 1.1#0 agent 0 model 0");
}

#[test]
fn a_promised_place_that_is_not_needed_goes_on() {
    let mut scene = scene_of(bounded(1), 3);
    scene.send(says("ann", "1"));
    scene.send_to(1, says("bob", "2"));
    scene.send_to(2, says("cyd", "3"));
    assert_eq!(scene.finishes(call(0, 1, 0))[2..], ["nudge 1 agent 0"]);
    assert_eq!(scene.on(1, Event::Left { turn: turn(0, 1) }), ["settled 0.1 cancelled"]);
    assert_eq!(scene.on(1, Event::Nudged { agent: AgentId(0) }), ["nudge 2 agent 0"]);
    assert_eq!(scene.on(2, Event::Nudged { agent: AgentId(0) }), ["start 0.1#0 agent 0 model 0"]);
}

#[test]
fn a_models_places_are_shared_by_its_agents() {
    let mut plan = plan();
    plan.models[0].running_max = 1;
    plan.agents = vec![agent("ada", &[0]), agent("bea", &[0])];
    plan.channels.push(Channel { agent: Some(AgentId(1)), ..channel("other") });
    let mut scene = scene_of(plan, 2);
    scene.send(says("ann", "1"));
    let other = Inbound { channel: ChannelId(1), ..says("bob", "2") };
    assert_eq!(scene.send_to(1, other), ["accepted 0.1 ahead 0"]);
    assert_eq!(scene.finishes(call(0, 1, 0))[2..], ["nudge 1 agent 1"]);
    assert_eq!(scene.on(1, Event::Nudged { agent: AgentId(1) }), ["start 0.1#0 agent 1 model 0"]);
}

#[test]
fn high_classes_go_first_and_low_ones_too() {
    let mut scene = scene(bounded(1));
    scene.send(says("first", "0"));
    for n in 0..18_u32 {
        scene.send(Inbound { class: Class::Low, ..says(&format!("low{n}"), "x") });
        scene.send(Inbound { class: Class::Vip, ..says(&format!("vip{n}"), "x") });
    }
    let mut order = String::new();
    let mut running = call(0, 1, 0);
    for _ in 0..19 {
        scene.finishes(running);
        let started = scene.out.list().iter().find_map(|effect| match effect {
            Effect::Start { call, .. } => Some(*call),
            _ => None,
        });
        running = started.unwrap();
        let session = scene.shards[0].session_of(running.turn).unwrap();
        order.push_str(&scene.shards[0].address(session).unwrap().peer[..1]);
    }
    assert_eq!(order, "vvvvvvvvvvvvvvvvlvv", "sixteen to one");
}

/// The simulator found this in its seed 128: the end of a turn freed a place at the agent and one at the model, and woke
/// one of those who waited. That one had its place at the agent and took only the model's; the other waited for nothing.
#[test]
fn one_end_frees_two_places_for_two_turns() {
    let mut plan = bounded(2);
    plan.models[1].running_max = 1;
    let mut scene = scene(plan);
    for peer in ["ann", "bob", "cyd"] {
        scene.send(says(peer, "hi"));
    }
    for slot in [0, 1] {
        scene.ends(call(slot, 1, 0), failed(Code::UpstreamFailed, Retry::Elsewhere));
    }
    let lines = scene.finishes(call(0, 1, 1));
    let starts: Vec<&String> = lines.iter().filter(|line| line.starts_with("start")).collect();
    assert_eq!(starts, ["start 1.1#1 agent 0 model 1", "start 2.1#0 agent 0 model 0"], "{lines:?}");
}

/// What runs on each shard.
fn running(scene: &Scene) -> u32 {
    scene.shards.iter().map(|shard| shard.load().running).sum()
}

/// Random work on several shards under small and large limits. Nudges travel through one queue. At any time no more
/// runs than may; in the end, with clients that only finish what runs, everybody was served.
#[test]
fn nobody_is_forgotten() {
    for seed in 0..60_u64 {
        let mut random = Random::new(seed);
        let shards = u16::try_from(1 + random.below(4)).unwrap();
        let max = [1, 2, 5, 100][usize::try_from(random.below(4)).unwrap()];
        let mut plan = bounded(max);
        plan.models[0].running_max = [0, 1, 3][usize::try_from(random.below(3)).unwrap()];
        plan.agents[0].models.truncate(1);
        (plan.limits.turns_max, plan.limits.sessions_max) = (0, 0);
        plan.limits.waiting_age_max = Duration::from_secs(1_000_000);
        plan.models[0].header_age_max = Duration::from_secs(1_000_000);
        plan.models[0].first_piece_age_max = Duration::from_secs(1_000_000);
        plan.models[0].call_age_max = Duration::from_secs(1_000_000);
        let most = if plan.models[0].running_max == 0 { max } else { max.min(plan.models[0].running_max) };
        let mut world = World { scene: scene_of(plan, shards), calls: Vec::new(), nudges: Vec::new() };
        for n in 0..300_u32 {
            let shard = usize::try_from(random.below(u64::from(shards))).unwrap();
            match random.below(6) {
                0..=2 => world.hear(shard, &format!("p{}", n % 40)),
                3 => world.end_one(&mut random, false),
                4 => world.end_one(&mut random, true),
                _ => world.nudge_one(&mut random),
            }
            assert!(running(&world.scene) <= most, "seed {seed}: beyond the limit");
        }
        while !world.calls.is_empty() || !world.nudges.is_empty() {
            if random.below(2) == 0 {
                world.nudge_one(&mut random)
            } else {
                world.end_one(&mut random, false)
            }
        }
        let left: u32 =
            world.scene.shards.iter().map(|shard| shard.load().ready + shard.load().waiting).sum();
        assert_eq!(left, 0, "seed {seed}: somebody waits for ever");
    }
}

struct World {
    scene: Scene,
    calls: Vec<(usize, CallId)>,
    nudges: Vec<(usize, AgentId)>,
}

impl World {
    fn hear(&mut self, shard: usize, peer: &str) {
        self.scene.send_to(shard, says(peer, "hi"));
        self.gather(shard);
    }

    fn end_one(&mut self, random: &mut Random, leave: bool) {
        if self.calls.is_empty() {
            return;
        }
        let (shard, call) =
            self.calls.swap_remove(usize::try_from(random.below(self.calls.len() as u64)).unwrap());
        let event = if leave {
            Event::Left { turn: call.turn }
        } else {
            Event::Ended { call, end: End::Finished(Stop::Complete) }
        };
        self.scene.on(shard, event);
        self.gather(shard);
    }

    fn nudge_one(&mut self, random: &mut Random) {
        if self.nudges.is_empty() {
            return;
        }
        let (shard, agent) =
            self.nudges.swap_remove(usize::try_from(random.below(self.nudges.len() as u64)).unwrap());
        self.scene.on(shard, Event::Nudged { agent });
        self.gather(shard);
    }

    fn gather(&mut self, shard: usize) {
        for effect in self.scene.out.list() {
            match effect {
                Effect::Start { call, .. } => self.calls.push((shard, *call)),
                Effect::Nudge { shard, agent } => self.nudges.push((usize::from(shard.0), *agent)),
                _ => {}
            }
        }
    }
}
