//! What `larder redis-acl` prints: enough, and nothing more.

use larder_tests::{Client, Larder, Origin, Redis, eventually};

use super::{are_one_cache, node};

/// All that Larder does with Redis, as a user that may do what `larder redis-acl` prints and nothing else.
#[tokio::test]
async fn by_a_user_that_may_do_what_is_printed_and_nothing_else() {
    let (origin, mut redis) = (Origin::start(), Redis::start().await);
    let home = Larder::with()
        .section(&format!(
            "[redis]\nurl = {:?}\nprefix = \"app:x\"",
            redis.url()
        ))
        .write();
    let printed = home.run(&["redis-acl", "--config", "larder.toml"]).await;
    assert!(printed.status.success(), "{printed:?}");
    let line = printed.stdout;
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let (set, words) = words.split_first().expect("SETUSER");
    let words: Vec<&str> = words
        .iter()
        .map(|word| {
            if *word == ">PASSWORD" {
                ">geheim"
            } else {
                word
            }
        })
        .collect();
    let _: String = redis.run("ACL", &[&[*set][..], &words].concat()).await;
    let _: String = redis.run("CONFIG", &["RESETSTAT"]).await;
    let url = redis.url().replace("redis://", "redis://app:x:geheim@");
    let url = url.replace("app:x:", "app%3Ax:");
    let lines = format!("url = {url:?}\nprefix = \"app:x\"\ntrust = \"400ms\"");
    let (one, other) = (node(&origin, &lines).await, node(&origin, &lines).await);
    are_one_cache(&one, &other, "/things/42").await;
    one.get("/things/42").await;
    let listed = one.entries("/things/42").await;
    let listed = listed.as_array().expect("a list");
    assert!(
        listed.iter().any(|entry| entry["tier"] == "redis"),
        "{listed:?}"
    );
    // A load that fails gives its lease back, and one that takes long renews it.
    origin.on("/failing", larder_tests::Reply::status(500));
    assert_eq!(one.get("/things/failing").await.status, 502);
    let gate = origin.gate("/slow");
    let slow = Client::new(one.public.address());
    let slow = tokio::spawn(async move { slow.get("/things/slow").await });
    gate.arrived(1).await;
    let waiting = Client::new(other.public.address());
    let waiting = tokio::spawn(async move { waiting.get("/things/slow").await });
    eventually("everything that is allowed was needed", async || {
        let used: String = redis.run("INFO", &["commandstats"]).await;
        let unused = words
            .iter()
            .filter_map(|word| word.strip_prefix('+'))
            .find(|command| {
                // Where there are replicas; to forget old purges.
                !["wait", "hdel"].contains(command)
                    && !used.contains(&format!("cmdstat_{command}:"))
            });
        if let Some(unused) = unused {
            eprintln!("{unused} is yet to be needed");
        }
        unused.is_none().then_some(())
    })
    .await;
    gate.open();
    assert_eq!(waiting.await.expect("it is answered").status, 200);
    assert_eq!(slow.await.expect("it is answered").status, 200);
    let denied: Vec<redis::Value> = redis.run("ACL", &["LOG"]).await;
    assert!(denied.is_empty(), "{denied:?}");
    redis.kill().await;
}
