//! The stores that are servers, against real ones that `scripts/services` starts: the suite, a server that ends in the
//! middle of a load and comes back, TLS, wrong passwords, and servers that are something else.
#![allow(clippy::unwrap_used)]
use super::conform::{Bench, Folder, KEEP, PATIENCE, check, key, plan, say, session, set};
use super::faults::until;
use super::*;
use crate::config::secret::Secret;
use clawgate_core::view::Role;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// A server of a test's own.
struct Server {
    name: &'static str,
    port: u16,
    folder: Folder,
}

fn services(arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/services");
    let status = Command::new(script).args(arguments).status().unwrap();
    assert!(status.success(), "scripts/services {arguments:?}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn pem(what: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
}

impl Server {
    fn new(name: &'static str) -> Self {
        let server = Self { name, port: free_port(), folder: Folder::new() };
        server.start();
        server
    }

    /// One that speaks TLS.
    fn under_tls(name: &'static str) -> Self {
        let server = Self { name, port: free_port(), folder: Folder::new() };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(server.folder.path().join("server.crt"), pem("CERTIFICATE", made.cert.der())).unwrap();
        std::fs::write(
            server.folder.path().join("server.key"),
            pem("PRIVATE KEY", &made.signing_key.serialize_der()),
        )
        .unwrap();
        server.start();
        server
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn start(&self) {
        services(&["start", self.name, self.path(), &self.port.to_string()]);
    }

    fn stop(&self) {
        services(&["stop", self.name, self.path()]);
    }

    fn kind(&self, prefix: &str) -> Kind {
        place(self.name, &format!("clawgate:clawgate@127.0.0.1:{}", self.port), prefix, None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        services(&["remove", self.path()]);
    }
}

fn place(name: &str, authority: &str, prefix: &str, ca_file: Option<PathBuf>) -> Kind {
    let connect_age_max = Duration::from_secs(5);
    let prefix = prefix.to_owned();
    if name == "redis" {
        let scheme = if ca_file.is_some() { "rediss" } else { "redis" };
        let url = Secret::new(format!("{scheme}://{authority}/0"));
        return Kind::Redis(redis::Place { url, ca_file, prefix, connect_age_max, keep: KEEP });
    }
    let mode = if ca_file.is_some() { "?sslmode=require" } else { "" };
    let url = Secret::new(format!("postgres://{authority}/postgres{mode}"));
    Kind::Postgres(postgres::Place { url, ca_file, schema: prefix, connect_age_max, keep: KEEP })
}

fn conforms(name: &'static str) {
    let server = Server::new(name);
    let number = Cell::new(0);
    check(|| {
        number.set(number.get() + 1);
        server.kind(&format!("case_{}", number.get()))
    });
}

#[test]
fn redis_conforms() {
    conforms("redis");
}

#[test]
fn postgres_conforms() {
    conforms("postgres");
}

/// Writes of several sessions, as the journal sees them: those that were refused are there to be written again.
struct Load<'b> {
    bench: &'b Bench,
    next: u64,
    refused: Vec<(u16, u64)>,
    confirmed: Vec<(u16, u64)>,
}

const SESSIONS: u16 = 8;

impl Load<'_> {
    fn write(&mut self, shard: u16, ticket: u64) -> bool {
        let party = format!("p{shard}");
        let row = SessionRow { revision: ticket, messages: 1, ..session(&party) };
        let ops = vec![say(&party, ticket, Role::User, &format!("text {ticket}")), set(row)];
        self.bench.store.write(shard, ticket, ops).is_ok()
    }

    /// A message of each session. Returns whether all were taken.
    fn round(&mut self) -> bool {
        self.next += 1;
        let mut is_taken = true;
        for shard in 0..SESSIONS {
            if !self.write(shard, self.next) {
                self.refused.push((shard, self.next));
                is_taken = false;
            }
        }
        is_taken
    }

    fn hear(&mut self) {
        self.confirmed.extend(self.bench.confirmed.try_iter());
    }
}

/// The server ends without a word in the middle of a load, twice, and comes back.
fn outlives(name: &'static str) {
    let server = Server::new(name);
    let folder = Folder::new();
    let mut plan = plan(server.kind("outlives"), folder.path());
    plan.queue.ops_max = 400;
    plan.attempt_age_max = Duration::from_secs(5);
    let bench = Bench::start(&plan).unwrap();
    let mut load = Load { bench: &bench, next: 0, refused: Vec::new(), confirmed: Vec::new() };
    for _ in 0..2 {
        let before = load.confirmed.len();
        while load.confirmed.len() < before + 100 {
            if bench.store.counters().waiting_ops < 200 {
                load.round();
                load.hear();
            } else {
                load.confirmed.push(bench.confirmed.recv_timeout(PATIENCE).unwrap());
            }
        }
        server.stop();
        // The queue fills to its bound and no further, and the shards go on.
        while load.round() {
            assert!(bench.store.counters().waiting_ops <= 400);
        }
        let asked = Query::Load { key: key("p0"), messages_max: 10, bytes_max: 10_000 };
        let late = bench.try_ask(asked, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(&late, Trouble::Late(why) if why.contains("in time")), "{late:?}");
        let Health::Degraded { why, .. } = bench.store.health() else { panic!("nothing was noticed") };
        assert!(!why.contains("clawgate:clawgate"), "{why}");
        server.start();
        // What was refused comes from the journal, as soon as there is room.
        for (shard, ticket) in std::mem::take(&mut load.refused) {
            while !load.write(shard, ticket) {
                load.confirmed.push(bench.confirmed.recv_timeout(PATIENCE).unwrap());
            }
        }
        load.hear();
    }
    let expected = usize::from(SESSIONS) * usize::try_from(load.next).unwrap();
    while load.confirmed.len() < expected {
        load.confirmed.push(bench.confirmed.recv_timeout(PATIENCE).unwrap());
    }
    let all: BTreeSet<(u16, u64)> = load.confirmed.iter().copied().collect();
    assert_eq!(all.len(), expected, "each once");
    for shard in 0..SESSIONS {
        let loaded = bench.load(&key(&format!("p{shard}"))).unwrap();
        let texts: Vec<String> = loaded.history.into_iter().map(|said| said.text).collect();
        let expected: Vec<String> = (1..=load.next).map(|ticket| format!("text {ticket}")).collect();
        assert!(texts == expected, "session {shard}: {} of {}, in order", texts.len(), expected.len());
    }
    // Lines that nobody asks anything find their way back, too.
    until("healed", || bench.store.health() == Health::Ok);
    assert!(0 < bench.store.counters().failures);
    bench.close();
}

#[test]
fn redis_may_end_in_the_middle_of_a_load() {
    outlives("redis");
}

#[test]
fn postgres_may_end_in_the_middle_of_a_load() {
    outlives("postgres");
}

#[test]
fn a_server_that_is_down_at_the_start_is_awaited() {
    for name in ["redis", "postgres"] {
        let server = Server::new(name);
        server.stop();
        let folder = Folder::new();
        let bench = Bench::start(&plan(server.kind("late"), folder.path())).unwrap();
        assert!(matches!(bench.store.health(), Health::Degraded { .. }));
        server.start();
        until("healed without being asked", || bench.store.health() == Health::Ok);
        server.stop();
        bench.store.write(1, 7, vec![set(session("ana"))]).unwrap();
        server.start();
        assert_eq!(bench.confirmed.recv_timeout(PATIENCE).unwrap(), (1, 7));
        assert!(bench.load(&key("ana")).is_some());
        bench.close();
    }
}

#[test]
fn tls_is_spoken_and_certificates_are_checked() {
    for name in ["redis", "postgres"] {
        let server = Server::under_tls(name);
        let authority = format!("clawgate:clawgate@localhost:{}", server.port);
        let ours = server.folder.path().join("server.crt");
        let folder = Folder::new();
        let bench =
            Bench::start(&plan(place(name, &authority, "under_tls", Some(ours)), folder.path())).unwrap();
        bench.put(vec![set(session("ana"))]);
        assert!(bench.load(&key("ana")).is_some());
        bench.close();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = folder.path().join("other.crt");
        std::fs::write(&file, pem("CERTIFICATE", other.cert.der())).unwrap();
        let bench =
            Bench::start(&plan(place(name, &authority, "under_tls", Some(file)), folder.path())).unwrap();
        let Health::Degraded { why, .. } = bench.store.health() else { panic!("{name} trusted anybody") };
        assert!(why.contains("certificate"), "{why}");
        assert!(bench.store.close(PATIENCE));
    }
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    for name in ["redis", "postgres"] {
        let server = Server::new(name);
        let folder = Folder::new();
        let kind = place(name, &format!("clawgate:hunter2@127.0.0.1:{}", server.port), "wrong", None);
        let shown = format!("{kind:?}");
        let bench = Bench::start(&plan(kind, folder.path())).unwrap();
        let Health::Degraded { why, .. } = bench.store.health() else { panic!("it was let in") };
        assert!(why.contains("user and password in `store.url`"), "{why}");
        assert!(!why.contains("hunter2") && !shown.contains("hunter2"));
        assert!(bench.store.close(PATIENCE));
    }
}

#[test]
fn what_is_another_programs_or_a_newer_gateways_is_left_alone() {
    let redis = Server::new("redis");
    let postgres = Server::new("postgres");
    let start = |kind: Kind| {
        let folder = Folder::new();
        Bench::start(&plan(kind, folder.path()))
    };
    let refusal = |kind: Kind| match start(kind) {
        Ok(_) => panic!("it was opened"),
        Err(trouble) => trouble,
    };
    for server in [&redis, &postgres] {
        start(server.kind("newer")).unwrap().close();
    }
    let cli = |arguments: &[&str]| {
        let port = redis.port.to_string();
        let command = ["-p", &port, "-a", "clawgate", "--no-auth-warning"];
        assert!(Command::new("redis-cli").args(command).args(arguments).output().unwrap().status.success());
    };
    cli(&["SET", "newer:version", "99"]);
    cli(&["HSET", "recipes:version", "a", "b"]);
    let psql = |text: &str| {
        let url = format!("postgres://clawgate:clawgate@127.0.0.1:{}/postgres", postgres.port);
        assert!(Command::new("psql").args([&url, "-c", text]).output().unwrap().status.success(), "{text}");
    };
    psql("INSERT INTO newer.migrations VALUES (99, 0, 'x')");
    psql("CREATE SCHEMA recipes");
    psql("CREATE TABLE recipes.sessions (name text)");
    for server in [&redis, &postgres] {
        let newer = refusal(server.kind("newer"));
        assert!(matches!(&newer, Trouble::Foreign(why) if why.contains("newer gateway")), "{newer:?}");
        let foreign = refusal(server.kind("recipes"));
        assert!(matches!(&foreign, Trouble::Foreign(why) if why.contains("store.prefix")), "{foreign:?}");
    }
}

/// Rows that somebody else wrote over: what is asked for is said to be damaged, lists leave it out, nothing is taken for new
/// or for none, and the rest of the store goes on.
#[test]
fn rows_that_are_garbage_are_said_and_hold_nobody_up() {
    let redis = Server::new("redis");
    let postgres = Server::new("postgres");
    let letter = |uid| Op::Dead(Box::new(conform::letter(uid)));
    let mark = [7; 16];
    for server in [&redis, &postgres] {
        let folder = Folder::new();
        let bench = Bench::start(&plan(server.kind("garbage"), folder.path())).unwrap();
        bench.put(vec![set(session("ana")), say("ana", 1, Role::User, "x"), set(session("ben"))]);
        bench.put(vec![letter(5), letter(6), Op::Seen { mark, unix_millis: 86_400_000 }]);
        spoil(server);
        let load = |party: &str| Query::Load { key: key(party), messages_max: 10, bytes_max: 10_000 };
        let asked = [load("ana"), Query::DeadLetter { uid: 5 }, Query::LastUid];
        for query in asked {
            let outcome = bench.try_ask(query.clone(), PATIENCE);
            let name = server.name;
            assert!(matches!(&outcome, Err(Trouble::Damaged(why)) if !why.is_empty()), "{name}: {outcome:?}");
        }
        let seen = bench.try_ask(Query::WasSeen { mark, since_millis: 0 }, Duration::from_millis(500));
        assert!(seen.is_err(), "{}: it was seen, and nobody knows when: {seen:?}", server.name);
        assert!(bench.load(&key("ben")).is_some());
        let all = Query::DeadLetters { filter: LetterFilter::default(), after: None, limit: 10 };
        let Answer::DeadLetters { rows, .. } = bench.ask(all) else { panic!("another answer") };
        assert_eq!(rows.iter().map(|letter| letter.uid).collect::<Vec<_>>(), [6]);
        bench.put(vec![set(SessionRow { revision: 9, ..session("ana") })]);
        assert!(bench.load(&key("ana")).is_some(), "a newer row takes its place");
        bench.close();
    }
}

/// Writes over a session, a dead letter, a mark, and the latest name.
fn spoil(server: &Server) {
    let port = server.port.to_string();
    if server.name == "redis" {
        let session = key("ana");
        let commands: [&[&str]; 4] = [
            &["HSET", &format!("garbage:session:{}", session.as_str()), "body", "{ what"],
            &["HSET", "garbage:dead", "0000000000000005", "[]"],
            &["SET", "garbage:latest", "the last one"],
            &[
                "HSET",
                "garbage:seen:1:0707",
                "\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}\u{7}",
                "noon",
            ],
        ];
        for command in commands {
            let login = ["-p", &port, "-a", "clawgate", "--no-auth-warning"];
            let output = Command::new("redis-cli").args(login).args(command).output().unwrap();
            assert!(output.status.success(), "{command:?}");
        }
        return;
    }
    let url = format!("postgres://clawgate:clawgate@127.0.0.1:{port}/postgres");
    for text in [
        "UPDATE garbage.sessions SET body = '{ what' WHERE key LIKE '%ana%'",
        "UPDATE garbage.dead SET body = '[]' WHERE uid = 5",
        "DELETE FROM garbage.latest",
        "UPDATE garbage.seen_1 SET millis = -7",
    ] {
        let output = Command::new("psql").args([&url, "-c", text]).output().unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Accepts, and answers everything with these bytes.
fn impostor(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut asked = [0; 4_096];
                while matches!(socket.read(&mut asked), Ok(count) if 0 < count) {
                    if !answer.is_empty() && socket.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn a_server_that_is_something_else_is_said_and_blocks_nobody() {
    let noise: Vec<u8> =
        (0..4_096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answers: [Vec<u8>; 7] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        noise,
        b"$999999999999\r\n".to_vec(),
        b"*2147483647\r\n*2147483647\r\n".to_vec(),
        b"R\xff\xff\xff\xff\0\0\0\0".to_vec(),
        b"R\0\0\0\x04".to_vec(),
        // It never answers.
        Vec::new(),
    ];
    for answer in answers {
        for name in ["redis", "postgres"] {
            let port = impostor(answer.clone());
            let folder = Folder::new();
            let kind = place(name, &format!("clawgate:clawgate@127.0.0.1:{port}"), "x", None);
            let mut plan = plan(kind, folder.path());
            plan.attempt_age_max = Duration::from_millis(300);
            let bench = Bench::start(&plan).unwrap();
            bench.store.write(1, 1, vec![set(session("ana"))]).unwrap();
            let load = Query::Load { key: key("ana"), messages_max: 10, bytes_max: 10_000 };
            let late = bench.try_ask(load, Duration::from_millis(100));
            assert!(matches!(late, Err(Trouble::Late(_))), "{name} {answer:?}: {late:?}");
            assert!(!bench.store.close(Duration::from_millis(400)));
            let Health::Degraded { why, .. } = bench.store.health() else { panic!("{name}: {answer:?}") };
            assert!(!why.is_empty());
            assert!(bench.confirmed.try_recv().is_err(), "{name} {answer:?}");
        }
    }
}
