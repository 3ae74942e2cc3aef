//! Whole requests to a model, in forms that only the shell reads: they have no past, leave none, and stand for themselves.
use super::durable::keeps;
use super::*;
use crate::event::Content;
use crate::plan::{DropPolicy, RunningMode};

const JSON: Content = Content(1);

fn asks<'a>(peer: &'a str, text: &'a str) -> Inbound<'a> {
    Inbound { content: JSON, ..says(peer, text) }
}

fn with_history() -> Plan {
    let mut plan = plan();
    plan.agents[0].history = true;
    plan
}

#[test]
fn a_whole_request_neither_has_a_past_nor_leaves_one() {
    let mut scene = scene(with_history());
    scene.send(says("ann", "one"));
    scene.finishes(call(0, 1, 0));
    scene.send(asks("ann", "{}"));
    let prompt = scene.shards[0].prompt(turn(0, 2)).unwrap();
    assert_eq!((prompt.content, prompt.text, prompt.history.count()), (JSON, "{}", 0));
    scene.finishes(call(0, 2, 0));
    scene.send(says("ann", "two"));
    let prompt = scene.shards[0].prompt(turn(0, 3)).unwrap();
    let said: Vec<_> = prompt.history.map(|(_, text)| text.to_string()).collect();
    assert_eq!((prompt.content, said.len(), &*said[0]), (Content::WORDS, 2, "one"));
}

#[test]
fn whole_requests_are_answered_one_by_one() {
    for mode in [RunningMode::Collect, RunningMode::Steer, RunningMode::Interrupt] {
        let mut plan = plan();
        plan.agents[0].while_running = WhileRunning { mode, cap: 0, drop: DropPolicy::Newest };
        let mut scene = scene(plan);
        scene.send(asks("ann", "1"));
        for text in ["2", "3"] {
            assert_eq!(scene.send(asks("ann", text)).len(), 1, "{mode:?}");
        }
        for slot in 0..2 {
            let end = scene.finishes(call(slot, 1, 0));
            assert_eq!(end.last().unwrap(), &format!("start {}.1#0 agent 0 model 0", slot + 1), "{mode:?}");
        }
    }
}

#[test]
fn words_do_not_touch_a_whole_request_that_runs() {
    for mode in [RunningMode::Steer, RunningMode::Interrupt] {
        let mut plan = plan();
        plan.agents[0].while_running = WhileRunning { mode, cap: 0, drop: DropPolicy::Newest };
        let mut scene = scene(plan);
        scene.send(asks("ann", "1"));
        assert_eq!(scene.send(says("ann", "stop that")), ["accepted 1.1 ahead 1"], "{mode:?}");
    }
}

#[test]
fn it_may_be_longer_than_a_message_and_has_a_bound_of_its_own() {
    let mut scene = scene(plan());
    let limits = Limits::TEST;
    let most = "x".repeat(limits.request_bytes_max as usize);
    assert_eq!(scene.send(asks("ann", &most))[0], "accepted 0.1 ahead 0");
    let more = "x".repeat(limits.request_bytes_max as usize + 1);
    assert_eq!(scene.send(asks("bob", &more)), ["refused TOO_LARGE 0"]);
}

#[test]
fn of_an_answer_that_is_too_long_no_half_piece_is_shown() {
    let mut scene = scene(plan());
    scene.send(asks("ann", "{}"));
    let most = "x".repeat(Limits::TEST.request_bytes_max as usize);
    assert_eq!(scene.text(call(0, 1, 0), &most).len(), 1);
    let end = scene.text(call(0, 1, 0), "more");
    assert!(end.iter().all(|line| !line.starts_with("send")), "{end:?}");
    assert!(end.iter().any(|line| line.contains("REPLY_TOO_LONG")), "{end:?}");
}

#[test]
fn a_session_made_up_for_one_request_goes_with_it() {
    let mut scene = keeps(with_history(), true);
    let fleeting = Inbound { fleeting: true, ..asks("ann", "{}") };
    assert_eq!(
        scene.send(fleeting),
        ["accepted 0.1 ahead 0", "start 0.1#0 agent 0 model 0"],
        "nothing is loaded"
    );
    let end = scene.finishes(call(0, 1, 0));
    assert_eq!(end.last().unwrap(), "settled 0.1 answered", "nothing is saved: {end:?}");
    assert!(scene.find("ann").is_none());
    // One for which something else comes stays.
    scene.send(fleeting);
    scene.send(says("ann", "hello"));
    scene.finishes(call(0, 2, 0));
    assert!(scene.find("ann").is_some());
}
