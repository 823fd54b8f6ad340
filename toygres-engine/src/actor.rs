//! The ids of actors: they say which instance they are about.

use toygres_models::InstanceId;

const ACTOR: &str = "actor-";

/// The id of an instance's actor: the same for everybody who starts it, so that it is started once.
#[must_use]
pub fn actor_id(instance_id: InstanceId, incarnation: i64) -> String {
    format!("{}{incarnation}", actor_prefix(instance_id))
}

/// What the ids of all incarnations of an instance's actor begin with.
pub(crate) fn actor_prefix(instance_id: InstanceId) -> String {
    format!("{ACTOR}{instance_id}-")
}

/// The instance that an actor's id is about.
pub(crate) fn instance_of(id: &str) -> Option<InstanceId> {
    let (instance_id, _incarnation) = id.strip_prefix(ACTOR)?.rsplit_once('-')?;
    instance_id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actors_id_says_which_instance_it_is_about() {
        let instance_id = InstanceId::generate();
        assert_eq!(instance_of(&actor_id(instance_id, 12)), Some(instance_id));
        assert_eq!(instance_of(&format!("actor-{instance_id}")), None);
        assert_eq!(instance_of(&format!("create-instance-{instance_id}-1")), None);
    }
}
