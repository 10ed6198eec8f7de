//! The limits that an operator sets in `[limits]`, one test for each: what is over it meets it, what is not does not, and it
//! is the number in the sidecar that decides.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use larder_tests::{Answer, Gate, Larder, Origin, throughout};

/// So long must nobody pass who has no place. What is let go passes at once.
const NOBODY_PASSES: Duration = Duration::from_millis(200);

/// `faulty` under these limits.
async fn faulty(limits: &str) -> Larder {
    Larder::with()
        .guest("faulty", &format!("[limits]\n{limits}\n"))
        .route("/faulty/{key}", "faulty", "timeout = \"20s\"")
        .start()
        .await
}

/// `gated` in front of an origin, under these limits.
async fn gated(origin: &Origin, limits: &str) -> Larder {
    let url = origin.url();
    let sidecar = format!(
        "[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\n{limits}\n"
    );
    Larder::with()
        .guest("gated", &sidecar)
        .route("/things/{id}", "gated", "timeout = \"20s\"")
        .start()
        .await
}

/// Asks for `asked` things at once behind a closed gate, and asserts that exactly `places` are at the origin at the same
/// time: to begin with, and as one after the other is let go; and that all are answered.
async fn no_more_at_once_than(
    places: usize,
    gate: &Gate,
    asked: impl IntoIterator<Item = impl Future<Output = Answer>>,
) {
    let asked: Vec<_> = asked.into_iter().collect();
    let all = asked.len();
    assert!(all > places + 1, "some must wait");
    let let_go = async {
        for gone in 0..all {
            let expect = (gone + places).min(all);
            gate.arrived(expect).await;
            throughout(Instant::now() + NOBODY_PASSES, async || {
                assert_eq!(gate.count() - gone, expect - gone, "at once at the origin");
            })
            .await;
            gate.release_one();
        }
    };
    let (answers, ()) = join(join_all(asked), let_go).await;
    for answer in answers {
        assert_eq!(answer.status, 200, "who waited is answered: {answer:?}");
    }
}

fn assert_detail_says(answer: &Answer, words: &str) {
    let problem = answer.problem();
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(words), "{words:?} is not in {detail:?}");
}

#[tokio::test]
async fn law_9_memory_is_what_the_sidecar_says() {
    let room = "body = \"64MiB\"\ncpu = \"10s\"\ntimeout = \"20s\"\n";
    // 6 MB, and as much again while it is handed over.
    let key = "/faulty/huge-6000000";
    let larder = faulty(&format!("{room}memory = \"4MiB\"")).await;
    let over = larder.get(key).await;
    over.expect_problem(502, "memory-limit");
    assert_detail_says(&over, "[limits] memory");
    let larder = faulty(&format!("{room}memory = \"64MiB\"")).await;
    assert_eq!(larder.get(key).await.body.len(), 6_000_000);
}

#[tokio::test]
async fn law_9_computing_is_as_long_as_the_sidecar_says() {
    // A second without a wait, of which a busy machine gives the guest a part.
    let key = "/faulty/busy-1000";
    let larder = faulty("cpu = \"20ms\"\ntimeout = \"20s\"").await;
    let over = larder.get(key).await;
    over.expect_problem(502, "cpu-limit");
    assert_detail_says(&over, "[limits] cpu");
    let larder = faulty("cpu = \"10s\"\ntimeout = \"20s\"").await;
    assert_eq!(larder.get(key).await.status, 200);
}

#[tokio::test]
async fn law_9_a_call_takes_as_long_as_the_sidecar_says() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let larder = gated(&origin, "").await;
    let patient = async {
        let answer = larder.get("/things/patient").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let impatient = async {
        gate.arrived(1).await;
        let url = origin.url();
        let sidecar = format!(
            "[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"300ms\"\n"
        );
        let other = Larder::with()
            .guest("gated", &sidecar)
            .route("/things/{id}", "gated", "timeout = \"20s\"")
            .start()
            .await;
        let asked = Instant::now();
        let late = other.get("/things/impatient").await;
        late.expect_problem(504, "timeout");
        let took = asked.elapsed();
        // Far from the route's own timeout, however busy the machine is.
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_secs(10),
            "{took:?}"
        );
        // The other one is still waited for.
        gate.open();
    };
    join(patient, impatient).await;
}

#[tokio::test]
async fn law_9_a_blocking_loader_has_as_many_instances_as_the_sidecar_says() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let address = origin.address();
    let sidecar =
        format!("[grants]\ntcp = [\"{address}\"]\n[limits]\ninstances = 2\ntimeout = \"20s\"\n");
    let larder = Larder::with()
        .guest("faulty-blocking", &sidecar)
        .route("/things/{key}", "faulty-blocking", "timeout = \"20s\"")
        .start()
        .await;
    let port = address.port();
    let paths: Vec<_> = (0..5)
        .map(|id| format!("/things/get-{port}-{id}"))
        .collect();
    no_more_at_once_than(2, &gate, paths.iter().map(|path| larder.get(path))).await;
}

#[tokio::test]
async fn law_9_an_async_loader_has_as_many_calls_at_once_as_the_sidecar_says() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let larder = gated(&origin, "concurrency = 3\nfetches = 100").await;
    let paths: Vec<_> = (0..6).map(|id| format!("/things/{id}")).collect();
    no_more_at_once_than(3, &gate, paths.iter().map(|path| larder.get(path))).await;
}

#[tokio::test]
async fn law_9_the_instances_of_an_async_loader_have_as_many_calls_each() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let larder = gated(&origin, "instances = 2\nconcurrency = 2\nfetches = 100").await;
    let paths: Vec<_> = (0..7).map(|id| format!("/things/{id}")).collect();
    no_more_at_once_than(4, &gate, paths.iter().map(|path| larder.get(path))).await;
}

#[tokio::test]
async fn law_12_who_finds_no_place_in_time_is_told_which_limit_to_raise() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let url = origin.url();
    let sidecar = format!(
        "[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\nconcurrency = 1\n"
    );
    let larder = Larder::with()
        .guest("gated", &sidecar)
        .route("/things/{id}", "gated", "timeout = \"20s\"")
        .route("/hasty/{id}", "gated", "timeout = \"300ms\"")
        .start()
        .await;
    let first = async {
        let answer = larder.get("/things/first").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let second = async {
        gate.arrived(1).await;
        let answer = larder.get("/hasty/second").await;
        answer.expect_problem(504, "timeout");
        assert_detail_says(&answer, "[limits] concurrency, instances");
        assert_eq!(origin.calls("/second"), 0);
        gate.open();
    };
    join(first, second).await;
}

#[tokio::test]
async fn law_9_a_body_over_the_limit_is_refused_and_one_within_it_is_served() {
    let larder = faulty("body = \"1MiB\"").await;
    let fits = larder.get("/faulty/huge-1000000").await;
    assert_eq!((fits.status.as_u16(), fits.body.len()), (200, 1_000_000));
    let over = larder.get("/faulty/huge-2000000").await;
    assert_eq!(over.status, 502);
    assert_detail_says(&over, "body");
}

#[tokio::test]
async fn law_9_an_instance_has_as_many_requests_at_once_as_the_sidecar_says() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let larder = gated(&origin, "concurrency = 100\nfetches = 3").await;
    let paths: Vec<_> = (0..6).map(|id| format!("/things/{id}")).collect();
    no_more_at_once_than(3, &gate, paths.iter().map(|path| larder.get(path))).await;
}
