//! Questions to all cores: each answers by letter, the asker goes on when the last answer is in.
use crate::mesh::Letter;
use crate::thread::Thread;
use clawgate_core::id::ShardId;
use slab::Slab;
use std::any::Any;
use std::rc::Rc;

type Done = Box<dyn FnOnce(&Rc<Thread>, Vec<Box<dyn Any + Send>>)>;

/// A question that was asked.
struct Question {
    /// Cores that have not answered.
    missing: usize,
    answers: Vec<Box<dyn Any + Send>>,
    done: Done,
}

/// The questions of one core that are not answered by all yet.
#[derive(Default)]
pub(crate) struct Gathers {
    open: Slab<Question>,
}

impl std::fmt::Debug for Gathers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gathers({})", self.open.len())
    }
}

/// Asks every core, this one included, and calls `done` here with all answers, in no order.
pub(crate) fn gather<T: Send + 'static>(
    thread: &Rc<Thread>,
    ask: impl Fn(&Rc<Thread>) -> T + Clone + Send + 'static,
    done: impl FnOnce(&Rc<Thread>, Vec<T>) + 'static,
) {
    gather_later(thread, move |there, answer| answer(there, ask(there)), done);
}

/// How a core answers, once it can.
pub(crate) type Answer<T> = Box<dyn FnOnce(&Rc<Thread>, T)>;

/// As [`gather`], where a core may take its time. Each must answer in the end.
pub(crate) fn gather_later<T: Send + 'static>(
    thread: &Rc<Thread>,
    ask: impl Fn(&Rc<Thread>, Answer<T>) + Clone + Send + 'static,
    done: impl FnOnce(&Rc<Thread>, Vec<T>) + 'static,
) {
    let cores = thread.shared.cores();
    let done: Done = Box::new(move |thread, answers| {
        let answers =
            answers.into_iter().filter_map(|answer| answer.downcast::<T>().ok()).map(|answer| *answer);
        done(thread, answers.collect());
    });
    let asked = Question { missing: usize::from(cores), answers: Vec::new(), done };
    let question = thread.gathers.borrow_mut().open.insert(asked);
    let asker = thread.id;
    for core in 0..cores {
        let ask = ask.clone();
        let errand = Box::new(move |there: &Rc<Thread>| {
            let tell = Box::new(move |there: &Rc<Thread>, answer: T| {
                let answer: Box<dyn Any + Send> = Box::new(answer);
                let back = Box::new(move |here: &Rc<Thread>| answered(here, question, answer));
                there.outgoing.borrow_mut().letter(asker, Letter::Errand(back));
            });
            ask(there, tell);
        });
        thread.outgoing.borrow_mut().letter(ShardId(core), Letter::Errand(errand));
    }
}

fn answered(thread: &Rc<Thread>, question: usize, answer: Box<dyn Any + Send>) {
    let complete = {
        let mut gathers = thread.gathers.borrow_mut();
        let Some(asked) = gathers.open.get_mut(question) else { return };
        asked.answers.push(answer);
        asked.missing -= 1;
        (asked.missing == 0).then(|| gathers.open.remove(question))
    };
    if let Some(Question { answers, done, .. }) = complete {
        done(thread, answers);
    }
}
