//! The same over epoll, for kernels and containers that allow no io_uring.
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::model::Model;
use crate::peers::socket::Socket;
use crate::peers::telegram::{SECRET, Telegram, private};
use serde_json::{Value, json};

fn with_driver(driver: &str) {
    let telegram = Telegram::start();
    let model = Model::saying(&["The ", "canary ", "sings."]);
    let config = json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(json!({})) },
        "limits": { "heartbeatSeconds": 0.2 },
    });
    let mut gateway = Gateway::start_in(new_folder(), config, &["--driver", driver]);
    let detail = gateway.get("/health/detailed").json();
    for shard in detail["shards"].as_array().unwrap() {
        assert!(shard["driver"].as_str().unwrap().starts_with(driver), "{shard}");
    }
    let answer = gateway.post("/api/chat", &json!({ "message": "canary" })).json();
    assert_eq!(answer["data"]["message"], "The canary sings.");
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
    assert_eq!(Events::begin(client).finish().0, "The canary sings.");
    let mut sockets: Vec<Socket> = (0..8).map(|_| gateway.socket()).collect();
    for (at, socket) in sockets.iter_mut().enumerate() {
        for _ in 0..3 {
            assert_eq!(socket.ask(&format!("s{at}"), "canary").chunks, ["The ", "canary ", "sings."]);
        }
    }
    for user in 0..8 {
        let update: Value = private(user, 100 + i64::try_from(user).unwrap(), "canary");
        let headers = [("x-telegram-bot-api-secret-token", SECRET)];
        let answer = gateway.call("POST", "/webhooks/telegram", &headers, update.to_string().as_bytes());
        assert_eq!(answer.status, 200);
    }
    assert!(telegram.await_posts(8).iter().all(|post| post.text == "The canary sings."));
    assert_eq!(sockets[0].hear(), crate::peers::socket::Heard::Ping, "timers run");
    gateway.terminate();
    assert_eq!(sockets[0].closed(), Some((4_410, "DRAINING".to_owned())));
    assert!(gateway.ended().success());
}

#[test]
fn epoll_serves_all_the_same() {
    with_driver("epoll");
}

/// Where the kernel allows it; where it does not, asking for it refuses to start, and says so.
#[test]
fn io_uring_serves_or_refuses() {
    let auto = Gateway::start(json!({}));
    let detail = auto.get("/health/detailed").json();
    if detail["shards"][0]["driver"].as_str().unwrap().starts_with("io_uring") {
        with_driver("io_uring");
    } else {
        let (code, said) =
            Gateway::start_refused(&json!({}), &["--driver", "io_uring", "--listen", "127.0.0.1:0"]);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("driver"), "{said}");
    }
}
