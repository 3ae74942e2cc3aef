//! Calls to models: what a call is, and the models of our own. Those on the network are [`crate::remote`]'s.
use crate::driver;
use crate::gateway::Upstream;
use crate::reload::Current;
use crate::thread::Thread;
use crate::upstream::Control;
use crate::usage::Meter;
use crate::voice::{self, Voice};
use clawgate_core::event::{Event, Piece};
use clawgate_core::id::{AgentId, CallId, ModelId};
use clawgate_providers::Said;
use clawgate_providers::echo::Echo;
use std::rc::Rc;
use std::time::Duration;

/// A call as its shard started it. It goes on by the configuration of its start: the ids are of that one.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) gateway: Current,
    pub(crate) call: CallId,
    pub(crate) agent: AgentId,
    pub(crate) model: ModelId,
    pub(crate) control: Rc<Control>,
}

/// What our own models say in one turn of the loop, at most. They know no network that would slow them down, and only
/// at the end of a turn is written what clients are owed, and heard which of them have no room left.
const PIECES_A_TURN: usize = 128;
const TURN: Duration = Duration::from_millis(1);

/// Says a long text again, no faster than its client reads.
pub(crate) async fn echo(
    thread: Rc<Thread>,
    call: CallId,
    echo: Echo,
    (text, mut voice): (String, Voice),
    (control, meter): (Rc<Control>, Option<Meter>),
) {
    control.count_by(meter);
    for (step, said) in echo.steps(&text).enumerate() {
        if step % PIECES_A_TURN == 0 {
            driver::sleep(TURN).await;
            flow(&thread, &control).await;
            thread.touch();
        }
        if control.is_cancelled() {
            return;
        }
        hand(&thread, call, &control, &mut voice, said);
    }
}

/// Waits until more is wanted of a call: its client has room, and the client's core keeps up with what it is brought. One
/// that has no time is as slow as a client that does not read.
pub(crate) async fn flow(thread: &Thread, control: &Control) {
    control.flow().await;
    while thread.outgoing.borrow().is_stuck() && !control.is_cancelled() {
        driver::sleep(TURN).await;
    }
}

/// Plays a script.
pub(crate) async fn scripted(thread: Rc<Thread>, started: Started) {
    started.count(&thread);
    let Started { gateway, call, model, control, .. } = started;
    let Upstream::Scripted(script) = &gateway.upstreams[usize::from(model.0)] else { return };
    thread.touch();
    let Some((text, mut voice)) = told(&thread, call) else { return };
    if control.is_cancelled() {
        return;
    }
    control.meter(|meter| meter.heard_by(&voice));
    control.meter(Meter::answering);
    thread.handle(Event::Piece { call, piece: Piece::Alive });
    let mut step = 0;
    while let Some((pause, said)) = script.step(step, &text) {
        let pause = if (step + 1) % PIECES_A_TURN == 0 { pause.max(TURN) } else { pause };
        if !pause.is_zero() {
            driver::sleep(pause).await;
            thread.touch();
        }
        flow(&thread, &control).await;
        thread.touch();
        if control.is_cancelled() {
            return;
        }
        if !hand(&thread, call, &control, &mut voice, said) {
            return;
        }
        step += 1;
    }
    // Silent for good: the shard's deadlines end it.
}

impl Started {
    /// What it uses is counted from here on.
    pub(crate) fn count(&self, thread: &Rc<Thread>) {
        self.control.count_by(self.meter(thread));
    }

    /// The same, for what the same turn asks its model next, with a prompt of so many characters.
    pub(crate) fn count_on(&self, thread: &Rc<Thread>, prompt_chars: u32) {
        self.control.count_by(self.meter(thread).map(|meter| meter.continued(prompt_chars.into())));
    }

    fn meter(&self, thread: &Rc<Thread>) -> Option<Meter> {
        Meter::begin(thread, &self.gateway, self.call, self.agent, self.model)
    }
}

/// What a model of ours is told by a turn, and who hears it; `None` if the turn is over.
pub(crate) fn told(thread: &Thread, call: CallId) -> Option<(String, Voice)> {
    let shard = thread.shard.borrow();
    let prompt = shard.prompt(call.turn)?;
    let Some(kind) = voice::door_of(prompt.content) else {
        return Some((prompt.text.to_owned(), Voice::Words));
    };
    // It was read when it came in.
    let request = voice::request_of(&prompt, kind, "").ok()?;
    let bytes_max = thread.gateway().limits.core.request_bytes_max as usize;
    Some((request.last_text(), Voice::of_request(&request, thread.random(), bytes_max)))
}

/// Passes on what was said. False once nothing more is wanted of the call.
pub(crate) fn hand(
    thread: &Rc<Thread>,
    call: CallId,
    control: &Control,
    voice: &mut Voice,
    said: Said<'_>,
) -> bool {
    if control.is_cancelled() {
        return false;
    }
    control.hear(&said);
    voice.hear(call, said, &mut |event| {
        if matches!(event, Event::Ended { .. }) {
            thread.upstreams.end(call);
        }
        thread.handle(event);
    })
}
