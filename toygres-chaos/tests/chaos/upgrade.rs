//! Servers of two versions on one database, as while one is upgraded.

use crate::servers::Fleet;
use crate::{PATIENCE, PROGRAM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use toygres_chaos::{Account, ServerOptions, ServerProcess, long, old_server};
use toygres_testing::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_two_versions_share_the_work_until_the_old_ones_are_replaced() {
    let old = old_server();
    let fault = match old {
        Some(_) => "servers of an older version replaced by new ones, in turn, under load",
        None => "servers replaced by others of the same version, in turn, under load",
    };
    eprintln!("upgrade: {fault}");
    let mut account = Account::new("upgrade", fault);
    let mut fleet = Fleet::start(&[]).await;
    for _ in 0..2 {
        let options = ServerOptions {
            program: old.unwrap_or(PROGRAM),
            ..fleet.options(Vec::new())
        };
        fleet.servers.push(ServerProcess::start(options).await);
    }
    // Made and watched by an old one, then by whoever comes.
    let elder = fleet.load(&[0, 1]).create("elder").await;
    let new = fleet.options(Vec::new());
    fleet.servers.push(ServerProcess::start(new).await);

    let load = Arc::new(fleet.load(&[0, 1, 2]));
    let lives = if long() { 400 } else { 40 };
    let over = Arc::new(AtomicBool::new(false));
    let busy = {
        let (load, over) = (Arc::clone(&load), Arc::clone(&over));
        tokio::spawn(async move { load.lives_until("between", lives, &over).await })
    };
    let ended = "select count(*) from cms.operations where state = 'succeeded'";
    for replaced in 0..2 {
        let before = fleet.count(ended).await;
        wait_for("work to get on", PATIENCE, || async {
            (fleet.count(ended).await >= before + 10).then_some(())
        })
        .await;
        let server = &mut fleet.servers[replaced];
        let begun = Instant::now();
        server.terminate().await;
        server.set_program(PROGRAM);
        server.start_again().await;
        account.injected(1);
        account.recovered(begun.elapsed());
    }
    over.store(true, Ordering::SeqCst);
    let lives = busy.await.expect("every life");
    let path = format!("/api/instances/{}", elder.instance.id);
    let seen = fleet.servers[0].get(&path).await;
    assert_eq!(
        (&seen["state"], &seen["health_status"]),
        (&"running".into(), &"healthy".into())
    );
    load.delete(&elder).await;
    fleet.sound(lives + 1).await;
}
