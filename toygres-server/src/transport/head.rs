//! A time limit for a request's head that starts with its first byte.
//!
//! hyper knows one limit, from the end of the request before, so a slow head could take as long as a connection may be
//! idle. It takes its clock from outside, though: this one shortens the limit as soon as something arrives.

use hyper::rt::{Sleep, Timer};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::InspectReader;

/// The clock of one connection, which hyper asks only while it waits for a head.
pub(super) struct HeadTimer {
    head: Duration,
    arrived: Arc<AtomicBool>,
}

impl HeadTimer {
    /// The clock, and the stream that tells it when something arrives.
    pub(super) fn watch<S: AsyncRead + AsyncWrite + Unpin>(
        stream: S,
        head: Duration,
    ) -> (Self, impl AsyncRead + AsyncWrite + Unpin) {
        let arrived = Arc::new(AtomicBool::new(false));
        let timer = Self {
            head,
            arrived: arrived.clone(),
        };
        let stream = InspectReader::new(stream, move |_: &[u8]| arrived.store(true, Ordering::Relaxed));
        (timer, stream)
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        // What came until now belonged to the request before.
        self.arrived.store(false, Ordering::Relaxed);
        Box::pin(HeadSleep {
            sleep: Box::pin(tokio::time::sleep_until(deadline.into())),
            head: Some(self.head),
            arrived: self.arrived.clone(),
        })
    }
}

/// Ends when the connection has been idle for too long, or its head takes too long.
struct HeadSleep {
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// None once it runs.
    head: Option<Duration>,
    arrived: Arc<AtomicBool>,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.arrived.load(Ordering::Relaxed)
            && let Some(head) = self.head.take()
        {
            self.sleep.as_mut().reset(tokio::time::Instant::now() + head);
        }
        self.sleep.as_mut().poll(cx)
    }
}
