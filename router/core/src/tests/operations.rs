//! What operators do.
use super::*;

fn busy() -> (Scene, SessionId) {
    let mut scene = scene(plan());
    scene.send(says("ann", "1"));
    let session = scene.find("ann").unwrap();
    (scene, session)
}

#[test]
fn close_ends_all_and_forgets() {
    let (mut scene, session) = busy();
    scene.send(says("ann", "2"));
    assert_eq!(
        scene.operates(session, Operation::Close),
        [
            "fail 1.1 1 CANCELLED [] 0",
            "settled 1.1 cancelled",
            "cancel 0.1#0",
            "fail 0.1 1 CANCELLED [] 0",
            "settled 0.1 cancelled",
            "operated ok",
        ]
    );
    assert!(scene.find("ann").is_none());
    assert_eq!(scene.operates(session, Operation::Close), ["operated NOT_FOUND"]);
}

#[test]
fn stop_cancels_the_one_that_runs() {
    let (mut scene, session) = busy();
    scene.send(says("ann", "2"));
    assert_eq!(
        scene.operates(session, Operation::Stop),
        [
            "cancel 0.1#0",
            "fail 0.1 1 CANCELLED [] 0",
            "settled 0.1 cancelled",
            "operated ok",
            "start 1.1#0 agent 0 model 0",
        ]
    );
    scene.finishes(call(1, 1, 0));
    assert_eq!(scene.operates(session, Operation::Stop), ["operated ok"], "nothing runs");
}

#[test]
fn the_bot_speaks_in_the_order_of_the_session() {
    let mut scene = scene(plan());
    scene.send(posts("ann", "1"));
    let session = scene.find("ann").unwrap();
    assert_eq!(scene.operates(session, Operation::Send("From us.")), ["accepted 1.1 ahead 1", "operated ok"]);
    scene.text(call(0, 1, 0), "one");
    scene.finishes(call(0, 1, 0));
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["settled 0.1 answered", "deliver 1.1 part 0 attempt 0 [From us.]"]
    );
    assert_eq!(
        scene.delivered(turn(1, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["settled 1.1 answered"]
    );
    let lines = scene.operates(session, Operation::Send("Again."));
    assert_eq!(lines, ["accepted 1.2 ahead 0", "operated ok", "deliver 1.2 part 0 attempt 0 [Again.]"]);
    assert_eq!(scene.operates(session, Operation::Send(" ")), ["operated TEXT_EMPTY"]);
}

#[test]
fn to_a_connection_the_bot_speaks_through_those_who_listen() {
    let (mut scene, session) = busy();
    scene.event(Event::Listeners { any: true });
    scene.operates(session, Operation::Send("Psst."));
    let lines = scene.finishes(call(0, 1, 0));
    assert_eq!(
        lines[4..],
        [
            "publish Updated [waiting]",
            "publish Generated [Psst.]",
            "settled 1.1 answered",
            "publish Updated [idle]",
        ]
    );
}

#[test]
fn sending_is_bounded_like_any_message() {
    let mut plan = plan();
    plan.limits.session_waiting_max = 0;
    plan.limits.turns_max = 1;
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    let session = scene.find("ann").unwrap();
    assert_eq!(scene.operates(session, Operation::Send("x")), ["operated SESSION_FULL"]);
    scene.finishes(call(0, 1, 0));
    scene.send(says("bob", "1"));
    assert_eq!(scene.operates(session, Operation::Send("x")), ["operated BUSY"]);
    scene.event(Event::Drain);
    assert_eq!(scene.operates(session, Operation::Send("x")), ["operated DRAINING"]);
}

#[test]
fn variables_reach_the_prompt_and_reset_forgets_them() {
    let mut plan = plan();
    plan.agents[0].history = true;
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    let session = scene.find("ann").unwrap();
    let set = |name, value| Operation::Set { name, value };
    assert_eq!(scene.operates(session, set("tier", "gold")), ["operated ok"]);
    assert_eq!(scene.operates(session, set("", "x")), ["operated MISSING_FIELD"]);
    assert_eq!(scene.operates(session, set("big", &"x".repeat(999))), ["operated TOO_LARGE"]);
    let variables: Vec<_> = scene.shards[0].prompt(turn(0, 1)).unwrap().variables.collect();
    assert_eq!(variables, [("tier", "gold")]);
    scene.operates(session, Operation::Reset);
    scene.text(call(0, 1, 0), "the old conversation");
    scene.finishes(call(0, 1, 0));
    scene.send(says("ann", "2"));
    let prompt = scene.shard().prompt(turn(0, 2)).unwrap();
    assert_eq!((prompt.variables.count(), prompt.history.count()), (0, 0));
}

#[test]
fn an_assigned_agent_answers_from_the_next_message_on() {
    let mut plan = plan();
    plan.agents.push(agent("bea", &[1]));
    let mut scene = scene(plan);
    scene.send(says("ann", "1"));
    let session = scene.find("ann").unwrap();
    assert_eq!(scene.operates(session, Operation::Assign(AgentId(9))), ["operated NOT_FOUND"]);
    assert_eq!(scene.operates(session, Operation::Assign(AgentId(1))), ["operated ok"]);
    scene.finishes(call(0, 1, 0));
    assert_eq!(scene.send(says("ann", "2"))[1], "start 0.2#0 agent 1 model 1");
}
