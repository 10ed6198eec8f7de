//! Rows and absences, types, gathering, failures.

use super::{body, instance, load, locally, question};
use crate::postgres::{Postgres, READER};
use larder_plugin_support::FailureKind;
use serde_json::{Value, json};

/// One query that takes nothing, at `/it`.
async fn it(postgres: &Postgres, sql: &str) -> Result<Value, larder_plugin_support::Failure> {
    let instance = instance(
        postgres,
        &json!({ "queries": { "/it": { "sql": sql, "result": "one" } } }),
    );
    load(&instance, "/it", &[]).await
}

#[tokio::test]
async fn every_type_has_its_json() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.run("create type mood as enum ('sad', 'glad')").await;
        let row = it(
            &postgres,
            r#"select 1::smallint as "int2", -2147483648 as "int4", 9007199254740993 as "int8",
                1.5::real as "float4", 0.1::float8 as "float8", 'NaN'::float8 as "nan",
                12345678901234567890.10::numeric as "numeric", true as "bool", 'é"\'::text as "text", null::text as "null",
                'c'::char(3) as "char", '2d97d2a6-6d2c-4f5b-8a49-1d3e9a6c5b11'::uuid as "uuid",
                date '2024-02-29' as "date", time '12:34:56.5' as "time", timestamp '2024-02-29 12:00' as "timestamp",
                timestamptz '2024-02-29 12:00+02' as "timestamptz", 'infinity'::timestamptz as "forever",
                interval '1 day 2 hours' as "interval",
                '{1,null,3}'::int[] as "ints", '{{"a","b"},{"c","d"}}'::text[] as "texts", '{}'::text[] as "none",
                '{"a": [1, 2.50]}'::jsonb as "jsonb", '[1,  null]'::json as "json",
                '\x00ff10'::bytea as "bytea", repeat('x', 100)::bytea as "long", null::bytea as "no bytes",
                'glad'::mood as "enum", '192.168.0.0/24'::cidr as "cidr", int4range(1, 5) as "range",
                row(1, 'x') as "row" -- and a comment at the end"#,
        )
        .await
        .expect("it is found");
        let expect = json!({
            "int2": 1, "int4": -2_147_483_648_i64, "int8": 9_007_199_254_740_993_i64,
            "float4": 1.5, "float8": 0.1, "nan": "NaN",
            "numeric": 12345678901234567890.10, "bool": true, "text": "é\"\\", "null": null,
            "char": "c  ", "uuid": "2d97d2a6-6d2c-4f5b-8a49-1d3e9a6c5b11",
            "date": "2024-02-29", "time": "12:34:56.5", "timestamp": "2024-02-29T12:00:00",
            "timestamptz": "2024-02-29T10:00:00+00:00", "forever": "infinity",
            "interval": "P1DT2H",
            "ints": [1, null, 3], "texts": [["a", "b"], ["c", "d"]], "none": [],
            "jsonb": { "a": [1, 2.50] }, "json": [1, null],
            "bytea": "AP8Q", "long": format!("{}eA==", "eHh4".repeat(33)), "no bytes": null,
            "enum": "glad", "cidr": "192.168.0.0/24", "range": "[1,5)",
            "row": { "f1": 1, "f2": "x" },
        });
        for (name, value) in expect.as_object().unwrap() {
            assert_eq!(&row[name], value, "{name}");
        }
        assert_eq!(row.as_object().unwrap().len(), expect.as_object().unwrap().len());
    })
    .await;
}

#[tokio::test]
async fn a_numeric_keeps_its_digits() {
    locally(async {
        let postgres = Postgres::start().await;
        let queries = json!({ "queries": { "/it": { "sql": "select 12345678901234567890.10::numeric as n", "result": "one" } } });
        let instance = instance(&postgres, &queries);
        let outcome = instance.loads.load_many(&[question("/it", &[])]).await.remove(0);
        let Ok(larder_plugin_support::Outcome::Found(entry)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(entry.body, br#"{"n":12345678901234567890.10}"#);
    })
    .await;
}

fn countries() -> Value {
    json!({ "queries": {
        "/countries/{alpha_2}": {
            "sql": "select alpha_2, name from countries where alpha_2 = any($alpha_2)",
            "params": { "alpha_2": "text" }, "key": "alpha_2", "result": "one",
        },
        "/countries/{country}/subdivisions": {
            "sql": "select code, country from subdivisions where country = any($country) order by code desc;",
            "params": { "country": "text" }, "key": "country", "result": "many",
        },
        "/numbers/{number}": {
            "sql": "select number, name from countries where number = any($1)",
            "params": { "number": "smallint" }, "key": "number", "result": "one",
        },
        "/search": {
            "sql": "select count(*) as found from subdivisions where type = any($type) and ($country is null or country = $country)",
            "params": { "type": "text[]", "country": "text" }, "result": "one",
        },
    } })
}

#[tokio::test]
async fn many_questions_are_one_statement_and_each_gets_its_own() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.load_iso_codes().await;
        let instance = instance(&postgres, &countries());
        instance.loads.probe().await.expect("the queries are right");
        let codes: Vec<String> = ('A'..='Z')
            .flat_map(|a| ('A'..='Z').map(move |b| format!("{a}{b}")))
            .collect();
        let mut questions: Vec<_> = codes
            .iter()
            .map(|code| question("/countries/{alpha_2}", &[("alpha_2", code)]))
            .collect();
        questions.extend(
            ["DE", "XX"]
                .map(|code| question("/countries/{country}/subdivisions", &[("country", code)])),
        );
        let results = instance.loads.load_many(&questions).await;
        let mut found = 0;
        for (code, result) in codes.iter().zip(&results) {
            let value = body(result.clone().expect("no failure"));
            if !value.is_null() {
                found += 1;
                assert_eq!(value["alpha_2"], *code);
            }
        }
        assert_eq!(found, 249);
        let german = body(results[676].clone().unwrap());
        let codes: Vec<&str> = german
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["code"].as_str().unwrap())
            .collect();
        assert_eq!(codes.len(), 16);
        assert!(
            codes.is_sorted_by(|a, b| a > b),
            "the order of the query is kept: {codes:?}"
        );
        assert_eq!(body(results[677].clone().unwrap()), json!([]));
        assert_eq!(postgres.executed("from countries"), 1);
        assert_eq!(postgres.executed("from subdivisions"), 1);
    })
    .await;
}

#[tokio::test]
async fn equal_keys_are_what_the_database_says_and_a_bad_one_fails_alone() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.load_iso_codes().await;
        let instance = instance(&postgres, &countries());
        let keys = ["276", "0276", "x", "99999", "1\0", " 276", "-1", "250"];
        let questions = keys.map(|key| question("/numbers/{number}", &[("number", key)]));
        let results = instance.loads.load_many(&questions).await;
        for (at, name) in [
            (0, "Germany"),
            (1, "Germany"),
            (5, "Germany"),
            (7, "France"),
        ] {
            assert_eq!(
                body(results[at].clone().unwrap())["name"],
                name,
                "{}",
                keys[at]
            );
        }
        for at in [2, 3, 4] {
            let failure = results[at].clone().unwrap_err();
            assert_eq!(
                (failure.kind, failure.code.as_str()),
                (FailureKind::InvalidRequest, "parameter-unfit")
            );
        }
        let failure = results[2].clone().unwrap_err();
        assert_eq!(failure.details[0].name, "number");
        assert_eq!(body(results[6].clone().unwrap()), Value::Null);
    })
    .await;
}

#[tokio::test]
async fn parameters_are_bound_and_never_read_as_sql() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.load_iso_codes().await;
        let instance = instance(&postgres, &countries());
        let evil = "DE' or 'a' = 'a\\\"},{";
        assert_eq!(
            load(&instance, "/countries/{alpha_2}", &[("alpha_2", evil)])
                .await
                .unwrap(),
            Value::Null
        );
        let search = async |parts: &[(&str, &str)]| {
            load(&instance, "/search", parts).await.unwrap()["found"].clone()
        };
        assert_eq!(search(&[("type", "State"), ("country", "US")]).await, 50);
        // Absent is NULL; given twice is an array of two.
        assert_eq!(search(&[]).await, 0);
        assert_eq!(
            search(&[("type", "State"), ("type", "District"), ("country", "US")]).await,
            51
        );
        assert_eq!(search(&[("type", evil)]).await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_goes_wrong_has_its_kind() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.run("create table secret (id int); create table open (id int); insert into open values (1), (2)").await;
        postgres.run(&format!("grant select, insert on open to {READER}")).await;
        for (sql, kind, code) in [
            ("select 'x'::text::int as n", FailureKind::InvalidRequest, "parameter-unfit"),
            ("select * from secret", FailureKind::Denied, "database-denied"),
            ("selekt 1", FailureKind::Internal, "query-invalid"),
            ("select * from nothing", FailureKind::Internal, "query-invalid"),
            ("select 1/0 as n", FailureKind::Internal, "query-failed"),
            ("select * from open", FailureKind::Internal, "rows-not-one"),
            ("select 1 as a, 2 as a", FailureKind::Internal, "query-unfit"),
            ("insert into open values (3) returning id", FailureKind::Internal, "query-invalid"),
        ] {
            let failure = it(&postgres, sql).await.expect_err(sql);
            assert_eq!((failure.kind, failure.code.as_str()), (kind, code), "{sql}: {}", failure.message);
        }
        let slow = json!({ "queries": { "/it": { "sql": "select pg_sleep(60)::text as s", "result": "one" } } });
        let slow = instance(&postgres, &slow);
        let mut question = question("/it", &[]);
        question.target.deadline_ms = 300;
        let failure = slow.loads.load_many(&[question]).await.remove(0).unwrap_err();
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Timeout, "statement-timeout"));
    })
    .await;
}

#[tokio::test]
async fn too_much_for_one_answer_is_told_and_does_not_fail_its_neighbours() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres.load_iso_codes().await;
        let mut more = countries();
        more["rows_max"] = json!(100);
        let instance = instance(&postgres, &more);
        let questions = ["GB", "DE"]
            .map(|code| question("/countries/{country}/subdivisions", &[("country", code)]));
        let results = instance.loads.load_many(&questions).await;
        assert_eq!(results[0].clone().unwrap_err().code, "answer-too-large");
        assert_eq!(
            body(results[1].clone().unwrap()).as_array().unwrap().len(),
            16
        );
    })
    .await;
}

#[tokio::test]
async fn a_table_that_changed_is_noticed() {
    locally(async {
        let postgres = Postgres::start().await;
        postgres
            .run("create table t as select 1 as a, '\\x00'::bytea as b")
            .await;
        postgres
            .run(&format!("grant select on t to {READER}"))
            .await;
        let instance = instance(
            &postgres,
            &json!({ "queries": { "/it": { "sql": "select * from t", "result": "one" } } }),
        );
        assert_eq!(
            load(&instance, "/it", &[]).await.unwrap(),
            json!({ "a": 1, "b": "AA==" })
        );
        postgres
            .run("alter table t drop column b, alter column a type text")
            .await;
        assert_eq!(
            load(&instance, "/it", &[]).await.unwrap(),
            json!({ "a": "1" })
        );
    })
    .await;
}

#[tokio::test]
async fn a_database_that_went_away_is_unavailable_and_found_again() {
    locally(async {
        let mut postgres = Postgres::start().await;
        let instance = instance(
            &postgres,
            &json!({ "queries": { "/it": { "sql": "select 1 as n", "result": "one" } } }),
        );
        load(&instance, "/it", &[]).await.expect("it is there");
        postgres.stop().await;
        let failure = load(&instance, "/it", &[]).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.code.as_str()),
            (FailureKind::Unavailable, "database-unreachable")
        );
        postgres.restart().await;
        crate::wait::eventually("it is found again", async || {
            load(&instance, "/it", &[]).await.ok()
        })
        .await;
    })
    .await;
}
