//! The plugin `postgres` from the outside: a real server with a real database behind it. What the SQL and the types come to
//! is tried natively, in `plugins/postgres/src/tests`; here is what the two processes make of each other.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use larder_tests::postgres::{PASSWORD, READER};
use larder_tests::{Answer, Builder, Client, Larder, Postgres, eventually, eventually_within};

/// "Within a second", as it is promised, and what a busy machine adds; the ttl is an hour, so only the feed can be that
/// soon. The second itself is looked at by [`an_update_shows_within_a_second_though_the_ttl_is_an_hour`], more than once.
const SOON: Duration = Duration::from_secs(10);

/// The queries that the tests ask.
const QUERIES: &str = r#"
[config.queries."/countries/{alpha_2}"]
sql = "select alpha_2, name, number, flag from countries where alpha_2 = any($alpha_2)"
params = { alpha_2 = "text" }
key = "alpha_2"
result = "one"
tags = ["countries"]

[config.queries."/countries/{alpha_2}/subdivisions"]
sql = "select country as alpha_2, code, name from subdivisions where country = any($alpha_2) order by code"
params = { alpha_2 = "text" }
key = "alpha_2"
result = "many"

[config.queries."/numbers/{number}"]
sql = "select number, name from countries where number = $number"
params = { number = "smallint" }
result = "one"
"#;

/// The sidecar in front of a database; `more` are lines of `[config]`.
fn sidecar(postgres: &Postgres, more: &str, sections: &str) -> String {
    let address = postgres.address();
    format!(
        "[config]\nhost = \"127.0.0.1\"\nport = {port}\ndatabase = \"postgres\"\nuser = \"{READER}\"\n{more}\n{QUERIES}\n\
         [secrets]\npassword = {{ env = \"DATABASE_PASSWORD\" }}\n[grants]\ntcp = [\"{address}\"]\n{sections}",
        port = address.port(),
    )
}

/// A server in front of a database, that knows the password.
fn before(postgres: &Postgres, routes: &str) -> Builder {
    with(&sidecar(postgres, "", "[config.feed]"), routes)
}

fn with(sidecar: &str, routes: &str) -> Builder {
    let routes = format!("jitter = 0.0\n{routes}");
    Larder::with()
        .plugin("postgres", sidecar)
        .env("DATABASE_PASSWORD", PASSWORD)
        .route("/countries/{alpha_2}", "postgres", &routes)
        .route("/countries/{alpha_2}/subdivisions", "postgres", &routes)
        .route("/numbers/{number}", "postgres", &routes)
}

/// Starts a server, with the component compiled beforehand.
async fn start(builder: Builder) -> Larder {
    builder.start_compiled("postgres").await
}

async fn postgres() -> Postgres {
    let postgres = Postgres::start().await;
    postgres.load_iso_codes().await;
    postgres
}

#[tokio::test]
async fn a_row_is_found_or_missing_and_is_cached_either_way() {
    let postgres = postgres().await;
    let larder = start(before(&postgres, "ttl = \"1h\"\nmissing_ttl = \"1h\"")).await;
    // The feed has begun: at its head everything is purged once.
    until_fed(&postgres, &larder).await;
    let plugin = larder.plugin("postgres").await;
    assert_eq!(plugin["error"], serde_json::Value::Null, "{plugin}");
    for expect in ["fwd=uri-miss", "hit"] {
        let answer = larder.get("/countries/DE").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.cache_status().contains(expect), "{answer:?}");
        let country = answer.json();
        assert_eq!(country["name"], "Germany");
        assert_eq!(country["number"], 276);
        assert_eq!(country["flag"], "🇩🇪");
    }
    for expect in ["fwd=uri-miss", "hit"] {
        let answer = larder.get("/countries/XX").await;
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.cache_status().contains(expect), "{answer:?}");
    }
    let answer = larder.get("/countries/DE/subdivisions").await;
    assert_eq!(
        answer.json().as_array().map(Vec::len),
        Some(16),
        "{answer:?}"
    );
    assert_eq!(larder.get("/numbers/276").await.json()["name"], "Germany");
    let refused = larder.get("/numbers/many").await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(refused.json()["code"], "parameter-unfit");
}

#[tokio::test]
async fn a_hundred_misses_at_once_are_few_statements() {
    let postgres = postgres().await;
    let larder = start(before(
        &postgres,
        "ttl = \"1h\"\ntimeout = \"20s\"\nbatch_window = \"50ms\"",
    ))
    .await;
    let codes: Vec<String> = ('A'..='D')
        .flat_map(|a| ('A'..='Z').map(move |b| format!("{a}{b}")))
        .collect();
    let codes = &codes[..100];
    let before = postgres.executed("from countries");
    let paths: Vec<String> = codes
        .iter()
        .map(|code| format!("/countries/{code}"))
        .collect();
    let answers = join_all(paths.iter().map(|path| larder.get(path))).await;
    let mut found = 0;
    for (code, answer) in codes.iter().zip(&answers) {
        if answer.status == 200 {
            found += 1;
            assert_eq!(answer.json()["alpha_2"], **code, "each gets its own row");
        } else {
            assert_eq!(answer.status, 404, "{answer:?}");
        }
    }
    assert!(found > 30, "{found} of the hundred are countries");
    let statements = postgres.executed("from countries") - before;
    assert!(
        (1..=10).contains(&statements),
        "{statements} statements for a hundred misses"
    );
}

#[tokio::test]
async fn an_update_shows_within_a_second_though_the_ttl_is_an_hour() {
    let postgres = postgres().await;
    let larder = start(before(&postgres, "ttl = \"1h\"")).await;
    until_fed(&postgres, &larder).await;
    assert_eq!(larder.get("/countries/FR").await.json()["name"], "France");
    let subdivisions = larder.get("/countries/FR/subdivisions").await.json();
    // The best of some: a machine that is busy with something else is so once or twice, a feed that is slow is so always.
    let mut best = SOON;
    for name in ["République", "Hexagone", "Gaule", "Francie"] {
        let sql = format!("update countries set name = '{name}' where alpha_2 = 'FR'");
        postgres.run(&sql).await;
        let updated = Instant::now();
        eventually_within(SOON, "the new name is answered", async || {
            (larder.get("/countries/FR").await.json()["name"] == name).then_some(())
        })
        .await;
        best = best.min(updated.elapsed());
    }
    assert!(best < Duration::from_secs(1), "{best:?} at best");
    // What did not change stays.
    let kept = larder.get("/countries/FR/subdivisions").await;
    assert!(kept.cache_status().contains("hit"), "{kept:?}");
    postgres
        .run("delete from subdivisions where code = 'FR-01'")
        .await;
    let fewer = subdivisions.as_array().unwrap().len() - 1;
    eventually_within(SOON, "the row is gone", async || {
        let rows = larder.get("/countries/FR/subdivisions").await.json();
        (rows.as_array()?.len() == fewer).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_commits_after_a_younger_one_is_not_skipped() {
    let postgres = postgres().await;
    let larder = start(before(&postgres, "ttl = \"1h\"")).await;
    until_fed(&postgres, &larder).await;
    for code in ["DE", "FR"] {
        assert_eq!(larder.get(&format!("/countries/{code}")).await.status, 200);
    }
    let old = postgres.session().await;
    old.batch_execute("begin; update countries set name = 'old' where alpha_2 = 'DE'")
        .await
        .unwrap();
    postgres
        .run("update countries set name = 'young' where alpha_2 = 'FR'")
        .await;
    let is = async |code: &str, name: &str| {
        eventually_within(SOON, &format!("{code} is `{name}`"), async || {
            (larder.get(&format!("/countries/{code}")).await.json()["name"] == name).then_some(())
        })
        .await;
    };
    is("FR", "young").await;
    assert_eq!(larder.get("/countries/DE").await.json()["name"], "Germany");
    old.batch_execute("commit").await.unwrap();
    is("DE", "old").await;
}

#[tokio::test]
async fn a_database_that_stops_gives_stale_answers_then_502_and_heals_by_itself() {
    let mut postgres = postgres().await;
    // Longer than a busy machine takes to stop a database.
    let routes = "ttl = \"100ms\"\nstale_if_error = \"15s\"\nfailure_ttl = \"0\"";
    let larder = start(before(&postgres, routes)).await;
    // Its first page purges whatever was loaded before.
    until_fed(&postgres, &larder).await;
    assert_eq!(larder.get("/countries/DE").await.status, 200);
    postgres.stop().await;
    eventually("a stale answer", async || {
        let answer = larder.get("/countries/DE").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
            .cache_status()
            .contains("stale-if-error")
            .then_some(())
    })
    .await;
    let failed = eventually("the stale answer is too old", async || {
        let answer = larder.get("/countries/DE").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(failed.status, 502, "{failed:?}");
    postgres.restart().await;
    eventually("it answers again", async || {
        let answer = larder.get("/countries/DE").await;
        (answer.status == 200 && answer.cache_status().contains("stored")).then_some(())
    })
    .await;
    // And so does the feed.
    until_fed(&postgres, &larder).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_to_operators_and_shown_to_nobody() {
    let postgres = postgres().await;
    let wrong = "Wr0ng-and-secret";
    let mut larder =
        start(with(&sidecar(&postgres, "", ""), "").env("DATABASE_PASSWORD", wrong)).await;
    let error = larder
        .until_refused("postgres", &["[secrets]", "28P01"])
        .await;
    assert!(!error.contains(wrong), "{error}");
    let answer = larder.get("/countries/DE").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(answer.json()["code"], "credentials-refused");
    assert!(!answer.text().contains(wrong), "{answer:?}");
    larder.terminate();
    larder.exit().await;
    larder.log_ended().await;
    assert!(!larder.log().contains(wrong));
}

#[tokio::test]
async fn the_right_password_is_in_no_log() {
    let mut postgres = postgres().await;
    let mut larder = start(before(&postgres, "").env("LARDER_LOG", "info,larder=trace")).await;
    until_fed(&postgres, &larder).await;
    let plugins = larder.admin.get("/plugins").await;
    assert!(!plugins.text().contains(PASSWORD));
    // While all is well there is little to say. Now there is.
    postgres.stop().await;
    assert_eq!(larder.get("/countries/FR").await.status, 502);
    eventually("the server says that the feed fails", async || {
        larder.log().contains("WARN").then_some(())
    })
    .await;
    // Whatever else it has to say is said when it has ended, and read when its output has ended.
    larder.terminate();
    larder.exit().await;
    larder.log_ended().await;
    assert!(!larder.log().contains(PASSWORD));
}

#[tokio::test]
async fn what_is_encrypted_is_verified_and_cached_like_all_else() {
    let mut postgres = postgres().await;
    let ca = postgres
        .encrypt(&["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .await;
    let tls = format!("tls = \"require\"\nca = \"\"\"\n{ca}\"\"\"");
    let larder = start(with(
        &sidecar(&postgres, &tls, "[config.feed]"),
        "ttl = \"1h\"",
    ))
    .await;
    assert_eq!(larder.get("/countries/DE").await.json()["name"], "Germany");
    until_fed(&postgres, &larder).await;
    assert!(postgres.log().contains("SSL enabled (protocol=TLSv1.3"));
    // Made out to 127.0.0.1, and to nobody else.
    let stranger = format!("{tls}\nserver_name = \"db.internal\"");
    larder.sidecar("postgres", &sidecar(&postgres, &stranger, ""));
    larder.until_refused("postgres", &["`server_name`"]).await;
}

#[tokio::test]
async fn a_query_that_the_database_refuses_is_named_before_it_is_asked() {
    let postgres = postgres().await;
    let broken = sidecar(&postgres, "", "").replace("from subdivisions", "from subdivisons");
    let larder = start(with(&broken, "")).await;
    larder
        .until_refused(
            "postgres",
            &["/countries/{alpha_2}/subdivisions", "42P01", "subdivisons"],
        )
        .await;
    // The others are served.
    assert_eq!(larder.get("/countries/DE").await.status, 200);
}

#[tokio::test]
async fn law_9_a_database_that_is_not_granted_is_not_reached_and_the_line_is_named() {
    let postgres = postgres().await;
    let address = postgres.address().to_string();
    let other = sidecar(&postgres, "", "")
        .replace(&format!("tcp = [\"{address}\"]"), "tcp = [\"127.0.0.1:1\"]");
    let larder = start(with(&other, "")).await;
    larder
        .until_refused("postgres", &["tcp = [", &address, "[grants]"])
        .await;
    assert_eq!(larder.get("/countries/DE").await.status, 502);
    assert!(!postgres.log().contains(&format!("user={READER}")));
}

/// What PUT and DELETE change, in front of [`QUERIES`].
const WRITES: &str = r#"
[config.order]
[config.once]
[config.writes."/countries/{alpha_2}"]
table = "countries"
key = { alpha_2 = "text" }
columns = { alpha_3 = "text", number = "smallint", name = "text", flag = { type = "text", required = false } }
delete = true
tags = ["countries"]
"#;

/// A database whose countries may be written, and a server that does.
async fn writing() -> (Postgres, Larder) {
    let postgres = postgres().await;
    let grant = format!("grant insert, update, delete on countries to {READER}");
    postgres.run(&grant).await;
    let install = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("plugins")
        .join("postgres/install-writes.sql");
    let writer = format!("writer={READER}");
    postgres.run_file(&install, &[&writer]).await;
    let routes = "ttl = \"1h\"\nmissing_ttl = \"1h\"\nfailure_ttl = \"0\"\ntimeout = \"20s\"\n";
    let larder = Larder::with()
        .plugin("postgres", &sidecar(&postgres, "", WRITES))
        .env("DATABASE_PASSWORD", PASSWORD)
        .route(
            "/countries/{alpha_2}",
            "postgres",
            &format!("{routes}write = \"through\""),
        )
        .route("/countries/{alpha_2}/subdivisions", "postgres", routes)
        .route("/numbers/{number}", "postgres", routes);
    (postgres, start(larder).await)
}

async fn send(
    larder: &Larder,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let client = Client::new(larder.public.address());
    let body = Bytes::copy_from_slice(body.as_bytes());
    let fields = [&[("content-type", "application/json")], fields].concat();
    client.request(method, path, &fields, body).await
}

async fn put(larder: &Larder, path: &str, body: &str) -> Answer {
    send(larder, Method::PUT, path, &[], body).await
}

#[tokio::test]
async fn a_row_is_written_read_back_and_removed() {
    let (postgres, larder) = writing().await;
    let plugin = larder.plugin("postgres").await;
    assert_eq!(plugin["error"], serde_json::Value::Null, "{plugin}");
    assert_eq!(larder.get("/countries/XX").await.status, 404);
    let body =
        r#"{"alpha_2": "XX", "alpha_3": "XXX", "number": 999, "name": "Nowhere", "flag": null}"#;
    let answer = put(&larder, "/countries/XX", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let read = larder.get("/countries/XX").await;
    assert_eq!(
        (read.status.as_u16(), read.json()["name"].as_str()),
        (200, Some("Nowhere"))
    );
    let answer = put(
        &larder,
        "/countries/XX",
        &body.replace("Nowhere", "Elsewhere"),
    )
    .await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(
        larder.get("/countries/XX").await.json()["name"],
        "Elsewhere"
    );
    let rows = postgres.session().await;
    let sql = "select name from countries where alpha_2 = 'XX'";
    let rows = rows.query(sql, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "Elsewhere");
    // A younger change was made already, by a node that is ahead.
    postgres
        .run("update larder.written set sequence = 9223372036854775807 where place = '[\"XX\"]'")
        .await;
    let answer = put(&larder, "/countries/XX", body).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(
        larder.get("/countries/XX").await.json()["name"],
        "Elsewhere"
    );
    postgres.run("truncate larder.written").await;
    let answer = send(&larder, Method::DELETE, "/countries/XX", &[], "").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(larder.get("/countries/XX").await.status, 404);
}

#[tokio::test]
async fn what_a_row_cannot_be_is_refused_with_its_reason() {
    let (_postgres, larder) = writing().await;
    let whole = r#"{"alpha_3": "XXX", "number": 999, "name": "Nowhere"}"#;
    for (body, status, code, names) in [
        ("[]", 422, "invalid-request", ""),
        (
            &*whole.replace("999", "\"many\""),
            422,
            "value-unfit",
            "number",
        ),
        (
            &*whole.replace("\"name\": \"Nowhere\"", "\"name\": null"),
            422,
            "value-missing",
            "name",
        ),
        (
            &*whole.replace("name", "label"),
            422,
            "member-unknown",
            "label",
        ),
        (&*whole.replace("999", "276"), 409, "not-unique", ""),
    ] {
        let answer = put(&larder, "/countries/XX", body).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), problem["code"].as_str()),
            (status, Some(code)),
            "{body}: {answer:?}"
        );
        assert_eq!(
            problem["errors"][0]["name"].as_str().unwrap_or_default(),
            names,
            "{problem}"
        );
    }
    let absent = send(
        &larder,
        Method::PUT,
        "/countries/DE",
        &[("if-none-match", "*")],
        whole,
    )
    .await;
    assert_eq!(
        (absent.status.as_u16(), absent.json()["code"].as_str()),
        (412, Some("row-present"))
    );
    assert_eq!(larder.get("/countries/XX").await.status, 404);
    assert_eq!(larder.get("/countries/DE").await.json()["name"], "Germany");
}

#[tokio::test]
async fn many_writers_at_once_leave_what_is_read() {
    let (postgres, larder) = writing().await;
    let puts = (0..24).map(|number| {
        let body = format!(
            r#"{{"alpha_3": "XX{}", "number": {}, "name": "n{number}"}}"#,
            number % 4,
            2000 + number % 4
        );
        let (path, larder) = (format!("/countries/X{}", number % 4), &larder);
        async move { put(larder, &path, &body).await }
    });
    for answer in join_all(puts).await {
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let session = postgres.session().await;
    for number in 0..4 {
        let read = larder.get(&format!("/countries/X{number}")).await.json();
        let sql = "select name from countries where alpha_2 = $1";
        let row = session
            .query_one(sql, &[&format!("X{number}")])
            .await
            .unwrap();
        assert_eq!(read["name"], row.get::<_, &str>(0), "{read}");
    }
}

#[tokio::test]
async fn a_write_while_the_database_is_away_is_not_made() {
    let (mut postgres, larder) = writing().await;
    let body = r#"{"alpha_3": "XXX", "number": 999, "name": "Nowhere"}"#;
    postgres.stop().await;
    let answer = put(&larder, "/countries/XX", body).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    postgres.restart().await;
    eventually("it is written again", async || {
        (put(&larder, "/countries/XX", body).await.status == 201).then_some(())
    })
    .await;
    // A connection that ended while nobody wrote costs no change.
    postgres.stop().await;
    postgres.restart().await;
    let answer = put(&larder, "/countries/XX", body).await;
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// Waits until the change feed is read: a change that nobody else makes is purged.
async fn until_fed(postgres: &Postgres, larder: &Larder) {
    eventually("the change feed is read", async || {
        let before = larder.get("/countries/AQ").await.json()["number"].as_i64()?;
        let turned = if before == 10 { 9_999 } else { 10 };
        postgres
            .run(&format!(
                "update countries set number = {turned} where alpha_2 = 'AQ'"
            ))
            .await;
        let within = tokio::time::timeout(
            Duration::from_secs(1),
            eventually("it shows", async || {
                (larder.get("/countries/AQ").await.json()["number"] == turned).then_some(())
            }),
        );
        within.await.ok()
    })
    .await;
}
