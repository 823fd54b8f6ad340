//! How long the machine stood still while something was measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked, and how late a look may come on a machine that is merely busy.
const LOOK: Duration = Duration::from_millis(50);
const BUSY: Duration = Duration::from_secs(1);

/// Counts from its making on how long the machine stood still, which virtual machines do for many seconds at times. What
/// is measured meanwhile took that much longer through no fault of the server.
pub struct Stalls(Arc<AtomicU64>);

impl Stalls {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        let this = Self(Arc::default());
        let milliseconds = Arc::downgrade(&this.0);
        // Not a task: what the test itself has to do must not look like it.
        std::thread::spawn(move || {
            loop {
                let begun = Instant::now();
                std::thread::sleep(LOOK);
                let late = begun.elapsed().saturating_sub(LOOK);
                let Some(milliseconds) = milliseconds.upgrade() else {
                    break;
                };
                if late > BUSY {
                    let late = u64::try_from(late.as_millis()).unwrap();
                    milliseconds.fetch_add(late, Ordering::SeqCst);
                }
            }
        });
        this
    }

    /// How long so far.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}
