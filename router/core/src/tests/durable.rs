//! What is acknowledged is on disk before, goes on after a restart from where it was, and is released when nobody needs
//! it; what a session remembers is asked for once and saved as it changes.
use super::*;
use crate::event::{Restored, Stored};
use crate::home::{Secret, session_hash};
use crate::id::Uid;
use crate::log::{JournalState, Start};
use crate::record::Accepted;
use crate::view::Role;

const OK: Delivery<'static> = Delivery::Confirmed { message: "m1" };

/// A shard that journals, and keeps sessions in a store if `store`.
pub(super) fn keeps(plan: Plan, store: bool) -> Scene {
    keeps_in(plan, store, true)
}

fn keeps_in(plan: Plan, store: bool, outlives: bool) -> Scene {
    keeps_with(plan, true, store, outlives)
}

fn keeps_with(plan: Plan, journal: bool, store: bool, outlives: bool) -> Scene {
    let mut scene = scene(plan);
    let secret = Secret([3, 4]);
    let unix_micros = 1_790_000_000_000_000;
    let start = Start { secret, unix_micros, uid_after: Uid(0), lsn: 1, journal, store, outlives };
    scene.shard().begin_with(&start);
    scene.shard().remembers_since(None);
    scene
}

pub(super) fn durable(scene: &mut Scene, lsn: u64) -> Vec<String> {
    scene.event(Event::Durable { lsn })
}

/// A message of a platform's, and its answer up to the end of the call.
fn answered(scene: &mut Scene, answer: &str) -> Vec<String> {
    scene.send(Inbound { id: "e1", ..posts("ann", "hi") });
    scene.text(call(0, 1, 0), answer);
    scene.finishes(call(0, 1, 0))
}

#[test]
fn a_message_is_acknowledged_and_its_answer_posted_once_what_came_before_is_on_disk() {
    let mut scene = keeps(plan(), false);
    assert_eq!(
        scene.send(Inbound { id: "e1", ..posts("ann", "hi") }),
        ["accepted 0.1 ahead 0", "append 1 accepted e1 hi", "start 0.1#0 agent 0 model 0"],
        "the turn does not wait"
    );
    scene.text(call(0, 1, 0), "a long answer, and the rest of it");
    assert_eq!(
        scene.finishes(call(0, 1, 0)),
        ["append 2 reply answered a long answer, and the rest of it"],
        "nothing is posted"
    );
    assert_eq!(
        durable(&mut scene, 1),
        ["durable 0.1", "save 1 seen"],
        "the store must not know of what the disk does not"
    );
    assert_eq!(durable(&mut scene, 2), ["deliver 0.1 part 0 attempt 0 [a long answer, and]"]);
    assert_eq!(
        scene.delivered(turn(0, 1), 0, 0, OK),
        ["append 3 delivered 0 m1"],
        "one part in doubt is enough"
    );
    assert_eq!(durable(&mut scene, 3), ["deliver 0.1 part 1 attempt 0 [the rest of it]"]);
    assert_eq!(
        scene.delivered(turn(0, 1), 1, 0, OK),
        ["append 4 delivered 1 m1", "append 5 settled answered 0 ", "settled 0.1 answered"]
    );
    assert_eq!(scene.shard().released(), 0, "the store does not know of the event id yet");
    scene.event(Event::Saved { save: 1 });
    assert_eq!(scene.shard().released(), 5, "which the journal counts once that is on disk");
}

#[test]
fn a_repetition_is_not_acknowledged_before_what_it_repeats() {
    let mut scene = keeps(plan(), false);
    scene.send(Inbound { id: "e1", ..posts("ann", "hi") });
    assert_eq!(scene.send(Inbound { id: "e1", ..posts("ann", "hi") }), [""; 0]);
    assert_eq!(durable(&mut scene, 1), ["durable 0.1", "save 1 seen", "duplicate"]);
    assert_eq!(scene.send(Inbound { id: "e1", ..posts("ann", "hi") }), ["duplicate"]);
}

#[test]
fn only_what_must_be_on_disk_is_written() {
    let mut scene = keeps(plan(), false);
    assert_eq!(scene.send(says("ann", "hi")), ["accepted 0.1 ahead 0", "start 0.1#0 agent 0 model 0"]);
    let receipt = Inbound { receipt: true, ..says("bob", "hi") };
    assert_eq!(scene.send(receipt)[1], "append 1 accepted  hi");
    scene.event(Event::Journal { state: JournalState::Full });
    assert_eq!(scene.send(Inbound { id: "e2", ..posts("cyd", "hi") }), ["refused JOURNAL_FULL 1000"]);
    assert_eq!(scene.send(Inbound { receipt: true, ..says("cyd", "hi") }), ["refused JOURNAL_FULL 1000"]);
    assert_eq!(scene.send(says("cyd", "hi"))[0], "accepted 2.1 ahead 0", "what needs no disk goes on");
    scene.event(Event::Journal { state: JournalState::Failed });
    assert_eq!(scene.send(posts("dan", "hi")), ["refused JOURNAL_FAILED 1000"]);
    scene.event(Event::Journal { state: JournalState::Open });
    let again = Inbound { id: "e2", ..posts("cyd", "hi") };
    assert_eq!(scene.send(again)[0], "accepted 3.1 ahead 1", "what was refused was not remembered");
}

#[test]
fn who_has_a_receipt_is_answered_also_when_gone() {
    let mut scene = keeps(plan(), false);
    scene.send(Inbound { receipt: true, ..says("ann", "hi") });
    assert_eq!(scene.event(Event::Left { turn: turn(0, 1) }), [""; 0]);
    scene.text(call(0, 1, 0), "hello");
    let end = scene.finishes(call(0, 1, 0));
    assert_eq!(end, ["append 2 reply answered hello"], "what is heard is what is on disk");
    assert_eq!(durable(&mut scene, 2).last().unwrap(), "settled 0.1 answered");
    assert!(scene.out.list().iter().all(|effect| match effect {
        Effect::Finish { client, .. } => *client == Client::NOBODY,
        _ => true,
    }));
}

pub(super) fn accepted() -> Accepted<'static> {
    Accepted {
        uid: Uid(77 << Uid::SHARD_BITS),
        mode: Mode::Deliver,
        channel: "web",
        agent: "ada",
        chat: "room",
        peer: "ann",
        text: "hi",
        ..Accepted::default()
    }
}

pub(super) fn restore(scene: &mut Scene, restored: Restored<'_>) -> Vec<String> {
    scene.event(Event::Restore { client: Client::NOBODY, restored: &restored })
}

#[test]
fn a_turn_of_the_last_run_goes_on_from_where_it_was() {
    let mut scene = keeps(plan(), false);
    let asked = Restored { accepted: accepted(), reply: None, history: false, parts: 0, shown: "" };
    assert_eq!(
        restore(&mut scene, asked),
        ["accepted 0.1 ahead 0", "append 1 accepted  hi", "save 1 revived", "start 0.1#0 agent 0 model 0"],
        "an end that did not reach the disk may have left a dead letter"
    );
    let text = "a long answer, and the rest of it";
    let accepted = Accepted { peer: "bob", uid: Uid(78 << Uid::SHARD_BITS), ..accepted() };
    let replied =
        Restored { accepted, reply: Some((Outcome::Answered, text)), history: false, parts: 1, shown: "" };
    assert_eq!(
        restore(&mut scene, replied),
        [
            "accepted 1.1 ahead 0",
            "append 2 accepted  hi",
            "append 3 reply answered a long answer, and the rest of it",
            "append 4 delivered 0 ",
            "save 2 revived",
            "deliver 1.1 part 1 attempt 0 [the rest of it]"
        ],
        "no model is asked, no part posted twice"
    );
    let behind = Accepted { uid: Uid(79 << Uid::SHARD_BITS), text: "more", ..accepted };
    let behind = Restored {
        accepted: behind,
        reply: Some((Outcome::Answered, "so")),
        history: false,
        parts: 0,
        shown: "",
    };
    assert_eq!(
        restore(&mut scene, behind),
        ["accepted 2.1 ahead 1", "append 5 accepted  more", "append 6 reply answered so", "save 3 revived"]
    );
    let end = scene.delivered(turn(1, 1), 1, 0, OK);
    assert_eq!(end.last().unwrap(), "deliver 2.1 part 0 attempt 0 [so]", "in the order of the session");
}

#[test]
fn what_was_promised_is_kept_beyond_smaller_limits() {
    let mut small = plan();
    (small.limits.turns_max, small.limits.sessions_max, small.agents[0].waiting_max) = (1, 1, 1);
    let mut scene = keeps(small, false);
    for (number, peer) in (1_u64..).zip(["ann", "bob", "cyd"]) {
        let accepted = Accepted { peer, uid: Uid(number), ..accepted() };
        let lines =
            restore(&mut scene, Restored { accepted, reply: None, history: false, parts: 0, shown: "" });
        assert!(lines[0].starts_with("accepted"), "{lines:?}");
    }
    assert_eq!(scene.send(posts("dan", "hi"))[0], "refused BUSY 1000");
    for slot in 0..3 {
        scene.finishes(call(slot, 1, 0));
    }
    durable(&mut scene, 99);
    assert_eq!(scene.send(posts("ann", "hi"))[0], "accepted 2.2 ahead 0");
}

#[test]
fn what_no_platform_takes_is_a_dead_letter_and_can_be_tried_again() {
    let mut scene = keeps(plan(), false);
    answered(&mut scene, "a long answer, and the rest of it");
    durable(&mut scene, 2);
    scene.delivered(turn(0, 1), 0, 0, OK);
    durable(&mut scene, 3);
    assert_eq!(
        scene.delivered(turn(0, 1), 1, 0, Delivery::Refused { detail: "blocked" }),
        ["append 4 settled dead DELIVERY_FAILED 1 blocked", "settled 0.1 dead DELIVERY_FAILED"],
        "who finds a letter must not find its message answered after a crash"
    );
    scene.event(Event::Saved { save: 1 });
    assert_eq!(scene.shard().released(), 0, "nor must what says so be forgotten");
    assert_eq!(
        durable(&mut scene, 4),
        ["save 2 dead DELIVERY_FAILED 1 \"blocked\" \"accepted  hi with 1 id\" answered true 1 \
         \"a long answer, and the rest of it\""]
    );
    scene.event(Event::Saved { save: 2 });
    assert_eq!(scene.shard().released(), 4);
    let text = "a long answer, and the rest of it";
    let accepted = Accepted { replayed: true, ..accepted() };
    let restored =
        Restored { accepted, reply: Some((Outcome::Answered, text)), history: false, parts: 1, shown: "" };
    let client = Client { ticket: 5, ..Client::default() };
    let lines = scene.event(Event::Restore { client, restored: &restored });
    assert_eq!(
        lines.last().unwrap(),
        "append 7 delivered 0 ",
        "until then the letter stays, and nothing is posted"
    );
    assert_eq!(
        scene.event(Event::Restore { client, restored: &restored }),
        ["operated DUPLICATE"],
        "not twice at a time"
    );
    assert_eq!(
        durable(&mut scene, 7),
        ["operated ok", "save 3 revived", "deliver 0.2 part 1 attempt 0 [the rest of it]"],
        "and only now the letter goes"
    );
    let end = scene.delivered(turn(0, 2), 1, 0, OK);
    assert_eq!(end.last().unwrap(), "settled 0.2 answered");
    assert_eq!(
        scene.event(Event::Restore { client, restored: &restored }),
        ["operated DUPLICATE"],
        "the store shows it still"
    );
    scene.event(Event::Saved { save: 3 });
    assert_eq!(scene.event(Event::Restore { client, restored: &restored })[0], "accepted 0.3 ahead 0");
}

#[test]
fn a_letter_whose_turn_ends_before_that_is_on_disk_goes_once_it_is() {
    let mut scene = keeps(plan(), false);
    let accepted = Accepted { replayed: true, ..accepted() };
    let restored =
        Restored { accepted, reply: Some((Outcome::Answered, "so")), history: false, parts: 0, shown: "" };
    let client = Client { ticket: 5, ..Client::default() };
    scene.event(Event::Restore { client, restored: &restored });
    let session = scene.find("ann").unwrap();
    scene.operates(session, Operation::Stop);
    assert_eq!(
        scene.shard().released(),
        0,
        "what says that it was tried again is needed until the store knows"
    );
    assert_eq!(durable(&mut scene, 99), ["operated ok", "save 1 revived"]);
    assert_eq!(scene.shard().released(), 0);
    scene.event(Event::Saved { save: 1 });
    assert_eq!(scene.shard().released(), 3);
}

/// The store heard that the letter is gone, and the shard forgot that it is tried again: a question from before, which comes
/// late, finds the turn.
#[test]
fn a_letter_that_is_being_tried_is_not_tried_twice_however_late_one_asks() {
    let mut scene = keeps(plan(), false);
    let accepted = Accepted { replayed: true, ..accepted() };
    let restored = Restored { accepted, reply: None, history: false, parts: 0, shown: "" };
    let client = Client { ticket: 5, ..Client::default() };
    scene.event(Event::Restore { client, restored: &restored });
    assert_eq!(durable(&mut scene, 1), ["operated ok", "save 1 revived"]);
    scene.event(Event::Saved { save: 1 });
    assert_eq!(scene.event(Event::Restore { client, restored: &restored }), ["operated DUPLICATE"]);
}

/// A letter that was dropped came back after a crash: only the store knew, and the journal told again of the end that had
/// made it.
#[test]
fn a_letter_is_dropped_once_that_is_on_disk() {
    let mut scene = keeps(plan(), false);
    let (client, uid) = (Client { ticket: 5, ..Client::default() }, Uid(7 << 10));
    let drops = Event::DropLetter { client, uid };
    assert_eq!(scene.event(drops), [format!("append 1 dropped {}", uid.0)]);
    assert_eq!(scene.event(drops), ["operated DUPLICATE"], "not twice at a time");
    // Where the journal lost it, it is written again.
    assert_eq!(scene.event(Event::Carry { lsn: 1 }), [format!("append 2 dropped {}", uid.0)]);
    assert_eq!(durable(&mut scene, 1), [""; 0]);
    assert_eq!(durable(&mut scene, 2), ["operated ok", "save 1 revived"]);
    assert_eq!(scene.shard().released(), 1, "it is needed until the store knows");
    scene.event(Event::Saved { save: 1 });
    assert_eq!(scene.shard().released(), 2);
    scene.event(Event::Journal { state: JournalState::Full });
    assert_eq!(scene.event(drops), ["save 2 revived", "operated ok"], "it may be what makes room");
}

#[test]
fn what_is_lost_on_the_way_to_the_disk_is_written_again_also_when_it_is_over() {
    let mut scene = keeps(plan(), false);
    answered(&mut scene, "hello");
    durable(&mut scene, 2);
    scene.event(Event::Saved { save: 1 });
    scene.send(Inbound { id: "e2", ..posts("bob", "ho") });
    scene.delivered(turn(0, 1), 0, 0, Delivery::Refused { detail: "blocked" });
    // The disk takes nothing from record 3 on: the journal asks for all of it.
    let lines = scene.event(Event::Carry { lsn: 4 });
    assert_eq!(
        lines,
        [
            "append 5 accepted  ho with 1 id",
            "append 6 accepted  hi with 1 id, over",
            "append 7 reply answered hello",
            "append 8 settled dead DELIVERY_FAILED 1 blocked"
        ],
        "what runs, and what would be a dead letter by now"
    );
    assert_eq!(scene.shard().released(), 4, "the journal can drop what it has");
    let saves = durable(&mut scene, 8);
    assert!(saves[0] == "durable 1.1" && saves[1].starts_with("save 2 dead DELIVERY_FAILED"), "{saves:?}");
    assert_eq!(saves[2..], ["save 3 seen"]);
    assert_eq!(scene.shard().released(), 4);
    scene.event(Event::Saved { save: 3 });
    assert_eq!(scene.shard().released(), 4, "one turn runs");
}

/// Files of earlier runs may go by then, and its first record alone would have it answered once more.
#[test]
fn the_end_of_a_turn_of_the_last_run_is_written_again_where_it_is_lost() {
    let mut scene = keeps(plan(), false);
    let accepted = Accepted { mode: Mode::Whole, ..accepted() };
    let replied =
        Restored { accepted, reply: Some((Outcome::Answered, "so")), history: false, parts: 0, shown: "" };
    assert_eq!(
        restore(&mut scene, replied),
        [
            "accepted 0.1 ahead 0",
            "append 1 accepted  hi",
            "append 2 reply answered so",
            "finish 0.1 1 [so] by 65535",
            "append 3 settled answered 0 ",
            "settled 0.1 answered"
        ]
    );
    assert_eq!(scene.shard().released(), 0);
    assert_eq!(
        scene.event(Event::Carry { lsn: 3 }),
        ["append 4 accepted  hi, over", "append 5 reply answered so", "append 6 settled answered 0 "]
    );
    assert_eq!(scene.shard().released(), 3);
    assert_eq!(durable(&mut scene, 6), [""; 0], "no dead letter comes or goes with it");
    assert_eq!(scene.shard().released(), 6);
}

#[test]
fn what_is_left_of_a_channel_that_is_gone_ends_in_words() {
    let mut scene = keeps(plan(), false);
    let gone = Accepted { channel: "gone", ..accepted() };
    let asked = Restored { accepted: gone, reply: None, history: false, parts: 0, shown: "" };
    assert_eq!(
        restore(&mut scene, asked),
        [
            "accepted 0.1 ahead 0".to_string(),
            "append 1 accepted  hi".to_string(),
            "save 1 revived".to_string(),
            format!("append 2 settled dead CHANNEL_GONE 0 {}", Code::ChannelGone.advice()),
            "settled 0.1 dead CHANNEL_GONE".to_string()
        ]
    );
    assert!(durable(&mut scene, 2)[0].starts_with("save 2 dead CHANNEL_GONE 0 "));
    let text = "a long answer, and the rest of it";
    let replied = Restored { reply: Some((Outcome::Answered, text)), parts: 1, ..asked };
    let lines = restore(&mut scene, replied);
    assert_eq!(lines.last().unwrap(), "settled 0.2 dead CHANNEL_GONE");
    assert!(durable(&mut scene, 9)[0].contains("answered true 1"), "what was read stays known");
    let client = Client { ticket: 5, ..Client::default() };
    let lines = scene.event(Event::Restore { client, restored: &replied });
    assert_eq!(lines, ["operated CHANNEL_GONE"], "and cannot be tried again");
    let asks = Restored { accepted: Accepted { mode: Mode::Whole, ..gone }, ..asked };
    assert_eq!(restore(&mut scene, asks).last().unwrap(), "settled 0.3 failed CHANNEL_GONE");
}

#[test]
fn a_letter_that_nobody_is_left_to_answer_stays_a_letter() {
    let mut plan = plan();
    plan.route = Strategy::Static(AgentId(9));
    let mut scene = keeps(plan, false);
    let accepted = Accepted { agent: "gone", ..accepted() };
    let left = Restored { accepted, reply: None, history: false, parts: 0, shown: "" };
    let letter = Restored { accepted: Accepted { replayed: true, ..accepted }, ..left };
    let client = Client { ticket: 5, ..Client::default() };
    assert_eq!(scene.event(Event::Restore { client, restored: &letter }), ["operated NOT_FOUND"]);
    assert_eq!(
        restore(&mut scene, left).last().unwrap(),
        "settled 0.1 dead NOT_FOUND",
        "what was promised ends"
    );
}

#[test]
fn what_no_platform_takes_is_a_dead_letter_also_where_only_a_store_keeps_it() {
    let mut scene = keeps_with(plan(), false, true, true);
    scene.send(Inbound { id: "e1", ..posts("ann", "hi") });
    let session = scene.find("ann").unwrap();
    scene.event(Event::Loaded { session, stored: Some(&Stored::default()) });
    scene.text(call(0, 1, 0), "so");
    let posted = scene.finishes(call(0, 1, 0));
    assert_eq!(posted.last().unwrap(), "deliver 0.1 part 0 attempt 0 [so]");
    let end = scene.delivered(turn(0, 1), 0, 0, Delivery::Refused { detail: "blocked" });
    assert_eq!(
        end[..2],
        [
            "save 1 dead DELIVERY_FAILED 1 \"blocked\" \"accepted  hi\" answered true 0 \"so\"",
            "settled 0.1 dead DELIVERY_FAILED"
        ]
    );
}

#[test]
fn old_records_are_written_again_when_the_journal_asks() {
    let mut scene = keeps(plan(), false);
    answered(&mut scene, "hello");
    durable(&mut scene, 2);
    scene.event(Event::Saved { save: 1 });
    assert_eq!(scene.shard().released(), 0);
    assert_eq!(
        scene.event(Event::Carry { lsn: 2 }),
        ["append 3 accepted  hi with 1 id", "append 4 reply answered hello"]
    );
    durable(&mut scene, 4);
    assert_eq!(scene.shard().released(), 2);
    assert_eq!(scene.delivered(turn(0, 1), 0, 0, OK).len(), 3);
    durable(&mut scene, 9);
    assert_eq!(scene.shard().released(), 6);
}

fn remembers() -> Plan {
    let mut plan = plan();
    plan.agents[0].history = true;
    plan.agents.push(agent("bea", &[1]));
    plan
}

#[test]
fn a_session_is_asked_for_once_and_its_turns_wait_for_that() {
    let mut scene = keeps(remembers(), true);
    assert_eq!(scene.send(says("ann", "hi")), ["accepted 0.1 ahead 0", "load 0.1"]);
    assert_eq!(scene.send(says("ann", "again")), ["accepted 1.1 ahead 1"]);
    let session = scene.find("ann").unwrap();
    let history = [(Role::User, "before"), (Role::Agent, "so")];
    let stored = Stored {
        agent: "bea",
        messages: 7,
        history: &history,
        context: &[("lang", "pl")],
        found: true,
        ..Stored::default()
    };
    assert_eq!(
        scene.event(Event::Loaded { session, stored: Some(&stored) }),
        ["start 0.1#0 agent 1 model 1"],
        "the agent that an operator gave it in an earlier life"
    );
    let view = scene.shards[0].session(session).unwrap();
    assert_eq!((view.messages, view.agent), (9, Some(AgentId(1))));
    let prompt = scene.shards[0].prompt(turn(0, 1)).unwrap();
    assert_eq!(prompt.variables.collect::<Vec<_>>(), [("lang", "pl")]);
    scene.finishes(call(0, 1, 0));
    scene.finishes(call(1, 1, 0));
    assert_eq!(scene.send(says("ann", "more")), ["accepted 1.2 ahead 0", "start 1.2#0 agent 1 model 1"]);
}

#[test]
fn what_is_said_is_saved_and_the_session_now_and_then() {
    let mut scene = keeps(remembers(), true);
    scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") });
    let session = scene.find("ann").unwrap();
    scene.event(Event::Loaded { session, stored: Some(&Stored::default()) });
    scene.text(call(0, 1, 0), "hello");
    let end = scene.finishes(call(0, 1, 0));
    assert_eq!(end[..2], ["save 1 session", "save 2 said \"hi\" \"hello\""], "nobody finds rows without it");
    assert_eq!(end.last().unwrap(), "save 3 session", "as a whole");
    assert_eq!(
        scene.operates(session, Operation::Set { name: "a", value: "1" }),
        ["save 4 session", "operated ok"]
    );
    assert_eq!(
        scene.operates(session, Operation::Close),
        ["append 1 forgot ann closed", "save 5 closed"],
        "and nothing saves it again"
    );
    assert_eq!(scene.shard().released(), 0, "until the store knows, the record is needed");
    assert_eq!(durable(&mut scene, 1), ["operated ok"], "what is forgotten is forgotten for good");
    scene.event(Event::Saved { save: 5 });
    assert_eq!(scene.shard().released(), 1);
}

#[test]
fn a_store_that_does_not_outlive_the_process_is_told_of_a_session_when_it_leaves_memory() {
    let mut scene = keeps_in(remembers(), true, false);
    scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") });
    let session = scene.find("ann").unwrap();
    scene.event(Event::Loaded { session, stored: Some(&Stored::default()) });
    scene.text(call(0, 1, 0), "hello");
    let end = scene.finishes(call(0, 1, 0));
    let saves: Vec<_> = end.iter().filter(|line| line.starts_with("save")).collect();
    assert_eq!(saves, ["save 1 session", "save 2 said \"hi\" \"hello\""], "but for what is said");
    let (_, gone) = scene.next();
    assert_eq!(gone, ["save 3 session"]);
    assert!(scene.find("ann").is_none());
}

#[test]
fn a_reset_is_written_down_and_refused_where_nothing_can_be() {
    let mut scene = keeps(remembers(), true);
    scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") });
    let session = scene.find("ann").unwrap();
    scene.event(Event::Loaded { session, stored: Some(&Stored::default()) });
    scene.finishes(call(0, 1, 0));
    scene.event(Event::Journal { state: JournalState::Full });
    for operation in [Operation::Reset, Operation::Close] {
        assert_eq!(scene.operates(session, operation), ["operated JOURNAL_FULL"]);
    }
    assert!(scene.find("ann").is_some(), "nothing was done");
    scene.event(Event::Journal { state: JournalState::Open });
    assert_eq!(
        scene.operates(session, Operation::Reset),
        ["append 1 forgot ann reset", "save 4 session"],
        "under one name"
    );
    assert_eq!(durable(&mut scene, 1), ["operated ok"]);
}

/// A letter that is tried again is older than that, and a reset keeps what follows it.
#[test]
fn a_reset_brings_nothing_back_that_was_forgotten_before() {
    let mut scene = keeps(remembers(), true);
    scene.send(says("ann", "hi"));
    let session = scene.find("ann").unwrap();
    let resets = |scene: &mut Scene| {
        scene.operates(session, Operation::Reset);
        scene.out.list().iter().find_map(|effect| match effect {
            Effect::Save { saved: Saved::Session { history_from, .. }, .. } => Some(*history_from),
            _ => None,
        })
    };
    scene.event(Event::Loaded { session, stored: Some(&Stored::default()) });
    scene.finishes(call(0, 1, 0));
    let before = resets(&mut scene).unwrap();
    let (accepted, reply) = (Accepted { uid: Uid(77), ..accepted() }, Some((Outcome::Answered, "so")));
    restore(&mut scene, Restored { accepted, reply, history: false, parts: 0, shown: "" });
    assert!(before <= resets(&mut scene).unwrap(), "{before:?}");
}

/// Its old rows may be told again by the journal after a crash: they must not become its history.
#[test]
fn a_closed_session_that_begins_anew_has_a_history_of_its_own() {
    let mut scene = keeps(remembers(), true);
    let from = |scene: &Scene| {
        let saved = scene.out.list().iter().find_map(|effect| match effect {
            Effect::Save { saved: Saved::Session { history_from, .. }, .. } => Some(*history_from),
            _ => None,
        });
        saved.unwrap()
    };
    let talks = |scene: &mut Scene| {
        let lines = scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") });
        let session = scene.find("ann").unwrap();
        assert!(lines.iter().any(|line| line.starts_with("load ")), "{lines:?}");
        let started = scene.event(Event::Loaded { session, stored: Some(&Stored::default()) });
        let generation = if started[0].contains(".1#") { 1 } else { 2 };
        scene.finishes(call(0, generation, 0));
        from(scene)
    };
    assert_eq!(talks(&mut scene), Uid(0));
    let session = scene.find("ann").unwrap();
    scene.operates(session, Operation::Close);
    let closed = scene.out.list().iter().find_map(|effect| match effect {
        Effect::Save { saved: Saved::Closed { revision }, .. } => Some(*revision),
        _ => None,
    });
    assert_eq!(Some(talks(&mut scene)), closed);
    // The next process hears of it from the journal.
    let mut scene = keeps(remembers(), true);
    let hash = session_hash(&Secret([3, 4]), "web", Scope::Direct, "ann", "", "");
    scene.shard().remember_closed(hash, Uid(77));
    assert_eq!(talks(&mut scene), Uid(77));
}

#[test]
fn an_operator_has_a_session_brought_back() {
    let mut scene = keeps(remembers(), true);
    let inbound = Inbound { mode: Mode::Whole, ..says("ann", "") };
    let history = [(Role::User, "before"), (Role::Agent, "so")];
    let stored = Stored {
        agent: "bea",
        messages: 7,
        history: &history,
        context: &[("lang", "pl")],
        found: true,
        created_millis: 1_700_000_000_000,
        ..Stored::default()
    };
    assert_eq!(scene.event(Event::Recalled { inbound, stored: &stored }), [""; 0]);
    let session = scene.find("ann").unwrap();
    let view = scene.shards[0].session(session).unwrap();
    assert_eq!((view.messages, view.agent, view.known, view.stored), (7, Some(AgentId(1)), true, true));
    assert_eq!(view.created_millis, 1_700_000_000_000);
    assert_eq!(scene.shards[0].memory(session).unwrap().history.count(), 2);
    // It is there by now: what the store says is older.
    let older = Stored { messages: 1, ..stored };
    assert_eq!(scene.event(Event::Recalled { inbound, stored: &older }), [""; 0]);
    assert_eq!(scene.shards[0].session(session).unwrap().messages, 7);
    assert_eq!(
        scene.operates(session, Operation::Set { name: "lang", value: "de" }),
        ["save 1 session", "operated ok"],
        "as a whole"
    );
    assert_eq!(
        scene.send(Inbound { mode: Mode::Whole, ..says("ann", "hi") }),
        ["accepted 0.1 ahead 0", "start 0.1#0 agent 1 model 1"],
        "nobody asks the store again"
    );
    // Where there is no room for one more, it is not brought back.
    let mut scene = keeps(remembers(), true);
    for n in 0..64 {
        let peer = n.to_string();
        scene.send(says(&peer, "hi"));
    }
    scene.event(Event::Recalled { inbound, stored: &stored });
    assert!(scene.find("ann").is_none());
}

#[test]
fn a_store_that_does_not_answer_fails_who_needs_it_and_nobody_else() {
    let mut plan = remembers();
    plan.agents[0].needs_history = false;
    let mut scene = keeps(plan, true);
    scene.send(says("ann", "hi"));
    let session = scene.find("ann").unwrap();
    assert_eq!(scene.next(), (3_000, vec!["start 0.1#0 agent 0 model 0".to_string()]), "goes on without");
    assert_eq!(scene.event(Event::Loaded { session, stored: Some(&Stored::default()) }), [""; 0], "late");
    let mut scene = keeps(remembers(), true);
    scene.send(says("ann", "hi"));
    scene.send(says("ann", "again"));
    let session = scene.find("ann").unwrap();
    let lines = scene.event(Event::Loaded { session, stored: None });
    assert_eq!(
        lines[..3],
        ["fail 0.1 1 STORE_UNAVAILABLE [] 2000", "settled 0.1 failed STORE_UNAVAILABLE", "load 0.1"],
        "the next one asks again"
    );
}

#[test]
fn who_lost_the_connection_gets_the_answer_by_asking_again() {
    let mut scene = keeps(plan(), false);
    let asks = Inbound { id: "e1", receipt: true, ..says("ann", "hi") };
    scene.send(asks);
    durable(&mut scene, 1);
    scene.text(call(0, 1, 0), "hel");
    assert_eq!(scene.send(asks), ["duplicate"], "the first one still listens");
    scene.event(Event::Left { turn: turn(0, 1) });
    scene.text(call(0, 1, 0), "lo ");
    let again = scene.send(asks);
    assert_eq!(again, ["attached 0.1 false", "send 0.1 3 hello "], "all that was said so far");
    assert_eq!(scene.text(call(0, 1, 0), "there"), ["send 0.1 4 there"]);
    scene.finishes(call(0, 1, 0));
    durable(&mut scene, 9);
    assert_eq!(
        scene.send(asks),
        [
            "accepted 0.2 ahead 0",
            "send 0.2 1 hello there",
            "finish 0.2 2 [] by 65535",
            "settled 0.2 answered"
        ],
        "and no model is asked"
    );
    assert_eq!(scene.send(Inbound { receipt: false, ..asks }), ["duplicate"]);
}

#[test]
fn an_answer_of_the_last_run_is_kept_for_who_asks_again() {
    let mut scene = keeps(plan(), false);
    let id = "e1";
    let accepted = Accepted { id, mode: Mode::Stream, chat: "", ..accepted() };
    let restored =
        Restored { accepted, reply: Some((Outcome::Answered, "hello")), history: false, parts: 0, shown: "" };
    let lines = restore(&mut scene, restored);
    assert_eq!(lines.last().unwrap(), "settled 0.1 answered");
    let asks = Inbound { id, receipt: true, mode: Mode::Whole, ..says("ann", "hi") };
    let now = scene.now;
    scene.shard().remember_before(now, &asks);
    assert_eq!(scene.send(asks)[1], "finish 0.2 1 [hello] by 65535");
}
