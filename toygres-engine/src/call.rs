//! How orchestrations call activities.

use crate::activity::{self, Activity};
use crate::envelope::{self, Envelope};
use crate::failure::Failure;
use crate::orchestration::Context;
use std::time::Duration;

/// How often to try, and how long to pause between. Whatever the policy, a failure that is not retryable ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    tries: u32,
    first_pause: Duration,
    longest_pause: Duration,
}

impl RetryPolicy {
    /// One try.
    #[must_use]
    pub const fn once() -> Self {
        Self {
            tries: 1,
            first_pause: Duration::ZERO,
            longest_pause: Duration::ZERO,
        }
    }

    /// Five tries with doubling pauses, 7.5 s of them in all: rides out a hiccup.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(5),
        }
    }

    /// Rides out ten minutes in which the database or the platform does not answer.
    #[must_use]
    pub const fn patient() -> Self {
        Self {
            tries: 45,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(15),
        }
    }

    /// The same with other pauses, for tests.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_pauses(self, first_pause: Duration, longest_pause: Duration) -> Self {
        Self {
            first_pause,
            longest_pause,
            ..self
        }
    }

    /// The pause after this try, if there is another.
    fn pause_after(self, attempt: u32) -> Option<Duration> {
        if attempt >= self.tries {
            return None;
        }
        let factor = 1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
        Some(self.first_pause.saturating_mul(factor).min(self.longest_pause))
    }
}

/// Calls an activity by the [standard](RetryPolicy::standard) policy.
///
/// # Errors
/// The last try's failure.
pub async fn call<A: Activity>(cx: &Context, input: A::Input) -> Result<A::Output, Failure> {
    call_with::<A>(cx, RetryPolicy::standard(), input).await
}

/// Calls an activity.
///
/// # Errors
/// The last try's failure, with the number of tries.
pub async fn call_with<A: Activity>(
    cx: &Context,
    policy: RetryPolicy,
    input: A::Input,
) -> Result<A::Output, Failure> {
    let name = activity::engine_name::<A>();
    let mut attempt = 1;
    loop {
        let pause = policy.pause_after(attempt);
        let envelope = envelope::encode(&Envelope {
            attempt,
            more: pause.is_some(),
            ..Envelope::new(cx.traceparent.as_deref(), &input)
        })?;
        let result = cx.inner.schedule_activity(name.as_str(), envelope).await;
        let failure = match result {
            Ok(output) => return envelope::decode(&output),
            Err(text) => Failure {
                attempts: attempt,
                ..Failure::decode(&text)
            },
        };
        match pause {
            Some(pause) if failure.retryable => cx.timer(pause).await,
            _ => return Err(failure),
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(policy: RetryPolicy) -> Duration {
        (1..).map_while(|attempt| policy.pause_after(attempt)).sum()
    }

    #[test]
    fn the_policies_wait_as_long_as_they_say() {
        assert_eq!(total(RetryPolicy::once()), Duration::ZERO);
        assert_eq!(total(RetryPolicy::standard()), Duration::from_millis(7_500));
        assert!(total(RetryPolicy::patient()) >= Duration::from_secs(590));
    }
}
