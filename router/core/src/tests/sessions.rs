//! Conversations: order, memory, identity, age.
use super::*;
use crate::view::{Role, State};

#[test]
fn messages_of_a_session_are_answered_in_order() {
    let mut scene = scene(plan());
    for text in ["1", "2", "3"] {
        scene.send(says("ann", text));
    }
    for slot in 0..3 {
        let text = scene.shard().prompt(turn(slot, 1)).unwrap().text.to_string();
        assert_eq!(text, (slot + 1).to_string());
        let lines = scene.finishes(call(slot, 1, 0));
        let next = format!("start {}.1#0 agent 0 model 0", slot + 1);
        assert_eq!(lines.get(2), (slot < 2).then_some(&next));
    }
}

#[test]
fn sessions_run_beside_each_other() {
    let mut scene = scene(plan());
    assert_eq!(scene.send(says("ann", "1"))[1], "start 0.1#0 agent 0 model 0");
    assert_eq!(scene.send(Inbound { thread: "t", ..says("ann", "2") })[1], "start 1.1#0 agent 0 model 0");
    assert_eq!(scene.send(says("bob", "3"))[1], "start 2.1#0 agent 0 model 0");
    assert_eq!(scene.shard().load().sessions, 3);
}

#[test]
fn an_agent_with_a_history_reads_what_was_said() {
    let mut plan = plan();
    plan.agents[0].history = true;
    let mut scene = scene(plan);
    let past = |scene: &mut Scene, turn| -> Vec<(Role, String)> {
        scene.shard().prompt(turn).unwrap().history.map(|(role, text)| (role, text.to_string())).collect()
    };
    scene.send(says("ann", "one"));
    assert_eq!(past(&mut scene, turn(0, 1)), []);
    scene.text(call(0, 1, 0), "first ");
    scene.text(call(0, 1, 0), "answer");
    scene.finishes(call(0, 1, 0));
    scene.send(says("ann", "two"));
    let said = [(Role::User, "one".to_string()), (Role::Agent, "first answer".to_string())];
    assert_eq!(past(&mut scene, turn(0, 2)), said);
    scene.text(call(0, 2, 0), "half");
    scene.ends(call(0, 2, 0), failed(Code::UpstreamTruncated, Retry::Backoff));
    scene.send(says("ann", "three"));
    assert_eq!(past(&mut scene, turn(0, 3)), said, "a broken answer is no answer");
}

#[test]
fn a_prompt_has_as_much_of_the_history_as_its_agent_is_sent() {
    let mut plan = plan();
    (plan.agents[0].history, plan.agents[0].excerpt.messages_max) = (true, 1);
    plan.models[0].tokens_per_minute = 1_000;
    let mut scene = scene(plan);
    scene.send(says("ann", "one"));
    scene.text(call(0, 1, 0), "first answer");
    scene.finishes(call(0, 1, 0));
    scene.send(says("ann", "four"));
    let prompt = scene.shard().prompt(turn(0, 2)).unwrap();
    let past: Vec<_> = prompt.history.map(|(role, text)| (role, text.to_string())).collect();
    assert_eq!(past, [(Role::Agent, "first answer".to_string())]);
    let session = scene.shard().session_of(turn(0, 2)).unwrap();
    assert_eq!(scene.shard().memory(session).unwrap().history.len(), 2, "it keeps more than is sent");
    scene.finishes(call(0, 2, 0));
    // "four" and what is sent of the history are four tokens; the message that is kept and not sent costs nothing.
    let usage = scene.out.list().iter().find_map(|effect| match effect {
        Effect::Finish { usage, .. } => Some(usage.prompt),
        _ => None,
    });
    assert_eq!(usage, Some(4));
}

#[test]
fn an_idle_session_is_forgotten_and_a_busy_one_is_not() {
    let mut scene = scene(plan());
    scene.send(says("ann", "1"));
    scene.finishes(call(0, 1, 0));
    scene.event(Event::Listeners { any: true });
    let (at, lines) = scene.next();
    assert_eq!((at, lines), (121_000, vec!["publish Updated [expired]".to_string()]));
    let session = match scene.out.list() {
        [Effect::Publish { session, .. }] => *session,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        scene.shard().address(session).map(|address| address.peer),
        Some("ann"),
        "readable for this effect"
    );
    assert!(scene.find("ann").is_none());
    scene.tick();
    assert_eq!(scene.shard().address(session), None);
    assert_eq!((scene.shard().next_deadline(), scene.shard().counters().expired), (None, 1));
}

#[test]
fn answers_go_where_the_peer_wrote_last() {
    let mut scene = scene(plan());
    scene.send(posts("ann", "1"));
    scene.send(Inbound { chat: "elsewhere", ..posts("ann", "2") });
    let session = scene.shard().session_of(turn(1, 1)).unwrap();
    let address = scene.shard().address(session).unwrap();
    assert_eq!((address.chat, address.peer, address.scope), ("elsewhere", "ann", Scope::Direct));
}

#[test]
fn sessions_are_listed_by_page() {
    let mut scene = scene(plan());
    for peer in ["a", "b", "c"] {
        scene.send(says(peer, "hi"));
    }
    scene.finishes(call(1, 1, 0));
    scene.send(says("c", "more"));
    let list: Vec<_> = scene.shards[0]
        .sessions(1)
        .map(|view| (view.address.peer.to_string(), view.state, view.messages, view.waiting))
        .collect();
    assert_eq!(list, [("b".to_string(), State::Idle, 1, 0), ("c".to_string(), State::Processing, 2, 1)]);
    let load = scene.shard().load();
    assert_eq!((load.sessions, load.running, load.waiting, load.agents[0].running), (3, 2, 1, 2));
}
