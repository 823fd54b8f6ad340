//! Names and versions are what running work is found by.
#![allow(missing_docs, reason = "a test")]

#[test]
fn golden_names_are_those_that_running_work_depends_on() {
    let activities = toygres_activities::NAMES
        .iter()
        .map(|name| format!("{}::activity::{name}", toygres_activities::CRATE));
    let orchestrations = toygres_orchestrations::registry();
    let names: Vec<String> = activities.chain(orchestrations.names().iter().cloned()).collect();
    let agreed: Vec<&str> = include_str!("../names.txt").lines().collect();
    assert_eq!(
        names, agreed,
        "names.txt: a name or version that changed strands the work that runs under it"
    );
}

#[test]
fn golden_flows_are_those_that_the_code_goes_by() {
    let mut drawn =
        String::from("# How orchestrations go\n\nDrawn from the steps that their code goes by.\n");
    for flow in toygres_orchestrations::flows() {
        let (name, version, summary) = (flow.name, flow.version, flow.summary);
        drawn += &format!(
            "\n## {name} {version}\n\n{summary}\n\n```mermaid\n{}```\n",
            flow.mermaid
        );
    }
    assert_eq!(
        drawn,
        include_str!("../flows.md"),
        "flows.md: write into it\n{drawn}"
    );
}
