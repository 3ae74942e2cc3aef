//! Another process takes over while clients come all the time (row G4): no connection is refused or reset, and whoever
//! fails on the way leaves the one before it serving.
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, command, merge, new_folder};
use crate::peers::http::Client;
use crate::peers::model::Model;
use crate::peers::socket::{Heard, Socket};
use crate::peers::telegram::{SECRET, Telegram, private};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn with_data(more: Value) -> Value {
    let mut all = json!({ "data": { "folder": "data" } });
    merge(&mut all, more);
    all
}

fn chat(address: SocketAddr, text: &str) -> String {
    let mut client = Client::connect(address);
    client.post("/api/chat", &[], &json!({ "message": text }));
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["data"]["message"].as_str().unwrap().to_owned()
}

/// A WebSocket client that comes back when it is told to, and says again what was not answered.
fn talk(address: SocketAddr, name: &str, over: &AtomicBool) -> (u64, u64) {
    let (mut answered, mut returns) = (0, 0);
    'connections: while !over.load(Ordering::Relaxed) {
        let mut socket = Socket::open(address, "/ws", &[]).unwrap();
        while !over.load(Ordering::Relaxed) {
            let content = format!("canary {name} {answered}");
            let message = json!({ "type": "message", "content": content, "sessionId": name });
            if !socket.try_send(tungstenite::Message::text(message.to_string())) {
                returns += 1;
                continue 'connections;
            }
            let mut text = String::new();
            loop {
                match socket.hear() {
                    Heard::Said(said) if said["type"] == "chunk" => text += said["content"].as_str().unwrap(),
                    Heard::Said(said) if said["type"] == "done" => break,
                    Heard::Said(said) => {
                        assert_eq!(said["code"], "DRAINING", "{said}");
                        assert!(said["retryAfter"].is_u64(), "{said}");
                    }
                    Heard::Closed(code, reason) => {
                        assert_eq!((code, reason.as_str()), (4_410, "DRAINING"));
                        returns += 1;
                        continue 'connections;
                    }
                    Heard::Gone => panic!("the connection was cut without a word"),
                    Heard::Ping | Heard::Pong(_) => {}
                }
            }
            assert_eq!(text, content);
            answered += 1;
        }
    }
    (answered, returns)
}

/// However a test ends, those who work on until they are told end too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From two threads to one, to three and back, while new connections come all the time.
#[test]
fn nobody_is_refused_or_reset() {
    let mut gateway = Gateway::start(with_data(json!({})));
    let address = gateway.address;
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for worker in 0..3 {
            let (over, answers) = (&over, &answers);
            scope.spawn(move || {
                let text = format!("canary {worker}");
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(chat(address, &text), text);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let over = &over;
        let talks = ["a", "b", "c"].map(|name| scope.spawn(move || talk(address, name, over)));
        for shards in [1, 3, 2] {
            let enough = answers.load(Ordering::Relaxed) + 50;
            ask_until("work goes on", || (enough <= answers.load(Ordering::Relaxed)).then_some(()));
            let next =
                gateway.begin_successor(with_data(json!({ "server": { "shards": shards } }))).serving();
            assert_eq!(next.address, address, "the port is taken along");
            assert!(gateway.ended().success());
            gateway.await_line("the other process accepts: stopped");
            gateway = next;
        }
        let enough = answers.load(Ordering::Relaxed) + 50;
        ask_until("work goes on", || (enough <= answers.load(Ordering::Relaxed)).then_some(()));
        over.store(true, Ordering::Relaxed);
        for talk in talks {
            let (answered, returns) = talk.join().unwrap();
            assert!(0 < answered && 3 <= returns, "{answered} answers, {returns} returns");
        }
    });
    assert_eq!(gateway.status()["shards"], 2);
}

/// A gateway whose drain lasts until the test lets its model go on.
struct Held {
    gateway: Gateway,
    model: Model,
    socket: Socket,
}

impl Held {
    fn start() -> Self {
        let model = Model::held(1);
        let gateway = Gateway::start(with_data(json!({
            "models": { "sim": model.config(json!({})), "echo": { "provider": "echo" } },
            "agents": { "main": { "models": ["echo"] }, "slow": { "models": ["sim"] } },
            "server": { "drainSeconds": 3600 },
        })));
        let mut socket = gateway.socket();
        let message = json!({ "type": "message", "content": "canary", "sessionId": "s", "agent": "slow" });
        socket.say(message);
        model.await_asked(1);
        Self { gateway, model, socket }
    }

    /// The turn that was running ends as it should.
    fn finish(&mut self, drained: bool) {
        self.model.release(1);
        assert_eq!(self.socket.next()["content"], "word0 ");
        assert_eq!(self.socket.next()["type"], "done");
        if drained {
            assert_eq!(self.socket.closed(), Some((4_410, "DRAINING".to_owned())));
        }
    }
}

/// A process that asks for a gateway's place, and fails where the test wants it to.
struct Failing(OwnedFd);

impl Failing {
    fn ask(gateway: &Gateway) -> Self {
        let line = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let path = gateway.folder().join("data/control.sock");
        rustix::net::connect(&line, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let asks = Self(line);
        asks.say("takeover 1");
        asks
    }

    fn say(&self, text: &str) {
        rustix::net::send(&self.0, text.as_bytes(), SendFlags::NOSIGNAL).unwrap();
    }

    /// What the gateway says next; the descriptors that come along are dropped.
    fn hear(&self) -> String {
        let mut text = [0; 256];
        let (_, bytes) = rustix::net::recv(&self.0, &mut text[..], RecvFlags::empty()).unwrap();
        String::from_utf8(text[..bytes].to_vec()).unwrap()
    }

    fn granted(gateway: &Gateway) -> Self {
        let asks = Self::ask(gateway);
        assert_eq!(asks.hear(), "listeners");
        assert_eq!(asks.hear(), "drain 3600000");
        asks
    }
}

#[test]
fn one_that_fails_before_it_is_ready_changes_nothing() {
    let held = Held::start();
    drop(Failing::granted(&held.gateway));
    held.gateway.await_line("the process that was to take over is gone: we go on");
    assert_eq!(chat(held.gateway.address, "canary"), "canary");
    // One that speaks of something else.
    let other = Failing::ask(&held.gateway);
    assert_eq!((other.hear().as_str(), other.hear().as_str()), ("listeners", "drain 3600000"));
    other.say("takeover 2");
    assert!(other.hear().starts_with("no"));
    assert_eq!(other.hear(), "", "it hangs up");
    held.gateway.assert_well();
}

/// It ends while we drain: who waited is answered by us, and what ran ends well.
#[test]
fn one_that_fails_while_we_drain_gives_the_place_back() {
    let mut held = Held::start();
    let address = held.gateway.address;
    let mut idle = held.gateway.socket();
    let asks = Failing::granted(&held.gateway);
    asks.say("ready");
    held.gateway.await_line("another process takes over: draining");
    assert_eq!(idle.closed(), Some((4_410, "DRAINING".to_owned())));
    // This one finds nobody who accepts, and waits.
    let waits = std::thread::spawn(move || chat(address, "canary waits"));
    drop(asks);
    held.gateway.await_line("the process that was to take over is gone: we accept again");
    assert_eq!(waits.join().unwrap(), "canary waits");
    held.finish(false);
    assert_eq!(held.socket.ask("s", "canary").text(), "canary", "the connection goes on too");
    // And it is no worse for it: the next one takes over.
    let next = held.gateway.begin_successor(with_data(json!({}))).serving();
    assert!(held.gateway.ended().success());
    assert_eq!(chat(next.address, "canary"), "canary");
}

/// It ends when we have let go of everything: we begin anew, in the same process, with the same sockets.
#[test]
fn one_that_fails_before_it_accepts_is_replaced_by_ourselves() {
    let mut held = Held::start();
    let (address, pid) = (held.gateway.address, held.gateway.pid());
    let asks = Failing::granted(&held.gateway);
    asks.say("ready");
    held.gateway.await_line("another process takes over: draining");
    held.finish(true);
    assert_eq!(asks.hear(), "released");
    let waits: Vec<_> =
        (0..8).map(|at| std::thread::spawn(move || chat(address, &format!("canary {at}")))).collect();
    drop(asks);
    held.gateway.await_line("ended before it accepted: beginning anew");
    for (at, waits) in waits.into_iter().enumerate() {
        assert_eq!(waits.join().unwrap(), format!("canary {at}"));
    }
    held.gateway.assert_well();
    assert_eq!(held.gateway.pid(), pid);
    // It holds its data directory again, and hands it on.
    let next = held.gateway.begin_successor(with_data(json!({}))).serving();
    assert!(held.gateway.ended().success());
    assert_eq!((next.address, chat(address, "canary")), (address, "canary".to_owned()));
}

#[test]
fn a_killed_one_gives_the_place_back() {
    let mut held = Held::start();
    let mut next = held.gateway.begin_successor(with_data(json!({})));
    held.gateway.await_line("another process takes over: draining");
    next.may_end();
    next.signal(Signal::KILL);
    held.gateway.await_line("the process that was to take over is gone: we accept again");
    assert_eq!(chat(held.gateway.address, "canary"), "canary");
    held.finish(false);
    // Told to stop while it waits, one goes and leaves the place as well.
    let mut other = Held::start();
    let mut next = other.gateway.begin_successor(with_data(json!({})));
    other.gateway.await_line("another process takes over: draining");
    next.terminate();
    assert!(next.ended().success());
    other.gateway.await_line("the process that was to take over is gone: we accept again");
    other.gateway.assert_well();
}

#[test]
fn one_takes_over_at_a_time() {
    let mut held = Held::start();
    let first = held.gateway.begin_successor(with_data(json!({})));
    first.await_line("ready: waiting for the process that is replaced");
    let mut second = held.gateway.begin_successor(with_data(json!({})));
    second.may_end();
    assert_eq!(second.ended().code(), Some(3));
    second.await_line("another process takes that place already");
    held.finish(true);
    let first = first.serving();
    assert!(held.gateway.ended().success());
    assert_eq!(chat(first.address, "canary"), "canary");
}

/// Whatever is wrong with the new one shows before the old one is asked to go.
#[test]
fn one_that_cannot_serve_does_not_ask() {
    let other = Gateway::start(json!({}));
    let mut gateway = Gateway::start(with_data(json!({})));
    let mut refused = |config: Value, code: i32, line: &str| {
        let mut next = gateway.begin_successor(config);
        next.may_end();
        assert_eq!(next.ended().code(), Some(code));
        next.await_line(line);
        gateway.assert_well();
    };
    refused(
        with_data(json!({ "agents": { "main": { "models": ["nobody"] } } })),
        1,
        "the configuration is refused",
    );
    refused(json!({ "data": { "folder": "" } }), 3, "set `data.folder`");
    let taken = with_data(json!({ "server": { "listen": ["127.0.0.1:0", other.address.to_string()] } }));
    refused(taken, 3, "cannot listen on");
    gateway.await_line("the process that was to take over is gone: we go on");
    // Nobody there: it just starts.
    let alone = Gateway::start(with_data(json!({})));
    let folder = alone.folder().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(alone.folder().join("clawgate.json"), folder.join("clawgate.json")).unwrap();
    let first = Gateway::begin(folder, &["serve", "--takeover"]).serving();
    first.await_line("there is no process to be replaced");
    first.assert_well();
}

/// An answer that runs is finished by the old one while the new one's clients wait.
#[test]
fn connections_wait_for_what_runs() {
    let mut held = Held::start();
    let address = held.gateway.address;
    // On both threads, so that both are known to accept no more.
    let mut idle: Vec<_> = (0..16).map(|_| held.gateway.socket()).collect();
    let next = held.gateway.begin_successor(with_data(json!({ "server": { "shards": 3 } })));
    for socket in &mut idle {
        assert_eq!(socket.closed(), Some((4_410, "DRAINING".to_owned())));
    }
    let waits: Vec<_> =
        (0..20).map(|at| std::thread::spawn(move || chat(address, &format!("canary {at}")))).collect();
    held.finish(true);
    let next = next.serving();
    for (at, waits) in waits.into_iter().enumerate() {
        assert_eq!(waits.join().unwrap(), format!("canary {at}"));
    }
    assert!(held.gateway.ended().success());
    assert_eq!(next.metric("clawgate_messages_accepted_total", ""), 20);
}

/// What the drain's time does not let finish, and was acknowledged, the new one takes up from the journal: answered
/// once, by either.
#[test]
fn what_was_acknowledged_is_answered_by_whoever_goes_on() {
    let (slow, quick) = (Model::held(1), Model::saying(&["canary"]));
    let telegram = Telegram::start();
    let config = |model: &Model| {
        with_data(json!({
            "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
            "channels": { "telegram": telegram.config(json!({})) }, "server": { "drainSeconds": 0.3 },
        }))
    };
    let mut gateway = Gateway::start(config(&slow));
    let post = |gateway: &Gateway, id: u32| {
        let headers = [("x-telegram-bot-api-secret-token", SECRET)];
        gateway.call(
            "POST",
            "/webhooks/telegram",
            &headers,
            private(id.into(), 70 + i64::from(id), "hi").to_string().as_bytes(),
        )
    };
    (0..4).for_each(|id| assert_eq!(post(&gateway, id).status, 200));
    slow.await_asked(4);
    let next = gateway.begin_successor(config(&quick)).serving();
    gateway.await_line("the drain's time is up");
    assert!(gateway.ended().success());
    let mut chats: Vec<_> = telegram.await_posts(4).iter().map(|post| post.chat).collect();
    chats.sort_unstable();
    assert_eq!(chats, [70, 71, 72, 73]);
    // The platform asks again: all are known.
    (0..4).for_each(|id| assert_eq!(post(&next, id).status, 200));
    assert_eq!(next.await_metric("clawgate_messages_duplicate_total", "", 4), 4);
    assert_eq!(quick.bodies().len(), 4);
}

/// Ends a process that is no child of ours, however the test ends.
struct Stray(Pid);

impl Drop for Stray {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(self.0, Signal::TERM);
    }
}

#[test]
fn sigusr2_restarts() {
    let mut gateway = Gateway::start(with_data(json!({})));
    gateway.may_end();
    gateway.signal(Signal::USR2);
    let line = gateway.await_line("started a process to take our place");
    let pid: i32 = line.rsplit_once("pid=").unwrap().1.trim().parse().unwrap();
    let stray = Stray(Pid::from_raw(pid).unwrap());
    gateway.await_line(&format!("took over pid={}", gateway.pid()));
    gateway.await_line("the other process accepts: stopped");
    assert_eq!(chat(gateway.address, "canary"), "canary");
    drop(stray);
    // The log ends when both have.
    assert!(gateway.ended().success());
    // Without a data directory there is nobody to find.
    let plain = Gateway::start(json!({ "data": { "folder": "" } }));
    plain.signal(Signal::USR2);
    plain.await_line("needs `data.folder`");
    plain.assert_well();
}

/// Sockets that systemd made are used, and stay open when we go.
#[test]
fn sockets_of_systemd_are_used() {
    let folder = new_folder();
    let config = json!({ "server": { "listen": ["127.0.0.1:0"], "shards": 2 } });
    std::fs::write(folder.join("clawgate.json"), config.to_string()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let activate = |folder: &std::path::Path| {
        let mut shell = Command::new("/bin/sh");
        // By its standard input: a shell need not know descriptors of two digits.
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
        let socket = OwnedFd::from(listener.try_clone().unwrap());
        shell.arg("-c").arg(script).arg(command(folder, &[]).get_program());
        shell.current_dir(folder).env_clear();
        shell.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::piped());
        Gateway::begin_by(shell, folder.to_path_buf())
    };
    let mut gateway = activate(&folder).serving();
    assert_eq!(gateway.address, address);
    (0..8).for_each(|_| assert_eq!(chat(address, "canary"), "canary"));
    gateway.terminate();
    assert!(gateway.ended().success());
    // Who comes in between waits for the next one.
    let waits = std::thread::spawn(move || chat(address, "canary waits"));
    let gateway = activate(&folder).serving();
    assert_eq!(waits.join().unwrap(), "canary waits");
    gateway.assert_well();
}
