//! The ids of actors: they say which instance they are about.

use toygres_models::InstanceId;

const ACTOR: &str = "actor-";
const UUID_LENGTH: usize = 36;

/// The id of an instance's actor: the same for everybody who starts it, so that it is started once.
#[must_use]
pub fn actor_id(instance_id: InstanceId, incarnation: i64) -> String {
    format!("{}{incarnation}", actor_prefix(instance_id))
}

/// What the ids of all incarnations of an instance's actor begin with.
pub(crate) fn actor_prefix(instance_id: InstanceId) -> String {
    format!("{ACTOR}{instance_id}-")
}

/// The instance and incarnation of an actor's id; none of what [`actor_id`] does not make.
#[must_use]
pub fn parse_actor_id(id: &str) -> Option<(InstanceId, i64)> {
    let (instance_id, incarnation) = id.strip_prefix(ACTOR)?.split_at_checked(UUID_LENGTH)?;
    let instance_id = instance_id.parse().ok()?;
    let incarnation = incarnation.strip_prefix('-')?.parse().ok()?;
    (actor_id(instance_id, incarnation) == id).then_some((instance_id, incarnation))
}

/// The instance that an actor's id is about.
pub(crate) fn instance_of(id: &str) -> Option<InstanceId> {
    parse_actor_id(id).map(|(instance_id, _)| instance_id)
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
        for bad in ["", "actor-", "actor-x-1", "actor-é"] {
            assert_eq!(parse_actor_id(bad), None, "{bad}");
        }
    }

    fn is_an_actors_or_not(text: &str) {
        if let Some((instance_id, incarnation)) = parse_actor_id(text) {
            assert_eq!(actor_id(instance_id, incarnation), text);
        }
    }

    #[test]
    fn fuzz_actor_id() {
        bolero::check!().for_each(|bytes: &[u8]| is_an_actors_or_not(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn an_id_is_an_actors_or_not(
            any in ".*", near in "actor-[0-9a-fA-Fé]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{11,12}(-[+-]?0?[0-9]{0,20}){0,2}",
            incarnation: i64,
        ) {
            for text in [any, near] {
                is_an_actors_or_not(&text);
            }
            let instance_id = InstanceId::generate();
            let id = actor_id(instance_id, incarnation);
            proptest::prop_assert!(id.starts_with(&actor_prefix(instance_id)));
            proptest::prop_assert_eq!(parse_actor_id(&id), Some((instance_id, incarnation)));
        }
    }
}
