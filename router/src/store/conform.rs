//! The suite that every backend passes: what is written is what is read, in order, once, within bounds. Each case runs
//! over an empty store of each kind; random writes are held against the store in memory as the model.
#![allow(clippy::unwrap_used)]
// A case that fails is the last one named.
#![allow(clippy::print_stdout)]
use super::*;
use clawgate_core::event::Scope;
use clawgate_core::view::Role;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;

/// Longer than anything here takes, on a busy machine too.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const KEEP: Keep = Keep { messages_max: 40, bytes_max: 100_000 };

/// A folder that is gone when it is done with.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("clawgate-store-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn sqlite_place(file: PathBuf) -> sqlite::Place {
    sqlite::Place { file, bytes_max: 1 << 30, busy_age_max: Duration::from_millis(50), keep: KEEP }
}

pub(super) fn plan(kind: Kind, folder: &Path) -> Plan {
    Plan {
        kind,
        queue: QueuePlan {
            ops_max: 10_000,
            bytes_max: 64 << 20,
            batch_ops_max: 256,
            batch_interval: Duration::from_millis(3),
            reads_max: 1_000,
            connections: 2,
        },
        archive: Some(folder.join("archive")),
        refused: Some(folder.join("refused.jsonl")),
        attempt_age_max: PATIENCE,
        pause_min: Duration::from_millis(5),
        pause_max: Duration::from_millis(50),
    }
}

/// A store under test, and what it confirms.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) confirmed: Receiver<Confirmed>,
    ticket: Cell<u64>,
    _side: Side,
}

impl Bench {
    pub(super) fn start(plan: &Plan) -> Result<Self, Trouble> {
        let side = Side::start().unwrap();
        let (confirm, confirmed) = channel();
        let store = Store::start(plan, &side, Clock::start(), move |tickets| {
            tickets.iter().for_each(|ticket| confirm.send(*ticket).unwrap_or_default());
        })?;
        Ok(Self { store, confirmed, ticket: Cell::new(0), _side: side })
    }

    /// Writes, and waits until it is durable.
    pub(super) fn put(&self, ops: Vec<Op>) {
        let ticket = self.ticket.get() + 1;
        self.ticket.set(ticket);
        self.store.write(1, ticket, ops).unwrap();
        assert_eq!(self.confirmed.recv_timeout(PATIENCE).unwrap(), (1, ticket));
    }

    pub(super) fn try_ask(&self, query: Query, deadline: Duration) -> Result<Answer, Trouble> {
        let (reply, answered) = channel();
        self.store.read(query, deadline, move |outcome| reply.send(outcome).unwrap_or_default()).unwrap();
        answered.recv_timeout(PATIENCE * 2).unwrap()
    }

    pub(super) fn ask(&self, query: Query) -> Answer {
        self.try_ask(query, PATIENCE).unwrap()
    }

    pub(super) fn load_within(&self, key: &Key, messages_max: usize, bytes_max: usize) -> Option<Loaded> {
        let Answer::Loaded(loaded) = self.ask(Query::Load { key: key.clone(), messages_max, bytes_max })
        else {
            panic!("another answer");
        };
        loaded.map(|loaded| *loaded)
    }

    pub(super) fn load(&self, key: &Key) -> Option<Loaded> {
        self.load_within(key, 10_000, 10 << 20)
    }

    fn texts(&self, key: &Key) -> Vec<String> {
        self.load(key).unwrap().history.into_iter().map(|said| said.text).collect()
    }

    /// All pages of sessions.
    fn sessions(&self, filter: &SessionFilter, limit: usize) -> Vec<SessionRow> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let Answer::Sessions { rows, next } =
                self.ask(Query::Sessions { filter: filter.clone(), after, limit })
            else {
                panic!("another answer");
            };
            assert!(rows.len() <= limit);
            all.extend(rows);
            after = next;
            if after.is_none() {
                return all;
            }
        }
    }

    fn letters(&self, filter: &LetterFilter, limit: usize) -> Vec<DeadLetter> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let Answer::DeadLetters { rows, next } =
                self.ask(Query::DeadLetters { filter: filter.clone(), after, limit })
            else {
                panic!("another answer");
            };
            assert!(rows.len() <= limit);
            all.extend(rows);
            after = next;
            if after.is_none() {
                return all;
            }
        }
    }

    fn seen(&self, unix_millis: u64, limit: usize) -> BTreeMap<Mark, u64> {
        let (mut all, mut after) = (BTreeMap::new(), None);
        loop {
            let Answer::Seen { marks, next } = self.ask(Query::SeenSince { unix_millis, after, limit })
            else {
                panic!("another answer");
            };
            for (mark, at) in marks {
                assert_eq!(all.insert(mark, at), None, "a mark comes once");
            }
            after = next;
            if after.is_none() {
                return all;
            }
        }
    }

    fn cursors(&self) -> Vec<CursorRow> {
        let Answer::Cursors(rows) = self.ask(Query::Cursors) else { panic!("another answer") };
        rows
    }

    /// Ends it, with nothing left to write.
    pub(super) fn close(self) {
        assert!(self.store.close(PATIENCE));
    }
}

pub(super) fn session(party: &str) -> SessionRow {
    SessionRow {
        channel: "tg".to_owned(),
        scope: Scope::Direct,
        party: party.to_owned(),
        thread: String::new(),
        chat: "c".to_owned(),
        name: "Ana".to_owned(),
        agent: None,
        running_mode: Some("collect".to_owned()),
        state: State::Active,
        context: vec![("language".to_owned(), "de".to_owned())],
        tools: vec!["search".to_owned()],
        messages: 1,
        created_millis: 1_000,
        active_millis: 2_000,
        history_from: 0,
        revision: 1,
    }
}

pub(super) fn key(party: &str) -> Key {
    Key::new("tg", Scope::Direct, party, "")
}

pub(super) fn say(party: &str, uid: u64, role: Role, text: &str) -> Op {
    let said = Said { uid, role, text: text.to_owned(), unix_millis: uid.saturating_add(1_000) };
    Op::Said { key: key(party), said }
}

pub(super) fn set(row: SessionRow) -> Op {
    Op::Session(Box::new(row))
}

pub(super) fn letter(uid: u64) -> DeadLetter {
    DeadLetter {
        uid,
        channel: "tg".to_owned(),
        scope: Scope::Group,
        peer: "7".to_owned(),
        chat: "-100".to_owned(),
        thread: "42".to_owned(),
        name: "Ana".to_owned(),
        event: format!("event {uid}"),
        text: "what was asked\0".to_owned(),
        outbound: false,
        reply: Some("what was answered".to_owned()),
        next_part: 2,
        code: "DELIVERY_FAILED".to_owned(),
        detail: "Forbidden: bot was kicked".to_owned(),
        attempts: 3,
        accepted_millis: 5_000,
        failed_millis: 9_000,
    }
}

type Case = fn(&Bench, &Path);

/// Runs all cases, each over an empty store.
pub(super) fn check(fresh: impl Fn() -> Kind) {
    let cases: &[(&str, Case)] = &[
        ("what was said comes back in order", in_order),
        ("a load keeps both bounds", budgets),
        ("what comes again or late changes nothing", again),
        ("a reset forgets what was before", reset),
        ("a closed session is gone", closed),
        ("any text and any name is held", any_text),
        ("sessions are listed", listed),
        ("long histories are trimmed", trimmed),
        ("dead letters are listed, shown and dropped", dead),
        ("cursors only go forward", cursors),
        ("marks are found, listed and forgotten", marks),
        ("the latest name is known, also of what is gone", latest),
        ("idle sessions are archived", archived),
        ("what can never be held is set aside", set_aside),
        ("confirmed in order, each once", confirmed),
        ("random writes agree with the model", random),
    ];
    for (name, case) in cases {
        let folder = Folder::new();
        let bench = Bench::start(&plan(fresh(), folder.path())).unwrap();
        println!("{name}");
        case(&bench, folder.path());
        assert_eq!(bench.store.health(), Health::Ok, "{name}");
        assert_eq!(bench.store.counters().failures, 0, "{name}");
        bench.close();
    }
}

fn in_order(bench: &Bench, _: &Path) {
    assert_eq!(bench.load(&key("ana")), None);
    // A steered answer comes after the next question was asked.
    bench.put(vec![say("ana", 5, Role::User, "a"), say("ana", 6, Role::User, "c"), set(session("ana"))]);
    bench.put(vec![
        say("ana", 5, Role::Agent, "b"),
        say("bob", 1, Role::User, "another's"),
        set(session("bob")),
    ]);
    bench.put(vec![say("ana", 6, Role::Agent, "d")]);
    let loaded = bench.load(&key("ana")).unwrap();
    assert_eq!(loaded.session, session("ana"));
    let said: Vec<_> = loaded.history.iter().map(|said| (said.uid, said.role, said.text.as_str())).collect();
    let expected = [(5, Role::User, "a"), (5, Role::Agent, "b"), (6, Role::User, "c"), (6, Role::Agent, "d")];
    assert_eq!(said, expected);
    assert_eq!(loaded.history[0].unix_millis, 1_005);
    // What has rows and no session is no conversation yet.
    bench.put(vec![say("eve", 1, Role::User, "x")]);
    assert_eq!(bench.load(&key("eve")), None);
    assert_eq!(bench.sessions(&SessionFilter::default(), 10).len(), 2);
}

fn budgets(bench: &Bench, _: &Path) {
    let rows = (1..=20).map(|uid| say("ana", uid, Role::User, &"x".repeat(usize::try_from(uid).unwrap())));
    bench.put(rows.chain([set(session("ana"))]).collect());
    for (messages_max, bytes_max, first) in [
        (100, 10_000, 1),
        (3, 10_000, 18),
        (100, 57, 18),
        (100, 56, 19),
        (100, 19, 21),
        (0, 10_000, 21),
        (100, 0, 21),
    ] {
        let loaded = bench.load_within(&key("ana"), messages_max, bytes_max).unwrap();
        let uids: Vec<u64> = loaded.history.iter().map(|said| said.uid).collect();
        assert_eq!(uids, (first..=20).collect::<Vec<_>>(), "{messages_max} messages, {bytes_max} bytes");
    }
}

fn again(bench: &Bench, _: &Path) {
    let newer = SessionRow { revision: 5, name: "newer".to_owned(), ..session("ana") };
    bench.put(vec![say("ana", 1, Role::User, "first"), set(newer.clone())]);
    bench.put(vec![say("ana", 1, Role::User, "again"), say("ana", 1, Role::Agent, "answer")]);
    for revision in [4, 5] {
        bench.put(vec![set(SessionRow { revision, name: "older".to_owned(), ..session("ana") })]);
    }
    assert_eq!(bench.load(&key("ana")).unwrap().session, newer);
    assert_eq!(bench.texts(&key("ana")), ["first", "answer"]);
    // Twice in one batch, too.
    bench.put(vec![say("ana", 2, Role::User, "one"), say("ana", 2, Role::User, "two")]);
    assert_eq!(bench.texts(&key("ana")), ["first", "answer", "one"]);
}

fn reset(bench: &Bench, _: &Path) {
    bench.put((1..=4).map(|uid| say("ana", uid, Role::User, "x")).chain([set(session("ana"))]).collect());
    bench.put(vec![set(SessionRow { history_from: 3, revision: 2, ..session("ana") })]);
    let uids = |bench: &Bench| {
        bench.load(&key("ana")).unwrap().history.iter().map(|said| said.uid).collect::<Vec<_>>()
    };
    assert_eq!(uids(bench), [3, 4]);
    bench.put(vec![say("ana", 2, Role::User, "late"), say("ana", 5, Role::User, "new")]);
    assert_eq!(uids(bench), [3, 4, 5]);
    // A row that came before its session's first word is forgotten with it.
    bench.put(vec![say("bob", 1, Role::User, "x"), say("bob", 9, Role::User, "y")]);
    bench.put(vec![set(SessionRow { history_from: 5, ..session("bob") })]);
    assert_eq!(bench.texts(&key("bob")), ["y"]);
}

/// As an operator closes a session.
fn close(party: &str, revision: u64) -> Op {
    Op::Close { key: key(party), revision, before: revision }
}

fn closed(bench: &Bench, _: &Path) {
    bench.put(vec![say("ana", 1, Role::User, "x"), set(SessionRow { revision: 7, ..session("ana") })]);
    bench.put(vec![close("ana", 6)]);
    assert_eq!(bench.texts(&key("ana")), ["x"], "what is newer stays");
    bench.put(vec![close("ana", 7), close("nobody", 7)]);
    assert_eq!(bench.load(&key("ana")), None);
    let anew = SessionRow { revision: 8, history_from: 5, ..session("ana") };
    bench.put(vec![set(anew), say("ana", 5, Role::User, "anew")]);
    assert_eq!(bench.texts(&key("ana")), ["anew"]);
    // The journal is replayed: all of it again.
    bench.put(vec![say("ana", 1, Role::User, "x"), set(SessionRow { revision: 7, ..session("ana") })]);
    bench.put(vec![close("ana", 7)]);
    assert_eq!(bench.texts(&key("ana")), ["anew"]);
    // Also where the new one has said something, and was not saved itself yet.
    bench.put(vec![say("bob", 1, Role::User, "x"), set(SessionRow { revision: 2, ..session("bob") })]);
    bench.put(vec![say("bob", 4, Role::User, "anew"), say("bob", 3, Role::User, "at once")]);
    bench.put(vec![close("bob", 3)]);
    assert_eq!(bench.load(&key("bob")), None);
    bench.put(vec![set(SessionRow { revision: 5, ..session("bob") })]);
    assert_eq!(bench.texts(&key("bob")), ["at once", "anew"]);
    bench.put(vec![Op::Close { key: key("bob"), revision: 5, before: row::all() }]);
    bench.put(vec![set(SessionRow { revision: 6, ..session("bob") })]);
    assert_eq!(bench.texts(&key("bob")), [""; 0], "it has left as a whole");
}

fn any_text(bench: &Bench, _: &Path) {
    let texts = [
        "",
        "\0",
        "a\0b",
        "'; DROP TABLE sessions; --",
        "ä€𝄞\u{202e}\u{feff}",
        "{\"json\": 1}\r\n",
        "\\\\\"",
    ];
    let long = "x".repeat(3 << 20);
    let names =
        ["", "o'brien", "%_*?[a]", "ünï", "a b", "\\", "\u{10ffff}", "-1", "{}", "a:b", &"n".repeat(4_000)];
    for (uid, text) in texts.into_iter().chain([long.as_str()]).enumerate() {
        bench.put(vec![say("ana", u64::try_from(uid).unwrap(), Role::User, text)]);
    }
    bench.put(vec![set(session("ana"))]);
    let said = bench.texts(&key("ana"));
    assert!(said.iter().map(String::as_str).eq(texts.into_iter().chain([long.as_str()])));
    let rows: Vec<SessionRow> = names
        .iter()
        .map(|name| SessionRow {
            thread: (*name).to_owned(),
            scope: Scope::Group,
            chat: "\0".to_owned(),
            agent: Some((*name).to_owned()),
            context: vec![((*name).to_owned(), "\0".to_owned()), (String::new(), (*name).to_owned())],
            created_millis: 0,
            active_millis: i64::MAX.unsigned_abs(),
            ..session(name)
        })
        .collect();
    bench.put(rows.iter().cloned().map(set).collect());
    for row in &rows {
        assert_eq!(bench.load(&row.key()).unwrap().session, *row);
    }
    assert_eq!(bench.sessions(&SessionFilter::default(), 3).len(), rows.len() + 1);
    let most = Said { uid: i64::MAX.unsigned_abs(), role: Role::Agent, text: String::new(), unix_millis: 0 };
    bench.put(vec![Op::Said { key: key("ana"), said: most.clone() }]);
    assert_eq!(bench.load_within(&key("ana"), 1, 1).unwrap().history, [most]);
}

fn listed(bench: &Bench, _: &Path) {
    let agent = |number: u32| (number.is_multiple_of(3)).then(|| "sales".to_owned());
    let state = |number: u32| if number.is_multiple_of(2) { State::Active } else { State::Dormant };
    let mut rows: Vec<SessionRow> = (0..1_100)
        .map(|number| SessionRow {
            agent: agent(number),
            state: state(number),
            ..session(&format!("{:03}", number % 1_000))
        })
        .zip(0_u32..)
        .map(|(row, number)| {
            let channel = if number < 1_000 { "tg" } else { "tgx" };
            SessionRow { channel: channel.to_owned(), ..row }
        })
        .collect();
    bench.put(rows.iter().cloned().map(set).collect());
    rows.sort_by_key(SessionRow::key);
    let all = bench.sessions(&SessionFilter::default(), 100);
    assert!(all == rows, "all, in the order of their keys");
    let tg = || SessionFilter { channel: Some("tg".to_owned()), ..SessionFilter::default() };
    for (filter, expected) in [
        (tg(), 1_000),
        (SessionFilter { channel: Some("t".to_owned()), ..tg() }, 0),
        (SessionFilter { channel: Some("tgx".to_owned()), ..tg() }, 100),
        (SessionFilter { party: "12".to_owned(), ..tg() }, 10),
        (SessionFilter { party: "12".to_owned(), state: Some(State::Dormant), ..tg() }, 5),
        (SessionFilter { agent: Some("sales".to_owned()), ..tg() }, 334),
        (SessionFilter { state: Some(State::Expired), ..tg() }, 0),
    ] {
        for limit in [7, 1_000] {
            let found = bench.sessions(&filter, limit);
            assert_eq!(found.len(), expected, "{filter:?}");
            assert!(found.is_sorted_by_key(SessionRow::key), "{filter:?}");
        }
    }
}

fn trimmed(bench: &Bench, _: &Path) {
    for uid in 1..=100 {
        let row = SessionRow { messages: uid, revision: uid, ..session("ana") };
        bench.put(vec![say("ana", uid, Role::User, "q"), say("ana", uid, Role::Agent, "a"), set(row)]);
    }
    let kept = bench.load(&key("ana")).unwrap().history;
    let newest = kept.last().unwrap();
    assert_eq!((newest.uid, newest.role), (100, Role::Agent));
    // 40 are kept, and looked at after each 32nd message: after the 96th they were 77 to 96.
    assert_eq!((kept.len(), kept[0].uid, kept[0].role), (48, 77, Role::User));
    let long = |uid| say("bob", uid, Role::User, &"x".repeat(30_000));
    bench.put((1..=5).map(long).chain([set(SessionRow { messages: 32, ..session("bob") })]).collect());
    assert_eq!(bench.load(&key("bob")).unwrap().history.len(), 3, "as many as fit 100,000 bytes");
    // What was trimmed is not taken for new when the journal is replayed; at worst it is trimmed again.
    bench.put(vec![set(SessionRow { messages: 64, revision: 2, ..session("bob") })]);
    assert_eq!(bench.load(&key("bob")).unwrap().history.len(), 3);
}

fn dead(bench: &Bench, _: &Path) {
    let other =
        DeadLetter { channel: "shop".to_owned(), code: "CANCELLED".to_owned(), reply: None, ..letter(7) };
    bench.put(
        (1..=6)
            .map(|uid| Op::Dead(Box::new(letter(uid))))
            .chain([Op::Dead(Box::new(other.clone()))])
            .collect(),
    );
    bench.put(vec![Op::Dead(Box::new(DeadLetter { text: "again".to_owned(), ..letter(3) }))]);
    for limit in [1, 3, 7, 100] {
        let all = bench.letters(&LetterFilter::default(), limit);
        assert_eq!(all.iter().map(|letter| letter.uid).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(all[2], letter(3));
    }
    let filter = LetterFilter { channel: Some("shop".to_owned()), ..LetterFilter::default() };
    assert_eq!(bench.letters(&filter, 10), std::slice::from_ref(&other));
    let filter = LetterFilter { code: Some("CANCELLED".to_owned()), ..LetterFilter::default() };
    assert_eq!(bench.letters(&filter, 10), [other]);
    let filter = LetterFilter { key: Some(letter(1).key()), ..LetterFilter::default() };
    assert_eq!(bench.letters(&filter, 2).len(), 6);
    assert_eq!(bench.ask(Query::DeadLetter { uid: 4 }), Answer::DeadLetter(Some(Box::new(letter(4)))));
    bench.put(vec![Op::DeadDrop { uid: 4 }, Op::DeadDrop { uid: 99 }]);
    assert_eq!(bench.ask(Query::DeadLetter { uid: 4 }), Answer::DeadLetter(None));
    assert_eq!(bench.letters(&LetterFilter::default(), 2).len(), 6);
}

fn cursors(bench: &Bench, _: &Path) {
    let cursor = |channel: &str, value: &str, revision| CursorRow {
        channel: channel.to_owned(),
        value: value.to_owned(),
        revision,
    };
    assert_eq!(bench.cursors(), []);
    bench.put(vec![Op::Cursor(cursor("tg", "10", 2)), Op::Cursor(cursor("mail", "x", 1))]);
    bench.put(vec![Op::Cursor(cursor("tg", "9", 1)), Op::Cursor(cursor("tg", "8", 2))]);
    assert_eq!(bench.cursors(), [cursor("mail", "x", 1), cursor("tg", "10", 2)]);
    bench.put(vec![Op::Cursor(cursor("tg", "11", 3)), Op::Cursor(cursor("tg", "12\0", 4))]);
    assert_eq!(bench.cursors(), [cursor("mail", "x", 1), cursor("tg", "12\0", 4)]);
}

const DAY: u64 = 86_400_000;

fn mark(number: u64) -> Mark {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&spread.to_be_bytes());
    mark[8..].copy_from_slice(&number.to_be_bytes());
    mark
}

fn marks(bench: &Bench, _: &Path) {
    let at = |number: u64| 20_000 * DAY + number * DAY / 100;
    let all: BTreeMap<Mark, u64> = (0..500).map(|number| (mark(number), at(number))).collect();
    let ops: Vec<Op> = all.iter().map(|(mark, at)| Op::Seen { mark: *mark, unix_millis: *at }).collect();
    bench.put(ops.clone());
    bench.put(ops);
    let since = |number: u64, since_millis| bench.ask(Query::WasSeen { mark: mark(number), since_millis });
    let was_seen = |number: u64| since(number, 0);
    assert_eq!(was_seen(7), Answer::WasSeen(Some(at(7))));
    assert_eq!(was_seen(499), Answer::WasSeen(Some(at(499))));
    assert_eq!(was_seen(500), Answer::WasSeen(None));
    assert_eq!(since(199, at(199)), Answer::WasSeen(Some(at(199))));
    assert_eq!(since(199, at(200)), Answer::WasSeen(None), "that day is over");
    for limit in [1, 50, 100, 1_000] {
        assert!(bench.seen(0, limit) == all, "pages of {limit}");
    }
    let late: BTreeMap<Mark, u64> =
        all.iter().filter(|(_, seen)| at(250) <= **seen).map(|(m, s)| (*m, *s)).collect();
    assert!(bench.seen(at(250), 30) == late);
    let forget = Query::ForgetSeen { before_millis: at(250) };
    assert_eq!(bench.ask(forget.clone()), Answer::ForgotSeen { days: 2 });
    assert_eq!(bench.ask(forget), Answer::ForgotSeen { days: 0 });
    assert_eq!(was_seen(7), Answer::WasSeen(None));
    assert_eq!(was_seen(200), Answer::WasSeen(Some(at(200))));
    assert_eq!(bench.seen(0, 1_000).len(), 300);
    // A day that was dropped may come again: a clock was set back.
    bench.put(vec![Op::Seen { mark: mark(7), unix_millis: at(7) }]);
    assert_eq!(was_seen(7), Answer::WasSeen(Some(at(7))));
    bench.put(vec![Op::Seen { mark: mark(7), unix_millis: at(450) }]);
    assert_eq!(was_seen(7), Answer::WasSeen(Some(at(450))), "the last time counts");
}

fn latest(bench: &Bench, _: &Path) {
    let last = || bench.ask(Query::LastUid);
    assert_eq!(last(), Answer::LastUid(0));
    bench.put(vec![Op::Seen { mark: mark(1), unix_millis: 5 }]);
    assert_eq!(last(), Answer::LastUid(0));
    bench.put(vec![say("ana", 1_000, Role::User, "x"), say("ana", 999, Role::User, "y")]);
    assert_eq!(last(), Answer::LastUid(1_000));
    bench.put(vec![set(SessionRow { revision: 1_020, ..session("ana") })]);
    bench.put(vec![Op::Dead(Box::new(letter(1_010)))]);
    assert_eq!(last(), Answer::LastUid(1_020));
    // What is gone was there.
    bench.put(vec![Op::Dead(Box::new(letter(1_030))), Op::DeadDrop { uid: 1_030 }]);
    bench.put(vec![close("ana", 1_040)]);
    assert_eq!(last(), Answer::LastUid(1_040));
}

fn archived(bench: &Bench, folder: &Path) {
    for number in 0..10_u64 {
        let party = format!("p{number}");
        let row = SessionRow { active_millis: 100 * number, revision: number + 1, ..session(&party) };
        bench.put(vec![say(&party, 1, Role::User, "q\0"), say(&party, 1, Role::Agent, "a"), set(row)]);
    }
    let expire = |before_millis, sessions_max| bench.ask(Query::Expire { before_millis, sessions_max });
    assert_eq!(expire(500, 3), Answer::Expired { sessions: 3, more: true });
    let file = folder.join("archive").join(archive::SESSIONS);
    let lines = || {
        let text = std::fs::read_to_string(&file).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let parties: Vec<_> = lines().iter().map(|line| line["party"].as_str().unwrap().to_owned()).collect();
    assert_eq!(parties, ["p0", "p1", "p2"], "the idle for longest first");
    assert_eq!(expire(500, 3), Answer::Expired { sessions: 2, more: false });
    assert_eq!(expire(500, 3), Answer::Expired { sessions: 0, more: false });
    let line = &lines()[4];
    let (state, said) = (line["state"].as_str(), &line["history"][1]);
    assert_eq!(
        (state, said["role"].as_str(), said["text"].as_str()),
        (Some("archived"), Some("agent"), Some("a"))
    );
    assert_eq!(line["history"][0]["text"].as_str(), Some("q\0"));
    assert_eq!(bench.load(&key("p4")), None);
    assert_eq!(bench.texts(&key("p5")), ["q\0", "a"]);
    assert_eq!(bench.sessions(&SessionFilter::default(), 10).len(), 5);
    // Rows whose session is gone go too, and leave no line.
    bench.put(vec![say("gone", 1, Role::User, "late")]);
    assert_eq!(expire(2_000, 100), Answer::Expired { sessions: 6, more: false });
    assert_eq!(lines().len(), 10);
}

fn set_aside(bench: &Bench, folder: &Path) {
    let unfit = say("ana", u64::MAX, Role::User, "too large");
    bench.put(vec![set(session("ana")), say("ana", 1, Role::User, "before")]);
    for (ticket, ops) in [
        (101, vec![say("ana", 2, Role::User, "two")]),
        (102, vec![say("ana", 3, Role::User, "never kept"), unfit]),
        (103, vec![say("ana", 4, Role::User, "four")]),
    ] {
        bench.store.write(2, ticket, ops).unwrap();
    }
    let confirmed: Vec<_> = (0..3).map(|_| bench.confirmed.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(confirmed, [(2, 101), (2, 102), (2, 103)]);
    assert_eq!(bench.texts(&key("ana")), ["before", "two", "four"]);
    let text = std::fs::read_to_string(folder.join("refused.jsonl")).unwrap();
    let lines: Vec<Op> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "what was handed over together");
    assert!(matches!(&lines[1], Op::Said { said, .. } if said.text == "too large"));
    assert_eq!(bench.store.counters().set_aside, 2);
}

fn confirmed(bench: &Bench, _: &Path) {
    let mut expected = 0;
    for ticket in 1..=300_u64 {
        for shard in 0..4_u16 {
            let party = format!("s{shard}");
            let row = SessionRow { revision: ticket, messages: 1, ..session(&party) };
            let ops = vec![say(&party, ticket, Role::User, "x"), set(row)];
            bench.store.write(shard, ticket, ops).unwrap();
            expected += 1;
        }
    }
    let mut last = [0; 4];
    for _ in 0..expected {
        let (shard, ticket) = bench.confirmed.recv_timeout(PATIENCE).unwrap();
        let before = std::mem::replace(&mut last[usize::from(shard)], ticket);
        assert_eq!(before + 1, ticket, "of shard {shard}");
    }
    assert!(bench.confirmed.try_recv().is_err());
    let counters = bench.store.counters();
    assert_eq!((counters.waiting_ops, counters.waiting_bytes), (0, 0));
    assert_eq!(counters.ops, 2_400);
    assert!(counters.batches < 1_200, "what waits goes together");
    for shard in 0..4 {
        let loaded = bench.load(&key(&format!("s{shard}"))).unwrap();
        assert_eq!((loaded.session.revision, loaded.history.len()), (300, 300));
    }
}

/// Numbers that come again under the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn op(&mut self) -> Op {
        let party = format!("p{}", self.below(6));
        match self.below(12) {
            0..=4 => {
                let role = if self.below(2) == 0 { Role::User } else { Role::Agent };
                let text = "y".repeat(usize::try_from(self.below(40)).unwrap());
                say(&party, self.below(60), role, &text)
            }
            5..=7 => set(SessionRow {
                revision: 1 + self.below(40),
                history_from: self.below(3) * self.below(20),
                messages: self.below(70),
                active_millis: 3_000 + self.below(50),
                name: format!("n{}", self.below(9)),
                ..session(&party)
            }),
            8 => {
                let revision = self.below(40);
                let before = if self.below(2) == 0 { revision } else { row::all() };
                Op::Close { key: key(&party), revision, before }
            }
            9 => Op::Dead(Box::new(DeadLetter { attempts: 1, ..letter(self.below(20)) })),
            10 => Op::DeadDrop { uid: self.below(20) },
            _ => {
                let value = self.below(9).to_string();
                Op::Cursor(CursorRow { channel: party, value, revision: self.below(40) })
            }
        }
    }
}

/// Is a session closed here that begins anew after that? A real one says then that nothing before counts; these do not, and
/// their old rows would be back.
fn begins_anew(op: &Op, rest: &[Op]) -> bool {
    let Op::Close { key: closed, .. } = op else { return false };
    rest.iter().any(|op| matches!(op, Op::Session(row) if row.key() == *closed))
}

fn random(bench: &Bench, folder: &Path) {
    let place = memory::Place { bytes_max: 64 << 20, keep: KEEP };
    let model = Bench::start(&plan(Kind::Memory(place), folder)).unwrap();
    let mut random = Random(0x5eed);
    for round in 0..60 {
        let ops: Vec<Op> = (0..1 + random.below(30)).map(|_| random.op()).collect();
        model.put(ops.clone());
        // Sometimes the end of a batch is unknown, and it is done again.
        if random.below(4) == 0 && !ops.iter().enumerate().any(|(n, op)| begins_anew(op, &ops[n..])) {
            bench.put(ops.clone());
        }
        bench.put(ops);
        for party in 0..6 {
            let key = key(&format!("p{party}"));
            let (messages, bytes) =
                (usize::try_from(random.below(50)).unwrap(), usize::try_from(random.below(900)).unwrap());
            let (found, expected) =
                (bench.load_within(&key, messages, bytes), model.load_within(&key, messages, bytes));
            assert_eq!(found, expected, "round {round}");
        }
        let all = SessionFilter::default();
        assert_eq!(bench.sessions(&all, 4), model.sessions(&all, 4), "round {round}");
        let all = LetterFilter::default();
        assert_eq!(bench.letters(&all, 4), model.letters(&all, 4), "round {round}");
        assert_eq!(bench.cursors(), model.cursors(), "round {round}");
    }
    let expire = Query::Expire { before_millis: 3_025, sessions_max: 100 };
    assert_eq!(bench.ask(expire.clone()), model.ask(expire));
    let all = SessionFilter::default();
    assert_eq!(bench.sessions(&all, 4), model.sessions(&all, 4));
    model.close();
}

#[test]
fn memory() {
    check(|| Kind::Memory(memory::Place { bytes_max: 64 << 20, keep: KEEP }));
}

#[test]
fn sqlite() {
    let folder = Folder::new();
    let number = Cell::new(0);
    check(|| {
        number.set(number.get() + 1);
        let file = folder.path().join(format!("{}.db", number.get()));
        Kind::Sqlite(sqlite_place(file))
    });
}
