//! What a platform sees of an answer before it is whole: one message that grows, and becomes the answer's first part.
use super::durable::{durable, keeps};
use super::*;
use crate::event::Restored;
use crate::id::Uid;
use crate::record::Accepted;
use core::time::Duration;

const OK: Delivery<'static> = Delivery::Confirmed { message: "m1" };
const LATER: Delivery<'static> = Delivery::Retry { after: Duration::from_millis(300), detail: "flood" };
const LOST: Delivery<'static> = Delivery::Retry { after: Duration::ZERO, detail: "the connection broke" };
const REFUSED: Delivery<'static> = Delivery::Refused { detail: "message to edit not found" };

fn shows() -> Plan {
    let mut plan = plan();
    plan.channels[0].preview_every = Duration::from_millis(100);
    plan
}

/// A turn whose model has said this; the clock of its preview has run once.
fn showing(plan: Plan, said: &str) -> (Scene, Vec<String>) {
    let mut scene = scene(plan);
    scene.send(posts("ann", "hi"));
    scene.text(call(0, 1, 0), said);
    scene.sleep(100);
    let lines = scene.tick();
    (scene, lines)
}

fn previewed(scene: &mut Scene, attempt: u16, delivery: Delivery<'_>) -> Vec<String> {
    scene.delivered(turn(0, 1), PREVIEW, attempt, delivery)
}

#[test]
fn a_message_grows_and_becomes_the_first_part_of_the_answer() {
    let (mut scene, lines) = showing(shows(), "Once upon");
    assert_eq!(lines, ["deliver 0.1 preview attempt 0 [Once upon]"]);
    scene.text(call(0, 1, 0), " a time");
    scene.sleep(100);
    assert_eq!(scene.tick(), [""; 0], "one at a time");
    assert_eq!(previewed(&mut scene, 0, OK), [""; 0]);
    scene.sleep(100);
    assert_eq!(scene.tick(), ["deliver 0.1 preview attempt 1 [Once upon a time] into m1"]);
    previewed(&mut scene, 1, OK);
    scene.sleep(100);
    assert_eq!(scene.tick(), [""; 0], "nothing new");
    scene.text(call(0, 1, 0), " there was a king");
    assert_eq!(scene.finishes(call(0, 1, 0)), ["deliver 0.1 part 0 attempt 0 [Once upon a time] into m1"]);
    assert_eq!(scene.delivered(turn(0, 1), 0, 0, OK), ["deliver 0.1 part 1 attempt 0 [there was a king]"]);
    assert_eq!(scene.delivered(turn(0, 1), 1, 0, OK), ["settled 0.1 answered"]);
}

#[test]
fn an_answer_that_is_quick_is_posted_as_ever() {
    let mut scene = scene(shows());
    scene.send(posts("ann", "hi"));
    scene.sleep(100);
    assert_eq!(scene.tick(), [""; 0], "nothing was said yet");
    scene.text(call(0, 1, 0), "Hello");
    assert_eq!(scene.finishes(call(0, 1, 0)), ["deliver 0.1 part 0 attempt 0 [Hello]"]);
}

/// Two requests under way could overtake one another.
#[test]
fn the_answer_waits_for_the_preview_that_is_under_way() {
    let (mut scene, _) = showing(shows(), "Once");
    assert_eq!(scene.finishes(call(0, 1, 0)), [""; 0]);
    assert_eq!(previewed(&mut scene, 0, OK), ["deliver 0.1 part 0 attempt 0 [Once] into m1"]);
    assert_eq!(previewed(&mut scene, 0, OK), [""; 0], "said twice");

    let (mut scene, _) = showing(shows(), "Once");
    scene.finishes(call(0, 1, 0));
    scene.sleep(Limits::TEST.delivery_age_max.as_millis() as u64);
    assert_eq!(scene.tick(), ["deliver 0.1 part 0 attempt 0 [Once]"], "and not for ever");
    assert_eq!(previewed(&mut scene, 0, OK), [""; 0], "too late");
}

#[test]
fn a_platform_that_asks_for_calm_is_left_alone() {
    let (mut scene, _) = showing(shows(), "Once");
    previewed(&mut scene, 0, LATER);
    scene.sleep(200);
    assert_eq!(scene.tick(), [""; 0]);
    scene.sleep(100);
    assert_eq!(scene.tick(), ["deliver 0.1 preview attempt 1 [Once]"], "it was not posted");
}

#[test]
fn a_post_of_unknown_fate_is_the_last_before_the_answer() {
    for word in [LOST, REFUSED, Delivery::Confirmed { message: "" }] {
        let (mut scene, _) = showing(shows(), "Once");
        previewed(&mut scene, 0, word);
        scene.text(call(0, 1, 0), " more");
        scene.sleep(100);
        assert_eq!(scene.tick(), [""; 0], "{word:?}");
        assert_eq!(scene.finishes(call(0, 1, 0)), ["deliver 0.1 part 0 attempt 0 [Once more]"], "{word:?}");
    }
}

#[test]
fn an_edit_of_unknown_fate_is_made_again() {
    let (mut scene, _) = showing(shows(), "Once");
    previewed(&mut scene, 0, OK);
    scene.text(call(0, 1, 0), " more");
    scene.sleep(100);
    scene.tick();
    previewed(&mut scene, 1, LOST);
    scene.sleep(100);
    assert_eq!(scene.tick(), ["deliver 0.1 preview attempt 2 [Once more] into m1"]);
    previewed(&mut scene, 2, REFUSED);
    scene.text(call(0, 1, 0), " and");
    scene.sleep(100);
    assert_eq!(scene.tick(), [""; 0]);
    assert_eq!(scene.finishes(call(0, 1, 0)), ["deliver 0.1 part 0 attempt 0 [Once more and] into m1"]);
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, REFUSED),
        ["deliver 0.1 part 0 attempt 1 [Once more and]"],
        "somebody deleted it: the answer is posted anew"
    );
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 1, REFUSED).last().unwrap(),
        "settled 0.1 dead DELIVERY_FAILED"
    );
}

/// A model that fails after it spoke is asked again, and what it said is replaced.
#[test]
fn another_attempt_goes_on_in_the_same_message() {
    let (mut scene, _) = showing(shows(), "Once");
    previewed(&mut scene, 0, OK);
    let again = failed(Code::UpstreamFailed, Retry::AtOnce);
    assert_eq!(scene.ends(call(0, 1, 0), again), ["start 0.1#1 agent 0 model 0"]);
    scene.text(call(0, 1, 1), "Anew");
    scene.sleep(100);
    assert_eq!(scene.tick(), ["deliver 0.1 preview attempt 1 [Anew] into m1"]);
}

#[test]
fn a_restart_goes_on_editing_the_message() {
    let mut scene = keeps(shows(), false);
    scene.send(Inbound { id: "e1", ..posts("ann", "hi") });
    scene.text(call(0, 1, 0), "Once");
    scene.sleep(100);
    assert_eq!(scene.tick(), ["deliver 0.1 preview attempt 0 [Once]"]);
    assert_eq!(previewed(&mut scene, 0, OK), ["append 2 shown in m1"]);
    assert_eq!(
        scene.event(Event::Carry { lsn: 2 }),
        ["append 3 accepted  hi with 1 id", "append 4 shown in m1"],
        "written again with all that is known"
    );

    let accepted = Accepted {
        uid: Uid(5 << 10),
        mode: Mode::Deliver,
        channel: "web",
        peer: "ann",
        text: "hi",
        ..Accepted::default()
    };
    let mut scene = keeps(shows(), false);
    let left = Restored { accepted, reply: None, history: false, parts: 0, shown: "m1" };
    scene.event(Event::Restore { client: Client::NOBODY, restored: &left });
    scene.text(call(0, 1, 0), "Twice");
    scene.sleep(100);
    assert_eq!(scene.tick(), ["deliver 0.1 preview attempt 0 [Twice] into m1"]);

    let mut scene = keeps(shows(), false);
    let answered = Restored { reply: Some((Outcome::Answered, "Thrice")), ..left };
    let lines = scene.event(Event::Restore { client: Client::NOBODY, restored: &answered });
    let lines =
        if lines.iter().any(|line| line.starts_with("deliver")) { lines } else { durable(&mut scene, 9) };
    assert_eq!(lines.last().unwrap(), "deliver 0.1 part 0 attempt 0 [Thrice] into m1");
}
