//! What of an object that is there differs from what toygres would apply.

use serde_json::Value;

/// The first field of `wanted` that `seen` does not have like this, as a path; what `seen` has beyond that is not
/// toygres's.
pub(super) fn difference(wanted: &Value, seen: &Value) -> Option<String> {
    match (wanted, seen) {
        (Value::Object(wanted), Value::Object(seen)) => wanted.iter().find_map(|(key, value)| {
            let there = seen.get(key).unwrap_or(&Value::Null);
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

/// A [quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) in thousandths. The
/// API server gives it back in another form: `0.5` as `500m`, `1024Mi` as `1Gi`.
fn quantity(text: &str) -> Option<u128> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value: u128 = format!("{whole}{fraction}").parse().ok()?;
    value.checked_mul(factor)?.checked_div(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_wanted_is_not_looked_at() {
        let wanted = json!({"spec": {"ports": [{"port": 5432}], "type": "ClusterIP"}});
        let seen = json!({"spec": {"ports": [{"port": 5432, "nodePort": 1}], "type": "ClusterIP", "clusterIP": "10.0.0.1"}});
        assert_eq!(difference(&wanted, &seen), None);
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
        ] {
            assert_eq!(difference(&json!(one), &json!(other)), None, "{one} {other}");
        }
        for (one, other) in [("1", "1m"), ("1Gi", "1G"), ("a", "b"), ("", "0")] {
            assert!(difference(&json!(one), &json!(other)).is_some(), "{one} {other}");
        }
    }
}
