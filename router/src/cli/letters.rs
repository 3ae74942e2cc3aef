//! `clawgate dlq`: dead letters of a running gateway, listed, shown, tried again and dropped.
use super::client::{Client, Reach, Trouble, some_denied};
use super::print;
use super::table::Table;
use clap::{Args, Subcommand, value_parser};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// Letters that the gateway is asked for at once.
const PAGE: usize = 500;
/// Letters that one command tries again or drops.
const ALL_MAX: usize = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum LettersCommand {
    /// List dead letters, the oldest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// How many at the most
        #[arg(long, value_name = "N", default_value_t = 50)]
        #[arg(value_parser = value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show one with its message and its answer
    Show {
        /// As listed
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Try dead letters again, in the order of their sessions
    Replay {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        reach: Reach,
    },
    /// Drop dead letters for good
    Drop {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Which of them.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only those with this reason, an error code as DELIVERY_FAILED
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    /// Only those of this channel
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
}

/// Which of them are meant: some by their ids, or all that fit.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// As listed
    #[arg(required_unless_present = "all", conflicts_with_all = ["all", "reason", "channel"])]
    ids: Vec<String>,
    /// All of them, or all that --reason and --channel leave
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

/// Carries the command out.
pub(super) fn run(command: LettersCommand, file: Option<&Path>) -> ExitCode {
    let reach = match &command {
        LettersCommand::List { reach, .. }
        | LettersCommand::Show { reach, .. }
        | LettersCommand::Replay { reach, .. }
        | LettersCommand::Drop { reach, .. } => reach.clone(),
    };
    let client = match Client::find(&reach, file) {
        Ok(client) => client,
        Err(trouble) => return trouble.tell(reach.json),
    };
    let done = match command {
        LettersCommand::List { filter, limit, .. } => list(&client, &filter, limit as usize, reach.json),
        LettersCommand::Show { id, .. } => show(&client, &id, reach.json),
        LettersCommand::Replay { which, .. } => operate(&client, &which, "replay", reach.json),
        LettersCommand::Drop { which, .. } => operate(&client, &which, "drop", reach.json),
    };
    done.unwrap_or_else(|trouble| trouble.tell(reach.json))
}

/// Asks for letters, page by page, until there are so many. The second is true if there are more.
fn fetch(client: &Client, filter: &Filter, limit: usize) -> Result<(Vec<Value>, bool), Trouble> {
    let (mut letters, mut cursor) = (Vec::new(), None);
    loop {
        let page = PAGE.min(limit - letters.len());
        let mut target = format!("/api/dlq?limit={page}");
        let cursor_now = cursor.take();
        let parameters = [("code", &filter.reason), ("channel", &filter.channel), ("cursor", &cursor_now)];
        for (name, value) in parameters {
            if let Some(value) = value {
                target.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        let mut data = client.call("GET", &target, None)?;
        let more = data["next"].as_str().map(str::to_owned);
        if let Value::Array(rows) = data["letters"].take() {
            letters.extend(rows);
        }
        match more {
            None => return Ok((letters, false)),
            Some(_) if limit <= letters.len() => return Ok((letters, true)),
            more => cursor = more,
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn list(client: &Client, filter: &Filter, limit: usize, as_json: bool) -> Result<ExitCode, Trouble> {
    let (letters, more) = fetch(client, filter, limit)?;
    if as_json {
        print(&format!("{:#}\n", json!({ "letters": letters, "more": more })));
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        print("no dead letters\n");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["ID", "FAILED", "CHANNEL", "FROM", "REASON", "ATTEMPTS", "ANSWERED"]);
    for letter in &letters {
        table.add([
            text(&letter["id"]),
            text(&letter["failedAt"]),
            text(&letter["channel"]),
            party(letter),
            text(&letter["code"]),
            text(&letter["attempts"]),
            if letter["answered"] == true { "yes".to_owned() } else { "no".to_owned() },
        ]);
    }
    print(&table.text());
    if more {
        print(&format!("there are more: --limit {}\n", limit.saturating_mul(10)));
    }
    Ok(ExitCode::SUCCESS)
}

fn party(letter: &Value) -> String {
    let of = if letter["scope"] == "group" { "chat" } else { "peer" };
    let thread = text(&letter["thread"]);
    let party = text(&letter[of]);
    if thread.is_empty() { party } else { format!("{party}:{thread}") }
}

/// As it is shown: no quotes around texts.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn show(client: &Client, id: &str, as_json: bool) -> Result<ExitCode, Trouble> {
    let letter = client.call("GET", &format!("/api/dlq/{}", encoded(id)), None)?;
    if as_json {
        print(&format!("{letter:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[]);
    for (name, key) in [
        ("id", "id"),
        ("reason", "code"),
        ("detail", "detail"),
        ("channel", "channel"),
        ("scope", "scope"),
        ("peer", "peer"),
        ("name", "name"),
        ("chat", "chat"),
        ("thread", "thread"),
        ("event", "event"),
        ("attempts", "attempts"),
        ("accepted", "acceptedAt"),
        ("failed", "failedAt"),
        ("parts delivered", "partsDelivered"),
    ] {
        let value = text(&letter[key]);
        if !value.is_empty() {
            table.add([name.to_owned(), value]);
        }
    }
    print(&table.text());
    for (name, key) in [("message", "message"), ("answer", "reply")] {
        let said = text(&letter[key]);
        if !said.is_empty() {
            print(&format!("\n{name}:\n{}\n", super::table::harmless(&said, true)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn operate(client: &Client, which: &Which, action: &str, as_json: bool) -> Result<ExitCode, Trouble> {
    let ids = if which.all {
        let (letters, _) = fetch(client, &which.filter, ALL_MAX)?;
        letters.iter().map(|letter| text(&letter["id"])).collect()
    } else {
        which.ids.clone()
    };
    let mut results = Vec::new();
    let mut denied = 0_usize;
    for id in &ids {
        let target = format!("/api/dlq/{}", encoded(id));
        match client.call("POST", &target, Some(&json!({ "action": action }))) {
            Ok(_) => results.push(json!({ "id": id, "done": true })),
            Err(Trouble::Denied { status, code, text }) if status != 401 => {
                denied += 1;
                results.push(json!({ "id": id, "done": false, "code": code, "message": text }));
            }
            Err(trouble) => {
                tell(&results, action, as_json);
                return Err(trouble);
            }
        }
    }
    tell(&results, action, as_json);
    Ok(if denied == 0 { ExitCode::SUCCESS } else { some_denied() })
}

/// What became of each, also of those before one where the gateway went away.
fn tell(results: &[Value], action: &str, as_json: bool) {
    if as_json {
        print(&format!("{:#}\n", json!({ "results": results })));
        return;
    }
    let done = if action == "replay" { "is tried again" } else { "is dropped" };
    let mut out = String::new();
    for result in results {
        let id = text(&result["id"]);
        match result["done"].as_bool() {
            Some(true) => out.push_str(&format!("{id} {done}\n")),
            Some(false) | None => {
                out.push_str(&format!(
                    "{id} is not: {} ({})\n",
                    text(&result["message"]),
                    text(&result["code"])
                ));
            }
        }
    }
    if results.is_empty() {
        out.push_str("no dead letters\n");
    }
    print(&out);
}
