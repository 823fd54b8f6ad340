//! The durable workflows of toygres. They decide, and never do I/O: that is what activities are for.

pub mod create_instance;
pub mod delete_instance;
mod flow;
pub mod instance_actor;

pub use create_instance::CreateInstance;
pub use delete_instance::DeleteInstance;
pub use instance_actor::InstanceActor;
pub use toygres_engine::{actor_id, parse_actor_id};

use toygres_engine::Orchestrations;
use toygres_models::orchestrations::Flow;

/// The crate's name in the engine's registry, before `::orchestration::` and the orchestration's own name.
pub const CRATE: &str = "toygres-orchestrations";

macro_rules! registry {
    ($($orchestration:ident),+ $(,)?) => {
        /// Every orchestration, in every version that may still be running.
        #[must_use]
        pub fn registry() -> Orchestrations {
            Orchestrations::new(CRATE)$(.register::<$orchestration>())+
        }

        /// How each of them goes, drawn from the steps that its code goes by.
        #[must_use]
        pub fn flows() -> Vec<Flow> {
            vec![$(flow::flow::<$orchestration>()),+]
        }
    };
}

registry! {
    CreateInstance,
    DeleteInstance,
    InstanceActor,
}
