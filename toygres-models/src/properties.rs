//! What every parser of this crate promises of every text.

use crate::instances::{BulkCreateRequest, CreateInstanceRequest, PatchInstanceRequest};
use crate::names::{InstanceName, OwnerName, PostgresVersion};
use crate::quotas::QuotaLimits;
use crate::tokens::CreateTokenRequest;
use crate::{ErrorKind, InstanceId, OperationId, TokenId};
use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// Text that is nearly right, or has nothing to do with it.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-z0-9-]{0,70}",
        "[0-9]{1,3}",
        "[0-9.]{1,5}m?",
        "[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}",
        "[{(]?[a-z:]{0,9}[0-9a-f]{32}[})]?",
        "\\PC{0,300}",
    ]
}

/// What is taken is what it is printed as, and JSON takes the same; what is refused is told why.
fn check<T>(text: &str)
where
    T: FromStr<Err: Display> + Display + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let as_json = serde_json::from_value::<T>(json!(text));
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(&as_json.unwrap(), &value);
            assert_eq!(&value.to_string().parse::<T>().ok().unwrap(), &value);
            assert_eq!(json!(value), json!(value.to_string()));
        }
        Err(error) => {
            assert!(as_json.is_err());
            assert!(!error.to_string().is_empty());
        }
    }
}

/// The same, of every type that is read of a word.
fn check_words(text: &str) {
    check::<InstanceName>(text);
    check::<OwnerName>(text);
    check::<PostgresVersion>(text);
    check::<InstanceId>(text);
    check::<OperationId>(text);
    check::<TokenId>(text);
    if let Ok(name) = text.parse::<OwnerName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(version) = text.parse::<PostgresVersion>() {
        assert_eq!(version.to_string(), text);
    }
}

/// Of a request that is refused every wrong field is named, and no password shown.
fn check_refusal(error: &crate::Error, sent: &Value) {
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.fields().is_empty());
    for wrong in error.fields() {
        assert!(
            sent.get(&wrong.field).is_some(),
            "{} is not in {sent}",
            wrong.field
        );
        assert!(!wrong.message.is_empty());
    }
    let shown = format!("{error:?} {error}");
    assert!(!shown.contains("canary"));
}

proptest! {
    #[test]
    fn names_versions_and_ids_are_what_they_are_printed_as(text in text()) {
        check_words(&text);
    }

    #[test]
    fn what_a_request_may_hold(
        name in text(), password in text(), owner in text(), version in text(), cpu in text(), space in text(),
        numbers in (any::<i64>(), option::of(-9..99_999_i64), option::of(any::<i64>())),
        tags in btree_map(text(), text(), 0..5),
    ) {
        let sent = json!({
            "name": name, "password": format!("{password}canary\u{0}"), "user_name": owner,
            "postgres_version": version, "storage_size_gb": numbers.1, "cpu": cpu, "memory_mb": numbers.2,
            "namespace": space, "tags": tags,
        });
        let request: CreateInstanceRequest = serde_json::from_value(sent.clone()).unwrap();
        // Its password ends with what none may hold.
        check_refusal(&request.clone().parse().unwrap_err(), &sent);
        let few = CreateInstanceRequest { password: None, tags: None, ..request };
        match few.parse() {
            Err(error) => check_refusal(&error, &sent),
            Ok(new) => {
                prop_assert_eq!(new.name.as_str(), name.as_str());
                prop_assert!((1..=65_536).contains(&new.storage_size_gb));
            }
        }

        let bulk = json!({ "base_name": name, "count": numbers.0, "cpu": cpu });
        let request: BulkCreateRequest = serde_json::from_value(bulk.clone()).unwrap();
        match request.parse() {
            Err(error) => check_refusal(&error, &bulk),
            Ok(all) => prop_assert_eq!(all.len() as i64, numbers.0),
        }

        let patch = json!({ "tags": tags });
        let request: PatchInstanceRequest = serde_json::from_value(patch.clone()).unwrap();
        match request.clone().parse() {
            Err(error) => check_refusal(&error, &patch),
            Ok(_) => prop_assert_eq!(request.merge_tags(&tags).unwrap(), tags),
        }
    }
}

/// Whatever is a request of this sort is taken or refused.
fn check_request<T: DeserializeOwned, Parsed>(body: &[u8], parse: fn(T) -> crate::Result<Parsed>) {
    if let Ok(request) = serde_json::from_slice::<T>(body)
        && let Err(error) = parse(request)
    {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.fields().is_empty());
    }
}

#[test]
fn fuzz_words() {
    bolero::check!().for_each(|bytes: &[u8]| check_words(&String::from_utf8_lossy(bytes)));
}

#[test]
fn fuzz_requests() {
    bolero::check!().for_each(|bytes: &[u8]| {
        check_request(bytes, CreateInstanceRequest::parse);
        check_request(bytes, BulkCreateRequest::parse);
        check_request(bytes, PatchInstanceRequest::parse);
        check_request(bytes, CreateTokenRequest::parse);
        check_request(bytes, QuotaLimits::parse);
    });
}
