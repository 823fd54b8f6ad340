//! The words of toygres: parsed names, wire types, states and the one error type.
//!
//! Nothing here does I/O. Every other crate may depend on this one; this one depends on none of them.

pub mod audit;
pub mod connection;
pub mod drift;
pub mod error;
pub mod events;
pub mod health;
pub mod ids;
pub mod instances;
pub mod intent;
pub mod names;
pub mod operations;
pub mod orchestrations;
pub mod problem;
#[cfg(test)]
mod properties;
pub mod quotas;
pub mod secret;
pub mod server;
pub mod tokens;
mod words;

pub use error::{Error, ErrorKind, Result};
pub use ids::{InstanceId, OperationId, TokenId};
pub use intent::{Intent, Scope};
pub use names::{InstanceName, OwnerName, PostgresVersion};
pub use secret::Secret;
