//! Passwords are nowhere to be seen, and only the right key reads them.

use crate::support::{
    Fixture, PASSWORD, assert_error, check, endpoint, error, forms, key, new_instance, origin,
};
use std::os::unix::fs::PermissionsExt;
use toygres_cms::{Cms, Created, InstanceSelector, MasterKey};
use toygres_models::operations::Reason;
use toygres_models::{ErrorKind, Secret};

#[tokio::test]
async fn no_table_shows_a_password() {
    let fixture = Fixture::start().await;
    let body = serde_json::json!({ "name": "demo", "password": PASSWORD }).to_string();
    fixture
        .try_create(&new_instance("demo"), Some(("key", body.as_bytes())))
        .await
        .unwrap();
    let mut without = new_instance("generated");
    without.password = None;
    let created = fixture
        .try_create(&without, Some(("key-2", b"body")))
        .await
        .unwrap();
    let Created::Fresh {
        generated_password: Some(generated),
        ..
    } = &created
    else {
        panic!("a password is made");
    };
    let running = fixture.create_running("running").await;
    fixture
        .cms
        .record_health_check(&running.scope, &check(1, false), Some(&endpoint()), None)
        .await
        .unwrap();
    fixture
        .cms
        .record_alarm(&running.scope, Reason::StorageMissing, "gone")
        .await
        .unwrap();
    let failed = fixture.create("failed").await;
    fixture.cms.record_failed(&failed.scope, &error()).await.unwrap();
    fixture
        .cms
        .reveal_password(&InstanceSelector::Id(running.instance.id), &origin())
        .await
        .unwrap();
    fixture.request_delete(running.instance.id).await;

    let dump = format!("{:?}", fixture.everything().await);
    assert!(dump.contains("demo"));
    for secret in [PASSWORD, "hunter2", generated.reveal()] {
        for form in forms(secret) {
            assert!(!dump.contains(&form), "{form} is in the database");
        }
    }
    assert!(!format!("{created:?}").contains(generated.reveal()));
    assert_eq!(format!("{:?}", key(1)), "MasterKey([redacted])");
}

#[tokio::test]
async fn the_same_password_is_never_stored_the_same_and_belongs_to_its_instance() {
    let fixture = Fixture::start().await;
    let (one, two) = (fixture.create("one").await, fixture.create("two").await);
    let distinct: i64 =
        sqlx::query_scalar("select count(distinct ciphertext) + count(distinct nonce) from cms.credentials")
            .fetch_one(&fixture.pool)
            .await
            .unwrap();
    assert_eq!(distinct, 4);
    fixture
        .execute(
            "update cms.credentials c set nonce = o.nonce, ciphertext = o.ciphertext from cms.credentials o \
             where o.instance_id <> c.instance_id",
        )
        .await;
    for fresh in [one, two] {
        let moved = fixture.cms.provisioning(&fresh.scope).await;
        let moved = assert_error(moved, ErrorKind::Internal, "internal");
        assert!(moved.detail().contains("damaged"), "{moved:?}");
    }
}

#[tokio::test]
async fn another_master_key_is_noticed_and_named() {
    let fixture = Fixture::start().await;
    fixture.cms.check_master_key().await.unwrap();
    fixture.cms.check_master_key().await.unwrap();
    let fresh = fixture.create("demo").await;
    let other = Cms::new(fixture.pool.clone(), key(2));
    let wrong = assert_error(
        other.check_master_key().await,
        ErrorKind::Config,
        "master_key_wrong",
    );
    assert!(wrong.next_step().is_some());
    assert_error(
        other.provisioning(&fresh.scope).await,
        ErrorKind::Config,
        "master_key_wrong",
    );
    let selector = InstanceSelector::Id(fresh.instance.id);
    assert_error(
        other.reveal_password(&selector, &origin()).await,
        ErrorKind::Config,
        "master_key_wrong",
    );
    assert_ne!(other.request_hash(b"body"), fixture.cms.request_hash(b"body"));
    assert_eq!(
        fixture.cms.request_hash(b"body"),
        fixture.cms.request_hash(b"body")
    );
}

#[tokio::test]
async fn revealing_is_audited_and_a_deleted_instance_has_nothing_to_reveal() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    let selector: InstanceSelector = "demo".parse().unwrap();
    let password = fixture.cms.reveal_password(&selector, &origin()).await.unwrap();
    assert_eq!(password.reveal(), PASSWORD);
    let audited: i64 = sqlx::query_scalar(
        "select count(*) from cms.audit_events where action = 'reveal_password' and instance_id = $1",
    )
    .bind(fresh.instance.id.0)
    .fetch_one(&fixture.pool)
    .await
    .unwrap();
    assert_eq!(audited, 1);
    fixture.delete(fresh.instance.id).await;
    let missing = fixture.cms.reveal_password(&selector, &origin()).await;
    assert_error(missing, ErrorKind::NotFound, "instance_not_found");
    let gone = fixture
        .cms
        .reveal_password(&InstanceSelector::Id(fresh.instance.id), &origin())
        .await;
    assert_error(gone, ErrorKind::NotFound, "password_gone");
    let audited = fixture.audited().await;
    let revealed = audited.iter().filter(|(action, _)| action == "reveal_password");
    assert_eq!(revealed.count(), 1, "what was not shown is not audited");
}

fn hash(key: MasterKey) -> [u8; 32] {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .connect_lazy("postgres://nowhere")
        .unwrap();
    Cms::new(pool, key).request_hash(b"body")
}

#[tokio::test]
async fn a_key_file_is_made_once_and_for_its_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("master.key");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || MasterKey::load_or_create(&path).unwrap())
        })
        .collect();
    let keys: Vec<_> = tasks.into_iter().map(|task| hash(task.join().unwrap())).collect();
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(hash(MasterKey::from_base64(&Secret::new(text)).unwrap()), keys[0]);

    for mode in [0o640, 0o604, 0o620, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let exposed = MasterKey::load_or_create(&path);
        let exposed = assert_error(exposed, ErrorKind::Config, "master_key_exposed");
        assert!(exposed.next_step().unwrap().contains("chmod 600"));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(hash(MasterKey::load_or_create(&path).unwrap()), keys[0]);
}

#[tokio::test]
async fn what_is_no_key_is_refused_and_never_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("master.key");
    let long = "A".repeat(5000);
    for text in ["", "not a key", "c2hvcnQ=", &long] {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_error(
            MasterKey::load_or_create(&path),
            ErrorKind::Config,
            "master_key_invalid",
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let given = MasterKey::from_base64(&Secret::new(text.to_owned()));
        assert_error(given, ErrorKind::Config, "master_key_invalid");
    }
    let nowhere = home.path().join("missing/master.key");
    assert_error(
        MasterKey::load_or_create(&nowhere),
        ErrorKind::Config,
        "master_key_file",
    );
    assert_error(
        MasterKey::load_or_create(home.path()),
        ErrorKind::Config,
        "master_key_exposed",
    );
}
