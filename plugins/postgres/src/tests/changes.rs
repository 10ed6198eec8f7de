//! The change feed: what is told, when, and that nothing is skipped.

use super::{instance, locally};
use crate::Instance;
use crate::exports::larder::plugin::change_feed::Change;
use crate::postgres::Postgres;
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A host that polls.
struct Host {
    instance: Instance,
    cursor: Option<Vec<u8>>,
}

impl Host {
    /// In front of the ISO codes, at the head of the feed.
    async fn watching(postgres: &Postgres, feed: &serde_json::Value) -> Self {
        let mut host = Self {
            instance: instance(postgres, &json!({ "feed": feed })),
            cursor: None,
        };
        assert_eq!(
            host.poll(PATIENCE).await,
            Vec::<String>::new(),
            "it starts at the head, and does not wait"
        );
        host
    }

    async fn page(&mut self, max: u32, wait: Duration) -> Vec<String> {
        let feed = self.instance.feed.as_ref().expect("there is a feed");
        let page = feed
            .poll(self.cursor.as_deref(), max, wait)
            .await
            .expect("the feed answers");
        self.cursor = Some(page.cursor);
        page.changes.iter().map(said).collect()
    }

    async fn poll(&mut self, wait: Duration) -> Vec<String> {
        self.page(100, wait).await
    }

    async fn rest(&mut self) -> Vec<String> {
        self.poll(Duration::ZERO).await
    }
}

fn said(change: &Change) -> String {
    match change {
        Change::Item(item) => {
            let params: Vec<String> = item
                .params
                .iter()
                .map(|param| format!("{}={}", param.name, param.value))
                .collect();
            format!(
                "{} {}",
                item.route.as_deref().unwrap_or("*"),
                params.join(" ")
            )
        }
        Change::Tag(tag) => format!("tag {tag}"),
        Change::Everything => "everything".to_owned(),
    }
}

async fn postgres() -> Postgres {
    let postgres = Postgres::start().await;
    postgres.load_iso_codes().await;
    postgres
}

#[tokio::test]
async fn a_change_wakes_who_waits_and_says_what_was_and_what_is() {
    locally(async {
        let postgres = postgres().await;
        // Nothing but the notification can wake it in time.
        let mut host = Host::watching(&postgres, &json!({ "every": "1h" })).await;
        let update = async {
            postgres
                .run("update countries set name = 'Deutschland' where alpha_2 = 'DE'")
                .await;
        };
        let (changes, ()) = tokio::join!(host.poll(PATIENCE), update);
        assert_eq!(
            changes,
            [
                "/countries/{alpha_2} alpha_2=DE",
                "/countries/{alpha_2} alpha_2=DE",
                "tag countries",
                "tag countries"
            ]
        );
        postgres
            .run("update subdivisions set country = 'FR' where code = 'DE-BE'")
            .await;
        assert_eq!(
            host.poll(PATIENCE).await,
            [
                "/subdivisions/{code} code=DE-BE",
                "/subdivisions/{code} code=DE-BE",
                "/countries/{alpha_2}/subdivisions alpha_2=DE",
                "/countries/{alpha_2}/subdivisions alpha_2=FR",
            ]
        );
        postgres.run("truncate subdivisions").await;
        assert_eq!(host.poll(PATIENCE).await, ["everything"]);
        postgres
            .run("begin; delete from countries where alpha_2 = 'AQ'; rollback")
            .await;
        assert_eq!(host.rest().await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_not_skipped_and_holds_nobody_up() {
    locally(async {
        let postgres = postgres().await;
        let mut host = Host::watching(&postgres, &json!({})).await;
        let late = postgres.session().await;
        late.batch_execute("begin; select larder.announce('tag:late', '{}')")
            .await
            .unwrap();
        postgres
            .run("select larder.announce('tag:soon', '{}')")
            .await;
        assert_eq!(
            host.poll(PATIENCE).await,
            ["tag soon"],
            "the younger one is told while the older one runs"
        );
        assert_eq!(host.rest().await, Vec::<String>::new(), "and told once");
        // Another instance, as after a restart, goes on from the cursor: told again rather than not at all.
        let mut another = Host {
            instance: instance(&postgres, &json!({ "feed": {} })),
            cursor: host.cursor.clone(),
        };
        assert_eq!(another.rest().await, ["tag soon"]);
        late.batch_execute("commit").await.unwrap();
        assert_eq!(host.poll(PATIENCE).await, ["tag late"]);
        assert_eq!(another.poll(PATIENCE).await, ["tag late"]);
        assert_eq!(host.rest().await, Vec::<String>::new());
        // Now the cursor has passed both: a third one is told of neither.
        let mut third = Host {
            instance: instance(&postgres, &json!({ "feed": {} })),
            cursor: host.cursor.clone(),
        };
        assert_eq!(third.rest().await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn many_changes_come_in_pages() {
    locally(async {
        let postgres = postgres().await;
        let mut host = Host::watching(&postgres, &json!({})).await;
        postgres
            .run("select larder.announce('tag:' || n, '{}') from generate_series(1, 250) as n")
            .await;
        let mut told = Vec::new();
        for expect in [100, 100, 50, 0] {
            let page = host.rest().await;
            assert_eq!(page.len(), expect);
            told.extend(page);
        }
        let expect: Vec<String> = (1..=250).map(|n| format!("tag {n}")).collect();
        assert_eq!(told, expect);
        // The same while an older transaction runs, and nothing is settled.
        let old = postgres.session().await;
        old.batch_execute("begin; select larder.announce('tag:old', '{}')")
            .await
            .unwrap();
        postgres
            .run("select larder.announce('tag:' || n, '{}') from generate_series(1, 5) as n")
            .await;
        assert_eq!(host.page(3, PATIENCE).await, ["tag 1", "tag 2", "tag 3"]);
        assert_eq!(host.page(3, PATIENCE).await, ["tag 4", "tag 5"]);
    })
    .await;
}

#[tokio::test]
async fn who_was_away_for_longer_than_changes_are_kept_starts_anew() {
    locally(async {
        let postgres = postgres().await;
        let mut host = Host::watching(&postgres, &json!({ "keep": "0" })).await;
        postgres
            .run("select larder.announce('tag:old', '{}')")
            .await;
        postgres.run("select larder.prune('0')").await;
        assert_eq!(host.rest().await, ["everything"]);
        assert_eq!(host.rest().await, Vec::<String>::new());
        postgres
            .run("select larder.announce('tag:new', '{}')")
            .await;
        assert_eq!(host.rest().await, ["tag new"]);
        // Told before it was removed: nothing is lost.
        postgres.run("select larder.prune('0')").await;
        assert_eq!(host.rest().await, Vec::<String>::new());
        // Another outbox counts anew, and the places of the old one mean nothing in it.
        postgres
            .run("update larder.feed set id = gen_random_uuid()")
            .await;
        assert_eq!(host.rest().await, ["everything"]);
    })
    .await;
}

#[tokio::test]
async fn old_changes_are_removed_by_the_reader() {
    locally(async {
        let postgres = postgres().await;
        postgres.run("select larder.announce('tag:old', '{}'); update larder.outbox set at = now() - interval '2 days'").await;
        let mut host = Host::watching(&postgres, &json!({ "keep": "1d" })).await;
        assert_eq!(host.rest().await, Vec::<String>::new());
        let left = postgres.session().await.query_one("select count(*) from larder.outbox", &[]).await.unwrap();
        assert_eq!(left.get::<_, i64>(0), 0);
    })
    .await;
}

#[tokio::test]
async fn a_feed_that_is_not_installed_says_what_to_run() {
    locally(async {
        let postgres = Postgres::start().await;
        let instance = instance(&postgres, &json!({ "feed": {} }));
        let feed = instance.feed.as_ref().unwrap();
        let fault = feed.poll(None, 1, Duration::ZERO).await.unwrap_err();
        assert!(
            fault.failure.message.contains("install.sql"),
            "{}",
            fault.failure.message
        );
    })
    .await;
}

#[tokio::test]
async fn a_feed_survives_its_database() {
    locally(async {
        let mut postgres = postgres().await;
        let mut host = Host::watching(&postgres, &json!({})).await;
        postgres
            .run("select larder.announce('tag:before', '{}')")
            .await;
        postgres.stop().await;
        postgres.restart().await;
        postgres
            .run("select larder.announce('tag:after', '{}')")
            .await;
        let feed = host.instance.feed.as_ref().unwrap();
        let page = crate::wait::eventually("the feed answers again", async || {
            feed.poll(host.cursor.as_deref(), 10, Duration::ZERO)
                .await
                .ok()
        })
        .await;
        host.cursor = Some(page.cursor);
        assert_eq!(
            page.changes.iter().map(said).collect::<Vec<_>>(),
            ["tag before", "tag after"]
        );
    })
    .await;
}
