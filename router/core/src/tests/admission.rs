//! What is let in, what is not, and in what words.
use super::*;
use crate::effect::Ignored;
use crate::event::Kind;
use crate::stage::Stage;

#[test]
fn a_message_is_accepted_and_started_at_once() {
    let mut scene = scene(plan());
    assert_eq!(scene.send(says("ann", "hello")), ["accepted 0.1 ahead 0", "start 0.1#0 agent 0 model 0"]);
    let prompt = scene.shard().prompt(turn(0, 1)).unwrap();
    assert_eq!((prompt.text, prompt.name, prompt.address.peer), ("hello", "", "ann"));
}

#[test]
fn shape_is_checked_first() {
    let long = "x".repeat(3_000);
    let table = [
        (Inbound { text: &long, ..says("ann", "") }, "refused TOO_LARGE 0"),
        (Inbound { id: &long, ..says("ann", "hi") }, "refused TOO_LARGE 0"),
        (Inbound { thread: &long, ..says("ann", "hi") }, "refused INVALID_SESSION 0"),
        (Inbound { chat: "a\nb", ..says("ann", "hi") }, "refused INVALID_SESSION 0"),
        (says("", "hi"), "refused INVALID_SESSION 0"),
        (Inbound { scope: Scope::Group, ..says("ann", "hi") }, "refused INVALID_SESSION 0"),
        (says("ann", " \n"), "refused TEXT_EMPTY 0"),
        (posts("ann", ""), "ignored Empty"),
        (Inbound { channel: ChannelId(7), ..says("ann", "hi") }, "refused NOT_FOUND 0"),
    ];
    let mut scene = scene(plan());
    for (inbound, expected) in table {
        assert_eq!(scene.send(inbound), [expected], "{:?}", inbound.text.get(..5));
    }
    assert_eq!(scene.shard().load().sessions, 0, "nothing is left behind");
    let name = Inbound { name: &long, ..says("ann", "hi") };
    assert_eq!(scene.send(name)[0], "accepted 0.1 ahead 0", "a long display name is no fault");
    assert_eq!(scene.shard().prompt(turn(0, 1)).unwrap().name.len(), 128);
}

#[test]
fn an_event_id_is_answered_once_but_may_come_again_after_a_refusal() {
    let mut plan = plan();
    plan.limits.session_waiting_max = 0;
    let mut scene = scene(plan);
    let again = Inbound { id: "e2", ..says("ann", "again") };
    assert_eq!(scene.send(Inbound { id: "e1", ..says("ann", "hi") })[0], "accepted 0.1 ahead 0");
    assert_eq!(scene.send(Inbound { id: "e1", ..says("ann", "hi") }), ["duplicate"]);
    assert_eq!(scene.send(again), ["refused SESSION_FULL 1000"]);
    assert_eq!(
        scene.send(Inbound { id: "e1", ..says("bob", "hi") })[0],
        "accepted 1.1 ahead 0",
        "another session's"
    );
    scene.finishes(call(0, 1, 0));
    assert_eq!(scene.send(again)[0], "accepted 0.2 ahead 0");
    assert_eq!(scene.send(again), ["duplicate"]);
    scene.sleep(600_000);
    assert_eq!(scene.send(Inbound { id: "e1", ..says("cyd", "hi") })[0], "accepted 2.1 ahead 0");
    assert_eq!(scene.shard().counters().duplicate, 2);
}

#[test]
fn ids_from_before_a_restart_are_known() {
    let mut scene = scene(plan());
    let inbound = Inbound { id: "e1", ..says("ann", "hi") };
    let now = scene.now;
    scene.shard().remember_before(now, &inbound);
    scene.shard().remember_before(now, &inbound);
    assert_eq!(scene.send(inbound), ["duplicate"]);
}

#[test]
fn policy_lets_in_or_ignores() {
    let mut plan = plan();
    plan.channels[0].dm = DmPolicy::Allowlist;
    plan.channels[0].allowed = BTreeSet::from(["ann".into()]);
    plan.channels[0].mention_gating = true;
    let mut scene = scene(plan);
    let group = Inbound { scope: Scope::Group, ..posts("ann", "hi") };
    assert_eq!(scene.send(Inbound { id: "x", ..posts("bob", "hi") }), ["ignored Sender"]);
    assert_eq!(scene.send(Inbound { id: "x", ..posts("bob", "hi") }), ["duplicate"]);
    assert_eq!(scene.send(group), ["ignored Unmentioned"]);
    assert_eq!(scene.send(Inbound { mentioned: true, ..group })[0], "accepted 0.1 ahead 0");
    let counters = scene.shard().counters();
    assert_eq!((counters.ignored(Ignored::Sender), counters.ignored(Ignored::Unmentioned)), (1, 1));
}

#[test]
fn what_no_agent_is_asked_about_is_published_only() {
    let mut scene = scene(plan());
    let reaction = Inbound { kind: Kind::Reaction, ..posts("ann", "") };
    assert_eq!(scene.send(reaction), ["ignored Kind"]);
    assert_eq!(scene.shard().load().sessions, 0, "nobody listens, nothing is made");
    scene.event(Event::Listeners { any: true });
    let expected = ["publish Created []", "publish Received []", "ignored Kind"];
    assert_eq!(scene.send(reaction), expected);
    assert_eq!(scene.send(reaction), expected[1..]);
}

#[test]
fn a_full_session_waits_and_then_refuses() {
    let mut scene = scene(plan());
    let ahead = |n: u16| format!("accepted {n}.1 ahead {n}");
    scene.send(says("ann", "0"));
    for n in 1..5 {
        assert_eq!(scene.send(says("ann", "more")), [ahead(n)]);
    }
    assert_eq!(scene.send(says("ann", "6")), ["refused SESSION_FULL 1000"]);
    assert_eq!(
        scene.finishes(call(0, 1, 0)),
        ["finish 0.1 1 [] by 0", "settled 0.1 answered", "start 1.1#0 agent 0 model 0"]
    );
    assert_eq!(scene.send(says("ann", "6")), ["accepted 0.2 ahead 4"]);
}

#[test]
fn turns_are_bounded() {
    let mut plan = plan();
    plan.limits.turns_max = 2;
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    scene.send(says("bob", "2"));
    assert_eq!(scene.send(says("cyd", "3")), ["refused BUSY 1000"]);
    assert!(scene.find("cyd").is_none(), "a session made for a refused message is dropped");
    scene.finishes(call(1, 1, 0));
    assert_eq!(scene.send(says("cyd", "3"))[0], "accepted 1.2 ahead 0");
}

#[test]
fn an_agent_runs_and_queues_so_many() {
    let mut plan = plan();
    (plan.agents[0].running_max, plan.agents[0].waiting_max) = (1, 1);
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    assert_eq!(scene.send(says("bob", "2")), ["accepted 1.1 ahead 0"]);
    assert_eq!(scene.send(says("cyd", "3")), ["refused AGENT_BUSY 1000"]);
    assert_eq!(
        scene.send(says("ann", "4")),
        ["refused AGENT_BUSY 1000"],
        "behind its own session it waits, too"
    );
    scene.sleep(9_000);
    scene.text(call(0, 1, 0), "x");
    assert_eq!(scene.finishes(call(0, 1, 0))[2..], ["start 1.1#0 agent 0 model 0"]);
    scene.send(says("cyd", "3"));
    assert_eq!(scene.send(says("dan", "5")), ["refused AGENT_BUSY 9000"], "a turn took nine seconds");
}

#[test]
fn who_finds_an_agent_busy_comes_again_once_those_ahead_were_served() {
    let mut plan = plan();
    (plan.agents[0].running_max, plan.agents[0].waiting_max) = (2, 4);
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    scene.sleep(9_000);
    scene.text(call(0, 1, 0), "x");
    scene.finishes(call(0, 1, 0));
    for peer in ["bob", "cyd", "dan", "eve", "fay", "gus"] {
        scene.send(says(peer, "2"));
    }
    assert_eq!(
        scene.send(says("hal", "3")),
        ["refused AGENT_BUSY 18000"],
        "four wait, and two at a time are served"
    );
}

#[test]
fn the_longest_idle_session_makes_room() {
    let mut plan = plan();
    plan.limits.sessions_max = 2;
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    scene.finishes(call(0, 1, 0));
    scene.sleep(1);
    scene.send(says("bob", "2"));
    assert_eq!(scene.send(says("cyd", "3"))[0], "accepted 1.1 ahead 0");
    assert!(scene.find("ann").is_none() && scene.find("bob").is_some());
    assert_eq!(scene.send(says("dan", "4")), ["refused BUSY 1000"], "none is idle");
    assert_eq!(scene.shard().counters().evicted, 1);
}

#[test]
fn draining_admits_nothing_new_and_ends_what_runs() {
    let mut scene = scene(plan());
    scene.send(says("ann", "1"));
    scene.send(says("ann", "2"));
    assert_eq!(scene.event(Event::Drain), [""; 0]);
    assert_eq!(scene.send(says("bob", "3")), ["refused DRAINING 1000"]);
    assert_eq!(scene.finishes(call(0, 1, 0))[2], "start 1.1#0 agent 0 model 0");
}

#[test]
fn stages_are_counted_as_they_are_passed() {
    let mut plan = plan();
    plan.limits.turns_max = 1;
    let mut scene = scene(plan);
    scene.send(says("", "hi"));
    scene.send(says("ann", "hi"));
    scene.send(says("bob", "hi"));
    scene.finishes(call(0, 1, 0));
    let counts = Stage::ALL.map(|stage| scene.shards[0].counters().stage(stage));
    assert_eq!(counts, [3, 2, 2, 2, 1, 1]);
    let counters = scene.shard().counters();
    assert_eq!((counters.refused(Code::Busy), counters.refused(Code::InvalidSession)), (1, 1));
    assert_eq!((counters.accepted, counters.answered), (1, 1));
}

#[test]
fn listeners_hear_of_every_step() {
    let mut scene = scene(plan());
    scene.event(Event::Listeners { any: true });
    assert_eq!(
        scene.send(says("ann", "hi")),
        [
            "publish Created []",
            "accepted 0.1 ahead 0",
            "publish Received [hi]",
            "publish Routed [ada]",
            "publish Updated [processing]",
            "start 0.1#0 agent 0 model 0",
        ]
    );
    assert_eq!(
        scene.finishes(call(0, 1, 0)),
        [
            "publish Generated []",
            "finish 0.1 1 [] by 0",
            "publish Delivered []",
            "settled 0.1 answered",
            "publish Updated [idle]",
        ]
    );
}
