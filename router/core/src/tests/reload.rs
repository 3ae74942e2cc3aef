//! Another plan while everything runs.
use super::*;

fn two_agents() -> Plan {
    let mut plan = plan();
    plan.agents = vec![agent("ada", &[0]), agent("bea", &[1])];
    plan.channels.push(Channel { agent: Some(AgentId(1)), ..channel("other") });
    plan
}

/// The same, with everything in another order.
fn moved() -> Plan {
    let mut plan = two_agents();
    plan.models.reverse();
    plan.agents = vec![agent("bea", &[0]), agent("ada", &[1])];
    plan.channels = vec![Channel { agent: Some(AgentId(0)), ..channel("other") }, channel("web")];
    plan.route = Strategy::Static(AgentId(1));
    plan
}

#[test]
fn what_runs_goes_on_under_new_ids() {
    let mut scene = scene(two_agents());
    scene.send(says("ann", "1"));
    scene.send(says("ann", "2"));
    scene.shard().reconfigure(Arc::new(moved()));
    assert_eq!(scene.tick(), [""; 0]);
    assert_eq!(scene.text(call(0, 1, 0), "hi"), ["send 0.1 1 hi"]);
    assert_eq!(
        scene.finishes(call(0, 1, 0)),
        ["finish 0.1 2 [] by 1", "settled 0.1 answered", "start 1.1#0 agent 1 model 1"]
    );
    let session = scene.shards[0].find(ChannelId(1), Scope::Direct, "ann", "", "").unwrap();
    assert_eq!(scene.shards[0].address(session).unwrap().channel, ChannelId(1));
    assert_eq!(scene.shards[0].find(ChannelId(0), Scope::Direct, "ann", "", ""), None);
}

#[test]
fn messages_for_an_agent_that_is_gone_fail_and_calls_end_as_they_do() {
    let mut plan = two_agents();
    plan.agents[0].running_max = 1;
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    scene.send(says("bob", "2"));
    let mut without = two_agents();
    without.agents.remove(0);
    without.channels[1].agent = None;
    scene.shard().reconfigure(Arc::new(without));
    assert_eq!(scene.shard().next_deadline(), Some(scene.now), "a tick is due");
    assert_eq!(scene.tick(), ["fail 1.1 1 NOT_FOUND [] 0", "settled 1.1 failed NOT_FOUND"]);
    assert_eq!(scene.text(call(0, 1, 0), "x"), ["send 0.1 1 x"]);
    assert_eq!(scene.finishes(call(0, 1, 0))[0], "finish 0.1 2 [] by 0");
    assert_eq!(scene.send(says("ann", "3"))[1], "start 0.2#0 agent 0 model 1");
}

#[test]
fn larger_limits_start_those_who_wait() {
    let mut plan = two_agents();
    plan.agents[0].running_max = 1;
    let mut scene = scene_of(plan, 2);
    scene.send(says("ann", "1"));
    scene.send(says("bob", "2"));
    scene.send_to(1, says("cyd", "3"));
    let mut larger = two_agents();
    larger.agents[0].running_max = 3;
    let larger = Arc::new(larger);
    scene.shard().reconfigure(larger.clone());
    assert_eq!(scene.tick(), ["nudge 1 agent 0", "start 1.1#0 agent 0 model 0"]);
    scene.shards[1].reconfigure(larger);
    assert_eq!(scene.on(1, Event::Nudged { agent: AgentId(0) }), ["start 0.1#0 agent 0 model 0"]);
}

#[test]
fn limits_come_and_go_without_losing_count() {
    let mut scene = scene(two_agents());
    for peer in ["a", "b", "c"] {
        scene.send(says(peer, "hi"));
    }
    for max in [2, 0, 100, 1, 0, 3] {
        let mut plan = two_agents();
        (plan.agents[0].running_max, plan.models[0].running_max) = (max, max);
        (plan.limits.turns_max, plan.limits.sessions_max) = (max, max);
        scene.shard().reconfigure(Arc::new(plan));
        scene.tick();
    }
    assert_eq!(scene.send(says("d", "hi")), ["refused BUSY 1000"]);
    for slot in 0..3 {
        scene.finishes(call(slot, 1, 0));
    }
    let load = scene.shard().load();
    assert_eq!(
        (load.running, scene.shards[0].bounds.turns(), scene.shards[0].bounds.agent("ada").1),
        (0, 0, 0)
    );
}

/// What a shard holds in reserve may be more than a smaller limit leaves to the others.
#[test]
fn reserves_go_back_once_another_shard_has_a_smaller_limit() {
    let mut plan = two_agents();
    plan.limits.turns_max = 320;
    let mut scene = scene_of(plan, 2);
    scene.send(says("ann", "1"));
    scene.finishes(call(0, 1, 0));
    assert_ne!(scene.shards[0].bounds.turns(), 0, "nothing runs, and some are in reserve");
    let mut smaller = two_agents();
    smaller.limits.turns_max = 2;
    scene.shards[1].reconfigure(Arc::new(smaller));
    scene.tick();
    assert_eq!(scene.shards[0].bounds.turns(), 0);
}
