//! What comes again is known for it, beyond what memory holds and over a restart; where the store cannot say, a message is
//! refused in words; names are given once, whatever became of journal and clock (rows G2, G3).
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, merge, new_folder};
use crate::peers::http::Answer;
use crate::peers::telegram::{SECRET, Telegram, Verdict, private};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A data directory, removed when whoever uses it is gone.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Data {
    fn new() -> Self {
        Self(new_folder())
    }

    /// The store's file, while no gateway has it or beside one.
    fn store(&self) -> Connection {
        let store = Connection::open(self.0.join("store.db")).unwrap();
        store.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        store
    }
}

fn config(telegram: &Telegram, data: &Data, more: Value) -> Value {
    let folder: &Path = &data.0;
    let mut config = json!({
        "data": { "folder": folder }, "agents": { "main": { "models": ["echo"] } },
        "channels": { "telegram": telegram.config(json!({})) },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 10 },
    });
    merge(&mut config, more);
    config
}

fn update(gateway: &Gateway, number: u64) -> Answer {
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let body = private(number, i64::try_from(number).unwrap(), "canary").to_string();
    gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes())
}

fn updates(gateway: &Gateway, numbers: std::ops::RangeInclusive<u64>) {
    numbers.for_each(|number| assert_eq!(update(gateway, number).status, 200, "{number}"));
}

/// As [`config`], with a key that may see letters.
fn with_admin(telegram: &Telegram, data: &Data, more: Value) -> Value {
    let mut config = config(telegram, data, more);
    config["keys"] = json!([{ "id": "root", "key": "canary-key-of-an-admin", "scopes": ["admin"] }]);
    config
}

fn admin(gateway: &Gateway, method: &str, target: &str, body: &str) -> Answer {
    let headers = [("authorization", "Bearer canary-key-of-an-admin"), ("content-type", "application/json")];
    gateway.call(method, target, &headers, body.as_bytes())
}

fn letters(gateway: &Gateway) -> Vec<Value> {
    let mut data = admin(gateway, "GET", "/api/dlq", "").json()["data"].take();
    data["letters"].as_array_mut().unwrap().drain(..).collect()
}

fn replay(gateway: &Gateway, letter: &Value) -> Answer {
    let target = format!("/api/dlq/{}", letter["id"].as_str().unwrap());
    admin(gateway, "POST", &target, &json!({ "action": "replay" }).to_string())
}

/// Two shards with room for two ids each, and more ids than their filters take.
#[test]
fn a_repetition_is_known_that_memory_has_no_room_for() {
    let (telegram, data) = (Telegram::start(), Data::new());
    let config = config(
        &telegram,
        &data,
        json!({ "store": { "batchMillis": 0 }, "limits": { "dedupIdsMax": 4, "dedupFilterBytesMax": 16_384 } }),
    );
    let gateway = Gateway::start(config.clone());
    updates(&gateway, 1..=40);
    telegram.await_posts(40);
    // What the store has not confirmed stays in memory.
    ask_until("ids leave memory", || {
        update(&gateway, 1);
        (30 <= gateway.metric("clawgate_dedup_evicted_total", "")).then_some(())
    });
    updates(&gateway, 1..=40);
    assert!(gateway.metric("clawgate_dedup_lookups_total", "seen") != 0);
    assert_eq!(gateway.metric("clawgate_dedup_lookups_total", "failed"), 0);
    updates(&gateway, 41..=41);
    assert_eq!(telegram.await_posts(41).len(), 41, "and what is new is new");
    gateway.await_metric("clawgate_turns_total", "answered", 41);
    drop(gateway);

    let gateway = Gateway::start(config);
    updates(&gateway, 1..=41);
    updates(&gateway, 42..=42);
    assert_eq!(telegram.await_posts(42).len(), 42, "nobody was answered twice");
    ask_until("all was told", || {
        update(&gateway, 7);
        (30 <= gateway.metric("clawgate_dedup_filtered", "")).then_some(())
    });
    let asked = gateway.metric("clawgate_dedup_lookups_total", "asked");
    updates(&gateway, 1_000..=1_040);
    let new = gateway.metric("clawgate_dedup_lookups_total", "asked") - asked;
    assert!(new <= 20, "{new} of 41 new messages are taken for old ones");
    assert_eq!(telegram.await_posts(83).len(), 83);
}

/// As long as memory holds all ids of their time, the store is asked about none.
#[test]
fn nothing_is_asked_while_there_is_room() {
    let (telegram, data) = (Telegram::start(), Data::new());
    let config = config(&telegram, &data, json!({}));
    for round in 0..2 {
        let gateway = Gateway::start(config.clone());
        updates(&gateway, 1..=20);
        assert_eq!(telegram.await_posts(20).len(), 20);
        assert_eq!(gateway.metric("clawgate_dedup_lookups_total", "asked"), 0, "start {round}");
        assert_eq!(gateway.metric("clawgate_dedup_evicted_total", ""), 0);
    }
}

/// A store that answers garbage from the first word on: whose ids it knows nobody can say.
#[test]
fn where_the_store_cannot_say_a_message_is_refused_in_words() {
    let garbage = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://canary-user:canary-password@{}/0", garbage.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in garbage.incoming() {
            let Ok(mut socket) = socket else { return };
            std::thread::spawn(move || {
                let mut asked = [0; 4_096];
                while matches!(socket.read(&mut asked), Ok(count) if 0 < count) {
                    if socket.write_all(b"*1\r\n:what\xff is this\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    let (telegram, data) = (Telegram::start(), Data::new());
    let store = json!({ "kind": "redis", "url": url, "loadSeconds": 0.3, "attemptSeconds": 0.3 });
    let gateway = Gateway::start(config(&telegram, &data, json!({ "store": store })));
    gateway.await_line("the store does not say which messages were seen");
    let answer = update(&gateway, 1);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    let mut socket = gateway.socket();
    socket.say(
        json!({ "type": "message", "content": "canary", "sessionId": "s", "id": "m-1", "receipt": true }),
    );
    let refused = socket.next();
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("STORE_UNAVAILABLE")));
    assert!(refused["message"].as_str().unwrap().contains("seen before"), "{refused}");
    assert_eq!(gateway.metric("clawgate_dedup_lookups_total", "failed"), 2);
    assert_eq!(gateway.get("/health/detailed").json()["status"], "degraded");
    assert_eq!(telegram.posts().len(), 0);
}

/// The journal is removed by hand, and the clock was ahead before: what is named anew has a later name.
#[test]
fn no_name_is_given_twice() {
    let telegram = Telegram::start_with(|_, _| Verdict::Failed(403, "Forbidden: bot was blocked"));
    let data = Data::new();
    let config = with_admin(&telegram, &data, json!({}));
    let gateway = Gateway::start(config.clone());
    updates(&gateway, 1..=3);
    ask_until("three letters", || (letters(&gateway).len() == 3).then_some(()));
    let id = |letter: &Value| letter["id"].as_str().unwrap().parse::<i64>().unwrap();
    let last = letters(&gateway).iter().map(id).max().unwrap();
    drop(gateway);
    std::fs::remove_dir_all(data.0.join("journal")).unwrap();
    let latest: i64 = data.store().query_row("SELECT uid FROM latest", [], |row| row.get(0)).unwrap();
    assert!(last <= latest, "{latest} is before {last}");
    // A year on, in microseconds and with a shard's ten bits.
    let ahead = latest + ((365 * 86_400_000_000) << 10);
    data.store().execute("UPDATE latest SET uid = ?", [ahead]).unwrap();
    let gateway = Gateway::start(config.clone());
    updates(&gateway, 1..=4);
    ask_until("a fourth", || (letters(&gateway).len() == 4).then_some(()));
    let newest = letters(&gateway).iter().map(id).max().unwrap();
    assert!(ahead < newest, "{newest} may have been given before {ahead}");
    drop(gateway);
    // And the other way round: the journal knows more than the store.
    data.store().execute("UPDATE latest SET uid = 0", []).unwrap();
    let gateway = Gateway::start(config);
    updates(&gateway, 5..=5);
    ask_until("a fifth", || (letters(&gateway).len() == 5).then_some(()));
    assert!(newest < letters(&gateway).iter().map(id).max().unwrap());
}

/// The system's clock was two days ahead in the last run: what was seen then is known, and known for as long.
#[test]
fn a_clock_that_is_set_back_over_a_restart_forgets_nothing() {
    let (telegram, data) = (Telegram::start(), Data::new());
    let config =
        config(&telegram, &data, json!({ "limits": { "dedupIdsMax": 2, "dedupFilterBytesMax": 0 } }));
    let mut gateway = Gateway::start(config.clone());
    updates(&gateway, 1..=9);
    telegram.await_posts(9);
    gateway.terminate();
    assert!(gateway.ended().success());
    drop(gateway);
    let store = data.store();
    let days: Vec<u64> = store
        .prepare("SELECT substr(name, 6) FROM sqlite_master WHERE name GLOB 'seen_*' AND type = 'table'")
        .unwrap()
        .query_map([], |row| Ok(row.get::<_, String>(0)?.parse().unwrap()))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for day in days.iter().rev() {
        store.execute_batch(&format!("ALTER TABLE seen_{day} RENAME TO seen_{}", day + 2)).unwrap();
    }
    drop(store);
    let gateway = Gateway::start(config);
    updates(&gateway, 1..=9);
    updates(&gateway, 10..=10);
    assert_eq!(telegram.await_posts(10).len(), 10);
}

/// Until the store has what the last run left for it, nobody can say which letters are still some.
#[test]
fn a_letter_is_tried_again_only_once_the_store_knows_what_became_of_it() {
    let is_blocked = Arc::new(AtomicBool::new(true));
    let blocked = is_blocked.clone();
    let telegram = Telegram::start_with(move |_, _| {
        let blocked = blocked.load(Ordering::SeqCst);
        if blocked { Verdict::Failed(403, "Forbidden: bot was blocked") } else { Verdict::Sent }
    });
    let data = Data::new();
    let gateway = Gateway::start(with_admin(&telegram, &data, json!({})));
    updates(&gateway, 1..=2);
    ask_until("two letters", || (letters(&gateway).len() == 2).then_some(()));
    drop(gateway);
    is_blocked.store(false, Ordering::SeqCst);
    // What the journal still has is to be told again, and the file has no room for it.
    let store = data.store();
    let day: String = store
        .query_row("SELECT max(name) FROM sqlite_master WHERE name GLOB 'seen_*'", [], |row| row.get(0))
        .unwrap();
    store.execute_batch(&format!("DROP TABLE {day}")).unwrap();
    let text = "x".repeat(2 << 20);
    store.execute("INSERT INTO dead (uid, body) VALUES (1, ?)", [&text]).unwrap();
    store.execute("VACUUM", []).unwrap();
    let gateway = Gateway::start(with_admin(&telegram, &data, json!({ "store": { "bytesMax": 1 << 20 } })));
    gateway.await_line("there is no room for the store");
    let found = letters(&gateway);
    assert_eq!(found.len(), 2, "{found:?}");
    let answer = replay(&gateway, &found[0]);
    assert_eq!(answer.refusal(), (503, "STORE_UNAVAILABLE".to_owned()));
    assert!(answer.text().contains("before the last stop"), "{answer:?}");
    store.execute("DELETE FROM dead WHERE uid = 1", []).unwrap();
    gateway.await_line("the store works again");
    ask_until("it is tried again", || (replay(&gateway, &found[0]).status == 200).then_some(()));
    assert_eq!(telegram.await_posts(1)[0].chat.to_string(), found[0]["chat"].as_str().unwrap());
}

/// The channel of a letter is gone from the configuration: that is said, and the letter stays.
#[test]
fn a_letter_whose_channel_is_gone_says_so() {
    let telegram = Telegram::start_with(|_, _| Verdict::Failed(403, "Forbidden: bot was blocked"));
    let data = Data::new();
    let whole = with_admin(&telegram, &data, json!({}));
    let gateway = Gateway::start(whole.clone());
    updates(&gateway, 1..=1);
    ask_until("a letter", || (letters(&gateway).len() == 1).then_some(()));
    drop(gateway);
    let mut without = whole;
    without["channels"] = json!({});
    let gateway = Gateway::start(without);
    let found = letters(&gateway);
    let answer = replay(&gateway, &found[0]);
    assert_eq!(answer.refusal(), (404, "NOT_FOUND".to_owned()));
    assert!(answer.text().contains("the channel `telegram` of this dead letter"), "{answer:?}");
    assert_eq!(letters(&gateway), found, "it stays");
}

/// A database that is damaged, another program's or a newer gateway's: the start is refused in words, the file stays as it
/// is, and with the right one in its place what was acknowledged is answered.
#[test]
fn a_store_that_is_not_ours_refuses_the_start_and_costs_nothing() {
    let is_blocked = Arc::new(AtomicBool::new(true));
    let blocked = is_blocked.clone();
    let telegram = Telegram::start_with(move |_, _| {
        if blocked.load(Ordering::SeqCst) { Verdict::Flooded(1) } else { Verdict::Sent }
    });
    let data = Data::new();
    let limits = json!({ "limits": { "backoffMaxMillis": 1_000 } });
    let config = config(&telegram, &data, limits);
    let gateway = Gateway::start(config.clone());
    updates(&gateway, 1..=3);
    drop(gateway);
    is_blocked.store(false, Ordering::SeqCst);
    // One file with all that is in it.
    data.store().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let file = data.0.join("store.db");
    let good = std::fs::read(&file).unwrap();
    let changed = |change: &dyn Fn(&Connection)| {
        let other = data.0.join("other.db");
        std::fs::write(&other, &good).unwrap();
        let connection = Connection::open(&other).unwrap();
        change(&connection);
        drop(connection);
        let bytes = std::fs::read(&other).unwrap();
        std::fs::remove_file(&other).unwrap();
        bytes
    };
    let pragma = |text: &'static str| {
        move |store: &Connection| {
            store.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).unwrap();
            store.execute_batch(text).unwrap();
        }
    };
    let mut headless = good.clone();
    headless[..4_096].fill(0x5a);
    let cases: [(Vec<u8>, &str); 5] = [
        (b"Dear diary, this is no database at all. ".repeat(100), "is no SQLite database"),
        (headless, "is no SQLite database"),
        (changed(&pragma("PRAGMA user_version = 99")), "newer gateway"),
        (changed(&pragma("PRAGMA application_id = 77")), "another program"),
        (good[..good.len() / 2 / 8_192 * 8_192].to_vec(), "damaged"),
    ];
    for (bytes, words) in cases {
        for extra in ["store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(data.0.join(extra));
        }
        std::fs::write(&file, &bytes).unwrap();
        let mut whole = config.clone();
        merge(&mut whole, json!({ "server": { "listen": ["127.0.0.1:0"], "shards": 2 } }));
        let (code, said) = Gateway::start_refused(&whole, &[]);
        assert_eq!(code, 3, "{words}: {said}");
        assert!(said.contains(words) && said.contains("store.db"), "{words}: {said}");
        assert!(std::fs::read(&file).unwrap() == bytes, "{words}: the file stays as it is");
    }
    std::fs::write(&file, &good).unwrap();
    let _gateway = Gateway::start(config);
    let mut chats: Vec<i64> = telegram.await_posts(3).iter().map(|post| post.chat).collect();
    chats.sort_unstable();
    assert_eq!(chats, [1, 2, 3]);
}
