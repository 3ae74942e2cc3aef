//! What a model grants in a minute: taken by all shards, waited for by the clock, told to whoever is refused.
use super::*;
use crate::event::Usage;

fn limited(requests: u32, tokens: u32) -> Plan {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    let model = &mut plan.models[0];
    (model.requests_per_minute, model.tokens_per_minute) = (requests, tokens);
    (model.header_age_max, model.first_piece_age_max) = (Duration::from_secs(90), Duration::from_secs(90));
    (model.call_age_max, model.silence_max) = (Duration::from_secs(90), Duration::from_secs(90));
    plan
}

/// The place in the queue that the last message was told.
fn place(scene: &Scene) -> u32 {
    match scene.out.list() {
        [Effect::Accepted { place, .. }] => *place,
        other => panic!("{other:?}"),
    }
}

fn write_all(scene: &mut Scene, count: u32) {
    for n in 0..count {
        let peer = format!("p{n}");
        assert!(scene.send(says(&peer, "hi"))[1].starts_with("start"), "{n}");
    }
}

#[test]
fn who_finds_the_minute_spent_starts_when_the_next_call_is_granted() {
    let mut scene = scene(limited(12, 0));
    write_all(&mut scene, 12);
    assert_eq!((scene.send(says("late", "hi")).len(), place(&scene)), (1, 1));
    assert_eq!((scene.send(says("later", "hi")).len(), place(&scene)), (1, 2));
    let vip = Inbound { class: Class::Vip, ..says("vip", "hi") };
    assert_eq!((scene.send(vip).len(), place(&scene)), (1, 2), "who pays waits behind one of the others");
    scene.event(Event::Left { turn: turn(14, 1) });
    assert!(
        scene.finishes(call(0, 1, 0)).iter().all(|line| !line.starts_with("start")),
        "places are no calls"
    );
    assert_eq!(scene.next(), (6_000, vec!["start 12.1#0 agent 0 model 0".to_string()]));
    assert_eq!(scene.next().0, 11_000, "each five seconds one");
    assert_eq!(scene.event(Event::Left { turn: turn(13, 1) }).len(), 2, "it was started");
}

#[test]
fn a_minute_is_of_all_shards() {
    let mut scene = scene_of(limited(6, 0), 2);
    write_all(&mut scene, 6);
    assert_eq!(scene.send_to(1, says("late", "hi")), ["accepted 0.1 ahead 0"]);
    assert_eq!(scene.shards[1].next_deadline(), Some(Time::from_millis(11_000)));
    scene.sleep(10_000);
    scene.out.clear();
    scene.shards[1].tick(scene.now, &mut scene.out);
    assert!(matches!(scene.out.list(), [Effect::Start { .. }]), "{:?}", scene.out.list());
}

#[test]
fn each_attempt_is_a_call() {
    let mut scene = scene(limited(1, 0));
    write_all(&mut scene, 1);
    scene.ends(call(0, 1, 0), failed(Code::UpstreamFailed, Retry::Backoff));
    let (at, lines) = scene.next();
    assert_eq!((at, lines), (61_000, vec!["start 0.1#1 agent 0 model 0".to_string()]));
}

#[test]
fn tokens_are_estimated_before_and_charged_after() {
    let mut scene = scene(limited(0, 60));
    let forty = "0123456789012345678901234567890123456789";
    assert_eq!(scene.send(says("ann", forty)).len(), 2);
    let usage = Usage { prompt: 20, completion: 50, estimated: false };
    scene.piece(call(0, 1, 0), Piece::Usage(usage));
    scene.text(call(0, 1, 0), "fine");
    scene.finishes(call(0, 1, 0));
    assert_eq!(scene.send(says("bob", "four")).len(), 1, "seventy were used, of sixty");
    assert_eq!(scene.next().0, 12_000, "until one is there");
    // Nobody counted: what was said is estimated.
    let mut scene = self::scene(limited(0, 60));
    scene.send(says("ann", forty));
    scene.text(call(0, 1, 0), forty);
    scene.event(Event::Left { turn: turn(0, 1) });
    let long = "0".repeat(200);
    assert_eq!(scene.send(says("bob", &long)).len(), 1, "twenty are gone, and it wants fifty");
    assert_eq!(scene.next().0, 11_000);
}

#[test]
fn who_would_wait_too_long_is_told_when_to_come_back() {
    let mut plan = limited(6, 0);
    plan.agents[0].wait_target = Duration::from_secs(5);
    let mut scene = scene(plan);
    write_all(&mut scene, 6);
    let mut answers = (0..4).map(|n| scene.send(says(&format!("q{n}"), "hi"))[0].clone());
    assert!(answers.by_ref().take(2).all(|line| line.starts_with("accepted")));
    assert_eq!(
        answers.next().as_deref(),
        Some("refused AGENT_BUSY 25000"),
        "thirty seconds, and five may be"
    );
}

#[test]
fn a_full_queue_tells_when_the_last_of_it_is_granted() {
    let mut plan = limited(6, 0);
    plan.agents[0].waiting_max = 2;
    let mut scene = scene(plan);
    write_all(&mut scene, 6);
    for n in 0..2 {
        assert_eq!(scene.send(says(&format!("q{n}"), "hi")).len(), 1);
    }
    assert_eq!(scene.send(says("q2", "hi")), ["refused AGENT_BUSY 20000"]);
}

#[test]
fn another_limit_holds_from_its_plan_on() {
    let mut scene = scene(limited(6, 0));
    write_all(&mut scene, 6);
    assert_eq!(scene.send(says("late", "hi")).len(), 1);
    scene.shard().reconfigure(Arc::new(limited(0, 0)));
    assert_eq!(scene.next(), (1_000, vec!["start 6.1#0 agent 0 model 0".to_string()]));
}
