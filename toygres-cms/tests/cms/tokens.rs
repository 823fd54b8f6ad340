//! Tokens: who gets in, who does not any more, and that nothing stored lets anybody in.

use crate::support::{Fixture, assert_error, forms, origin};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use std::time::Duration;
use toygres_models::tokens::{ApiToken, CreatedToken, NewToken, TokenScope};
use toygres_models::{ErrorKind, Result, TokenId};
use toygres_testing::wait_for;

fn new_token(name: &str, scope: TokenScope) -> NewToken {
    NewToken {
        name: name.to_owned(),
        scope,
        user_name: None,
        expires_in_days: None,
    }
}

async fn try_token(fixture: &Fixture, name: &str, scope: TokenScope) -> Result<CreatedToken> {
    fixture.cms.create_token(&new_token(name, scope), &origin()).await
}

async fn token(fixture: &Fixture, name: &str, scope: TokenScope) -> CreatedToken {
    try_token(fixture, name, scope).await.unwrap()
}

async fn authenticated(fixture: &Fixture, text: &str) -> Option<ApiToken> {
    fixture.cms.authenticate(text).await.unwrap()
}

#[tokio::test]
async fn a_token_lets_in_until_it_is_revoked() {
    let fixture = Fixture::start().await;
    assert!(!fixture.cms.has_tokens().await.unwrap());
    let admin = token(&fixture, "admin", TokenScope::Admin).await;
    let new = NewToken {
        user_name: Some("team-a".parse().unwrap()),
        expires_in_days: Some(30),
        ..new_token("ci", TokenScope::Write)
    };
    let ci = fixture.cms.create_token(&new, &origin()).await.unwrap();
    assert!(fixture.cms.has_tokens().await.unwrap());
    assert!(ci.text.len() == 47 && ci.text.starts_with("tgr_"), "{}", ci.text);
    assert_ne!(ci.text, admin.text);
    let lifetime = ci.token.expires_at.unwrap() - ci.token.created_at;
    assert_eq!(lifetime.num_days(), 30);

    let found = authenticated(&fixture, &ci.text).await.unwrap();
    assert_eq!(
        (found.id, found.name.as_str(), found.scope),
        (ci.token.id, "ci", TokenScope::Write)
    );
    assert_eq!(found.user_name.unwrap().as_str(), "team-a");
    assert!(admin.token.expires_at.is_none() && admin.token.user_name.is_none());
    let found = authenticated(&fixture, &admin.text).await.unwrap();
    assert_eq!(found.scope, TokenScope::Admin);

    let revoked = fixture.cms.revoke_token("ci", &origin()).await.unwrap();
    assert_eq!(revoked.id, ci.token.id);
    assert!(revoked.revoked_at.is_some());
    assert!(authenticated(&fixture, &ci.text).await.is_none());
    let listed = fixture.cms.list_tokens().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|token| (token.id, token.revoked_at)).collect();
    assert_eq!(
        listed,
        [(ci.token.id, revoked.revoked_at), (admin.token.id, None)]
    );
    let object = |action: &str, name: &str| (action.to_owned(), Some(name.to_owned()));
    assert_eq!(
        fixture.audited().await,
        [
            object("create_token", "admin"),
            object("create_token", "ci"),
            object("revoke_token", "ci")
        ]
    );
}

#[tokio::test]
async fn what_is_no_token_lets_nobody_in() {
    let fixture = Fixture::start().await;
    let text = token(&fixture, "admin", TokenScope::Admin).await.text;
    let last = if text.ends_with('A') { "B" } else { "A" };
    let altered = format!("{}{last}", &text[..46]);
    for wrong in [
        "",
        "tgr_",
        "' or true --",
        &text[4..],
        &text.to_uppercase(),
        &format!("{text} "),
        &altered,
        &format!("tgr_{}", "ü".repeat(21) + "A"),
    ] {
        assert!(authenticated(&fixture, wrong).await.is_none(), "{wrong}");
    }
    assert!(authenticated(&fixture, &text).await.is_some());
}

#[tokio::test]
async fn a_token_expires() {
    let fixture = Fixture::start().await;
    let admin = token(&fixture, "admin", TokenScope::Admin).await;
    fixture
        .execute("update cms.api_tokens set expires_at = now() + interval '1 hour'")
        .await;
    assert!(authenticated(&fixture, &admin.text).await.is_some());
    fixture
        .execute("update cms.api_tokens set expires_at = now()")
        .await;
    assert!(authenticated(&fixture, &admin.text).await.is_none());
    assert!(!fixture.cms.is_token_usable(admin.token.id).await.unwrap());
    assert!(
        fixture.cms.has_tokens().await.unwrap(),
        "what somebody has closed does not open by itself"
    );
}

#[tokio::test]
async fn the_first_token_that_can_be_used_is_an_admins() {
    let fixture = Fixture::start().await;
    let refused = async || {
        let before = fixture.everything().await;
        for scope in [TokenScope::Read, TokenScope::Write] {
            let refused = try_token(&fixture, "ci", scope).await;
            let error = assert_error(refused, ErrorKind::Conflict, "first_token_must_be_admin");
            assert!(error.next_step().is_some());
        }
        assert_eq!(fixture.everything().await, before);
    };
    refused().await;
    token(&fixture, "admin", TokenScope::Admin).await;
    token(&fixture, "ci", TokenScope::Read).await;
    for name in ["admin", "ci"] {
        fixture.cms.revoke_token(name, &origin()).await.unwrap();
    }
    refused().await;
    token(&fixture, "admin", TokenScope::Admin).await;
    fixture
        .execute("update cms.api_tokens set expires_at = now()")
        .await;
    refused().await;
}

#[tokio::test]
async fn a_name_is_one_tokens_until_it_is_revoked() {
    let fixture = Arc::new(Fixture::start().await);
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { try_token(&fixture, "admin", TokenScope::Admin).await })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(created) => made.push(created),
            refused => {
                let error = assert_error(refused, ErrorKind::Conflict, "token_name_taken");
                assert!(error.next_step().is_some());
            }
        }
    }
    assert_eq!(made.len(), 1);
    assert_eq!(
        (fixture.count("api_tokens").await, fixture.audited().await.len()),
        (1, 1)
    );
    fixture.cms.revoke_token("admin", &origin()).await.unwrap();
    let second = token(&fixture, "admin", TokenScope::Admin).await;
    let by_name = fixture.cms.revoke_token("admin", &origin()).await.unwrap();
    assert_eq!(by_name.id, second.token.id);
}

#[tokio::test]
async fn a_token_is_revoked_once_however_often() {
    let fixture = Arc::new(Fixture::start().await);
    let id = token(&fixture, "admin", TokenScope::Admin)
        .await
        .token
        .id
        .to_string();
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let (fixture, id) = (Arc::clone(&fixture), id.clone());
            tokio::spawn(async move { fixture.cms.revoke_token(&id, &origin()).await.unwrap() })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await.unwrap().revoked_at.unwrap());
    }
    assert!(times.iter().all(|time| *time == times[0]));
    let actions: Vec<_> = fixture
        .audited()
        .await
        .into_iter()
        .map(|(action, _)| action)
        .collect();
    assert_eq!(actions, ["create_token", "revoke_token"]);
    for missing in ["admin", "nobody", &TokenId::generate().to_string()] {
        let missing = fixture.cms.revoke_token(missing, &origin()).await;
        assert_error(missing, ErrorKind::NotFound, "token_not_found");
    }
}

#[tokio::test]
async fn a_name_in_the_form_of_an_id_is_found_behind_the_id() {
    let fixture = Fixture::start().await;
    let one = token(&fixture, "one", TokenScope::Admin).await.token;
    let two = token(&fixture, &one.id.to_string(), TokenScope::Admin)
        .await
        .token;
    let three = token(&fixture, &TokenId::generate().to_string(), TokenScope::Admin)
        .await
        .token;
    let revoked = async |text: &str| fixture.cms.revoke_token(text, &origin()).await.unwrap().id;
    assert_eq!(revoked(&one.id.to_string()).await, one.id);
    assert_eq!(revoked(&three.name).await, three.id);
    assert_eq!(revoked(&two.id.to_string()).await, two.id);
}

#[tokio::test]
async fn use_is_noted_once_a_minute() {
    let fixture = Fixture::start().await;
    let text = token(&fixture, "admin", TokenScope::Admin).await.text;
    let last_use = async || fixture.cms.list_tokens().await.unwrap()[0].last_used_at;
    let noted = async |after| {
        wait_for("the use to be noted", Duration::from_secs(20), || async {
            last_use().await.filter(|last| Some(*last) > after)
        })
        .await
    };
    assert_eq!(last_use().await, None);
    authenticated(&fixture, &text).await.unwrap();
    let first = noted(None).await;
    // One that wrote now would be seen by the second token's: both are done in the order they are begun here.
    fixture
        .execute("update cms.api_tokens set last_used_at = now() - interval '50 seconds'")
        .await;
    let young = last_use().await;
    authenticated(&fixture, &text).await.unwrap();
    let other = token(&fixture, "other", TokenScope::Admin).await;
    authenticated(&fixture, &other.text).await.unwrap();
    noted(young).await;
    let listed = fixture.cms.list_tokens().await.unwrap();
    assert_eq!(listed[1].last_used_at, young, "{first}");
    fixture
        .execute("update cms.api_tokens set last_used_at = now() - interval '61 seconds'")
        .await;
    let old = last_use().await;
    authenticated(&fixture, &other.text).await.unwrap();
    noted(old).await;
}

#[tokio::test]
async fn nobody_waits_for_the_note_of_a_use_or_fails_with_it() {
    let fixture = Fixture::start().await;
    let text = token(&fixture, "admin", TokenScope::Admin).await.text;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("select from cms.api_tokens for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    for _ in 0..50 {
        assert!(authenticated(&fixture, &text).await.is_some());
    }
    // More than there are connections: those that came to the lock have passed by.
    lock.rollback().await.unwrap();
    sqlx::raw_sql(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$; \
         create trigger refuse before update on cms.api_tokens for each row execute function refuse()",
    )
    .execute(&fixture.pool)
    .await
    .unwrap();
    for _ in 0..50 {
        assert!(authenticated(&fixture, &text).await.is_some());
    }
}

#[tokio::test]
async fn no_table_shows_a_token() {
    let fixture = Fixture::start().await;
    let created = token(&fixture, "canary", TokenScope::Admin).await;
    authenticated(&fixture, &created.text).await.unwrap();
    fixture.cms.revoke_token("canary", &origin()).await.unwrap();
    let dump = format!("{:?}", fixture.everything().await);
    assert!(dump.contains("canary"));
    let random = &created.text[4..];
    let bytes = URL_SAFE_NO_PAD.decode(random).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    for form in forms(random).into_iter().chain([hex]) {
        assert!(!dump.contains(&form), "{form} is in the database");
    }
}
