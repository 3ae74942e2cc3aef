//! The load generator's provider simulator, on a thread of its own: it speaks every wire format, refuses what the real
//! services would refuse, and does what the script in a prompt says.
use super::http::Client;
use loadgen::driver;
use loadgen::mock::provider::tls::{self, TlsSettings};
use loadgen::mock::provider::{self, Settings};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

/// The key that it asks for.
pub(crate) const KEY: &str = "sk-canary-simulator-key";

/// A wire format, as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Chat,
    Responses,
    Messages,
    Ollama,
}

impl Wire {
    pub(crate) const ALL: [Self; 4] = [Self::Chat, Self::Responses, Self::Messages, Self::Ollama];
    /// Those that clients can speak to the gateway.
    pub(crate) const DOORS: [Self; 3] = [Self::Chat, Self::Responses, Self::Messages];

    /// The name of its model, and of the agent that has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Ollama => "ollama",
        }
    }

    /// What clients ask.
    pub(crate) const fn door(self) -> &'static str {
        match self {
            Self::Chat | Self::Ollama => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
        }
    }

    /// What stands in the configuration for a model of it; `origin` is `http://` and an address.
    pub(crate) fn entry(self, origin: &str, more: Value) -> Value {
        let (provider, base) = match self {
            Self::Chat | Self::Responses => ("openai", "/v1"),
            Self::Messages => ("anthropic", ""),
            Self::Ollama => ("ollama", ""),
        };
        let mut entry = json!({
            "provider": provider, "baseUrl": format!("{origin}{base}"), "model": self.name(), "apiKey": KEY,
        });
        if self == Self::Responses {
            entry["format"] = json!("openai-responses");
        }
        super::gateway::merge(&mut entry, more);
        entry
    }
}

/// A running simulator.
#[derive(Debug)]
pub(crate) struct Simulator {
    pub(crate) address: SocketAddr,
    /// The same behind TLS, with a certificate that nobody trusts.
    pub(crate) tls: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    pub(crate) fn start() -> Self {
        let (tell, told) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let ran = driver::run(|_| async move {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let settings = Settings { key: KEY.to_owned(), ..Settings::default() };
                let plain = provider::serve(any, settings).unwrap();
                let behind_tls = tls::serve(any, plain, TlsSettings::default()).unwrap();
                tell.send((plain, behind_tls)).unwrap();
                while !stopped.load(Ordering::Acquire) {
                    driver::sleep(Duration::from_millis(5)).await;
                }
            });
            ran.unwrap();
        });
        let (address, tls) = told.recv().unwrap();
        Self { address, tls, stop, thread: Some(thread) }
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it counted.
    pub(crate) fn stats(&self) -> Value {
        let mut client = Client::connect(self.address);
        client.request("GET", "/stats", &[], b"");
        client.answer().json()
    }

    /// One number of it.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.stats()[name].as_u64().unwrap()
    }

    /// Waits until a number of it is this.
    #[track_caller]
    pub(crate) fn await_count(&self, name: &str, value: u64) {
        super::ask_until(&format!("the simulator's `{name}` becomes {value}"), || {
            (self.count(name) == value).then_some(())
        });
    }

    /// It was asked nothing that the real services would not take.
    #[track_caller]
    pub(crate) fn assert_none_refused(&self) {
        assert_eq!(self.stats()["refusals"], json!([]));
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What went wrong in it has failed the test already.
            let _ = thread.join();
        }
    }
}
