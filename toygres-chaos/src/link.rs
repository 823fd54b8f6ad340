//! The way between a server and its database, and what can happen on it.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How what is sent over a link gets on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Traffic {
    /// It arrives.
    Flows,
    /// It does not arrive, and nobody is told.
    Stands,
    /// An answer that is underway is lost with its connection, with this probability: what was asked for is done.
    LosesAnswers(f64),
}

/// A port of this machine that leads to another one.
pub struct Link {
    port: u16,
    traffic: watch::Sender<Traffic>,
    lost: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Link {
    /// To that port of this machine.
    pub async fn to(target: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (traffic, watched) = watch::channel(Traffic::Flows);
        let lost = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&lost);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((near, _)) = listener.accept().await else {
                    return;
                };
                let randomness = StdRng::seed_from_u64(seed.wrapping_add(number));
                connections.spawn(connect(
                    near,
                    target,
                    watched.clone(),
                    Arc::clone(&counter),
                    randomness,
                ));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            port,
            traffic,
            lost,
            task,
        }
    }

    /// Where it begins.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on traffic is like that.
    pub fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }

    /// How many answers were lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(
    near: TcpStream,
    target: u16,
    traffic: watch::Receiver<Traffic>,
    lost: Arc<AtomicUsize>,
    randomness: StdRng,
) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let asked = pass(near_in, far_out, traffic.clone(), None);
    let answered = pass(far_in, near_out, traffic, Some((lost, randomness)));
    // The end of one is the end of the other.
    tokio::select! {
        () = asked => {}
        () = answered => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut traffic: watch::Receiver<Traffic>,
    mut answers: Option<(Arc<AtomicUsize>, StdRng)>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if traffic
            .wait_for(|traffic| *traffic != Traffic::Stands)
            .await
            .is_err()
        {
            return;
        }
        let now = *traffic.borrow();
        if let (Traffic::LosesAnswers(probability), Some((lost, randomness))) = (now, &mut answers)
            && randomness.random_bool(probability)
        {
            lost.fetch_add(1, Ordering::SeqCst);
            // The server's end stays for a moment, so that what was asked for is not broken off.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
