//! `clawgate models`: the models of the running gateway, and what is held against them.
use super::client::{Client, Reach, Trouble};
use super::print;
use super::table::Table;
use clap::Subcommand;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// List them with their breakers
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Close the breakers of a model: it is called again at once
    Reset {
        /// Its name in the configuration
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Carries the command out.
pub(super) fn run(command: &ModelsCommand, file: Option<&Path>) -> ExitCode {
    match command {
        ModelsCommand::List { reach } => list(reach, file).unwrap_or_else(|trouble| trouble.tell(reach.json)),
        ModelsCommand::Reset { name, reach } => {
            reset(name, reach, file).unwrap_or_else(|trouble| trouble.tell(reach.json))
        }
    }
}

fn list(reach: &Reach, file: Option<&Path>) -> Result<ExitCode, Trouble> {
    let data = Client::find(reach, file)?.call("GET", "/api/models", None)?;
    if reach.json {
        print(&format!("{data:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["MODEL", "PROVIDER", "FORMAT", "BREAKER"]);
    for model in data["models"].as_array().into_iter().flatten() {
        let text = |key: &str| model[key].as_str().unwrap_or("-").to_owned();
        table.add([text("name"), text("provider"), text("format"), text("breaker")]);
    }
    print(&table.text());
    Ok(ExitCode::SUCCESS)
}

fn reset(name: &str, reach: &Reach, file: Option<&Path>) -> Result<ExitCode, Trouble> {
    let target = format!("/api/models/{}/reset", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let data = Client::find(reach, file)?.call("POST", &target, None)?;
    if reach.json {
        print(&format!("{data:#}\n"));
    } else {
        print(&format!("{name} is called again\n"));
    }
    Ok(ExitCode::SUCCESS)
}
