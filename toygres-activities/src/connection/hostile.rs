//! Servers that are not what they should be: whatever a tenant makes of his, a check of it ends in its time, takes
//! little, tells nothing and runs nothing of his.

use super::{Probed, probe};
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use toygres_models::Secret;
use toygres_models::instances::Endpoint;
use toygres_platform::Serving;
use toygres_testing::{TestPostgres, wait_for};

/// How long a check may take here.
const LIMIT: Duration = Duration::from_secs(1);
/// How long no check may take, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "canary-password";

fn serving(port: u16) -> Serving {
    Serving {
        endpoint: Endpoint {
            host: "127.0.0.1".to_owned(),
            port,
        },
        external_endpoint: None,
        system_identifier: None,
        doubt: None,
    }
}

/// Has a check meet this server; gives the check, and what the server was sent before it went on to talk.
async fn met<F>(limit: Duration, server: impl FnOnce(TcpStream) -> F + Send + 'static) -> Probed
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let serving = serving(listener.local_addr().unwrap().port());
    let served = tokio::spawn(async move { server(listener.accept().await.unwrap().0).await });
    let password = Secret::new(PASSWORD.to_owned());
    let begun = Instant::now();
    // On a thread of its own, as the control plane does it: what blocks that thread must not be taken for an end.
    let probed = tokio::spawn(async move { probe(&serving, None, &password, limit).await });
    let probed = tokio::time::timeout(PATIENCE, probed);
    let probed = probed.await.expect("the check does not end").expect("no panic");
    assert!(begun.elapsed() < limit + PATIENCE / 4, "{:?}", begun.elapsed());
    // Every one of them ends with the connection.
    let served = tokio::time::timeout(PATIENCE, served);
    served
        .await
        .expect("the connection is not closed")
        .expect("no panic");
    probed
}

/// What is wrong with a server that says these bytes, whatever it is asked, and then nothing more.
async fn said(bytes: Vec<u8>, limit: Duration) -> String {
    let probed = met(limit, async move |mut stream| {
        stream.write_all(&bytes).await.ok();
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    probed.await.check.error_code.expect("it is not healthy")
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

/// Lets everybody in.
fn welcome() -> Vec<u8> {
    [message(b'R', &0_u32.to_be_bytes()), message(b'Z', b"I")].concat()
}

fn row(values: &[&[u8]]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(*value);
    }
    message(b'D', &body)
}

fn answered(version: &[u8], identifier: &[u8]) -> Vec<u8> {
    let end = [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    [welcome(), row(&[version, identifier]), end].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_or_drips_is_given_up_in_time() {
    assert_eq!(said(Vec::new(), LIMIT).await, "timeout");
    assert_eq!(said(welcome(), LIMIT).await, "timeout");
    for pause in [Duration::from_millis(1), Duration::from_millis(100)] {
        let probed = met(LIMIT, async move |mut stream: TcpStream| {
            for byte in message(b'N', &[b'x'; 60_000]) {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
        assert_eq!(probed.await.check.error_code.as_deref(), Some("timeout"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_much_a_server_says_little_of_it_is_read() {
    // What the system takes on the way, and more.
    const MOST: usize = 32 << 20;
    let chunk = vec![b'x'; 1 << 20];
    let endless = [
        (
            "one message of four gigabytes",
            vec![],
            [b"N\xff\xff\xff\xff".as_slice(), &chunk].concat(),
            chunk.clone(),
        ),
        (
            "a row of a gigabyte",
            welcome(),
            [b"D\x40\0\0\0\0\x01\x3f\xff\xff\xff".as_slice(), &chunk].concat(),
            chunk,
        ),
        (
            "notices",
            vec![],
            vec![],
            message(b'N', b"SWARNING\0VWARNING\0C01000\0Mcanary\0\0").repeat(1000),
        ),
        (
            "settings",
            vec![],
            vec![],
            message(b'S', b"name\0value\0").repeat(1000),
        ),
        ("rows", welcome(), vec![], row(&[b"15.18", b"1"]).repeat(1000)),
        (
            "logins",
            vec![],
            vec![],
            message(b'R', &0_u32.to_be_bytes()).repeat(1000),
        ),
    ];
    for (what, first, second, again) in endless {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = taken.clone();
        let probed = met(Duration::from_secs(5), async move |mut stream: TcpStream| {
            stream.write_all(&first).await.ok();
            stream.write_all(&second).await.ok();
            while stream.write_all(&again).await.is_ok() {
                counted.fetch_add(again.len(), Ordering::Relaxed);
            }
        });
        assert_eq!(
            probed.await.check.error_code.as_deref(),
            Some("protocol_error"),
            "{what}"
        );
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < MOST, "{what}: it took {taken} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_called_so() {
    let garbage: [&[u8]; 8] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"N\0\0\0\0",
        b"R\0\0\0\x03",
        b"R\0\0\0\x04",
        b"Z\0\0\0\x04",
        b"E\0\0\0\x05\0",
        b"\0\0\0\0\0\0\0\0\0\0\0",
    ];
    for bytes in garbage {
        let code = said(bytes.to_vec(), LIMIT).await;
        assert!(
            matches!(code.as_str(), "protocol_error" | "timeout"),
            "{bytes:?}: {code}"
        );
    }
    // Answers that must be neither kept nor shown.
    for (version, identifier) in [
        (b"".as_slice(), b"".as_slice()),
        (b"15.18", b"many"),
        (b"15.18", b"99999999999999999999"),
        (b"\x1b[31m15.18", b"1"),
        (b"15\0", b"1"),
        (b"15\n18", b"1"),
        (b"\xff\xfe", b"1"),
        (&[b'1'; 129], b"1"),
    ] {
        assert_eq!(
            said(answered(version, identifier), PATIENCE).await,
            "protocol_error",
            "{version:?}"
        );
    }
    let good = met(PATIENCE, async |mut stream| {
        stream
            .write_all(&answered(b"15.18 (by Somebody)", b"-1"))
            .await
            .unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let good = good.await;
    assert_eq!(good.check.server_version.as_deref(), Some("15.18 (by Somebody)"));
    assert_eq!(good.system_identifier, Some(u64::MAX));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_told_to_nobody() {
    let asks = |code: u32, rest: &[u8]| message(b'R', &[&code.to_be_bytes(), rest].concat());
    let scram = || asks(10, b"SCRAM-SHA-256\0\0");
    // What it asks for, and its challenge once it has heard the NONCE.
    let servers = [
        ("in the clear", asks(3, b""), ""),
        ("as MD5", asks(5, b"salt"), ""),
        ("by GSS", asks(7, b""), ""),
        ("by SCRAM of another kind", asks(10, b"SCRAM-SHA-1\0\0"), ""),
        (
            "with a challenge for somebody else",
            scram(),
            "r=another,s=c2FsdA==,i=4096",
        ),
        (
            "with a challenge that adds nothing",
            scram(),
            "r=NONCE,s=c2FsdA==,i=4096",
        ),
        (
            "by an hour's work",
            scram(),
            "r=NONCEmore,s=c2FsdA==,i=2147483647",
        ),
        ("by no work", scram(), "r=NONCEmore,s=c2FsdA==,i=0"),
        ("without knowing it", scram(), "r=NONCEmore,s=c2FsdA==,i=4096"),
    ];
    for (how, ask, challenge) in servers {
        let (tell, told) = tokio::sync::oneshot::channel();
        let probed = met(PATIENCE, async move |mut stream: TcpStream| {
            let mut heard = Vec::with_capacity(4096);
            stream.read_buf(&mut heard).await.unwrap();
            stream.write_all(&ask).await.unwrap();
            if !challenge.is_empty() {
                stream.read_buf(&mut heard).await.unwrap();
                let said = String::from_utf8_lossy(&heard).into_owned();
                let challenge = challenge.replace("NONCE", said.split("r=").nth(1).unwrap());
                stream.write_all(&asks(11, challenge.as_bytes())).await.unwrap();
                stream.read_buf(&mut heard).await.unwrap();
                let signature = [asks(12, b"v=bm9uZQ=="), answered(b"15.18", b"1")].concat();
                stream.write_all(&signature).await.ok();
            }
            stream.read_to_end(&mut heard).await.ok();
            tell.send(heard).ok();
        });
        let code = probed.await.check.error_code;
        assert_eq!(code.as_deref(), Some("protocol_error"), "{how}");
        let told = told.await.unwrap();
        let told = String::from_utf8_lossy(&told);
        assert!(
            told.contains("toygres-health-check") && !told.contains("canary"),
            "{how}: {told}"
        );
    }
}

/// A server that wants this password of its role `postgres`.
async fn with_password(password: &str) -> TestPostgres {
    let server = TestPostgres::start().await;
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    let sql = format!(
        "set password_encryption = 'scram-sha-256'; alter role postgres password '{password}';
         do $$ begin
            execute format('copy (select %L) to %L', 'host all all 127.0.0.1/32 scram-sha-256',
                current_setting('hba_file'));
            perform pg_reload_conf();
         end $$"
    );
    sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap();
    wait_for("a login to need the password", PATIENCE, || async {
        PgConnection::connect(&server.url("postgres")).await.err()
    })
    .await;
    server
}

async fn checked(server: &TestPostgres, password: &str) -> Probed {
    let password = Secret::new(password.to_owned());
    probe(&serving(server.port()), None, &password, Duration::from_secs(20)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_proven_to_a_real_server() {
    // The second is another text once it is prepared (RFC 4013), as libpq does it; the third can't be prepared; the
    // last is longer than a block of the hash.
    for password in [
        "plain-password",
        "\u{2168} \u{fb01}-pass\u{ad}word",
        "\u{627}1-password",
        &"x".repeat(128),
    ] {
        let server = with_password(password).await;
        let probed = checked(&server, password).await;
        assert!(probed.check.healthy, "{password:?}: {:?}", probed.check);
        assert!(probed.system_identifier.is_some());
        let code = checked(&server, "another-password").await.check.error_code;
        assert_eq!(code.as_deref(), Some("password_refused"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_is_not_given_an_hour_of_work() {
    let server = with_password(PASSWORD).await;
    let url = server
        .url("postgres")
        .replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // `alter role` would itself do the work, to see whether it is the empty password.
    let sql = "update pg_authid set rolpassword = regexp_replace(rolpassword, '[$]4096:', '$2147483647:') where rolname = 'postgres'";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    let begun = Instant::now();
    let code = checked(&server, PASSWORD).await.check.error_code;
    assert_eq!(code.as_deref(), Some("protocol_error"));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

/// Everything that a tenant can put in the way of a query, each with a mark where it is run.
const PLANTED: &str = "
    create table public.witness(what text);
    grant all on public.witness to public;
    create function public.mark(what text) returns text language plpgsql as
        $$ begin insert into public.witness values (what); return '666'; end $$;
    create function public.current_setting(text) returns text language sql as $$ select public.mark('setting') $$;
    create or replace function pg_catalog.current_setting(text) returns text stable strict language sql as
        $$ select public.mark('replaced') $$;
    create function public.pg_control_system(out system_identifier bigint, out other text)
        language sql as $$ select 666, public.mark('control') $$;
    create function public.concat(text, text) returns text language sql as $$ select public.mark('operator') $$;
    create operator public.|| (leftarg = text, rightarg = text, function = public.concat);
    create type public.text as (a int);
    create type public.int8 as (a int);
    create function public.to_text(bigint) returns pg_catalog.text language sql as $$ select public.mark('cast') $$;
    create cast (bigint as pg_catalog.text) with function public.to_text(bigint) as implicit;
    create schema postgres;
    create view postgres.pg_control_system as select 666 as system_identifier;
    create function public.on_command() returns event_trigger language plpgsql as
        $$ begin perform public.mark('event'); end $$;
    create event trigger everything on ddl_command_start execute function public.on_command();
    alter role postgres set search_path = public, postgres, pg_catalog;
    alter role postgres set default_transaction_read_only = off;
    alter role postgres set statement_timeout = 0;
    alter role postgres in database postgres set search_path = public, pg_catalog;
    alter database postgres set search_path = public, postgres, pg_catalog;
    alter database postgres set client_min_messages = debug5;
    alter database postgres set log_statement = 'all';
    alter database postgres set bytea_output = 'escape';
    alter database postgres set lc_messages = 'C'";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_tenant_plants_is_run() {
    let server = TestPostgres::start().await;
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::raw_sql(PLANTED).execute(&mut connection).await.unwrap();
    let (version, identifier): (String, i64) = sqlx::query_as(
        "select pg_catalog.current_setting('server_version'), system_identifier from pg_catalog.pg_control_system()",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let probed = checked(&server, PASSWORD).await;
    assert_eq!(
        probed.check.server_version.as_deref(),
        Some(version.as_str()),
        "{:?}",
        probed.check
    );
    assert_eq!(probed.system_identifier, Some(identifier.cast_unsigned()));
    let mut marks = async || {
        let sql = "select coalesce(pg_catalog.string_agg(what, ' '), '') from public.witness";
        sqlx::query_scalar::<_, String>(sql)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    };
    assert_eq!(marks().await, "");
    // The same asked carelessly does run it.
    let mut careless = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::raw_sql("select current_setting('server_version')")
        .execute(&mut careless)
        .await
        .unwrap();
    assert_eq!(marks().await, "setting");
}
