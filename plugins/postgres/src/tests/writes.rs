//! Changes: what they make of rows, together and alone, in order, once, and when something goes wrong.

use std::path::Path;

use super::{instance, load, locally};
use crate::Instance;
use crate::exports::larder::plugin::writer::{Mutation, Operation, Payload, Precondition, Receipt};
use crate::postgres::{Postgres, READER};
use crate::wait::eventually;
use larder_plugin_support::{Failure, FailureKind, Param, Target};
use serde_json::{Value, json};

const ROUTE: &str = "/items/{id}";

/// A database with a table of items, which the user of the plugin may change, and the side tables.
async fn postgres() -> Postgres {
    let postgres = Postgres::start().await;
    postgres
        .run(&format!(
            "create table makers (id int primary key); insert into makers values (1);
             create table items (id smallint primary key, name text not null unique, price numeric check (price >= 0),
                 data bytea, kinds text[], maker int references makers, born date);
             grant select, insert, update, delete on items to {READER}; grant select on makers to {READER}"
        ))
        .await;
    install(&postgres).await;
    postgres
}

async fn install(postgres: &Postgres) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("install-writes.sql");
    postgres
        .run_file(&file, &[&format!("writer={READER}")])
        .await;
}

fn settings(more: &Value) -> Value {
    let optional = |type_name: &str| json!({ "type": type_name, "required": false });
    let mut settings = json!({
        "queries": { ROUTE: { "sql": "select * from items where id = $id", "params": { "id": "smallint" }, "result": "one" } },
        "writes": { ROUTE: {
            "table": "items", "key": { "id": "smallint" }, "delete": true, "tags": ["items", "maker:{maker}"],
            "columns": {
                "name": "text", "price": optional("numeric"), "data": optional("bytea"), "kinds": optional("text[]"),
                "maker": optional("int"), "born": optional("date"),
            },
        } },
    });
    let members = settings.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    settings
}

fn ordered() -> Value {
    settings(&json!({ "order": {}, "once": {} }))
}

fn change(id: &str, operation: Operation, sequence: u64) -> Mutation {
    Mutation {
        target: Target {
            route: ROUTE.to_owned(),
            parts: vec![Param {
                name: "id".to_owned(),
                value: id.to_owned(),
            }],
            deadline_ms: 20_000,
            traceparent: None,
            hints: Vec::new(),
        },
        operation,
        expect: Precondition::None,
        idempotency_key: format!("{id} {sequence}"),
        sequence,
        hints: Vec::new(),
    }
}

fn put(id: &str, body: &Value, sequence: u64) -> Mutation {
    let payload = Payload {
        content_type: Some("application/json".to_owned()),
        body: body.to_string().into_bytes(),
    };
    change(id, Operation::Put(payload), sequence)
}

fn named(id: &str, name: &str, sequence: u64) -> Mutation {
    put(id, &json!({ "name": name }), sequence)
}

fn delete(id: &str, sequence: u64) -> Mutation {
    change(id, Operation::Delete, sequence)
}

async fn write(instance: &Instance, mutation: Mutation) -> Result<Receipt, Failure> {
    instance.writes.write(&[mutation]).await.remove(0)
}

async fn created(instance: &Instance, mutation: Mutation) -> bool {
    write(instance, mutation).await.expect("it is made").created
}

async fn refused(instance: &Instance, mutation: Mutation) -> (FailureKind, String) {
    let failure = write(instance, mutation).await.expect_err("it is refused");
    (failure.kind, failure.code)
}

async fn name_of(instance: &Instance, id: &str) -> Value {
    let item = load(instance, ROUTE, &[("id", id)])
        .await
        .expect("no failure");
    item["name"].clone()
}

#[tokio::test]
async fn what_is_written_is_what_is_read_until_it_is_removed() {
    locally(async {
        let postgres = postgres().await;
        for settings in [settings(&json!({})), ordered()] {
            let instance = instance(&postgres, &settings);
            instance.writes.probe().await.expect("the settings fit");
            let item = json!({
                "id": 7, "name": "it's \"7\"; drop table items --", "price": 0.10, "data": "AP8Q", "kinds": ["a,b", "{}", null],
                "maker": 1, "born": "2024-02-29",
            });
            let receipt = write(&instance, put("7", &item, 1)).await.expect("it is made");
            assert!(receipt.created);
            assert_eq!(receipt.tags, ["items", "maker:1"]);
            assert_eq!(load(&instance, ROUTE, &[("id", "7")]).await.unwrap(), item);
            // All of it: what a body does not have has no value.
            assert!(!created(&instance, named("7", "other", 2)).await);
            let other = load(&instance, ROUTE, &[("id", "7")]).await.unwrap();
            assert_eq!((&other["name"], &other["price"]), (&json!("other"), &Value::Null));
            assert!(!created(&instance, delete("7", 3)).await);
            assert_eq!(name_of(&instance, "7").await, Value::Null);
            assert!(!created(&instance, delete("7", 4)).await, "one that is not there is removed");
            postgres.run("truncate larder.written, larder.once").await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_comes_together_is_one_statement() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        created(&instance, named("500", "gone", 1)).await;
        let before = postgres.executed("larder_judged");
        let mut mutations: Vec<Mutation> = (0..300)
            .map(|id| named(&id.to_string(), &format!("n{id}"), 2))
            .collect();
        mutations.push(delete("500", 2));
        let results = instance.writes.write(&mutations).await;
        let made = results
            .iter()
            .filter(|result| result.as_ref().unwrap().created);
        assert_eq!(made.count(), 300);
        assert_eq!(postgres.executed("larder_judged") - before, 1);
        assert_eq!(name_of(&instance, "299").await, "n299");
        assert_eq!(name_of(&instance, "500").await, Value::Null);
    })
    .await;
}

#[tokio::test]
async fn one_that_does_not_fit_fails_alone_and_says_why() {
    locally(async {
        let postgres = postgres().await;
        postgres
            .run(
                "create function no() returns trigger language plpgsql as $$ begin raise exception 'not %', new.name; end $$;
                 create trigger no before insert on items for each row when (new.name = 'evil') execute function no()",
            )
            .await;
        let instance = instance(&postgres, &ordered());
        created(&instance, named("99", "taken", 1)).await;
        let bad = [
            (put("1", &json!({ "name": "a", "born": "some day" }), 1), FailureKind::InvalidRequest, "value-unfit", "born"),
            (named("x", "b", 1), FailureKind::InvalidRequest, "value-unfit", "id"),
            (named("2", "nul\0", 1), FailureKind::InvalidRequest, "value-unfit", "name"),
            (put("3", &json!({ "name": "c", "data": "?" }), 1), FailureKind::InvalidRequest, "value-unfit", "data"),
            (put("4", &json!({ "name": null }), 1), FailureKind::InvalidRequest, "value-missing", "name"),
            (put("5", &json!({ "name": "d", "price": -1 }), 1), FailureKind::InvalidRequest, "check-failed", ""),
            (named("6", "taken", 1), FailureKind::Conflict, "not-unique", ""),
            (put("7", &json!({ "name": "e", "maker": 2 }), 1), FailureKind::Conflict, "reference-broken", ""),
            (named("8", "evil", 1), FailureKind::InvalidRequest, "refused-by-trigger", ""),
            (put("9", &json!({}), 1), FailureKind::InvalidRequest, "member-missing", "name"),
        ];
        let mut mutations = vec![named("10", "good", 1)];
        mutations.extend(bad.iter().map(|(mutation, ..)| mutation.clone()));
        mutations.push(named("11", "better", 1));
        let results = instance.writes.write(&mutations).await;
        for ((mutation, kind, code, name), result) in bad.iter().zip(&results[1..]) {
            let failure = result.as_ref().expect_err(code);
            assert_eq!((failure.kind, failure.code.as_str()), (*kind, *code), "{mutation:?}: {}", failure.message);
            let about = failure.details.first().map_or("", |detail| &detail.name);
            assert_eq!(about, *name, "{failure:?}");
        }
        // What other rows hold is nobody's to read.
        let unique = results[7].as_ref().unwrap_err();
        assert!(unique.message.contains("items_name_key") && !unique.message.contains("taken"), "{}", unique.message);
        for (at, id, name) in [(0, "10", "good"), (11, "11", "better")] {
            assert!(results[at].as_ref().expect("it is made").created);
            assert_eq!(name_of(&instance, id).await, name);
        }
    })
    .await;
}

#[tokio::test]
async fn one_row_by_two_names_is_written_twice() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        let results = instance
            .writes
            .write(&[named("7", "a", 1), named("07", "b", 2)])
            .await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(name_of(&instance, "7").await, "b");
    })
    .await;
}

#[tokio::test]
async fn an_older_change_that_comes_late_changes_nothing_and_brings_nothing_back() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        assert!(created(&instance, named("1", "five", 5)).await);
        assert!(!created(&instance, named("1", "four", 4)).await);
        assert_eq!(name_of(&instance, "1").await, "five");
        assert!(!created(&instance, delete("1", 3)).await);
        assert_eq!(name_of(&instance, "1").await, "five");
        created(&instance, delete("1", 8)).await;
        assert!(!created(&instance, named("1", "seven", 7)).await);
        assert_eq!(name_of(&instance, "1").await, Value::Null);
        // Late ones are judged by nothing else.
        let mut late = named("1", "six", 6);
        late.expect = Precondition::Present;
        assert!(!created(&instance, late).await);
        assert!(created(&instance, named("1", "nine", 9)).await);
        assert_eq!(name_of(&instance, "1").await, "nine");
        // Without the table the last that comes counts.
        let unordered = super::instance(&postgres, &settings(&json!({})));
        created(&unordered, named("1", "four", 4)).await;
        assert_eq!(name_of(&instance, "1").await, "four");
    })
    .await;
}

/// Until a statement of the plugin waits for a lock.
async fn until_it_waits(postgres: &Postgres) {
    let session = postgres.session().await;
    eventually("the change waits", async || {
        let sql = "select pid from pg_stat_activity where application_name = 'larder' and wait_event_type = 'Lock'";
        (!session.query(sql, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_delete_removes_what_an_older_put_committed_after_it_began() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        // The older change, by another node, in the middle.
        let older = postgres.session().await;
        older
            .batch_execute(&format!(
                "begin; insert into items (id, name) values (1, 'older');
                 insert into larder.written (route, place, sequence) values ('{ROUTE}', '[1]', 5)"
            ))
            .await
            .unwrap();
        let commit = async {
            until_it_waits(&postgres).await;
            older.batch_execute("commit").await.unwrap();
        };
        let (result, ()) = tokio::join!(write(&instance, delete("1", 6)), commit);
        result.expect("it is made");
        assert_eq!(name_of(&instance, "1").await, Value::Null);
    })
    .await;
}

#[tokio::test]
async fn a_put_that_meets_another_at_the_same_moment_knows_whether_it_made_the_row() {
    locally(async {
        let postgres = postgres().await;
        for settings in [settings(&json!({})), ordered()] {
            postgres
                .run("truncate items, larder.written, larder.once")
                .await;
            let instance = instance(&postgres, &settings);
            for (expect, wanted) in [
                (Precondition::None, Ok(false)),
                (Precondition::Absent, Err("row-present")),
            ] {
                postgres
                    .run("truncate items, larder.written, larder.once")
                    .await;
                let other = postgres.session().await;
                other
                    .batch_execute("begin; insert into items (id, name) values (1, 'other')")
                    .await
                    .unwrap();
                let commit = async {
                    until_it_waits(&postgres).await;
                    other.batch_execute("commit").await.unwrap();
                };
                let mut mutation = named("1", "ours", 1);
                mutation.expect = expect;
                let (result, ()) = tokio::join!(write(&instance, mutation), commit);
                let said = result.as_ref().map(|receipt| receipt.created);
                assert_eq!(said.map_err(|failure| failure.code.as_str()), wanted);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn many_at_once_leave_the_last_in_the_order_of_their_numbers() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        let nodes = [&instance, &super::instance(&postgres, &ordered())];
        // From the middle outwards: neither in order nor against it.
        let mut numbers: Vec<u64> = (1..=8).collect();
        numbers.sort_by_key(|number| number.abs_diff(4));
        let all = numbers.iter().enumerate().map(|(at, &number)| {
            let mutation = match number {
                8 => delete("1", 8),
                _ => named("1", &number.to_string(), number),
            };
            write(nodes[at % 2], mutation)
        });
        for result in futures_util::future::join_all(all).await {
            result.expect("each is made, or late");
        }
        assert_eq!(name_of(&instance, "1").await, Value::Null);
    })
    .await;
}

#[tokio::test]
async fn a_change_that_comes_twice_is_made_once() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &settings(&json!({ "once": {} })));
        assert!(created(&instance, named("1", "a", 1)).await);
        postgres.run("update items set name = 'by another'").await;
        assert!(
            created(&instance, named("1", "a", 1)).await,
            "it says what it said"
        );
        assert_eq!(name_of(&instance, "1").await, "by another");
        // What failed is not noted.
        let mut conditional = named("2", "b", 2);
        conditional.expect = Precondition::Present;
        assert_eq!(
            refused(&instance, conditional.clone()).await.1,
            "row-absent"
        );
        postgres
            .run("insert into items (id, name) values (2, 'there')")
            .await;
        assert!(!created(&instance, conditional).await);
        assert_eq!(name_of(&instance, "2").await, "b");
    })
    .await;
}

#[tokio::test]
async fn conditions_hold_or_are_a_conflict() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        let when = |expect, mut mutation: Mutation| {
            mutation.expect = expect;
            mutation
        };
        let conflict = |code: &str| (FailureKind::Conflict, code.to_owned());
        assert_eq!(
            refused(&instance, when(Precondition::Present, named("1", "a", 1))).await,
            conflict("row-absent")
        );
        assert_eq!(
            refused(&instance, when(Precondition::Present, delete("1", 1))).await,
            conflict("row-absent")
        );
        assert!(created(&instance, when(Precondition::Absent, named("1", "a", 1))).await);
        assert_eq!(
            refused(&instance, when(Precondition::Absent, named("1", "b", 2))).await,
            conflict("row-present")
        );
        assert_eq!(name_of(&instance, "1").await, "a");
        assert!(!created(&instance, when(Precondition::Present, named("1", "b", 2))).await);
        assert!(!created(&instance, when(Precondition::Present, delete("1", 3))).await);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_under_a_change_leaves_it_unknown_and_one_that_is_not_there_does_not()
 {
    locally(async {
        let mut postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        created(&instance, named("1", "a", 1)).await;
        let lock = postgres.session().await;
        lock.batch_execute("begin; lock table items").await.unwrap();
        let cut = async {
            until_it_waits(&postgres).await;
            postgres
                .run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'larder' and wait_event_type = 'Lock'")
                .await;
        };
        let (result, ()) = tokio::join!(write(&instance, named("1", "b", 2)), cut);
        let failure = result.expect_err("nobody knows");
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Unavailable, "outcome-unknown"));
        lock.batch_execute("rollback").await.unwrap();
        // The same again is made once.
        created(&instance, named("1", "b", 2)).await;
        assert_eq!(name_of(&instance, "1").await, "b");
        // One that ended while nobody wrote is seen before anything is sent.
        postgres.stop().await;
        let (kind, code) = refused(&instance, named("1", "c", 3)).await;
        assert_eq!(kind, FailureKind::Unavailable);
        assert!(["connection-lost", "database-unreachable"].contains(&code.as_str()), "{code}");
        postgres.restart().await;
        eventually("it is written again", async || write(&instance, named("1", "c", 3)).await.ok()).await;
    })
    .await;
}

#[tokio::test]
async fn a_change_that_waits_too_long_is_given_up_by_the_server() {
    locally(async {
        let postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        created(&instance, named("1", "a", 1)).await;
        let lock = postgres.session().await;
        lock.batch_execute("begin; lock table items").await.unwrap();
        let mut mutation = named("1", "b", 2);
        mutation.target.deadline_ms = 500;
        assert_eq!(
            refused(&instance, mutation).await,
            (FailureKind::Timeout, "statement-timeout".to_owned())
        );
        lock.batch_execute("rollback").await.unwrap();
        assert_eq!(name_of(&instance, "1").await, "a");
    })
    .await;
}

#[tokio::test]
async fn the_probe_says_what_is_missing() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.run("create table items (id smallint, name text)").await;
        let writes = json!({ ROUTE: { "table": "public.items", "key": { "id": "smallint" }, "columns": { "name": "text" } } });
        let settings = |order: bool| {
            let mut all = json!({ "writes": writes });
            if order {
                all["order"] = json!({});
            }
            settings(&all)
        };
        let probe = async |order: bool| {
            let fault = instance(&postgres, &settings(order)).writes.probe().await;
            fault.map_err(|fault| (fault.failure.code.clone(), fault.for_operator().message))
        };
        let check = |probed: Result<(), (String, String)>, code: &str, word: &str| {
            let (found, message) = probed.expect_err(code);
            assert_eq!(found, code, "{message}");
            assert!(message.contains(word) && message.contains(ROUTE), "{word}: {message}");
        };
        check(probe(false).await, "key-not-unique", "42P10");
        postgres.run("alter table items add primary key (id)").await;
        check(probe(false).await, "database-denied", "grant it");
        postgres.run(&format!("grant select, insert, update on items to {READER}")).await;
        probe(false).await.expect("nothing is missing");
        check(probe(true).await, "write-invalid", "install-writes.sql");
        install(&postgres).await;
        probe(true).await.expect("nothing is missing");
        install(&postgres).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_old_is_forgotten() {
    locally(async {
        let postgres = postgres().await;
        postgres
            .run(&format!(
                "insert into larder.written values ('{ROUTE}', '[1]', 5, now() - interval '2 hours'), ('{ROUTE}', '[2]', 5, now());
                 insert into larder.once values ('old', true, now() - interval '2 hours'), ('new', true, now())"
            ))
            .await;
        let instance = instance(&postgres, &settings(&json!({ "order": { "keep": "1h" }, "once": { "keep": "0" } })));
        created(&instance, named("3", "a", 1)).await;
        let session = postgres.session().await;
        eventually("the old place is gone", async || {
            let sql = "select place from larder.written order by place";
            let places = session.query(sql, &[]).await.unwrap();
            let places: Vec<&str> = places.iter().map(|row| row.get(0)).collect();
            (places == ["[2]", "[3]"]).then_some(())
        })
        .await;
        let keys = session.query("select key from larder.once", &[]).await.unwrap();
        assert_eq!(keys.len(), 3, "`keep = \"0\"` keeps");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ended_between_two_changes_costs_none_of_them() {
    locally(async {
        let mut postgres = postgres().await;
        let instance = instance(&postgres, &ordered());
        created(&instance, named("1", "a", 1)).await;
        postgres.stop().await;
        postgres.restart().await;
        assert!(!created(&instance, named("1", "b", 2)).await);
    })
    .await;
}
