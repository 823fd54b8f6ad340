//! The volume claim: the data.

use super::Wanted;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// An object of its own, without an owner: nothing deletes data by cascade.
pub(in super::super) fn claim(wanted: &Wanted<'_>) -> PersistentVolumeClaim {
    let size = Quantity(format!("{}Gi", wanted.spec.storage_size_gb));
    PersistentVolumeClaim {
        metadata: wanted.metadata(wanted.object_name()),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: wanted.config.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
