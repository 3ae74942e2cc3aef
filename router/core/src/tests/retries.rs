//! Failed calls: again, elsewhere, or not at all; and breakers.
use super::*;
use crate::breaker::State;
use crate::criteria::Criteria;

fn ended_by(retry: Retry) -> (Scene, Vec<String>) {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    let lines = scene.ends(call(0, 1, 0), failed(Code::UpstreamFailed, retry));
    (scene, lines)
}

#[test]
fn the_kind_of_failure_decides() {
    let (_, lines) = ended_by(Retry::Never);
    assert_eq!(lines, ["fail 0.1 1 UPSTREAM_FAILED [its words] 0", "settled 0.1 failed UPSTREAM_FAILED"]);
    let (scene, lines) = ended_by(Retry::Elsewhere);
    assert_eq!(lines, ["start 0.1#1 agent 0 model 1"]);
    assert_eq!(scene.shards[0].counters().fallbacks, 1);
    let (_, lines) = ended_by(Retry::After(Duration::from_secs(9)));
    assert_eq!(lines, ["start 0.1#1 agent 0 model 1"]);
    let (mut scene, lines) = ended_by(Retry::Backoff);
    assert_eq!(lines, [""; 0]);
    let (at, lines) = scene.next();
    assert_eq!(lines, ["start 0.1#1 agent 0 model 0"]);
    assert!((2_000..=3_001).contains(&at), "between the least pause and twice that: {at}");
    assert_eq!(scene.shards[0].counters().retries, 1);
    let (scene, lines) = ended_by(Retry::AtOnce);
    assert_eq!(lines, ["start 0.1#1 agent 0 model 0"], "the same model, without a pause");
    assert_eq!(scene.shards[0].counters().retries, 1);
    let (mut scene, _) = ended_by(Retry::Backoff);
    scene.next();
    let other = scene.ends(call(0, 1, 1), failed(Code::UpstreamFailed, Retry::AtOnce));
    assert_eq!(other, ["start 0.1#2 agent 0 model 1"], "two attempts, then the next model at once");
}

/// An agent that says what leads to its next model.
#[test]
fn the_criteria_decide_what_leads_to_the_next_model() {
    let run = |fallback: Criteria, end: End<'static>| {
        let mut plan = plan();
        (plan.agents[0].fallback, plan.agents[0].attempts_max) = (Some(fallback), 1);
        let mut scene = scene(plan);
        scene.send(says("ann", "hi"));
        scene.ends(call(0, 1, 0), end)[0].split(' ').next().map(String::from)
    };
    let none = Criteria::default();
    let started = Some("start".to_string());
    let failed_for_good = Some("fail".to_string());
    for (end, fitting) in [
        (failed_with(503, Retry::Backoff), none.with_status(503)),
        (failed_with(429, Retry::After(Duration::from_secs(5))), none.with_class(4)),
        (failed_with(401, Retry::Elsewhere), none.with_status(401)),
        (failed_with(400, Retry::Never), none.with_status(400)),
        (failed(Code::UpstreamTruncated, Retry::Backoff), Criteria { truncated: true, ..none }),
        (failed(Code::UpstreamMalformed, Retry::Backoff), Criteria { error: true, ..none }),
    ] {
        assert_eq!(run(fitting, end), started, "{end:?}");
        assert_eq!(run(none, end), failed_for_good, "{end:?}");
    }
}

/// A model that says itself which of its failures are worth another attempt.
#[test]
fn the_criteria_of_a_model_decide_what_is_tried_again_on_it() {
    let run = |retry: Option<Criteria>, end: End<'static>| {
        let mut plan = plan();
        plan.models[0].retry = retry;
        let mut scene = scene(plan);
        scene.send(says("ann", "hi"));
        let lines = scene.ends(call(0, 1, 0), end);
        if lines.is_empty() { scene.next().1[0].clone() } else { lines[0].clone() }
    };
    let none = Criteria::default();
    let (again, other) = ("start 0.1#1 agent 0 model 0", "start 0.1#1 agent 0 model 1");
    let wrong = "fail 0.1 1 UPSTREAM_FAILED [its words] 0";
    for (end, fitting, by_itself, never) in [
        (failed_with(503, Retry::Backoff), none.with_class(5), again, other),
        (failed_with(401, Retry::Elsewhere), none.with_status(401), other, other),
        (failed_with(400, Retry::Never), none.with_class(4), wrong, wrong),
        (failed(Code::UpstreamTruncated, Retry::AtOnce), Criteria { truncated: true, ..none }, again, other),
        (failed(Code::UpstreamMalformed, Retry::Backoff), Criteria { error: true, ..none }, again, other),
    ] {
        assert_eq!(run(None, end), by_itself, "{end:?}");
        assert_eq!(run(Some(fitting), end), again, "{end:?}");
        assert_eq!(run(Some(none), end), never, "{end:?}");
    }
    // One of the clocks.
    for (retry, line) in [(Criteria { timeout: true, ..none }, again), (none, other)] {
        let mut plan = plan();
        plan.models[0].retry = Some(retry);
        let mut scene = scene(plan);
        scene.send(says("ann", "hi"));
        let lines: Vec<String> = (0..2).flat_map(|_| scene.next().1).collect();
        assert!(lines.iter().any(|said| said == line), "{lines:?}");
    }
}

/// The agent's word on its chain goes before the model's on itself.
#[test]
fn the_criteria_of_a_model_hold_where_its_agent_has_none() {
    let none = Criteria::default();
    for (agent, model, leads_on) in [
        (None, None, true),
        (None, Some(none), false),
        (None, Some(none.with_status(503)), true),
        (Some(none), Some(none.with_status(503)), false),
        (Some(none.with_status(503)), Some(none), true),
    ] {
        let mut plan = plan();
        (plan.agents[0].fallback, plan.models[0].fallback) = (agent, model);
        plan.agents[0].attempts_max = 1;
        let mut scene = scene(plan);
        scene.send(says("ann", "hi"));
        let line = scene.ends(call(0, 1, 0), failed_with(503, Retry::Backoff))[0].clone();
        assert_eq!(line.starts_with("start"), leads_on, "{agent:?} {model:?}: {line}");
    }
}

/// Whatever the criteria say: what was shown cannot be taken back.
#[test]
fn no_criterion_leads_on_after_the_first_token() {
    let mut plan = plan();
    plan.agents[0].fallback = Some(Criteria { truncated: true, ..Criteria::default() });
    let mut scene = scene(plan);
    scene.send(says("ann", "hi"));
    scene.piece(call(0, 1, 0), Piece::Text("I "));
    let lines = scene.ends(call(0, 1, 0), failed(Code::UpstreamTruncated, Retry::Backoff));
    assert!(lines[0].starts_with("fail 0.1 2 UPSTREAM_TRUNCATED"), "{lines:?}");
}

#[test]
fn the_last_failure_is_told() {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    let mut scene = scene(plan);
    scene.send(says("ann", "hi"));
    scene.ends(call(0, 1, 0), failed(Code::UpstreamFailed, Retry::Backoff));
    scene.next();
    assert_eq!(
        scene.ends(call(0, 1, 1), failed(Code::UpstreamRateLimited, Retry::After(Duration::from_secs(7)))),
        ["fail 0.1 1 UPSTREAM_RATE_LIMITED [its words] 7000", "settled 0.1 failed UPSTREAM_RATE_LIMITED",]
    );
}

#[test]
fn a_provider_that_says_when_is_waited_for_if_there_is_no_other() {
    for (seconds, waited) in [(7, 8_000), (3_600, 31_000)] {
        let mut plan = plan();
        plan.agents[0].models.truncate(1);
        let mut scene = scene(plan);
        scene.send(says("ann", "hi"));
        scene.ends(
            call(0, 1, 0),
            failed(Code::UpstreamRateLimited, Retry::After(Duration::from_secs(seconds))),
        );
        assert_eq!(scene.next(), (waited, vec!["start 0.1#1 agent 0 model 0".to_string()]));
    }
}

#[test]
fn nothing_is_tried_again_once_something_was_shown() {
    for retry in [Retry::Backoff, Retry::AtOnce, Retry::Elsewhere, Retry::After(Duration::ZERO)] {
        let mut scene = scene(plan());
        scene.send(says("ann", "hi"));
        scene.text(call(0, 1, 0), "a");
        let lines = scene.ends(call(0, 1, 0), failed(Code::UpstreamTruncated, retry));
        assert_eq!(lines[0], "fail 0.1 2 UPSTREAM_TRUNCATED [its words] 0", "{retry:?}");
    }
}

#[test]
fn what_nobody_saw_is_dropped_before_the_next_attempt() {
    let mut scene = scene(plan());
    scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") });
    scene.text(call(0, 1, 0), "half an ans");
    assert_eq!(
        scene.ends(call(0, 1, 0), failed(Code::UpstreamTruncated, Retry::Elsewhere)),
        ["start 0.1#1 agent 0 model 1"]
    );
    assert_eq!(scene.text(call(0, 1, 0), "wer"), [""; 0], "late pieces of the first call");
    scene.text(call(0, 1, 1), "an answer");
    assert_eq!(scene.finishes(call(0, 1, 1))[0], "finish 0.1 1 [an answer] by 1");
}

/// Breaks the first model: three failures of three calls.
fn broken(plan: Plan) -> Scene {
    let mut scene = scene(plan);
    for n in 0..3_u32 {
        let peer = n.to_string();
        scene.send(says(&peer, "hi"));
        scene.text(call(0, n + 1, 0), "x");
        scene.ends(call(0, n + 1, 0), failed(Code::UpstreamFailed, Retry::Backoff));
    }
    scene
}

#[test]
fn a_broken_model_is_passed_over_until_a_probe_succeeds() {
    let mut scene = broken(plan());
    assert_eq!(scene.shards[0].breaker(ModelId(0)), State::Open);
    assert_eq!(scene.send(says("ann", "hi"))[1], "start 0.4#0 agent 0 model 1");
    scene.sleep(11_000);
    let probe = scene.send(says("bob", "hi"));
    assert_eq!(probe[1..], ["breaker 0 HalfOpen", "start 1.1#0 agent 0 model 0"]);
    assert_eq!(scene.send(says("cyd", "hi"))[1], "start 2.1#0 agent 0 model 1", "one probe at a time");
    assert_eq!(scene.event(Event::Left { turn: turn(1, 1) }).len(), 2);
    assert_eq!(
        scene.send(says("bob", "hi"))[1],
        "start 1.2#0 agent 0 model 0",
        "a cancelled probe is no probe"
    );
    scene.text(call(1, 2, 0), "fine");
    assert_eq!(scene.finishes(call(1, 2, 0))[0], "breaker 0 Closed");
}

#[test]
fn when_all_are_broken_clients_hear_it_at_once() {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    let mut scene = broken(plan);
    let lines = scene.send(says("ann", "hi"));
    let wait: u32 = lines[0].strip_prefix("refused UPSTREAM_UNAVAILABLE ").unwrap().parse().unwrap();
    assert!((10_000..=11_001).contains(&wait), "{lines:?}");
    assert!(scene.find("ann").is_none());
}

#[test]
fn a_wait_for_an_open_breaker_is_not_begun() {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    plan.models[0].breaker.calls_min = 1;
    let mut scene = scene(plan);
    scene.send(says("ann", "hi"));
    assert_eq!(
        scene.ends(call(0, 1, 0), failed(Code::UpstreamFailed, Retry::Backoff)),
        ["breaker 0 Open", "fail 0.1 1 UPSTREAM_FAILED [its words] 0", "settled 0.1 failed UPSTREAM_FAILED",]
    );
}

#[test]
fn people_on_a_platform_wait_for_a_broken_model() {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    plan.models[0].breaker.calls_min = 1;
    let mut scene = scene(plan);
    scene.send(posts("ann", "hi"));
    assert_eq!(scene.ends(call(0, 1, 0), failed(Code::UpstreamFailed, Retry::Backoff)), ["breaker 0 Open"]);
    let (at, lines) = scene.next();
    assert_eq!(lines, ["breaker 0 HalfOpen", "start 0.1#1 agent 0 model 0"]);
    assert!((11_000..=12_001).contains(&at));
}

#[test]
fn a_model_that_asked_for_calm_is_not_the_first_choice() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    scene.ends(call(0, 1, 0), failed(Code::UpstreamRateLimited, Retry::After(Duration::from_secs(5))));
    assert_eq!(scene.send(says("bob", "hi"))[1], "start 1.1#0 agent 0 model 1");
    scene.sleep(5_600);
    assert_eq!(scene.send(says("cyd", "hi"))[1], "start 2.1#0 agent 0 model 0");
}

/// An operator knows better: the next call goes to the model at once, and so does what waits for it.
#[test]
fn a_model_that_is_forgiven_is_called_again() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    scene.ends(call(0, 1, 0), failed(Code::UpstreamRateLimited, Retry::After(Duration::from_secs(5))));
    assert_eq!(scene.send(says("bob", "hi"))[1], "start 1.1#0 agent 0 model 1");
    assert_eq!(scene.event(Event::Forgiven { model: ModelId(0) }), [""; 0]);
    assert_eq!(scene.send(says("cyd", "hi"))[1], "start 2.1#0 agent 0 model 0");
    assert_eq!(scene.event(Event::Forgiven { model: ModelId(9) }), [""; 0], "one that is not there");
}

#[test]
fn an_open_breaker_is_closed_by_who_knows_better() {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    let mut scene = broken(plan);
    assert_eq!(scene.event(Event::Forgiven { model: ModelId(0) }), ["breaker 0 Closed"]);
    assert_eq!(scene.send(says("bob", "hi"))[1], "start 0.4#0 agent 0 model 0");
}

#[test]
fn a_time_out_is_a_failure_to_try_again() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    assert_eq!(scene.next(), (3_000, vec!["cancel 0.1#0".to_string()]));
    assert_eq!(scene.next().1, ["start 0.1#1 agent 0 model 0"]);
    assert_eq!(scene.next().1, ["cancel 0.1#1", "start 0.1#2 agent 0 model 1"]);
}

#[test]
fn no_place_is_lost_between_attempts() {
    let mut plan = plan();
    plan.agents[0].running_max = 1;
    plan.models[0].running_max = 1;
    plan.agents.push(agent("bea", &[0]));
    plan.channels.push(Channel { agent: Some(AgentId(1)), ..channel("other") });
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    scene.ends(call(0, 1, 0), failed(Code::UpstreamFailed, Retry::Backoff));
    assert_eq!(scene.send(says("bob", "2")).len(), 1, "the agent's place is kept through the pause");
    let other = Inbound { channel: ChannelId(1), ..says("cyd", "3") };
    assert_eq!(scene.send(other)[1], "start 2.1#0 agent 1 model 0", "the model's is not");
    scene.piece(call(2, 1, 0), Piece::Reasoning("long"));
    scene.sleep(2_100);
    assert_eq!(scene.tick(), [""; 0], "the model is taken");
    assert_eq!(scene.finishes(call(2, 1, 0))[2..], ["start 0.1#1 agent 0 model 0"], "and free again");
}

/// From a second to twice, four times, … as long, and half a minute at the most; anywhere between, so that those who failed
/// together do not come back together (row G5).
#[test]
fn pauses_grow_to_a_bound_and_differ() {
    let mut plan = plan();
    (plan.limits.backoff_min, plan.limits.backoff_max) = (Duration::from_secs(1), Duration::from_secs(30));
    let mut scene = scene(plan);
    let second = Duration::from_secs(1);
    for (tries, most) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30), (u16::MAX, 30)] {
        let pauses: Vec<Duration> = (0..200).map(|_| scene.shard().backoff(tries)).collect();
        let (least, most) = (second, second * most);
        assert!(pauses.iter().all(|pause| least <= *pause && *pause <= most), "{tries}: {pauses:?}");
        let near = least + (most - least) * 3 / 4;
        assert!(pauses.iter().any(|pause| near < *pause), "{tries}: no pause is long");
        assert!(pauses.iter().any(|pause| *pause < near), "{tries}: no pause is short");
    }
}
