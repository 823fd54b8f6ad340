//! Trying again.

use super::calls::Call;
use super::verdict::{NO_ANSWER, Verdict, verdict};
use duroxide::providers::ProviderError;
use std::time::Duration;
use tokio::time::Instant;

/// Tries of something that fails in a way nobody knows (about 15 s).
const TRIES_OF_UNKNOWN: u32 = 10;

/// A renewal has a deadline, so its pauses stay short.
const LONGEST_PAUSE_OF_RENEWAL: Duration = Duration::from_millis(400);

/// The pause after the n-th failure in a row, from 1: 0.1 s, doubling up to 3 s.
pub(super) fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (Duration::from_millis(100) * 2_u32.pow(doublings)).min(Duration::from_secs(3))
}

/// The answer to something that was tried until it was definite.
pub(super) struct Definite<T> {
    pub(super) result: Result<T, ProviderError>,
    /// Whether a try failed in a way that leaves open if it was done. Then "lost" may well mean "done before".
    pub(super) in_doubt: bool,
}

/// Tries until the store says yes or no. As long as the database does not answer, nothing else could be done either,
/// and giving up would make duroxide fail the orchestration for good.
pub(super) async fn until_definite<T, F>(call: Call, mut attempt: impl FnMut() -> F) -> Definite<T>
where
    F: Future<Output = Result<T, ProviderError>>,
{
    let mut failures = 0;
    let mut unknown = 0;
    loop {
        let in_doubt = failures > 0;
        let error = match attempt().await {
            Ok(value) => {
                return Definite {
                    result: Ok(value),
                    in_doubt,
                };
            }
            Err(error) => error,
        };
        match verdict(&error) {
            Verdict::Lost | Verdict::Permanent => {
                return Definite {
                    result: Err(error),
                    in_doubt,
                };
            }
            Verdict::Unknown => unknown += 1,
            Verdict::Transient => {}
        }
        if unknown >= TRIES_OF_UNKNOWN {
            return Definite {
                result: Err(error),
                in_doubt,
            };
        }
        failures += 1;
        warn(call.method, failures, &error);
        tokio::time::sleep(pause_after(failures)).await;
        call.is_tried_again();
    }
}

/// Tries up to three times: for callers who wait and can do something else instead.
pub(super) async fn some_times<T, F>(call: Call, mut attempt: impl FnMut() -> F) -> Definite<T>
where
    F: Future<Output = Result<T, ProviderError>>,
{
    let mut failures = 0;
    loop {
        let in_doubt = failures > 0;
        let error = match attempt().await {
            Ok(value) => {
                return Definite {
                    result: Ok(value),
                    in_doubt,
                };
            }
            Err(error) => error,
        };
        failures += 1;
        match verdict(&error) {
            Verdict::Transient if failures < 3 => warn(call.method, failures, &error),
            // duroxide computes 100 * 2^n over retryable errors; ours are never many in a row.
            Verdict::Transient => {
                return Definite {
                    result: Err(retryable(error)),
                    in_doubt,
                };
            }
            _ => {
                return Definite {
                    result: Err(error),
                    in_doubt,
                };
            }
        }
        tokio::time::sleep(pause_after(failures)).await;
        call.is_tried_again();
    }
}

/// Renews a lock. Only a definite "lost" is an error: duroxide takes every other one for that too, and deletes the
/// work without a result.
///
/// If the lock has run out meanwhile, another worker may take the work up. That is safe: the store refuses this
/// worker's result then, and activities are idempotent.
pub(super) async fn renewal<F>(
    call: Call,
    lease: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<(), ProviderError>
where
    F: Future<Output = Result<(), ProviderError>>,
{
    // duroxide renews at half the lease. So long are the tries of one renewal, and so long the lock is ours yet.
    let deadline = Instant::now() + lease * 9 / 20;
    let mut failures = 0;
    loop {
        let error = match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if verdict(&error) == Verdict::Lost => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => ProviderError::retryable(call.method, NO_ANSWER),
        };
        failures += 1;
        warn(call.method, failures, &error);
        let pause = pause_after(failures).min(LONGEST_PAUSE_OF_RENEWAL);
        if Instant::now() + pause >= deadline {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        call.is_tried_again();
    }
}

fn retryable(error: ProviderError) -> ProviderError {
    ProviderError {
        retryable: true,
        ..error
    }
}

/// Says it for the first failures and then ever more seldom.
pub(super) fn warn(operation: &str, failures: u32, error: &ProviderError) {
    if failures.is_power_of_two() {
        tracing::warn!(operation, failures, %error, "the orchestration store failed, trying again");
    }
}
