//! Where memory cannot tell whether a message is a repetition, the store is asked, and the conversation keeps its order
//! meanwhile.
use super::durable::{durable, keeps};
use super::*;
use crate::event::{Content, Sight};
use crate::limits::Limits;

const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// When the scene's clock began.
const BEGAN: u64 = 1_790_000_000_000;

/// A shard with room for so many ids, which the store knows more of.
fn forgetful(dedup_ids_max: u32) -> Scene {
    let limits = Limits { dedup_ids_max, dedup_age_max: WEEK, lookups_max: 3, ..Limits::TEST };
    let mut scene = keeps(Plan { limits, ..plan() }, false);
    scene.shard().remembers_since(Some(BEGAN));
    scene
}

fn post<'a>(id: &'a str, peer: &'a str) -> Inbound<'a> {
    Inbound { id, ..posts(peer, "hi") }
}

fn sighted(scene: &mut Scene, lookup: u64, sight: Sight) -> Vec<String> {
    scene.event(Event::Sighted { lookup, sight })
}

const SEEN: Sight = Sight::At { unix_millis: BEGAN - 1_000 };

#[test]
fn a_message_waits_for_the_stores_word() {
    let mut scene = forgetful(512);
    assert_eq!(scene.send(post("e1", "ann")), ["look up 1"]);
    assert_eq!(scene.shard().load().lookups, 1);
    assert_eq!(
        sighted(&mut scene, 1, Sight::Never)[..2],
        ["accepted 0.1 ahead 0", "append 1 accepted e1 hi"]
    );
    durable(&mut scene, 1);
    assert_eq!(scene.send(post("e2", "ben")), ["look up 2"]);
    assert_eq!(sighted(&mut scene, 2, SEEN), ["duplicate"]);
    assert_eq!(scene.send(post("e3", "cat")), ["look up 3"]);
    assert_eq!(sighted(&mut scene, 3, Sight::Unknown), ["refused STORE_UNAVAILABLE 1000"]);
    let long_ago = BEGAN - u64::try_from(WEEK.as_millis()).unwrap();
    assert_eq!(scene.send(post("e3", "cat")), ["look up 4"], "it is nobody's yet");
    assert_eq!(sighted(&mut scene, 4, Sight::At { unix_millis: long_ago })[0], "accepted 1.1 ahead 0");
    assert_eq!(sighted(&mut scene, 4, Sight::Never), [""; 0], "twice");
    assert_eq!(scene.send(post("e1", "ann")), [""; 0], "what is in memory needs no store, only the disk");
    let counters = scene.shard().counters().clone();
    assert_eq!((counters.lookups, counters.lookups_seen, counters.lookups_failed), (4, 1, 1));
    assert_eq!((counters.stage(crate::stage::Stage::Ingest), counters.duplicate), (5, 2));
}

#[test]
fn what_comes_after_it_waits_behind_it() {
    let mut scene = forgetful(512);
    assert_eq!(scene.send(post("e1", "ann")), ["look up 1"]);
    assert_eq!(scene.send(post("", "ann")), [""; 0], "it has no id, and its turn comes");
    assert_eq!(scene.send(Inbound { mode: Mode::Stream, ..posts("ben", "hi") })[0], "accepted 0.1 ahead 0");
    assert_eq!(scene.send(post("e1", "ann")), ["look up 3"], "sent again meanwhile");
    assert_eq!(sighted(&mut scene, 3, Sight::Never), [""; 0], "the first of them is still in doubt");
    assert_eq!(scene.send(post("e9", "cat")), ["refused BUSY 1000"], "three may wait");
    let lines = sighted(&mut scene, 1, Sight::Never);
    assert_eq!(lines[..2], ["accepted 1.1 ahead 0", "append 1 accepted e1 hi"]);
    assert_eq!(lines[3..], ["accepted 2.1 ahead 1", "append 2 accepted  hi"], "and the repetition is known");
    assert_eq!(durable(&mut scene, 2).last().unwrap(), "duplicate");
    assert_eq!(scene.shard().load().lookups, 0);
}

#[test]
fn a_whole_request_that_waits_behind_it_is_still_one() {
    let mut scene = forgetful(512);
    scene.send(post("e1", "ann"));
    let request = Inbound { content: Content(1), ..says("ann", "{}") };
    assert_eq!(scene.send(request), [""; 0], "it is the same conversation");
    sighted(&mut scene, 1, Sight::Never);
    let prompt = scene.shards[0].prompt(turn(1, 1)).unwrap();
    assert_eq!((prompt.content, prompt.text), (Content(1), "{}"));
}

#[test]
fn one_that_the_store_says_nothing_about_is_refused_and_those_behind_it_go_on() {
    let mut scene = forgetful(512);
    scene.send(post("e1", "ann"));
    scene.sleep(500);
    scene.send(post("", "ann"));
    scene.send(post("e2", "ann"));
    let (at, lines) = scene.next();
    assert_eq!((at, &*lines[0]), (3_000, "refused STORE_UNAVAILABLE 1000"));
    assert_eq!(lines[1], "accepted 0.1 ahead 0");
    assert_eq!(sighted(&mut scene, 1, Sight::Never), [""; 0], "late");
    assert_eq!(sighted(&mut scene, 3, Sight::Never)[0], "accepted 1.1 ahead 1");
}

#[test]
fn only_what_an_answer_was_promised_to_is_asked_for() {
    let mut scene = forgetful(512);
    assert_eq!(scene.send(Inbound { id: "e1", ..says("ann", "hi") })[0], "accepted 0.1 ahead 0");
    let receipt = Inbound { id: "e2", receipt: true, ..says("ben", "hi") };
    assert_eq!(scene.send(receipt), ["look up 1"]);
    let edit = Inbound { kind: crate::event::Kind::Edit, ..post("e3", "cat") };
    assert_eq!(scene.send(edit), ["ignored Kind"]);
}

#[test]
fn an_id_without_room_in_memory_is_asked_for_once_the_store_has_it() {
    let mut scene = forgetful(2);
    scene.shard().remembers_since(None);
    for (n, id) in ["e1", "e2", "e3", "e4"].into_iter().enumerate() {
        let peer = ["ann", "ben", "cat", "dan"][n];
        assert_eq!(scene.send(post(id, peer))[0], format!("accepted {n}.1 ahead 0"));
    }
    assert_eq!(scene.send(post("e1", "ann")), [""; 0], "nobody else knows it: it stays");
    durable(&mut scene, 4);
    scene.event(Event::Saved { save: 4 });
    assert_eq!(scene.send(post("e5", "eve"))[0], "accepted 4.1 ahead 0", "new ones are not in doubt");
    assert_eq!(scene.shard().load().dedup_evicted, 3);
    assert_eq!(scene.send(post("e1", "ann")), ["look up 1"]);
    assert_eq!(sighted(&mut scene, 1, SEEN), [""; 0]);
    assert_eq!(durable(&mut scene, 5).last().unwrap(), "duplicate");
    // The store remembers it no longer than it counts.
    scene.sleep(u64::try_from(WEEK.as_millis()).unwrap());
    scene.tick();
    assert!(scene.send(post("e1", "ann"))[0].starts_with("accepted"));
    assert_eq!(scene.shard().load().dedup_filtered, 0);
}

#[test]
fn a_channel_or_an_agent_that_goes_meanwhile_is_gone_for_those_that_wait() {
    let mut scene = forgetful(512);
    let limits = scene.shard().plan.limits.clone();
    let two = Plan {
        limits: limits.clone(),
        channels: vec![channel("app"), channel("web")],
        agents: vec![agent("bob", &[0]), agent("ada", &[0])],
        ..plan()
    };
    scene.send(Inbound { agent: Some(AgentId(0)), ..post("e1", "ann") });
    scene.send(post("e2", "ben"));
    scene.shard().reconfigure(Arc::new(two));
    let lines = sighted(&mut scene, 1, Sight::Never);
    assert_eq!(lines[2], "start 0.1#0 agent 1 model 0", "by another number");
    let without = Plan { limits, channels: vec![channel("app")], ..plan() };
    scene.shard().reconfigure(Arc::new(without));
    assert_eq!(sighted(&mut scene, 2, Sight::Never), ["refused NOT_FOUND 0"]);
}

/// A message was admitted twice: the store had said of its repetition that it is new, for it was asked before it had heard
/// of the first; and memory had forgotten the first by the time at which the repetition's turn came.
#[test]
fn a_word_that_grew_old_admits_nothing_twice() {
    let mut scene = forgetful(512);
    assert_eq!(scene.send(post("e1", "ann")), ["look up 1"]);
    assert_eq!(scene.send(post("e1", "ann")), ["look up 2"]);
    assert_eq!(sighted(&mut scene, 1, Sight::Never)[0], "accepted 0.1 ahead 0");
    assert_eq!(durable(&mut scene, 1).last().unwrap(), "duplicate", "whatever the store says of it");
    assert_eq!(sighted(&mut scene, 2, Sight::Never), [""; 0]);
    assert_eq!(scene.shard().load().lookups, 0);
}

/// The same of a repetition about which the store was not asked: as it came, its id was in nobody's memory.
#[test]
fn what_was_admitted_and_forgotten_meanwhile_is_known_for_what_waits() {
    let limits = Limits { dedup_ids_max: 2, dedup_age_max: WEEK, lookups_max: 9, ..Limits::TEST };
    let mut scene = keeps(Plan { limits, ..plan() }, false);
    scene.shard().remembers_since(None);
    let mut written = 0;
    let mut save_all = |scene: &mut Scene| {
        written += 9;
        durable(scene, written);
        scene.event(Event::Saved { save: written });
    };
    // Two ids that only the store knows any more.
    for (id, peer) in [("old 1", "ann"), ("old 2", "ann"), ("b", "ben"), ("c", "cat")] {
        scene.send(post(id, peer));
    }
    save_all(&mut scene);
    scene.send(post("d", "dan"));
    assert_eq!(scene.send(post("old 1", "ann")), ["look up 1"]);
    assert_eq!(scene.send(post("e1", "ann")), [""; 0], "new, behind it");
    assert_eq!(scene.send(post("old 2", "ann")), ["look up 3"]);
    assert_eq!(scene.send(post("e1", "ann")), [""; 0]);
    let lines = sighted(&mut scene, 1, SEEN);
    assert!(lines.iter().any(|line| line.starts_with("accepted")), "{lines:?}");
    save_all(&mut scene);
    for (id, peer) in [("f", "fay"), ("g", "gus"), ("h", "hal")] {
        scene.send(post(id, peer));
    }
    save_all(&mut scene);
    scene.send(post("i", "ida"));
    let lines = sighted(&mut scene, 3, SEEN);
    assert!(!lines.iter().any(|line| line.starts_with("accepted")), "it was admitted: {lines:?}");
    assert_eq!(scene.shard().load().lookups, 0);
}
