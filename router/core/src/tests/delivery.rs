//! Answers for platforms: parts, retries, dead letters and apologies.
use super::*;

/// A turn whose answer is on its way.
fn delivering(text: &str) -> (Scene, Vec<String>) {
    let mut scene = scene(plan());
    scene.send(posts("ann", "hi"));
    scene.text(call(0, 1, 0), text);
    let lines = scene.finishes(call(0, 1, 0));
    (scene, lines)
}

const LATER: Delivery<'static> = Delivery::Retry { after: Duration::ZERO, detail: "" };

#[test]
fn parts_go_out_one_after_the_other_and_then_the_next_message() {
    let (mut scene, lines) = delivering("The first sentence. And the second one.");
    assert_eq!(lines, ["deliver 0.1 part 0 attempt 0 [The first sentence.]"]);
    assert_eq!(scene.send(posts("ann", "more")), ["accepted 1.1 ahead 1"]);
    assert_eq!(
        scene.delivered(turn(0, 1), 1, 0, Delivery::Confirmed { message: "" }),
        [""; 0],
        "not that part"
    );
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["deliver 0.1 part 1 attempt 0 [And the second one.]"]
    );
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        [""; 0],
        "confirmed twice"
    );
    assert_eq!(
        scene.delivered(turn(0, 1), 1, 0, Delivery::Confirmed { message: "" }),
        ["settled 0.1 answered", "start 1.1#0 agent 0 model 0"]
    );
}

#[test]
fn a_part_is_tried_again_and_then_given_up() {
    let (mut scene, _) = delivering("hello");
    assert_eq!(scene.delivered(turn(0, 1), 0, 0, LATER), [""; 0]);
    assert_eq!(scene.next().1, ["deliver 0.1 part 0 attempt 1 [hello]"]);
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        [""; 0],
        "late, of the first attempt"
    );
    let (at, lines) = scene.next();
    assert_eq!(
        lines,
        ["deliver 0.1 part 0 attempt 2 [hello]"],
        "no answer within the limit is a failed attempt"
    );
    assert!(12_000 <= at);
    assert_eq!(scene.delivered(turn(0, 1), 0, 2, LATER), ["settled 0.1 dead DELIVERY_FAILED"]);
    assert_eq!(scene.shard().counters().dead, 1);
}

#[test]
fn a_platform_that_says_when_burns_no_attempt_ten_times() {
    let (mut scene, _) = delivering("hello");
    let later = Delivery::Retry { after: Duration::from_secs(3_600), detail: "" };
    for attempt in 0..12 {
        let before = scene.now.as_millis();
        assert_eq!(scene.delivered(turn(0, 1), 0, attempt, later), [""; 0], "attempt {attempt}");
        let (at, lines) = scene.next();
        assert_eq!(lines, [format!("deliver 0.1 part 0 attempt {} [hello]", attempt + 1)]);
        assert_eq!(at - before, 30_000, "as long as we wait at most");
    }
    assert_eq!(scene.delivered(turn(0, 1), 0, 12, later), ["settled 0.1 dead DELIVERY_FAILED"]);
}

#[test]
fn a_refused_part_is_dead_at_once() {
    let (mut scene, _) = delivering("hello");
    let refused = Delivery::Refused { detail: "bot was blocked" };
    assert_eq!(scene.delivered(turn(0, 1), 0, 0, refused), ["settled 0.1 dead DELIVERY_FAILED"]);
}

#[test]
fn the_agents_place_is_free_while_its_answer_is_delivered() {
    let mut plan = plan();
    plan.agents[0].running_max = 1;
    let mut scene = scene(plan);
    scene.send(posts("ann", "1"));
    scene.send(posts("bob", "2"));
    scene.text(call(0, 1, 0), "hello");
    assert_eq!(
        scene.finishes(call(0, 1, 0)),
        ["deliver 0.1 part 0 attempt 0 [hello]", "start 1.1#0 agent 0 model 0"]
    );
}

#[test]
fn a_failed_turn_apologises_if_its_agent_has_words_for_it() {
    let mut silent = scene(plan());
    silent.send(posts("ann", "hi"));
    let end = failed(Code::UpstreamFailed, Retry::Never);
    assert_eq!(silent.ends(call(0, 1, 0), end), ["settled 0.1 dead UPSTREAM_FAILED"]);
    let mut plan = plan();
    plan.agents[0].failure_text = Some("Sorry.".into());
    let mut scene = scene(plan);
    scene.send(posts("ann", "hi"));
    assert_eq!(scene.ends(call(0, 1, 0), end), ["deliver 0.1 part 0 attempt 0 [Sorry.]"]);
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["settled 0.1 dead UPSTREAM_FAILED"]
    );
    scene.send(posts("ann", "hi"));
    scene.ends(call(0, 2, 0), end);
    let refused = Delivery::Refused { detail: "" };
    assert_eq!(
        scene.delivered(turn(0, 2), 0, 0, refused),
        ["settled 0.2 dead UPSTREAM_FAILED"],
        "the first reason"
    );
}

#[test]
fn a_message_that_waited_too_long_is_told_in_its_turn() {
    let mut plan = plan();
    plan.agents[0].failure_text = Some("Sorry.".into());
    plan.limits.waiting_age_max = Duration::from_secs(1);
    let mut scene = scene(plan);
    scene.send(posts("ann", "1"));
    scene.send(posts("ann", "2"));
    scene.send(Inbound { mode: Mode::Whole, ..says("ann", "3") });
    scene.piece(call(0, 1, 0), Piece::Reasoning("long"));
    assert_eq!(scene.next().1, ["fail 2.1 1 WAITED_TOO_LONG [] 1000", "settled 2.1 failed WAITED_TOO_LONG",]);
    scene.text(call(0, 1, 0), "one");
    scene.finishes(call(0, 1, 0));
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["settled 0.1 answered", "deliver 1.1 part 0 attempt 0 [Sorry.]"]
    );
    assert_eq!(
        scene.delivered(turn(1, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["settled 1.1 dead WAITED_TOO_LONG"]
    );
}

#[test]
fn waiting_for_the_agent_is_bounded_in_time() {
    let mut plan = plan();
    plan.agents[0].running_max = 1;
    plan.limits.waiting_age_max = Duration::from_secs(1);
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    scene.piece(call(0, 1, 0), Piece::Reasoning("long"));
    scene.send(says("bob", "2"));
    assert_eq!(
        scene.next(),
        (
            2_000,
            vec![
                "fail 1.1 1 WAITED_TOO_LONG [] 1000".to_string(),
                "settled 1.1 failed WAITED_TOO_LONG".to_string(),
            ]
        )
    );
    assert_eq!(scene.finishes(call(0, 1, 0)).len(), 2, "nobody waits any more");
}
