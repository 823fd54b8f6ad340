//! What the API server's refusals mean.

use crate::words::printable;
use kube::core::Status;
use std::error::Error as StdError;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind};

const CHECK_SERVER: &str =
    "check that the API server runs, and that the address in the kubeconfig can be reached from here";

/// Classes an error by its type: the HTTP status and the words that Kubernetes gives it
/// ([API conventions](https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#http-status-codes)).
/// `doing` says what was tried (`apply the service shop-1a2b3c4d-rw`).
pub(super) fn fault(doing: &str, cause: kube::Error) -> Error {
    let error = match &cause {
        kube::Error::Api(status) => refused(doing, status),
        kube::Error::Auth(_) => unauthenticated(doing),
        _ => lost(doing, &cause),
    };
    let error = error.context(format!("could not {doing}"));
    match cause {
        kube::Error::Api(status) => error.context(format!("{} {}", status.code, status.reason)),
        // In the words of a parser, which may be those of a secret.
        kube::Error::SerdeError(_) => error.context("the answer can't be read"),
        cause => error.source(cause),
    }
}

/// How much of what the API server says is passed on.
const SAID_CHARACTERS: usize = 400;

/// The API server did not answer in time.
fn timeout(doing: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        Reason::PlatformUnavailable.as_str(),
        format!("could not {doing}: the Kubernetes API server takes too long to answer"),
    )
    .hint(CHECK_SERVER)
}

fn refused(doing: &str, status: &Status) -> Error {
    let said = said(status);
    let new = |kind, code: &'static str, message: String| Error::new(kind, code, message);
    match status.code {
        401 => unauthenticated(doing),
        403 if has_cause(status, "NamespaceTerminating") => new(
            ErrorKind::Unavailable,
            Reason::NamespaceTerminating.as_str(),
            format!("could not {doing}: its namespace is being deleted"),
        ),
        // Kubernetes has no other word for it.
        403 if status.message.contains("exceeded quota") => new(
            ErrorKind::Throttled,
            Reason::Quota.as_str(),
            format!("could not {doing}: {said}"),
        )
        .hint("raise the namespace's resource quota, or ask for less"),
        403 => new(
            ErrorKind::Config,
            Reason::PermissionDenied.as_str(),
            format!("could not {doing}: {said}"),
        )
        .hint("docs/kubernetes.md lists the permissions that toygres needs"),
        404 if is_about_namespace(status) => new(
            ErrorKind::Unavailable,
            Reason::NamespaceMissing.as_str(),
            format!("could not {doing}: {said}"),
        )
        .hint("create the namespace"),
        // Another 404 is not the API server's word, but that of something on the way to it.
        404 if status.reason == "NotFound" => new(
            ErrorKind::NotFound,
            Reason::Stopped.as_str(),
            format!("could not {doing}: {said}"),
        ),
        400 | 405 | 406 | 413 | 415 | 422 => new(
            ErrorKind::Config,
            "platform_refused",
            format!("could not {doing}: {said}"),
        ),
        429 => new(
            ErrorKind::Throttled,
            Reason::PlatformUnavailable.as_str(),
            format!("could not {doing}: the Kubernetes API server has too much to do"),
        ),
        // 409: another has changed it in between. 410: what was asked for is too old. 5xx: its own trouble.
        code => new(
            ErrorKind::Unavailable,
            Reason::PlatformUnavailable.as_str(),
            format!(
                "could not {doing}: the Kubernetes API server answered with {code} {}",
                printable(&status.reason, SAID_CHARACTERS)
            ),
        ),
    }
}

/// What the API server says: its refusals of a field may hold pages, with control characters.
fn said(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<String> = causes
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    let whole = if causes.is_empty() {
        status.message.clone()
    } else {
        causes.join("; ")
    };
    printable(&whole, SAID_CHARACTERS)
}

fn has_cause(status: &Status, reason: &str) -> bool {
    let details = status.details.as_ref();
    details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == reason))
}

fn is_about_namespace(status: &Status) -> bool {
    let details = status.details.as_ref();
    details.is_some_and(|details| details.kind == "namespaces")
}

fn unauthenticated(doing: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "platform_unauthenticated",
        format!("could not {doing}: the Kubernetes API server does not accept toygres's credentials"),
    )
    .hint("check the kubeconfig, or the service account of toygres's pods")
}

fn lost(doing: &str, cause: &kube::Error) -> Error {
    if chain(cause).any(|cause| cause.is::<tokio_rustls::rustls::Error>()) {
        return Error::new(
            ErrorKind::Unavailable,
            "platform_certificate",
            format!("could not {doing}: the certificate of the Kubernetes API server is not to be trusted"),
        )
        .hint("check the certificate authority in the kubeconfig");
    }
    let io = chain(cause).find_map(|cause| cause.downcast_ref::<std::io::Error>());
    if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
        return timeout(doing);
    }
    Error::new(
        ErrorKind::Unavailable,
        Reason::PlatformUnavailable.as_str(),
        format!("could not {doing}: the Kubernetes API server can't be reached"),
    )
    .hint(CHECK_SERVER)
}

fn chain<'a>(cause: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(cause), |cause| inner(*cause))
}

/// The next error down; an `io::Error` hides the one that it was made from.
fn inner<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
    {
        Some(hidden) => Some(hidden),
        None => cause.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::assert_printable;
    use kube::core::response::StatusDetails;
    use proptest::prelude::*;
    use serde_json::json;

    fn status(code: u16, message: &str, details: StatusDetails) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            code,
            message: message.to_owned(),
            details: Some(details),
            ..Status::default()
        }))
    }

    fn class(code: u16, message: &str, details: StatusDetails) -> (ErrorKind, String) {
        let error = fault("apply the service shop-rw", status(code, message, details));
        assert!(error.message().contains("apply the service shop-rw"), "{error}");
        (error.kind(), error.code().to_owned())
    }

    #[test]
    fn each_refusal_has_its_class() {
        use ErrorKind as K;
        let details = |json| -> StatusDetails { serde_json::from_value(json).unwrap() };
        let cause = |reason: &str| details(json!({"causes": [{"reason": reason}]}));
        let about = |kind: &str| details(json!({"kind": kind}));
        let none = || details(json!({}));
        for (code, message, details, kind, word) in [
            (401, "", none(), K::Unavailable, "platform_unauthenticated"),
            (403, "x is forbidden", none(), K::Config, "permission_denied"),
            (403, "exceeded quota: small", none(), K::Throttled, "quota"),
            (
                403,
                "",
                cause("NamespaceTerminating"),
                K::Unavailable,
                "namespace_terminating",
            ),
            (404, "", about("namespaces"), K::Unavailable, "namespace_missing"),
            (404, "<html>", none(), K::Unavailable, "platform_unavailable"),
            (409, "", none(), K::Unavailable, "platform_unavailable"),
            (410, "", none(), K::Unavailable, "platform_unavailable"),
            (422, "", none(), K::Config, "platform_refused"),
            (429, "", none(), K::Throttled, "platform_unavailable"),
            (500, "", none(), K::Unavailable, "platform_unavailable"),
            (503, "", none(), K::Unavailable, "platform_unavailable"),
            (504, "", none(), K::Unavailable, "platform_unavailable"),
        ] {
            assert_eq!(
                class(code, message, details),
                (kind, word.to_owned()),
                "{code} {message}"
            );
        }
    }

    #[test]
    fn only_the_api_server_says_that_something_is_not_there() {
        let status = |reason: &str| {
            let status = Status::failure("pods \"shop-0\" not found", reason).with_code(404);
            fault("read the pod", kube::Error::Api(status.boxed())).kind()
        };
        assert_eq!(status("NotFound"), ErrorKind::NotFound);
        assert_eq!(status("Failed to parse error data"), ErrorKind::Unavailable);
    }

    #[test]
    fn what_is_lost_on_the_way_has_its_class() {
        let of = |cause: Box<dyn StdError + Send + Sync>| {
            let error = fault("list pods", kube::Error::Service(cause));
            (error.kind(), error.code().to_owned())
        };
        let io = |kind| Box::new(std::io::Error::from(kind));
        let tls = std::io::Error::other(tokio_rustls::rustls::Error::General("no".to_owned()));
        let unavailable = |code: &str| (ErrorKind::Unavailable, code.to_owned());
        assert_eq!(of(Box::new(tls)), unavailable("platform_certificate"));
        assert_eq!(
            of(io(std::io::ErrorKind::ConnectionRefused)),
            unavailable("platform_unavailable")
        );
        assert_eq!(of(io(std::io::ErrorKind::TimedOut)).0, ErrorKind::Timeout);
    }

    /// Whatever an API server, or what is on the way to it, refuses with: it has a class, and can be shown.
    fn is_classed(status: Status) {
        let (code, reason) = (status.code, status.reason.clone());
        let error = fault("read the pod", kube::Error::Api(Box::new(status)));
        assert_printable(error.message(), 600);
        assert!(error.message().contains("could not read the pod"), "{error}");
        // What is not there may be made anew: only the API server itself may say so.
        assert!(error.kind() != ErrorKind::NotFound || (code, reason.as_str()) == (404, "NotFound"));
        if code >= 500 || code == 429 {
            assert!(error.retryable(), "{error}");
        }
    }

    fn refusal(code: u16, reason: &str, message: &str, kind: &str, causes: &[&str]) -> Status {
        let causes: Vec<_> = causes
            .iter()
            .map(|said| json!({ "field": said, "message": said }))
            .collect();
        let details = json!({ "kind": kind, "causes": causes });
        let status = json!({ "code": code, "reason": reason, "message": message, "details": details });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn fuzz_refusal() {
        bolero::check!().for_each(|bytes: &[u8]| {
            // Its code, and its other parts one a line.
            let (code, rest) = bytes.split_first_chunk().unwrap_or((&[0, 0], bytes));
            let text = String::from_utf8_lossy(rest);
            let mut lines = text.split('\n');
            let [reason, message, kind] = std::array::from_fn(|_| lines.next().unwrap_or_default());
            let causes: Vec<&str> = lines.collect();
            is_classed(refusal(u16::from_be_bytes(*code), reason, message, kind, &causes));
        });
    }

    proptest! {
        #[test]
        fn whatever_an_api_server_refuses_with_has_a_class(
            code in prop_oneof![400..431_u16, 500..505_u16, any::<u16>()],
            reason in "(NotFound|Conflict|.{0,9}|\\PC{0,500})", message in r"(exceeded quota)?(.|[\x00-\x1f]){0,9}",
            causes in proptest::collection::vec("\\PC{0,200}", 0..4), kind in "(pods|namespaces|.{0,3})",
        ) {
            let causes: Vec<&str> = causes.iter().map(String::as_str).collect();
            is_classed(refusal(code, &reason, &message, &kind, &causes));
        }
    }
}
