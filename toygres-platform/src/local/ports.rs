//! Loopback ports for instances.

use std::net::TcpListener;
use std::ops::RangeInclusive;
use toygres_models::InstanceId;

/// The only address that local servers listen on.
pub(crate) const HOST: &str = "127.0.0.1";

/// Whether nobody listens on this loopback port.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((HOST, port)).is_ok()
}

/// A port of the range that is not in `taken` and that nobody listens on. Where the search begins depends on the
/// instance, so that two homes on one machine seldom want the same one.
pub(crate) fn choose(range: &RangeInclusive<u16>, id: InstanceId, taken: &[u16]) -> Option<u16> {
    let count = u128::from(range.end().checked_sub(*range.start())?) + 1;
    let offset = u16::try_from(id.0.as_u128() % count).ok()?;
    let first = range.start() + offset;
    (first..=*range.end())
        .chain(*range.start()..first)
        .find(|port| !taken.contains(port) && is_free(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_range_is_found_and_no_other() {
        // Three ports that are free now: others may take one meanwhile, so they are held.
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind((HOST, 0)).unwrap()).collect();
        let held = listeners[0].local_addr().unwrap().port();
        assert_eq!(choose(&(held..=held), InstanceId::generate(), &[]), None);
        drop(listeners);
        assert_eq!(choose(&(held..=held), InstanceId::generate(), &[held]), None);
        assert_eq!(choose(&(held..=held), InstanceId::generate(), &[]), Some(held));
        #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
        let empty = 2..=1;
        assert_eq!(choose(&empty, InstanceId::generate(), &[]), None);
    }
}
