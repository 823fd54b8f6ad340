//! Grafana's dashboards: `observability/grafana/dashboards` and `observability/DASHBOARDS.md` are made from this.
//! Metrics are named by the table of `toygres-telemetry`, so that a query of one that does not exist does not
//! compile.

mod boards;
mod document;
mod json;
mod panel;
pub mod promql;
pub mod runbooks;
mod use_cases;
mod variables;

#[cfg(test)]
mod tests;

pub use boards::Board;
pub use document::document;
pub use panel::{Language, Look, Panel, Query};
pub use use_cases::{UseCase, UseCaseQuery, use_cases};
pub use variables::{Variable, substitute};

/// A dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Which.
    pub board: Board,
    /// What can be chosen above it.
    pub variables: Vec<Variable>,
    /// Its panels, in the order in which they are read.
    pub panels: Vec<Panel>,
    /// Where its panels' links to the logs lead.
    pub logs: &'static str,
    /// Where its panels' links to the traces lead.
    pub traces: &'static str,
}

impl Dashboard {
    /// As Grafana reads it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json::dashboard(self)
    }

    /// Where a panel's link to the traces leads.
    #[must_use]
    pub fn traces_of<'a>(&'a self, panel: &'a Panel) -> &'a str {
        panel.traces.as_deref().unwrap_or(self.traces)
    }
}

/// All dashboards.
#[must_use]
pub fn dashboards() -> Vec<Dashboard> {
    Board::ALL.iter().map(|board| board.dashboard()).collect()
}

/// A query of a panel of a dashboard.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The dashboard.
    pub board: Board,
    /// The panel.
    pub panel: Panel,
    /// The query.
    pub query: Query,
}

/// Every query of every panel.
pub fn panels() -> impl Iterator<Item = Asked> {
    dashboards().into_iter().flat_map(|dashboard| {
        let board = dashboard.board;
        dashboard.panels.into_iter().flat_map(move |panel| {
            panel.queries.clone().into_iter().map(move |query| Asked {
                board,
                panel: panel.clone(),
                query,
            })
        })
    })
}
