//! What of an object that is there differs from what toygres would apply.

use serde_json::Value;

/// What chooses pods or namespaces: one label more in it, and it chooses others.
const SELECTORS: [&str; 3] = ["selector", "podSelector", "namespaceSelector"];

/// The first field of `wanted` that `seen` does not have like this, as a path; what `seen` has beyond that is not
/// toygres's, but in a selector.
pub(super) fn difference(wanted: &Value, seen: &Value) -> Option<String> {
    match (wanted, seen) {
        (Value::Object(wanted), Value::Object(seen)) => wanted.iter().find_map(|(key, value)| {
            let there = seen.get(key).unwrap_or(&Value::Null);
            if SELECTORS.contains(&key.as_str()) && value != there {
                return Some(key.clone());
            }
            difference(value, there).map(|path| joined(key, &path))
        }),
        (Value::Array(wanted), Value::Array(seen)) if wanted.len() == seen.len() => {
            let pairs = wanted.iter().zip(seen).enumerate();
            pairs.into_iter().find_map(|(place, (wanted, seen))| {
                difference(wanted, seen).map(|path| joined(&place.to_string(), &path))
            })
        }
        (Value::String(wanted), Value::String(seen)) if wanted != seen => {
            let same = quantity(wanted).is_some_and(|wanted| quantity(seen) == Some(wanted));
            (!same).then(String::new)
        }
        // What is empty is left out when it is stored.
        (Value::Object(wanted), Value::Null) if wanted.is_empty() => None,
        (wanted, seen) => (wanted != seen).then(String::new),
    }
}

fn joined(key: &str, path: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{key}.{path}")
    }
}

/// A [quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) in billionths, the
/// finest there are; none if it is not a whole number of them. The API server gives it back in another form: `0.5` as
/// `500m`, `.0001` as `100u`, `1024Mi` as `1Gi`.
fn quantity(text: &str) -> Option<u128> {
    const ONE: u128 = 1_000_000_000;
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "n" => 1,
        "u" => 1000,
        "m" => 1_000_000,
        "" => ONE,
        "k" => ONE * 1000,
        "M" => ONE * 1_000_000,
        "G" => ONE * 1_000_000_000,
        "T" => ONE * 1_000_000_000_000,
        "Ki" => ONE << 10,
        "Mi" => ONE << 20,
        "Gi" => ONE << 30,
        "Ti" => ONE << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value: u128 = format!("{whole}{fraction}").parse().ok()?;
    let value = value.checked_mul(factor)?;
    value.is_multiple_of(scale).then(|| value / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_is_not_wanted_is_not_looked_at() {
        let wanted = json!({"spec": {"ports": [{"port": 5432}], "type": "ClusterIP"}});
        let seen = json!({"spec": {"ports": [{"port": 5432, "nodePort": 1}], "type": "ClusterIP", "clusterIP": "10.0.0.1"}});
        assert_eq!(difference(&wanted, &seen), None);
    }

    #[test]
    fn a_selector_is_compared_as_a_whole() {
        let of = |selector| json!({"spec": {"podSelector": {"matchLabels": selector}}});
        let wanted = of(json!({"app": "shop"}));
        assert_eq!(difference(&wanted, &wanted), None);
        let seen = of(json!({"app": "shop", "no": "pod"}));
        assert_eq!(difference(&wanted, &seen).as_deref(), Some("spec.podSelector"));
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let wanted = json!({"spec": {"ports": [{"port": 5432}], "replicas": 1}});
        let of = |seen: Value| difference(&wanted, &seen);
        assert_eq!(
            of(json!({"spec": {"ports": [{"port": 1}], "replicas": 1}})).as_deref(),
            Some("spec.ports.0.port")
        );
        assert_eq!(
            of(json!({"spec": {"ports": [], "replicas": 1}})).as_deref(),
            Some("spec.ports")
        );
        assert_eq!(
            of(json!({"spec": {"ports": [{"port": 5432}]}})).as_deref(),
            Some("spec.replicas")
        );
    }

    #[test]
    fn quantities_are_compared_by_value() {
        for (one, other) in [
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("2", "2000m"),
            ("1.5Gi", "1536Mi"),
            (".0001", "100u"),
        ] {
            assert_eq!(difference(&json!(one), &json!(other)), None, "{one} {other}");
        }
        for (one, other) in [
            ("1", "1m"),
            ("1Gi", "1G"),
            ("a", "b"),
            ("", "0"),
            (".0001", ".0002"),
        ] {
            assert!(difference(&json!(one), &json!(other)).is_some(), "{one} {other}");
        }
    }

    /// What a path leads to.
    fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
        path.split('.')
            .filter(|key| !key.is_empty())
            .fold(value, |value, key| match value {
                Value::Array(items) => key.parse().map_or(&Value::Null, |place: usize| &items[place]),
                value => &value[key],
            })
    }

    /// A quantity is the same in every form that it has, and another one than those next to it.
    fn is_one_number(text: &str) {
        let Some(billionths) = quantity(text) else {
            return;
        };
        let is_same = |other: &str| difference(&json!(text), &json!(other)).is_none();
        assert!(is_same(&format!("{billionths}n")), "{text}");
        // With nine digits more it may be too large to be read.
        if billionths < 10_u128.pow(28) {
            let (whole, fraction) = (billionths / 1_000_000_000, billionths % 1_000_000_000);
            assert!(is_same(&format!("{whole}.{fraction:09}")), "{text}");
        }
        assert!(!is_same(&format!("{}n", billionths + 1)), "{text}");
        if text.contains('.') && text.ends_with(|c: char| c.is_ascii_digit()) {
            assert!(!is_same(&format!("{text}1")), "{text}");
        }
    }

    /// An object is as itself, also when others have added to it; where it differs, that place is named.
    fn is_found(wanted: &Value, seen: &Value) {
        assert_eq!(difference(wanted, wanted), None);
        if let Value::Object(wanted) = wanted {
            let mut more = wanted.clone();
            more.insert("not toygres's".to_owned(), seen.clone());
            assert_eq!(difference(&json!(wanted), &json!(more)), None);
        }
        // Keys that hold dots make paths that can't be followed.
        let is_plain = !format!("{wanted}{seen}").contains('.');
        if let Some(path) = difference(wanted, seen).filter(|_| is_plain) {
            assert_ne!(at(wanted, &path), at(seen, &path), "{path}");
        }
    }

    #[test]
    fn fuzz_difference() {
        bolero::check!().for_each(|bytes: &[u8]| {
            is_one_number(&String::from_utf8_lossy(bytes));
            if let Ok((wanted, seen)) = serde_json::from_slice(bytes) {
                is_found(&wanted, &seen);
            }
        });
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[0-9.]{0,4}[mMi]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Value::from),
                btree_map("[ab]", inner, 0..3).prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_differs_is_found(
            wanted in json(), seen in json(), any in ".*", near in "[0-9]{0,30}[.]?[0-9]{0,12}[numkMGTi]{0,2}",
        ) {
            is_found(&wanted, &seen);
            for text in [any, near] {
                is_one_number(&text);
            }
        }
    }
}
