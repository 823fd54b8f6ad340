//! The toygres server: the API, the workers behind it, and everything they are put together from.

pub mod config;
mod embedded;
mod http;
mod lock;
mod runtime;
mod service;
mod sweeper;
pub mod transport;

pub use runtime::{Parts, run, run_with, serve};
