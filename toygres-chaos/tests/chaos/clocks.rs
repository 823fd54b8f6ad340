//! The clock of one of two servers is wrong: it takes no work and says so, and the other one does all of it.

use crate::PATIENCE;
use crate::servers::Fleet;
use reqwest::Method;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use toygres_chaos::{Account, ServerProcess};
use toygres_testing::wait_for;

/// The library that has a process see another time, where Debian or Fedora put it.
fn libfaketime() -> PathBuf {
    let beneath = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut places = beneath
        .map(|place| place.path())
        .chain([PathBuf::from("/usr/lib64")]);
    places
        .find_map(|place| {
            let library = place.join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        })
        .expect("libfaketime is not installed: scripts/test.sh does that")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_wrong_takes_no_work_and_says_so() {
    let mut account = Account::new(
        "clock",
        "the clock of one of two servers 3 s or 1 h ahead or behind",
    );
    let mut fleet = Fleet::start(&["all"]).await;
    let offset = fleet.home.path().join("clock");
    let set = |text: &str| {
        let new = offset.with_extension("new");
        std::fs::write(&new, format!("{text}\n")).unwrap();
        std::fs::rename(new, &offset).unwrap();
    };
    set("+0");
    let options = fleet.options(vec![
        ("LD_PRELOAD", libfaketime().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]);
    fleet.servers.push(ServerProcess::start(options).await);
    let load = fleet.load(&[0, 1]);
    load.lives("before", 10).await;
    let (activities, turns) = (fleet.servers[1].activities_run(), fleet.servers[1].turns());
    assert!(activities > 0 && turns > 0, "with the right time it works");
    let mut lives = 10;
    for skew in ["+3s", "-3s", "+1h", "-1h"] {
        set(skew);
        let set_at = Instant::now();
        let wrong = &fleet.servers[1];
        wait_for("it to say so", PATIENCE, || async {
            let (status, body) = wrong.ask(Method::GET, "/readyz", None).await?;
            let says = body
                .to_string()
                .contains("no work is taken until it is set right");
            (status == 503 && says).then_some(())
        })
        .await;
        // What it had taken before comes to its end.
        let done = || (wrong.activities_run(), wrong.turns());
        let before = wait_for("it to rest", PATIENCE, || async {
            let seen = done();
            tokio::time::sleep(Duration::from_secs(2)).await;
            (done() == seen).then_some(seen)
        })
        .await;
        load.lives(&format!("during-{}", skew.replace('+', "p")), 10)
            .await;
        lives += 10;
        assert_eq!(done(), before, "{skew}: it took work");
        eprintln!("{skew}: said and kept to for {:?}", set_at.elapsed());
        set("+0");
        let right = Instant::now();
        fleet.servers[1].ready().await;
        let before = fleet.servers[1].activities_run();
        while fleet.servers[1].activities_run() == before {
            assert!(right.elapsed() < PATIENCE, "{skew}: it does not work again");
            load.lives(&format!("after-{lives}"), 5).await;
            lives += 5;
        }
        account.injected(1);
        account.recovered(right.elapsed());
    }
    let log = std::fs::read_to_string(fleet.servers[1].log()).unwrap();
    assert!(log.contains("this machine's clock is"), "it is logged");
    fleet.sound(lives).await;
}
