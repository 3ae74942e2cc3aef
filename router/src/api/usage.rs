//! `GET /api/usage`: what was used, by day, key, agent, model and session.
use super::Call;
use super::sessions::respond_data;
use crate::auth::Identity;
use crate::connection::Connection;
use crate::gather::gather;
use crate::http;
use crate::thread::Thread;
use crate::usage::books::{Answer, By, Question};
use crate::usage::{Day, Entry, Tally, day_of, day_text, flush, parse_day};
use clawgate_core::codes::Code;
use serde_json::{Map, Value, json};
use std::rc::Rc;

/// Rows of one page, at the most and unless it is said.
const LIMIT_MAX: usize = 10_000;
const LIMIT: usize = 1_000;

/// What a call that is not right is told.
type Bad = (Code, String);

/// Answers once all threads have handed over what they counted.
pub(super) fn usage(call: &mut Call<'_>) {
    let Some(identity) = call.identity.clone() else { return };
    let question = match question_of(call, &identity) {
        Ok(question) => question,
        Err((code, text)) => return call.refuse(code, &text),
    };
    let place = call.connection.place;
    let by = question.by;
    gather(
        call.thread,
        |thread| flush(thread),
        move |thread, _| {
            let told = move |thread: &Rc<Thread>, answer: Answer| {
                if let Some(connection) = thread.connection(place) {
                    tell(thread, &connection, by, &answer);
                }
            };
            let asked = thread.shared.books.get().is_some_and(|books| books.ask(thread, question, told));
            if let Some(connection) = thread.connection(place).filter(|_| !asked) {
                http::respond_error(thread, &connection, Code::Busy, Code::Busy.advice(), 1_000);
            }
        },
    );
}

fn question_of(call: &Call<'_>, identity: &Identity) -> Result<Question, Bad> {
    let bad = |text: &str| (Code::BadRequest, text.to_owned());
    let text = |name: &str| call.parameter(name).map(std::borrow::Cow::into_owned);
    let mut key = text("key");
    let sees_all = identity.scopes.admin || call.thread.gateway().keys.is_open();
    if !sees_all {
        if key.as_ref().is_some_and(|key| *key != identity.id) {
            let text = "the usage of other keys is for keys with the scope `admin`";
            return Err((Code::Forbidden, text.to_owned()));
        }
        key = Some(identity.id.clone());
    }
    let day = |name: &str| -> Result<Option<Day>, Bad> {
        let Some(text) = text(name) else { return Ok(None) };
        if text == "today" {
            return Ok(Some(day_of(crate::clock::unix_seconds())));
        }
        let day = parse_day(&text);
        day.map(Some).ok_or_else(|| bad(&format!("`{name}` is a day in UTC, as 2026-11-27, or `today`")))
    };
    let days = match (day("day")?, day("from")?, day("to")?) {
        (None, None, None) => None,
        (Some(day), None, None) => Some(day..=day),
        (None, from, to) => Some(from.unwrap_or(0)..=to.unwrap_or(Day::MAX)),
        (Some(_), _, _) => {
            return Err(bad("`day` is one day, `from` and `to` are several: say one or the other"));
        }
    };
    let number = |name: &str, usual: usize, max: usize| match text(name) {
        None => Ok(usual),
        Some(text) => {
            let number = text.parse().ok().filter(|number| *number <= max);
            number.ok_or_else(|| bad(&format!("`{name}` is a number up to {max}")))
        }
    };
    Ok(Question {
        days,
        key,
        agent: text("agent"),
        model: text("model"),
        session: text("session"),
        by: by_of(&text("by").unwrap_or_else(|| "day".to_owned())).map_err(|text| bad(&text))?,
        offset: number("offset", 0, usize::MAX)?,
        limit: number("limit", LIMIT, LIMIT_MAX)?.max(1),
    })
}

/// What rows are told apart by: names between commas; none for one row of all.
fn by_of(text: &str) -> Result<By, String> {
    let mut by = By::default();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            "day" => by.day = true,
            "key" => by.key = true,
            "agent" => by.agent = true,
            "model" => by.model = true,
            "session" => by.session = true,
            _ => return Err("`by` is some of day, key, agent, model and session, between commas".to_owned()),
        }
    }
    Ok(by)
}

fn tell(thread: &Rc<Thread>, connection: &Rc<Connection>, by: By, answer: &Answer) {
    let rows: Vec<Value> = answer.rows.iter().map(|(entry, tally)| row(by, entry, tally)).collect();
    let total = Value::Object(figures(&answer.total));
    let body = json!({ "usage": rows, "total": total, "more": answer.more });
    respond_data(thread, connection, &body.to_string());
}

fn row(by: By, entry: &Entry, tally: &Tally) -> Value {
    let Entry { day, key, agent, model, session } = entry;
    let mut row = Map::new();
    if by.day {
        row.insert("day".to_owned(), day_text(*day).into());
    }
    let names = [
        (by.key, "key", key),
        (by.agent, "agent", agent),
        (by.model, "model", model),
        (by.session, "session", session),
    ];
    for (_, name, text) in names.into_iter().filter(|(wanted, ..)| *wanted) {
        let value = if text.is_empty() { Value::Null } else { Value::from(&**text) };
        row.insert(name.to_owned(), value);
    }
    row.append(&mut figures(tally));
    Value::Object(row)
}

fn figures(tally: &Tally) -> Map<String, Value> {
    let mut figures = match serde_json::to_value(tally) {
        Ok(Value::Object(figures)) => figures,
        Ok(_) | Err(_) => Map::new(),
    };
    figures.insert("totalTokens".to_owned(), tally.tokens().into());
    figures.insert("estimated".to_owned(), (tally.estimated_calls != 0).into());
    figures
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_told_apart_by_names() {
        assert_eq!(by_of(""), Ok(By::default()));
        assert_eq!(by_of("day, model"), Ok(By { day: true, model: true, ..By::default() }));
        assert!(by_of("peer").unwrap_err().contains("session"));
    }

    #[test]
    fn a_row_says_what_was_asked_for() {
        let by = By { day: true, key: true, session: true, ..By::default() };
        let entry = Entry { day: 20_784, session: "api:ana:s".into(), ..Entry::default() };
        let tally = Tally {
            calls: 2,
            prompt_tokens: 3,
            completion_tokens: 4,
            estimated_calls: 1,
            ..Tally::default()
        };
        let row = row(by, &entry, &tally);
        assert_eq!(
            (&row["day"], &row["key"], &row["session"]),
            (&json!("2026-11-27"), &Value::Null, &json!("api:ana:s"))
        );
        assert_eq!(
            (&row["totalTokens"], &row["estimated"], row.get("agent")),
            (&json!(7), &json!(true), None)
        );
    }
}
