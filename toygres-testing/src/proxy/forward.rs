//! One request: forwarded, or given its faults.

use super::rule::{After, Call, Fault, Verb};
use super::{Shared, Tasks};
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, UPGRADE};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use kube::client::Body;
use std::error::Error;
use std::sync::Arc;

type BoxError = Box<dyn Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Answers one request. An error resets the connection.
pub(super) async fn answer(
    shared: Arc<Shared>,
    tasks: Tasks,
    mut request: Request<Incoming>,
) -> Result<Answer, BoxError> {
    let upgrade = request
        .headers()
        .contains_key(UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let call = Call::new(&parts, &body);
    let faults = shared.faults(&parts, &call);
    let forward = forward(&shared, parts, body);
    for armed in faults {
        match armed.rule.fault {
            Fault::Latency(latency) => tokio::time::sleep(latency).await,
            Fault::Status { code, retry_after } => return Ok(refusal(&call, code, retry_after)),
            Fault::DoneButStatus(code) => {
                forward.await?.into_body().collect().await?;
                return Ok(refusal(&call, code, None));
            }
            Fault::DoneButReset => {
                forward.await?.into_body().collect().await?;
                return Err("the connection is reset in place of the answer".into());
            }
            Fault::DoneButHang => {
                forward.await?.into_body().collect().await?;
                return std::future::pending().await;
            }
            Fault::ResetMidBody { after_bytes } => {
                let (parts, body) = forward.await?.into_parts();
                let reset = async {
                    // Lets the connection write what is before the error, which would else be lost with it.
                    tokio::task::yield_now().await;
                    Err("the connection is reset within the answer".into())
                };
                let body = cut(body, After::Bytes(after_bytes)).chain(stream::once(reset));
                return Ok(Response::from_parts(parts, StreamBody::new(body).boxed_unsync()));
            }
            Fault::Hang => std::future::pending().await,
            Fault::ExpireWatch => {
                let event = serde_json::json!({ "type": "ERROR", "object": status(&call, 410, None) });
                return Ok(json(StatusCode::OK, format!("{event}\n").into()));
            }
            Fault::TruncateWatch(after) => {
                let (mut parts, body) = forward.await?.into_parts();
                parts.headers.remove(CONTENT_LENGTH);
                return Ok(Response::from_parts(
                    parts,
                    StreamBody::new(cut(body, after)).boxed_unsync(),
                ));
            }
            Fault::SilenceWatch(after) => {
                let (parts, body) = forward.await?.into_parts();
                let body = cut(body, after).chain(stream::pending());
                return Ok(Response::from_parts(parts, StreamBody::new(body).boxed_unsync()));
            }
            Fault::StaleList => {
                if let Some(kept) = armed.kept(&call) {
                    return Ok(json(StatusCode::OK, kept));
                }
                let (parts, body) = forward.await?.into_parts();
                let body = body.collect().await?.to_bytes();
                if parts.status == StatusCode::OK {
                    armed.keep(&call, body.clone());
                }
                return Ok(Response::from_parts(parts, full(body)));
            }
        }
    }
    let mut response = forward.await?;
    if let Some(downstream) = upgrade
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        let upstream = hyper::upgrade::on(&mut response);
        tasks.spawn(async move {
            if let Ok((up, down)) = tokio::try_join!(upstream, downstream) {
                let (mut up, mut down) = (TokioIo::new(up), TokioIo::new(down));
                // Either side may end it as it likes.
                tokio::io::copy_bidirectional(&mut up, &mut down).await.ok();
            }
        });
    }
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

/// Has the API server answer.
async fn forward(shared: &Shared, mut parts: Parts, body: Bytes) -> Result<Response<Body>, BoxError> {
    parts.headers.remove(HOST);
    let request = Request::from_parts(parts, Body::from(body));
    Ok(shared.upstream.send(request).await?)
}

type Chunk = Result<Frame<Bytes>, BoxError>;

/// The beginning of a body.
fn cut(body: Body, after: After) -> impl stream::Stream<Item = Chunk> {
    stream::unfold((body.into_data_stream(), after), async |(mut body, mut after)| {
        if after.is_over() {
            return None;
        }
        let chunk = body.next().await?.map_err(BoxError::from).map(|mut data| {
            data.truncate(after.allow(&data));
            Frame::data(data)
        });
        Some((chunk, (body, after)))
    })
}

fn full(body: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// An error as the API server would answer it.
fn refusal(call: &Call, code: u16, retry_after: Option<u64>) -> Answer {
    let body = serde_json::to_vec(&status(call, code, retry_after)).unwrap();
    let mut answer = json(StatusCode::from_u16(code).unwrap(), body.into());
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

fn status(call: &Call, code: u16, retry_after: Option<u64>) -> Status {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 if call.verb == Verb::Create => "AlreadyExists",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    };
    Status {
        code: Some(code.into()),
        details: Some(StatusDetails {
            kind: Some(call.resource.clone()),
            name: Some(call.name.clone()),
            retry_after_seconds: retry_after.and_then(|seconds| seconds.try_into().ok()),
            ..StatusDetails::default()
        }),
        message: Some(format!(
            "{} \"{}\": an injected fault: {code} {reason}",
            call.resource, call.name
        )),
        reason: Some(reason.to_owned()),
        status: Some("Failure".to_owned()),
        ..Status::default()
    }
}
