//! The dashboards, each in a file of its own.

mod active;
mod activities;
mod complete;
mod fleet;
mod logs;
mod orchestrations;
mod overview;
mod production;
mod shared;
mod simple;
mod storage;
mod traces;
mod workers;

use crate::Dashboard;

/// Which dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// For owners.
    Overview,
    /// For those on call.
    Production,
    /// One orchestration.
    Orchestrations,
    /// Activities.
    Activities,
    /// Worker slots, queues and the process.
    Workers,
    /// The orchestration store and its database.
    Storage,
    /// The log.
    Logs,
    /// Traces.
    Traces,
    /// One screen.
    Simple,
    /// The users' databases.
    Fleet,
    /// What runs now.
    Active,
    /// Every metric.
    Complete,
}

impl Board {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Overview,
        Self::Production,
        Self::Orchestrations,
        Self::Activities,
        Self::Workers,
        Self::Storage,
        Self::Logs,
        Self::Traces,
        Self::Simple,
        Self::Fleet,
        Self::Active,
        Self::Complete,
    ];

    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Overview => (
                "overview",
                "Toygres Overview",
                "Is the service doing well, and how much is it used?",
            ),
            Self::Production => (
                "production",
                "Toygres Production Metrics",
                "What fails, what is slow, and since when?",
            ),
            Self::Orchestrations => (
                "orchestrations",
                "Orchestration Metrics",
                "How does one orchestration behave: how often, how long, and why does it fail?",
            ),
            Self::Activities => (
                "activities",
                "Activity Performance",
                "Which activity is slow, fails, or has to be tried again?",
            ),
            Self::Workers => (
                "workers",
                "Worker Health",
                "Do the workers keep up, and how many are needed?",
            ),
            Self::Storage => (
                "storage",
                "Storage Operations",
                "Is the store of the orchestrations fast and free of errors?",
            ),
            Self::Logs => (
                "logs",
                "Toygres Logs",
                "What did the program say, in all or about one instance?",
            ),
            Self::Traces => (
                "traces",
                "Distributed Tracing",
                "Where does the time of a request go, and which ones fail?",
            ),
            Self::Simple => ("simple", "Toygres Simple", "Is all well? One screen."),
            Self::Fleet => ("fleet", "Fleet", "How are the users' databases?"),
            Self::Active => (
                "active-orchestrations",
                "Toygres Active Orchestrations",
                "What is running now, and does it move?",
            ),
            Self::Complete => (
                "complete",
                "Toygres Complete Observability",
                "What does each single metric say?",
            ),
        }
    }

    /// Its name in addresses, and of its file.
    #[must_use]
    pub fn uid(self) -> String {
        format!("toygres-{}", self.words().0)
    }

    pub(crate) const fn tag(self) -> &'static str {
        self.words().0
    }

    /// Its name.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.words().1
    }

    /// The question that it answers.
    #[must_use]
    pub const fn question(self) -> &'static str {
        self.words().2
    }

    pub(crate) fn dashboard(self) -> Dashboard {
        match self {
            Self::Overview => overview::dashboard(),
            Self::Production => production::dashboard(),
            Self::Orchestrations => orchestrations::dashboard(),
            Self::Activities => activities::dashboard(),
            Self::Workers => workers::dashboard(),
            Self::Storage => storage::dashboard(),
            Self::Logs => logs::dashboard(),
            Self::Traces => traces::dashboard(),
            Self::Simple => simple::dashboard(),
            Self::Fleet => fleet::dashboard(),
            Self::Active => active::dashboard(),
            Self::Complete => complete::dashboard(),
        }
    }
}
