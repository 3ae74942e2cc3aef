//! The command line: what it says, and the commands that need no gateway to run. Obeys the section "Configuration" of
//! `router/docs/configuration.md` for the file that is meant and for exit codes.
//!
//! Serving is not here: [`execute`] is given what does it. Commands that ask a running gateway hang here too.
mod check;
mod client;
mod letters;
mod models;
mod refused;
mod reload;
mod table;

use crate::config::diagnostic::Diagnostic;
use crate::config::server::Driver;
use crate::config::{self, Config, Overrides};
use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What `serve` is told to take another process's place.
pub(crate) const TAKEOVER: &str = "--takeover";

/// The exit code where the configuration is refused. (A wrong command line ends with 2: that is clap's.)
pub(crate) const REFUSED: u8 = 1;

const AFTER_HELP: &str = "\
The configuration is the file that --config names, else the one that CLAWGATE_CONFIG names, else clawgate.json in the
current folder, else a built-in one: 127.0.0.1:8787, an agent `main` that echoes, an agent `demo` that plays a script.

Exit codes: 0 all is well, 1 the configuration is refused, 2 the command line is wrong, 3 the gateway could not start,
4 the running gateway could not be asked, 5 it refused.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "clawgate", version, about = "A chat gateway for AI agents", after_help = AFTER_HELP)]
pub(crate) struct Invocation {
    /// The configuration file
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeArguments,
    /// As for `serve`
    #[arg(long, hide = true)]
    takeover: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Default, Args)]
struct ServeArguments {
    /// Where to listen, in place of `server.listen`; may be given several times
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// How many threads, in place of `server.shards`; 0 for one per core
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(0..=1024))]
    shards: Option<u16>,
    /// How the kernel is asked for work, in place of `server.driver`
    #[arg(long, value_name = "DRIVER")]
    driver: Option<Driver>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (this is what happens without a command)
    Serve {
        #[command(flatten)]
        serve: ServeArguments,
        /// Take the place of the gateway that has the same data directory, without losing a connection
        #[arg(long)]
        takeover: bool,
    },
    /// Check the configuration and say all that is wrong with it
    Check {
        /// For programs: one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        serve: ServeArguments,
    },
    /// Print what concerns the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Dead letters of the running gateway: messages that could not be answered, or whose answer no platform took
    #[command(subcommand)]
    Dlq(letters::LettersCommand),
    /// The models of the running gateway: what their breakers let pass
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// The store behind the gateway
    #[command(subcommand)]
    Store(refused::StoreCommand),
    /// Have the running gateway read its configuration again, and say what changed or what is wrong with it
    Reload {
        #[command(flatten)]
        reach: client::Reach,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The JSON Schema, for editors
    Schema,
    /// The documentation of every key
    Docs,
    /// What is in force: every default filled in, every secret hidden
    Show(ServeArguments),
    /// A commented file to start from
    Default,
}

impl Command {
    /// What happens without a command.
    fn plain() -> Self {
        Self::Serve { serve: ServeArguments::default(), takeover: false }
    }
}

impl ValueEnum for Driver {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::IoUring, Self::Epoll]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto"),
            Self::IoUring => PossibleValue::new("io_uring"),
            Self::Epoll => PossibleValue::new("epoll"),
        })
    }
}

impl ServeArguments {
    // Those after the command win over those before it.
    fn over(self, before: Self) -> Overrides {
        Overrides {
            listen: if self.listen.is_empty() { before.listen } else { self.listen },
            shards: self.shards.or(before.shards),
            driver: self.driver.or(before.driver),
        }
    }
}

/// Reads the command line of the process. It ends the process with the code 2 and an explanation if that is wrong, and
/// with 0 after `--help` and `--version`.
#[must_use]
pub(crate) fn parse() -> Invocation {
    Invocation::parse()
}

/// What serving is told.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) config: Config,
    /// What stands above the file, also when it is read again.
    pub(crate) overrides: Overrides,
    /// Another process is to be replaced.
    pub(crate) takeover: bool,
}

/// Does what was asked; `serve` runs the gateway, and its exit code is that of the process.
pub(crate) fn execute(invocation: Invocation, serve: impl FnOnce(Orders) -> ExitCode) -> ExitCode {
    let Invocation { config: named, serve: before, takeover: first, command } = invocation;
    let file = Config::locate(named.as_deref());
    let file = file.as_deref();
    match command.unwrap_or_else(Command::plain) {
        Command::Serve { serve: arguments, takeover } => {
            let overrides = arguments.over(before);
            match Config::open(file, &overrides) {
                Ok(config) => {
                    complain(&config.warnings);
                    serve(Orders { config, overrides, takeover: takeover || first })
                }
                Err(problems) => refuse(&problems),
            }
        }
        Command::Check { json, serve } => {
            let result = Config::open(file, &serve.over(before));
            let (text, code) =
                if json { check::for_programs(file, result) } else { check::for_people(file, result) };
            print(&text);
            code
        }
        Command::Dlq(command) => letters::run(command, file),
        Command::Models(command) => models::run(&command, file),
        Command::Store(command) => refused::run(command, file),
        Command::Reload { reach } => reload::run(&reach, file),
        Command::Config(ConfigCommand::Schema) => {
            print(&format!("{:#}\n", config::schema()));
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Docs) => {
            print(&config::docs());
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Default) => {
            print(config::STARTER);
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Show(arguments)) => {
            match config::show(file, &arguments.over(before)) {
                Ok(text) => {
                    print(&format!("{text}\n"));
                    ExitCode::SUCCESS
                }
                Err(problems) => refuse(&problems),
            }
        }
    }
}

fn refuse(problems: &[Diagnostic]) -> ExitCode {
    complain(problems);
    ExitCode::from(REFUSED)
}

fn complain(problems: &[Diagnostic]) {
    if !problems.is_empty() {
        // Nobody may be reading; there is nothing to be done about it.
        let _ = std::io::stderr().write_all(check::told(problems).as_bytes());
    }
}

fn print(text: &str) {
    // `clawgate config docs | head` closes the pipe early, and that is all right.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn serve(arguments: &str) -> Option<(Option<PathBuf>, Overrides)> {
        let arguments = ["clawgate"].into_iter().chain(arguments.split_whitespace());
        let Invocation { config, serve, command, .. } = Invocation::try_parse_from(arguments).ok()?;
        match command {
            None => Some((config, serve.over(ServeArguments::default()))),
            Some(Command::Serve { serve: arguments, .. }) => Some((config, arguments.over(serve))),
            Some(
                Command::Check { .. }
                | Command::Config(_)
                | Command::Dlq(_)
                | Command::Models(_)
                | Command::Store(_)
                | Command::Reload { .. },
            ) => None,
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Invocation::command().debug_assert();
        let help = Invocation::command().render_long_help().to_string();
        assert!(help.contains("Exit codes: 0") && help.contains("CLAWGATE_CONFIG"));
    }

    #[test]
    fn without_a_command_it_serves() {
        let full = "--config a.json --listen 127.0.0.1:1 --listen [::1]:2 --shards 3 --driver io_uring";
        let (config, overrides) = serve(full).unwrap();
        assert_eq!(config, Some(PathBuf::from("a.json")));
        assert_eq!(overrides.listen, ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!((overrides.shards, overrides.driver), (Some(3), Some(Driver::IoUring)));
        assert_eq!(serve(&format!("serve {full}")), serve(full));
        assert_eq!(serve(""), Some((None, Overrides::default())));

        let (config, overrides) =
            serve("--shards 3 --listen 127.0.0.1:1 serve --shards 4 --config b.json").unwrap();
        assert_eq!((config, overrides.shards), (Some(PathBuf::from("b.json")), Some(4)));
        assert_eq!(overrides.listen, ["127.0.0.1:1"]);
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for arguments in [
            "dlq",
            "dlq show",
            "dlq replay",
            "dlq drop 1 --all",
            "dlq replay 1 --channel a",
            "fly",
            "--driver kqueue",
            "--shards 1025",
            "--shards x",
            "config",
            "models",
            "models reset",
            "check --yaml",
            "--port 1",
        ] {
            let words = ["clawgate"].into_iter().chain(arguments.split_whitespace());
            let error = Invocation::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments}");
        }
        let error = Invocation::try_parse_from(["clawgate", "--version"]).unwrap_err();
        assert_eq!((error.exit_code(), error.use_stderr()), (0, false));
    }
}
