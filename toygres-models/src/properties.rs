//! What every parser of this crate promises of every text.

use crate::health::HealthStatus;
use crate::instances::{
    BULK_LIMIT, BulkCreateRequest, CreateInstanceRequest, DesiredState, InstanceState, NewInstance,
    PatchInstanceRequest, is_cpu_quantity,
};
use crate::names::{InstanceName, OwnerName, PostgresVersion};
use crate::operations::{OperationKind, OperationState, Reason, StepState};
use crate::orchestrations::OrchestrationStatus;
use crate::quotas::QuotaLimits;
use crate::server::SettingOrigin;
use crate::tokens::{CreateTokenRequest, NewToken, TokenScope};
use crate::{ErrorKind, InstanceId, OperationId, TokenId};
use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
        select(Reason::ALL).prop_map(|word| word.to_string()),
        "[A-Za-z0-9._@-]{0,70}",
    ]
}

/// What is taken is what it is printed as, and JSON takes the same; what is refused is told why.
fn check<T>(text: &str)
where
    T: FromStr<Err: Display> + Display + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let as_json = serde_json::from_value::<T>(json!(text));
    // In the wrong place, it may be a secret.
    if let Err(error) = serde_json::from_value::<T>(json!(format!("{text}\ncanary"))) {
        assert!(!error.to_string().contains("canary"), "{error}");
    }
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
    check::<HealthStatus>(text);
    check::<InstanceState>(text);
    check::<DesiredState>(text);
    check::<OperationKind>(text);
    check::<OperationState>(text);
    check::<StepState>(text);
    check::<Reason>(text);
    check::<OrchestrationStatus>(text);
    check::<SettingOrigin>(text);
    check::<TokenScope>(text);
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
                check_new(&new);
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

    #[test]
    fn what_a_token_and_a_quota_may_be(
        name in text(), scope in select(TokenScope::ALL), owner in option::of(text()),
        numbers in proptest::array::uniform3(option::of(prop_oneof![
            any::<i64>(), -2..3_i64, 3649..3652_i64, 999_999_999..1_000_000_002_i64,
        ])),
    ) {
        let [days, instances, storage] = numbers;
        let sent = json!({ "name": name, "scope": scope, "user_name": owner, "expires_in_days": days });
        let request: CreateTokenRequest = serde_json::from_value(sent.clone()).unwrap();
        match request.parse() {
            Err(error) => check_refusal(&error, &sent),
            Ok(new) => check_token(&new),
        }
        let sent = json!({ "max_instances": instances, "max_storage_gb": storage });
        let limits: QuotaLimits = serde_json::from_value(sent.clone()).unwrap();
        match limits.parse() {
            Err(error) => check_refusal(&error, &sent),
            Ok(taken) => {
                prop_assert_eq!(taken, limits);
                check_limits(&taken);
            }
        }
    }
}

/// What no database and no platform may be asked for otherwise.
fn check_new(new: &NewInstance) {
    assert!((1..=65_536).contains(&new.storage_size_gb));
    assert!(new.memory_mb.is_none_or(|size| (128..=1_048_576).contains(&size)));
    assert!(new.cpu.as_deref().is_none_or(is_cpu_quantity));
    let password = new.password.as_ref().map(crate::Secret::reveal);
    assert!(password.is_none_or(|it| it.chars().count() >= 6 && !it.contains(char::is_control)));
    assert!(new.tags.len() <= 32 && new.tags.keys().all(|key| !key.is_empty() && key.is_ascii()));
    assert!(!new.tags.values().any(|value| value.contains('\0')));
}

fn check_token(new: &NewToken) {
    assert!((1..=63).contains(&new.name.len()) && new.name.is_ascii());
    assert!(new.scope != TokenScope::Admin || new.user_name.is_none());
    assert!(new.expires_in_days.is_none_or(|days| (1..=3650).contains(&days)));
}

fn check_limits(limits: &QuotaLimits) {
    for limit in [limits.max_instances, limits.max_storage_gb] {
        assert!(limit.is_none_or(|limit| (0..=1_000_000_000).contains(&limit)));
    }
}

/// Whatever is a request of this sort is refused with the names of its fields, or what is made of it may be done.
fn check_request<T: DeserializeOwned, Parsed>(
    body: &[u8],
    parse: fn(T) -> crate::Result<Parsed>,
    check: impl Fn(&Parsed),
) {
    let Ok(request) = serde_json::from_slice::<T>(body) else {
        return;
    };
    match parse(request) {
        Ok(parsed) => check(&parsed),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.fields().is_empty());
        }
    }
}

#[test]
fn fuzz_words() {
    bolero::check!().for_each(|bytes: &[u8]| check_words(&String::from_utf8_lossy(bytes)));
}

#[test]
fn fuzz_requests() {
    bolero::check!().for_each(|bytes: &[u8]| {
        check_request(bytes, CreateInstanceRequest::parse, check_new);
        check_request(bytes, BulkCreateRequest::parse, |all| {
            assert!((1..=BULK_LIMIT).contains(&all.len()));
            all.iter().for_each(check_new);
        });
        check_request(bytes, PatchInstanceRequest::parse, |patch| {
            patch.merge_tags(&BTreeMap::new()).unwrap();
        });
        check_request(bytes, CreateTokenRequest::parse, check_token);
        check_request(bytes, QuotaLimits::parse, check_limits);
    });
}
