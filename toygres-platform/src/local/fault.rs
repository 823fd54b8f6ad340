//! How failures of this platform are told: the error's code is always the word of a [`Reason`].

use std::io;
use std::path::Path;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind};

/// An error for a named reason; the reason decides its kind.
pub(crate) fn fault(reason: Reason, message: impl Into<String>) -> Error {
    let kind = match reason {
        Reason::BinariesMissing | Reason::VersionUnavailable | Reason::PermissionDenied => ErrorKind::Config,
        Reason::StorageMissing | Reason::StorageForeign => ErrorKind::StorageLost,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, reason.as_str(), message)
}

/// An error for a failed call to the operating system; `doing` is what was tried, as in "can't `doing` `path`".
pub(crate) fn io_fault(error: io::Error, doing: &str, path: &Path) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Reason::PermissionDenied,
        _ => Reason::PlatformUnavailable,
    };
    fault(reason, format!("can't {doing} {}: {error}", path.display())).source(error)
}

/// The reason that an error's code names; for others, that the platform does not work as it should.
pub(crate) fn reason_of(error: &Error) -> Reason {
    error.code().parse().unwrap_or(Reason::PlatformUnavailable)
}
