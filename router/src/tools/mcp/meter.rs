//! What a server may say: so many bytes in one message, so many messages and bytes in a second. Counted before anything
//! of it is understood, so that what is said beyond is never held.
use super::Reason;
use crate::clock::Clock;
use crate::config::mcp::Limits;
use clawgate_core::time::Time;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

/// Seconds whose share may come at once.
const BURST_SECONDS: u32 = 4;
/// Largest messages that may come in a second.
const MESSAGES_OF_BYTES: usize = 8;

/// Why a server is stopped, told by whoever finds it first.
#[derive(Debug)]
pub(super) struct Fault {
    told: OnceLock<(Reason, String)>,
    /// Rung once, for all who wait and who will.
    bell: watch::Sender<bool>,
}

impl Default for Fault {
    fn default() -> Self {
        Self { told: OnceLock::new(), bell: watch::channel(false).0 }
    }
}

impl Fault {
    /// The server is to be stopped. What was told before stands.
    pub(super) fn tell(&self, reason: Reason, why: String) {
        let _ = self.told.set((reason, why));
        self.bell.send_replace(true);
    }

    /// Why it is to be stopped, if it is.
    pub(super) fn told(&self) -> Option<&(Reason, String)> {
        self.told.get()
    }

    /// Waits until it is to be stopped.
    pub(super) async fn wait(&self) {
        // The one who rings is here.
        let _ = self.bell.subscribe().wait_for(|rung| *rung).await;
    }
}

/// What came of a server in the last seconds.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    fault: Arc<Fault>,
    clock: Clock,
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    /// Messages and bytes that may come now.
    messages: f64,
    bytes: f64,
    at: Time,
}

impl Meter {
    /// A server that has said nothing yet.
    pub(super) fn new(limits: Limits, fault: Arc<Fault>, clock: Clock) -> Self {
        let now = clock.now();
        let spent = Spent { messages: f64::MAX, bytes: f64::MAX, at: now };
        let meter = Self { limits, fault, clock, spent: Mutex::new(spent) };
        meter.take(0, 0, now);
        meter
    }

    /// The time.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Why the server is stopped.
    pub(super) const fn fault(&self) -> &Arc<Fault> {
        &self.fault
    }

    /// Takes what came from what may come; false if it is more.
    fn take(&self, messages: usize, bytes: usize, now: Time) -> bool {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.since(spent.at).as_secs_f64();
        spent.at = now;
        let rate = f64::from(self.limits.messages_per_second);
        let byte_rate = (self.limits.message_bytes_max * MESSAGES_OF_BYTES) as f64;
        let burst = f64::from(BURST_SECONDS);
        spent.messages = (spent.messages + passed * rate).min(rate * burst) - messages as f64;
        spent.bytes = (spent.bytes + passed * byte_rate).min(byte_rate * burst) - bytes as f64;
        0.0 <= spent.messages && 0.0 <= spent.bytes
    }
}

/// One stream of a server's messages.
#[derive(Debug)]
pub(super) struct Stream {
    meter: Arc<Meter>,
    /// Line ends that follow each other at the end of a message.
    ends: u8,
    /// Of the message that is coming: its bytes, and the line ends just seen.
    bytes: usize,
    seen: u8,
}

impl Stream {
    /// Messages are lines.
    pub(super) const fn of_lines(meter: Arc<Meter>) -> Self {
        Self { meter, ends: 1, bytes: 0, seen: 0 }
    }

    /// Messages are events, with an empty line behind each.
    pub(super) const fn of_events(meter: Arc<Meter>) -> Self {
        Self { meter, ends: 2, bytes: 0, seen: 0 }
    }

    /// These bytes came.
    ///
    /// # Errors
    /// They are more than may come: nothing further may be read.
    pub(super) fn hear(&mut self, bytes: &[u8], now: Time) -> Result<(), String> {
        let most = self.meter.limits.message_bytes_max;
        let (mut messages, mut longest) = (0, 0);
        for byte in bytes {
            self.bytes += 1;
            match byte {
                b'\n' => self.seen += 1,
                b'\r' => {}
                _ => self.seen = 0,
            }
            if self.ends <= self.seen {
                longest = longest.max(self.bytes);
                messages += 1;
                (self.bytes, self.seen) = (0, 0);
            }
        }
        let why = if most < longest.max(self.bytes) {
            format!("it sent a message of more than {most} bytes (limits.mcp.messageBytesMax)")
        } else if !self.meter.take(messages, bytes.len(), now) {
            let (count, bytes) = (self.meter.limits.messages_per_second, most * MESSAGES_OF_BYTES);
            format!(
                "it sent more than {count} messages (limits.mcp.messagesPerSecondMax) or {bytes} bytes in a second"
            )
        } else {
            return Ok(());
        };
        self.meter.fault.tell(Reason::Flooded, why.clone());
        Err(why)
    }
}

/// A reader that ends where more comes than may.
#[derive(Debug)]
pub(super) struct Metered<R> {
    inner: R,
    stream: Stream,
}

impl<R> Metered<R> {
    pub(super) const fn new(inner: R, stream: Stream) -> Self {
        Self { inner, stream }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.stream.meter.fault.told().is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            let now = self.stream.meter.now();
            let heard = self.stream.hear(&buffer.filled()[before..], now);
            if heard.is_err() {
                buffer.set_filled(before);
            }
        }
        read
    }
}

/// How long until a server that failed is started again: twice as long each time, and spread, so that servers that failed
/// together do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It was up for so long. Who was up for longer than the longest wait begins anew.
    pub(super) fn was_up(&mut self, age: Duration, limits: &Limits) {
        if limits.restart_max <= age {
            self.failures = 0;
        }
    }

    /// How long to wait, `random` being anything.
    pub(super) fn next(&mut self, limits: &Limits, random: u32) -> Duration {
        let doubled = limits.restart_min.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(limits.restart_max);
        // Between a half and all of it.
        whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Arc<Meter> {
        Arc::new(Meter::new(Limits::TEST, Arc::default(), Clock::start()))
    }

    #[test]
    fn a_message_has_its_bytes_and_no_more() {
        let now = Time::from_millis(10_000);
        let mut lines = Stream::of_lines(meter());
        assert_eq!(lines.hear(b"123456789\n1234", now), Ok(()));
        assert_eq!(lines.hear(b"56789\n1", now), Ok(()));
        assert!(lines.hear(b"1234567890", now).is_err_and(|why| why.contains("more than 10 bytes")));
        let mut events = Stream::of_events(meter());
        assert_eq!(events.hear(b"a: b\r\n\r\na: b\n", now), Ok(()));
        assert!(events.hear(b"a: b\na", now).is_err(), "an event is as long as all of its lines");
        let mut long = Stream::of_lines(meter());
        assert!(long.hear(b"12345678901\n\n", now).is_err(), "its end is among what came");
    }

    #[test]
    fn messages_and_bytes_have_a_rate() {
        let now = Time::from_millis(10_000);
        let meter = meter();
        let mut stream = Stream::of_lines(meter.clone());
        assert_eq!(stream.hear(b"\n\n\n\n\n\n\n\n", now), Ok(()));
        assert_eq!(stream.hear(b"\n", now + Duration::from_millis(600)), Ok(()));
        assert!(meter.fault().told().is_none());
        assert!(stream.hear(b"\n", now + Duration::from_millis(600)).is_err());
        assert!(meter.fault().told().is_some_and(|(reason, _)| *reason == Reason::Flooded));
        assert!(meter.take(8, 320, now + Duration::from_secs(60)));
        assert!(!meter.take(0, 1, now + Duration::from_secs(60)));
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        let (mut backoff, limits) = (Backoff::default(), Limits::TEST);
        let waits: Vec<_> = (0..40).map(|_| backoff.next(&limits, u32::MAX).as_millis()).collect();
        assert_eq!(waits[..5], [100, 200, 400, 800, 1_000]);
        assert_eq!(waits[39], 1_000);
        assert_eq!(backoff.next(&limits, 0).as_millis(), 500);
        backoff.was_up(Duration::from_millis(999), &limits);
        assert_eq!(backoff.next(&limits, 0).as_millis(), 500);
        backoff.was_up(Duration::from_secs(1), &limits);
        assert_eq!(backoff.next(&limits, 0).as_millis(), 50);
    }
}
