//! The command line asks a running gateway: dead letters, and what the store refused (rows G3, L).
use super::durable::{Data, admin, letters, start, update};
use crate::peers::ask_until;
use crate::peers::certificates::Certificate;
use crate::peers::gateway::{Gateway, command, new_folder};
use crate::peers::telegram::{Telegram, Verdict};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a command, what it printed, and what it complained of.
fn run(gateway: &Gateway, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = command(gateway.folder(), arguments);
    command.stdout(Stdio::piped()).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Runs it with the address and the key of the environment.
fn ask(gateway: &Gateway, arguments: &str) -> (i32, String) {
    let url = format!("http://{}", gateway.address);
    let environment = [("CLAWGATE_URL", url.as_str()), ("CLAWGATE_KEY", "canary-key-of-an-admin")];
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let (code, out, complaint) = run(gateway, &arguments, &environment);
    assert_eq!(complaint.is_empty(), code == 0 || !out.is_empty(), "{out} {complaint}");
    (code, out + &complaint)
}

fn in_json(gateway: &Gateway, arguments: &str) -> (i32, Value) {
    let (code, text) = ask(gateway, &format!("{arguments} --json"));
    (code, serde_json::from_str(&text).unwrap_or_else(|bad| panic!("{bad}: {text}")))
}

#[test]
fn dead_letters_are_handled_from_the_command_line() {
    let is_blocked = Arc::new(AtomicBool::new(true));
    let blocked = is_blocked.clone();
    let telegram = Telegram::start_with(move |_, _| {
        let blocked = blocked.load(Ordering::SeqCst);
        if blocked { Verdict::Failed(403, "Forbidden: bot was blocked") } else { Verdict::Sent }
    });
    let data = Data(new_folder());
    let gateway = start(
        &data,
        json!({
            "agents": { "main": { "models": ["echo"] } },
            "channels": { "telegram": telegram.config(json!({})) },
        }),
    );
    assert_eq!(ask(&gateway, "dlq list"), (0, "no dead letters\n".to_owned()));
    for number in 1..=5 {
        update(&gateway, number, "canary \u{1b}[2J");
    }
    ask_until("five letters", || (letters(&gateway).len() == 5).then_some(()));
    let (code, listed) = in_json(&gateway, "dlq list");
    assert_eq!((code, listed["letters"].as_array().unwrap().len(), &listed["more"]), (0, 5, &json!(false)));
    let id = |at: usize| listed["letters"][at]["id"].as_str().unwrap().to_owned();
    let (_, table) = ask(&gateway, "dlq list --limit 2");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[1].starts_with(&id(0)), "{table}");
    assert!(lines[1].contains("telegram") && lines[1].contains("DELIVERY_FAILED"), "{table}");
    assert_eq!((lines.len(), lines[3]), (4, "there are more: --limit 20"));
    assert_eq!(ask(&gateway, "dlq list --reason BUSY").1, "no dead letters\n");
    assert_eq!(ask(&gateway, "dlq list --channel shop").1, "no dead letters\n");
    let (_, fitting) = in_json(&gateway, "dlq list --reason DELIVERY_FAILED --channel telegram --limit 4");
    assert_eq!((fitting["letters"].as_array().unwrap().len(), &fitting["more"]), (4, &json!(true)));
    // One of them.
    let (code, shown) = ask(&gateway, &format!("dlq show {}", id(0)));
    assert!(code == 0 && shown.contains("blocked") && shown.contains("\nanswer:\n"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "what people write does not steer the terminal");
    assert_eq!(in_json(&gateway, &format!("dlq show {}", id(0))).1["id"], id(0));
    // Some, by their ids.
    is_blocked.store(false, Ordering::SeqCst);
    let (code, said) = ask(&gateway, &format!("dlq replay {} 1 {}", id(0), id(1)));
    let expected = format!(
        "{} is tried again\n1 is not: there is no such dead letter (NOT_FOUND)\n{} is tried again\n",
        id(0),
        id(1)
    );
    assert_eq!((code, said), (5, expected));
    assert_eq!(ask(&gateway, &format!("dlq drop {}", id(2))), (0, format!("{} is dropped\n", id(2))));
    telegram.await_posts(2);
    // All that fit.
    assert_eq!(ask(&gateway, "dlq drop --all --channel shop"), (0, "no dead letters\n".to_owned()));
    ask_until("two are left", || (letters(&gateway).len() == 2).then_some(()));
    let (code, results) = in_json(&gateway, "dlq replay --all --reason DELIVERY_FAILED");
    assert_eq!((code, results["results"].as_array().unwrap().len()), (0, 2), "{results}");
    assert_eq!(results["results"][0], json!({ "id": id(3), "done": true }));
    telegram.await_posts(4);
    ask_until("none is left", || letters(&gateway).is_empty().then_some(()));
    let (code, said) = ask(&gateway, "dlq show 1");
    assert_eq!((code, said.as_str()), (5, "error: there is no such dead letter (NOT_FOUND)\n"));
}

#[test]
fn what_the_command_line_cannot_do_it_says() {
    let data = Data(new_folder());
    let gateway = start(&data, json!({}));
    let url = format!("http://{}", gateway.address);
    let key = ("CLAWGATE_KEY", "canary-key-of-an-admin");
    // A key that is wrong, and one that may not.
    for (arguments, exit, part) in [
        (vec!["dlq", "list", "--key", "canary-but-another"], 5, "does not know this key (401)"),
        (vec!["dlq", "list", "--key", "not\na key"], 4, "visible ASCII"),
        (vec!["dlq", "list", "--url", "http://127.0.0.1:1"], 4, "is the gateway running?"),
        (vec!["dlq", "list", "--url", "gopher://a"], 4, "http://host:port"),
        (
            vec!["dlq", "list", "--config", "nothing.json", "--url", "http://127.0.0.1:1", "--key", "k"],
            4,
            "running?",
        ),
    ] {
        let (code, out, complaint) = run(&gateway, &arguments, &[("CLAWGATE_URL", &url)]);
        assert_eq!((code, out.as_str()), (exit, ""), "{arguments:?}");
        assert!(complaint.starts_with("error: ") && complaint.contains(part), "{arguments:?}: {complaint}");
        assert!(!complaint.contains("canary"), "no key is shown: {complaint}");
    }
    let (code, out, _) = run(&gateway, &["dlq", "list", "--json", "--url", "http://127.0.0.1:1"], &[key]);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &said["error"]["code"]), (4, &json!("UNREACHED")));
    // The configuration names a key, and no port.
    let (code, _, complaint) = run(&gateway, &["dlq", "list"], &[]);
    assert!(code == 4 && complaint.contains("--url"), "{complaint}");
    let (code, out, complaint) = run(&gateway, &["dlq", "list"], &[("CLAWGATE_URL", &url)]);
    assert_eq!((code, out.as_str()), (0, "no dead letters\n"), "{complaint}");
    let (code, _, complaint) = run(&gateway, &["dlq", "list", "--config", "nothing.json"], &[]);
    assert!(code == 1 && complaint.contains("nothing.json"), "{complaint}");
}

/// Where the address is the configuration's, so is the certificate: exactly that one is trusted, whatever its name is.
#[test]
fn the_command_line_trusts_the_certificate_of_its_configuration() {
    let (data, folder) = (Data(new_folder()), Data(new_folder()));
    Certificate::of(&["chat.example.com"]).write(&folder.0);
    let (cert, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
    let tls = |cert: &Path| json!({ "cert": cert, "key": key });
    let gateway = start(&data, json!({ "server": { "tls": tls(&cert) } }));
    let list = |cert: &Path| {
        let config = json!({
            "server": { "listen": [gateway.address.to_string()], "tls": tls(cert) },
            "keys": [{ "id": "root", "key": "canary-key-of-an-admin", "scopes": ["admin"] }],
        });
        std::fs::write(gateway.folder().join("other.json"), config.to_string()).unwrap();
        run(&gateway, &["dlq", "list", "--config", "other.json"], &[])
    };
    let (code, out, complaint) = list(&cert);
    assert_eq!((code, out.as_str()), (0, "no dead letters\n"), "{complaint}");
    let strange = Data(new_folder());
    Certificate::of(&["chat.example.com"]).write(&strange.0);
    let (code, _, complaint) = list(&strange.0.join("cert.pem"));
    assert!(code == 4 && complaint.contains("certificate"), "{complaint}");
}

/// What the store could never hold lies in a file; it can be read, and offered again.
#[test]
fn refused_rows_are_listed_and_tried_again() {
    let data = Data(new_folder());
    let gateway = start(&data, json!({ "data": { "folder": data.0 } }));
    assert_eq!(ask(&gateway, "store refused list"), (0, "nothing was refused\n".to_owned()));
    let none = json!({ "rows": 0, "refusedAgain": 0, "unreadable": 0 });
    assert_eq!(in_json(&gateway, "store refused retry"), (0, none));
    let session = json!({
        "op": "session", "channel": "api", "scope": "direct", "party": "ana", "thread": "s", "revision": 9,
        "messages": 3, "activeMillis": 1_790_000_000_000_u64, "createdMillis": 1_790_000_000_000_u64,
    });
    let too_large = json!({ "op": "deadDrop", "uid": u64::MAX });
    let file = data.0.join("refused.jsonl");
    std::fs::write(&file, format!("{session}\n{too_large}\nno row\n")).unwrap();
    let (code, listed) = ask(&gateway, "store refused list");
    assert!(code == 0 && listed.contains("session") && listed.contains("ana"), "{listed}");
    assert_eq!(in_json(&gateway, "store refused list").1["rows"].as_array().unwrap().len(), 3);
    let done = json!({ "rows": 2, "refusedAgain": 1, "unreadable": 1 });
    assert_eq!(in_json(&gateway, "store refused retry"), (0, done));
    let shown = admin(&gateway, "GET", "/api/sessions/api:ana:s", &Value::Null).json();
    assert_eq!(shown["data"]["messages"], 3, "{shown}");
    let left = std::fs::read_to_string(&file).unwrap();
    assert!(left.contains("deadDrop") && left.contains("no row") && !left.contains("ana"), "{left}");
    assert!(!data.0.join("refused.retry.jsonl").exists());
    let (code, _, complaint) = {
        let url = format!("http://{}", gateway.address);
        run(&gateway, &["store", "refused", "retry", "--url", &url, "--key", "wrong-key-wrong"], &[])
    };
    assert!(code == 5 && complaint.contains("401"), "{complaint}");
}
