//! `clawgate store refused`: rows that the store could never hold, read from their file, and tried again by the running
//! gateway.
use super::client::{Client, Reach, Trouble, data_folder};
use super::print;
use super::table::Table;
use clap::{Subcommand, value_parser};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Rows that the store could never hold, and that were set aside
    #[command(subcommand)]
    Refused(RefusedCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum RefusedCommand {
    /// List them, from their files in the data directory
    List {
        /// How many at the most
        #[arg(long, value_name = "N", default_value_t = 50)]
        #[arg(value_parser = value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// For programs: one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Have the running gateway offer them to its store again
    Retry {
        #[command(flatten)]
        reach: Reach,
    },
}

/// Carries the command out.
pub(super) fn run(StoreCommand::Refused(command): StoreCommand, file: Option<&Path>) -> ExitCode {
    match command {
        RefusedCommand::List { limit, json } => {
            list(file, limit as usize, json).unwrap_or_else(|trouble| trouble.tell(json))
        }
        RefusedCommand::Retry { reach } => {
            retry(&reach, file).unwrap_or_else(|trouble| trouble.tell(reach.json))
        }
    }
}

fn list(file: Option<&Path>, limit: usize, as_json: bool) -> Result<ExitCode, Trouble> {
    let Some(folder) = data_folder(file)? else {
        let text = "the configuration has no data directory: what the store refuses is only logged";
        return Err(Trouble::Unreached(text.to_owned()));
    };
    let mut rows = Vec::new();
    let mut more = false;
    for name in [crate::store::RETRIED, crate::config::store::REFUSED] {
        let path = folder.join(name);
        more |= read(&path, limit, &mut rows).map_err(|why| unread(&path, &why))?;
    }
    if as_json {
        print(&format!("{:#}\n", json!({ "rows": rows, "more": more })));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        print("nothing was refused\n");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["KIND", "OF", "BYTES"]);
    for row in &rows {
        let (kind, of) = described(row);
        table.add([kind, of, row.to_string().len().to_string()]);
    }
    print(&table.text());
    if more {
        print(&format!("there are more: --limit {}\n", limit.saturating_mul(10)));
    }
    Ok(ExitCode::SUCCESS)
}

fn unread(path: &Path, why: &io::Error) -> Trouble {
    Trouble::Unreached(format!("{} cannot be read: {why}", path.display()))
}

/// Reads rows until there are so many; true if there are more.
fn read(path: &Path, limit: usize, rows: &mut Vec<Value>) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(why) => return Err(why),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if limit <= rows.len() {
            return Ok(true);
        }
        rows.push(serde_json::from_slice(&line).unwrap_or_else(|_| json!({ "op": "unreadable" })));
    }
    Ok(false)
}

/// What a row is, and of whom, in short.
fn described(row: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().map(|text| text.replace('\u{1f}', ":")).unwrap_or_default();
    let kind = text(&row["op"]);
    let of = [&row["key"], &row["channel"], &row["peer"], &row["party"], &row["thread"], &row["uid"]];
    let of: Vec<String> = of
        .into_iter()
        .map(|value| if value.is_u64() { value.to_string() } else { text(value) })
        .filter(|text| !text.is_empty())
        .collect();
    (kind, of.join(" "))
}

fn retry(reach: &Reach, file: Option<&Path>) -> Result<ExitCode, Trouble> {
    let client = Client::find(reach, file)?;
    let data = client.call("POST", "/api/store/refused", Some(&json!({ "action": "retry" })))?;
    if reach.json {
        print(&format!("{data:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let number = |key: &str| data[key].as_u64().unwrap_or(0);
    let (rows, again, unreadable) = (number("rows"), number("refusedAgain"), number("unreadable"));
    print(&format!("{rows} offered again, {again} refused again, {unreadable} lines are no rows\n"));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_described_in_short() {
        let said = json!({ "op": "said", "key": "tg\u{1f}d\u{1f}7\u{1f}", "said": { "uid": 1 } });
        assert_eq!(described(&said), ("said".to_owned(), "tg:d:7:".to_owned()));
        let dead = json!({ "op": "dead", "uid": 9, "channel": "tg", "peer": "7" });
        assert_eq!(described(&dead), ("dead".to_owned(), "tg 7 9".to_owned()));
        assert_eq!(described(&json!(1)), (String::new(), String::new()));
    }
}
