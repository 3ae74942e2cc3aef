//! Telegram by webhook: real updates in, `sendMessage` to a simulated Bot API out.
use crate::peers::gateway::{Gateway, merge};
use crate::peers::http::{Answer, Client};
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::socket::Heard;
use crate::peers::telegram::{Post, SECRET, Telegram, Verdict, group, private};
use crate::peers::{Watched, ask_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A gateway whose bot echoes; `channel` is added to the channel's settings, `more` to the configuration.
fn with_bot(telegram: &Telegram, channel: Value, more: Value) -> Gateway {
    let mut config = json!({
        "agents": { "main": { "models": ["echo"] } },
        "channels": { "telegram": telegram.config(channel) },
        "limits": { "backoffMinMillis": 1 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

/// Posts an update as Telegram does, on a connection that is kept.
fn post(client: &mut Client, update: &Value) -> Answer {
    client.post("/webhooks/telegram", &[("X-Telegram-Bot-Api-Secret-Token", SECRET)], update);
    client.answer()
}

/// Posts updates that must all be taken.
#[track_caller]
fn take(gateway: &Gateway, updates: impl IntoIterator<Item = Value>) {
    let mut client = gateway.connect();
    for update in updates {
        let answer = post(&mut client, &update);
        assert_eq!(answer.status, 200, "{update}: {answer:?}");
    }
}

fn texts(posts: &[Post], chat: i64) -> Vec<&str> {
    posts.iter().filter(|post| post.chat == chat).map(|post| post.text.as_str()).collect()
}

/// A thousand chats at once, some updates twice, as Telegram sends them: each answered, in order, once. Others chat
/// meanwhile and notice nothing.
#[test]
fn a_thousand_chats_at_once_are_answered_in_order() {
    const CHATS: i64 = 1_000;
    const EACH: i64 = 3;
    /// Telegram's own default for `max_connections`.
    const CONNECTIONS: i64 = 40;
    let telegram = Telegram::start();
    let model = Model::start(|asked, speech| {
        let body = asked.json();
        let question = &body["messages"].as_array().unwrap().last().unwrap()["content"];
        speech.begin();
        speech.token("You said: ");
        speech.token(question.as_str().unwrap());
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(json!({})) },
        "logging": { "level": "info" },
    }));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let chatting = scope.spawn(|| {
            let mut socket = gateway.socket();
            let mut asked = 0;
            while !over.load(Ordering::Acquire) {
                let text = format!("canary number {asked}");
                let reply = socket.ask(&format!("s{}", asked % 5), &text);
                assert_eq!((reply.text(), &reply.end["type"]), (format!("You said: {text}"), &json!("done")));
                asked += 1;
            }
            asked
        });
        for connection in 0..CONNECTIONS {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.connect();
                for number in 0..EACH {
                    for chat in (connection..CHATS).step_by(usize::try_from(CONNECTIONS).unwrap()) {
                        let update = u64::try_from(chat * EACH + number).unwrap();
                        let message =
                            private(update, 1_000_000 + chat, &format!("canary {number} of {chat}"));
                        let times = if update.is_multiple_of(7) { 2 } else { 1 };
                        for _ in 0..times {
                            let answer = post(&mut client, &message);
                            assert_eq!(answer.status, 200, "{answer:?}");
                        }
                    }
                }
            });
        }
        let posts = telegram.await_posts(usize::try_from(CHATS * EACH).unwrap());
        over.store(true, Ordering::Release);
        assert!(0 < chatting.join().unwrap());
        let mut by_chat: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
        for post in &posts {
            by_chat.entry(post.chat).or_default().push(&post.text);
        }
        assert_eq!(by_chat.len(), usize::try_from(CHATS).unwrap());
        for (chat, said) in by_chat {
            let chat = chat - 1_000_000;
            let expected: Vec<String> =
                (0..EACH).map(|number| format!("You said: canary {number} of {chat}")).collect();
            assert_eq!(said, expected, "chat {chat}");
        }
    });
    gateway.await_status("running", 0);
    let posts = telegram.posts().len();
    assert_eq!(posts, usize::try_from(CHATS * EACH).unwrap(), "and nothing came after");
    assert_eq!(gateway.metric("clawgate_turns_total", "outcome=\"dead\""), 0);
    assert!(gateway.status()["messages"]["duplicate"].as_u64().unwrap() > 400);
}

#[test]
fn a_repeated_update_is_taken_and_answered_once() {
    let telegram = Telegram::start();
    let gateway = with_bot(&telegram, json!({}), json!({}));
    // The same one again, on this connection and on another, and then another one with the same text.
    take(&gateway, [private(1, 77, "canary"), private(1, 77, "canary")]);
    take(&gateway, [private(1, 77, "canary"), private(2, 77, "canary"), private(3, 77, "the last canary")]);
    assert_eq!(texts(&telegram.await_posts(3), 77), ["canary", "canary", "the last canary"]);
}

#[test]
fn only_telegram_gets_in() {
    let telegram = Telegram::start();
    let gateway = with_bot(&telegram, json!({}), json!({}));
    let update = private(1, 77, "canary").to_string();
    let wrong: [&[(&str, &str)]; 7] = [
        &[],
        &[("X-Telegram-Bot-Api-Secret-Token", "")],
        &[("X-Telegram-Bot-Api-Secret-Token", "canary-webhook-secre")],
        &[("X-Telegram-Bot-Api-Secret-Token", "canary-webhook-secrets")],
        &[("X-Telegram-Bot-Api-Secret-Token", "Canary-webhook-secret")],
        &[("Authorization", "Bearer canary-webhook-secret")],
        &[("X-Telegram-Bot-Api-Secret-Token", SECRET), ("X-Telegram-Bot-Api-Secret-Token", SECRET)],
    ];
    for headers in wrong {
        let answer = gateway.call("POST", "/webhooks/telegram", headers, update.as_bytes());
        assert_eq!(answer.refusal(), (401, "BAD_SIGNATURE".to_owned()), "{headers:?}");
    }
    let elsewhere =
        gateway.call("POST", "/webhooks/nowhere", &[("X-Telegram-Bot-Api-Secret-Token", SECRET)], b"{}");
    assert_eq!(elsewhere.refusal(), (404, "NOT_FOUND".to_owned()));
    assert_eq!(gateway.call("GET", "/webhooks/telegram", &[], b"").status, 405);
    assert_eq!(gateway.metric("clawgate_refused_total", "BAD_SIGNATURE"), 7);
    take(&gateway, [private(1, 77, "canary")]);
    assert_eq!(telegram.await_posts(1).len(), 1, "what was refused is not remembered as seen");
}

/// A long answer is split at 4,096 UTF-16 code units, the API's limit, and never inside a character.
#[test]
fn long_answers_are_split() {
    let telegram = Telegram::start();
    let gateway = with_bot(&telegram, json!({}), json!({}));
    let faces = "😀".repeat(5_000);
    let words = "The canary sings. ".repeat(700);
    take(&gateway, [private(1, 71, &faces), private(2, 72, words.trim_end())]);
    let count = |text: &str| text.encode_utf16().count();
    let posts = telegram.await_posts(3 + 4);
    let parts = texts(&posts, 71);
    assert_eq!(parts.iter().map(|part| count(part)).collect::<Vec<_>>(), [4_096, 4_096, 1_808]);
    assert_eq!(parts.concat(), faces);
    let parts = texts(&posts, 72);
    assert!(parts.iter().all(|part| count(part) <= 4_096 && part.ends_with('.')), "cut between sentences");
    assert_eq!(parts.join(" "), words.trim_end());
}

/// "retry_after": the API is left alone for that long, and the order in the chat is kept.
#[test]
fn flood_control_is_obeyed() {
    // The gateway's heartbeats are the clock: ten a second.
    let beats = Arc::new(Watched::<u64>::default());
    let (seen, attempts) = (beats.clone(), Arc::new(Watched::<Vec<(String, u64)>>::default()));
    let noted = attempts.clone();
    let telegram = Telegram::start_with(move |post, before| {
        let beat = seen.with(|beats| *beats);
        noted.with(|attempts| attempts.push((post.text.clone(), beat)));
        if post.chat == 77 && before == 0 { Verdict::Flooded(1) } else { Verdict::Sent }
    });
    let gateway = with_bot(&telegram, json!({}), json!({ "limits": { "heartbeatSeconds": 0.1 } }));
    let mut socket = gateway.socket();
    let counting = std::thread::spawn(move || {
        loop {
            match socket.hear() {
                Heard::Ping => beats.with(|beats| *beats += 1),
                Heard::Gone | Heard::Closed(..) => return,
                Heard::Said(_) | Heard::Pong(_) => {}
            }
        }
    });
    take(
        &gateway,
        [private(1, 77, "canary one"), private(2, 77, "canary two"), private(3, 78, "canary elsewhere")],
    );
    let posts = telegram.await_posts(3);
    assert_eq!(texts(&posts, 77), ["canary one", "canary two"], "in order");
    assert_eq!(posts[0].chat, 78, "other chats do not wait");
    let attempts = attempts.with(|attempts| attempts.clone());
    let of_first: Vec<u64> =
        attempts.iter().filter(|(text, _)| text == "canary one").map(|(_, beat)| *beat).collect();
    assert_eq!(of_first.len(), 2, "{attempts:?}");
    assert!(5 <= of_first[1] - of_first[0], "it waited for {of_first:?} tenths of a second");
    drop(gateway);
    counting.join().unwrap();
}

/// What may pass is tried again; what the API refuses for good is given up, told in the log, and holds up nobody.
#[test]
fn deliveries_are_repeated_where_that_helps() {
    let telegram = Telegram::start_with(|post, before| match (post.chat, before) {
        (71, 0..3) => Verdict::Broken,
        (72, 0..3) => Verdict::Failed(502, "Bad Gateway"),
        (73, _) => Verdict::Failed(403, "Forbidden: bot was blocked by the user"),
        (74, _) => Verdict::Failed(500, "Internal Server Error"),
        _ => Verdict::Sent,
    });
    let gateway = with_bot(
        &telegram,
        json!({}),
        json!({ "limits": { "deliveryAttemptsMax": 4, "backoffMaxMillis": 20 } }),
    );
    take(&gateway, (71..76).map(|chat| private(chat, i64::try_from(chat).unwrap(), "canary")));
    let posts = telegram.await_posts(3);
    assert!([71, 72, 75].iter().all(|chat| texts(&posts, *chat) == ["canary"]), "{posts:?}");
    gateway.await_metric("clawgate_turns_total", "outcome=\"dead\"", 2);
    let attempts = telegram.seen.with(|seen| seen.attempts.clone());
    let count = |chat| attempts.iter().filter(|post| post.chat == chat).count();
    assert_eq!([71, 72, 73, 74, 75].map(count), [4, 4, 1, 4, 1]);
    gateway.await_line("could not be delivered");
    // The next message of a chat that was given up is a new chance.
    take(&gateway, [private(99, 73, "canary again")]);
    gateway.await_metric("clawgate_turns_total", "outcome=\"dead\"", 3);
}

#[test]
fn in_groups_only_what_addresses_the_bot_is_answered() {
    let telegram = Telegram::start();
    let open = json!({ "groupPolicy": "allowlist", "groups": ["-100"], "dmPolicy": "allowlist", "allowFrom": ["7"] });
    let gateway = with_bot(&telegram, open, json!({}));
    let mention = json!([{ "type": "mention", "offset": 3, "length": 11 }]);
    let other = json!([{ "type": "mention", "offset": 0, "length": 10 }]);
    let command = json!([{ "type": "bot_command", "offset": 0, "length": 16 }]);
    let mut reply = group(4, -100, 8, "canary: a reply", &json!([]));
    let bot = json!({ "id": 424_242, "is_bot": true, "first_name": "Bot" });
    reply["message"]["reply_to_message"] = json!({ "message_id": 1, "date": 1, "text": "x", "from": bot });
    let mut topic = group(7, -100, 8, "😀 @canary_bot in a topic", &mention);
    topic["message"]["message_thread_id"] = json!(55);
    topic["message"]["is_topic_message"] = json!(true);
    let mut from_bot = group(8, -100, 9, "😀 @canary_bot from a bot", &mention);
    from_bot["message"]["from"]["is_bot"] = json!(true);
    take(
        &gateway,
        [
            group(1, -100, 8, "just talking about the canary", &json!([])),
            group(2, -100, 8, "😀 @canary_bot sing", &mention),
            group(3, -100, 8, "@other_bot sing", &other),
            reply,
            group(5, -100, 8, "/sing@canary_bot a", &command),
            group(6, -200, 8, "😀 @canary_bot elsewhere", &mention),
            topic,
            from_bot,
            private(9, 8, "canary: not on the list"),
            private(10, 7, "canary: on the list"),
        ],
    );
    let posts = telegram.await_posts(5);
    let mut said: Vec<(i64, Option<i64>, &str)> =
        posts.iter().map(|post| (post.chat, post.thread, post.text.as_str())).collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            (-100, None, "/sing@canary_bot a"),
            (-100, None, "canary: a reply"),
            (-100, None, "😀 @canary_bot sing"),
            (-100, Some(55), "😀 @canary_bot in a topic"),
            (7, None, "canary: on the list"),
        ]
    );
    for (why, count) in [("unmentioned", 2), ("group", 1), ("sender", 1)] {
        assert_eq!(gateway.metric("clawgate_ignored_total", why), count, "{why}");
    }
}

#[test]
fn without_gating_every_message_of_a_group_is_answered() {
    let telegram = Telegram::start();
    let gateway = with_bot(&telegram, json!({ "groupPolicy": "open", "mentionGating": false }), json!({}));
    take(
        &gateway,
        [group(1, -100, 8, "canary one", &json!([])), group(2, -100, 9, "canary two", &json!([]))],
    );
    assert_eq!(
        texts(&telegram.await_posts(2), -100),
        ["canary one", "canary two"],
        "one session for the group"
    );
    let sessions = gateway.get("/api/sessions?channel=telegram").json();
    assert_eq!(sessions["data"]["sessions"][0]["id"], "telegram:group:-100");
}

#[test]
fn each_policy_lets_in_whom_it_names() {
    for (policy, allow, answered) in [
        ("open", json!([]), vec!["7", "8"]),
        ("allowlist", json!(["7"]), vec!["7"]),
        ("allowlist", json!([]), vec![]),
        ("disabled", json!(["7"]), vec![]),
    ] {
        let telegram = Telegram::start();
        let gateway = with_bot(&telegram, json!({ "dmPolicy": policy, "allowFrom": allow }), json!({}));
        take(&gateway, [private(1, 7, "canary"), private(2, 8, "canary")]);
        let let_in = telegram.await_posts(answered.len());
        let mut chats: Vec<String> = let_in.iter().map(|post| post.chat.to_string()).collect();
        chats.sort_unstable();
        assert_eq!(chats, answered, "{policy}");
        assert_eq!(gateway.metric("clawgate_ignored_total", "sender"), 2 - answered.len() as u64, "{policy}");
    }
}

/// What is no message for us is taken, so that Telegram does not send it again; what is no update is refused.
#[test]
fn other_updates_are_taken_and_not_answered() {
    let telegram = Telegram::start();
    let gateway = with_bot(&telegram, json!({}), json!({}));
    let mut edited = private(1, 77, "canary edited");
    let message = edited.as_object_mut().unwrap().remove("message").unwrap();
    edited["edited_message"] = message;
    let mut photo = private(4, 77, "");
    photo["message"].as_object_mut().unwrap().remove("text");
    photo["message"]["photo"] = json!([]);
    take(
        &gateway,
        [
            edited,
            json!({ "update_id": 2, "poll": { "id": "1" } }),
            json!({ "update_id": 3, "something_new": { "deep": [{}] } }),
            photo,
            private(5, 77, "the canary sings"),
        ],
    );
    assert_eq!(texts(&telegram.await_posts(1), 77), ["the canary sings"]);
    let mut client = gateway.connect();
    for (body, code) in [
        (json!([]), "MISSING_FIELD"),
        (json!({}), "MISSING_FIELD"),
        (json!({ "update_id": "x" }), "MISSING_FIELD"),
    ] {
        assert_eq!(post(&mut client, &body).refusal(), (400, code.to_owned()), "{body}");
    }
    let headers = [("X-Telegram-Bot-Api-Secret-Token", SECRET)];
    let broken = gateway.call("POST", "/webhooks/telegram", &headers, b"{\"update_id\":1,");
    assert_eq!(broken.refusal(), (400, "BAD_JSON".to_owned()));
    assert_eq!(telegram.posts().len(), 1);
}

/// A button of the bot's message is a message too, and is acknowledged in the webhook's answer.
#[test]
fn a_pressed_button_is_answered() {
    let telegram = Telegram::start();
    let gateway = with_bot(&telegram, json!({}), json!({}));
    let mut client = gateway.connect();
    let update = json!({
        "update_id": 1,
        "callback_query": {
            "id": "4382bfdwdsb323b2d9", "chat_instance": "1", "data": "canary:yes",
            "from": { "id": 77, "is_bot": false, "first_name": "Ana" },
            "message": {
                "message_id": 9, "date": 1_773_131_400, "text": "Shall I sing?",
                "chat": { "id": 77, "type": "private", "first_name": "Ana" },
                "from": { "id": 424_242, "is_bot": true, "first_name": "Bot" },
            },
        },
    });
    let answer = post(&mut client, &update);
    assert_eq!(
        answer.json(),
        json!({ "method": "answerCallbackQuery", "callback_query_id": "4382bfdwdsb323b2d9" })
    );
    assert_eq!(texts(&telegram.await_posts(1), 77), ["canary:yes"]);
}

/// People on a platform hear of a failure too, in words that were configured.
#[test]
fn people_are_told_when_no_answer_can_be_had() {
    let telegram = Telegram::start();
    let model =
        Model::start(|_, speech| speech.error(400, &[], "invalid_request_error", "the canary is out"));
    let config = |text: &str| {
        json!({
            "models": { "sim": model.config(json!({})) },
            "agents": { "main": { "models": ["sim"], "failureText": text } },
        })
    };
    let gateway = with_bot(&telegram, json!({}), config("Not today, canary."));
    take(&gateway, [private(1, 77, "canary")]);
    assert_eq!(texts(&telegram.await_posts(1), 77), ["Not today, canary."]);
    let silent = with_bot(&telegram, json!({}), config(""));
    take(&silent, [private(1, 78, "canary")]);
    ask_until("the turn fails", || {
        (silent.metric("clawgate_failed_total", "UPSTREAM_FAILED") == 1).then_some(())
    });
    silent.await_status("running", 0);
    assert_eq!(telegram.posts().len(), 1, "an empty text says nothing");
}

/// Operators reach a platform's session under its name, and what they send goes there.
#[test]
fn an_operator_can_speak_in_a_chat() {
    let telegram = Telegram::start();
    let gateway = with_bot(
        &telegram,
        json!({}),
        json!({ "keys": [{ "id": "root", "key": "canary-key-of-root", "scopes": ["admin"] }] }),
    );
    take(&gateway, [private(1, 77, "canary")]);
    telegram.await_posts(1);
    let headers = [("authorization", "Bearer canary-key-of-root"), ("content-type", "application/json")];
    let body = json!({ "action": "send", "text": "the canary calls" }).to_string();
    let answer = gateway.call("POST", "/api/sessions/telegram:dm:77", &headers, body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(texts(&telegram.await_posts(2), 77), ["canary", "the canary calls"]);
}
