//! Waiting for a condition instead of sleeping.

use std::time::{Duration, Instant};

/// Asks again and again, until the answer is `Some` or the time is over.
///
/// # Panics
/// When the time is over; says what was waited for.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begin.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
