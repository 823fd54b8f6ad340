//! What is configured about instances on Kubernetes.

use super::{Variables, number, wrong};
use std::collections::BTreeMap;
use std::str::FromStr;
use toygres_models::instances::is_cpu_quantity;
use toygres_models::{PostgresVersion, Result};
use toygres_platform::kubernetes::{Address, KubernetesConfig, Source, is_label};

pub(super) fn read(variable: &Variables) -> Result<KubernetesConfig> {
    let default = KubernetesConfig::default();
    let mut config = KubernetesConfig {
        context: variable("TOYGRES_KUBERNETES_CONTEXT"),
        namespace: label(variable, "TOYGRES_KUBERNETES_NAMESPACE")?,
        control_plane_namespace: label(variable, "TOYGRES_KUBERNETES_CONTROL_PLANE_NAMESPACE")?,
        image_pull_secret: variable("TOYGRES_KUBERNETES_IMAGE_PULL_SECRET"),
        storage_class: variable("TOYGRES_KUBERNETES_STORAGE_CLASS"),
        service_annotations: pairs(variable, "TOYGRES_KUBERNETES_SERVICE_ANNOTATIONS")?,
        node_selector: pairs(variable, "TOYGRES_KUBERNETES_NODE_SELECTOR")?,
        ..default
    };
    for namespace in list(variable, "TOYGRES_KUBERNETES_ALLOWED_NAMESPACES") {
        if !is_label(&namespace) {
            return Err(wrong(
                "TOYGRES_KUBERNETES_ALLOWED_NAMESPACES",
                "must be names of namespaces, separated by commas",
            ));
        }
        config.allowed_namespaces.insert(namespace);
    }
    if let Some(image) = variable("TOYGRES_KUBERNETES_IMAGE") {
        let name = image.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || name.contains([':', '@']) || image.contains(char::is_whitespace) {
            return Err(wrong(
                "TOYGRES_KUBERNETES_IMAGE",
                "must be a repository without a tag or digest, such as docker.io/library/postgres",
            ));
        }
        config.image = image;
    }
    if variable("TOYGRES_KUBERNETES_VERSIONS").is_some() {
        config.versions = list(variable, "TOYGRES_KUBERNETES_VERSIONS")
            .map(|text| version("TOYGRES_KUBERNETES_VERSIONS", &text))
            .collect::<Result<_>>()?;
    }
    for (major, digest) in pairs(variable, "TOYGRES_KUBERNETES_IMAGE_DIGESTS")? {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong(
                "TOYGRES_KUBERNETES_IMAGE_DIGESTS",
                "must be like 17=sha256: and 64 hexadecimal digits, separated by commas",
            ));
        }
        let version = version("TOYGRES_KUBERNETES_IMAGE_DIGESTS", &major)?;
        config.image_digests.insert(version, digest);
    }
    if config.versions.is_empty() {
        return Err(wrong("TOYGRES_KUBERNETES_VERSIONS", "must name a version"));
    }
    match variable("TOYGRES_KUBERNETES_DEFAULT_CPU").as_deref() {
        None => {}
        Some("0") => config.default_cpu = None,
        Some(cpu) if is_cpu_quantity(cpu) => config.default_cpu = Some(cpu.to_owned()),
        Some(_) => {
            return Err(wrong(
                "TOYGRES_KUBERNETES_DEFAULT_CPU",
                "must be 0 or a number of CPUs such as 2, 0.5 or 500m",
            ));
        }
    }
    let memory_mb = number(variable, "TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB", 128, 1_048_576)?;
    if let Some(memory_mb) = memory_mb.and_then(|number| i32::try_from(number).ok()) {
        config.default_memory_mb = memory_mb;
    }
    if variable("TOYGRES_KUBERNETES_ALLOWED_SOURCES").is_some() {
        let sources = list(variable, "TOYGRES_KUBERNETES_ALLOWED_SOURCES")
            .map(|text| parsed::<Source>("TOYGRES_KUBERNETES_ALLOWED_SOURCES", &text))
            .collect::<Result<_>>()?;
        config.allowed_sources = Some(sources);
    }
    if let Some(domain) = variable("TOYGRES_KUBERNETES_CLUSTER_DOMAIN") {
        if !domain.split('.').all(is_label) {
            return Err(wrong(
                "TOYGRES_KUBERNETES_CLUSTER_DOMAIN",
                "must be a domain such as cluster.local",
            ));
        }
        config.cluster_domain = domain;
    }
    if let Some(text) = variable("TOYGRES_KUBERNETES_ADDRESS") {
        config.address = parsed::<Address>("TOYGRES_KUBERNETES_ADDRESS", &text)?;
    }
    Ok(config)
}

fn list(variable: &Variables, name: &str) -> impl Iterator<Item = String> + use<> {
    let text = variable(name).unwrap_or_default();
    let entries: Vec<String> = text.split(',').map(|entry| entry.trim().to_owned()).collect();
    entries.into_iter().filter(|entry| !entry.is_empty())
}

fn pairs(variable: &Variables, name: &str) -> Result<BTreeMap<String, String>> {
    list(variable, name)
        .map(|entry| match entry.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(wrong(name, "must be like key=value,key=value")),
        })
        .collect()
}

fn label(variable: &Variables, name: &str) -> Result<Option<String>> {
    match variable(name) {
        Some(text) if !is_label(&text) => Err(wrong(name, "must be the name of a namespace")),
        found => Ok(found),
    }
}

fn version(name: &str, text: &str) -> Result<PostgresVersion> {
    text.parse().map_err(|why| wrong(name, &format!("{why}")))
}

fn parsed<T: FromStr<Err = &'static str>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|why| wrong(name, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use toygres_models::ErrorKind;

    fn of(set: &[(&str, &str)]) -> Result<KubernetesConfig> {
        read(&|name| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn everything_can_be_set() {
        let digest = format!("17=sha256:{}", "0a".repeat(32));
        let config = of(&[
            ("TOYGRES_KUBERNETES_ALLOWED_NAMESPACES", "one, two"),
            ("TOYGRES_KUBERNETES_IMAGE", "registry.example.org:5000/postgres"),
            ("TOYGRES_KUBERNETES_VERSIONS", "17,18"),
            ("TOYGRES_KUBERNETES_IMAGE_DIGESTS", &digest),
            ("TOYGRES_KUBERNETES_DEFAULT_CPU", "0"),
            ("TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB", "128"),
            (
                "TOYGRES_KUBERNETES_SERVICE_ANNOTATIONS",
                "example.org/label={name},a=b",
            ),
            ("TOYGRES_KUBERNETES_ALLOWED_SOURCES", "10.0.0.0/8,namespace:apps"),
            ("TOYGRES_KUBERNETES_ADDRESS", "cluster-ip"),
        ])
        .unwrap();
        assert_eq!(config.allowed_namespaces.len(), 2);
        assert_eq!((config.versions.len(), config.image_digests.len()), (2, 1));
        assert_eq!((config.default_cpu, config.default_memory_mb), (None, 128));
        assert_eq!(config.service_annotations["example.org/label"], "{name}");
        assert_eq!(config.allowed_sources.map(|sources| sources.len()), Some(2));
        assert_eq!(config.address, Address::ClusterIp);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("TOYGRES_KUBERNETES_NAMESPACE", "Bad"),
            ("TOYGRES_KUBERNETES_ALLOWED_NAMESPACES", "good,Bad"),
            ("TOYGRES_KUBERNETES_CONTROL_PLANE_NAMESPACE", "-"),
            ("TOYGRES_KUBERNETES_IMAGE", "postgres:17"),
            ("TOYGRES_KUBERNETES_IMAGE", "postgres@sha256"),
            ("TOYGRES_KUBERNETES_VERSIONS", "newest"),
            ("TOYGRES_KUBERNETES_VERSIONS", ","),
            ("TOYGRES_KUBERNETES_IMAGE_DIGESTS", "17=latest"),
            ("TOYGRES_KUBERNETES_IMAGE_DIGESTS", "sha256:00"),
            ("TOYGRES_KUBERNETES_DEFAULT_CPU", "many"),
            ("TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB", "1"),
            ("TOYGRES_KUBERNETES_SERVICE_ANNOTATIONS", "novalue"),
            ("TOYGRES_KUBERNETES_NODE_SELECTOR", "=x"),
            ("TOYGRES_KUBERNETES_ALLOWED_SOURCES", "everybody"),
            ("TOYGRES_KUBERNETES_CLUSTER_DOMAIN", "a..b"),
            ("TOYGRES_KUBERNETES_ADDRESS", "pigeon"),
        ] {
            let error = of(&[(name, value)]).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().contains(name), "{error}");
        }
    }
}
