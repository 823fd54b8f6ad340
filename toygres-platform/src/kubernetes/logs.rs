//! The server's own log: what its pod has said.

use super::KubernetesPlatform;
use super::access::call;
use super::fault::fault;
use super::manifests::pod_name;
use crate::{InstanceRef, LogOptions};
use async_stream::try_stream;
use futures_util::stream::BoxStream;
use futures_util::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::LogParams;
use std::time::Duration;
use toygres_models::{ErrorKind, Result};

/// How long after its container has ended or has not begun a log is asked for again, if nothing tells sooner.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl KubernetesPlatform {
    pub(super) async fn last_lines(
        &self,
        namespace: &str,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<Vec<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = LogParams {
            tail_lines: i64::try_from(options.tail).ok(),
            ..LogParams::default()
        };
        let name = pod_name(&instance.object_name());
        match call(
            &format!("read the log of the pod {name}"),
            pods.logs(&name, &parameters),
        )
        .await
        {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            // There is no pod, or its container has not begun.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Config) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn follow_lines(
        &self,
        namespace: String,
        instance: InstanceRef,
        options: LogOptions,
    ) -> BoxStream<'static, Result<String>> {
        let pods: Api<Pod> = Api::namespaced(self.streams.clone(), &namespace);
        let name = pod_name(&instance.object_name());
        let cache = self.cache.clone();
        try_stream! {
            // Each line comes with its time, so that after a break none is told twice and none left out.
            let mut last: Option<Timestamp> = None;
            loop {
                let parameters = LogParams {
                    follow: true,
                    timestamps: true,
                    tail_lines: if last.is_none() { i64::try_from(options.tail).ok() } else { None },
                    since_time: last,
                    ..LogParams::default()
                };
                let mut changes = cache.changes();
                match pods.log_stream(&name, &parameters).await {
                    Ok(stream) => {
                        let mut lines = stream.lines();
                        while let Some(Ok(line)) = lines.next().await {
                            let (time, text) = line.split_once(' ').unwrap_or((&line, ""));
                            match time.parse::<Timestamp>() {
                                Ok(time) if last.is_some_and(|last| time <= last) => continue,
                                Ok(time) => last = Some(time),
                                // Something that the node says instead of the container.
                                Err(_) => continue,
                            }
                            yield text.to_owned();
                        }
                    }
                    // There is no pod, or its container has not begun.
                    Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => {}
                    Err(cause) => {
                        let error = fault(&format!("follow the log of the pod {name}"), cause);
                        // It has nothing to say, of which a node does not even tell that it could.
                        if error.kind() != ErrorKind::Timeout {
                            Err(error)?;
                        }
                    }
                }
                if cache.look(&namespace, &instance).objects().is_empty() {
                    return;
                }
                tokio::time::timeout(ASK_AGAIN, changes.changed()).await.ok();
            }
        }
        .boxed()
    }
}
