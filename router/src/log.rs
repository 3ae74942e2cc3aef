//! The log: structured lines to standard error, written by a thread of their own, so that a slow terminal or pipe
//! holds up no shard. When it cannot keep up, lines are dropped and counted, never waited for.
use crate::config::{Format, Level, Logging};
use std::io::IsTerminal as _;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// Packages that say nothing here: the SDK of MCP servers logs what they and people say, as it is. What matters of it our
/// own lines tell.
const SILENT: &[&str] = &["rmcp", "sse_stream"];

/// Lines that may wait to be written.
const LINES_MAX: usize = 8_192;

/// Begins to log. What is left is written when the guard goes.
pub(crate) fn start(logging: Logging) -> WorkerGuard {
    let stderr = std::io::stderr();
    let colours = stderr.is_terminal();
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(stderr);
    let level = match logging.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let silent = SILENT.iter().map(|package| (*package, LevelFilter::OFF));
    let filter = Targets::new().with_default(level).with_targets(silent);
    let lines = fmt::layer().with_writer(writer).with_target(false);
    match logging.format {
        Format::Text => registry().with(lines.with_ansi(colours).with_filter(filter)).init(),
        Format::Json => registry().with(lines.json().flatten_event(true).with_filter(filter)).init(),
    }
    guard
}
