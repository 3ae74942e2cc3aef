//! Whole files: bad ones with exactly what is said about them, good ones with exactly what they resolve to, and every
//! prefix and thousands of mutations of a full one. `BLESS=1 cargo test` writes the expected files anew.
#![allow(clippy::unwrap_used)]
use super::document::BYTES_MAX;
use super::environment::Environment;
use super::{Config, Diagnostic, File, Overrides, STARTER, Source, docs, schema};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Stands for every secret in the files; it must never come out again.
const SECRET: &str = "hunter2";

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config")
}

fn environment() -> Environment {
    Environment::fixed(&[
        ("WORD", "word"),
        ("EMPTY", ""),
        ("CLAWGATE_KEY", "hunter2hunter2hunter2_0"),
        ("KIMI_API_KEY", "hunter2hunter2hunter2"),
        ("OPENAI_API_KEY", "hunter2hunter2hunter2"),
        ("OPS_KEY_SHA256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("SHOP_SECRET", "hunter2hunter2hunter2"),
        ("SHOP_SECRET_OLD", "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIy"),
        ("SITE_KEY", "hunter2hunter2hunter2"),
        ("TELEGRAM_BOT_TOKEN", "123456:hunter2-hunter2"),
        ("TELEGRAM_SECRET", "hunter2-hunter2-hunter2"),
    ])
}

fn resolve(name: &str, text: &str, folder: &Path) -> Result<(Config, File), Vec<Diagnostic>> {
    let source = Source { name: Path::new(name), text, folder, file: None };
    source.resolve(&environment(), Vec::new(), &Overrides::default())
}

fn load(path: &Path) -> Result<Config, Vec<Diagnostic>> {
    Config::open(Some(path), &Overrides::default())
}

fn told(problems: &[Diagnostic]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn check_golden(path: &Path, actual: &str) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(expected == actual, "{} differs; BLESS=1 writes it anew:\n{actual}", path.display());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn all_that_is_wrong_is_said_at_its_place() {
    let folder = data().join("bad");
    for path in files(&folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let problems = resolve(name, &text, &folder).expect_err(name);
        let actual = told(&problems);
        check_golden(&path.with_extension("expected"), &actual);
        assert!(!actual.contains(SECRET), "{name} gives a secret away:\n{actual}");
    }
}

#[test]
fn what_is_right_is_resolved() {
    let folder = data().join("good");
    for path in files(&folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (config, file) =
            resolve(name, &text, &folder).unwrap_or_else(|problems| panic!("{}", told(&problems)));
        let actual = format!("{config:#?}\n").replace(folder.to_str().unwrap(), "FOLDER");
        check_golden(&path.with_extension("expected"), &actual);
        let shown = format!("{actual}{}", serde_json::to_string(&file).unwrap());
        assert!(!shown.contains(SECRET), "{name} gives a secret away");
    }
}

#[test]
fn without_a_file_the_starter_holds() {
    let (built_in, file) = super::open(None, &Overrides::default()).unwrap();
    assert_eq!(built_in.warnings, []);
    for text in [STARTER, "{}", "{ \"llm\": { \"provider\": \"echo\" }, }"] {
        let (config, _) = resolve("starter", text, Path::new("")).unwrap();
        assert_eq!((config.server, config.limits), (built_in.server.clone(), built_in.limits.clone()));
        assert_eq!((config.rates, config.logging), (built_in.rates, built_in.logging));
        if !text.contains("llm") {
            assert_eq!((&config.models, &config.agents), (&built_in.models, &built_in.agents));
            assert_eq!((&config.route, &config.keys), (&built_in.route, &built_in.keys));
        }
    }
    // What is shown can be read again, and says the same.
    let shown = serde_json::to_string_pretty(&file).unwrap();
    let (again, _) =
        resolve("shown", &shown, Path::new("")).unwrap_or_else(|problems| panic!("{}", told(&problems)));
    assert_eq!(again, built_in);
}

// Every line of the starter that is commented out holds too.
#[test]
fn the_starter_holds_with_all_its_examples() {
    let is_example = |rest: &str| rest.trim_start().starts_with(['"', '{', '}']);
    let lines = STARTER.lines().map(|line| match line.split_once("// ") {
        Some((margin, rest)) if is_example(rest) => format!("{margin}{rest}\n"),
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    assert!(text.contains("\n    \"telegram\": {\n"));
    let (config, _) =
        resolve("starter", &text, &data().join("good")).unwrap_or_else(|all| panic!("{}", told(&all)));
    assert_eq!((config.channels.len(), config.keys.len(), config.models.len()), (1, 1, 4));
    assert_eq!(config.warnings, []);
}

#[test]
fn the_examples_of_the_documentation_hold() {
    for (index, text) in examples().into_iter().enumerate() {
        let name = format!("example {}", index + 1);
        let (config, _) =
            resolve(&name, text, Path::new("")).unwrap_or_else(|problems| panic!("{}", told(&problems)));
        assert_eq!(config.warnings, [], "{name}");
    }
}

fn examples() -> Vec<&'static str> {
    let blocks = include_str!("guide.md").split("```jsonc\n").skip(1);
    let blocks: Vec<_> = blocks.map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 3);
    blocks
}

#[test]
fn the_page_is_that_of_the_schema() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    check_golden(&page, &docs());
}

// The reader of schema.rs knows these words and no others, and documentation has something to say of each key.
#[test]
fn the_schema_uses_only_what_is_understood() {
    const WORDS: [&str; 17] = [
        "$defs",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maximum",
        "minimum",
        "oneOf",
        "properties",
        "required",
        "title",
    ];
    let mut keys = 0;
    visit(schema(), &mut |schema| {
        for word in schema.keys() {
            assert!(word == "type" || WORDS.contains(&word.as_str()), "{word} in {schema:?}");
        }
        let kind = schema.get("type").map(|kind| kind.as_str().unwrap());
        if matches!(kind, Some("integer" | "number")) {
            assert!(
                schema.contains_key("minimum") && schema.contains_key("maximum"),
                "no bounds: {schema:?}"
            );
        }
        let properties = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
        for (name, property) in properties {
            keys += 1;
            assert!(property.get("description").is_some(), "{name} has no description");
        }
    });
    assert!(100 < keys);
}

fn visit(schema: &Json, see: &mut dyn FnMut(&serde_json::Map<String, Json>)) {
    let Some(object) = schema.as_object() else { return };
    see(object);
    for name in ["properties", "$defs"] {
        let inner = object.get(name).and_then(Json::as_object).into_iter().flatten();
        inner.for_each(|(_, schema)| visit(schema, see));
    }
    for name in ["anyOf", "oneOf"] {
        let inner = object.get(name).and_then(Json::as_array).into_iter().flatten();
        inner.for_each(|schema| visit(schema, see));
    }
    for name in ["items", "additionalProperties"] {
        object.get(name).into_iter().for_each(|schema| visit(schema, see));
    }
}

// A file with a secret in every place that takes one.
fn full() -> String {
    let mut text = examples()[1].replacen('{', "{ // hunter2hunter2hunter2\n", 1);
    for (variable, secret) in [
        ("${SITE_KEY}", "hunter2hunter2hunter2"),
        ("${OPS_KEY_SHA256}", "hunter2hunter2hunter2"),
        ("${KIMI_API_KEY}", "hunter2hunter2hunter2"),
    ] {
        text = text.replace(variable, secret);
    }
    let channels = r#" "channels": {
        "telegram": { "token": "hunter2:hunter2hunter2", "secret": "hunter2hunter2hunter2", "allowFrom": ["1"] },
        "shop": { "type": "webhook", "secrets": ["hunter2hunter2hunter2", "whsec_hunter2"], "replySecret": "hunter2hunter2" }
    },
    "llm": { "provider": "ollama", "model": "m", "apiKey": "hunter2hunter2" }
}"#;
    let end = text.rfind('}').unwrap();
    text.truncate(end);
    text.push_str(channels);
    text
}

// What mutations put in.
const PIECES: [&str; 22] = [
    "{", "}", "[", "]", ":", ",", "\"", "\\", "/", "*", "\n", " ", "0", "-", ".", "${", "${ü", "ü",
    "\u{202e}", "'", "//", "null",
];

fn check_survives(text: &str) {
    match resolve("mutated", text, Path::new("")) {
        Ok((config, file)) => {
            let shown = format!("{config:?}{}", serde_json::to_string(&file).unwrap());
            assert!(!shown.contains(SECRET), "{text}\n{shown}");
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let shown = told(&problems);
            assert!(!shown.contains(SECRET), "{text}\n{shown}");
        }
    }
}

#[test]
fn every_prefix_is_survived_and_gives_nothing_away() {
    let text = full();
    let whole = resolve("full", &text, Path::new("")).expect_err("the digest is none");
    assert_eq!(whole.iter().filter(|problem| problem.path.contains("sha256")).count(), 1, "{}", told(&whole));
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        check_survives(&text[..end]);
    }
}

#[test]
fn mutations_are_survived_and_give_nothing_away() {
    let text = full();
    for seed in 1..=3_000_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % u64::try_from(bound).unwrap()).unwrap()
        };
        let mut bytes = text.clone().into_bytes();
        let at = next(bytes.len());
        let end = (at + next(12)).min(bytes.len());
        match next(4) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..=at, PIECES[next(PIECES.len())].bytes())),
            2 => drop(bytes.splice(at..at, PIECES[next(PIECES.len())].bytes())),
            _ => {
                // Never a whole secret: as a key it would rightly be shown.
                let copy = bytes[at..end.min(at + SECRET.len() - 1)].to_vec();
                let target = next(bytes.len());
                bytes.splice(target..target, copy);
            }
        }
        check_survives(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn files_are_found_and_read_or_the_reason_is_said() {
    let missing = data().join("nowhere.json");
    let problems = load(&missing).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("cannot be read"), "{}", told(&problems));
    assert_eq!(problems[0].place.source, missing);
    assert!(load(&data()).is_err(), "a folder is no file");

    let named = Path::new("some/file.json");
    assert_eq!(Config::locate(Some(named)).as_deref(), Some(named));

    let good = data().join("good/tls.json");
    let config = load(&good).unwrap_or_else(|problems| panic!("{}", told(&problems)));
    assert_eq!(config.file, Some(good));
}

#[test]
fn a_dotenv_beside_the_file_is_read_and_its_problems_are_said() {
    let folder = std::env::temp_dir().join(format!("clawgate-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("clawgate.json");
    std::fs::write(&path, "{ \"llm\": { \"provider\": \"ollama\", \"model\": \"${CLAWGATE_TEST_MODEL}\" } }")
        .unwrap();
    std::fs::write(folder.join(".env"), "# a comment\nCLAWGATE_TEST_MODEL='qwen 3'\n").unwrap();
    let config = load(&path).unwrap_or_else(|problems| panic!("{}", told(&problems)));
    assert!(format!("{:?}", config.models).contains("qwen 3"));

    std::fs::write(folder.join(".env"), "CLAWGATE_TEST_MODEL=a\nhunter2 hunter2\n").unwrap();
    let problems = load(&path).unwrap_err();
    assert_eq!(problems[0].place.line, 2);
    assert_eq!(problems[0].place.source, folder.join(".env"));
    assert!(!told(&problems).contains(SECRET));

    std::fs::write(&path, [0xff, 0xfe, b'{', 0]).unwrap();
    assert!(load(&path).unwrap_err()[0].message.contains("UTF-8"));
    std::fs::write(&path, "\u{feff}{}").unwrap();
    std::fs::remove_file(folder.join(".env")).unwrap();
    assert_eq!(load(&path).unwrap().models.len(), 2);
    std::fs::write(&path, " ".repeat(BYTES_MAX + 1)).unwrap();
    assert!(load(&path).unwrap_err()[0].message.contains("too long"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_command_line_stands_above_the_file() {
    let overrides = |listen: &[&str]| Overrides {
        listen: listen.iter().map(|address| (*address).to_owned()).collect(),
        shards: Some(3),
        driver: Some(super::server::Driver::Epoll),
    };
    let config = Config::open(None, &overrides(&["127.0.0.1:0", "[::1]:0"])).unwrap();
    assert_eq!((config.server.listen.len(), config.server.shards), (2, 3));
    assert_eq!(config.server.driver, super::server::Driver::Epoll);
    let problems = Config::open(None, &overrides(&["0.0.0.0:0", "localhost"])).unwrap_err();
    assert_eq!(problems.len(), 2, "{}", told(&problems));
    assert!(problems.iter().all(|problem| problem.place.source == Path::new("--listen")));
}
