//! Lists of many: a page reads little more than it shows.

use crate::support::{Fixture, key};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use toygres_cms::{AuditFilter, Cms, EventFilter, InstanceFilter, OperationFilter};
use toygres_models::InstanceId;
use toygres_models::instances::InstanceState;
use toygres_models::operations::{OperationKind, OperationState};

/// 10,000 instances of 200 owners, few of them failed; 100,000 operations, few of them failed or deletions.
const MANY: &str = "\
    set session_replication_role = replica; \
    insert into cms.instances (id, name, user_name, state, postgres_version, storage_size_gb, internal, tags, \
        deletion_protection, created_at) \
    select md5(n::text)::uuid, 'db-' || n, case when n % 1000 = 7 then 'rare-' || n else 'owner-' || n % 200 end, \
        case when n % 500 = 0 then 'failed' else 'running' end, 17, 10, false, '{}', false, \
        timestamptz '2026-01-01' + n * interval '1 minute' \
    from generate_series(1, 10000) n; \
    insert into cms.operations (id, instance_id, kind, state, error_code, error_message, finished_at) \
    select lpad(to_hex(n), 32, '0')::uuid, md5((1 + n % 10000)::text)::uuid, \
        case when n % 5000 = 0 then 'delete' else 'create' end, \
        case when n % 5000 = 1 then 'failed' else 'succeeded' end, \
        case when n % 5000 = 1 then 'x' end, case when n % 5000 = 1 then 'x' end, now() \
    from generate_series(1, 100000) n; \
    insert into cms.instance_events (instance_id, kind, message) \
    select instance_id, 'test', '' from cms.operations order by id; \
    insert into cms.audit_events (actor, action, instance_id) \
    select case when n % 5000 = 0 then 'rare' else 'loopback' end, \
        case when n % 5000 = 1 then 'rare' else 'create_instance' end, instance_id \
    from (select instance_id, row_number() over () as n from cms.operations) o; \
    set session_replication_role = origin; \
    analyze";

/// Fails if more rows of these tables are read meanwhile. The pool has one connection, which tells what it has read.
async fn reads_few(pool: &PgPool, what: &str, tables: &[&str], meanwhile: impl Future<Output = ()>) {
    let before = read(pool, tables).await;
    meanwhile.await;
    let read = read(pool, tables).await - before;
    let most = 111 * i64::try_from(tables.len()).unwrap();
    assert!(read <= most, "{read} rows of {tables:?} read for {what}");
}

async fn read(pool: &PgPool, tables: &[&str]) -> i64 {
    sqlx::raw_sql("select pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query_scalar(
        "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint \
         from pg_stat_user_tables where schemaname = 'cms' and relname = any($1)",
    )
    .bind(tables)
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_page_reads_little_more_than_it_shows() {
    let fixture = Fixture::start().await;
    sqlx::raw_sql(MANY).execute(&fixture.pool).await.unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with((*fixture.pool.connect_options()).clone())
        .await
        .unwrap();
    let cms = Cms::new(pool.clone(), key(1));
    let limit = Some(100);
    let owner = Some("owner-8".parse().unwrap());
    let rare_owner = Some("rare-7".parse().unwrap());

    let all = InstanceFilter {
        limit,
        ..InstanceFilter::default()
    };
    let first = cms.list_instances(&all).await.unwrap();
    let middle: uuid::Uuid = sqlx::query_scalar("select id from cms.instances where name = 'db-9000'")
        .fetch_one(&pool)
        .await
        .unwrap();
    let instance_id = Some(first[0].id);
    let instances = [
        all.clone(),
        InstanceFilter {
            after: Some(InstanceId(middle)),
            ..all.clone()
        },
        InstanceFilter {
            user_name: owner,
            ..all.clone()
        },
        InstanceFilter {
            state: Some(InstanceState::Failed),
            ..all.clone()
        },
        InstanceFilter {
            state: Some(InstanceState::Degraded),
            ..all.clone()
        },
    ];
    for filter in instances {
        reads_few(&pool, &format!("{filter:?}"), &["instances"], async {
            cms.list_instances(&filter).await.unwrap();
        })
        .await;
    }

    let all = OperationFilter {
        limit,
        ..OperationFilter::default()
    };
    let newest = cms.list_operations(&all).await.unwrap();
    let operations = [
        all.clone(),
        OperationFilter {
            before: newest.last().map(|operation| operation.id),
            ..all.clone()
        },
        OperationFilter {
            state: Some(OperationState::Failed),
            ..all.clone()
        },
        OperationFilter {
            kind: Some(OperationKind::Delete),
            ..all.clone()
        },
        OperationFilter {
            instance_id,
            ..all.clone()
        },
        OperationFilter {
            user_name: rare_owner,
            ..all.clone()
        },
    ];
    for filter in operations {
        reads_few(
            &pool,
            &format!("{filter:?}"),
            &["operations", "instances"],
            async {
                assert!(!cms.list_operations(&filter).await.unwrap().is_empty());
            },
        )
        .await;
    }

    for (instance_id, after) in [
        (None, None),
        (None, Some(99_000)),
        (instance_id, None),
        (instance_id, Some(99_000)),
    ] {
        let filter = EventFilter {
            instance_id,
            user_name: None,
            after,
            limit: 100,
        };
        reads_few(
            &pool,
            &format!("{filter:?}"),
            &["instance_events", "instances"],
            async {
                cms.list_events(&filter).await.unwrap();
            },
        )
        .await;
    }
    reads_few(&pool, "the newest event", &["instance_events"], async {
        cms.latest_event_id().await.unwrap();
    })
    .await;

    let all = AuditFilter {
        limit,
        ..AuditFilter::default()
    };
    let rare = Some("rare".to_owned());
    let audit = [
        all.clone(),
        AuditFilter {
            actor: rare.clone(),
            ..all.clone()
        },
        AuditFilter {
            action: rare,
            ..all.clone()
        },
        AuditFilter { instance_id, ..all },
    ];
    for filter in audit {
        reads_few(&pool, &format!("{filter:?}"), &["audit_events"], async {
            assert!(!cms.list_audit(&filter).await.unwrap().is_empty());
        })
        .await;
    }
}
