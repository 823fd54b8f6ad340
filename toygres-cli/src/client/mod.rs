//! The typed client of the API.

mod calls;
mod paths;
mod stream;
mod transport;

pub(crate) use eventsource_stream::Event;
pub(crate) use paths::segment;
use paths::with_query;
pub(crate) use stream::{Events, Lines};
pub(crate) use transport::{Client, is_loopback, parse_url};
