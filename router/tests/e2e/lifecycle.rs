//! Sessions over their whole life: in memory, in the store, in the archive; listed, shown and operated wherever they are,
//! and what was forgotten stays forgotten (rows D4, A6).
use super::durable::{Data, admin, start, update};
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::model::Model;
use crate::peers::telegram::Telegram;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn echo() -> Value {
    json!({
        "models": { "echo": { "provider": "echo" } }, "agents": { "main": { "models": ["echo"] } },
    })
}

fn say(gateway: &Gateway, session: &str, text: &str) {
    let body = json!({ "message": text, "sessionId": session });
    let answer = admin(gateway, "POST", "/api/chat", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn page(gateway: &Gateway, query: &str) -> Value {
    let answer = admin(gateway, "GET", &format!("/api/sessions{query}"), &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["data"].take()
}

/// All sessions with their state of life, in pages of this size; none comes twice.
fn lives(gateway: &Gateway, limit: usize, state: &str) -> BTreeMap<String, String> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let data = page(gateway, &format!("?limit={limit}{state}{cursor}"));
        assert_eq!(data["partial"], Value::Null, "{data}");
        let rows = data["sessions"].as_array().unwrap();
        assert!(rows.len() <= limit);
        for row in rows {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            assert_eq!(all.insert(text("id"), text("lifecycle")), None, "{} comes twice", row["id"]);
        }
        match data["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

fn expected(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(id, life)| ((*id).to_owned(), (*life).to_owned())).collect()
}

fn show(gateway: &Gateway, id: &str) -> Value {
    admin(gateway, "GET", &format!("/api/sessions/{id}"), &Value::Null).json()
}

fn operate(gateway: &Gateway, id: &str, body: Value) -> (u16, Value) {
    let answer = admin(gateway, "POST", &format!("/api/sessions/{id}"), &body);
    (answer.status, answer.json())
}

fn restarted(mut gateway: Gateway, data: &Data, config: Value) -> Gateway {
    gateway.terminate();
    assert!(gateway.ended().success());
    drop(gateway);
    start(data, config)
}

fn settled(gateway: &Gateway) {
    ask_until("all is settled", || {
        let data = admin(gateway, "GET", "/health/detailed", &Value::Null).json();
        let busy = |shard: &Value| shard["running"] != 0 || shard["waiting"] != 0 || shard["delivering"] != 0;
        (!data["shards"].as_array().unwrap().iter().any(busy)).then_some(())
    });
}

#[test]
fn sessions_are_listed_wherever_they_are() {
    let data = Data(new_folder());
    let gateway = start(&data, echo());
    for session in ["s1", "s2", "s3", "s4"] {
        say(&gateway, session, "canary");
    }
    let all = |life: [&str; 4]| {
        let ids = ["api:root:s1", "api:root:s2", "api:root:s3", "api:root:s4"];
        expected(&ids.into_iter().zip(life).collect::<Vec<_>>())
    };
    assert_eq!(lives(&gateway, 50, ""), all(["active"; 4]));
    let gateway = restarted(gateway, &data, echo());
    assert_eq!(lives(&gateway, 50, ""), all(["dormant"; 4]));
    say(&gateway, "s2", "canary again");
    let mixed = all(["dormant", "active", "dormant", "dormant"]);
    for limit in [1, 2, 3, 4, 50] {
        assert_eq!(lives(&gateway, limit, ""), mixed, "{limit}");
    }
    say(&gateway, "s5", "canary");
    assert_eq!(lives(&gateway, 2, "").len(), 5);
    assert_eq!(lives(&gateway, 2, "&state=active").len(), 2);
    assert_eq!(lives(&gateway, 2, "&state=dormant").len(), 3);
    assert_eq!(lives(&gateway, 2, "&state=dormant&channel=telegram").len(), 0);
    assert_eq!(lives(&gateway, 2, "&channel=api").len(), 5);
    for none in ["expired", "archived", "init", "processing"] {
        assert_eq!(lives(&gateway, 2, &format!("&state={none}")).len(), 0, "{none}");
    }
    let came_back = show(&gateway, "s2")["data"].take();
    let slept = show(&gateway, "s3")["data"].take();
    assert_eq!((&came_back["messages"], &slept["messages"]), (&json!(2), &json!(1)));
    assert_eq!(came_back["history"].as_array().unwrap().len(), 4, "{came_back}");
    assert_eq!(slept["history"].as_array().unwrap().len(), 2, "{slept}");
    assert!(slept["createdAt"].as_str() <= came_back["lastActiveAt"].as_str());
    let born = came_back["createdAt"].clone();
    let gateway = restarted(gateway, &data, echo());
    assert_eq!(show(&gateway, "s2")["data"]["createdAt"], born, "however often it comes back");
}

#[test]
fn a_plain_key_sees_its_own_wherever_they_are() {
    let data = Data(new_folder());
    let keys = json!([
        { "id": "root", "key": "canary-key-of-an-admin", "scopes": ["chat", "read", "admin"] },
        { "id": "an", "key": "canary-key-of-an-an" },
        { "id": "ana", "key": "canary-key-of-an-ana" },
    ]);
    let config = || {
        let mut config = echo();
        config["keys"] = keys.clone();
        config
    };
    let gateway = start(&data, config());
    let as_key = |gateway: &Gateway, key: &str, method: &str, target: &str, body: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        gateway.call(method, target, &headers, body.as_bytes())
    };
    for key in ["canary-key-of-an-an", "canary-key-of-an-ana"] {
        let body = json!({ "message": "canary", "sessionId": "s" }).to_string();
        assert_eq!(as_key(&gateway, key, "POST", "/api/chat", &body).status, 200);
    }
    let gateway = restarted(gateway, &data, config());
    let seen = as_key(&gateway, "canary-key-of-an-an", "GET", "/api/sessions", "").json();
    let rows = seen["data"]["sessions"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["id"]), (1, &json!("api:an:s")), "{seen}");
    for (channel, count) in [("api", 1), ("telegram", 0)] {
        let target = format!("/api/sessions?channel={channel}");
        let seen = as_key(&gateway, "canary-key-of-an-an", "GET", &target, "").json();
        assert_eq!(seen["data"]["sessions"].as_array().unwrap().len(), count, "{seen}");
    }
    let other = as_key(&gateway, "canary-key-of-an-an", "GET", "/api/sessions/api:ana:s", "");
    assert_eq!(other.status, 403);
    assert_eq!(as_key(&gateway, "canary-key-of-an-an", "GET", "/api/sessions/s", "").status, 200);
}

#[test]
fn sessions_are_operated_wherever_they_are() {
    let (data, telegram) = (Data(new_folder()), Telegram::start());
    let config = || {
        let mut config = echo();
        config["channels"] = json!({ "telegram": telegram.config(json!({})) });
        config["agents"]["other"] = json!({ "models": ["echo"] });
        config["route"] = "main".into();
        config
    };
    let gateway = start(&data, config());
    for session in ["set", "reset", "close", "assign"] {
        say(&gateway, session, "canary");
    }
    update(&gateway, 7, "canary");
    telegram.await_posts(1);
    let gateway = restarted(gateway, &data, config());
    for (id, body) in [
        ("set", json!({ "action": "set", "name": "lang", "value": "pl" })),
        ("reset", json!({ "action": "reset" })),
        ("close", json!({ "action": "close" })),
        ("assign", json!({ "action": "assign", "agent": "other" })),
        ("assign", json!({ "action": "stop" })),
        ("telegram:dm:7", json!({ "action": "send", "text": "the canary calls" })),
    ] {
        let (status, said) = operate(&gateway, id, body);
        assert_eq!((status, &said["data"]), (200, &json!({ "done": true })), "{id}: {said}");
    }
    let posts = telegram.await_posts(2);
    assert_eq!((posts[1].chat, posts[1].text.as_str()), (7, "the canary calls"));
    let check = |gateway: &Gateway| {
        let set = show(gateway, "set")["data"].take();
        assert_eq!(set["context"], json!({ "lang": "pl" }), "{set}");
        assert_eq!(set["history"].as_array().unwrap().len(), 2, "{set}");
        let reset = show(gateway, "reset")["data"].take();
        assert_eq!((&reset["history"], &reset["messages"]), (&json!([]), &json!(1)), "{reset}");
        assert_eq!(show(gateway, "close")["error"]["code"], "NOT_FOUND");
        assert_eq!(show(gateway, "assign")["data"]["agent"], "other");
        let listed = lives(gateway, 50, "");
        assert!(!listed.contains_key("api:root:close") && listed.len() == 4, "{listed:?}");
    };
    check(&gateway);
    // Killed, not stopped.
    drop(gateway);
    let gateway = start(&data, config());
    check(&gateway);
    for id in ["close", "never", "telegram:dm:8"] {
        let (status, said) = operate(&gateway, id, json!({ "action": "reset" }));
        assert_eq!((status, &said["error"]["code"]), (404, &json!("NOT_FOUND")), "{id}: {said}");
    }
}

/// What platforms wrote is in the journal beside the store: neither brings back what an operator had forgotten.
#[test]
fn what_was_forgotten_does_not_come_back_after_a_kill() {
    let (data, telegram) = (Data(new_folder()), Telegram::start());
    let config = || {
        let mut config = echo();
        config["channels"] = json!({ "telegram": telegram.config(json!({})) });
        config
    };
    let gateway = start(&data, config());
    for user in 1..=4 {
        update(&gateway, user, "canary before");
    }
    telegram.await_posts(4);
    settled(&gateway);
    for (user, action) in [(1, "reset"), (2, "close"), (3, "close")] {
        let (status, said) = operate(&gateway, &format!("telegram:dm:{user}"), json!({ "action": action }));
        assert_eq!(status, 200, "{said}");
    }
    // One begins anew before the process dies, one does not.
    let again = crate::peers::telegram::private(11, 3, "canary after").to_string();
    let headers = [("x-telegram-bot-api-secret-token", crate::peers::telegram::SECRET)];
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, again.as_bytes()).status, 200);
    telegram.await_posts(5);
    settled(&gateway);
    drop(gateway);
    let gateway = start(&data, config());
    // Until the store has the rows of the run before, nobody is told what it knows.
    let shown = |user: u32| {
        ask_until("the store can say", || {
            let shown = show(&gateway, &format!("telegram:dm:{user}"));
            (shown["error"]["code"] != "STORE_UNAVAILABLE").then_some(shown)
        })
    };
    let texts = |user: u32| {
        let data = shown(user)["data"].take();
        let history = data["history"].as_array().cloned().unwrap_or_default();
        history.iter().map(|said| said["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(1), [""; 0], "it was reset");
    assert_eq!(shown(2)["error"]["code"], "NOT_FOUND", "it was closed");
    ask_until("the one that began anew is answered", || (texts(3).len() == 2).then_some(()));
    assert_eq!(texts(3), ["canary after"; 2], "it begins anew");
    assert_eq!(texts(4), ["canary before"; 2]);
    assert_eq!(telegram.posts().len(), 5, "nobody is answered twice");
}

#[test]
fn old_sessions_expire_and_the_archive_can_be_read() {
    let data = Data(new_folder());
    let mut gateway = start(&data, echo());
    for session in ["new", "old"] {
        say(&gateway, session, "canary");
    }
    gateway.terminate();
    assert!(gateway.ended().success());
    drop(gateway);
    let store = rusqlite::Connection::open(data.0.join("store.db")).unwrap();
    let aged = "UPDATE sessions SET active_millis = 1000, body = json_set(body, '$.activeMillis', 1000) \
                WHERE key LIKE '%old'";
    assert_eq!(store.execute(aged, []).unwrap(), 1);
    drop(store);
    let line = |thread: &str, revision: u64, text: &str| {
        let said = json!({ "uid": 5, "role": "user", "text": text, "at": 4_000 });
        // In the order in which the archive writes them.
        format!(
            "{{\"channel\":\"api\",\"scope\":\"direct\",\"party\":\"root\",\"thread\":\"{thread}\",\"state\":\"archived\",\"context\":[[\"lang\",\"pl\"]],\"messages\":1,\"createdMillis\":3000,\"activeMillis\":4000,\"historyFrom\":0,\"revision\":{revision},\"history\":[{said}]}}\n"
        )
    };
    let archive = data.0.join("archive");
    std::fs::create_dir_all(&archive).unwrap();
    let lines = [line("gone", 1, "first life"), line("gone", 9, "second life"), line("lost", 3, "canary")];
    std::fs::write(archive.join("sessions.jsonl"), lines.concat()).unwrap();
    let gateway = start(&data, echo());
    let both = [("api:root:new", "dormant"), ("api:root:old", "expired")];
    assert_eq!(lives(&gateway, 1, ""), expected(&both));
    assert_eq!(lives(&gateway, 1, "&state=expired"), expected(&both[1..]));
    assert_eq!(lives(&gateway, 1, "&state=dormant"), expected(&both[..1]));
    let listed = page(&gateway, "?state=archived&limit=2");
    let ids: Vec<_> = listed["sessions"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["api:root:gone", "api:root:gone"], "each life is a line of its own");
    let rest =
        page(&gateway, &format!("?state=archived&limit=2&cursor={}", listed["next"].as_str().unwrap()));
    assert_eq!(rest["sessions"][0]["id"], "api:root:lost");
    assert_eq!((&rest["sessions"][0]["lifecycle"], &rest["next"]), (&json!("archived"), &Value::Null));
    // It is read, and nothing else: the answer to an operation is in words.
    let shown = show(&gateway, "gone")["data"].take();
    assert_eq!(shown["history"], json!([{ "role": "user", "content": "second life" }]), "{shown}");
    assert_eq!((&shown["lifecycle"], &shown["context"]), (&json!("archived"), &json!({ "lang": "pl" })));
    let (status, said) = operate(&gateway, "gone", json!({ "action": "reset" }));
    assert_eq!((status, &said["error"]["code"]), (404, &json!("NOT_FOUND")));
    assert!(said["error"]["message"].as_str().unwrap().contains("archived"), "{said}");
    // Both come back: the expired one with what it knows, the archived one anew.
    for session in ["old", "gone"] {
        say(&gateway, session, "canary again");
    }
    assert_eq!(show(&gateway, "old")["data"]["history"].as_array().unwrap().len(), 4);
    assert_eq!(show(&gateway, "gone")["data"]["history"].as_array().unwrap().len(), 2);
    let all = [("api:root:gone", "active"), ("api:root:new", "dormant"), ("api:root:old", "active")];
    assert_eq!(lives(&gateway, 2, ""), expected(&all));
}

/// The message that a session begins with is being answered: it is `init`, and then active.
#[test]
fn a_session_begins_as_init() {
    let (data, model) = (Data(new_folder()), Model::held(1));
    let config = json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    });
    let gateway = start(&data, config);
    let mut socket = gateway.socket();
    socket.authenticate("canary-key-of-an-admin");
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s" }));
    model.await_asked(1);
    assert_eq!(lives(&gateway, 5, ""), expected(&[("api:root:s", "init")]));
    assert_eq!(lives(&gateway, 5, "&state=init").len(), 1);
    model.release(1);
    assert_eq!(socket.reply("s", "").text(), "word0 ");
    assert_eq!(lives(&gateway, 5, ""), expected(&[("api:root:s", "active")]));
}

/// A listing without its store is a part of one, and says so.
#[test]
fn without_its_store_a_listing_is_partial() {
    let data = Data(new_folder());
    let mut config = echo();
    config["store"] = json!({ "kind": "redis", "url": "redis://127.0.0.1:1/0", "loadSeconds": 0.1 });
    config["agents"]["main"]["history"] = false.into();
    let gateway = start(&data, config);
    say(&gateway, "s", "canary");
    let listed = page(&gateway, "");
    assert_eq!(listed["sessions"][0]["id"], "api:root:s", "{listed}");
    assert!(listed["partial"].as_str().unwrap().contains("store"), "{listed}");
    assert_eq!(page(&gateway, "?state=idle")["partial"], Value::Null, "all of them are in memory");
    assert!(page(&gateway, "?state=dormant")["partial"].is_string());
    let answer = admin(&gateway, "GET", "/api/sessions?cursor=s6170691f", &Value::Null);
    assert_eq!(answer.refusal(), (503, "STORE_UNAVAILABLE".to_owned()));
    let answer = admin(&gateway, "GET", "/api/sessions/elsewhere", &Value::Null);
    assert_eq!(answer.refusal(), (503, "STORE_UNAVAILABLE".to_owned()));
    let (status, said) = operate(&gateway, "elsewhere", json!({ "action": "reset" }));
    assert_eq!((status, &said["error"]["code"]), (503, &json!("STORE_UNAVAILABLE")), "{said}");
}
