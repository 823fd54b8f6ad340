//! The history of an execution.

use crate::activity::short_name;
use crate::envelope;
use crate::failure::Failure;
use chrono::{DateTime, Utc};
use duroxide::ErrorDetails;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;
use toygres_models::orchestrations::HistoryEvent;

/// The largest input or output shown, in bytes of JSON.
const MOST_SHOWN: usize = 4 * 1024;
/// The largest field of an event that is fetched at all: a small value may have been made longer by escapes.
const MOST_FETCHED: usize = 4 * MOST_SHOWN;

#[derive(sqlx::FromRow)]
struct Row {
    event_id: i64,
    created_at: DateTime<Utc>,
    event: String,
    source_name: Option<String>,
}

/// The events behind `after_event`, in order.
pub(crate) async fn events(
    pool: &PgPool,
    schema: &str,
    id: &str,
    execution_id: Option<i64>,
    after_event: i64,
    limit: u32,
) -> Result<Vec<HistoryEvent>, sqlx::Error> {
    let query = format!(
        "select h.event_id, h.created_at, s.event_data::json ->> 'name' as source_name,
                case when octet_length(h.event_data) <= {MOST_FETCHED} then h.event_data else (
                    select coalesce(json_object_agg(f.key, f.value)::text, '')
                      from json_each(h.event_data::json) f where octet_length(f.value::text) <= {MOST_FETCHED}
                ) end as event
           from {schema}.history h
           left join {schema}.history s
             on s.instance_id = h.instance_id and s.execution_id = h.execution_id
            and s.event_id = (h.event_data::json ->> 'source_event_id')::bigint
          where h.instance_id = $1 and h.event_id > $3
            and h.execution_id = coalesce(
                    $2, (select i.current_execution_id from {schema}.instances i where i.instance_id = $1))
          order by h.event_id
          limit $4"
    );
    let rows: Vec<Row> = sqlx::query_as(&query)
        .bind(id)
        .bind(execution_id)
        .bind(after_event)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(event).collect())
}

/// Whether an orchestration has this execution.
pub(crate) async fn has_execution(
    pool: &PgPool,
    schema: &str,
    id: &str,
    execution_id: i64,
) -> Result<bool, sqlx::Error> {
    let query = format!(
        "select exists (select from {schema}.executions where instance_id = $1 and execution_id = $2)"
    );
    sqlx::query_scalar(&query)
        .bind(id)
        .bind(execution_id)
        .fetch_one(pool)
        .await
}

/// An event as it is shown. Read field by field: another version of duroxide may have kinds that this one does not
/// know, and they are listed too.
fn event(row: Row) -> HistoryEvent {
    let event: Value = serde_json::from_str(&row.event).unwrap_or_default();
    let text = |field: &str| event[field].as_str();
    let input = text("input").and_then(|input| envelope::open::<Value>(input).ok());
    let output = text("result").or(text("output"));
    HistoryEvent {
        event_id: row.event_id,
        kind: text("type").map_or_else(|| "unknown".to_owned(), kind),
        name: text("name")
            .or(row.source_name.as_deref())
            .map(|name| short_name(name).to_owned()),
        source_event_id: event["source_event_id"].as_i64(),
        at: row.created_at,
        input: input
            .map(|input| input.body)
            .or_else(|| text("reason").map(Value::from))
            .and_then(shown),
        output: output
            .and_then(|output| serde_json::from_str(output).ok())
            .and_then(shown),
        error: ErrorDetails::deserialize(&event["details"])
            .ok()
            .map(|details| Failure::of_details(&details).into()),
        child_id: text("instance").map(str::to_owned),
        fire_at: event["fire_at_ms"]
            .as_i64()
            .and_then(DateTime::from_timestamp_millis),
    }
}

/// The value, if there is one and it is small.
fn shown(value: Value) -> Option<Value> {
    (!value.is_null() && value.to_string().len() <= MOST_SHOWN).then_some(value)
}

/// The name of a kind in duroxide's code, in snake case. Three are stored by older names.
fn kind(stored: &str) -> String {
    let name = match stored {
        "ExternalSubscribedPersistent" => "QueueSubscribed",
        "ExternalEventPersistent" => "QueueEventDelivered",
        "ExternalSubscribedPersistentCancelled" => "QueueSubscriptionCancelled",
        other => other,
    };
    let mut kind = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !kind.is_empty() {
            kind.push('_');
        }
        kind.push(letter.to_ascii_lowercase());
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Whatever was stored, by whatever version of duroxide, it is listed, and not too long.
    fn is_listed(stored: &str) -> HistoryEvent {
        let event = event(Row {
            event_id: 7,
            created_at: DateTime::UNIX_EPOCH,
            event: stored.to_owned(),
            source_name: None,
        });
        assert_eq!(event.event_id, 7);
        assert!(
            !event.kind.bytes().any(|byte| byte.is_ascii_uppercase()),
            "{}",
            event.kind
        );
        assert!(event.name.as_deref().is_none_or(|name| !name.contains("::")));
        for value in [&event.input, &event.output].into_iter().flatten() {
            assert!(value.to_string().len() <= MOST_SHOWN);
        }
        event
    }

    #[test]
    fn fuzz_history_event() {
        bolero::check!().for_each(|bytes: &[u8]| {
            is_listed(&String::from_utf8_lossy(bytes));
        });
    }

    proptest! {
        #[test]
        fn whatever_was_stored_is_listed(
            any in ".*", kind in "([A-Z][a-z]{1,5}){0,3}", name in "(a::)?(b::)?[a-z-]{0,9}", body in ".*",
            result in prop_oneof![".*".boxed(), "\"x{0,5000}\"".boxed()], fire_at: i64, details in "\\PC{0,20}",
        ) {
            is_listed(&any);
            let input = envelope::encode(&envelope::Envelope::new(None, body.as_str())).unwrap();
            let stored = json!({
                "type": kind, "name": name, "input": input, "result": result, "fire_at_ms": fire_at,
                "details": { "Application": { "message": details } },
            });
            let event = is_listed(&stored.to_string());
            prop_assert_eq!(event.input, shown(Value::from(body)));
            prop_assert_eq!(event.name.as_deref(), name.rsplit("::").next());
        }
    }
}
