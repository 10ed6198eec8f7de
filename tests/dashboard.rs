//! The dashboard in a real browser: what a person finds who has nothing else.

use http::Method;
use larder_tests::{Browser, Builder, Larder, Origin, Reply, Wasm, before, eventually, json};

/// A good plugin, a source that fails, a file that is no plugin, and a queue.
fn stage(origin: &Origin) -> Builder {
    origin.on("/broken", Reply::status(500));
    let url = origin.url();
    let writing = format!("[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n");
    before(origin, "ttl = \"1h\"")
        .plugin(
            "demo",
            "[config]\nlatency_ms = 1\ntags = [\"<b>bold</b>\"]\n",
        )
        .route(
            "/data/{key}",
            "demo",
            "ttl = \"1h\"\njitter = 0\nstale_if_error = \"1h\"",
        )
        .guest("writing", &writing)
        .route(
            "/orders/{id}",
            "writing",
            "write = \"behind\"\nttl = \"1h\"",
        )
        .component("no-world", Wasm::guest("no-world"), "")
}

async fn open(browser: &Browser, larder: &Larder) {
    browser.look(1280, 900, false).await;
    browser
        .open(&format!("http://{}", larder.admin.address()))
        .await;
}

/// Whether the window scrolls sideways.
async fn is_too_wide(browser: &Browser) -> bool {
    let script = "return document.documentElement.scrollWidth > window.innerWidth";
    let found = browser.window.execute(script, vec![]).await;
    found.expect("a script runs") == json!(true)
}

#[tokio::test]
async fn a_person_who_has_only_the_dashboard_finds_what_is_wrong_and_purges_one_key() {
    let origin = Origin::start();
    let larder = stage(&origin).start().await;
    for key in ["a", "b", "a", "a"] {
        larder.get(&format!("/data/{key}")).await;
    }
    larder.get("/things/broken").await;
    let browser = Browser::start().await;
    open(&browser, &larder).await;
    browser.until_text("#state", "serving").await;
    // Which plugin fails, and which route and why, in a sentence each.
    browser
        .until_text(".attention", "Plugin no-world is broken")
        .await;
    browser
        .until_text(".attention", "Route /things/{id} failed")
        .await;
    browser.until_text(".figures", "none").await;
    browser.keep("dashboard-light").await;
    browser.look(1280, 900, true).await;
    browser.keep("dashboard-dark").await;
    for page in ["#/", "#/routes", "#/plugins", "#/entry", "#/queue"] {
        browser.look(360, 740, false).await;
        browser.click(&format!("nav a[href='{page}']")).await;
        assert!(!is_too_wide(&browser).await, "{page} fits a telephone");
    }
    browser.click("nav a[href='#/']").await;
    browser.keep("dashboard-360").await;
    browser.look(1280, 900, false).await;
    browser.click("nav a[href='#/routes']").await;
    browser.until_text("main", "/things/{id}").await;
    browser.until_text("main", "ago:").await;
    browser.keep("dashboard-routes").await;
    browser.click("nav a[href='#/plugins']").await;
    browser
        .until_text("#plugin-demo", "2, of which 0 failed and 0 trapped")
        .await;
    browser.until_text("#plugin-no-world", "broken").await;
    browser.until_text("main", "refused").await;
    browser.keep("dashboard-plugins").await;
    // One key is looked up, and purged.
    browser.click("nav a[href='#/entry']").await;
    browser.fill("#path", "/data/a").await;
    browser.click("form button").await;
    browser.until_text("main", "fresh for ").await;
    browser.until_text("main", "<b>bold</b>").await;
    browser.keep("dashboard-entry").await;
    browser.click("#expire").await;
    browser
        .until_text(
            "main",
            "a purge ended its ttl; still answered if a load fails",
        )
        .await;
    browser.click("#reload").await;
    browser.until_text("main", "Loaded anew").await;
    browser.until_text("main", "fresh for 60 min more").await;
    browser.click("#purge").await;
    browser.until_text("main", "Purged, at seq").await;
    browser
        .until_text("main", "dead: purged after it was loaded")
        .await;
    larder
        .get("/data/a")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    larder
        .get("/data/b")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    let asked = browser.asked().await;
    let own = format!("http://{}/", larder.admin.address());
    assert!(
        asked.iter().all(|url| url.starts_with(&own)),
        "only this listener is asked: {asked:#?}"
    );
}

#[tokio::test]
async fn what_was_given_up_is_tried_again_or_dropped() {
    let origin = Origin::start();
    origin.on("/write/1", Reply::status(422));
    let larder = stage(&origin).start().await;
    let answer = larder
        .public
        .request(Method::PUT, "/orders/1", &[], "x".into())
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    eventually("it is given up", async || {
        (larder.admin.get("/queue").await.json()["dead"] == 1).then_some(())
    })
    .await;
    let browser = Browser::start().await;
    open(&browser, &larder).await;
    browser
        .until_text(".attention", "1 changes were given up")
        .await;
    browser.click("nav a[href='#/queue']").await;
    browser.until_text("main", "PUT /orders/{id}").await;
    browser.keep("dashboard-queue").await;
    origin.on("/write/1", Reply::status(200));
    browser.click("td .buttons button").await;
    browser.until_text("main", "It is tried again").await;
    eventually("it is made", async || {
        let queue = larder.admin.get("/queue").await.json();
        (queue["dead"] == 0 && queue["pending"] == 0).then_some(())
    })
    .await;
    browser.until_text("main", "None.").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test]
async fn a_listener_with_a_token_is_asked_with_it_and_with_nothing_of_another_site() {
    let origin = Origin::start();
    let token = "a-token-of-some-length";
    let larder = stage(&origin)
        .admin(&format!("token = {token:?}"))
        .start()
        .await;
    let browser = Browser::start().await;
    open(&browser, &larder).await;
    browser.fill("#token", "another").await;
    browser.click("form button").await;
    browser.until_text("#state", "no token").await;
    browser.fill("#token", token).await;
    browser.click("form button").await;
    browser.until_text("#state", "serving").await;
    browser
        .until_text(".attention", "Plugin no-world is broken")
        .await;
    // The page itself holds nothing; what it shows is not given to anybody without the token.
    let page = larder.admin.get_with("/", &[("accept", "text/html")]).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
    for path in ["/overview", "/entries?path=/data/a", "/"] {
        assert_eq!(larder.admin.get(path).await.status, 401, "{path}");
    }
    for bad in ["/dashboard/../mod.rs", "/dashboard/none.js"] {
        assert_eq!(larder.admin.get(bad).await.status, 404, "{bad}");
    }
}

#[tokio::test]
async fn who_may_only_read_sees_all_and_is_told_why_a_button_does_nothing() {
    let origin = Origin::start();
    let larder = stage(&origin)
        .admin("token = \"of-the-operator\"\nread_token = \"of-a-reader\"")
        .start()
        .await;
    larder.get("/data/a").await;
    let browser = Browser::start().await;
    open(&browser, &larder).await;
    browser.fill("#token", "of-a-reader").await;
    browser.click("form button").await;
    browser.until_text("#state", "serving").await;
    browser.click("nav a[href='#/entry']").await;
    browser.fill("#path", "/data/a").await;
    browser.click("form button").await;
    browser.until_text("main", "found in memory").await;
    browser.click("#purge").await;
    browser
        .until_text("main", "this is the read token of [admin]")
        .await;
    assert!(larder.get("/data/a").await.is_hit());
    // Its token is replaced: the page that is open asks for the new one.
    larder.reconfigure("of-a-reader", "of-another");
    larder.hang_up();
    browser.until_text("#state", "no token").await;
    browser.fill("#token", "of-another").await;
    browser.click("form button").await;
    browser.until_text("#state", "serving").await;
}

#[tokio::test]
async fn the_page_says_when_the_server_is_away_and_goes_on_when_it_is_back() {
    let origin = Origin::start();
    let mut larder = stage(&origin).start().await;
    let browser = Browser::start().await;
    open(&browser, &larder).await;
    browser.until_text("#state", "serving").await;
    larder.crash().await;
    browser.until_text("#state", "not reachable").await;
}
