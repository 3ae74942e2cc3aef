//! A call whose model calls tools: its clocks, what each round takes of the model's minute, and who pays for it.
use super::*;
use crate::event::Usage;

fn limited(requests: u32, tokens: u32) -> Plan {
    let mut plan = plan();
    plan.agents[0].models.truncate(1);
    plan.limits.waiting_age_max = Duration::from_secs(90);
    let model = &mut plan.models[0];
    (model.requests_per_minute, model.tokens_per_minute) = (requests, tokens);
    (model.header_age_max, model.first_piece_age_max) = (Duration::from_secs(90), Duration::from_secs(90));
    (model.call_age_max, model.silence_max) = (Duration::from_secs(90), Duration::from_secs(90));
    plan
}

impl Scene {
    fn works(&mut self, call: CallId) {
        assert_eq!(self.event(Event::Working { call }), [""; 0]);
    }

    fn asks_again(&mut self, call: CallId, chars: u32) -> Vec<String> {
        self.event(Event::Round { call, chars, spent: Duration::ZERO })
    }
}

#[test]
fn while_tools_work_only_the_whole_calls_time_counts_and_then_all_clocks_begin_anew() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    let call = call(0, 1, 0);
    scene.text(call, "Let me see.");
    scene.works(call);
    scene.sleep(10_000);
    assert_eq!(scene.tick(), [""; 0], "three seconds of silence are not the model's");
    assert_eq!(scene.asks_again(call, 40), ["ask 0.1#0 after 0"]);
    scene.sleep(1_999);
    scene.piece(call, Piece::Alive);
    scene.sleep(2_000);
    assert_eq!(scene.tick(), [""; 0], "a first piece has its four seconds");
    assert_eq!(scene.text(call, "Noon."), ["send 0.1 2 Noon."]);
    assert_eq!(scene.next().0, 17_999, "then silence counts again");
    // A round that is not heard of ends as a call does.
    let mut scene = self::scene(plan());
    scene.send(says("ann", "hi"));
    scene.text(call, "Let me see.");
    scene.works(call);
    scene.asks_again(call, 40);
    let (at, lines) = scene.next();
    assert_eq!((at, &*lines[0]), (3_000, "cancel 0.1#0"), "the header has two seconds");
    // Tools that never end are ended by the whole call's time.
    let mut scene = self::scene(plan());
    scene.send(says("ann", "hi"));
    scene.works(call);
    assert_eq!(scene.next().0, 31_000);
}

#[test]
fn each_round_is_a_request_of_the_models_minute() {
    let mut scene = scene(limited(3, 0));
    scene.send(says("ann", "hi"));
    for _ in 0..2 {
        scene.works(call(0, 1, 0));
        assert_eq!(scene.asks_again(call(0, 1, 0), 40), ["ask 0.1#0 after 0"]);
    }
    assert_eq!(scene.send(says("bob", "hi")), ["accepted 1.1 ahead 0"], "three were asked, of three");
    scene.works(call(0, 1, 0));
    assert_eq!(scene.asks_again(call(0, 1, 0), 40), ["ask 0.1#0 after 20000"], "and the fourth waits");
    assert_eq!(scene.next(), (41_000, vec!["start 1.1#0 agent 0 model 0".to_string()]));
}

#[test]
fn a_round_that_waits_for_its_minute_is_not_the_models_fault() {
    let mut plan = limited(1, 0);
    plan.models[0].header_age_max = Duration::from_secs(2);
    let mut scene = scene(plan);
    scene.send(says("ann", "hi"));
    scene.works(call(0, 1, 0));
    assert_eq!(scene.asks_again(call(0, 1, 0), 40), ["ask 0.1#0 after 60000"]);
    scene.sleep(61_900);
    assert_eq!(scene.tick(), [""; 0], "its clocks begin when it is asked");
    assert_eq!(scene.text(call(0, 1, 0), "Noon."), ["send 0.1 1 Noon."]);
    scene.finishes(call(0, 1, 0));
    // One that would be asked after its time is not asked.
    let mut plan = limited(1, 0);
    plan.models[0].call_age_max = Duration::from_secs(59);
    let mut scene = self::scene(plan);
    scene.send(says("ann", "hi"));
    scene.works(call(0, 1, 0));
    let lines = scene.asks_again(call(0, 1, 0), 40);
    assert_eq!(&*lines[0], "cancel 0.1#0");
    assert!(
        lines[1].starts_with("fail 0.1 1 UPSTREAM_RATE_LIMITED [") && lines[1].ends_with("] 60000"),
        "{lines:?}"
    );
    assert_eq!(&*lines[2], "settled 0.1 failed UPSTREAM_RATE_LIMITED");
    assert_eq!(scene.send(says("bob", "hi")).len(), 1);
    assert_eq!(scene.next().0, 61_000, "nothing was booked for it");
}

#[test]
fn what_is_booked_and_not_asked_is_given_back() {
    let mut scene = scene(limited(1, 0));
    scene.send(says("ann", "hi"));
    scene.works(call(0, 1, 0));
    scene.asks_again(call(0, 1, 0), 40);
    scene.event(Event::Left { turn: turn(0, 1) });
    assert_eq!(scene.send(says("bob", "hi")).len(), 1);
    assert_eq!(scene.next(), (61_000, vec!["start 0.2#0 agent 0 model 0".to_string()]));
}

#[test]
fn each_rounds_tokens_are_estimated_before_and_charged_after() {
    let mut scene = scene(limited(0, 600));
    scene.send(says("ann", "0123456789012345678901234567890123456789"));
    let (call, usage) = (call(0, 1, 0), |prompt, completion| Usage { prompt, completion, estimated: false });
    scene.piece(call, Piece::Usage(usage(100, 100)));
    scene.works(call);
    // 200 were used, and 100 are taken for what it is told now.
    assert_eq!(scene.asks_again(call, 400), ["ask 0.1#0 after 0"]);
    scene.piece(call, Piece::Usage(usage(250, 150)));
    scene.works(call);
    // 400 were used in all, and 300 are wanted.
    assert_eq!(scene.asks_again(call, 1_200), ["ask 0.1#0 after 10000"]);
    scene.sleep(10_000);
    // Nobody counted: what it was told and what it said is estimated.
    scene.text(call, "0123456789012345678901234567890123456789");
    scene.finishes(call);
    assert_eq!(scene.send(says("bob", "four")).len(), 1);
    assert_eq!(scene.next().0, 12_100, "ten more than were taken, and one is wanted");
}

#[test]
fn a_spent_budget_ends_the_answer_before_its_next_round() {
    let mut scene = scene(plan());
    scene.send(says("ann", "hi"));
    scene.text(call(0, 1, 0), "Let me see.");
    scene.works(call(0, 1, 0));
    let round = Event::Round { call: call(0, 1, 0), chars: 40, spent: Duration::from_secs(3_600) };
    let lines = scene.event(round);
    assert_eq!(&*lines[0], "cancel 0.1#0");
    assert!(
        lines[1].starts_with("fail 0.1 2 BUDGET_SPENT [The key's budget") && lines[1].ends_with("] 3600000"),
        "{lines:?}"
    );
    assert_eq!(&*lines[2], "settled 0.1 failed BUDGET_SPENT");
    assert_eq!(scene.event(round), [""; 0], "it is over");
    // It says nothing about the model.
    for n in 1..9 {
        let peer = format!("p{n}");
        assert_eq!(scene.send(says(&peer, "hi")).len(), 2);
        let CallId { turn, .. } = call(0, n + 1, 0);
        scene.event(Event::Round {
            call: CallId { turn, attempt: 0 },
            chars: 40,
            spent: Duration::from_secs(1),
        });
    }
    assert_eq!(scene.send(says("last", "hi")).len(), 2, "its breaker is closed");
}

#[test]
fn a_round_of_a_call_that_is_over_is_nothing() {
    let mut scene = scene(limited(1, 0));
    scene.send(says("ann", "hi"));
    scene.finishes(call(0, 1, 0));
    scene.works(call(0, 1, 0));
    assert_eq!(scene.asks_again(call(0, 1, 0), 40), [""; 0]);
    scene.sleep(60_000);
    assert_eq!(scene.send(says("bob", "hi")).len(), 2, "it took nothing");
}
