//! Slack by the Events API (row B2): signed events, forms and commands in, `chat.postMessage` and `chat.update` to a
//! simulated Web API out.
use crate::peers::gateway::{Gateway, merge};
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::slack::{Post, SECRET, Slack, callback, direct, now, post, post_as, said};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A gateway whose app echoes.
fn with_app(slack: &Slack, channel: Value, more: Value) -> Gateway {
    let mut config = json!({
        "agents": { "main": { "models": ["echo"] } },
        "channels": { "slack": slack.config(channel) },
        "limits": { "backoffMinMillis": 1 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

#[track_caller]
fn take(gateway: &Gateway, kind: &str, body: &str) -> Vec<u8> {
    let answer = post(gateway, kind, body);
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
    answer.body
}

fn in_thread(thread: &str, text: &str) -> Post {
    Post { channel: "C01".to_owned(), thread: Some(thread.to_owned()), text: text.to_owned() }
}

#[test]
fn people_are_answered_where_they_write() {
    let slack = Slack::start();
    let gateway = with_app(&slack, json!({}), json!({}));
    let handshake = json!({ "type": "url_verification", "token": "t", "challenge": "3eZ" });
    assert_eq!(take(&gateway, JSON, &handshake.to_string()), br#"{"challenge":"3eZ"}"#);
    take(
        &gateway,
        JSON,
        &callback("Ev1", &direct("U1", "1710000000.000100", "a canary &lt;here&gt; &amp; there")),
    );
    let posts = slack.await_posts(1);
    assert_eq!((posts[0].channel.as_str(), posts[0].thread.as_deref()), ("DU1", None));
    assert_eq!(posts[0].text, "a canary &lt;here&gt; &amp; there", "as it is written in Slack, once");
    // A mention comes as two events; a channel's other messages are nobody's.
    let (text, ts) = ("<@U0BOT> canary in a channel", "1710000001.000100");
    for (id, kind) in [("Ev2", "message"), ("Ev3", "app_mention"), ("Ev2", "message")] {
        take(&gateway, JSON, &callback(id, &said(kind, "U1", ts, text)));
    }
    take(&gateway, JSON, &callback("Ev4", &said("message", "U1", "1710000002.000100", "to all")));
    assert_eq!(slack.await_posts(2)[1], in_thread(ts, "@U0BOT canary in a channel"));
    // What comes in the thread is the same conversation.
    let mut more = said("app_mention", "U2", "1710000003.000100", "<@U0BOT> and more");
    more["thread_ts"] = json!(ts);
    take(&gateway, JSON, &callback("Ev5", &more));
    assert_eq!(slack.await_posts(3)[2], in_thread(ts, "@U0BOT and more"));
    let command = "command=%2Fask&text=a+canary%3F&user_id=U1&channel_id=DU1&trigger_id=1.2.3";
    assert_eq!(take(&gateway, FORM, command), b"", "nothing is shown at once");
    assert_eq!(slack.await_posts(4)[3].text, "/ask a canary?");
    let button = json!({
        "type": "block_actions", "user": { "id": "U1" }, "channel": { "id": "DU1" }, "trigger_id": "4.5.6",
        "actions": [{ "action_id": "go", "value": "canary button" }],
    });
    let payload: String =
        button.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
    take(&gateway, FORM, &format!("payload={payload}"));
    assert_eq!(slack.await_posts(5)[4].text, "canary button");
    gateway.await_status("running", 0);
    assert_eq!(slack.await_posts(5).len(), 5, "nobody was answered twice");
    let sessions = gateway.get("/api/sessions").json();
    let sessions = sessions["data"]["sessions"].as_array().unwrap();
    let mut ids: Vec<&str> = sessions.iter().filter_map(|one| one["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["slack:dm:U1", &format!("slack:group:C01:{ts}")]);
}

#[test]
fn only_slack_is_believed() {
    let slack = Slack::start();
    let gateway = with_app(&slack, json!({ "secrets": ["canary-secret-of-before", SECRET] }), json!({}));
    let now = now(&gateway);
    let body = callback("Ev1", &direct("U1", "1710000000.000100", "canary"));
    let mut client = gateway.connect();
    let wrong = (401, "BAD_SIGNATURE".to_owned());
    assert_eq!(post_as(&mut client, JSON, &body, now, "canary-other-secret").refusal(), wrong);
    assert_eq!(post_as(&mut client, JSON, &body, now - 3_000, SECRET).refusal(), wrong, "an old one");
    assert_eq!(post_as(&mut client, JSON, &body, now + 3_000, SECRET).refusal(), wrong, "one of tomorrow");
    client.request("POST", "/webhooks/slack", &[("Content-Type", JSON)], body.as_bytes());
    assert_eq!(client.answer().refusal(), wrong);
    assert_eq!(post_as(&mut client, JSON, "{", now, SECRET).refusal(), (400, "BAD_JSON".to_owned()));
    assert_eq!(post_as(&mut client, FORM, "a=b", now, SECRET).refusal(), (400, "MISSING_FIELD".to_owned()));
    assert_eq!(
        post_as(&mut client, JSON, &body, now, "canary-secret-of-before").status,
        200,
        "it is exchanged"
    );
    assert_eq!(slack.await_posts(1)[0].text, "canary");
}

/// Slack's limit of a message a second: the answer waits, and is posted once.
#[test]
fn the_rate_limit_is_waited_for() {
    let slack = Slack::start();
    slack.seen.with(|seen| seen.refuse = 2);
    let gateway = with_app(&slack, json!({}), json!({ "limits": { "backoffMaxMillis": 20 } }));
    take(&gateway, JSON, &callback("Ev1", &direct("U1", "1710000000.000100", "canary")));
    assert_eq!(slack.await_posts(1)[0].text, "canary");
    gateway.await_status("running", 0);
    assert_eq!(slack.await_posts(1).len(), 1);
}

#[test]
fn an_answer_grows_in_one_message() {
    let slack = Slack::start();
    let seen = slack.seen.clone();
    let model = Model::start(move |_, speech| {
        let see = |posts: usize, edits: usize| {
            seen.wait("more of the answer is shown", |seen| {
                (posts <= seen.posts.len() && edits <= seen.edits.len()).then_some(())
            });
        };
        speech.begin();
        speech.token("Once upon");
        see(1, 0);
        speech.token(" a time");
        see(1, 1);
        speech.token(", and so on");
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "slack": slack.config(json!({ "streaming": "partial", "streamingMillis": 250 })) },
    }));
    take(&gateway, JSON, &callback("Ev1", &direct("U1", "1710000000.000100", "tell me")));
    slack.seen.wait("the whole answer", |seen| {
        seen.posts.first().is_some_and(|post| post.text == "Once upon a time, and so on").then_some(())
    });
    gateway.await_status("running", 0);
    assert_eq!(slack.await_posts(1).len(), 1, "one message");
}
