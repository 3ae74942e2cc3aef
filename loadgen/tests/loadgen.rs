//! The generator against simulators of this crate, over real sockets: what it reports of faults that were planted, and
//! that it reports none where there are none.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use loadgen::driver;
use loadgen::ledger::{Expect, Tally};
use loadgen::measure::Metric;
use loadgen::mock::gateway::{self, ChannelSettings, Faults, GatewaySettings};
use loadgen::protocol::Addressing;
use loadgen::run::{Outcome, Settings, Spread, TelegramSettings, Unwatched, drive};
use loadgen::scenario::{Kind, Scenario};
use loadgen::schedule::Arrivals;

const KEY: &str = "a \"key\"";

/// A simulator on a thread of its own; it ends when it is dropped.
struct Running {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(serve: impl FnOnce(SocketAddr) -> std::io::Result<SocketAddr> + Send + 'static) -> Self {
        let (address_in, address) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            driver::run(|_| async move {
                address_in.send(serve("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
                while !stopped.load(Ordering::Relaxed) {
                    driver::sleep(Duration::from_millis(5)).await;
                }
            })
            .unwrap();
        });
        Self { address: address.recv().unwrap(), stop, thread: Some(thread) }
    }

    fn gateway(faults: Faults) -> Self {
        let settings = GatewaySettings { key: KEY.to_owned(), chunk_bytes: 30, faults, telegram: None };
        Self::start(move |address| gateway::serve(address, settings))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A second of traffic, most of it measured.
fn settings(scenario: Scenario, target: SocketAddr) -> Settings {
    Settings {
        scenario,
        target,
        to: Addressing {
            run: 0x7E57,
            payload_bytes: 128,
            session_prefix: "lg-test-".to_owned(),
            channel: "api".to_owned(),
            host: target.to_string(),
            key: KEY.to_owned(),
        },
        rate: 2_000.0,
        sessions: 40,
        connections: 8,
        duration_ns: 500_000_000,
        warmup_ns: 100_000_000,
        arrivals: Arrivals::Poisson,
        seed: 42,
        threads: 1,
        spread: Spread::Even,
        expect: Expect::Echo,
        drain_ns: 5_000_000_000,
        linger_ns: 50_000_000,
        inflight_max: 100_000,
        spin: false,
        telegram: None,
        started_unix_seconds: 1_710_000_000,
        gateway_pid: Some(std::process::id()),
    }
}

fn run(settings: Settings) -> Outcome {
    drive(settings, &mut Unwatched).unwrap()
}

fn assert_exact(outcome: &Outcome) {
    let tally = outcome.tally();
    assert!(tally.is_exact(), "{tally:?}");
    assert_eq!((tally.refused, tally.strays, tally.codes.len()), (0, 0, 0), "{tally:?}");
    assert_eq!(tally.answered, tally.opened);
    assert!(outcome.complete);
    assert_eq!(outcome.sum.counts.shed, 0);
    let responses = outcome.sum.times(Metric::Response).unwrap().len();
    assert_eq!(responses, outcome.due_in_window, "every message that was due in the window is timed");
    assert_eq!(outcome.sum.times(Metric::Lag).unwrap().len(), outcome.due_in_window);
    assert_eq!(outcome.sum.counts.sent, tally.opened);
}

#[test]
fn every_scenario_over_a_faultless_gateway_is_exact() {
    let gateway = Running::gateway(Faults::default());
    for kind in [Kind::WsChat, Kind::WsStream, Kind::Rest, Kind::SseStream] {
        let outcome = run(settings(kind.into(), gateway.address));
        assert_exact(&outcome);
        assert_eq!(outcome.sum.times(Metric::First).is_some(), kind.streams(), "{kind:?}");
        assert!(outcome.gateway.is_some_and(|[from, to]| from.cpu_ns < to.cpu_ns));
    }
}

#[test]
fn a_mixture_over_two_lanes_is_exact_and_keeps_the_schedule_of_one() {
    let gateway = Running::gateway(Faults::default());
    let mixed: Scenario = "ws-stream=3,rest=1,sse-stream=1".parse().unwrap();
    let one = run(settings(mixed.clone(), gateway.address));
    let two = run(Settings { threads: 2, spread: Spread::Random, ..settings(mixed, gateway.address) });
    assert_exact(&one);
    assert_exact(&two);
    assert_eq!(two.lanes.len(), 2);
    assert_eq!((one.digest, one.due_in_window), (two.digest, two.due_in_window));
    let opened = |outcome: &Outcome| outcome.tallies.iter().map(|tally| tally.opened).collect::<Vec<_>>();
    assert_eq!(opened(&one), opened(&two));
    assert!(opened(&one).iter().all(|opened| 0 < *opened));
}

/// One session a connection, so that the next message of a connection is the next of its session.
fn tally_of(faults: Faults, kind: Kind) -> Tally {
    let gateway = Running::gateway(faults);
    let settings = settings(kind.into(), gateway.address);
    let outcome = run(Settings { sessions: 8, drain_ns: 300_000_000, ..settings });
    outcome.tally()
}

#[test]
fn planted_losses_are_reported_to_the_message() {
    let tally = tally_of(Faults { lose_every: 100, ..Faults::default() }, Kind::WsChat);
    assert_eq!(tally.lost, tally.opened / 100);
    assert_eq!((tally.doubled, tally.reordered, tally.corrupted), (0, 0, 0));
    assert_eq!(tally.answered + tally.lost, tally.opened);
}

#[test]
fn planted_doubles_are_reported_to_the_message() {
    for kind in [Kind::WsChat, Kind::WsStream] {
        let tally = tally_of(Faults { double_every: 100, ..Faults::default() }, kind);
        assert_eq!(tally.doubled, tally.opened / 100, "{kind:?}");
        assert_eq!((tally.lost, tally.reordered, tally.corrupted), (0, 0, 0));
    }
}

#[test]
fn planted_swaps_are_reported() {
    let tally = tally_of(Faults { swap_every: 100, ..Faults::default() }, Kind::WsChat);
    // The last one may have had no message after it to be overtaken by.
    assert!(tally.opened / 100 - tally.reordered <= 1, "{tally:?}");
    assert_eq!(tally.reordered + tally.lost, tally.opened / 100, "{tally:?}");
    assert_eq!((tally.doubled, tally.corrupted), (0, 0));
}

#[test]
fn planted_changes_are_reported_to_the_message() {
    for kind in [Kind::WsChat, Kind::WsStream, Kind::Rest, Kind::SseStream] {
        let tally = tally_of(Faults { corrupt_every: 100, ..Faults::default() }, kind);
        assert_eq!(tally.corrupted, tally.opened / 100, "{kind:?}");
        assert_eq!((tally.lost, tally.doubled, tally.reordered), (0, 0, 0));
    }
}

#[test]
fn refusals_are_counted_by_code_and_are_no_losses() {
    for kind in [Kind::WsChat, Kind::Rest, Kind::SseStream] {
        let tally = tally_of(Faults { refuse_every: 100, ..Faults::default() }, kind);
        assert_eq!(tally.refused, tally.opened / 100, "{kind:?}");
        assert_eq!(tally.codes["AGENT_BUSY"], tally.refused);
        assert!(tally.is_exact(), "{tally:?}");
    }
}

#[test]
fn a_connection_that_breaks_is_opened_again_and_only_its_messages_are_lost() {
    for kind in [Kind::WsChat, Kind::Rest] {
        let gateway = Running::gateway(Faults { hang_up_every: 400, ..Faults::default() });
        let settings = settings(kind.into(), gateway.address);
        let outcome = run(Settings { drain_ns: 500_000_000, ..settings });
        let tally = outcome.tally();
        let breaks = outcome.sum.counts.disconnects;
        assert!((1..=tally.opened / 400).contains(&breaks), "{kind:?} {breaks}");
        assert!(breaks <= tally.lost && tally.lost < tally.opened / 4, "{kind:?} {tally:?}");
        assert_eq!((tally.doubled, tally.corrupted), (0, 0), "{kind:?} {tally:?}");
        assert_eq!(tally.answered + tally.lost, tally.opened);
    }
}

/// A free port of this machine. Somebody else may take it before it is used; then the test says so.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn telegram_run(faults: Faults, forgets: bool) -> Outcome {
    let api_root = free_address();
    let channel = ChannelSettings {
        name: "tg".to_owned(),
        secret: "s3cret".to_owned(),
        token: "1:abc".to_owned(),
        api_root,
        forgets,
    };
    let of_gateway = GatewaySettings { key: KEY.to_owned(), chunk_bytes: 0, faults, telegram: Some(channel) };
    let gateway = Running::start(move |address| gateway::serve(address, of_gateway));
    let telegram = TelegramSettings {
        listen: api_root,
        channel: "tg".to_owned(),
        token: "1:abc".to_owned(),
        secret: "s3cret".to_owned(),
        repeat_share: 0.2,
    };
    let settings = settings(Kind::WebhookTelegram.into(), gateway.address);
    run(Settings { rate: 500.0, telegram: Some(telegram), drain_ns: 10_000_000_000, ..settings })
}

#[test]
fn a_telegram_run_is_timed_end_to_end_and_repeated_deliveries_are_answered_once() {
    let outcome = telegram_run(Faults::default(), false);
    assert_exact(&outcome);
    assert!(0 < outcome.sum.counts.repeats);
    assert_eq!(outcome.sum.times(Metric::Ack).unwrap().len(), outcome.due_in_window);
}

#[test]
fn a_gateway_that_answers_repeated_deliveries_again_is_found_out() {
    let outcome = telegram_run(Faults::default(), true);
    let tally = outcome.tally();
    assert_eq!(tally.doubled, outcome.sum.counts.repeats, "{tally:?}");
    assert!(0 < tally.doubled);
    assert_eq!((tally.lost, tally.corrupted), (0, 0));
}

#[test]
fn what_cannot_be_reached_or_does_not_take_the_key_is_said_before_the_run() {
    let nobody = free_address();
    let error = drive(settings(Kind::WsChat.into(), nobody), &mut Unwatched).unwrap_err();
    assert!(error.contains(&nobody.to_string()), "{error}");
    let gateway = Running::gateway(Faults::default());
    let mut wrong = settings(Kind::WsChat.into(), gateway.address);
    wrong.to.key = "wrong".to_owned();
    let error = drive(wrong, &mut Unwatched).unwrap_err();
    assert!(error.contains("UNAUTHENTICATED"), "{error}");
}
