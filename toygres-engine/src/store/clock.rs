//! Whether this machine's clock may be used for locks and timers: the store compares them with the caller's clock, so
//! that one that is ahead takes others' locks away, and one that is behind holds none.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Away from the database's clock by more than this, a process takes no work.
const MOST_MS: i64 = 2000;

/// What is known of the clock. Nothing said against it, it is trusted.
#[derive(Default)]
pub(super) struct Clock(Mutex<Option<Seen>>);

/// How far it was from the database's when that was last measured.
struct Seen {
    at: Instant,
    wall: SystemTime,
    ahead_ms: i64,
}

impl Clock {
    /// It was found to be so far ahead of the database's.
    pub(super) fn seen(&self, ahead_ms: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen {
            at: Instant::now(),
            wall: SystemTime::now(),
            ahead_ms,
        });
    }

    /// Whether locks and timers may go by it. Also knows when it was set since it was measured.
    pub(super) fn fits(&self) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref()
            .is_none_or(|seen| seen.ahead_now(Instant::now(), SystemTime::now()).abs() <= MOST_MS)
    }
}

impl Seen {
    fn ahead_now(&self, now: Instant, wall: SystemTime) -> i64 {
        let milliseconds = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let by_wall = match wall.duration_since(self.wall) {
            Ok(later) => milliseconds(later),
            Err(earlier) => -milliseconds(earlier.duration()),
        };
        let set_by = by_wall.saturating_sub(milliseconds(now.saturating_duration_since(self.at)));
        self.ahead_ms.saturating_add(set_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_before_it_is_measured() {
        let (at, wall) = (Instant::now(), SystemTime::now());
        let seen = Seen {
            at,
            wall,
            ahead_ms: 100,
        };
        let second = Duration::from_secs(1);
        assert_eq!(seen.ahead_now(at + second, wall + second), 100);
        assert_eq!(seen.ahead_now(at + second, wall + 4 * second), 3100);
        assert_eq!(seen.ahead_now(at + second, wall - 2 * second), -2900);
    }

    #[test]
    fn it_is_trusted_up_to_two_seconds() {
        let clock = Clock::default();
        assert!(clock.fits());
        for (ahead_ms, fits) in [
            (1900, true),
            (-1900, true),
            (3000, false),
            (-3_600_000, false),
            (0, true),
        ] {
            clock.seen(ahead_ms);
            assert_eq!(clock.fits(), fits, "{ahead_ms} ms ahead");
        }
    }
}
