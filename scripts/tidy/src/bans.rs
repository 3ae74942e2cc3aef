//! Calls and words that this tree does without, each with what to write instead.
//!
//! Looked for in the code alone, comments and texts apart, except where a ban is about comments. The list is text, not
//! types: clippy's `disallowed-methods` of the pure packages see through a `use … as …`, this list does not.
use crate::finding::Finding;
use crate::source::{Source, closing, word_at, words};
use crate::tree::Tree;

/// Where a ban looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In all code.
    Code,
    /// In all code but tests.
    Product,
    /// In comments.
    Comments,
}

struct Ban {
    /// The words, any of them.
    words: &'static [&'static str],
    place: Where,
    /// Where it holds: beginnings of paths.
    paths: &'static [&'static str],
    /// Where it does not, because this is the one place for it: beginnings of paths.
    except: &'static [&'static str],
    instead: &'static str,
}

const ALL: &[&str] = &[""];
const PURE: &[&str] = &["router/wire/", "router/core/", "adapters/", "providers/"];
/// What runs for a message of a peer: a panic here ends the process for everybody.
const MESSAGE_PATH: &[&str] =
    &["router/wire/src/", "router/core/src/", "router/src/", "adapters/src/", "providers/src/"];

const BANS: &[Ban] = &[
    Ban {
        words: &["Instant", "SystemTime", "UNIX_EPOCH"],
        place: Where::Code,
        paths: &["router/", "adapters/", "providers/"],
        except: &["router/src/clock", "router/src/driver"],
        instead: "take `now: Time` as an argument; the shell reads the clock once a turn of the loop, in clock.rs",
    },
    Ban {
        words: &["thread::sleep", "sleep_ms"],
        place: Where::Code,
        paths: ALL,
        except: &[],
        instead: "wait for the event itself: a deadline of the shard, a socket, a condition with a bound",
    },
    Ban {
        words: &["yield_now"],
        place: Where::Code,
        paths: ALL,
        except: &[],
        instead: "a task that wakes itself starves the ring: bound the work by count and await a real operation",
    },
    Ban {
        words: &["todo!", "unimplemented!", "dbg!"],
        place: Where::Code,
        paths: ALL,
        except: &[],
        instead: "finish it before it is merged",
    },
    Ban {
        words: &["FIXME", "TODO", "XXX"],
        place: Where::Comments,
        paths: ALL,
        except: &[],
        instead: "do it, or write what is missing and why into router/ARCHITECTURE.md",
    },
    Ban {
        words: &["#[ignore"],
        place: Where::Code,
        paths: ALL,
        except: &[],
        instead: "a test that does not run is not one: make it fast, give it a step of scripts/test, or remove it",
    },
    Ban {
        words: &["monoio"],
        place: Where::Code,
        paths: &["router/src/", "router/tests/"],
        except: &["router/src/driver.rs", "router/src/driver/"],
        instead: "only router/src/driver.rs names the runtime: add what you need there, behind a name of ours",
    },
    Ban {
        words: &["println!", "print!", "eprintln!", "eprint!"],
        place: Where::Product,
        paths: &["router/", "adapters/", "providers/", "loadgen/"],
        except: &[
            "router/src/cli",
            "router/src/main.rs",
            "loadgen/src/report",
            "loadgen/src/cli",
            "loadgen/src/main.rs",
        ],
        instead: "log with shard, session and turn through `tracing`; only cli and loadgen's report print",
    },
    Ban {
        words: &[".unwrap()", ".expect(", "unreachable!", "panic!"],
        place: Where::Product,
        paths: MESSAGE_PATH,
        except: &["router/src/cli", "router/src/config"],
        instead: "no panic on the message path: `let … else` with a refusal, or a type that cannot be wrong",
    },
    Ban {
        words: &[
            "thread::spawn",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "std::fs",
            "std::env",
            "std::process",
        ],
        place: Where::Product,
        paths: PURE,
        except: &[],
        instead: "the pure packages know no thread, socket, file or process: hand the bytes in and out",
    },
    Ban {
        words: &["unsafe"],
        place: Where::Code,
        paths: ALL,
        except: &["router/src/", "loadgen/src/", "bench/"],
        instead: "only the shell and the load generator's driver may need it, with a SAFETY comment",
    },
];

/// Words that say nothing at the end of a type's or a module's name.
const EMPTY_NAMES: &[&str] = &["Manager", "Processor", "Helper", "Helpers", "Util", "Utils", "Misc"];

/// What is banned and stands in the tree all the same.
#[must_use]
pub fn banned(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for ban in BANS {
        let begins = |source: &Source, paths: &[&str]| paths.iter().any(|path| source.path.starts_with(path));
        let held =
            tree.sources.iter().filter(|source| begins(source, ban.paths) && !begins(source, ban.except));
        found.extend(held.flat_map(|source| ban.look(source)));
    }
    found
}

impl Ban {
    fn look(&self, source: &Source) -> Vec<Finding> {
        let text = if self.place == Where::Comments { &source.comments } else { &source.code };
        let mut found = Vec::new();
        for word in self.words {
            let hits = words(text, word)
                .into_iter()
                .filter(|at| self.place != Where::Product || !source.is_test(*at));
            found.extend(
                hits.map(|at| Finding::new("bans", &source.path, source.line(at), word, self.instead)),
            );
        }
        found
    }
}

/// Reads inside a timeout or a select.
#[must_use]
pub fn dropped_reads(tree: &Tree) -> Vec<Finding> {
    let text =
        "a dropped read future loses bytes: wait for `readable()`, or cancel the read and await its result";
    let shell = |source: &&Source| source.path.starts_with("router/") || source.path.starts_with("loadgen/");
    let mut found = Vec::new();
    for source in tree.sources.iter().filter(shell) {
        for racer in ["timeout", "timeout_at", "select!", "select_biased!", "race", "select"] {
            for at in source.find(racer) {
                let open = at + racer.len();
                if !matches!(source.code[open..].trim_start().bytes().next(), Some(b'(' | b'{')) {
                    continue;
                }
                let open = open + source.code[open..].find(['(', '{']).unwrap_or(0);
                let inside = &source.code[open..=closing(&source.code, open)];
                if reads(inside) {
                    found.push(Finding::new("dropped-reads", &source.path, source.line(at), racer, text));
                }
            }
        }
    }
    found
}

/// Does this code call a read of a socket?
fn reads(code: &str) -> bool {
    let calls = code.match_indices('.').filter_map(|(at, _)| {
        let name = word_at(code, at + 1).filter(|_| !code[at + 1..].starts_with(char::is_whitespace))?;
        code[at + 1 + name.len()..].starts_with('(').then_some(name)
    });
    calls.into_iter().any(|name| {
        let read = ["read", "readv", "recv"].contains(&name)
            || name.starts_with("read_")
            || name.starts_with("recv_");
        read && name != "read_ready"
    })
}

/// Loops over a hashed table in the core: their order is another in each process.
#[must_use]
pub fn unordered_loops(tree: &Tree) -> Vec<Finding> {
    let text =
        "its order differs from run to run, and a seed must replay: keep a slab or a BTreeMap beside it";
    let mut found = Vec::new();
    for source in tree.sources.iter().filter(|source| source.path.starts_with("router/core/src/")) {
        for name in hashed_names(&source.code) {
            for at in source.find(&name).into_iter().filter(|at| !source.is_test(*at)) {
                if walks(&source.code, at, name.len()) {
                    found.push(Finding::new("unordered-loops", &source.path, source.line(at), &name, text));
                }
            }
        }
    }
    found
}

/// The fields, arguments and variables of a hashed type.
fn hashed_names(code: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for kind in ["HashMap", "HashSet", "HashTable"] {
        for at in words(code, kind) {
            let before = code[..at].rsplit([';', '{', '}', ',', '(']).next().unwrap_or_default();
            let declared = match (before.split_once(':'), before.split_once('=')) {
                (_, Some((left, _))) if before.contains("let ") => left.split(':').next(),
                (Some((left, _)), _) => Some(left),
                _ => None,
            };
            let name = declared.and_then(|left| left.split_whitespace().last());
            names.extend(name.filter(|name| word_at(name, 0) == Some(name)).map(str::to_owned));
        }
    }
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !["use", "type", "hashbrown", "std", "impl"].contains(&name.as_str()));
    names
}

/// Is the table that is named here walked through?
fn walks(code: &str, at: usize, length: usize) -> bool {
    const WALKS: &[&str] = &[
        "iter",
        "iter_mut",
        "keys",
        "values",
        "values_mut",
        "drain",
        "retain",
        "into_iter",
        "into_keys",
        "extract_if",
    ];
    let after = code[at + length..].trim_start();
    let call = after.strip_prefix('.').and_then(|rest| word_at(rest, 0));
    let line = &code[code[..at].rfind('\n').map_or(0, |start| start + 1)..at];
    let looped = words(line, "in").last().is_some_and(|begin| {
        line[begin + 2..].chars().all(|letter| letter.is_alphanumeric() || " &._".contains(letter))
    });
    call.map_or(looped && after.starts_with('{'), |call| WALKS.contains(&call))
}

/// The files under a package that name the runtime beside its one driver.
#[must_use]
pub fn second_drivers(tree: &Tree) -> Vec<Finding> {
    let text = "one file of the load generator names the runtime: put this beside what is there";
    let naming = tree.sources.iter().filter(|source| source.path.starts_with("loadgen/src/"));
    let naming = naming.filter(|source| !source.find("monoio").is_empty());
    let finding = |source: &Source| {
        let at = source.find("monoio")[0];
        Finding::new("second-drivers", &source.path, source.line(at), "monoio", text)
    };
    naming.skip(1).map(finding).collect()
}

/// Types and modules whose names say nothing.
#[must_use]
pub fn empty_names(tree: &Tree) -> Vec<Finding> {
    let text = "name what it is: channel, peer, session, turn, piece, shard, provider, breaker, effect";
    let mut found = Vec::new();
    for source in &tree.sources {
        for keyword in ["struct", "enum", "trait", "type", "mod"] {
            for at in source.find(keyword) {
                let Some(name) = word_at(&source.code, at + keyword.len()) else { continue };
                let empty = |word: &&&str| name.ends_with(**word) || name == word.to_lowercase();
                if EMPTY_NAMES.iter().any(|word| empty(&word)) {
                    found.push(Finding::new("names", &source.path, source.line(at), name, text));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans_in(path: &str, text: &str) -> Vec<String> {
        banned(&Tree::planted(&[(path, text)])).into_iter().map(|finding| finding.item).collect()
    }

    #[test]
    fn each_ban_is_found_where_it_holds() {
        let table: &[(&str, &str, &[&str])] = &[
            ("router/src/listen.rs", "let now = Instant::now();", &["Instant"]),
            ("router/src/clock.rs", "let now = Instant::now();", &[]),
            ("router/src/listen.rs", "use std::time::SystemTime;", &["SystemTime"]),
            ("loadgen/src/clock.rs", "let now = Instant::now();", &[]),
            ("router/src/listen.rs", "// Instant::now() is banned", &[]),
            ("loadgen/src/run.rs", "std::thread::sleep(x);", &["thread::sleep"]),
            ("loadgen/src/run.rs", "yield_now().await", &["yield_now"]),
            ("bench/src/lib.rs", "todo!(); dbg!(x); unimplemented!()", &["todo!", "unimplemented!", "dbg!"]),
            ("bench/src/lib.rs", "// FIXME: later", &["FIXME"]),
            ("bench/src/lib.rs", "let x = \"FIXME\";", &[]),
            ("router/core/src/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}", &["#[ignore"]),
            ("router/src/listen.rs", "use monoio::net;", &["monoio"]),
            ("router/src/driver.rs", "use monoio::net;", &[]),
            ("router/src/listen.rs", "println!(\"x\");", &["println!"]),
            ("router/src/cli/check.rs", "println!(\"x\");", &[]),
            ("loadgen/src/report.rs", "println!(\"x\");", &[]),
            ("adapters/src/a.rs", "x.unwrap(); y.expect(z); w.unwrap_or(0)", &[".unwrap()", ".expect("]),
            ("adapters/src/a.rs", "#[cfg(test)]\nmod tests {\n x.unwrap();\n}", &[]),
            ("router/tests/e2e.rs", "x.unwrap();", &[]),
            ("loadgen/src/run.rs", "x.unwrap();", &[]),
            ("providers/src/a.rs", "TcpStream::connect(x)", &["TcpStream"]),
            ("adapters/src/a.rs", "unsafe { x }", &["unsafe"]),
        ];
        for (path, text, expected) in table {
            assert_eq!(bans_in(path, text), *expected, "{path}: {text}");
        }
    }

    #[test]
    fn a_read_in_a_race_is_found() {
        let count = |text: &str| dropped_reads(&Tree::planted(&[("router/src/connection.rs", text)])).len();
        assert_eq!(count("timeout(limit, stream.read(buffer)).await"), 1);
        assert_eq!(count("select! {\n  a = stream.read_exact(b) => {}\n  _ = stop => {}\n}"), 1);
        assert_eq!(count("timeout(limit, stream.readable()).await; stream.read(buffer).await"), 0);
        assert_eq!(count("let timeout = limits.read_timeout; stream.read(timeout)"), 0);
    }

    #[test]
    fn a_loop_over_a_hash_is_found() {
        let count = |text: &str| unordered_loops(&Tree::planted(&[("router/core/src/shard.rs", text)])).len();
        let field = "struct S { sessions: HashMap<K, V>, other: Vec<u8> }\n";
        assert_eq!(count(&format!("{field}fn f(s: &S) {{ s.sessions.iter(); }}")), 1);
        assert_eq!(count(&format!("{field}fn f(s: &S) {{ for x in &s.sessions {{}} }}")), 1);
        assert_eq!(count(&format!("{field}fn f(s: &S) {{ s.sessions.get(k); s.other.iter(); }}")), 0);
        assert_eq!(count("fn f() { let mut seen = hashbrown::HashSet::new(); seen.retain(|x| *x); }"), 1);
        assert_eq!(count("fn f() { let seen: HashSet<u8> = a(); seen.values(); }"), 1);
        assert_eq!(count("use hashbrown::HashMap;\nfn f() { hashbrown::iter(); }"), 0);
    }

    #[test]
    fn a_second_driver_and_an_empty_name_are_found() {
        let tree = Tree::planted(&[
            ("loadgen/src/driver.rs", "use monoio::net;"),
            ("loadgen/src/run.rs", "use monoio::time;\nstruct RunManager;\nmod utils;\nstruct Managerial;"),
        ]);
        assert_eq!(second_drivers(&tree).len(), 1);
        assert_eq!(empty_names(&tree).len(), 2);
    }
}
