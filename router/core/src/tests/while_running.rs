//! What becomes of messages that arrive while a turn of their session runs, and of what waits at the cap.
use super::durable::{accepted, durable, keeps, restore};
use super::*;
use crate::event::Restored;
use crate::id::Uid;
use crate::past::Past;
use crate::plan::{DropPolicy, RunningMode};
use crate::record::{Accepted, Marks};

fn plan_of(mode: RunningMode, cap: u16, drop: DropPolicy) -> Plan {
    let mut plan = plan();
    plan.agents[0].while_running = WhileRunning { mode, cap, drop };
    plan
}

fn runs(mode: RunningMode) -> Scene {
    let mut scene = scene(plan_of(mode, 0, DropPolicy::Newest));
    scene.send(says("ann", "one"));
    scene
}

fn named<'a>(name: &'a str, text: &'a str) -> Inbound<'a> {
    Inbound { name, ..says("ann", text) }
}

fn prompt(scene: &Scene, turn: TurnId) -> (String, String) {
    let prompt = scene.shards[0].prompt(turn).unwrap();
    (prompt.name.to_string(), prompt.text.to_string())
}

#[test]
fn followups_have_their_own_turns() {
    let mut scene = runs(RunningMode::Followup);
    assert_eq!(scene.send(says("ann", "two")), ["accepted 1.1 ahead 1"]);
    scene.send(says("ann", "three"));
    assert_eq!(scene.finishes(call(0, 1, 0))[1..], ["settled 0.1 answered", "start 1.1#0 agent 0 model 0"]);
    assert_eq!(prompt(&scene, turn(1, 1)).1, "two");
}

#[test]
fn what_waits_is_collected_into_one_turn_for_the_last_client() {
    let mut scene = runs(RunningMode::Collect);
    for text in ["two", "three", "four"] {
        assert_eq!(scene.send(says("ann", text)).len(), 1);
    }
    assert_eq!(
        scene.finishes(call(0, 1, 0))[1..],
        [
            "settled 0.1 answered",
            "merged 1.1 1 into 3.1",
            "settled 1.1 merged",
            "merged 2.1 1 into 3.1",
            "settled 2.1 merged",
            "start 3.1#0 agent 0 model 0"
        ]
    );
    assert_eq!(prompt(&scene, turn(3, 1)).1, "two\nthree\nfour");
    assert_eq!(scene.finishes(call(3, 1, 0)).last().unwrap(), "settled 3.1 answered");
    assert_eq!(scene.shard().counters().merged, 2);
}

#[test]
fn names_stand_before_texts_where_they_differ() {
    let mut scene = runs(RunningMode::Collect);
    for (name, text) in [("Ann", "two"), ("Bob", "three"), ("", "four")] {
        scene.send(named(name, text));
    }
    scene.finishes(call(0, 1, 0));
    assert_eq!(prompt(&scene, turn(3, 1)), (String::new(), "Ann: two\nBob: three\nfour".to_string()));
    scene.send(named("Ann", "five"));
    scene.send(named("Ann", "six"));
    scene.finishes(call(3, 1, 0));
    assert_eq!(prompt(&scene, turn(2, 2)), ("Ann".to_string(), "five\nsix".to_string()));
}

#[test]
fn what_does_not_go_together_has_a_turn_of_its_own() {
    let mut two_agents = plan_of(RunningMode::Collect, 0, DropPolicy::Newest);
    two_agents.agents.push(agent("bea", &[1]));
    let mut scene = scene(two_agents);
    scene.send(says("ann", "one"));
    let long = "x".repeat(2_040);
    scene.send(says("ann", &long));
    scene.send(says("ann", "1234567"));
    scene.send(says("ann", "8"));
    let end = scene.finishes(call(0, 1, 0));
    assert_eq!(end[2], "merged 1.1 1 into 2.1", "2048 bytes are a whole text: {end:?}");
    assert_eq!(end.last().unwrap(), "start 2.1#0 agent 0 model 0");
    scene.send(Inbound { agent: Some(AgentId(1)), ..says("ann", "bea?") });
    scene.send(says("ann", "ada"));
    let end = scene.finishes(call(2, 1, 0));
    assert_eq!(end.last().unwrap(), "start 3.1#0 agent 0 model 0");
    assert_eq!(prompt(&scene, turn(3, 1)).1, "8");
    let end = scene.finishes(call(3, 1, 0));
    assert!(end.last().unwrap().ends_with("agent 1 model 1"), "{end:?}");
}

#[test]
fn an_operators_words_are_not_collected() {
    let mut scene = runs(RunningMode::Collect);
    scene.send(says("ann", "two"));
    let session = scene.find("ann").unwrap();
    scene.operates(session, Operation::Send("a word"));
    scene.send(says("ann", "three"));
    assert_eq!(scene.finishes(call(0, 1, 0)).last().unwrap(), "start 1.1#0 agent 0 model 0");
    let end = scene.finishes(call(1, 1, 0));
    assert_eq!(end[2..], ["settled 2.1 answered", "start 3.1#0 agent 0 model 0"], "{end:?}");
}

#[test]
fn a_steered_message_joins_the_call_that_nothing_was_shown_of() {
    let mut scene = runs(RunningMode::Steer);
    assert_eq!(
        scene.send(says("ann", "two")),
        [
            "accepted 1.1 ahead 1",
            "cancel 0.1#0",
            "merged 1.1 1 into 0.1",
            "settled 1.1 merged",
            "start 0.1#1 agent 0 model 0"
        ]
    );
    assert_eq!(prompt(&scene, turn(0, 1)).1, "one\ntwo");
    assert_eq!(scene.text(call(0, 1, 0), "late"), [""; 0], "of the call that was cancelled");
    scene.text(call(0, 1, 1), "so");
    assert_eq!(scene.send(says("ann", "three")), ["accepted 1.2 ahead 1"], "too late: it waits");
    scene.send(says("ann", "four"));
    let end = scene.finishes(call(0, 1, 1));
    assert_eq!(end[2], "merged 1.2 1 into 2.1", "and is collected: {end:?}");
}

#[test]
fn steering_counts_against_no_attempt_and_keeps_the_place() {
    let mut plan = plan_of(RunningMode::Steer, 0, DropPolicy::Newest);
    (plan.agents[0].running_max, plan.models[0].running_max) = (1, 1);
    let mut scene = scene(plan);
    scene.send(says("ann", "one"));
    scene.send(says("bob", "waits"));
    for text in ["two", "three", "four"] {
        let lines = scene.send(says("ann", text));
        assert!(lines.last().unwrap().starts_with("start 0.1#"), "not bob's turn: {lines:?}");
    }
    let end = scene.ends(call(0, 1, 3), failed(Code::UpstreamFailed, Retry::Backoff));
    assert!(end.iter().all(|line| !line.starts_with("fail")), "the first failed attempt of two: {end:?}");
}

#[test]
fn one_that_waits_for_its_place_is_steered_without_a_call() {
    let mut plan = plan_of(RunningMode::Steer, 0, DropPolicy::Newest);
    plan.agents[0].running_max = 1;
    let mut scene = scene(plan);
    scene.send(says("bob", "runs"));
    scene.send(says("ann", "one"));
    assert_eq!(
        scene.send(says("ann", "two")),
        ["accepted 2.1 ahead 1", "merged 2.1 1 into 1.1", "settled 2.1 merged"]
    );
    assert_eq!(scene.finishes(call(0, 1, 0)).last().unwrap(), "start 1.1#0 agent 0 model 0");
    assert_eq!(prompt(&scene, turn(1, 1)).1, "one\ntwo");
}

#[test]
fn what_was_forgotten_is_not_steered() {
    let mut scene = runs(RunningMode::Steer);
    let session = scene.find("ann").unwrap();
    scene.operates(session, Operation::Reset);
    assert_eq!(scene.send(says("ann", "two")), ["accepted 1.1 ahead 1"]);
}

#[test]
fn an_interrupted_turn_is_cancelled_and_its_client_told() {
    let mut scene = runs(RunningMode::Interrupt);
    scene.text(call(0, 1, 0), "so");
    assert_eq!(
        scene.send(says("ann", "two")),
        [
            "accepted 1.1 ahead 1",
            "cancel 0.1#0",
            "fail 0.1 2 CANCELLED [] 0",
            "settled 0.1 cancelled",
            "start 1.1#0 agent 0 model 0"
        ]
    );
    let session = scene.find("ann").unwrap();
    scene.operates(session, Operation::Send("a word"));
    scene.send(says("ann", "three"));
    scene.finishes(call(3, 1, 0));
    assert_eq!(scene.shard().counters().cancelled, 2, "an operator's words are nobody's to interrupt");
}

#[test]
fn of_an_interrupted_answer_no_more_is_posted() {
    let mut scene = scene(plan_of(RunningMode::Interrupt, 0, DropPolicy::Newest));
    scene.send(posts("ann", "one"));
    scene.text(call(0, 1, 0), "a long answer, and the rest of it");
    scene.finishes(call(0, 1, 0));
    let lines = scene.send(posts("ann", "two"));
    assert_eq!(lines[1..], ["settled 0.1 cancelled", "start 1.1#0 agent 0 model 0"]);
    let late = Delivery::Confirmed { message: "m" };
    assert_eq!(scene.delivered(turn(0, 1), 0, 0, late), [""; 0], "the rest of it stays unsaid");
}

#[test]
fn an_operator_gives_a_session_its_own_mode() {
    let mut scene = runs(RunningMode::Followup);
    let session = scene.find("ann").unwrap();
    assert_eq!(scene.operates(session, Operation::Mode(Some(RunningMode::Interrupt))), ["operated ok"]);
    assert_eq!(scene.shards[0].session(session).unwrap().running_mode, Some(RunningMode::Interrupt));
    assert_eq!(scene.send(says("ann", "two"))[1], "cancel 0.1#0");
    scene.operates(session, Operation::Mode(None));
    assert_eq!(scene.send(says("ann", "three")).len(), 1, "as its agent has it");
}

#[test]
fn at_the_cap_the_newest_is_refused() {
    let mut scene = scene(plan_of(RunningMode::Followup, 2, DropPolicy::Newest));
    for text in ["one", "two", "three"] {
        scene.send(says("ann", text));
    }
    assert_eq!(scene.send(says("ann", "four")), ["refused SESSION_FULL 1000"]);
}

#[test]
fn at_the_cap_the_oldest_gives_way_and_is_told_or_becomes_a_dead_letter() {
    let plan = plan_of(RunningMode::Followup, 1, DropPolicy::Oldest);
    let mut scene = keeps(plan, false);
    scene.send(says("ann", "one"));
    scene.send(says("ann", "two"));
    assert_eq!(
        scene.send(says("ann", "three")),
        ["accepted 2.1 ahead 2", "fail 1.1 1 SESSION_FULL [] 1000", "settled 1.1 failed SESSION_FULL"]
    );
    scene.send(posts("bob", "one"));
    scene.send(posts("bob", "two"));
    assert_eq!(
        scene.send(posts("bob", "three"))[2..],
        ["append 4 settled dead SESSION_FULL 0 ", "settled 3.1 dead SESSION_FULL"]
    );
    assert_eq!(
        durable(&mut scene, 4).last().unwrap(),
        "save 1 dead SESSION_FULL 0 \"\" \"accepted  two\" answered false 0 \"\""
    );
    scene.send(Inbound { receipt: true, ..says("cyd", "one") });
    scene.send(Inbound { receipt: true, ..says("cyd", "two") });
    let taken = scene.out.list().iter().find_map(|effect| match effect {
        Effect::Accepted { turn, .. } => Some(*turn),
        _ => None,
    });
    let waits = taken.unwrap();
    scene.event(Event::Left { turn: waits });
    let lines = scene.send(says("cyd", "three"));
    assert_eq!(lines, ["refused SESSION_FULL 1000"], "nobody could be told that it is not answered");
}

#[test]
fn at_the_cap_the_last_is_merged_with_the_newest() {
    let mut scene = scene(plan_of(RunningMode::Followup, 1, DropPolicy::Merge));
    scene.send(says("ann", "one"));
    scene.send(says("ann", "two"));
    assert_eq!(
        scene.send(says("ann", "three")),
        ["accepted 2.1 ahead 2", "merged 1.1 1 into 2.1", "settled 1.1 merged"]
    );
    assert_eq!(scene.send(posts("ann", "of a platform's")), ["refused SESSION_FULL 1000"]);
    scene.finishes(call(0, 1, 0));
    assert_eq!(prompt(&scene, turn(2, 1)).1, "two\nthree");
}

/// The texts that are answered after a crash that left these records, in order.
fn survives(records: &[Vec<u8>]) -> Vec<String> {
    let mut past = Past::new();
    for record in records {
        assert!(past.take(record, &mut |_| {}));
    }
    assert_eq!(past.orphans(), 0);
    past.into_left().map(|left| left.restored().unwrap().accepted.text.to_string()).collect()
}

fn appended(scene: &Scene) -> Vec<Vec<u8>> {
    let records = scene.out.list().iter().filter_map(|effect| match effect {
        Effect::Append { record, .. } => Some(scene.out.bytes(*record).to_vec()),
        _ => None,
    });
    records.collect()
}

#[test]
fn wherever_a_crash_cuts_the_journal_each_message_is_answered_once() {
    let mut scene = keeps(plan_of(RunningMode::Collect, 0, DropPolicy::Newest), false);
    let mut records = Vec::new();
    for text in ["one", "two", "three", "four"] {
        scene.send(posts("ann", text));
        records.extend(appended(&scene));
    }
    scene.finishes(call(0, 1, 0));
    records.extend(appended(&scene));
    durable(&mut scene, 5);
    records.extend(appended(&scene));
    assert_eq!(scene.find("ann").map(|id| scene.shards[0].session(id).unwrap().waiting), Some(0));
    // An empty answer is delivered at once.
    let all = ["two", "three", "four"];
    assert_eq!(
        records.len(),
        9,
        "four messages, an answer, its end, the one that goes on, two that joined it"
    );
    for cut in 4..=records.len() {
        let texts = survives(&records[..cut]);
        let said: Vec<&str> =
            texts.iter().flat_map(|text| text.split('\n')).filter(|text| *text != "one").collect();
        assert_eq!(said, all, "cut after {cut}: {texts:?}");
    }
    assert_eq!(survives(&records), ["two\nthree\nfour"]);
}

#[test]
fn a_steered_turn_is_written_with_all_that_it_took_in() {
    let mut scene = keeps(plan_of(RunningMode::Steer, 0, DropPolicy::Newest), false);
    scene.send(says("ann", "one"));
    assert_eq!(
        scene.send(Inbound { receipt: true, id: "e2", ..says("ann", "two") }),
        [
            "accepted 1.1 ahead 1",
            "append 1 accepted e2 two",
            "cancel 0.1#0",
            "append 2 accepted  one\ntwo for 1 more with 1 id",
            "append 3 settled merged 0 ",
            "settled 1.1 merged",
            "start 0.1#1 agent 0 model 0"
        ]
    );
    assert_eq!(durable(&mut scene, 1), ["durable 1.1", "save 1 seen"], "the receipt comes as ever");
    assert_eq!(durable(&mut scene, 2), ["merged 1.1 1 into 0.1"], "and then what became of it");
    assert_eq!(
        scene.event(Event::Left { turn: turn(0, 1) }),
        [""; 0],
        "and is kept if the other client leaves"
    );
    scene.finishes(call(0, 1, 1));
    assert_eq!(durable(&mut scene, 4).last().unwrap(), "settled 0.1 answered");
}

#[test]
fn a_turn_that_took_others_in_is_written_again_with_their_names() {
    let mut scene = keeps(plan_of(RunningMode::Steer, 0, DropPolicy::Newest), false);
    scene.send(posts("ann", "one"));
    scene.send(posts("ann", "two"));
    assert_eq!(scene.send(posts("ann", "three"))[3], "append 6 accepted  one\ntwo\nthree for 2 more");
    // The disk lost all behind the messages themselves.
    let lines = scene.event(Event::Carry { lsn: 7 });
    assert!(lines.contains(&"append 8 accepted  one\ntwo\nthree for 2 more".to_string()), "{lines:?}");
}

/// What it took in was of the last run, whose files may go before it is known to be over.
#[test]
fn the_end_of_a_turn_that_took_one_of_the_last_run_in_is_written_again_where_it_is_lost() {
    let mut scene = keeps(plan_of(RunningMode::Collect, 0, DropPolicy::Newest), false);
    for (uid, text) in [(77, "one"), (78, "two")] {
        let accepted = Accepted { uid: Uid(uid << Uid::SHARD_BITS), text, ..accepted() };
        restore(&mut scene, Restored { accepted, reply: None, history: false, parts: 0, shown: "" });
    }
    scene.send(posts("ann", "three"));
    let session = scene.find("ann").unwrap();
    let lines = scene.operates(session, Operation::Stop);
    assert!(lines.contains(&"append 5 accepted  two\nthree for 1 more".to_string()), "{lines:?}");
    assert_eq!(scene.operates(session, Operation::Stop)[1], "append 7 settled cancelled 1 ");
    // All of it is lost but the records of the messages themselves.
    assert_eq!(
        scene.event(Event::Carry { lsn: 7 }),
        [
            "append 8 accepted  one, over",
            "append 9 settled cancelled 1 ",
            "append 10 accepted  two\nthree for 1 more, over",
            "append 11 settled cancelled 1 "
        ]
    );
}

#[test]
fn where_the_journal_takes_nothing_written_messages_are_not_merged() {
    let mut scene = keeps(plan_of(RunningMode::Collect, 0, DropPolicy::Newest), false);
    for text in ["one", "two", "three"] {
        scene.send(posts("ann", text));
    }
    scene.event(Event::Journal { state: crate::log::JournalState::Failed });
    scene.finishes(call(0, 1, 0));
    assert_eq!(prompt(&scene, turn(1, 1)).1, "two");
}

/// A client's message that has a receipt and became part of another one's turn.
#[test]
fn a_message_that_was_taken_in_hears_the_answer_of_the_one_that_took_it() {
    let mut scene = keeps(plan_of(RunningMode::Collect, 0, DropPolicy::Newest), false);
    let asks = |id, text| Inbound { id, receipt: true, ..says("ann", text) };
    scene.send(asks("e1", "one"));
    scene.send(asks("e2", "two"));
    scene.send(asks("e3", "three"));
    durable(&mut scene, 3);
    scene.finishes(call(0, 1, 0));
    durable(&mut scene, 4);
    let lines = durable(&mut scene, 100);
    assert!(lines.contains(&"merged 1.1 1 into 2.1".to_string()), "{lines:?}");
    // Its answer goes to its own client first; who asks meanwhile is after that.
    assert_eq!(scene.send(asks("e2", "two")), ["accepted 0.2 ahead 1"]);
    scene.text(call(2, 1, 0), "to both");
    scene.finishes(call(2, 1, 0));
    let lines = durable(&mut scene, 100);
    let heard: Vec<&String> =
        lines.iter().filter(|line| line.starts_with("send") || line.starts_with("fi")).collect();
    assert_eq!(heard, ["finish 2.1 2 [] by 0", "send 0.2 1 to both", "finish 0.2 2 [] by 65535"]);
    // And later, as long as it is kept.
    let lines = scene.send(Inbound { mode: Mode::Whole, ..asks("e2", "two") });
    assert_eq!(lines[1], "finish 0.3 1 [to both] by 65535", "{lines:?}");
    assert_eq!(
        scene.send(Inbound { mode: Mode::Whole, ..asks("e3", "three") })[1],
        lines[1].replace("0.3", "0.4")
    );
}

/// The client of the turn that took the message in has left: whoever repeats the message gets the answer.
#[test]
fn a_turn_whose_client_left_answers_who_repeats_what_it_took_in() {
    let mut scene = keeps(plan_of(RunningMode::Steer, 0, DropPolicy::Newest), false);
    let asks = |id, text| Inbound { id, receipt: true, ..says("ann", text) };
    scene.send(asks("e1", "one"));
    scene.send(asks("e2", "two"));
    let lines = durable(&mut scene, 100);
    assert!(lines.contains(&"merged 1.1 1 into 0.1".to_string()), "{lines:?}");
    scene.event(Event::Left { turn: turn(0, 1) });
    assert_eq!(scene.send(asks("e2", "two")), ["attached 0.1 false"]);
    scene.finishes(call(0, 1, 1));
    assert_eq!(durable(&mut scene, 100)[0], "finish 0.1 1 [] by 0");
}

/// A turn that took others in fails: all of them hear why.
#[test]
fn what_was_taken_in_hears_of_the_failure_too() {
    let mut scene = keeps(plan_of(RunningMode::Steer, 0, DropPolicy::Newest), false);
    let asks = |id, text| Inbound { id, receipt: true, ..says("ann", text) };
    scene.send(asks("e1", "one"));
    scene.send(asks("e2", "two"));
    durable(&mut scene, 100);
    scene.ends(call(0, 1, 1), failed(Code::UpstreamFailed, Retry::Never));
    for id in ["e1", "e2"] {
        let lines = scene.send(asks(id, "again"));
        assert!(lines[1].contains("UPSTREAM_FAILED"), "{id}: {lines:?}");
    }
}

/// The letter has the text of one message, and what failed now is two: the old one makes way for the new.
#[test]
fn a_dead_letter_that_took_a_message_in_and_failed_again_is_another_letter() {
    let mut scene = keeps(plan_of(RunningMode::Steer, 0, DropPolicy::Newest), false);
    let accepted = Accepted {
        uid: Uid(7 << 10),
        mode: Mode::Deliver,
        replayed: true,
        channel: "web",
        agent: "ada",
        peer: "ann",
        chat: "room",
        text: "one",
        ..Accepted::default()
    };
    let restored = Restored { accepted, reply: None, history: false, parts: 0, shown: "" };
    let client = Client { ticket: 5, ..Client::default() };
    scene.event(Event::Restore { client, restored: &restored });
    let lines = scene.send(posts("ann", "two"));
    assert!(lines.iter().any(|line| line.ends_with("one\ntwo for 1 more")), "{lines:?}");
    scene.ends(call(0, 1, 1), failed(Code::UpstreamFailed, Retry::Never));
    let lines = durable(&mut scene, 99);
    let saved: Vec<_> = lines.iter().filter(|line| line.starts_with("save")).collect();
    assert_eq!(saved.len(), 2, "{lines:?}");
    assert!(saved[0].ends_with("revived") && saved[1].contains("one\\ntwo"), "{lines:?}");
}

/// Whose message gave way hears that, also if he asks again.
#[test]
fn who_gave_way_hears_why_however_often_he_asks() {
    let mut scene = keeps(plan_of(RunningMode::Followup, 1, DropPolicy::Oldest), false);
    scene.send(says("ann", "one"));
    let asks = Inbound { id: "e1", receipt: true, ..says("ann", "two") };
    scene.send(asks);
    let lines = scene.send(says("ann", "three"));
    assert!(lines.iter().any(|line| line.starts_with("fail 1.1 1 SESSION_FULL")), "{lines:?}");
    durable(&mut scene, 99);
    scene.send(asks);
    let lines = scene.finishes(call(0, 1, 0));
    let lines = if lines.iter().any(|line| line.contains("SESSION_FULL")) {
        lines
    } else {
        scene.finishes(call(2, 1, 0))
    };
    assert!(lines.iter().any(|line| line.starts_with("fail") && line.contains("SESSION_FULL")), "{lines:?}");
}

/// A turn without an id of its own, as a client's that asked for no receipt, goes on with the ids of those that it took in,
/// and with no other.
#[test]
fn a_turn_that_is_taken_up_again_has_the_ids_of_its_messages_and_no_other() {
    let mut scene = keeps(plan(), false);
    let marks = [[7; 16]];
    let accepted = Accepted {
        uid: Uid(7 << 10),
        mode: Mode::Whole,
        channel: "web",
        agent: "ada",
        peer: "ann",
        text: "one\ntwo",
        seen: Marks::new(&marks),
        ..Accepted::default()
    };
    let restored = Restored { accepted, reply: None, history: false, parts: 0, shown: "" };
    let lines = scene.event(Event::Restore { client: Client::NOBODY, restored: &restored });
    assert_eq!(lines[1], "append 1 accepted  one\ntwo with 1 id");
}
