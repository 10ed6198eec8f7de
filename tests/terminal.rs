//! What a person sees in a terminal: `larder top` beside a server that runs, and how a server starts and ends.

use larder_tests::larder::Home;
use larder_tests::larder::program;
use larder_tests::terminal::Terminal;
use larder_tests::{Client, Larder, Origin, Value, before, ports};
use rustix::process::Signal;

async fn demo() -> (Larder, String) {
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .start()
        .await;
    let url = format!("http://{}", larder.admin.address());
    (larder, url)
}

/// On a screen of a machine of its own: with no configuration.
fn watch(larder: &Larder, url: &str, variables: &[(&str, &str)]) -> Terminal {
    let arguments = ["top", "--interval", "100ms", "--admin", url];
    Terminal::start(&larder.path("plugins"), &program(), &arguments, variables)
}

/// The number of calls of the demo, as its row has it.
fn calls(screen: &str) -> Option<u64> {
    let row = screen.lines().find(|line| line.starts_with("demo "))?;
    row.split_whitespace().nth(2)?.parse().ok()
}

#[tokio::test]
async fn what_happens_is_on_the_screen_and_the_terminal_is_as_it_was() {
    let (server, url) = demo().await;
    let mut terminal = watch(&server, &url, &[]);
    terminal.until_text("serving, up").await;
    terminal.until_text("/data/{key}").await;
    terminal.press("\t").await;
    let before = terminal.until("the calls of the demo", calls).await;
    for key in 0..7 {
        server.get(&format!("/data/{key}")).await;
    }
    terminal
        .until("they are counted", |screen| {
            (calls(screen)? == before + 7).then_some(())
        })
        .await;
    // What stands still stands still, and goes on from where the server is.
    terminal.press("p").await;
    terminal.until_text("paused").await;
    for key in 10..13 {
        server.get(&format!("/data/{key}")).await;
    }
    terminal.press("?").await;
    terminal.until_text("┌ Keys").await;
    terminal.press("x").await;
    terminal
        .until("the help is gone", |screen| {
            (!screen.contains("┌ Keys")).then_some(())
        })
        .await;
    assert_eq!(calls(&terminal.screen()), Some(before + 7));
    terminal.press("p").await;
    terminal
        .until("it goes on", |screen| {
            (calls(screen)? == before + 10).then_some(())
        })
        .await;
    terminal.press("s").await;
    terminal.until_text("by calls").await;
    terminal.press("q").await;
    let ended = terminal.ended().await;
    assert_eq!(ended.code, 0);
    assert_eq!(ended.modes.0, ended.modes.1, "as they were");
    assert!(ended.is_clean, "{:?}", ended.raw);
    assert!(
        ended.raw.contains("\u{1b}[38;5;2;"),
        "in colours: {:?}",
        ended.raw
    );
}

#[tokio::test]
async fn a_server_that_goes_away_is_asked_again_and_a_signal_leaves_a_clean_terminal() {
    // On an address that is its own again when it is back.
    let home = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .write();
    let address = format!("127.0.0.1:{}", ports::free());
    home.configure(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = {address:?}\n[[routes]]\npath = \"/data/{{key}}\"\nloader = \"demo\"\n"
    ));
    let mut server = Larder::start(home).await;
    let terminal = watch(&server, &format!("http://{address}"), &[("NO_COLOR", "1")]);
    terminal.until_text("serving, up").await;
    server.kill().await;
    terminal.until_text("does not answer").await;
    terminal.until_text("asking again").await;
    assert!(
        terminal.screen().contains("/data/{key}"),
        "what was known stays"
    );
    server.start_again().await;
    terminal
        .until("it is shown again", |screen| {
            (screen.contains("serving, up") && screen.contains("q quit")).then_some(())
        })
        .await;
    terminal.signal(Signal::TERM);
    let ended = terminal.ended().await;
    assert_eq!(ended.code, 128 + 15);
    assert_eq!(ended.modes.0, ended.modes.1);
    assert!(
        ended.is_clean && !ended.raw.contains("\u{1b}[38;"),
        "{:?}",
        ended.raw
    );
}

#[tokio::test]
async fn without_a_terminal_it_is_one_page_of_text() {
    let (server, url) = demo().await;
    server.get("/data/1").await;
    let run = async |arguments: &[&str]| server.run(arguments).await;
    let page = run(&["top", "--once", "--admin", &url]).await;
    for wanted in [
        "since the start",
        "ROUTE ",
        "/data/{key}",
        "PLUGIN ",
        "\ndemo ",
        " 1 of 1 ",
    ] {
        assert!(page.stdout.contains(wanted), "{wanted}: {page:?}");
    }
    let json = run(&["top", "--json", "--admin", &url]).await;
    let overview: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let demo = &overview["plugins"][0];
    assert_eq!((&demo["calls"], &demo["alive"]), (&1.into(), &1.into()));
    assert!(
        demo["busy_seconds"].as_f64().is_some_and(|busy| busy > 0.0),
        "{demo}"
    );
    let none = run(&["top", "--admin", &url]).await;
    assert!(none.stderr.contains("--once"), "{none:?}");
    let gone = run(&["top", "--once", "--admin", "http://127.0.0.1:1"]).await;
    assert!(gone.stderr.contains("does not answer"), "{gone:?}");
    let hurry = run(&["top", "--interval", "1ms"]).await;
    assert!(hurry.stderr.contains("100ms or more"), "{hurry:?}");
}

/// A server in a terminal, as a person starts it.
fn serve(home: &Home) -> Terminal {
    Terminal::start(&home.path(""), &program(), &["serve"], &[])
}

/// Where it listens, as it says on its first lines.
async fn listening(terminal: &Terminal) -> Client {
    let address = terminal
        .until("it says where it listens", |screen| {
            let (_, after) = screen.split_once("listening on http://")?;
            after.split_whitespace().next()?.parse().ok()
        })
        .await;
    Client::new(address)
}

/// Every line of the log that is on the screen: whole, and with nothing before it.
fn is_log_whole(screen: &str) -> bool {
    let lines = screen.lines().filter(|line| line.contains(" INFO "));
    let mut lines = lines.peekable();
    lines.peek().is_some()
        && lines.all(|line| line.starts_with("20") && line.contains("Z  INFO larder"))
}

#[tokio::test]
async fn a_start_and_an_end_that_take_a_while_are_shown_at_the_bottom_of_the_terminal() {
    let origin = Origin::start();
    // Of two plugins: one is told to be loaded while the other is compiled.
    let home = before(&origin, "ttl = \"1h\"\ntimeout = \"20s\"")
        .plugin("demo", "")
        .section("[warm]\nkeys = 100\nrate = 100")
        .write();
    let terminal = serve(&home);
    let client = listening(&terminal).await;
    for key in [1, 3, 4] {
        client.get(&format!("/things/{key}")).await;
    }
    // A request that is held: the end waits for it.
    let gate = origin.gate("/2");
    let held = tokio::spawn(async move { client.get("/things/2").await });
    gate.arrived(1).await;
    terminal.signal(Signal::TERM);
    terminal.until_text(" draining, 20s at most,").await;
    assert!(is_log_whole(&terminal.screen()), "{}", terminal.screen());
    gate.open();
    assert_eq!(held.await.expect("it is answered").status, 200);
    let ended = terminal.ended().await;
    assert_eq!((ended.code, ended.modes.0), (0, ended.modes.1));
    // Drawn while it was compiled, and gone in the end, with the log above it.
    assert!(ended.raw.contains(" compiling gated, "), "{}", ended.raw);
    assert!(
        !ended.screen.contains(" compiling gated, ") && !ended.screen.contains(" draining, "),
        "{}",
        ended.screen
    );
    assert!(
        is_log_whole(&ended.screen) && ended.screen.contains("stopped"),
        "{}",
        ended.screen
    );

    // What was asked for most is asked for again.
    let gate = origin.gate("/*");
    let terminal = serve(&home);
    gate.arrived(3).await;
    terminal.until_text(" 0 of ").await;
    gate.release_one();
    terminal.until_text(" 1 of ").await;
    terminal.until_text("keys of before the start").await;
    gate.open();
    terminal.until_text("replayed=3").await;
    terminal.signal(Signal::TERM);
    let ended = terminal.ended().await;
    assert!(
        !ended.screen.contains("keys of before the start"),
        "{}",
        ended.screen
    );
    assert!(is_log_whole(&ended.screen), "{}", ended.screen);
}

#[tokio::test]
async fn where_there_is_no_terminal_there_is_the_log_alone() {
    let (mut server, _) = demo().await;
    server.terminate();
    server.exit().await;
    server.log_ended().await;
    let log = server.log();
    assert!(
        log.contains("compiling plugin=\"demo\"") && log.contains("draining: "),
        "{log}"
    );
    assert!(
        !log.contains('\u{1b}') && !log.contains('\r') && !log.contains("at most"),
        "{log}"
    );
}
