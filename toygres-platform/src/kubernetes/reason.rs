//! Why an instance is not ready, in one word and one sentence: from what Kubernetes says of its objects.

use super::cache::Seen;
use super::manifests::NO_DATABASE;
use crate::words::printable;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use toygres_models::operations::Reason;

/// How many of a server's last words are told.
const LAST_LINES: usize = 5;
/// The longest sentence, in characters.
pub(super) const LONGEST: usize = 2000;

type Why = (Reason, String);

/// Why it is not ready; none: its server has started. `warning` gives the newest warning about an object, by its kind.
pub(super) fn why_not_ready(
    seen: &Seen,
    warning: &dyn Fn(&str, &ObjectMeta) -> Option<String>,
) -> Option<Why> {
    // Much of it is in the words of a tenant's server.
    why(seen, warning).map(|(reason, said)| (reason, printable(&said, LONGEST)))
}

fn why(seen: &Seen, warning: &dyn Fn(&str, &ObjectMeta) -> Option<String>) -> Option<Why> {
    let held = seen
        .objects()
        .into_iter()
        .find_map(|(kind, metadata)| held(kind, metadata));
    let Some(stateful_set) = &seen.stateful_set else {
        return Some(held.unwrap_or_else(|| (Reason::Stopped, "its stateful set is not there".to_owned())));
    };
    let Some(claim) = &seen.claim else {
        return Some((Reason::StorageMissing, "its volume claim is not there".to_owned()));
    };
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Lost") {
        return Some((
            Reason::StorageMissing,
            "its volume claim has lost its volume".to_owned(),
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        // Also while its server still answers: nothing can undo it, and what is written now is lost.
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        return Some(held.unwrap_or_else(|| {
            let said = format!("its volume claim {name} is being deleted: its data goes when its pod ends");
            (Reason::StorageMissing, said)
        }));
    }
    let Some(pod) = &seen.pod else {
        let refused = warning("StatefulSet", &stateful_set.metadata);
        return Some(held.unwrap_or_else(|| match refused {
            Some(said) if said.contains("exceeded quota") => (Reason::Quota, said),
            Some(said) => (Reason::Stopped, format!("its pod can't be made: {said}")),
            None => (Reason::Starting, "its pod is being made".to_owned()),
        }));
    };
    let is_bound = phase == Some("Bound");
    let claim_warning = || warning("PersistentVolumeClaim", &claim.metadata);
    let pod_warning = || warning("Pod", &pod.metadata);
    let secret_missing = seen.secret.is_none();
    if let Some(why) = of_the_pod(pod) {
        return Some(why);
    }
    if let Some(condition) = condition(pod, "PodScheduled").filter(|condition| condition.status == "False") {
        let said = condition.message.clone().unwrap_or_default();
        return Some(match claim_warning() {
            Some(said) if !is_bound => (Reason::VolumePending, format!("its volume is not made: {said}")),
            _ => (Reason::Unschedulable, format!("no node takes it: {said}")),
        });
    }
    let container = container(pod);
    if let Some(why) = container.and_then(of_the_container) {
        return Some(why);
    }
    if is_started(pod) {
        return None;
    }
    if let Some(why) = node_lost(pod) {
        return Some(why);
    }
    let is_running = container.is_some_and(|container| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some())
    });
    Some(if is_running {
        (Reason::Starting, "its server is starting".to_owned())
    } else if secret_missing {
        (Reason::SecretMissing, "its secret is not there".to_owned())
    } else if !is_bound && let Some(said) = claim_warning() {
        (Reason::VolumePending, format!("its volume is not made: {said}"))
    } else {
        let on_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        match pod_warning() {
            Some(said) if on_node => (Reason::Starting, format!("its pod is being started: {said}")),
            _ => (Reason::Starting, "its pod is being started".to_owned()),
        }
    })
}

/// Whether its server has answered since its container was started.
pub(super) fn is_started(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && container(pod).is_some_and(|container| {
            let state = container.state.as_ref();
            container.started == Some(true) && state.is_some_and(|state| state.running.is_some())
        })
}

/// Why an object that is to go does not, if somebody other than Kubernetes itself holds it.
pub(super) fn held(kind: &str, metadata: &ObjectMeta) -> Option<Why> {
    metadata.deletion_timestamp.as_ref()?;
    let finalizers: Vec<&str> = metadata
        .finalizers
        .iter()
        .flatten()
        .map(String::as_str)
        .filter(|finalizer| !finalizer.starts_with("kubernetes.io/"))
        .collect();
    let name = metadata.name.as_deref().unwrap_or_default();
    (!finalizers.is_empty()).then(|| {
        let finalizers = finalizers.join(", ");
        (
            Reason::Finalizer,
            format!("the {kind} {name} is to go, but the finalizer {finalizers} holds it"),
        )
    })
}

fn of_the_pod(pod: &Pod) -> Option<Why> {
    let status = pod.status.as_ref()?;
    let said = || status.message.clone().unwrap_or_default();
    if status.reason.as_deref() == Some("Evicted") {
        return Some((Reason::Evicted, format!("its node has put it out: {}", said())));
    }
    pod.metadata
        .deletion_timestamp
        .is_some()
        .then(|| (Reason::Starting, "its pod ends, and is made again".to_owned()))
}

/// Whether the pod's node does not answer. Of such a node Kubernetes says no more than that its pods are not ready,
/// while their containers go on to be called ready, which they may well be.
pub(super) fn node_lost(pod: &Pod) -> Option<Why> {
    let status = pod.status.as_ref()?;
    let ready = condition(pod, "Ready");
    let is_lost = status.reason.as_deref() == Some("NodeLost")
        || ready.is_some_and(|ready| {
            let container_ready = container(pod).is_some_and(|container| container.ready);
            ready.status == "Unknown" || ready.status == "False" && ready.reason.is_none() && container_ready
        });
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = node.unwrap_or("its node");
    is_lost.then(|| (Reason::NodeLost, format!("the node {node} does not answer")))
}

fn of_the_container(container: &ContainerStatus) -> Option<Why> {
    let state = container.state.as_ref()?;
    let ended = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let ended = state.terminated.as_ref().or(ended);
    let crashed = |said: String| {
        let Some(ended) = ended else {
            return (Reason::CrashLoop, said);
        };
        let said = ended.message.as_deref().unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("; ");
        let message = format!(
            "it ended with exit code {}; its last words: {last}",
            ended.exit_code
        );
        match ended.exit_code {
            NO_DATABASE => (Reason::StorageMissing, message),
            _ => (Reason::CrashLoop, message),
        }
    };
    if let Some(waiting) = &state.waiting {
        let said = waiting.message.clone().unwrap_or_default();
        let reason = match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ImageInspectError"
            | "ErrImageNeverPull"
            | "RegistryUnavailable" => Reason::ImagePull,
            "CrashLoopBackOff" => return Some(crashed(said)),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Reason::Stopped,
            _ => return None,
        };
        return Some((reason, said));
    }
    if state.terminated.is_some() {
        return Some(crashed(String::new()));
    }
    // It runs for now, but has ended more than once before it ever answered.
    (container.started != Some(true) && container.restart_count > 1).then(|| crashed(String::new()))
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::assert_printable;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn object<K: serde::de::DeserializeOwned>(value: Value) -> Option<Arc<K>> {
        Some(Arc::new(serde_json::from_value(value).unwrap()))
    }

    /// An instance with this pod, on a claim in this phase.
    fn seen(pod: Value, phase: &str) -> Seen {
        Seen {
            stateful_set: object(
                json!({"metadata": {"name": "shop"}, "spec": {"selector": {}, "template": {}}}),
            ),
            claim: object(json!({"metadata": {"name": "shop"}, "status": {"phase": phase}})),
            pod: object(pod),
            secret: object(json!({"metadata": {"name": "shop"}})),
            ..Seen::default()
        }
    }

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "shop-0"}, "spec": {"containers": [], "nodeName": "node1"}, "status": status})
    }

    fn with_container(state: Value) -> Value {
        let mut container = json!({
            "name": "postgresql", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        });
        container
            .as_object_mut()
            .unwrap()
            .extend(state.as_object().unwrap().clone());
        pod(json!({"containerStatuses": [container]}))
    }

    fn told(seen: &Seen, warnings: &[(&str, &str)]) -> Option<(Reason, String)> {
        why_not_ready(seen, &|kind, _| {
            let found = warnings.iter().find(|(about, _)| *about == kind);
            found.map(|(_, said)| (*said).to_owned())
        })
    }

    #[test]
    fn a_started_server_is_ready() {
        let running = with_container(json!({"started": true, "state": {"running": {}}}));
        assert_eq!(told(&seen(running.clone(), "Bound"), &[]), None);
        let mut ending = running;
        ending["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        assert_eq!(told(&seen(ending, "Bound"), &[]).unwrap().0, Reason::Starting);
    }

    #[test]
    fn each_cause_has_its_name() {
        let waiting = |reason: &str| {
            with_container(json!({"state": {"waiting": {"reason": reason, "message": "said"}}}))
        };
        let ended = json!({"terminated": {"exitCode": 1, "message": "one\n\nFATAL: two\n"}});
        let unscheduled =
            || pod(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "said"}]}));
        let crashed = with_container(json!({
            "restartCount": 3, "lastState": ended, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }));
        let between =
            with_container(json!({"restartCount": 3, "lastState": ended, "state": {"running": {}}}));
        let emptied = with_container(json!({
            "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": NO_DATABASE, "message": "it is not made anew\n"}},
        }));
        for (pod, phase, warnings, reason, words) in [
            (
                waiting("ErrImagePull"),
                "Bound",
                &[][..],
                Reason::ImagePull,
                "said",
            ),
            (
                waiting("ImagePullBackOff"),
                "Bound",
                &[],
                Reason::ImagePull,
                "said",
            ),
            (
                waiting("InvalidImageName"),
                "Bound",
                &[],
                Reason::ImagePull,
                "said",
            ),
            (
                waiting("ContainerCreating"),
                "Bound",
                &[("Pod", "said")],
                Reason::Starting,
                "said",
            ),
            (
                waiting("CreateContainerError"),
                "Bound",
                &[],
                Reason::Stopped,
                "said",
            ),
            (
                crashed,
                "Bound",
                &[],
                Reason::CrashLoop,
                "exit code 1; its last words: one; FATAL: two",
            ),
            (between, "Bound", &[], Reason::CrashLoop, "FATAL: two"),
            (emptied, "Bound", &[], Reason::StorageMissing, "not made anew"),
            (unscheduled(), "Pending", &[], Reason::Unschedulable, "said"),
            (
                unscheduled(),
                "Pending",
                &[("PersistentVolumeClaim", "no class")],
                Reason::VolumePending,
                "no class",
            ),
            (
                unscheduled(),
                "Bound",
                &[("PersistentVolumeClaim", "old news")],
                Reason::Unschedulable,
                "said",
            ),
            (
                pod(json!({})),
                "Lost",
                &[],
                Reason::StorageMissing,
                "lost its volume",
            ),
            (
                pod(json!({"reason": "Evicted", "message": "said"})),
                "Bound",
                &[],
                Reason::Evicted,
                "said",
            ),
            (
                pod(json!({"conditions": [{"type": "Ready", "status": "Unknown"}]})),
                "Bound",
                &[],
                Reason::NodeLost,
                "node1",
            ),
        ] {
            let (found, message) = told(&seen(pod, phase), warnings).unwrap();
            assert_eq!(found, reason, "{message}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn what_is_missing_has_its_name() {
        let whole = || {
            seen(
                with_container(json!({"state": {"waiting": {"reason": "ContainerCreating"}}})),
                "Bound",
            )
        };
        let reason = |seen: &Seen, warnings| told(seen, warnings).unwrap().0;
        let without_secret = Seen {
            secret: None,
            ..whole()
        };
        assert_eq!(reason(&without_secret, &[]), Reason::SecretMissing);
        let without_claim = Seen {
            claim: None,
            ..whole()
        };
        assert_eq!(reason(&without_claim, &[]), Reason::StorageMissing);
        let without_pod = || Seen { pod: None, ..whole() };
        assert_eq!(reason(&without_pod(), &[]), Reason::Starting);
        let quota = [("StatefulSet", "create Pod failed: exceeded quota: small")];
        assert_eq!(reason(&without_pod(), &quota), Reason::Quota);
        let without_stateful_set = Seen {
            stateful_set: None,
            ..whole()
        };
        assert_eq!(reason(&without_stateful_set, &[]), Reason::Stopped);
    }

    #[test]
    fn somebody_elses_finalizer_is_named_and_kubernetes_own_is_not() {
        let held_by = |finalizer: &str| {
            let metadata = json!({
                "name": "shop", "finalizers": [finalizer], "deletionTimestamp": "2030-01-01T00:00:00Z",
            });
            held("volume claim", &serde_json::from_value(metadata).unwrap())
        };
        assert_eq!(held_by("kubernetes.io/pvc-protection"), None);
        let (reason, message) = held_by("example.org/keep").unwrap();
        assert_eq!(reason, Reason::Finalizer);
        assert!(
            message.contains("example.org/keep") && message.contains("shop"),
            "{message}"
        );
    }

    #[test]
    fn golden_the_guide_explains_every_reason() {
        let elsewhere = |reason: &Reason| {
            matches!(
                reason,
                Reason::Queued
                    | Reason::DiskFull
                    | Reason::PortTaken
                    | Reason::BinariesMissing
                    | Reason::OtherHost
            )
        };
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kubernetes.md");
        let guide = std::fs::read_to_string(path).unwrap();
        for reason in Reason::ALL.iter().filter(|reason| !elsewhere(reason)) {
            assert!(
                guide.contains(&format!("| `{reason}` |")),
                "docs/kubernetes.md does not explain {reason}"
            );
        }
    }

    #[test]
    fn a_server_can_not_end_with_words_that_nobody_can_keep() {
        let ended =
            json!({"terminated": {"exitCode": 1, "message": format!("FATAL:\u{0} {}", "x".repeat(9999))}});
        let (_, message) = told(&seen(with_container(json!({ "state": ended })), "Bound"), &[]).unwrap();
        assert!(message.contains("its last words: FATAL: xxx"), "{message}");
        assert_printable(&message, LONGEST + 3);
    }

    /// Objects of which a field is missing are none that an API server gives.
    fn maybe<K: serde::de::DeserializeOwned>(value: &Value) -> Option<Arc<K>> {
        serde_json::from_value(value.clone()).ok().map(Arc::new)
    }

    /// Whatever is said of its objects, it has started, or there is a sentence why not.
    fn is_started_or_told_why(objects: &Value, said: &str) {
        let seen = Seen {
            stateful_set: maybe(&objects["set"]),
            claim: maybe(&objects["claim"]),
            pod: maybe(&objects["pod"]),
            secret: maybe(&objects["secret"]),
            ..Seen::default()
        };
        match why_not_ready(&seen, &|_, _| Some(said.to_owned())) {
            Some((_, sentence)) => assert_printable(&sentence, LONGEST + 3),
            None => assert!(seen.pod.as_deref().is_some_and(is_started)),
        }
        if let Some((_, sentence)) = seen.pod.as_deref().and_then(node_lost) {
            assert!(!sentence.is_empty());
        }
    }

    fn objects(said: &str, phase: &str, word: &str, flags: [bool; 6], restarts: i32) -> Value {
        let [scheduled, started, waits, runs, ends, secret] = flags;
        let ending = ends.then_some("2030-01-01T00:00:00Z");
        let state = match (waits, runs) {
            (true, _) => json!({"waiting": {"reason": word, "message": said}}),
            (_, true) => json!({"running": {}}),
            _ => json!({"terminated": {"exitCode": restarts, "message": said}}),
        };
        let pod = json!({
            "metadata": {"name": "shop-0", "deletionTimestamp": ending, "finalizers": [word]},
            "spec": {"containers": []},
            "status": {
                "reason": word, "message": said,
                "conditions": [{"type": "PodScheduled", "status": if scheduled { "True" } else { "False" }}],
                "containerStatuses": [{
                    "name": "postgresql", "image": "", "imageID": "", "ready": started, "started": started,
                    "restartCount": restarts, "state": state,
                    "lastState": {"terminated": {"exitCode": 1, "message": said}},
                }],
            },
        });
        json!({
            "set": {"metadata": {"name": "shop"}, "spec": {"selector": {}, "template": {}}},
            "claim": {"metadata": {"name": "shop"}, "status": {"phase": phase}},
            "pod": pod, "secret": if secret { json!({"metadata": {"name": "shop"}}) } else { Value::Null },
        })
    }

    #[test]
    fn fuzz_objects() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(objects) = serde_json::from_slice(bytes) {
                is_started_or_told_why(&objects, "said");
            }
            // What can be one or the other, how often it has ended, and then what is said, a line each.
            let ([flags, restarts], rest) = bytes.split_first_chunk().unwrap_or((&[0, 0], bytes));
            let text = String::from_utf8_lossy(rest);
            let mut lines = text.splitn(3, '\n');
            let [word, phase, said] = std::array::from_fn(|_| lines.next().unwrap_or_default());
            let flags = std::array::from_fn(|bit| flags >> bit & 1 == 1);
            is_started_or_told_why(&objects(said, phase, word, flags, i32::from(*restarts)), said);
        });
    }

    proptest! {
        #[test]
        fn whatever_is_said_of_its_objects_there_is_a_sentence(
            said in r"(exceeded quota)?(\PC|[\x00-\x1f]){0,30}", phase in "(Bound|Lost|Pending|.)",
            word in "(ErrImagePull|CrashLoopBackOff|RunContainerError|Evicted|NodeLost|.{0,3})",
            flags: [bool; 6], restarts in -1..4,
        ) {
            is_started_or_told_why(&objects(&said, &phase, &word, flags, restarts), &said);
        }
    }
}
