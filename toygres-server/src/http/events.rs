//! Streams of server-sent events (WHATWG HTML, section 9.2).

use super::App;
use super::extract::{Params, Segment, Who};
use super::problem::Answer;
use crate::service::Interest;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;
use toygres_models::events::InstanceEvent;
use toygres_models::operations::Operation;
use toygres_models::{Error, ErrorKind, Result};
use utoipa::IntoParams;

/// Proxies close what is silent for a minute or less, and a listener that is gone is noticed by it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a listener should come back.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FollowParams {
    /// Only those of this instance, by name or id.
    #[param(pattern = r"^[^\u0000]*$")]
    instance: Option<String>,
    /// Those behind the one with this id, as `Last-Event-ID`, which counts more.
    after: Option<i64>,
}

/// Streams what happens, from now on, or from behind the event `Last-Event-ID`. Each event has the name
/// `instance_event`, its id, and an instance event as JSON; a comment every 15 seconds says that the stream lives. A
/// listener that is too slow is cut off, and misses nothing if it comes back with the last id it has seen.
#[utoipa::path(get, operation_id = "follow", path = "/api/events", tag = "events",
    params(FollowParams, ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "The stream", body = InstanceEvent, content_type = "text/event-stream")),
    security(("token" = ["read"])))]
pub(crate) async fn all(
    State(app): State<App>,
    who: Who,
    headers: HeaderMap,
    Params(params): Params<FollowParams>,
) -> Answer<Response> {
    let seen = last_event_number(&headers)?.or(params.after);
    let instance_id = match params.instance {
        Some(name) => Some(app.get_instance(&name, who.origin.owner.as_ref()).await?.id),
        None => None,
    };
    let interest = Interest {
        instance_id,
        user_name: who.origin.owner,
    };
    let events = app.follow_events(interest, seen).await?;
    let events = events.take_until(app.until_refused(who.token));
    Ok(answer(events.map(|event| {
        message("instance_event", event.id.to_string(), &*event)
    })))
}

/// Streams an operation: as it is, and whenever it changes, until it has ended. Each event has the name `operation`.
#[utoipa::path(get, operation_id = "follow", path = "/api/operations/{id}/events", tag = "operations",
    params(("id" = String, Path, pattern = r"^[^\u0000]*$", description = "The operation's id"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "The stream", body = Operation, content_type = "text/event-stream")),
    security(("token" = ["read"])))]
pub(crate) async fn operation(
    State(app): State<App>,
    who: Who,
    headers: HeaderMap,
    Segment(id): Segment,
) -> Answer<Response> {
    let seen = last_event_id(&headers)?.map(str::to_owned);
    let told = app.follow_operation(&id, who.origin.owner, seen).await?;
    let told = told.take_until(app.until_refused(who.token));
    Ok(answer(told.map(|(operation, revision)| {
        message("operation", revision, &operation)
    })))
}

/// The header `Last-Event-ID` where it is a number.
pub(super) fn last_event_number(headers: &HeaderMap) -> Result<Option<i64>> {
    let number = |text: &str| text.parse().map_err(|_| bad_last_event_id());
    last_event_id(headers)?.map(number).transpose()
}

/// None if it is absent, or empty as a listener sends it that has seen none.
fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| bad_last_event_id())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn bad_last_event_id() -> Error {
    Error::new(
        ErrorKind::Malformed,
        "bad_last_event_id",
        "the header Last-Event-ID is not the id of an event",
    )
}

fn message(name: &str, id: String, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).id(id).data(data)
}

fn answer(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let hello = Event::default().retry(RECONNECT_AFTER);
    let events = futures_util::stream::iter([hello]).chain(events);
    let sse = Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat"));
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        // nginx would hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, sse).into_response()
}
