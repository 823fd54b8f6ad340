//! The durable workflows of toygres. They decide, and never do I/O: that is what activities are for.

pub mod create_instance;
pub mod delete_instance;
pub mod instance_actor;

pub use create_instance::CreateInstance;
pub use delete_instance::DeleteInstance;
pub use instance_actor::InstanceActor;

use toygres_engine::Orchestrations;
use toygres_models::InstanceId;

/// The crate's name in the engine's registry, before `::orchestration::` and the orchestration's own name.
pub const CRATE: &str = "toygres-orchestrations";

/// Every orchestration, in every version that may still be running.
#[must_use]
pub fn registry() -> Orchestrations {
    Orchestrations::new(CRATE)
        .register::<CreateInstance>()
        .register::<DeleteInstance>()
        .register::<InstanceActor>()
}

/// The engine's id of an instance's actor: the same for everybody who starts it, so that it is started once.
#[must_use]
pub fn actor_id(instance_id: InstanceId, incarnation: i64) -> String {
    format!("actor-{instance_id}-{incarnation}")
}
