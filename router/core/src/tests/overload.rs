//! What is refused because it would wait for too long, and what is not.
use super::*;
use crate::event::Stored;

/// One place, turns of a second, and two seconds to wait.
fn busy() -> Scene {
    let mut plan = plan();
    (plan.agents[0].running_max, plan.agents[0].wait_target) = (1, Duration::from_secs(2));
    (plan.models[0].first_piece_age_max, plan.models[0].header_age_max) =
        (Duration::from_secs(30), Duration::from_secs(30));
    let mut scene = scene(plan);
    scene.send(says("first", "hi"));
    scene.sleep(1_000);
    scene.finishes(call(0, 1, 0));
    scene.send(says("first", "hi"));
    scene
}

fn write(scene: &mut Scene, n: u32, class: Class) -> String {
    let peer = format!("p{n}");
    scene.send(Inbound { class, ..says(&peer, "hi") })[0].clone()
}

/// The call that runs ends.
fn finish(scene: &mut Scene) {
    let running = |id: &TurnId| scene.shards[0].turn(*id).is_some_and(|turn| turn.holds.model);
    let ids = (0..96).map(|slot| scene.shards[0].turn_id(slot));
    let id = ids.into_iter().find(running).unwrap();
    let attempt = scene.shards[0].turn(id).unwrap().calls - 1;
    scene.finishes(CallId { turn: id, attempt });
}

#[test]
fn a_burst_is_let_in_a_standing_queue_is_not() {
    let mut scene = busy();
    let answers: Vec<String> = (0..10).map(|n| write(&mut scene, n, Class::Normal)).collect();
    assert!(
        answers[..8].iter().all(|line| line.starts_with("accepted")),
        "four times the target: {answers:?}"
    );
    assert_eq!(answers[8..], ["refused AGENT_BUSY 7000", "refused AGENT_BUSY 7000"]);
    for _ in 0..2 {
        scene.sleep(1_000);
        finish(&mut scene);
    }
    assert_eq!(write(&mut scene, 20, Class::Normal), "refused AGENT_BUSY 5000", "it stands");
    for _ in 0..5 {
        scene.sleep(1_000);
        finish(&mut scene);
    }
    assert!(write(&mut scene, 20, Class::Normal).starts_with("accepted"), "after the time that was told");
    assert_eq!(write(&mut scene, 21, Class::Normal), "refused AGENT_BUSY 1000");
    assert_eq!(scene.shards[0].load().agents[0].refused, 4);
}

#[test]
fn a_class_that_nobody_waits_in_is_let_in_and_vips_hardly_wait() {
    let mut scene = busy();
    for n in 0..10 {
        write(&mut scene, n, Class::Normal);
    }
    scene.sleep(2_000);
    assert_eq!(
        write(&mut scene, 20, Class::Normal),
        "refused AGENT_BUSY 16000",
        "a turn takes two seconds by now"
    );
    assert!(write(&mut scene, 21, Class::Low).starts_with("accepted"), "however long it will wait");
    let low = write(&mut scene, 22, Class::Low);
    assert!(low.starts_with("refused AGENT_BUSY"), "{low}");
    finish(&mut scene);
    assert!(write(&mut scene, 23, Class::Vip).starts_with("accepted"));
    let waits = scene.shards[0].load().agents[0].wait_millis;
    assert!(waits[2] < waits[1] && waits[1] <= waits[0], "{waits:?}");
}

#[test]
fn a_model_that_hangs_is_not_believed_to_be_as_fast_as_it_was() {
    let mut scene = busy();
    write(&mut scene, 0, Class::Normal);
    scene.sleep(9_000);
    assert_eq!(
        write(&mut scene, 1, Class::Normal),
        "refused AGENT_BUSY 16000",
        "twice nine seconds, less two"
    );
}

#[test]
fn without_a_target_only_the_limits_refuse() {
    let mut plan = plan();
    (plan.agents[0].running_max, plan.agents[0].waiting_max) = (1, 30);
    let mut scene = scene(plan);
    for n in 0..31 {
        assert!(write(&mut scene, n, Class::Normal).starts_with("accepted"));
        scene.sleep(100);
    }
    assert!(write(&mut scene, 31, Class::Normal).starts_with("refused AGENT_BUSY"));
    assert_eq!(scene.shards[0].load().agents[0].refused, 1);
}

/// What is not known of a session yet is no way around the limit: who waits for the store waits, too.
#[test]
fn those_that_wait_for_the_store_are_counted() {
    let mut plan = plan();
    (plan.agents[0].history, plan.agents[0].waiting_max) = (true, 3);
    let mut scene = durable::keeps(plan, true);
    assert_eq!(scene.send(says("ann", "1")), ["accepted 0.1 ahead 0", "load 0.1"]);
    assert_eq!(scene.send(says("ann", "2")), ["accepted 1.1 ahead 1"]);
    assert_eq!(scene.send(says("bob", "3"))[1], "load 1.1");
    assert_eq!(scene.send(says("ann", "4")), ["refused AGENT_BUSY 1000"], "in a session that is loading");
    assert_eq!(scene.send(says("cyd", "5")), ["refused AGENT_BUSY 1000"], "in one that would be");
    let waiting = |scene: &Scene| scene.shards[0].load().agents[0].waiting;
    assert_eq!((waiting(&scene), scene.shards[0].load().sessions), (3, 2));
    // Each that gets its place makes room for one, whether the store knew its session or not.
    let ann = scene.find("ann").unwrap();
    let started = scene.event(Event::Loaded { session: ann, stored: Some(&Stored::default()) });
    assert_eq!(started, ["start 0.1#0 agent 0 model 0"]);
    assert_eq!(waiting(&scene), 2);
    assert_eq!(scene.send(says("cyd", "5"))[1], "load 2.1");
    assert_eq!(scene.send(says("dan", "6")), ["refused AGENT_BUSY 1000"]);
    let bob = scene.find("bob").unwrap();
    scene.event(Event::Loaded { session: bob, stored: None });
    assert_eq!(waiting(&scene), 2);
    assert_eq!(scene.shards[0].load().agents[0].refused, 3);
}
