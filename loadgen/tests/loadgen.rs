//! The generator against simulators of this crate, over real sockets: what it reports of faults that were planted, and
//! that it reports none where there are none. The simulators against a plain client of the wire formats.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use clawgate_wire::http1::{BodyDecoder, HeadLimits, parse_response};
use clawgate_wire::sse;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use loadgen::abuse::{self, Abuse};
use loadgen::arrivals::Arrivals;
use loadgen::driver;
use loadgen::hazards::{Ending, Hazards, Restart, Slow, Storm};
use loadgen::ledger::{Expect, Tally};
use loadgen::measure::Metric;
use loadgen::mock::gateway::{self, ChannelSettings, Faults, GatewaySettings, WebhookSettings};
use loadgen::mock::provider::tls::{self, TlsSettings};
use loadgen::mock::telegram::BotSettings;
use loadgen::mock::{provider, telegram};
use loadgen::protocol::Addressing;
use loadgen::run::{
    Flaws, Outcome, Settings, SignedSettings, Spread, TelegramSettings, Trust, Unwatched, drive,
};
use loadgen::scenario::{Kind, Scenario};
use loadgen::self_test;
use serde_json::{Value, json};

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
        let settings = GatewaySettings {
            key: KEY.to_owned(),
            chunk_bytes: 30,
            remembers: true,
            faults,
            telegram: None,
            signed: None,
        };
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
        trust: None,
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
        hot_percent: 0,
        hazards: Hazards::default(),
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
        signed: None,
        flaws: Flaws::default(),
        zipf: 0.0,
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
    for (number, kind) in [Kind::WsChat, Kind::WsStream, Kind::Rest, Kind::SseStream].into_iter().enumerate()
    {
        let mut settings = settings(kind.into(), gateway.address);
        settings.to.run += number as u32;
        let outcome = run(settings);
        assert_exact(&outcome);
        assert_eq!(outcome.sum.times(Metric::First).is_some(), kind.streams(), "{kind:?}");
        // The process is this one: threads of other tests end meanwhile, and take their processor time with them.
        assert!(outcome.gateway.is_some_and(|[_, to]| 0 < to.cpu_ns));
    }
}

#[test]
fn a_mixture_over_two_lanes_is_exact_and_keeps_the_schedule_of_one() {
    let gateway = Running::gateway(Faults::default());
    let mixed: Scenario = "ws-stream=3,rest=1,sse-stream=1".parse().unwrap();
    let one = run(settings(mixed.clone(), gateway.address));
    let mut again = settings(mixed, gateway.address);
    // Another run: the gateway remembers the messages of the first.
    again.to.run += 100;
    let two = run(Settings { threads: 2, spread: Spread::Random, ..again });
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

fn telegram_run(faults: Faults, forgets: bool, previews: bool) -> Outcome {
    let api_root = free_address();
    let channel = ChannelSettings {
        name: "tg".to_owned(),
        secret: "s3cret".to_owned(),
        token: "1:abc".to_owned(),
        api_root,
        forgets,
        previews,
    };
    let of_gateway = GatewaySettings {
        key: KEY.to_owned(),
        chunk_bytes: 0,
        remembers: true,
        faults,
        telegram: Some(channel),
        signed: None,
    };
    let gateway = Running::start(move |address| gateway::serve(address, of_gateway));
    let telegram = TelegramSettings {
        listen: api_root,
        channel: "tg".to_owned(),
        token: "1:abc".to_owned(),
        secret: "s3cret".to_owned(),
    };
    let flaws = Flaws { repeats: 0.2, ..Flaws::default() };
    let settings = settings(Kind::WebhookTelegram.into(), gateway.address);
    run(Settings { rate: 500.0, flaws, telegram: Some(telegram), drain_ns: 10_000_000_000, ..settings })
}

#[test]
fn a_telegram_run_is_timed_end_to_end_and_repeated_deliveries_are_answered_once() {
    let outcome = telegram_run(Faults::default(), false, false);
    assert_exact(&outcome);
    assert!(0 < outcome.sum.counts.repeats);
    assert_eq!(outcome.sum.times(Metric::Ack).unwrap().len(), outcome.due_in_window);
}

#[test]
fn a_gateway_that_answers_repeated_deliveries_again_is_found_out() {
    let outcome = telegram_run(Faults::default(), true, false);
    let tally = outcome.tally();
    assert_eq!(tally.doubled, outcome.sum.counts.repeats, "{tally:?}");
    assert!(0 < tally.doubled);
    assert_eq!((tally.lost, tally.corrupted), (0, 0));
}

#[test]
fn an_answer_that_is_edited_while_it_is_written_is_judged_by_its_last_text() {
    let outcome = telegram_run(Faults::default(), false, true);
    assert_exact(&outcome);
    // A first part and an edit for each.
    assert_eq!(outcome.sum.counts.pieces, 2 * outcome.tally().answered);
    let faults = Faults { corrupt_every: 50, ..Faults::default() };
    let outcome = telegram_run(faults, false, true);
    let tally = outcome.tally();
    assert_eq!(tally.corrupted, tally.opened / 50, "{tally:?}");
    assert_eq!((tally.lost, tally.doubled, tally.answered), (0, 0, tally.opened), "{tally:?}");
}

/// A gateway with the channels of both platforms, and a run over them: `flaws` beside every fifth message.
fn flood(faults: Faults, drain_ns: u64) -> Outcome {
    let (api_root, replies) = (free_address(), free_address());
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
    let (token, of_bot) = ("1:abc".to_owned(), "s3cret".to_owned());
    let telegram = ChannelSettings {
        name: "tg".to_owned(),
        secret: of_bot.clone(),
        token: token.clone(),
        api_root,
        forgets: false,
        previews: false,
    };
    let signed = WebhookSettings { name: "shop".to_owned(), secret: secret.clone(), replies };
    let of_gateway = GatewaySettings {
        key: KEY.to_owned(),
        chunk_bytes: 0,
        remembers: true,
        faults,
        telegram: Some(telegram),
        signed: Some(signed),
    };
    let gateway = Running::start(move |address| gateway::serve(address, of_gateway));
    let scenario = "webhook-telegram=1,webhook-signed=1".parse().unwrap();
    let channel = "tg".to_owned();
    run(Settings {
        rate: 400.0,
        telegram: Some(TelegramSettings { listen: api_root, channel, token, secret: of_bot }),
        signed: Some(SignedSettings { listen: replies, channel: "shop".to_owned(), secret }),
        flaws: Flaws { repeats: 0.1, late: 0.0, malformed: 0.1 },
        zipf: 1.0,
        drain_ns,
        threads: 2,
        ..settings(scenario, gateway.address)
    })
}

#[test]
fn a_flood_of_webhooks_is_answered_once_and_what_is_malformed_changes_nothing() {
    let outcome = flood(Faults::default(), 20_000_000_000);
    assert_exact(&outcome);
    assert_eq!(outcome.tallies.len(), 2);
    assert!(outcome.tallies.iter().all(|tally| 0 < tally.answered), "{:?}", outcome.tallies);
    let counts = &outcome.sum.counts;
    assert!(0 < counts.repeats && 0 < counts.malformed, "{counts:?}");
    assert_eq!(counts.malformed, counts.malformed_refused);
}

#[test]
fn a_platform_posts_again_what_was_refused_for_a_while_until_it_is_taken() {
    let outcome = flood(Faults { refuse_every: 50, ..Faults::default() }, 30_000_000_000);
    let tally = outcome.tally();
    // Refused for a while is not refused: the next delivery is taken.
    assert!(tally.is_exact() && tally.refused == 0 && tally.answered == tally.opened, "{tally:?}");
    let lost = flood(Faults { lose_every: 50, ..Faults::default() }, 1_000_000_000).tally();
    assert!(0 < lost.lost && lost.doubled == 0, "{lost:?}");
}

/// The binary, which is told to end as soon as what it wrote is there.
#[test]
fn what_is_recorded_is_replayed_at_its_moments_and_says_nothing_of_what_was_said() {
    let gateway = Running::gateway(Faults::default());
    let (listen, target) = (free_address(), gateway.address);
    let file = std::env::temp_dir().join(format!("loadgen-trace-{}.jsonl", std::process::id()));
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([
            "record",
            file.to_str().unwrap(),
            "--listen",
            &listen.to_string(),
            "--to",
            &target.to_string(),
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = std::io::BufReader::new(recorder.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut told, &mut line).unwrap();
    assert!(line.contains("passed on"), "{line}");
    let outcome = run(settings("ws-chat=1,rest=1".parse().unwrap(), listen));
    assert_exact(&outcome);
    loadgen::sys::terminate(recorder.id());
    assert!(recorder.wait().unwrap().success());
    told.read_to_string(&mut line).unwrap();
    let opened = outcome.tally().opened;
    assert!(line.contains(&format!("{opened} messages of 16 connections, 0 of them")), "{line}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count() as u64, opened);
    assert!(!text.contains("lg1.") && !text.contains(KEY), "what was said is in the trace");
    assert!(text.contains(r#""door":"ws""#) && text.contains(r#""door":"http""#));
    let trace: Arrivals = format!("trace:{}", file.display()).parse().unwrap();
    std::fs::remove_file(file).unwrap();
    // Another one: the first has had messages of these ids.
    let another = Running::gateway(Faults::default());
    let replay = settings(Kind::WsChat.into(), another.address);
    let again = run(Settings { arrivals: trace, rate: 500.0, ..replay });
    assert_exact(&again);
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

#[test]
fn a_server_that_stands_still_shows_in_the_times_of_all_that_were_due_meanwhile() {
    let stall = self_test::stall(2_000.0, Duration::from_millis(200)).unwrap();
    // Lower bounds only: a busy machine makes more messages slow, never fewer.
    assert!(stall.exact && stall.is_seen(), "{stall:?}");
}

#[test]
fn bad_connections_are_counted_by_what_became_of_them_and_good_traffic_stays_exact() {
    let gateway = Running::gateway(Faults::default());
    let abuse = Abuse {
        target: gateway.address,
        host: gateway.address.to_string(),
        key: KEY.to_owned(),
        connections: 120,
        duration_ns: 800_000_000,
        rate: 200.0,
        seed: 3,
    };
    let mut lines = Vec::new();
    let code = abuse::main(&abuse, &mut |line| lines.push(line.to_owned())).unwrap();
    let told = lines.join("\n");
    assert_eq!(code, 0, "{told}");
    let fate_of = |deed: &str| lines.iter().find(|line| line.contains(deed)).unwrap();
    assert!(fate_of("half a head").contains("held 10"), "{told}");
    assert!(fate_of("two lengths in a head").contains("answered 400 10"), "{told}");
    assert!(fate_of("an unmasked frame").contains("closed 1002 10"), "{told}");
    assert!(fate_of("a frame of a gigabyte").contains("closed 1009 10"), "{told}");
    assert!(fate_of("a wrong token").contains("closed 4501 10"), "{told}");
    assert!(told.contains("lost 0 / doubled 0 / reordered 0 / corrupted 0"), "{told}");
}

/// The binary, told to keep quiet.
fn loadgen(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap()
}

/// The readers are slow for most of the run, and read what is left at its end: nothing is lost unless one is closed.
#[test]
fn slow_readers_are_timed_apart_and_are_owed_what_they_did_not_read() {
    let gateway = Running::gateway(Faults::default());
    for bytes_per_second in [0, 20_000] {
        let mut settings = settings(Kind::WsChat.into(), gateway.address);
        settings.to.run += bytes_per_second as u32;
        settings.hazards.slow = Some(Slow { percent: 25, bytes_per_second });
        let outcome = run(settings);
        let tally = outcome.tally();
        assert!(tally.is_exact() && tally.answered == tally.opened, "{tally:?}");
        let timed = [Metric::Response, Metric::Slow].map(|metric| outcome.sum.times(metric).unwrap().len());
        assert_eq!(timed.iter().sum::<u64>(), outcome.due_in_window, "{timed:?}");
        assert_eq!((outcome.sum.counts.slow_closes, outcome.sum.counts.disconnects), (0, 0));
    }
}

#[test]
fn what_a_slow_reader_is_closed_for_is_given_up_and_what_others_miss_is_lost() {
    let faults = Faults { owed_max: 500_000, lose_every: 500, ..Faults::default() };
    let gateway = Running::gateway(faults);
    let mut settings = settings(Kind::WsChat.into(), gateway.address);
    // Much more than the buffers between both hold, so that the gateway comes to owe it.
    settings.to.payload_bytes = 60_000;
    settings.hazards.slow = Some(Slow { percent: 50, bytes_per_second: 0 });
    let outcome = run(Settings { rate: 500.0, connections: 2, drain_ns: 500_000_000, ..settings });
    let tally = outcome.tally();
    assert!(0 < outcome.sum.counts.slow_closes && 0 < tally.given_up, "{tally:?}");
    assert_eq!(tally.answered + tally.given_up + tally.lost, tally.opened, "{tally:?}");
    assert_eq!((tally.doubled, tally.reordered, tally.corrupted), (0, 0, 0), "{tally:?}");
}

#[test]
fn clients_that_come_for_one_message_are_let_in_and_answered() {
    let gateway = Running::gateway(Faults::default());
    let settings = settings(Kind::Churn.into(), gateway.address);
    let outcome = run(Settings { rate: 300.0, threads: 2, ..settings });
    assert_exact(&outcome);
    assert_eq!(outcome.sum.times(Metric::Handshake).unwrap().len(), outcome.due_in_window);
}

#[test]
fn they_come_with_tls_too_and_trust_only_whom_they_are_told_to() {
    let gateway = Running::gateway(Faults { refuse_every: 10, ..Faults::default() });
    let (pem_in, pem) = channel();
    let inside = gateway.address;
    let outside = Running::start(move |address| {
        let settings = TlsSettings { name: "127.0.0.1".to_owned(), handshake_ns: 0 };
        let (address, certificate) = tls::serve_trusted(address, inside, settings)?;
        pem_in.send(certificate).unwrap();
        Ok(address)
    });
    let file = std::env::temp_dir().join(format!("loadgen-ca-{}.pem", std::process::id()));
    std::fs::write(&file, pem.recv().unwrap()).unwrap();
    let trust = Trust::read(&file, &outside.address.to_string()).unwrap();
    let mut of = settings(Kind::Churn.into(), outside.address);
    of.trust = Some(trust);
    let outcome = run(Settings { rate: 100.0, ..of.clone() });
    let tally = outcome.tally();
    assert!(tally.is_exact() && tally.refused == tally.opened / 10, "{tally:?}");
    assert_eq!(outcome.sum.times(Metric::Handshake).unwrap().len(), outcome.due_in_window);
    // By another name it is somebody else.
    of.trust = Some(Trust::read(&file, "127.0.0.2:443").unwrap());
    let error = drive(of, &mut Unwatched).unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    std::fs::write(&file, "no certificate").unwrap();
    assert!(Trust::read(&file, "127.0.0.1:443").unwrap_err().contains("PEM"));
    std::fs::remove_file(file).unwrap();
}

/// A storm at a third and at two thirds of the run.
fn storm_run(faults: Faults, kind: Kind, ending: Ending, threads: u32) -> Outcome {
    let gateway = Running::gateway(faults);
    let mut settings = settings(kind.into(), gateway.address);
    settings.hazards.storm =
        Some(Storm { at_ns: vec![200_000_000, 400_000_000], ending, jitter_ns: 50_000_000 });
    run(Settings { threads, ..settings })
}

#[test]
fn after_a_storm_all_are_back_and_every_message_is_answered_once() {
    for (kind, ending, threads) in [(Kind::WsChat, Ending::Abort, 2), (Kind::WsStream, Ending::Polite, 1)] {
        let outcome = storm_run(Faults::default(), kind, ending, threads);
        let tally = outcome.tally();
        assert!(tally.is_exact() && tally.answered == tally.opened, "{tally:?}");
        let dropped: Vec<(u64, u64)> =
            outcome.storms.iter().map(|storm| (storm.dropped, storm.back)).collect();
        assert_eq!(dropped.len(), 2, "{dropped:?}");
        assert!(dropped.iter().all(|(dropped, back)| 0 < *dropped && dropped == back), "{dropped:?}");
        assert_eq!(dropped[0].0, 8);
        let back = outcome.sum.times(Metric::Back).unwrap();
        assert_eq!(back.len(), dropped.iter().map(|(dropped, _)| dropped).sum::<u64>());
        assert_eq!(outcome.sum.counts.disconnects, 0);
        assert_eq!(outcome.sum.counts.sent, tally.opened, "what is sent again is not counted as sent");
    }
}

/// The simulator cannot be replaced, but it leaves as one that is: it closes a connection without taking what came over it.
#[test]
fn what_a_gateway_did_not_take_that_is_restarted_is_sent_again_and_answered_once() {
    let faults = Faults { leave_every: 40, ..Faults::default() };
    let gateway = Running::gateway(faults);
    let mut settings = settings("ws-chat=1,rest=1".parse().unwrap(), gateway.address);
    let at_ns = vec![0, 300_000_000];
    settings.hazards.restart = Some(Restart { at_ns, command: "exit 3".to_owned() });
    let outcome = run(settings.clone());
    let tally = outcome.tally();
    assert!(tally.is_exact() && tally.answered == tally.opened, "{tally:?}");
    assert!(0 < outcome.sum.counts.repeats, "{tally:?}");
    assert_eq!((outcome.sum.counts.disconnects, outcome.sum.counts.sent), (0, tally.opened));
    let closed = outcome.storms.iter().map(|storm| storm.dropped).sum::<u64>();
    assert!(0 < closed && tally.codes["WS_CLOSE_4410"] == closed, "{tally:?}");
    let failures: Vec<_> = outcome.restarts.iter().map(|restart| restart.failure.clone()).collect();
    assert!(failures.iter().all(|failure| failure.as_ref().is_some_and(|words| words.contains('3'))));
    assert_eq!(failures.len(), 2);
    settings.hazards.restart = Some(Restart { at_ns: vec![1], command: String::new() });
    assert!(drive(settings, &mut Unwatched).unwrap_err().contains("--restart-with"));
}

/// The simulator tells that a message is known, and its history does not have the answer: it has to be lost, and no other.
#[test]
fn what_a_storm_sends_again_and_the_gateway_lost_is_lost() {
    let gateway = Running::gateway(Faults { lose_every: 100, ..Faults::default() });
    let mut settings = settings(Kind::WsChat.into(), gateway.address);
    settings.hazards.storm =
        Some(Storm { at_ns: vec![300_000_000], ending: Ending::Abort, jitter_ns: 10_000_000 });
    let outcome = run(Settings { drain_ns: 700_000_000, ..settings });
    let tally = outcome.tally();
    assert_eq!(tally.lost, tally.opened / 100, "{tally:?}");
    assert_eq!((tally.doubled, tally.corrupted), (0, 0), "{tally:?}");
    // Those of before the storm were unanswered, and sent again.
    assert!(0 < outcome.sum.counts.repeats);
}

#[test]
fn what_the_machine_does_not_allow_is_said_before_anything_is_sent() {
    let nobody = free_address().to_string();
    let limited = |subcommand: &str| {
        let command = format!("ulimit -n 200 && exec \"$0\" {subcommand} --url {nobody} --connections 500");
        Command::new("sh").args(["-c", &command, env!("CARGO_BIN_EXE_loadgen")]).output().unwrap()
    };
    for subcommand in ["run ws-chat", "search rest --slo 'p99<45ms'", "compare --exec a b rest"] {
        let told = limited(subcommand);
        let words = String::from_utf8(told.stderr).unwrap();
        assert_eq!(told.status.code(), Some(7), "{words}");
        assert!(words.contains("may open 200; set `ulimit -n "), "{words}");
    }
}

#[test]
fn the_doctor_tells_what_can_be_proved_here() {
    let file = std::env::temp_dir().join(format!("loadgen-doctor-{}.json", std::process::id()));
    let told = loadgen(&["doctor", "--json", file.to_str().unwrap()]);
    let table = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.status.code(), Some(0), "{table}");
    assert!(table.contains("the smallest change") && table.contains("descriptors"), "{table}");
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(file).unwrap();
    assert_eq!(found["schema"], "clawgate.loadgen.doctor/1");
    let detectable = found["detectable"].as_array().unwrap();
    assert!(detectable.iter().all(|of| 0.01 <= of["response"].as_f64().unwrap()), "{detectable:?}");
}

#[test]
fn the_binary_writes_its_results_and_ends_with_the_code_of_what_it_found() {
    let gateway = Running::gateway(Faults { lose_every: 50, ..Faults::default() });
    let url = format!("ws://{}", gateway.address);
    let folder = std::env::temp_dir().join(format!("loadgen-test-{}", std::process::id()));
    let out = folder.to_str().unwrap();
    let told = loadgen(&[
        "run",
        "ws-chat",
        "--url",
        &url,
        "--key",
        KEY,
        "--rate",
        "500",
        "--sessions",
        "20",
        "--connections",
        "4",
        "--duration",
        "500ms",
        "--warmup",
        "100ms",
        "--drain",
        "200ms",
        "--quiet",
        "--out",
        out,
    ]);
    let table = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.status.code(), Some(4), "{table}");
    let result: Value = serde_json::from_slice(&std::fs::read(folder.join("result.json")).unwrap()).unwrap();
    assert_eq!(result["schema"], "clawgate.loadgen.result/1");
    assert!(!result["command"].to_string().contains("a \\\"key"), "{}", result["command"]);
    let schema: Value = serde_json::from_str(include_str!("../result.schema.json")).unwrap();
    let told: Vec<String> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(&result)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(told.is_empty(), "{told:?}");
    for field in result.as_object().unwrap().keys() {
        assert!(schema["properties"].get(field).is_some(), "{field} is not in result.schema.json");
    }
    let (lost, opened) = (result["account"]["lost"].as_u64(), result["account"]["opened"].as_u64().unwrap());
    assert_eq!(lost, Some(opened / 50));
    assert!(
        table.contains(&format!("lost {} / doubled 0 / reordered 0 / corrupted 0 of {opened}", opened / 50))
    );
    let timed = result["times_ns"]["response"]["count"].as_u64().unwrap();
    let log = std::fs::read(folder.join("latency.hlog")).unwrap();
    let mut logged = 0;
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        if interval.tag().unwrap().as_str() == "response" {
            logged += decode(interval.encoded_histogram());
        }
    }
    assert_eq!(logged, timed, "the log has what the result has");
    assert_eq!(std::fs::read_to_string(folder.join("summary.txt")).unwrap().trim(), table.trim());
    let told = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(told("report.html").contains("Percentile spectrum") && told("summary.md").starts_with("| run |"));
    assert!(told("junit.xml").contains("<failure") && told("times.csv").contains(",response,"));
    assert_eq!(told("seconds.csv").lines().count(), 1 + result["seconds"].as_array().unwrap().len());
    let again = folder.join("again.html");
    let shown = loadgen(&["report", out, out, "--html", again.to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(0), "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(std::fs::read_to_string(again).unwrap().contains(" (2)"), "two runs of one name are told apart");
    assert_eq!(loadgen(&["report", "/nowhere/at-all"]).status.code(), Some(2));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Values in a histogram of the log.
fn decode(encoded: &str) -> u64 {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let mut deserializer = hdrhistogram::serialization::Deserializer::new();
    deserializer.deserialize::<u64, _>(&mut bytes.as_slice()).unwrap().len()
}

#[test]
fn bad_arguments_end_with_two_and_a_gateway_that_is_not_there_with_six() {
    for bad in [&["run", "nonsense"][..], &["run", "--slo", "fast"], &["run", "--payload", "10"], &["dance"]]
    {
        let told = loadgen(bad);
        assert_eq!(told.status.code(), Some(2), "{bad:?}");
        assert!(!told.stderr.is_empty());
    }
    for command in ["run", "search", "abuse"] {
        // An address for documentation: nobody is there, and nobody is asked.
        let told = loadgen(&[command, "--url", "ws://192.0.2.1:8787"]);
        let error = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.code() == Some(2) && error.contains("--i-own-this"), "{command}: {error}");
    }
    let nobody = format!("ws://{}", free_address());
    assert_eq!(loadgen(&["run", "--url", &nobody]).status.code(), Some(6));
    assert_eq!(loadgen(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_scenario_file_is_run_and_the_command_line_goes_before_it() {
    let gateway = Running::gateway(Faults::default());
    let url = format!("ws://{}", gateway.address);
    let folder = std::env::temp_dir().join(format!("loadgen-scenario-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (file, out, wrong) = (path("mine.toml"), path("result.json"), path("wrong.toml"));
    std::fs::write(path("trace.csv"), "0\n0.001\n0.004\n0.01\n").unwrap();
    let text = format!(
        "rate = 900\nsessions = 20\nconnections = 4\nduration = '400ms'\nwarmup = '0s'\narrivals = 'trace:{}'\n\
         slo = 'loss=0'\n[[part]]\nscenario = 'ws-chat'\nweight = 3\n[[part]]\nscenario = 'rest'\n",
        path("trace.csv")
    );
    std::fs::write(&file, text).unwrap();
    let told =
        loadgen(&["run", &file, "--url", &url, "--key", KEY, "--sessions", "30", "--quiet", "--json", &out]);
    // A busy machine makes the run invalid; nothing else is wrong with it.
    assert!(matches!(told.status.code(), Some(0 | 6)), "{}", String::from_utf8_lossy(&told.stdout));
    let result: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(result["asked"]["scenario"], "ws-chat=3,rest=1");
    assert_eq!((&result["asked"]["rate"], &result["asked"]["sessions"]), (&json!(900.0), &json!(30)));
    // The trace has 4 messages in 13.3 ms, and is taken at the rate that the file says.
    assert_eq!(result["account"]["opened"], 360);
    assert_eq!(result["slo"][0]["met"], true);

    std::fs::write(&wrong, "rate = 900\n\nduration = 'short'\n").unwrap();
    let told = loadgen(&["run", &wrong]);
    let error = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(2), "{error}");
    assert!(error.contains(&format!("{wrong}:3:12")) && error.contains("write 250us"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn scenarios_that_come_with_the_program_are_listed_and_printed() {
    let list = String::from_utf8(loadgen(&["scenarios"]).stdout).unwrap();
    for name in ["paper", "burst", "ramp", "hot-session", "soak"] {
        assert!(list.contains(name), "{list}");
        let text = String::from_utf8(loadgen(&["scenarios", name]).stdout).unwrap();
        assert!(loadgen::plan::Plan::parse(name, &text).is_ok(), "{text}");
    }
    assert_eq!(loadgen(&["scenarios", "nonsense"]).status.code(), Some(2));
}

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 16_384, headers_max: 64, target_bytes_max: 1024 };

/// What a plain client read of one response.
#[derive(Debug, Default)]
struct Response {
    status: u16,
    retry_after: Option<String>,
    body: Vec<u8>,
    /// Whether the body came to its end.
    whole: bool,
}

impl Response {
    /// The data of its events.
    fn events(&self) -> Vec<String> {
        let mut bytes = self.body.clone();
        let mut decoder = sse::Decoder::new(1 << 20);
        let mut events = Vec::new();
        let mut at = 0;
        loop {
            let consumed = match decoder.decode(&mut bytes[at..]).unwrap() {
                sse::Step::Event { consumed, data, .. } => {
                    events.push(String::from_utf8(data.to_vec()).unwrap());
                    consumed
                }
                sse::Step::Id { consumed, .. }
                | sse::Step::Comment { consumed }
                | sse::Step::Skip { consumed } => consumed,
                sse::Step::NeedMore => return events,
            };
            at += consumed;
        }
    }

    /// The text of its chunks.
    fn text(&self) -> String {
        let chunks = self.events();
        let chunks = chunks.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        chunks
            .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
            .collect()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn request(address: SocketAddr, method: &str, target: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn read_response(mut stream: TcpStream) -> Response {
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    let (mut at, mut decoder, mut response) = loop {
        let count = stream.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "no head");
        input.extend_from_slice(&chunk[..count]);
        if let Some(head) = parse_response(&input, &LIMITS, false).unwrap() {
            let retry_after = head.headers.get("retry-after").map(str::to_owned);
            let response = Response { status: head.status, retry_after, ..Response::default() };
            break (head.bytes, BodyDecoder::new(head.body, 1 << 20), response);
        }
    };
    loop {
        let body = decoder.decode(&input[at..]).unwrap();
        at += body.consumed;
        response.body.extend_from_slice(body.data);
        if body.done {
            response.whole = true;
            return response;
        }
        if body.consumed == 0 {
            match stream.read(&mut chunk).unwrap_or(0) {
                0 => return response,
                count => input.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

fn call(address: SocketAddr, method: &str, target: &str, body: &str) -> Response {
    read_response(request(address, method, target, body))
}

fn provider() -> Running {
    Running::start(|address| provider::serve(address, provider::Settings::default()))
}

fn completion(script: &str, stream: bool) -> String {
    let mut request = json!({
        "model": "any", "mock": script, "stream": stream,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Grüße, \"World\"\n🦀"}],
    });
    if stream {
        request["stream_options"] = json!({"include_usage": true});
    }
    request.to_string()
}

const COMPLETIONS: &str = "/v1/chat/completions";
const TEXT: &str = "Grüße, \"World\"\n🦀";

#[test]
fn the_provider_answers_in_openais_words_whole_and_streamed() {
    let provider = provider();
    let whole = call(provider.address, "POST", COMPLETIONS, &completion("", false)).json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["content"], TEXT);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["model"], "any");
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
    let stream = call(provider.address, "POST", COMPLETIONS, &completion("tokens=5", true));
    assert!(stream.whole && stream.text() == TEXT, "{stream:?}");
    let events = stream.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let with_usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!((&with_usage["choices"], &with_usage["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
    let hello = json!([{"role": "user", "content": "hello"}]);
    let model = json!({"model": "mock:reply=words+tokens=3", "stream": true, "messages": hello}).to_string();
    assert_eq!(call(provider.address, "POST", COMPLETIONS, &model).text(), "Messages go in");
    let stats = call(provider.address, "GET", "/stats", "").json();
    assert_eq!(
        (&stats["requests"], &stats["streams"], &stats["completed"]),
        (&json!(3), &json!(2), &json!(3))
    );
}

#[test]
fn odd_but_legal_framing_says_the_same() {
    let provider = provider();
    for framing in [
        "crlf",
        "no-space",
        "multi-line",
        "comments",
        "bom",
        "role-late",
        "unknown",
        "split=1",
        "usage=null-choices",
        "usage=no-choices",
        "usage=with-choices",
    ] {
        let stream =
            call(provider.address, "POST", COMPLETIONS, &completion(&format!("{framing},tokens=4"), true));
        assert_eq!((stream.text().as_str(), stream.whole), (TEXT, true), "{framing}");
        assert_eq!(stream.events().last().unwrap(), "[DONE]", "{framing}");
    }
}

#[test]
fn the_provider_fails_as_its_script_says() {
    let provider = provider();
    let fail =
        |script: &str, stream| call(provider.address, "POST", COMPLETIONS, &completion(script, stream));
    let busy = fail("status=429,retry-after=7", true);
    assert_eq!((busy.status, busy.retry_after.as_deref()), (429, Some("7")));
    assert_eq!(busy.json()["error"]["type"], "rate_limit_exceeded");
    assert_eq!(fail("status=500", false).status, 500);
    assert_eq!(fail("nonsense=1", false).status, 400);
    let cut = fail("tokens=10,fault=cut,at=4", true);
    assert!(!cut.whole && TEXT.starts_with(&cut.text()) && !cut.text().is_empty(), "{cut:?}");
    let error = fail("tokens=10,fault=error,at=4", true);
    let last: Value = serde_json::from_str(error.events().last().unwrap()).unwrap();
    assert!(error.whole && last["error"]["message"].is_string(), "{error:?}");
    let broken = fail("tokens=10,fault=json,at=4", true);
    let bad = broken.events().iter().filter(|event| serde_json::from_str::<Value>(event).is_err()).count();
    assert_eq!((bad, broken.text().as_str()), (2, TEXT), "the broken one, and [DONE]");
    let unfinished = fail("fault=no-finish,at=2", true);
    assert!(unfinished.whole && !unfinished.events().contains(&"[DONE]".to_owned()));
    assert!(!fail("fault=cut", false).whole);
    let turns: Vec<u16> = (0..4).map(|_| fail("status=503,every=2", false).status).collect();
    assert_eq!(turns.iter().filter(|status| **status == 503).count(), 2, "{turns:?}");
}

#[test]
fn a_stream_whose_reader_leaves_is_noticed_and_counted() {
    let provider = provider();
    for script in ["tokens=17,gap=20ms", "fault=silence,at=2,comments", "fault=silence"] {
        let mut stream = request(provider.address, "POST", COMPLETIONS, &completion(script, true));
        assert_ne!(stream.read(&mut [0; 512]).unwrap(), 0);
    }
    let stats = loop {
        let stats = call(provider.address, "GET", "/stats", "").json();
        if stats["in_flight"] == 0 {
            break stats;
        }
    };
    assert_eq!((&stats["aborted"], &stats["completed"]), (&json!(3), &json!(0)));
}

#[test]
fn the_telegram_simulator_is_served_over_its_own_socket() {
    let settings = BotSettings { token: "1:abc".to_owned(), kept_per_chat: 5, ..BotSettings::default() };
    let telegram = Running::start(move |address| telegram::serve(address, settings));
    let sent = call(telegram.address, "POST", "/bot1:abc/sendMessage", r#"{"chat_id":5,"text":"hi"}"#);
    assert_eq!((sent.status, &sent.json()["result"]["text"]), (200, &json!("hi")));
    assert_eq!(call(telegram.address, "POST", "/bot1:wrong/getMe", "").status, 401);
    assert_eq!(call(telegram.address, "GET", "/sent?chat=5", "").json()[0]["text"], "hi");
    assert_eq!(call(telegram.address, "GET", "/stats", "").json()["sent"], 1);
}
