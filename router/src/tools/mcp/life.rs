//! The life of one server: started, listed, called, asked whether it lives, and started again when it fails.
//!
//! All of it is one task of the side thread, and one more for each call. Nothing here waits for a server without a bound:
//! what does not start, does not list or does not answer is stopped. A call that is given up is told to the server, which
//! is then asked at once whether it lives.
use super::meter::{Backoff, Fault, Meter};
use super::{Call, List, Reason, Standing, said, stdio, web};
use crate::clock::Clock;
use crate::config::mcp::{Mcp as Settings, Way};
use crate::tools::tool::{Outcome, Refusal};
use clawgate_core::codes::Code;
use rmcp::model::{CallToolRequestParams, ClientRequest, PaginatedRequestParams, PingRequest};
use rmcp::service::{NotificationContext, Peer, RoleClient, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::{ClientHandler, serve_client};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Pages of a list that are asked for.
const PAGES_MAX: usize = 64;
/// How long until a list that changed is asked for: servers often say so several times.
const LIST_AFTER: Duration = Duration::from_millis(100);
/// Bytes of an error's words that are told.
const TOLD_BYTES_MAX: usize = 1_024;

/// Everything a server needs to live.
pub(super) struct Life {
    pub(super) name: Arc<str>,
    pub(super) settings: Settings,
    pub(super) standing: Arc<Standing>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) clock: Clock,
}

/// Hears what the server says unasked.
struct Ears {
    changed: Arc<Notify>,
}

impl ClientHandler for Ears {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }

    fn get_info(&self) -> rmcp::model::ClientConfig {
        let us = rmcp::model::Implementation::new("clawgate", env!("CARGO_PKG_VERSION"));
        rmcp::model::ClientConfig::new(rmcp::model::ClientCapabilities::default(), us)
    }
}

/// A server that runs.
struct Session {
    running: RunningService<RoleClient, Ears>,
    process: Option<stdio::Process>,
    fault: Arc<Fault>,
    changed: Arc<Notify>,
}

/// How a session ended.
enum End {
    /// We are done with the server.
    Stopped,
    /// It failed.
    Failed(Reason, String),
}

/// What a task beside the session found.
enum Word {
    /// The list that was asked for.
    Listed(Result<(List, Vec<String>), String>),
    /// It lives, or does not say so.
    Pinged(bool),
}

impl Life {
    /// Lives until nobody has the server in a configuration any more, or all stops.
    pub(super) async fn live(self, mut calls: mpsc::Receiver<Call>, mut stop: watch::Receiver<bool>) {
        let limits = self.settings.limits;
        let mut backoff = Backoff::default();
        loop {
            self.standing.is(super::Phase::Starting);
            let opened = tokio::select! {
                () = stopped(&mut stop) => return,
                // A process that is given up here is killed as it is dropped.
                opened = self.open() => opened,
                () = self.refuse(&mut calls) => return,
            };
            let (end, age) = match opened {
                Ok(session) => {
                    let began = self.clock.now();
                    (self.serve(session, &mut calls, &mut stop).await, self.clock.now().since(began))
                }
                Err((reason, why)) => (End::Failed(reason, why), Duration::ZERO),
            };
            let End::Failed(reason, why) = end else { return };
            backoff.was_up(age, &limits);
            let wait = backoff.next(&limits, random());
            let again = wait.as_millis();
            tracing::warn!(server = %self.name, again_millis = again, "an MCP server failed: {why}");
            self.standing.failed(reason, why);
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(wait) => {}
                () = self.refuse(&mut calls) => return,
            }
        }
    }

    /// Refuses all calls, until nobody can make any more.
    async fn refuse(&self, calls: &mut mpsc::Receiver<Call>) {
        while let Some(call) = calls.recv().await {
            let why = match self.standing.phase() {
                super::Phase::Down(why) => {
                    format!("its server {} failed and is started again: {why}", self.name)
                }
                super::Phase::Starting | super::Phase::Up => {
                    format!("its server {} is being started", self.name)
                }
            };
            answer(call, refused(Code::ToolUnavailable, why));
        }
    }

    /// Starts it, or connects, and asks for its tools.
    async fn open(&self) -> Result<Session, (Reason, String)> {
        let fault = Arc::<Fault>::default();
        let most = self.settings.limits.start_age_max;
        let opening = async {
            tokio::select! {
                opened = self.begin(fault.clone()) => opened,
                () = fault.wait() => Err(String::new()),
            }
        };
        let opened = tokio::time::timeout(most, opening).await;
        let opened =
            opened.unwrap_or_else(|_| Err(format!("it did not start within {} s", most.as_secs_f32())));
        opened.map_err(|why| fault.told().cloned().unwrap_or((Reason::Start, why)))
    }

    async fn begin(&self, fault: Arc<Fault>) -> Result<Session, String> {
        let limits = &self.settings.limits;
        let meter = Arc::new(Meter::new(*limits, fault.clone(), self.clock));
        let changed = Arc::<Notify>::default();
        let ears = Ears { changed: changed.clone() };
        let words = |why: &dyn std::error::Error| told(&root(why));
        let (running, process) = match &self.settings.way {
            Way::Stdio(settings) => {
                let started = stdio::start(&self.name, settings, meter);
                let (process, (output, input)) = started.map_err(|why| {
                    format!("{:?} cannot be started in {}: {why}", settings.command, settings.cwd.display())
                })?;
                // The meter stops what is longer before the SDK would drop it unheard.
                let line = AsyncRwTransport::new_client(output, input).with_max_line_length(usize::MAX);
                match serve_client(ears, line).await {
                    Ok(running) => (running, Some(process)),
                    Err(why) => {
                        let ended = process.end(true).await;
                        return Err(format!("it does not begin: {} ({ended})", words(&why)));
                    }
                }
            }
            Way::Http(settings) => {
                let meter = (meter, limits.message_bytes_max);
                let (client, config) = web::way(settings, &self.tls, meter, limits.calls_max)?;
                let line = StreamableHttpClientTransport::with_client(client, config);
                let running = serve_client(ears, line).await;
                (running.map_err(|why| format!("it does not begin: {}", words(&why)))?, None)
            }
        };
        let (list, refused) = listed(running.peer().clone(), self.settings.clone()).await?;
        self.take(list, &refused);
        Ok(Session { running, process, fault, changed })
    }

    /// Its tools are these from here on.
    fn take(&self, list: List, refused: &[String]) {
        for why in refused {
            tracing::warn!(server = %self.name, "a tool of an MCP server is left out: {why}");
        }
        tracing::info!(server = %self.name, tools = list.len(), "an MCP server lists its tools");
        self.standing.lists(list);
    }

    /// Serves calls until the server fails or is not wanted any more.
    async fn serve(
        &self,
        session: Session,
        calls: &mut mpsc::Receiver<Call>,
        stop: &mut watch::Receiver<bool>,
    ) -> End {
        let Session { running, process, fault, changed } = session;
        let number = process.as_ref().map(stdio::Process::number);
        tracing::info!(server = %self.name, pid = number, "an MCP server is up");
        self.standing.came_up();
        let desk = Desk {
            peer: running.peer().clone(),
            settings: self.settings.clone(),
            fault: fault.clone(),
            doubt: Arc::default(),
            open: Rc::default(),
            done: Rc::default(),
        };
        let mut ended = Box::pin(running.waiting());
        let end = tokio::select! {
            () = stopped(stop) => End::Stopped,
            end = self.work(&desk, calls, &changed) => end,
            _ = &mut ended => End::Failed(Reason::Ended, "it ended".to_owned()),
            () = fault.wait() => End::Stopped,
        };
        let told = fault.told().cloned();
        let at_once = told.is_some() || matches!(end, End::Failed(Reason::Hung, _));
        if matches!(end, End::Failed(..)) {
            // Calls that it works on hear of it by this.
            fault.tell(Reason::Ended, "it ended".to_owned());
        }
        // Its input is closed, or its connections are.
        drop(ended);
        let how = match process {
            Some(process) => process.end(at_once).await,
            None => String::new(),
        };
        match (told, end) {
            (Some((reason, why)), _) => End::Failed(reason, why),
            (None, End::Failed(reason, why)) if how.is_empty() => End::Failed(reason, why),
            (None, End::Failed(reason, why)) => End::Failed(reason, format!("{why} ({how})")),
            (None, End::Stopped) => End::Stopped,
        }
    }

    async fn work(&self, desk: &Desk, calls: &mut mpsc::Receiver<Call>, changed: &Notify) -> End {
        let limits = &self.settings.limits;
        let (say, mut words) = mpsc::channel::<Word>(4);
        let (mut listing, mut again, mut pinging) = (false, false, false);
        let mut ping = tokio::time::interval(limits.ping_every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is now, when it has just said something.
        ping.tick().await;
        loop {
            let idle = desk.open.get() == 0;
            tokio::select! {
                call = next(calls) => match call {
                    Some(call) => desk.begin(call),
                    None => return End::Stopped,
                },
                () = changed.notified() => again = true,
                // Whether it is idle is looked at anew.
                () = desk.done.notified() => {}
                _ = ping.tick(), if idle && !pinging => pinging = desk.ping(&say),
                () = desk.doubt.notified(), if !pinging => pinging = desk.ping(&say),
                word = next(&mut words) => match word {
                    Some(Word::Pinged(true)) => pinging = false,
                    Some(Word::Pinged(false)) => {
                        let most = limits.ping_every.as_secs_f32();
                        return End::Failed(Reason::Hung, format!("it did not say within {most} s that it lives"));
                    }
                    Some(Word::Listed(listed)) => {
                        listing = false;
                        match listed {
                            Ok((list, refused)) => self.take(list, &refused),
                            Err(why) => {
                                tracing::warn!(server = %self.name, "the changed list of an MCP server cannot be had: {why}");
                            }
                        }
                    }
                    None => return End::Stopped,
                },
            }
            if again && !listing {
                (listing, again) = (true, false);
                desk.list(&say);
            }
        }
    }
}

/// Ready once all servers are to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Who would tell it is gone with the process.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What a queue has next. Given up, it loses nothing: a queue gives a thing only to whoever takes it.
async fn next<T>(queue: &mut mpsc::Receiver<T>) -> Option<T> {
    queue.recv().await
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all wait equally long.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_le_bytes(bytes)
}

fn refused(code: Code, why: impl Into<String>) -> Outcome {
    Outcome::failed(&Refusal::new(code, why))
}

/// What is behind an error: those before it tell of the SDK's own layers.
fn root(why: &dyn std::error::Error) -> String {
    let mut root = why;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// A stranger's words, in so many bytes, and quoted: they cannot look like a line of ours in the log.
fn told(words: &str) -> String {
    format!("{:?}", &words[..words.floor_char_boundary(TOLD_BYTES_MAX)])
}

/// Tells what came of a call, without waiting for whoever asked.
fn answer(call: Call, outcome: Outcome) {
    let Call { answer, mut gone, .. } = call;
    tokio::task::spawn_local(async move { answer.give(outcome, &mut gone).await });
}

/// Asks for all tools, page by page, within the time that it may take.
async fn listed(peer: Peer<RoleClient>, settings: Settings) -> Result<(List, Vec<String>), String> {
    let limits = &settings.limits;
    let pages = async {
        let (mut tools, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = PaginatedRequestParams::default().with_cursor(cursor);
            let page = peer.list_tools(Some(page)).await;
            let page = page.map_err(|why| format!("it does not list its tools: {}", told(&root(&why))))?;
            tools.extend(page.tools);
            cursor = page.next_cursor;
            // One more than there may be says that there are more.
            if cursor.is_none() || limits.tools_max < tools.len() {
                break;
            }
        }
        Ok(said::list(tools, limits))
    };
    let listed = tokio::time::timeout(limits.start_age_max, pages).await;
    listed.unwrap_or_else(|_| Err("it does not list its tools in time".to_owned()))
}

/// Where calls are taken to a server that is up.
#[derive(Clone)]
struct Desk {
    peer: Peer<RoleClient>,
    settings: Settings,
    fault: Arc<Fault>,
    /// Rung when a call was given up: does it still live?
    doubt: Arc<Notify>,
    /// Calls that it works on.
    open: Rc<Cell<usize>>,
    /// Rung when one of them is over.
    done: Rc<Notify>,
}

/// A call that the server works on.
struct Open(Rc<Cell<usize>>, Rc<Notify>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
        self.1.notify_one();
    }
}

impl Desk {
    fn begin(&self, call: Call) {
        let most = self.settings.limits.calls_max;
        if most <= self.open.get() {
            let why = format!("its server works on {most} calls already; try again later");
            return answer(call, refused(Code::ToolUnavailable, why));
        }
        self.open.set(self.open.get() + 1);
        let (desk, open) = (self.clone(), Open(self.open.clone(), self.done.clone()));
        tokio::task::spawn_local(async move {
            desk.carry_out(call).await;
            drop(open);
        });
    }

    async fn carry_out(&self, call: Call) {
        let Call { tool, arguments, output_bytes_max, answer, mut gone } = call;
        let request = CallToolRequestParams::new(tool).with_arguments(arguments);
        let outcome = tokio::select! {
            result = self.peer.call_tool(request) => self.outcome(result, output_bytes_max),
            () = self.fault.wait() => self.broken(),
            // The SDK tells the server so.
            _ = &mut gone => return self.doubt.notify_one(),
        };
        answer.give(outcome, &mut gone).await;
    }

    fn outcome(
        &self,
        result: Result<rmcp::model::CallToolResult, ServiceError>,
        output_bytes_max: usize,
    ) -> Outcome {
        let failed = |why: String| refused(Code::ToolFailed, why);
        match result {
            Ok(result) => said::outcome(&result, output_bytes_max),
            Err(ServiceError::McpError(error)) => {
                let words = &error.message[..error.message.floor_char_boundary(TOLD_BYTES_MAX)];
                failed(format!("it answered with the error {}: {words}", error.code.0))
            }
            Err(ServiceError::TransportClosed) => self.broken(),
            Err(ServiceError::UnexpectedResponse) => {
                failed("it answered with what is no result of a tool".to_owned())
            }
            Err(why) => {
                self.doubt.notify_one();
                failed(format!("its server cannot be asked: {}", told(&root(&why))))
            }
        }
    }

    /// The server is gone.
    fn broken(&self) -> Outcome {
        let why = self.fault.told().map_or("it ended", |(_, why)| why.as_str());
        refused(Code::ToolFailed, format!("its server failed while it worked on this: {why}"))
    }

    /// Asks whether it lives; the answer comes as a word. Always true: it is being asked.
    fn ping(&self, say: &mpsc::Sender<Word>) -> bool {
        let (peer, most, say) = (self.peer.clone(), self.settings.limits.ping_every, say.clone());
        tokio::task::spawn_local(async move {
            let asked = peer.send_request(ClientRequest::PingRequest(PingRequest::default()));
            let lives = match tokio::time::timeout(most, asked).await {
                // One that does not know the question lives all the same.
                Ok(Ok(_) | Err(ServiceError::McpError(_) | ServiceError::UnexpectedResponse)) => true,
                Ok(Err(_)) | Err(_) => false,
            };
            // A session that is over hears nothing more.
            let _ = say.send(Word::Pinged(lives)).await;
        });
        true
    }

    /// Asks for its tools, which changed; they come as a word.
    fn list(&self, say: &mpsc::Sender<Word>) {
        let (peer, settings, say) = (self.peer.clone(), self.settings.clone(), say.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LIST_AFTER).await;
            let listed = listed(peer, settings).await;
            let _ = say.send(Word::Listed(listed)).await;
        });
    }
}
