//! MCP servers as sources of tools: the official example server over stdio and HTTP, and one that dies, hangs, floods and
//! changes while turns go on.
//!
//! A server is waited for by what `/health/detailed` says of it; how soon that is, and after how many starts, is never
//! asked: a busy machine may take a server that lives for one that hangs.
use crate::peers::ask_until;
use crate::peers::certificates::{self, Certificate};
use crate::peers::gateway::{Gateway, command, merge, new_folder, whole};
use crate::peers::model::Model;
use crate::peers::server::{After, Server};
use crate::tools::{audit, call, code, result};
use rustix::process::Signal;
use rustls::ServerConfig;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A model that calls the tool that it is told to, by `name arguments`, and says what the tool said.
fn obedient() -> Model {
    Model::start(|asked, speech| {
        let body = asked.json();
        let messages = body["messages"].as_array().unwrap();
        speech.begin();
        let last = messages.last().unwrap();
        if last["role"] == "tool" {
            speech.token(&result(&last["content"]));
            speech.finish("stop");
            speech.usage(1, 1);
            speech.done();
        } else {
            let (name, arguments) = last["content"].as_str().unwrap().split_once(' ').unwrap();
            call(speech, &[(name, arguments)]);
        }
        After::Keep
    })
}

fn config(model: &Model, tools: Value, more: Value) -> Value {
    let mut config = json!({
        "models": { "sim": model.config(json!({})), "echo": { "provider": "echo" } },
        "agents": {
            "main": { "models": ["sim"], "attemptsMax": 1, "tools": ["*"] },
            "echo": { "models": ["echo"] },
        },
        "route": "main",
        "limits": { "mcp": { "restartMinMillis": 10, "restartMaxMillis": 50 } },
        "tools": tools,
    });
    merge(&mut config, more);
    config
}

/// Has the model call a tool; what the tool said.
fn ask(gateway: &Gateway, name: &str, arguments: &Value) -> String {
    let asked = json!({ "message": format!("{name} {arguments}"), "sessionId": "s" });
    let answer = gateway.post("/api/chat", &asked).json();
    answer["data"]["message"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn server(gateway: &Gateway, name: &str) -> Option<Value> {
    let servers = gateway.get("/health/detailed").json()["tools"]["servers"].clone();
    servers.as_array()?.iter().find(|server| server["name"] == name).cloned()
}

/// Waits until a server is like this.
fn await_server(gateway: &Gateway, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    ask_until("the server is as it should be", || server(gateway, name).filter(|server| is(server)))
}

fn await_up(gateway: &Gateway, name: &str) -> Value {
    await_server(gateway, name, |server| server["status"] == "up")
}

/// Waits until the server answers a call: one that failed is back, though it may fail again for a busy machine's sake.
fn await_answer(gateway: &Gateway, server: &str) {
    ask_until("the server answers again", || {
        let said = ask(gateway, &format!("{server}__say"), &json!({ "text": "back" }));
        (said == "back").then_some(())
    });
}

/// Where a program of this machine lies.
fn program(name: &str) -> String {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
    let path = String::from_utf8(found.stdout).unwrap();
    assert!(found.status.success(), "there is no {name} here");
    path.trim().to_owned()
}

/// Python itself, and not what some put before it to choose among several.
fn python() -> String {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().to_owned()
}

fn hostile(more: Value) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/hostile.py");
    let mut server = json!({ "type": "mcp", "command": python(), "args": [script] });
    merge(&mut server, more);
    server
}

fn services(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/services");
    let output = Command::new(script).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Does this process live? One that ended and that nobody asked for is gone, too.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn the_official_example_server_over_stdio() {
    let path = services(&["program", "everything"]);
    if path.is_empty() {
        return;
    }
    let model = obedient();
    let everything = json!({
        "type": "mcp", "command": program("node"), "args": [path, "stdio"],
        "env": { "CONFIGURED": "canary-of-the-server" },
    });
    let agents = json!({ "main": { "tools": ["everything.echo", "everything.get-*"] } });
    let config = config(&model, json!({ "everything": everything }), json!({ "agents": agents }));
    let folder = new_folder();
    std::fs::write(folder.join("clawgate.json"), whole(config)).unwrap();
    let mut started = command(&folder, &[]);
    started.env("OPERATORS_KEY", "canary-of-the-gateway");
    let gateway = Gateway::begin_by(started, folder).serving();
    await_up(&gateway, "everything");
    assert_eq!(ask(&gateway, "everything__echo", &json!({ "message": "hello" })), "Echo: hello");
    assert!(ask(&gateway, "everything__get-sum", &json!({ "a": 2, "b": 3 })).contains('5'));
    let refused = ask(&gateway, "everything__get-sum", &json!({ "a": "two", "b": 3 }));
    assert_eq!(code(&refused), "TOOL_ARGUMENTS");
    let hidden = ask(&gateway, "everything__trigger-long-running-operation", &json!({}));
    assert_eq!(code(&hidden), "TOOL_UNKNOWN", "no pattern of the agent names it");
    assert!(ask(&gateway, "everything__get-tiny-image", &json!({})).contains("an image (image/png"));
    let environment: Value = serde_json::from_str(&ask(&gateway, "everything__get-env", &json!({}))).unwrap();
    assert_eq!(environment["CONFIGURED"], "canary-of-the-server");
    assert!(environment["OPERATORS_KEY"].is_null(), "{environment}");
    let offered = model.bodies()[0]["tools"].as_array().unwrap().clone();
    assert!(offered.iter().all(|tool| {
        let name = tool["function"]["name"].as_str().unwrap();
        name == "everything__echo" || name.starts_with("everything__get-")
    }));
    let lines = audit(&gateway, 2);
    assert_eq!((&lines[0]["tool"], &lines[1]["outcome"]), (&json!("everything.echo"), &json!("ok")));
    assert_eq!(
        gateway.metric("clawgate_tool_calls_total", "tool=\"everything\",outcome=\"TOOL_ARGUMENTS\""),
        1
    );
    assert!(3 <= gateway.metric("clawgate_tool_calls_total", "tool=\"everything\",outcome=\"ok\""));
}

#[test]
fn the_official_example_server_over_http() {
    if services(&["program", "everything"]).is_empty() {
        return;
    }
    let folder = Services(new_folder());
    let place = folder.0.to_str().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let model = obedient();
    let everything = json!({ "type": "mcp", "url": format!("http://127.0.0.1:{port}/mcp") });
    let limits = json!({ "mcp": { "pingSeconds": 1 } });
    let gateway =
        Gateway::start(config(&model, json!({ "everything": everything }), json!({ "limits": limits })));
    // The gateway does not wait for it, and neither does anybody else.
    let down = await_server(&gateway, "everything", |server| server["status"] == "down");
    assert!(down["problem"].as_str().unwrap().contains("cannot be reached"), "{down}");
    let echo = || ask(&gateway, "everything__echo", &json!({ "message": "hello" }));
    for _ in 0..2 {
        services(&["start", "everything", place, &port]);
        await_up(&gateway, "everything");
        ask_until("it answers", || (echo() == "Echo: hello").then_some(()));
        services(&["stop", "everything", place]);
        await_server(&gateway, "everything", |server| server["status"] == "down");
        let code = code(&echo());
        assert!(["TOOL_UNAVAILABLE", "TOOL_FAILED"].contains(&code.as_str()), "{code}");
    }
}

/// Servers of a test, which end with it.
struct Services(PathBuf);

impl Drop for Services {
    fn drop(&mut self) {
        services(&["remove", self.0.to_str().unwrap_or_default()]);
    }
}

#[test]
fn a_server_that_dies_is_started_again() {
    let model = obedient();
    let gateway = Gateway::start(config(&model, json!({ "h": hostile(json!({})) }), json!({})));
    await_up(&gateway, "h");
    let first = ask(&gateway, "h__number", &json!({}));
    let said = ask(&gateway, "h__die", &json!({}));
    assert_eq!(code(&said), "TOOL_FAILED", "{said}");
    await_answer(&gateway, "h");
    assert_ne!(ask(&gateway, "h__number", &json!({})), first);
    ask_until("its process is gone", || (!lives(&first)).then_some(()));
    assert!(1 <= gateway.await_metric("clawgate_mcp_failures_total", "server=\"h\",reason=\"ended\"", 1));
    assert!(2 <= gateway.await_metric("clawgate_mcp_starts_total", "server=\"h\"", 2));
    assert_eq!(gateway.metric("clawgate_tool_calls_total", "tool=\"h\",outcome=\"TOOL_FAILED\""), 1);
    gateway.await_line("an MCP server failed");
}

#[test]
fn a_server_that_floods_is_stopped_and_nothing_of_it_is_held() {
    let model = obedient();
    let limits = json!({ "mcp": { "messagesPerSecondMax": 50 } });
    let more = json!({ "limits": limits });
    let gateway = Gateway::start(config(&model, json!({ "h": hostile(json!({})) }), more));
    await_up(&gateway, "h");
    for (tool, part) in [("h__flood", "messageBytesMax"), ("h__chatter", "messagesPerSecondMax")] {
        let said = ask(&gateway, tool, &json!({}));
        assert_eq!(code(&said), "TOOL_FAILED", "{said}");
        assert!(said.contains(part), "{said}");
        await_answer(&gateway, "h");
    }
    assert!(2 <= gateway.metric("clawgate_mcp_failures_total", "server=\"h\",reason=\"flooded\""));
    let bytes = gateway.resident_bytes();
    assert!(bytes < 400 << 20, "{bytes} bytes are resident");
}

#[test]
fn a_server_that_hangs_holds_up_nobody_else() {
    let model = obedient();
    let tools = json!({ "h": hostile(json!({})), "short": hostile(json!({ "seconds": 1 })) });
    let limits = json!({ "mcp": { "pingSeconds": 1 } });
    let gateway = Gateway::start(config(&model, tools, json!({ "limits": limits })));
    await_up(&gateway, "h");
    await_up(&gateway, "short");
    // One that is waited for long, while others ask and are answered.
    let mut socket = gateway.socket();
    socket.say(json!({ "type": "message", "channel": "api", "content": "h__slow {}", "sessionId": "hangs" }));
    model.await_asked(1);
    let asked = json!({ "message": "hello", "sessionId": "other", "agent": "echo" });
    assert_eq!(gateway.post("/api/chat", &asked).json()["data"]["message"], "hello");
    await_answer(&gateway, "h");
    // One that does not even say that it lives.
    let said = ask(&gateway, "short__hang", &json!({}));
    assert_eq!(code(&said), "TOOL_TIMEOUT", "{said}");
    gateway.await_metric("clawgate_mcp_failures_total", "server=\"short\",reason=\"hung\"", 1);
    await_answer(&gateway, "short");
}

#[test]
fn what_a_server_says_is_told_within_bounds() {
    let model = obedient();
    let tools = json!({ "h": hostile(json!({ "outputBytesMax": 1_000 })) });
    let gateway = Gateway::start(config(&model, tools, json!({})));
    await_up(&gateway, "h");
    let long = ask(&gateway, "h__long", &json!({}));
    assert!(long.len() < 1_100 && long.contains("[cut"), "{}", long.len());
    assert_eq!(code(&ask(&gateway, "h__fail", &json!({ "text": "no" }))), "TOOL_FAILED");
    assert_eq!(ask(&gateway, "h__garbage", &json!({})), "said");
    let line = gateway.await_line("a line of another");
    assert!(line.contains("an MCP server says \"2026"), "a stranger's text is quoted: {line}");
    let environment = ask(&gateway, "h__environment", &json!({}));
    let names: Vec<&str> = environment.lines().filter(|name| *name != "LC_CTYPE").collect();
    assert_eq!(names, ["HOME", "LANG", "PATH"], "LC_CTYPE is Python's own");
}

#[test]
fn a_list_that_changed_is_asked_for() {
    let model = obedient();
    let gateway = Gateway::start(config(&model, json!({ "h": hostile(json!({})) }), json!({})));
    let before = await_up(&gateway, "h")["tools"].as_u64().unwrap();
    assert_eq!(code(&ask(&gateway, "h__grown", &json!({}))), "TOOL_UNKNOWN");
    assert_eq!(ask(&gateway, "h__grow", &json!({})), "grown");
    await_server(&gateway, "h", |server| server["tools"] == before + 1);
    assert_eq!(ask(&gateway, "h__grown", &json!({ "text": "new" })), "new");
}

#[test]
fn servers_follow_the_configuration_and_end_with_the_gateway() {
    let model = obedient();
    let with = |tools: Value| {
        let more = json!({ "server": { "watch": false } });
        config(&model, tools, more)
    };
    let both = json!({ "stays": hostile(json!({})), "goes": hostile(json!({})) });
    let mut gateway = Gateway::start(with(both));
    await_up(&gateway, "stays");
    await_up(&gateway, "goes");
    let number = |name: &str| ask(&gateway, &format!("{name}__number"), &json!({}));
    let (stays, goes) = (number("stays"), number("goes"));
    // How its tools are offered is no matter of the server's.
    let others =
        json!({ "stays": hostile(json!({ "tier": 0, "seconds": 20 })), "comes": hostile(json!({})) });
    gateway.reload(with(others), 1);
    await_up(&gateway, "comes");
    ask_until("the process of the one that is gone has ended", || (!lives(&goes)).then_some(()));
    assert_eq!(number("stays"), stays);
    assert!(server(&gateway, "goes").is_none());
    let comes = number("comes");
    let changed = hostile(json!({ "env": { "A": "b" } }));
    gateway.reload(with(json!({ "stays": changed, "comes": hostile(json!({})) })), 2);
    ask_until("another process serves", || {
        let now = ask(&gateway, "stays__number", &json!({}));
        (now.parse::<u32>().is_ok() && now != stays).then_some(())
    });
    ask_until("the old one has ended", || (!lives(&stays)).then_some(()));
    let last = number("stays");
    gateway.terminate();
    assert!(gateway.ended().success());
    assert!(!lives(&last) && !lives(&comes), "the gateway waits for the end of its servers");
}

#[test]
fn servers_end_with_a_gateway_that_is_killed() {
    let model = obedient();
    let mut gateway = Gateway::start(config(&model, json!({ "h": hostile(json!({})) }), json!({})));
    await_up(&gateway, "h");
    let number = ask(&gateway, "h__number", &json!({}));
    assert!(lives(&number));
    gateway.may_end();
    gateway.signal(Signal::KILL);
    gateway.ended();
    ask_until("its process is gone", || (!lives(&number)).then_some(()));
}

/// A server of one tool over streamable HTTP, without sessions and without a stream of its own: the least that there is.
fn least(tls: Option<Arc<ServerConfig>>) -> Server {
    Server::start(tls, |asked, line| {
        if asked.bytes.is_empty() {
            line.answer(405, &[], "");
            return After::Close;
        }
        let request = asked.json();
        let Some(id) = request.get("id") else {
            line.answer(202, &[], "");
            return After::Close;
        };
        let params = &request["params"];
        let result = match request["method"].as_str().unwrap() {
            "initialize" => json!({
                "protocolVersion": params["protocolVersion"], "capabilities": { "tools": {} },
                "serverInfo": { "name": "least", "version": "1" },
            }),
            "tools/list" => {
                let schema = json!({ "type": "object", "properties": { "text": { "type": "string" } } });
                json!({ "tools": [{ "name": "say", "description": "It says.", "inputSchema": schema }] })
            }
            "tools/call" => json!({ "content": [{ "type": "text", "text": params["arguments"]["text"] }] }),
            _ => json!({}),
        };
        line.answer(200, &[], &json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string());
        After::Close
    })
}

fn says(gateway: &Gateway, server: &str) -> String {
    ask(gateway, &format!("{server}__say"), &json!({ "text": "hello" }))
}

/// A name that means a private address is not connected to, however it is written, unless that address is allowed; and a
/// server that leads elsewhere is not followed.
#[test]
fn a_server_is_reached_only_where_it_may_be() {
    let (hidden, shown, model) = (least(None), least(None), obedient());
    let elsewhere = format!("http://{}/mcp", hidden.address);
    let leading = Server::start(None, move |_, line| {
        line.answer(307, &[("location", &elsewhere)], "");
        After::Close
    });
    // The system reads both hosts as 127.0.0.1, and neither is an address that somebody wrote and meant.
    let at = |host: &str, server: &Server, more: Value| {
        let mut tool =
            json!({ "type": "mcp", "url": format!("http://{host}:{}/mcp", server.address.port()) });
        merge(&mut tool, more);
        tool
    };
    let tools = json!({
        "short": at("127.1", &hidden, json!({})),
        "number": at("2130706433", &hidden, json!({ "allowAddresses": ["10.0.0.0/8"] })),
        "allowed": at("127.1", &shown, json!({ "allowAddresses": ["127.0.0.1"] })),
        "leading": at("127.0.0.1", &leading, json!({})),
    });
    let gateway = Gateway::start(config(&model, tools, json!({})));
    await_up(&gateway, "allowed");
    assert_eq!(says(&gateway, "allowed"), "hello");
    for (name, why) in [
        ("short", "127.0.0.1, which is not to be reached"),
        ("number", "127.0.0.1, which is not to be reached"),
        ("leading", "redirect"),
    ] {
        let down = await_server(&gateway, name, |server| server["status"] == "down");
        assert!(down["problem"].as_str().unwrap().contains(why), "{down}");
        assert_eq!(code(&says(&gateway, name)), "TOOL_UNKNOWN", "it has never said what it can do");
    }
    assert_eq!(hidden.connections(), 0);
}

/// A server over TLS is spoken to as long as it shows a certificate that `caFile` vouches for, and told nothing by others.
#[test]
fn a_server_over_tls_shows_a_certificate_that_is_trusted() {
    let (trusted, other, changed) =
        (Certificate::new(), Certificate::new(), Arc::new(AtomicBool::new(false)));
    let changing = least(Some(certificates::changing(&trusted, &other, changed.clone())));
    let (strange, model) = (least(Some(other.server())), obedient());
    let folder = new_folder();
    trusted.write(&folder);
    let at = |server: &Server, more: Value| {
        let mut tool =
            json!({ "type": "mcp", "url": format!("https://localhost:{}/mcp", server.address.port()) });
        merge(&mut tool, more);
        tool
    };
    let tools = json!({
        "changing": at(&changing, json!({ "caFile": "cert.pem" })),
        "strange": at(&strange, json!({ "caFile": "cert.pem" })),
        "public": at(&strange, json!({})),
    });
    let limits = json!({ "limits": { "mcp": { "pingSeconds": 1 } } });
    let gateway = Gateway::start_in(folder, config(&model, tools, limits), &[]);
    await_up(&gateway, "changing");
    assert_eq!(says(&gateway, "changing"), "hello");
    for name in ["strange", "public"] {
        let down = await_server(&gateway, name, |server| server["status"] == "down");
        let why = down["problem"].as_str().unwrap().to_owned();
        assert!(why.contains("its TLS fails") && why.to_lowercase().contains("certificate"), "{why}");
    }
    assert_eq!(strange.requests(), 0);
    changed.store(true, Ordering::Release);
    let failed = code(&says(&gateway, "changing"));
    assert!(["TOOL_FAILED", "TOOL_UNAVAILABLE"].contains(&failed.as_str()), "{failed}");
    // What it went down for first may have been that it did not answer in time.
    let fails = |server: &Value| server["problem"].as_str().is_some_and(|why| why.contains("its TLS fails"));
    await_server(&gateway, "changing", |server| server["status"] == "down" && fails(server));
    let asked = changing.requests();
    assert_eq!(
        code(&says(&gateway, "changing")),
        "TOOL_UNAVAILABLE",
        "its tools are known, and it is not there"
    );
    assert_eq!(changing.requests(), asked);
}
