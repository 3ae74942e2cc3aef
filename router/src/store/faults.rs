//! What goes wrong with a file, and with what waits for it: said in words, nothing lost silently, nobody blocked.
#![allow(clippy::unwrap_used)]
use super::conform::{Bench, Folder, KEEP, PATIENCE, key, letter, plan, say, session, set, sqlite_place};
use super::*;
use clawgate_core::view::Role;
use rusqlite::Connection;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

fn sqlite_plan(folder: &Path) -> Plan {
    plan(Kind::Sqlite(sqlite_place(folder.join("store.db"))), folder)
}

fn refusal(plan: &Plan) -> Trouble {
    match Bench::start(plan) {
        Ok(_) => panic!("it was opened"),
        Err(trouble) => trouble,
    }
}

/// Waits until it is so: the watch of another thread has to see it first.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let (_never, wait) = sync_channel::<()>(0);
    for _ in 0..12_000 {
        if is_so() {
            return;
        }
        let _ = wait.recv_timeout(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

#[test]
fn what_was_confirmed_is_there_after_a_restart() {
    let folder = Folder::new();
    let plan = sqlite_plan(folder.path());
    let bench = Bench::start(&plan).unwrap();
    bench.put(vec![set(session("ana")), say("ana", 1, Role::User, "x"), Op::Dead(Box::new(letter(3)))]);
    bench.put(vec![Op::Seen { mark: [7; 16], unix_millis: 5 }]);
    bench.close();
    let bench = Bench::start(&plan).unwrap();
    assert_eq!(bench.load(&key("ana")).unwrap().history.len(), 1);
    assert_eq!(bench.ask(Query::WasSeen { mark: [7; 16], since_millis: 0 }), Answer::WasSeen(Some(5)));
    bench.put(vec![Op::Seen { mark: [8; 16], unix_millis: 6 }]);
    let (bytes, mode) = (
        bench.ask(Query::DeadLetter { uid: 3 }),
        std::fs::metadata(folder.path().join("store.db")).unwrap().permissions().mode(),
    );
    assert_eq!(bytes, Answer::DeadLetter(Some(Box::new(letter(3)))));
    assert_eq!(mode & 0o077, 0, "conversations are private");
    bench.close();
}

// As a crash leaves it: the log was never folded into the file, and its end is torn.
#[test]
fn a_torn_log_loses_nothing_that_was_confirmed() {
    let folder = Folder::new();
    let bench = Bench::start(&sqlite_plan(folder.path())).unwrap();
    for uid in 1..=50 {
        bench.put(vec![say("ana", uid, Role::User, "x"), set(session("ana"))]);
    }
    let copy = Folder::new();
    for name in ["store.db", "store.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let log = std::fs::OpenOptions::new().append(true).open(copy.path().join("store.db-wal")).unwrap();
    let length = log.metadata().unwrap().len();
    log.set_len(length + 1_000).unwrap();
    bench.close();
    let bench = Bench::start(&sqlite_plan(copy.path())).unwrap();
    assert_eq!(bench.load(&key("ana")).unwrap().history.len(), 50);
    bench.close();
}

#[test]
fn a_foreign_file_is_left_alone() {
    let folder = Folder::new();
    let file = folder.path().join("store.db");
    for content in
        [&b"this is a letter to my aunt, not a database"[..], &[0xff; 8_192], b"SQLite format 3\0torn"]
    {
        std::fs::write(&file, content).unwrap();
        let trouble = refusal(&sqlite_plan(folder.path()));
        assert!(matches!(&trouble, Trouble::Foreign(why) if why.contains("store.path")), "{trouble:?}");
        assert_eq!(std::fs::read(&file).unwrap(), content);
    }
    std::fs::remove_file(&file).unwrap();
    let other = Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    drop(other);
    let trouble = refusal(&sqlite_plan(folder.path()));
    assert!(matches!(&trouble, Trouble::Foreign(why) if why.contains("another program")), "{trouble:?}");
}

#[test]
fn a_file_of_a_newer_gateway_is_left_alone() {
    let folder = Folder::new();
    let bench = Bench::start(&sqlite_plan(folder.path())).unwrap();
    bench.put(vec![set(session("ana"))]);
    bench.close();
    let file = Connection::open(folder.path().join("store.db")).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let trouble = refusal(&sqlite_plan(folder.path()));
    let Trouble::Foreign(why) = trouble else { panic!("{trouble:?}") };
    assert!(why.contains("newer gateway") && why.contains("version 99"), "{why}");
}

#[test]
fn a_place_that_cannot_be_written_is_said_at_once() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for path in [Path::new("/proc/clawgate/store.db"), &folder.path().join("file/store.db"), folder.path()] {
        let trouble = refusal(&plan(Kind::Sqlite(sqlite_place(path.to_owned())), folder.path()));
        assert!(matches!(&trouble, Trouble::Down(why) if why.contains("writable")), "{trouble:?}");
    }
}

// A page in the middle of the file holds what no page holds.
#[test]
fn a_damaged_page_is_said_and_the_rest_is_read() {
    let folder = Folder::new();
    let bench = Bench::start(&sqlite_plan(folder.path())).unwrap();
    for uid in 1..=200 {
        bench.put(vec![say("ana", uid, Role::User, &"x".repeat(500))]);
    }
    bench.put(vec![set(session("ana")), set(session("bob"))]);
    bench.close();
    let path = folder.path().join("store.db");
    let connection = Connection::open(&path).unwrap();
    let page: i64 = connection
        .query_row("SELECT rootpage FROM sqlite_master WHERE name = 'said'", [], |row| row.get(0))
        .unwrap();
    drop(connection);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xa5; 8_192], u64::try_from(page - 1).unwrap() * 8_192).unwrap();

    let bench = Bench::start(&sqlite_plan(folder.path())).unwrap();
    let load = Query::Load { key: key("ana"), messages_max: 10, bytes_max: 10_000 };
    let trouble = bench.try_ask(load, PATIENCE).unwrap_err();
    assert!(matches!(&trouble, Trouble::Damaged(why) if why.contains("restore a backup")), "{trouble:?}");
    assert!(matches!(bench.store.health(), Health::Degraded { .. }));
    let Answer::Sessions { rows, .. } =
        bench.ask(Query::Sessions { filter: SessionFilter::default(), after: None, limit: 10 })
    else {
        panic!("another answer");
    };
    assert_eq!(rows.len(), 2);
    assert_eq!(bench.store.health(), Health::Ok);
    // What would touch the page waits, the journal keeps it, and whoever ends the process is told.
    bench.store.write(1, 9, vec![say("ana", 900, Role::User, "x")]).unwrap();
    until("degraded", || matches!(bench.store.health(), Health::Degraded { .. }));
    assert!(!bench.store.close(Duration::from_millis(20)));
    assert!(bench.confirmed.try_recv().is_err());
}

// The rows are there and mean nothing.
#[test]
fn rows_that_cannot_be_read_are_left_out_of_lists_and_said_where_asked_for() {
    let folder = Folder::new();
    let bench = Bench::start(&sqlite_plan(folder.path())).unwrap();
    bench.put(vec![set(session("ana")), set(session("bob")), Op::Dead(Box::new(letter(3)))]);
    let other = Connection::open(folder.path().join("store.db")).unwrap();
    other
        .execute_batch(
            "UPDATE sessions SET body = '{\"channel\": 7' WHERE id = 1; UPDATE dead SET body = x'ff'",
        )
        .unwrap();
    let load = Query::Load { key: key("ana"), messages_max: 10, bytes_max: 10_000 };
    assert!(matches!(bench.try_ask(load, PATIENCE), Err(Trouble::Damaged(_))));
    assert!(matches!(bench.try_ask(Query::DeadLetter { uid: 3 }, PATIENCE), Err(Trouble::Damaged(_))));
    let Answer::Sessions { rows, .. } =
        bench.ask(Query::Sessions { filter: SessionFilter::default(), after: None, limit: 10 })
    else {
        panic!("another answer");
    };
    assert_eq!(rows, [session("bob")]);
    bench.close();
}

#[test]
fn rows_gather_until_a_transaction_is_full_or_the_store_closes() {
    let folder = Folder::new();
    let mut plan = sqlite_plan(folder.path());
    // Longer than any run: only what is to end it can.
    plan.queue.batch_interval = Duration::from_secs(86_400);
    plan.queue.batch_ops_max = 4;
    let bench = Bench::start(&plan).unwrap();
    let row = |uid| vec![say("ana", uid, Role::User, "x")];
    bench.put(vec![set(session("ana"))]);
    let batches = || bench.store.counters().batches;
    assert_eq!(batches(), 1);
    for uid in 101..=104 {
        assert!(bench.confirmed.try_recv().is_err());
        bench.store.write(1, uid, row(uid)).unwrap();
    }
    let confirmed: Vec<u64> = (0..4).map(|_| bench.confirmed.recv_timeout(PATIENCE).unwrap().1).collect();
    assert_eq!((confirmed, batches()), (vec![101, 102, 103, 104], 2));
    bench.store.write(1, 105, row(105)).unwrap();
    // Somebody who makes room does not wait for others.
    bench.ask(Query::ForgetSeen { before_millis: 0 });
    assert_eq!(bench.confirmed.recv_timeout(PATIENCE).unwrap().1, 105);
    bench.store.write(1, 106, row(106)).unwrap();
    bench.close();
    let bench = Bench::start(&plan).unwrap();
    assert_eq!(bench.load(&key("ana")).unwrap().history.len(), 6);
}

#[test]
fn while_it_cannot_be_written_the_queue_is_bounded_and_then_all_is_written_in_order() {
    let folder = Folder::new();
    let mut plan = sqlite_plan(folder.path());
    plan.queue.ops_max = 100;
    let bench = Bench::start(&plan).unwrap();
    bench.put(vec![set(session("ana"))]);
    let other = Connection::open(folder.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut taken = Vec::new();
    for ticket in 100..300 {
        let op = say("ana", ticket, Role::User, "x");
        match bench.store.write(1, ticket, vec![op]) {
            Ok(()) => taken.push((1, ticket)),
            Err(Full) => assert_eq!(taken.len(), 100),
        }
    }
    assert_eq!(taken.len(), 100);
    until("degraded", || matches!(bench.store.health(), Health::Degraded { .. }));
    // Reading goes on.
    assert_eq!(bench.load(&key("ana")).unwrap().history.len(), 0);
    let counters = bench.store.counters();
    assert_eq!((counters.refused, counters.waiting_ops), (100, 100));
    assert!(bench.confirmed.try_recv().is_err());
    other.execute_batch("COMMIT").unwrap();
    let confirmed: Vec<_> = taken.iter().map(|_| bench.confirmed.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(confirmed, taken);
    until("healed", || bench.store.health() == Health::Ok);
    assert_eq!(bench.load(&key("ana")).unwrap().history.len(), 100);
    // What was refused comes again, from the journal.
    bench.put(vec![say("ana", 250, Role::User, "x")]);
    bench.close();
}

#[test]
fn a_full_disk_is_said_and_archiving_makes_room() {
    let folder = Folder::new();
    let mut place = sqlite_place(folder.path().join("store.db"));
    place.bytes_max = 400_000;
    let bench = Bench::start(&plan(Kind::Sqlite(place), folder.path())).unwrap();
    let (mut number, mut confirmed) = (0_u64, 0);
    while bench.store.health() == Health::Ok {
        number += 1;
        let party = format!("p{number}");
        let row = SessionRow { active_millis: number, ..session(&party) };
        bench.store.write(1, number, vec![say(&party, 1, Role::User, &"x".repeat(3_000)), set(row)]).unwrap();
        until("confirmed or said", || {
            confirmed += bench.confirmed.try_iter().count();
            confirmed == usize::try_from(number).unwrap() || bench.store.health() != Health::Ok
        });
        assert!(number < 1_000, "it never was full");
    }
    let Health::Degraded { why, .. } = bench.store.health() else { panic!("it healed by itself") };
    assert!(why.contains("no room") && why.contains("store.bytesMax"), "{why}");
    while confirmed < usize::try_from(number).unwrap() {
        let expired = bench.ask(Query::Expire { before_millis: u64::MAX >> 1, sessions_max: 50 });
        assert!(matches!(expired, Answer::Expired { .. }));
        confirmed += bench.confirmed.try_iter().count();
    }
    until("healed", || bench.store.health() == Health::Ok);
    // All are here or in the archive.
    let archive = folder.path().join("archive").join(archive::SESSIONS);
    let archived = std::fs::read_to_string(archive).unwrap();
    for number in 1..=number {
        let party = format!("p{number}");
        let is_archived = archived.contains(&format!("\"party\":\"{party}\""));
        assert!(is_archived || bench.load(&key(&party)).is_some(), "{party} is lost");
    }
    bench.close();
}

#[test]
fn bytes_are_bounded_as_well_and_what_is_larger_alone_is_taken_alone() {
    let folder = Folder::new();
    let mut plan = sqlite_plan(folder.path());
    plan.queue.bytes_max = 10_000;
    let bench = Bench::start(&plan).unwrap();
    let other = Connection::open(folder.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let large = || vec![say("ana", 1, Role::User, &"x".repeat(50_000))];
    bench.store.write(1, 1, large()).unwrap();
    assert_eq!(bench.store.write(1, 2, large()), Err(Full));
    assert_eq!(bench.store.write(1, 3, vec![set(session("ana"))]), Err(Full));
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(bench.confirmed.recv_timeout(PATIENCE).unwrap(), (1, 1));
    until("empty", || bench.store.counters().waiting_bytes == 0);
    bench.put(vec![set(session("ana"))]);
    let store = bench.store.clone();
    bench.close();
    assert_eq!(store.write(1, 4, vec![set(session("ana"))]), Err(Full), "it is closed");
    assert_eq!(store.read(Query::Cursors, PATIENCE, |_| {}), Err(Full));
}

#[test]
fn a_full_memory_forgets_the_idle_first_and_refuses_what_may_not_be_lost() {
    let folder = Folder::new();
    let place = memory::Place { bytes_max: 100_000, keep: KEEP };
    let bench = Bench::start(&plan(Kind::Memory(place), folder.path())).unwrap();
    for number in 1..=100 {
        let party = format!("p{number}");
        let row = SessionRow { active_millis: number, ..session(&party) };
        bench.put(vec![say(&party, 1, Role::User, &"x".repeat(5_000)), set(row)]);
    }
    assert_eq!((bench.load(&key("p1")), bench.load(&key("p100")).is_some()), (None, true));
    let heavy = |uid| Op::Dead(Box::new(DeadLetter { text: "x".repeat(40_000), ..letter(uid) }));
    bench.put(vec![heavy(1)]);
    bench.put(vec![heavy(2)]);
    bench.store.write(1, 500, vec![heavy(3)]).unwrap();
    until("degraded", || matches!(bench.store.health(), Health::Degraded { .. }));
    assert!(bench.load(&key("p100")).is_none(), "it left before a dead letter does");
    let Answer::DeadLetters { rows, .. } =
        bench.ask(Query::DeadLetters { filter: LetterFilter::default(), after: None, limit: 10 })
    else {
        panic!("another answer");
    };
    assert_eq!(rows.len(), 2);
}
