//! A call that goes well, and one that is stopped.
use super::*;
use crate::event::Usage;

#[test]
fn pieces_are_counted_without_gaps() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    let call = call(0, 1, 0);
    assert_eq!(scene.piece(call, Piece::Alive), [""; 0]);
    assert_eq!(scene.text(call, "one "), ["send 0.1 1 one "]);
    assert_eq!(scene.piece(call, Piece::Reasoning("hm")), [""; 0]);
    assert_eq!(scene.text(call, ""), [""; 0]);
    assert_eq!(scene.text(call, "two"), ["send 0.1 2 two"]);
    assert_eq!(scene.finishes(call), ["finish 0.1 3 [] by 0", "settled 0.1 answered"]);
    assert!(scene.shard().prompt(call.turn).is_none(), "the id is dead");
}

#[test]
fn a_whole_answer_comes_at_once() {
    let mut scene = scene(plan());
    scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") });
    assert_eq!(scene.text(call(0, 1, 0), "one "), [""; 0]);
    scene.text(call(0, 1, 0), "two");
    assert_eq!(scene.finishes(call(0, 1, 0)), ["finish 0.1 1 [one two] by 0", "settled 0.1 answered"]);
}

#[test]
fn usage_is_the_providers_or_our_estimate() {
    let count = Usage { prompt: 11, completion: 22, estimated: false };
    for (given, expected) in
        [(Some(count), count), (None, Usage { prompt: 2, completion: 3, estimated: true })]
    {
        let mut scene = scene(plan());
        scene.send(says("ann", "12345"));
        if let Some(usage) = given {
            scene.piece(call(0, 1, 0), Piece::Usage(usage));
        }
        scene.text(call(0, 1, 0), "123456789");
        scene.finishes(call(0, 1, 0));
        let usage = scene.out.list().iter().find_map(|effect| match effect {
            Effect::Finish { usage, .. } => Some(*usage),
            _ => None,
        });
        assert_eq!(usage, Some(expected));
    }
}

#[test]
fn what_comes_late_is_dropped() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    assert_eq!(scene.text(call(0, 2, 0), "another generation"), [""; 0]);
    assert_eq!(scene.text(call(0, 1, 1), "another attempt"), [""; 0]);
    assert_eq!(scene.text(call(9, 1, 0), "another slot"), [""; 0]);
    scene.event(Event::Left { turn: turn(0, 1) });
    assert_eq!(scene.text(call(0, 1, 0), "late"), [""; 0]);
    assert_eq!(scene.finishes(call(0, 1, 0)), [""; 0]);
    assert_eq!(scene.event(Event::Pressure { turn: turn(0, 1), high: true }), [""; 0]);
    assert_eq!(scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }), [""; 0]);
}

#[test]
fn a_client_that_leaves_cancels_what_runs_or_waits() {
    let mut scene = scene(plan());
    scene.send(says("ann", "1"));
    scene.send(says("ann", "2"));
    scene.send(says("ann", "3"));
    assert_eq!(scene.event(Event::Left { turn: turn(1, 1) }), ["settled 1.1 cancelled"]);
    assert_eq!(
        scene.event(Event::Left { turn: turn(0, 1) }),
        ["cancel 0.1#0", "settled 0.1 cancelled", "start 2.1#0 agent 0 model 0"]
    );
    scene.send(posts("bob", "4"));
    assert_eq!(scene.event(Event::Left { turn: turn(0, 2) }), [""; 0], "a webhook's request always goes");
    assert_eq!(scene.shard().counters().cancelled, 2);
}

#[test]
fn each_phase_of_a_silent_call_has_its_limit() {
    let phases: [(&[Piece<'_>], u64); 4] = [
        (&[], 3_000),
        (&[Piece::Alive], 5_000),
        (&[Piece::Reasoning("")], 4_500),
        (&[Piece::Text("x")], 4_500),
    ];
    for (pieces, expected) in phases {
        let mut plan = plan();
        plan.agents[0].attempts_max = 1;
        plan.agents[0].models.truncate(1);
        let mut scene = scene(plan);
        scene.send(says("ann", "hi"));
        scene.sleep(500);
        for &piece in pieces {
            scene.piece(call(0, 1, 0), piece);
        }
        let (at, lines) = scene.next();
        assert_eq!((at, lines[0].as_str()), (expected, "cancel 0.1#0"), "{pieces:?}");
        assert!(lines[1].contains("UPSTREAM_TIMEOUT"), "{lines:?}");
        assert_eq!(lines[2], "settled 0.1 failed UPSTREAM_TIMEOUT");
    }
}

#[test]
fn a_call_that_always_says_a_little_ends_too() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    for n in 1..=14 {
        scene.sleep(2_000);
        assert_eq!(scene.text(call(0, 1, 0), "x"), [format!("send 0.1 {n} x")]);
        assert_eq!(scene.tick(), [""; 0]);
    }
    let (at, lines) = scene.next();
    assert_eq!(at, 31_000, "thirty seconds in all");
    assert_eq!(lines[1], "fail 0.1 15 UPSTREAM_TIMEOUT [] 0");
}

#[test]
fn a_slow_client_pauses_the_model_and_is_given_up() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    let (call, turn) = (call(0, 1, 0), turn(0, 1));
    scene.text(call, "a");
    assert_eq!(scene.event(Event::Pressure { turn, high: true }), ["pause 0.1#0"]);
    assert_eq!(scene.event(Event::Pressure { turn, high: true }), [""; 0]);
    assert_eq!(scene.text(call, "b"), ["send 0.1 2 b"], "what was on the wire still comes");
    scene.sleep(4_000);
    assert_eq!(scene.tick(), [""; 0], "no silence of the model's");
    assert_eq!(scene.event(Event::Pressure { turn, high: false }), ["resume 0.1#0"]);
    scene.sleep(2_900);
    assert_eq!(scene.tick(), [""; 0], "its clock begins anew");
    scene.event(Event::Pressure { turn, high: true });
    let (at, lines) = scene.next();
    assert_eq!(
        (at, lines),
        (
            12_900,
            vec![
                "cancel 0.1#0".to_string(),
                "fail 0.1 3 SLOW_CONSUMER [] 0".to_string(),
                "settled 0.1 failed SLOW_CONSUMER".to_string(),
            ]
        )
    );
}

#[test]
fn a_call_ends_while_it_is_paused() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    scene.text(call(0, 1, 0), "a");
    scene.event(Event::Pressure { turn: turn(0, 1), high: true });
    assert_eq!(scene.finishes(call(0, 1, 0)), ["finish 0.1 2 [] by 0", "settled 0.1 answered"]);
}

#[test]
fn pressure_before_the_start_pauses_from_the_start() {
    let mut scene = scene(plan());
    scene.send(says("ann", "1"));
    scene.send(says("ann", "2"));
    assert_eq!(scene.event(Event::Pressure { turn: turn(1, 1), high: true }), [""; 0]);
    assert_eq!(scene.finishes(call(0, 1, 0))[2..], ["start 1.1#0 agent 0 model 0", "pause 1.1#0"]);
}

#[test]
fn an_answer_that_grows_too_long_is_cut() {
    let long = "é".repeat(4_095);
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    scene.text(call(0, 1, 0), &long);
    assert_eq!(
        scene.text(call(0, 1, 0), "aéé"),
        [
            "send 0.1 2 a",
            "cancel 0.1#0",
            "fail 0.1 3 REPLY_TOO_LONG [] 0",
            "settled 0.1 failed REPLY_TOO_LONG",
        ]
    );
    let mut plan = plan();
    plan.channels[0].text_max = 10_000;
    let mut scene = self::scene(plan);
    scene.send(posts("ann", "hi"));
    scene.text(call(0, 1, 0), &long);
    let lines = scene.text(call(0, 1, 0), "aéé");
    assert_eq!((lines[0].as_str(), lines[1].contains("éa]")), ("cancel 0.1#0", true));
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" }),
        ["settled 0.1 failed REPLY_TOO_LONG"]
    );
}

#[test]
fn an_answer_without_a_word_is_an_answer() {
    let mut scene = scene(plan());
    for mode in [Mode::Stream, Mode::Whole] {
        scene.send(Inbound { mode, ..says("ann", "hi") });
        let call = call(0, scene.shards[0].turns.generation(0), 0);
        let lines = scene.finishes(call);
        assert!(lines[0].starts_with("finish") && lines[1].ends_with("answered"), "{lines:?}");
    }
    scene.send(posts("ann", "hi"));
    assert_eq!(scene.finishes(call(0, 3, 0)), ["settled 0.3 answered"], "nothing to deliver");
}
