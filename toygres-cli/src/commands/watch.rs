//! Showing things again and again, until Ctrl-C.

use crate::args::Watch;
use crate::failure::{Exit, Failure, Result};
use crate::printer::note;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether anybody reads.
const READER_PAUSE: Duration = Duration::from_millis(500);

/// Shows what `fetch` gives: once, or again and again.
pub(super) async fn watch<T>(
    args: &Watch,
    fetch: impl AsyncFn() -> Result<T>,
    mut show: impl FnMut(&T) -> Result<()>,
) -> Result<()> {
    show(&fetch().await?)?;
    if !args.watch {
        return Ok(());
    }
    let again = async {
        loop {
            tokio::time::sleep(args.interval).await;
            match fetch().await {
                Ok(now) => show(&now)?,
                Err(failure) if failure.passing => note(&format!("{}; asking again", failure.message)),
                Err(failure) => return Err(failure),
            }
        }
    };
    until_interrupted(again).await
}

/// Reads streams, one after the other: a server may end one at any time. `read` reads one to its end; what it could not
/// open because the server is away is tried again.
pub(super) async fn streams(mut read: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let again = async {
        let mut pause = FIRST_PAUSE;
        let mut was_there = false;
        loop {
            match read().await {
                Ok(()) => {
                    was_there = true;
                    pause = FIRST_PAUSE;
                }
                Err(failure) if failure.passing && was_there => {
                    if pause == FIRST_PAUSE {
                        note(&format!("{}; asking again", failure.message));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(pause).await;
        }
    };
    until_interrupted(again).await
}

/// Does the work, until Ctrl-C: that is how people end what has no end, and nothing to talk about.
async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::quiet(Exit::Interrupted)),
        () = reader_gone() => Err(Failure::quiet(Exit::BrokenPipe)),
    }
}

/// Returns when nobody reads standard output any more, which a write would tell only when there is something to write:
/// `toygres logs shop -f | head -1`.
async fn reader_gone() {
    let stdout = std::io::stdout();
    loop {
        tokio::time::sleep(READER_PAUSE).await;
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        if poll(&mut watched, Some(&Timespec::default()))
            .is_ok_and(|_| watched[0].revents().contains(PollFlags::ERR))
        {
            return;
        }
    }
}
