//! The journal in the real process: what is acknowledged is in its files, whatever ends the process; files that are
//! damaged, foreign or of a later version; a disk that takes no more.
//!
//! Which records are written, and what becomes of them after a restart, is tested elsewhere.
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::telegram::{SECRET, Telegram, private};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A data directory, removed when whoever uses it is gone.
#[derive(Debug)]
struct Data(PathBuf);

impl Data {
    fn new() -> Self {
        Self(new_folder())
    }
}

impl std::ops::Deref for Data {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(telegram: &Telegram, data: &Path, more: Value) -> Value {
    let mut config = json!({
        "channels": { "telegram": telegram.config(json!({})) },
        "data": { "folder": data },
        "journal": { "segmentBytes": 131_072, "diskBytesMax": 16_777_216 },
    });
    crate::peers::gateway::merge(&mut config, more);
    config
}

fn start(telegram: &Telegram, data: &Path, more: Value, arguments: &[&str]) -> Gateway {
    Gateway::start_in(new_folder(), config(telegram, data, more), arguments)
}

fn update(gateway: &Gateway, update: u64, text: &str) -> u16 {
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let user = 100 + i64::try_from(update).unwrap();
    gateway
        .call("POST", "/webhooks/telegram", &headers, private(update, user, text).to_string().as_bytes())
        .status
}

fn journal(gateway: &Gateway) -> Value {
    gateway.get("/health/detailed").json()["journal"].take()
}

/// The files of the journal that hold records.
fn files(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| std::fs::read(path).unwrap().starts_with(b"CLAWJRNL")).collect();
    files.sort();
    files
}

/// A gateway acknowledges some messages and is killed; its files are left.
fn killed(telegram: &Telegram, messages: u64, arguments: &[&str]) -> Data {
    let data = Data::new();
    let gateway = start(telegram, &data, json!({}), arguments);
    for at in 0..messages {
        assert_eq!(update(&gateway, at, &format!("message {at}")), 200);
    }
    telegram.await_posts(usize::try_from(messages).unwrap());
    drop(gateway);
    data
}

fn survives(arguments: &[&str]) {
    let telegram = Telegram::start();
    let data = killed(&telegram, 12, arguments);
    let gateway = start(&telegram, &data, json!({}), arguments);
    let journal = journal(&gateway);
    let records = journal["past"]["records"].as_u64().unwrap();
    assert!(12 <= records, "each message was written down before it was acknowledged: {journal}");
    assert_eq!((&journal["past"]["recordsLost"], &journal["lineage"]), (&json!(0), &json!(2)), "{journal}");
    assert_eq!(update(&gateway, 99, "one more"), 200);
    assert!(1 <= gateway.metric("clawgate_journal_records_total", ""));
    assert!(1 <= gateway.metric("clawgate_journal_syncs_total", ""));
    assert!(1 <= gateway.metric("clawgate_journal_sync_seconds_count", ""));
}

#[test]
fn what_is_acknowledged_survives_a_kill() {
    survives(&[]);
}

#[test]
fn and_so_it_does_where_files_have_a_thread_of_their_own() {
    survives(&["--driver", "epoll"]);
}

#[test]
fn an_orderly_end_leaves_all_in_order() {
    let telegram = Telegram::start();
    let data = Data::new();
    let mut gateway = start(&telegram, &data, json!({ "journal": { "mode": "interval" } }), &[]);
    (0..4).for_each(|at| assert_eq!(update(&gateway, at, "before the end"), 200));
    telegram.await_posts(4);
    gateway.terminate();
    assert!(gateway.ended().success());
    let again = start(&telegram, &data, json!({ "journal": { "mode": "os" } }), &[]);
    let journal = journal(&again);
    assert!(4 <= journal["past"]["records"].as_u64().unwrap(), "{journal}");
    assert_eq!(update(&again, 50, "in the mode os"), 200);
}

/// Files of earlier starts go once nothing in them is needed, and not before.
#[test]
fn files_of_earlier_starts_go() {
    let telegram = Telegram::start();
    let data = Data::new();
    let of_lineage = |lineage: &str| {
        let entries = std::fs::read_dir(data.join("journal")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(lineage))
            .count()
    };
    let first = start(&telegram, &data, json!({}), &[]);
    ask_until("both shards have a file", || (of_lineage("0000000001-") == 2).then_some(()));
    drop(first);
    let second = start(&telegram, &data, json!({}), &[]);
    second.await_line("what earlier starts left was taken over, and their files are gone");
    assert_eq!(of_lineage("0000000001-"), 0);
    assert_eq!(journal(&second)["past"]["filesLeft"], 0);
}

/// The secret stays, so that sessions are found again; it is its owner's alone.
#[test]
fn the_secret_is_made_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let telegram = Telegram::start();
    let data = killed(&telegram, 1, &[]);
    let secret = std::fs::read(data.join("secret")).unwrap();
    assert_eq!(secret.len(), 32);
    let mode = std::fs::metadata(data.join("secret")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(start(&telegram, &data, json!({}), &[]));
    assert_eq!(std::fs::read(data.join("secret")).unwrap(), secret);
    std::fs::write(data.join("secret"), "short").unwrap();
    let (code, said) = Gateway::start_refused(&config(&telegram, &data, json!({})), &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("has 5 bytes") && said.contains("backup"), "{said}");
}

#[test]
fn a_damaged_record_is_told_and_skipped() {
    let telegram = Telegram::start();
    let data = killed(&telegram, 8, &[]);
    let file = files(&data).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4_096 + 30] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let gateway = start(&telegram, &data, json!({}), &[]);
    let line = gateway.await_line("records are damaged");
    assert!(line.contains("offset=4096") && line.contains("first_lsn=1"), "{line}");
    let journal = journal(&gateway);
    assert_eq!(journal["past"]["recordsLost"], 1, "{journal}");
    assert!(1 <= journal["past"]["records"].as_u64().unwrap(), "what stands behind it is read: {journal}");
}

#[test]
fn a_torn_tail_is_ordinary() {
    let telegram = Telegram::start();
    let data = killed(&telegram, 8, &[]);
    let mut whole = 0;
    for file in files(&data) {
        let bytes = std::fs::read(&file).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(end as u64 - 3).unwrap();
        whole += 1;
    }
    assert!(1 <= whole);
    let gateway = start(&telegram, &data, json!({}), &[]);
    gateway.await_line("what was being written when we stopped is not whole");
    let journal = journal(&gateway);
    assert_eq!(journal["past"]["recordsLost"], 0, "{journal}");
    assert_eq!(gateway.get("/health/detailed").json()["status"], "ok");
}

#[test]
fn foreign_and_later_files_are_told_apart() {
    let telegram = Telegram::start();
    let data = killed(&telegram, 2, &[]);
    let folder = data.join("journal");
    std::fs::write(folder.join("0000000009-0000-0000000001.log"), "what is this").unwrap();
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    let file = files(&data).pop().unwrap();
    // The file itself goes when all in it is settled.
    let mut bytes = std::fs::read(&file).unwrap();
    std::fs::copy(&file, folder.join("0000000007-0001-0000000001.log")).unwrap();
    let gateway = start(&telegram, &data, json!({}), &[]);
    assert!(gateway.await_line("is none of its: it is left alone").contains("0000000009-"));
    assert!(gateway.await_line("was renamed, or copied here").contains("0000000007-"));
    assert!(gateway.await_line("this file is not the journal's").contains("notes.txt"));
    let journal = journal(&gateway);
    assert_eq!(
        (&journal["past"]["filesUnreadable"], &journal["lineage"]),
        (&json!(2), &json!(10)),
        "{journal}"
    );
    drop(gateway);
    assert!(folder.join("0000000009-0000-0000000001.log").exists() && folder.join("notes.txt").exists());

    (bytes[8], bytes[2_048 + 8]) = (2, 2);
    std::fs::write(&file, bytes).unwrap();
    let (code, said) = Gateway::start_refused(&config(&telegram, &data, json!({})), &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("has the format 2, of a later Clawgate; this one reads 1"), "{said}");
}

/// A disk that takes no more: what waits is not acknowledged and not lost, what comes is refused, and it heals.
#[test]
fn a_full_disk_refuses_and_heals() {
    let telegram = Telegram::start();
    let data = Data::new();
    let gateway = start(&telegram, &data, json!({}), &[]);
    assert_eq!(update(&gateway, 1, "while there is room"), 200);
    telegram.await_posts(1);
    let limit = |bytes: Option<u64>| {
        let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    limit(Some(4_096));
    std::thread::scope(|scope| {
        let waits: Vec<_> = (2..10)
            .map(|at| {
                scope.spawn({
                    let gateway = &gateway;
                    move || update(gateway, at, "when there is none")
                })
            })
            .collect();
        ask_until("both shards' journals are full", || {
            (gateway.metric("clawgate_journal_state", "") == 2).then_some(())
        });
        assert_eq!(update(&gateway, 10, "refused"), 503);
        let health = gateway.get("/health/detailed").json();
        assert_eq!((&health["status"], &health["journal"]["status"]), (&json!("degraded"), &json!("full")));
        gateway.await_line("the disk of the journal is full");
        let answer =
            gateway.post("/api/chat", &json!({ "message": "who waits for his answer needs no journal" }));
        assert_eq!(answer.status, 200);
        limit(None);
        assert!(waits.into_iter().all(|waits| waits.join().unwrap() == 200), "what waited is acknowledged");
    });
    gateway.await_line("the journal takes records again");
    ask_until("all is well", || (gateway.get("/health/detailed").json()["status"] == "ok").then_some(()));
    assert_eq!(update(&gateway, 11, "and there is room again"), 200);
    assert_eq!(telegram.await_posts(10).len(), 10, "once each");
}

/// What is no folder, or cannot be one, is refused before anything is opened.
#[test]
fn a_data_directory_that_takes_no_files_is_refused() {
    let telegram = Telegram::start();
    let data = Data::new();
    std::fs::write(data.join("journal"), "a file in its place").unwrap();
    let (code, said) = Gateway::start_refused(&config(&telegram, &data, json!({})), &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("journal cannot be made"), "{said}");
    let (code, said) = Gateway::start_refused(&config(&telegram, Path::new("/proc/none"), json!({})), &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("/proc/none"), "{said}");
}
