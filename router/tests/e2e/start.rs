//! Starting: what is printed, and what refuses to start. Ending by a second signal.
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::model::Model;
use serde_json::json;

#[test]
fn a_start_says_what_it_does() {
    let gateway = Gateway::start(json!({
        "channels": { "shop": { "type": "webhook", "secret": "canary-secret-of-the-shop" } },
    }));
    let line = gateway.await_line("memory");
    assert!(line.contains("shards=2") && line.contains("driver=") && line.contains("GiB"), "{line}");
    let line = gateway.await_line("ready");
    assert!(line.contains("demo, main") && line.contains("shop"), "{line}");
    gateway.await_line("no keys are configured");
}

/// The thread of stores without one of their own ended once they were open: a start without a file waited five seconds for
/// a store that had no line any more, and nothing was ever saved or loaded.
#[test]
fn a_store_lives_as_long_as_the_process() {
    // What is said is saved at once; the session itself only when it leaves memory, in a store that ends with the process.
    let gateway = Gateway::start(json!({
        "data": { "folder": "" },
        "models": { "echo": { "provider": "echo" } },
        "agents": { "main": { "models": ["echo"] } },
        "route": "main",
    }));
    let mut socket = gateway.socket();
    socket.ask("s", "canary");
    gateway.await_metric("clawgate_store_rows_total", "", 1);
}

#[test]
fn an_open_door_refuses_to_start() {
    let keys = json!([{ "id": "ana", "key": "canary-key-of-ana" }]);
    let table = [
        (json!({ "server": { "listen": ["0.0.0.0:0"] } }), "keys"),
        (json!({ "server": { "listen": ["[::]:0"] } }), "keys"),
        (json!({ "server": { "listen": ["127.0.0.1:0", "0.0.0.0:0"] } }), "keys"),
        (json!({ "server": { "listen": ["0.0.0.0:0"], "insecure": true } }), "keys"),
        (json!({ "server": { "listen": ["0.0.0.0:0"] }, "keys": keys }), "insecure"),
        (json!({ "server": { "tls": { "cert": "nowhere.pem", "key": "nowhere.pem" } } }), "nowhere.pem"),
        (json!({ "server": { "shardz": 2 } }), "shards"),
        (json!({ "channels": { "telegram": { "token": "42:canary" } } }), "secret"),
        (json!({ "keys": [{ "id": "ana", "key": "canary" }] }), "16"),
    ];
    for (config, expected) in table {
        let (code, said) = Gateway::start_refused(&config, &[]);
        assert_eq!(code, 1, "{config}: {said}");
        assert!(said.contains(expected) && said.contains("clawgate.json"), "{config}: {said}");
    }
    let (code, said) = Gateway::start_refused(&json!({}), &["--listen", "0.0.0.0:0"]);
    assert_eq!(code, 1, "{said}");
    // With keys and `insecure` it is the operator's word.
    let gateway = Gateway::start(json!({
        "server": { "listen": ["0.0.0.0:0", "127.0.0.1:0"], "insecure": true },
        "keys": keys,
    }));
    let local = (std::net::Ipv4Addr::LOCALHOST, gateway.address.port()).into();
    let mut client = crate::peers::http::Client::connect(local);
    client.request("GET", "/health", &[], b"");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn an_address_in_use_refuses_to_start() {
    let gateway = Gateway::start(json!({}));
    let taken = gateway.address.to_string();
    let (code, said) = Gateway::start_refused(&json!({}), &["--listen", &taken]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&taken) && said.contains("--listen"), "{said}");
    gateway.assert_well();
}

#[test]
fn a_data_directory_has_one_process() {
    let folder = new_folder();
    let data = folder.join("state/data");
    let holds = Gateway::start_in(folder.clone(), json!({ "data": { "folder": "state/data" } }), &[]);
    let config = json!({ "data": { "folder": data }, "server": { "listen": ["127.0.0.1:0"] } });
    let (code, said) = Gateway::start_refused(&config, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("state/data") && said.contains(&holds.pid().to_string()), "{said}");
    holds.assert_well();
    // One that cannot be made is named.
    std::fs::write(folder.join("file"), "").unwrap();
    let config = json!({ "data": { "folder": folder.join("file/data") } });
    let (code, said) = Gateway::start_refused(&config, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("file/data"), "{said}");
}

/// A second signal does not wait for anybody.
#[test]
fn a_second_signal_ends_it_at_once() {
    let model = Model::held(1);
    let mut gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "server": { "drainSeconds": 3600 },
    }));
    let mut socket = gateway.socket();
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s" }));
    model.await_asked(1);
    gateway.terminate();
    gateway.await_line("draining");
    gateway.terminate();
    assert!(gateway.ended().success());
    assert_eq!(socket.next()["code"], "DRAINING");
    assert_eq!(socket.closed(), Some((4_410, "DRAINING".to_owned())));
}
