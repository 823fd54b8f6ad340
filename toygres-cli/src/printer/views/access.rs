//! Tokens, quotas, audit, contexts.

use super::{span, time};
use crate::config::Context;
use crate::failure::Result;
use crate::printer::table::Cell;
use crate::printer::{Mood, Printer};
use chrono::Utc;
use serde::Serialize;
use toygres_models::audit::AuditEvent;
use toygres_models::quotas::Quota;
use toygres_models::tokens::{ApiToken, CreatedToken};

impl Printer {
    pub(crate) fn tokens(&self, tokens: &[ApiToken]) -> Result<()> {
        if self.document(tokens)? {
            return Ok(());
        }
        if tokens.is_empty() {
            self.note("there are none; make one with: toygres token create NAME --scope admin");
            return Ok(());
        }
        let mut headings = vec!["NAME", "SCOPE", "OWNER", "STATE", "LAST USED", "EXPIRES"];
        if self.is_wide() {
            headings.extend(["ID", "CREATED"]);
        }
        let rows = tokens.iter().map(|token| {
            let now = Utc::now();
            let state = if token.revoked_at.is_some() {
                Cell::new("revoked", Mood::Bad)
            } else if token.expires_at.is_some_and(|end| end <= now) {
                Cell::new("expired", Mood::Bad)
            } else {
                Cell::new("valid", Mood::Good)
            };
            let mut row = vec![
                token.name.as_str().into(),
                token.scope.as_str().into(),
                token
                    .user_name
                    .as_ref()
                    .map_or_else(|| "any".to_owned(), ToString::to_string)
                    .into(),
                state,
                token
                    .last_used_at
                    .map_or_else(|| "never".to_owned(), |at| format!("{} ago", span(now - at)))
                    .into(),
                token.expires_at.map_or_else(|| "never".to_owned(), time).into(),
            ];
            if self.is_wide() {
                row.extend([token.id.to_string().into(), time(token.created_at).into()]);
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    /// A token's text: the one time it is shown.
    pub(crate) fn new_token(&self, created: &CreatedToken) -> Result<()> {
        if self.document(created)? {
            return Ok(());
        }
        self.line(&created.text)?;
        let token = &created.token;
        self.note(&format!(
            "the token {} (scope {}) is shown this once; use it: TOYGRES_TOKEN, or toygres context add NAME --token-stdin",
            token.name, token.scope
        ));
        Ok(())
    }

    pub(crate) fn quotas(&self, quotas: &[Quota]) -> Result<()> {
        if self.document(quotas)? {
            return Ok(());
        }
        let rows = quotas.iter().map(|quota| {
            let of = |has: i64, limit: Option<i64>| match limit {
                Some(limit) => Cell::new(
                    format!("{has}/{limit}"),
                    if has >= limit { Mood::Bad } else { Mood::Plain },
                ),
                None => Cell::new(format!("{has}/unlimited"), Mood::Plain),
            };
            vec![
                quota.user_name.as_str().into(),
                of(quota.instances, quota.limits.max_instances),
                of(quota.storage_gb, quota.limits.max_storage_gb),
                if quota.own { "its own" } else { "of every owner" }.into(),
            ]
        });
        self.table(&["OWNER", "DATABASES", "STORAGE GIB", "LIMITS"], rows.collect())
    }

    pub(crate) fn audit(&self, events: &[AuditEvent]) -> Result<()> {
        if self.document(events)? {
            return Ok(());
        }
        let mut headings = vec!["TIME", "ACTOR", "ACTION", "INSTANCE", "OBJECT"];
        if self.is_wide() {
            headings.extend(["OPERATION", "TRACE"]);
        }
        let text = |value: Option<String>| Cell::from(value.unwrap_or_default());
        let rows = events.iter().map(|event| {
            let mut row = vec![
                time(event.created_at).into(),
                event.actor.as_str().into(),
                event.action.as_str().into(),
                text(event.instance_id.map(|id| id.to_string())),
                text(event.object.clone()),
            ];
            if self.is_wide() {
                row.extend([
                    text(event.operation_id.map(|id| id.to_string())),
                    text(event.trace_id.clone()),
                ]);
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    pub(crate) fn contexts(&self, contexts: &[ContextView]) -> Result<()> {
        if self.document(contexts)? {
            return Ok(());
        }
        if contexts.is_empty() {
            self.note("there are none; write one down with: toygres context add NAME --api-url URL");
            return Ok(());
        }
        let rows = contexts.iter().map(|context| {
            vec![
                if context.current { "*" } else { "" }.into(),
                context.name.as_str().into(),
                context.api_url.as_str().into(),
                context.token.clone().unwrap_or_default().into(),
                context.ca_cert.clone().unwrap_or_default().into(),
            ]
        });
        self.table(
            &["CURRENT", "NAME", "API URL", "TOKEN", "CA CERT"],
            rows.collect(),
        )
    }

    pub(crate) fn context(&self, context: &ContextView) -> Result<()> {
        if self.document(context)? {
            return Ok(());
        }
        self.fields(vec![
            ("name", Some(context.name.as_str().into())),
            ("current", Some(super::yes_no(context.current).into())),
            ("api url", Some(context.api_url.as_str().into())),
            ("token", context.token.clone().map(Into::into)),
            ("ca cert", context.ca_cert.clone().map(Into::into)),
        ])
    }
}

/// A context without its token.
#[derive(Debug, Serialize)]
pub(crate) struct ContextView {
    name: String,
    current: bool,
    api_url: String,
    /// Where the token stands.
    token: Option<String>,
    ca_cert: Option<String>,
}

impl ContextView {
    pub(crate) fn new(name: &str, context: &Context, current: Option<&str>) -> Self {
        let file = context
            .token_file
            .as_ref()
            .map(|file| format!("in {}", file.display()));
        Self {
            name: name.to_owned(),
            current: current == Some(name),
            api_url: context.api_url.clone(),
            token: file.or_else(|| context.token.as_ref().map(|_| "[redacted]".to_owned())),
            ca_cert: context.ca_cert.as_ref().map(|file| file.display().to_string()),
        }
    }
}
