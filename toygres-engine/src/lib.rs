//! The plumbing round duroxide, the durable-orchestration engine.
//!
//! - [`Activity`] and [`Orchestration`] are typed, with one registration each ([`Activities`], [`Orchestrations`]).
//! - [`call`], [`call_with`] and [`run_child`] are how orchestrations do things, with named retry policies.
//! - [`Engine`] connects, starts and stops; [`EngineClient`] is what everybody else uses, and what operators see by.
//! - [`store`] makes duroxide's PostgreSQL store quick on an idle system and safe on a failing database.
//!
//! Orchestration code is replayed: it may use nothing but its [`Context`].

mod activity;
mod actor;
mod backlog;
mod call;
mod category;
mod child;
mod client;
mod engine;
mod envelope;
mod error;
mod failure;
mod inspect;
mod orchestration;
mod place;
mod prune;
mod slots;
mod sql;
pub mod store;

pub use activity::{Activities, Activity, ActivityContext, Interceptor, Work};
pub use actor::{actor_id, parse_actor_id};
pub use call::{RetryPolicy, call, call_with};
pub use child::{CHILD_CHECK_PERIOD, run_child, run_child_checking};
pub use client::{EngineClient, EngineStatus};
pub use engine::{Engine, EngineConfig, Running};
pub use envelope::MAX_PAYLOAD_BYTES;
pub use failure::{Failure, FailureClass};
pub use inspect::OrchestrationFilter;
pub use orchestration::{Context, Orchestration, Orchestrations, Turn, Woken};
pub use prune::{PrunePolicy, Pruned};
