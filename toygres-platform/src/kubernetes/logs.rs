//! The server's own log: what its pod has said.

use super::KubernetesPlatform;
use super::access::call;
use super::fault::fault;
use super::manifests::pod_name;
use crate::{InstanceRef, LogOptions};
use async_stream::try_stream;
use futures_util::stream::BoxStream;
use futures_util::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::LogParams;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use toygres_models::{ErrorKind, Result};

/// How long after its container has ended or has not begun a log is asked for again, if nothing tells sooner.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// What a tenant's server says may be without end. Of a line so many bytes are given, and of the last lines so many.
const LINE_LIMIT: u64 = 64 * 1024;
const TAIL_LIMIT: usize = 4 * 1024 * 1024;

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
        let read = async {
            let log = pods.log_stream(&name, &parameters).await?;
            let broken = |cause| kube::Error::Service(Box::new(cause));
            last_of(log, TAIL_LIMIT).await.map_err(broken)
        };
        match call(&format!("read the log of the pod {name}"), read).await {
            Ok(lines) => Ok(lines.into()),
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
                    Ok(mut log) => {
                        while let Ok(Some(line)) = next_line(&mut log, LINE_LIMIT).await {
                            if let Some(text) = new_text(&line, &mut last) {
                                yield text.to_owned();
                            }
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

/// The next line without its end. It is whatever a tenant has his server write: what is no UTF-8 is replaced, and what
/// is beyond `limit` bytes is left out.
async fn next_line(log: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if (&mut *log).take(limit).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    let mut is_whole = line.ends_with(b"\n");
    let mut beyond = Vec::new();
    while !is_whole {
        beyond.clear();
        let read = (&mut *log).take(limit).read_until(b'\n', &mut beyond).await?;
        is_whole = read == 0 || beyond.ends_with(b"\n");
    }
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some(String::from_utf8_lossy(line).into_owned()))
}

/// The lines to the end, of more than `limit` bytes the last ones.
async fn last_of(mut log: impl AsyncBufRead + Unpin, limit: usize) -> io::Result<VecDeque<String>> {
    let (mut lines, mut bytes) = (VecDeque::new(), 0);
    while let Some(line) = next_line(&mut log, LINE_LIMIT).await? {
        bytes += line.len();
        lines.push_back(line);
        while bytes > limit {
            bytes -= lines.pop_front().map_or(bytes, |first| first.len());
        }
    }
    Ok(lines)
}

/// What stands behind the time of a line, if it is newer than the last one.
fn new_text<'a>(line: &'a str, last: &mut Option<Timestamp>) -> Option<&'a str> {
    let (time, text) = line.split_once(' ').unwrap_or((line, ""));
    // Else it is something that the node says instead of the container.
    let time = time.parse().ok()?;
    if last.is_some_and(|last| time <= last) {
        return None;
    }
    *last = Some(time);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// All lines, of each at most `limit` bytes.
    fn lines(mut log: &[u8], limit: u64) -> Vec<String> {
        let mut all = Vec::new();
        // What is in memory keeps nobody waiting.
        while let Some(line) = next_line(&mut log, limit).now_or_never().unwrap().unwrap() {
            all.push(line);
        }
        all
    }

    /// Every line is given once, as text, and no more of it than there may be.
    fn is_read(log: &[u8]) {
        let mut wanted: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
        wanted.pop_if(|rest| rest.is_empty());
        let all = lines(log, u64::MAX);
        assert_eq!(all.len(), wanted.len());
        for (line, wanted) in all.iter().zip(wanted) {
            let wanted = wanted.strip_suffix(b"\r").unwrap_or(wanted);
            assert_eq!(*line, String::from_utf8_lossy(wanted));
        }
        let cut = lines(log, 5);
        assert_eq!(cut.len(), all.len());
        assert!(cut.iter().all(|line| line.chars().count() <= 5));
        let last = last_of(log, 40).now_or_never().unwrap().unwrap();
        assert!(last.iter().map(String::len).sum::<usize>() <= 40);
        assert!(all.ends_with(&Vec::from(last)));

        let mut time = None;
        for line in &all {
            let before = time;
            if let Some(text) = new_text(line, &mut time) {
                assert!(line.ends_with(text) && time > before);
            }
        }
        assert!(all.iter().all(|line| new_text(line, &mut time).is_none()));
    }

    #[test]
    fn fuzz_log_of_a_pod() {
        bolero::check!().for_each(is_read);
    }

    #[test]
    fn a_tenant_can_not_end_a_log_by_what_his_server_writes() {
        assert_eq!(lines(b"a\xff\xfe\nb\r\nc", 9), ["a\u{fffd}\u{fffd}", "b", "c"]);
        assert_eq!(lines(b"far too long\nb\n", 3), ["far", "b"]);
        let last = last_of(b"1234\n567\n89\n".as_slice(), 5).now_or_never().unwrap();
        assert_eq!(last.unwrap(), ["567", "89"]);
    }

    proptest! {
        #[test]
        fn whatever_a_pod_writes_is_read_line_by_line(
            bytes: Vec<u8>, near in vec("(2030-01-0[1-9]T00:00:0[0-9]Z )?[a-zä]{0,9}\r?\n?", 0..9),
        ) {
            is_read(&bytes);
            is_read(near.concat().as_bytes());
        }
    }
}
