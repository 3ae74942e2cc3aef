//! A data directory that takes no files, is missing, or cannot be made: said in words, and what was acknowledged is answered
//! once it is right again.
use super::durable::{Data, start, update};
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, merge, new_folder};
use crate::peers::telegram::{SECRET, Telegram, Verdict, private};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Telegram, which takes nothing while `is_shut`.
fn telegram(is_shut: &Arc<AtomicBool>) -> Telegram {
    let shut = is_shut.clone();
    Telegram::start_with(
        move |_, _| if shut.load(Ordering::SeqCst) { Verdict::Broken } else { Verdict::Sent },
    )
}

fn config(telegram: &Telegram) -> Value {
    json!({
        "agents": { "main": { "models": ["echo"] } },
        "channels": { "telegram": telegram.config(json!({})) },
        "limits": { "deliveryAttemptsMax": 100, "backoffMaxMillis": 1_000 },
    })
}

/// A start with this data directory is refused: what it says.
#[track_caller]
fn refused(config: &Value, folder: &Path) -> String {
    let mut config = config.clone();
    merge(&mut config, json!({ "data": { "folder": folder }, "server": { "listen": ["127.0.0.1:0"] } }));
    let (code, said) = Gateway::start_refused(&config, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(folder.to_str().unwrap()), "it names the folder: {said}");
    said
}

#[track_caller]
fn all_are_answered(telegram: &Telegram, count: usize) {
    let mut chats: Vec<i64> = telegram.await_posts(count).iter().map(|post| post.chat).collect();
    chats.sort_unstable();
    assert_eq!(chats, (1..=i64::try_from(count).unwrap()).collect::<Vec<_>>());
}

/// A gateway that ended while it owed answers, and whose data directory lies elsewhere.
struct Owing {
    is_shut: Arc<AtomicBool>,
    telegram: Telegram,
    /// Where it was.
    data: Data,
    config: Value,
    /// Where it is.
    away: PathBuf,
}

impl Owing {
    fn three_answers() -> Self {
        let is_shut = Arc::new(AtomicBool::new(true));
        let (telegram, data) = (telegram(&is_shut), Data(new_folder()));
        let config = config(&telegram);
        let gateway = start(&data, config.clone());
        (1..=3).for_each(|number| update(&gateway, number, "canary"));
        drop(gateway);
        let away = data.0.with_extension("away");
        std::fs::rename(&data.0, &away).unwrap();
        Self { is_shut, telegram, data, config, away }
    }
}

/// Where the directory was there are no files to be made, not even by root: a part of the kernel's own tree.
#[test]
fn one_that_takes_no_files_is_said_and_costs_nothing() {
    let Owing { is_shut, telegram, data, config, away } = Owing::three_answers();
    std::os::unix::fs::symlink("/sys/kernel", &data.0).unwrap();
    let said = refused(&config, &data.0);
    assert!(said.contains("takes no files") && said.contains("may we write there?"), "{said}");
    std::fs::remove_file(&data.0).unwrap();
    std::fs::rename(&away, &data.0).unwrap();
    is_shut.store(false, Ordering::SeqCst);
    let _gateway = start(&data, config);
    all_are_answered(&telegram, 3);
}

/// A disk that is not mounted: the gateway begins anew in an empty directory, and says so; with the disk back it goes on.
#[test]
fn a_missing_one_is_made_and_that_is_said() {
    let Owing { is_shut, telegram, data, config, away } = Owing::three_answers();
    is_shut.store(false, Ordering::SeqCst);
    let gateway = start(&data, config.clone());
    gateway.await_line("the data directory was not there, and is made");
    assert_eq!(telegram.posts().len(), 0, "it knows nothing of them");
    drop(gateway);
    std::fs::remove_dir_all(&data.0).unwrap();
    std::fs::rename(&away, &data.0).unwrap();
    let _gateway = start(&data, config.clone());
    all_are_answered(&telegram, 3);
    let said = refused(&config, Path::new("/proc/clawgate/data"));
    assert!(said.contains("cannot be used"), "{said}");
}

/// The directory goes while the gateway works: what it cannot write any more it does not acknowledge, and with the directory
/// back it heals by itself. What it did acknowledge is answered, also by the next process.
#[test]
fn one_that_goes_away_meanwhile_is_noticed_and_comes_back() {
    let is_shut = Arc::new(AtomicBool::new(true));
    let (telegram, data) = (telegram(&is_shut), Data(new_folder()));
    let mut config = config(&telegram);
    let folder: &Path = &data.0;
    // Small files: the next ones are needed soon.
    let small = json!({
        "data": { "folder": folder }, "server": { "shards": 1 }, "journal": { "segmentBytes": 131_072 },
    });
    merge(&mut config, small);
    let gateway = Gateway::start(config.clone());
    let text = format!("canary {}", "x".repeat(4_000));
    let begin = |number: u64| {
        let headers = [("x-telegram-bot-api-secret-token", SECRET)];
        let body = private(number, i64::try_from(number).unwrap(), &text).to_string();
        let mut client = gateway.connect();
        client.request("POST", "/webhooks/telegram", &headers, body.as_bytes());
        client
    };
    assert_eq!(begin(1).answer().status, 200);
    let away = data.0.with_extension("away");
    std::fs::rename(&data.0, &away).unwrap();
    // Some are taken, and others wait until they can be written.
    let mut pending = Vec::new();
    ask_until("it notices", || {
        pending.push(begin(2 + pending.len() as u64));
        (gateway.get("/health/detailed").json()["status"] == "degraded").then_some(())
    });
    assert_eq!(begin(1_000).answer().status, 503);
    assert!(gateway.get("/health/detailed").text().contains("journal"));
    std::fs::rename(&away, &data.0).unwrap();
    let taken =
        (2..).zip(&mut pending).filter_map(|(n, client)| (client.answer().status == 200).then_some(n));
    let mut acknowledged: Vec<i64> = std::iter::once(1).chain(taken).collect();
    ask_until("it heals", || (begin(1_001).answer().status == 200).then_some(()));
    acknowledged.push(1_001);
    drop(gateway);
    is_shut.store(false, Ordering::SeqCst);
    let _gateway = start(&data, config);
    let mut chats: Vec<i64> = telegram.await_posts(acknowledged.len()).iter().map(|post| post.chat).collect();
    chats.sort_unstable();
    assert_eq!(chats, acknowledged);
}
