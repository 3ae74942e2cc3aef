//! An answer is seen while it is written, where the channel says so: one message, edited as the answer grows, also by the
//! next process (row B5 and decision 3 of what a restart owes).
use super::durable::{Data, admin, start};
use crate::peers::gateway::new_folder;
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::telegram::{SECRET, Seen, Telegram, private};
use crate::peers::{Watched, ask_until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn update(gateway: &crate::peers::gateway::Gateway, number: u64, text: &str) {
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let body = private(number, 7, text).to_string();
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes()).status, 200);
}

fn config(telegram: &Telegram, model: &Model) -> Value {
    let streams = json!({ "streaming": "partial", "streamingMillis": 250 });
    json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(streams) },
    })
}

fn see(seen: &Watched<Seen>, posts: usize, edits: usize) {
    seen.wait("more of the answer is shown", |seen| {
        (posts <= seen.posts.len() && edits <= seen.edits.len()).then_some(())
    });
}

#[test]
fn an_answer_grows_in_one_message() {
    let telegram = Telegram::start();
    let seen = telegram.seen.clone();
    let model = Model::start(move |_, speech| {
        speech.begin();
        speech.token("Once upon");
        see(&seen, 1, 0);
        speech.token(" a time");
        see(&seen, 1, 1);
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let data = Data(new_folder());
    let gateway = start(&data, config(&telegram, &model));
    update(&gateway, 1, "tell me");
    see(&telegram.seen, 1, 1);
    ask_until("the answer is delivered", || {
        let status = admin(&gateway, "GET", "/api/status", &Value::Null).json();
        (status["data"]["running"] == 0).then_some(())
    });
    let texts: Vec<String> = telegram.posts().into_iter().map(|post| post.text).collect();
    assert_eq!(texts, ["Once upon a time"], "one message");
    assert_eq!(
        telegram.seen.with(|seen| seen.edits.clone()),
        ["Once upon a time"],
        "the last one changed nothing"
    );
}

/// Killed while the answer is shown: the next process goes on in the message that is there.
#[test]
fn a_restart_goes_on_in_the_message_that_is_there() {
    let (telegram, released) = (Telegram::start(), Arc::new(Watched::<bool>::default()));
    let (seen, hold, is_second) = (telegram.seen.clone(), released.clone(), AtomicBool::new(false));
    let model = Model::start(move |asked, speech| {
        speech.begin();
        speech.token("So: ");
        if !is_second.swap(true, Ordering::AcqRel) {
            see(&seen, 1, 0);
            speech.token("it begins");
            see(&seen, 1, 1);
            hold.wait("the process is killed", |over| over.then_some(()));
            return After::Close;
        }
        let body = asked.json();
        speech.token(body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap());
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let data = Data(new_folder());
    let gateway = start(&data, config(&telegram, &model));
    update(&gateway, 1, "canary");
    see(&telegram.seen, 1, 1);
    // Acknowledged once it is on disk, and so is all that its shard wrote before.
    update(&gateway, 2, "more");
    drop(gateway);
    released.with(|over| *over = true);
    let gateway = start(&data, config(&telegram, &model));
    telegram.await_posts(2);
    ask_until("all is delivered", || {
        let status = admin(&gateway, "GET", "/api/status", &Value::Null).json();
        (status["data"]["running"] == 0).then_some(())
    });
    let texts: Vec<String> = telegram.posts().into_iter().map(|post| post.text).collect();
    assert_eq!(texts, ["So: canary", "So: more"]);
}
