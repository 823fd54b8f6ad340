//! Tokens, quotas, audit: who may do what, who may have what, who did what.

use super::Service;
use toygres_cms::{AuditFilter, Origin};
use toygres_models::audit::AuditEvent;
use toygres_models::quotas::{Quota, QuotaLimits};
use toygres_models::tokens::{ApiToken, CreateTokenRequest, CreatedToken};
use toygres_models::{Error, ErrorKind, OwnerName, Result};

impl Service {
    pub(crate) async fn create_token(
        &self,
        request: CreateTokenRequest,
        origin: &Origin,
    ) -> Result<CreatedToken> {
        let created = self.cms.create_token(&request.parse()?, origin).await?;
        // With the first one the API closes to whoever has none.
        self.forget_whether_there_are_tokens();
        Ok(created)
    }

    pub(crate) async fn list_tokens(&self) -> Result<Vec<ApiToken>> {
        self.cms.list_tokens().await
    }

    pub(crate) async fn revoke_token(&self, id_or_name: &str, origin: &Origin) -> Result<ApiToken> {
        let revoked = self.cms.revoke_token(id_or_name, origin).await?;
        self.forget_whether_there_are_tokens();
        Ok(revoked)
    }

    pub(crate) async fn list_quotas(&self) -> Result<Vec<Quota>> {
        self.cms.list_quotas(self.default_quota).await
    }

    pub(crate) async fn set_quota(&self, owner: &str, limits: QuotaLimits, origin: &Origin) -> Result<Quota> {
        let owner = parse(owner)?;
        self.cms.set_quota(&owner, limits.parse()?, origin).await?;
        self.cms.get_quota(&owner, self.default_quota).await
    }

    pub(crate) async fn remove_quota(&self, owner: &str, origin: &Origin) -> Result<()> {
        let owner = parse(owner)?;
        if self.cms.remove_quota(&owner, origin).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            "quota_not_found",
            format!("{owner} has no quota of its own"),
        )
        .hint("see what there is with: toygres quota list"))
    }

    pub(crate) async fn list_audit(
        &self,
        mut filter: AuditFilter,
        instance: Option<&str>,
    ) -> Result<Vec<AuditEvent>> {
        if let Some(name) = instance {
            filter.instance_id = Some(self.get_instance(name, None).await?.id);
        }
        self.cms.list_audit(&filter).await
    }
}

fn parse(owner: &str) -> Result<OwnerName> {
    owner
        .parse()
        .map_err(|why: toygres_models::names::ParseNameError| {
            Error::invalid_fields(vec![why.in_field("user_name")])
        })
}
