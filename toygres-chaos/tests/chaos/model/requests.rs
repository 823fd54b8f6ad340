//! What is asked of a server, what happens meanwhile, and what the model is to believe then.

use super::{Model, NAMES, Promised, name_of};
use crate::PATIENCE;
use crate::load::Load;
use proptest::prelude::*;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use toygres_testing::wait_for;

/// What a user asks for.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Create(usize),
    Delete(usize),
    Tag(usize, u8),
    Protect(usize, bool),
    /// Of the names from 1 to that.
    CreateMany(usize),
    DeleteMany(Vec<usize>),
}

/// What happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// The server is killed and started again.
    Crash,
    /// The control database crashes and starts again.
    Outage,
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) request: Request,
    pub(super) trouble: Trouble,
    /// How long after the request the trouble begins.
    pub(super) after_ms: u64,
    /// Whether all that was begun is waited for afterwards.
    pub(super) settle: bool,
}

fn request() -> impl Strategy<Value = Request> {
    let name = 0..NAMES;
    let some = prop::collection::btree_set(0..NAMES, 1..=NAMES)
        .prop_map(|names| names.into_iter().collect::<Vec<_>>());
    prop_oneof![
        4 => name.clone().prop_map(Request::Create),
        3 => name.clone().prop_map(Request::Delete),
        2 => (name.clone(), 0..3_u8).prop_map(|(name, value)| Request::Tag(name, value)),
        1 => (name, any::<bool>()).prop_map(|(name, on)| Request::Protect(name, on)),
        1 => (1..NAMES).prop_map(Request::CreateMany),
        1 => some.prop_map(Request::DeleteMany),
    ]
}

pub(super) fn steps(trouble: bool) -> impl Strategy<Value = Vec<Step>> {
    let trouble = match trouble {
        true => prop_oneof![6 => Just(Trouble::None), 2 => Just(Trouble::Crash), 1 => Just(Trouble::Outage)]
            .boxed(),
        false => Just(Trouble::None).boxed(),
    };
    let step = (request(), trouble, 0..120_u64, prop::bool::weighted(0.3));
    let step = step.prop_map(|(request, trouble, after_ms, settle)| Step {
        request,
        trouble,
        after_ms,
        settle,
    });
    prop::collection::vec(step, 5..25)
}

/// Asks, and has the model believe the answer; what can't be answered so is a failure.
pub(super) async fn ask(load: &Load, model: &mut Model, number: usize, request: &Request, disturbed: bool) {
    let key = format!("step-{number}");
    match request {
        Request::Create(name) => {
            let body = json!({ "name": name_of(*name), "password": "chaos-secret" });
            let asked = |key: String| {
                let body = body.clone();
                async move {
                    load.ask(Method::POST, "/api/instances", Some(&key), Some(&body))
                        .await
                }
            };
            created(model, *name, asked(key).await, asked).await;
        }
        Request::CreateMany(count) => {
            let body = json!({ "base_name": "name", "count": count, "password": "chaos-secret" });
            let results = answers(load, "/api/instances/bulk", Some(&key), &body).await;
            for (name, result) in (1..=*count).zip(&results) {
                let status =
                    StatusCode::from_u16(u16::try_from(result["status"].as_u64().unwrap()).unwrap()).unwrap();
                match status {
                    StatusCode::ACCEPTED => accepted(model, name, &result["accepted"]),
                    status => {
                        assert_eq!(status, StatusCode::CONFLICT, "{result}");
                        let taken = result["problem"]["code"] == "name_taken";
                        assert_eq!(taken, model.live.contains_key(&name), "{result}");
                    }
                }
            }
        }
        Request::Delete(name) => {
            let path = format!("/api/instances/{}", name_of(*name));
            let (status, body) = load.ask(Method::DELETE, &path, None, None).await;
            deleted(model, *name, status, &body, disturbed);
        }
        Request::DeleteMany(names) => {
            let body = json!({ "names": names.iter().map(|name| name_of(*name)).collect::<Vec<_>>() });
            let results = answers(load, "/api/instances/bulk/delete", None, &body).await;
            for (name, result) in names.iter().zip(&results) {
                let status =
                    StatusCode::from_u16(u16::try_from(result["status"].as_u64().unwrap()).unwrap()).unwrap();
                let body = match status {
                    StatusCode::ACCEPTED => &result["accepted"],
                    _ => &result["problem"],
                };
                deleted(model, *name, status, body, disturbed);
            }
        }
        Request::Tag(name, value) => {
            let body = json!({ "tags": { "tag": value.to_string() } });
            let change = |promised: &mut Promised| promised.tag = Some(*value);
            changed(load, model, *name, &body, "tags", change).await;
        }
        Request::Protect(name, on) => {
            let body = json!({ "deletion_protection": on });
            let words = if *on {
                "deletion protection on"
            } else {
                "deletion protection off"
            };
            let change = |promised: &mut Promised| promised.protected = *on;
            changed(load, model, *name, &body, words, change).await;
        }
    }
}

/// What is answered for each of many, once none is answered that it can't be done now.
async fn answers(load: &Load, path: &str, key: Option<&str>, body: &Value) -> Vec<Value> {
    wait_for("an answer for each", PATIENCE, || async {
        let (status, results) = load.ask(Method::POST, path, key, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{results}");
        let results = results.as_array().unwrap();
        let all = results.iter().all(|result| result["status"] != 503);
        all.then(|| results.clone())
    })
    .await
}

async fn created<F: Future<Output = (StatusCode, Value)>>(
    model: &mut Model,
    name: usize,
    first: (StatusCode, Value),
    again: impl Fn(String) -> F,
) {
    let (mut status, mut body) = first;
    let mut tries = 0;
    while status == StatusCode::CONFLICT && body["code"] == "name_being_deleted" {
        assert!(!model.live.contains_key(&name), "{body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        tries += 1;
        assert!(tries < 2000, "it is being deleted for ever: {body}");
        (status, body) = again(format!("again-{name}-{}", model.gone.len())).await;
    }
    match status {
        StatusCode::ACCEPTED => accepted(model, name, &body),
        status => {
            assert_eq!(status, StatusCode::CONFLICT, "{body}");
            assert_eq!(body["code"], "name_taken", "{body}");
            assert!(model.live.contains_key(&name), "nobody was told of {body}");
        }
    }
}

fn accepted(model: &mut Model, name: usize, body: &Value) {
    let id = body["instance"]["id"].as_str().unwrap().to_owned();
    let before = model.live.insert(name, (id, Promised::default()));
    assert!(before.is_none(), "{before:?} had the name of {body}");
}

fn deleted(model: &mut Model, name: usize, status: StatusCode, body: &Value, disturbed: bool) {
    model.deletions_accepted += u64::from(status == StatusCode::ACCEPTED);
    match model.live.get(&name) {
        Some((_, promised)) if promised.protected => {
            assert_eq!(
                (status, body["code"].as_str()),
                (StatusCode::CONFLICT, Some("deletion_protected")),
                "{body}"
            );
        }
        Some(_) => {
            // An answer may be lost, and another says that it is gone.
            assert!(
                status == StatusCode::ACCEPTED || disturbed && status == StatusCode::NOT_FOUND,
                "{status}: {body}"
            );
            let (id, promised) = model.live.remove(&name).unwrap();
            model.gone.insert(id, promised);
        }
        // It may be on its way.
        None => assert!(
            [StatusCode::ACCEPTED, StatusCode::NOT_FOUND].contains(&status),
            "{status}: {body}"
        ),
    }
}

/// `words`: how events tell of the change.
async fn changed(
    load: &Load,
    model: &mut Model,
    name: usize,
    body: &Value,
    words: &'static str,
    change: impl Fn(&mut Promised),
) {
    let path = format!("/api/instances/{}", name_of(name));
    let (status, answer) = load.ask(Method::PATCH, &path, None, Some(body)).await;
    match model.live.get_mut(&name) {
        Some((_, promised)) => {
            assert_eq!(status, StatusCode::OK, "{answer}");
            let before = promised.clone();
            change(promised);
            if *promised != before {
                promised.changes.push(words);
            }
        }
        // It is on its way, or gone.
        None => assert!(
            [StatusCode::CONFLICT, StatusCode::NOT_FOUND].contains(&status),
            "{status}: {answer}"
        ),
    }
}
