//! Which requests get which fault.

use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, header};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// What Kubernetes calls the kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the verbs of Kubernetes")]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    /// A patch of the content type `application/apply-patch+...`: server-side apply.
    Apply,
    Delete,
    DeleteCollection,
}

/// What is done to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is forwarded so much later. The other rules still count for it.
    Latency(Duration),
    /// It is not forwarded, and refused with this HTTP status and the JSON body that Kubernetes sends with it.
    Status {
        /// The status; 409 is `AlreadyExists` for a create, else `Conflict`.
        code: u16,
        /// Seconds for the header `Retry-After`.
        retry_after: Option<u64>,
    },
    /// The API server does it, but the client is told this status.
    DoneButStatus(u16),
    /// The API server does it, but the connection is reset without an answer.
    DoneButReset,
    /// The API server does it, but there is never an answer.
    DoneButHang,
    /// The connection is reset after so many bytes of the answer's body (at its end, if it is shorter and its length
    /// was not announced).
    ResetMidBody {
        /// How many bytes arrive.
        after_bytes: usize,
    },
    /// It is not forwarded and never answered.
    Hang,
    /// For a watch, not forwarded: one event `ERROR`, 410 `Expired`, and the end.
    ExpireWatch,
    /// For a watch: its stream ends there, as if all were well.
    TruncateWatch(After),
    /// For a watch: its stream says no more from there on, but does not end.
    SilenceWatch(After),
    /// For a read: the first answer to the same path and query is kept and given again. Giving it again is what
    /// counts.
    StaleList,
}

/// Where a stream is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// After so many lines.
    Events(usize),
    /// After so many bytes, also within a line.
    Bytes(usize),
}

impl After {
    /// How much of the next chunk is still let through.
    pub(super) fn allow(&mut self, chunk: &[u8]) -> usize {
        match self {
            Self::Bytes(left) => {
                let allowed = chunk.len().min(*left);
                *left -= allowed;
                allowed
            }
            Self::Events(left) => {
                let mut lines = chunk.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                let mut allowed = 0;
                while *left > 0 {
                    let Some((end, _)) = lines.next() else {
                        return chunk.len();
                    };
                    allowed = end + 1;
                    *left -= 1;
                }
                allowed
            }
        }
    }

    /// Whether nothing more is let through.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Events(0) | Self::Bytes(0))
    }
}

#[derive(Debug, Clone, Copy)]
enum Often {
    Always,
    Times(u64),
    Every(u64),
    Chance { probability: f64, seed: u64 },
}

/// A fault, the requests that it is for, and how often they get it: all, always, unless told otherwise.
#[derive(Debug, Clone)]
#[must_use]
pub struct Rule {
    pub(super) fault: Fault,
    verb: Option<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
    often: Often,
}

impl Rule {
    /// This fault for every request.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            verb: None,
            resource: None,
            subresource: None,
            name: None,
            often: Often::Always,
        }
    }
    /// Only for this verb.
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }
    /// Only for this resource (`statefulsets`) and its subresources.
    pub fn resource(mut self, plural: &str) -> Self {
        self.resource = Some(plural.to_owned());
        self
    }
    /// Only for this subresource (`status`, `log`); `""`: only for what is none.
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = Some(subresource.to_owned());
        self
    }
    /// Only for objects with this in their name, which is read from the path, a create's body, or a field selector.
    pub fn name(mut self, part: &str) -> Self {
        self.name = Some(part.to_owned());
        self
    }
    /// Only for the first so many of them.
    pub fn times(mut self, times: u64) -> Self {
        self.often = Often::Times(times);
        self
    }
    /// Only for every nth of them.
    pub fn every(mut self, nth: u64) -> Self {
        assert!(nth > 0, "every 0th request is none");
        self.often = Often::Every(nth);
        self
    }
    /// For each of them by chance, the same with the same seed.
    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        self.often = Often::Chance { probability, seed };
        self
    }

    fn matches(&self, call: &Call) -> bool {
        let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.verb.is_none_or(|verb| verb == call.verb)
            && is(&self.resource, &call.resource)
            && is(&self.subresource, &call.subresource)
            && self.name.as_deref().is_none_or(|part| call.name.contains(part))
    }
}

/// A rule in force.
pub(super) struct Armed {
    pub(super) rule: Rule,
    state: Mutex<State>,
}

struct State {
    matched: u64,
    fired: u64,
    chance: StdRng,
    kept: HashMap<String, Bytes>,
}

impl Armed {
    pub(super) fn new(rule: Rule) -> Self {
        let seed = match rule.often {
            Often::Chance { seed, .. } => seed,
            _ => 0,
        };
        Self {
            rule,
            state: Mutex::new(State {
                matched: 0,
                fired: 0,
                chance: StdRng::seed_from_u64(seed),
                kept: HashMap::new(),
            }),
        }
    }

    /// Whether this request gets the fault.
    pub(super) fn fires(&self, call: &Call) -> bool {
        if !self.rule.matches(call) {
            return false;
        }
        let state = &mut *self.state.lock().unwrap();
        if matches!(self.rule.fault, Fault::StaleList) && !state.kept.contains_key(&call.target) {
            return true;
        }
        state.matched += 1;
        let fires = match self.rule.often {
            Often::Always => true,
            Often::Times(times) => state.matched <= times,
            Often::Every(nth) => state.matched.is_multiple_of(nth),
            Often::Chance { probability, .. } => state.chance.random_bool(probability),
        };
        state.fired += u64::from(fires);
        fires
    }

    pub(super) fn fired(&self) -> u64 {
        self.state.lock().unwrap().fired
    }

    pub(super) fn kept(&self, call: &Call) -> Option<Bytes> {
        self.state.lock().unwrap().kept.get(&call.target).cloned()
    }

    pub(super) fn keep(&self, call: &Call, body: Bytes) {
        let mut state = self.state.lock().unwrap();
        state.kept.insert(call.target.clone(), body);
    }
}

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Empty when it is about none, like `/version`.
    pub(super) resource: String,
    pub(super) name: String,
    subresource: String,
    /// Path and query.
    target: String,
}

impl Call {
    pub(super) fn new(parts: &Parts, body: &[u8]) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let (resource, in_path, subresource) = split(parts.uri.path());
        let name = if !in_path.is_empty() {
            in_path.to_owned()
        } else if parts.method == Method::POST {
            let object: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
        } else {
            let selected = query.split_once("metadata.name%3D").unwrap_or_default().1;
            selected.split(['&', '%']).next().unwrap_or_default().to_owned()
        };
        let is_apply = || {
            let kind = parts.headers.get(header::CONTENT_TYPE);
            kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"))
        };
        let verb = match parts.method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH if is_apply() => Verb::Apply,
            Method::PATCH => Verb::Patch,
            Method::DELETE if in_path.is_empty() => Verb::DeleteCollection,
            Method::DELETE => Verb::Delete,
            _ if query
                .split('&')
                .any(|pair| pair == "watch=true" || pair == "watch=1") =>
            {
                Verb::Watch
            }
            _ if in_path.is_empty() && !resource.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        Self {
            verb,
            resource: resource.to_owned(),
            name,
            subresource: subresource.to_owned(),
            target: parts.uri.to_string(),
        }
    }
}

/// Resource, name and subresource of a path.
fn split(path: &str) -> (&str, &str, &str) {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let rest = match segments[..] {
        ["api", _, ref rest @ ..] | ["apis", _, _, ref rest @ ..] => rest,
        _ => return ("", "", ""),
    };
    match *rest {
        ["namespaces", name, sub @ ("status" | "finalize")] => ("namespaces", name, sub),
        ["namespaces", _, resource] | [resource] => (resource, "", ""),
        ["namespaces", _, resource, name] => (resource, name, ""),
        ["namespaces", _, resource, name, sub, ..] => (resource, name, sub),
        [resource, name] => (resource, name, ""),
        [resource, name, sub, ..] => (resource, name, sub),
        [] => ("", "", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn call(method: &str, target: &str) -> Call {
        let request = Request::builder().method(method).uri(target);
        Call::new(&request.body(()).unwrap().into_parts().0, b"")
    }

    #[test]
    fn a_request_is_understood() {
        let known = [
            ("GET", "/version", (Verb::Get, "", "", "")),
            ("GET", "/api/v1", (Verb::Get, "", "", "")),
            ("GET", "/api/v1/nodes?limit=5", (Verb::List, "nodes", "", "")),
            ("GET", "/api/v1/namespaces", (Verb::List, "namespaces", "", "")),
            (
                "DELETE",
                "/api/v1/namespaces/a",
                (Verb::Delete, "namespaces", "a", ""),
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                (Verb::Update, "namespaces", "a", "finalize"),
            ),
            ("GET", "/api/v1/namespaces/a/pods", (Verb::List, "pods", "", "")),
            (
                "GET",
                "/api/v1/namespaces/a/pods?watch=true",
                (Verb::Watch, "pods", "", ""),
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/p/log",
                (Verb::Get, "pods", "p", "log"),
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods",
                (Verb::DeleteCollection, "pods", "", ""),
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/statefulsets/s",
                (Verb::Patch, "statefulsets", "s", ""),
            ),
            (
                "GET",
                "/apis/apps/v1/statefulsets?fieldSelector=metadata.name%3Ddb-1&watch=1",
                (Verb::Watch, "statefulsets", "db-1", ""),
            ),
        ];
        for (method, target, expected) in known {
            let is = call(method, target);
            let is = (is.verb, &*is.resource, &*is.name, &*is.subresource);
            assert_eq!(is, expected, "{method} {target}");
        }
    }

    #[test]
    fn a_create_has_its_name_in_the_body_and_an_apply_is_no_patch() {
        let uri = "/api/v1/namespaces/a/secrets";
        let create = Request::post(uri).body(()).unwrap().into_parts().0;
        let create = Call::new(&create, br#"{"metadata":{"name":"s"}}"#);
        assert_eq!((create.verb, &*create.name), (Verb::Create, "s"));
        let apply = Request::patch(format!("{uri}/s"))
            .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
            .body(())
            .unwrap();
        assert_eq!(Call::new(&apply.into_parts().0, b"").verb, Verb::Apply);
    }

    #[test]
    fn a_rule_is_for_what_it_names_only() {
        let log = call("GET", "/api/v1/namespaces/a/pods/db-1/log");
        let rule = || Rule::new(Fault::Hang);
        assert!(rule().matches(&log));
        assert!(
            rule()
                .verb(Verb::Get)
                .resource("pods")
                .name("db")
                .subresource("log")
                .matches(&log)
        );
        assert!(!rule().verb(Verb::List).matches(&log));
        assert!(!rule().resource("pod").matches(&log));
        assert!(!rule().name("dx").matches(&log));
        assert!(!rule().subresource("").matches(&log));
    }

    #[test]
    fn a_rule_fires_as_often_as_it_says() {
        let get = call("GET", "/version");
        let fires = |rule: Rule| {
            let armed = Armed::new(rule);
            let fires: Vec<bool> = (0..40).map(|_| armed.fires(&get)).collect();
            assert_eq!(armed.fired(), fires.iter().filter(|fires| **fires).count() as u64);
            fires
        };
        let rule = || Rule::new(Fault::Hang);
        assert_eq!(fires(rule()), [true; 40]);
        assert_eq!(fires(rule().times(2))[..4], [true, true, false, false]);
        assert_eq!(
            fires(rule().every(3))[..6],
            [false, false, true, false, false, true]
        );
        let by_chance = fires(rule().chance(0.5, 7));
        assert_eq!(by_chance, fires(rule().chance(0.5, 7)));
        assert_ne!(by_chance, fires(rule().chance(0.5, 8)));
        assert!(by_chance.contains(&true) && by_chance.contains(&false));
    }

    #[test]
    fn a_stream_is_cut_where_it_should() {
        let mut events = After::Events(2);
        assert_eq!(events.allow(b"a\nb"), 3);
        assert!(!events.is_over());
        assert_eq!(events.allow(b"b\nc\n"), 2);
        assert!(events.is_over());
        let mut bytes = After::Bytes(5);
        assert_eq!((bytes.allow(b"a\nb"), bytes.allow(b"bbb")), (3, 2));
        assert!(bytes.is_over());
    }
}
