//! A real browser: headless Chromium, driven through chromedriver (WebDriver). Says what a page shows, what its console
//! said, and whom it asked. Knows nothing of the pages.

use std::path::PathBuf;
use std::process::Stdio;

use fantoccini::elements::Element;
use fantoccini::wd::TimeoutConfiguration;
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::ports;
use crate::wait::{PATIENCE, eventually};

/// A browser with one window. Ends when it is dropped, and every page with it.
pub struct Browser {
    /// The window, for what the actor has no words for.
    pub window: Client,
    driver: Child,
    _profile: tempfile::TempDir,
}

/// A command of chromedriver that WebDriver does not have.
#[derive(Debug)]
struct Log(&'static str);

impl fantoccini::wd::WebDriverCompatibleCommand for Log {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": self.0 }).to_string()))
    }
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When there is none: `.ci/setup test` installs it.
    pub async fn start() -> Self {
        let port = ports::free();
        let profile = tempfile::tempdir().expect("a temporary directory");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .expect("chromedriver is installed (.ci/setup test)");
        let arguments = [
            "--headless=new".to_owned(),
            // The sandbox does not start for root, which is what many build machines run as.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--no-first-run".to_owned(),
            // No page of a test has anything to ask of anybody else.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else {
            unreachable!("it is an object");
        };
        let address = format!("http://127.0.0.1:{port}");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let window = eventually("a browser starts", async || {
            builder.connect(&address).await.ok()
        })
        .await;
        window
            .update_timeouts(TimeoutConfiguration::new(
                Some(PATIENCE),
                Some(PATIENCE),
                None,
            ))
            .await
            .expect("a browser takes time limits");
        Self {
            window,
            driver,
            _profile: profile,
        }
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Panics
    /// When it cannot be.
    pub async fn open(&self, url: &str) {
        let opened = self.window.goto(url).await;
        opened.unwrap_or_else(|error| panic!("{url} cannot be opened: {error}"));
    }

    /// The size of the window in CSS pixels, and whether it prefers dark colours.
    ///
    /// # Panics
    /// When the browser does not take it.
    pub async fn look(&self, width: u32, height: u32, is_dark: bool) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        )
        .await;
        let scheme = if is_dark { "dark" } else { "light" };
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        )
        .await;
    }

    /// A command of the DevTools protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        #[derive(Debug)]
        struct Devtools(Value);
        impl fantoccini::wd::WebDriverCompatibleCommand for Devtools {
            fn endpoint(
                &self,
                base: &url::Url,
                session: Option<&str>,
            ) -> Result<url::Url, url::ParseError> {
                base.join(&format!(
                    "session/{}/goog/cdp/execute",
                    session.unwrap_or_default()
                ))
            }
            fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
                (Method::POST, Some(self.0.to_string()))
            }
        }
        let asked = Devtools(json!({ "cmd": command, "params": parameters }));
        let done = self.window.issue_cmd(asked).await;
        done.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// What a CSS selector finds, once it is there.
    async fn found(&self, css: &str) -> Element {
        let wait = self.window.wait().at_most(PATIENCE);
        let found = wait.for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("there is no {css}: {error}"))
    }

    /// The text of what a CSS selector finds, once it is there.
    ///
    /// # Panics
    /// When it never is.
    pub async fn text(&self, css: &str) -> String {
        let found = self.found(css).await;
        found.text().await.unwrap_or_default()
    }

    /// Clicks what a CSS selector finds, once it is there.
    ///
    /// # Panics
    /// When it never is, or cannot be clicked.
    pub async fn click(&self, css: &str) {
        let found = self.found(css).await;
        let clicked = found.click().await;
        clicked.unwrap_or_else(|error| panic!("{css} cannot be clicked: {error}"));
    }

    /// Empties the field that a CSS selector finds and types into it.
    ///
    /// # Panics
    /// When it never is there, or takes no text.
    pub async fn fill(&self, css: &str, text: &str) {
        let found = self.found(css).await;
        found.clear().await.expect("a field can be emptied");
        found.send_keys(text).await.expect("a field takes text");
    }

    /// Waits until what a CSS selector finds has this in its text.
    pub async fn until_text(&self, css: &str, wanted: &str) {
        eventually(&format!("{css} says {wanted:?}"), async || {
            let found = self.window.find(Locator::Css(css)).await.ok()?;
            let text = found.text().await.ok()?;
            text.contains(wanted).then_some(())
        })
        .await;
    }

    /// What the console was told since it was last asked: warnings, errors and exceptions, each with where it came from.
    ///
    /// # Panics
    /// When the browser does not say.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.window.issue_cmd(Log("browser")).await.expect("a log");
        let lines = log.as_array().into_iter().flatten();
        lines
            .filter(|line| line["level"] == "SEVERE" || line["level"] == "WARNING")
            .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The servers' addresses that pages asked for since this was last asked; what is the browser's own is left out.
    ///
    /// # Panics
    /// When the browser does not say.
    pub async fn asked(&self) -> Vec<String> {
        let log = self
            .window
            .issue_cmd(Log("performance"))
            .await
            .expect("a log");
        let lines = log.as_array().into_iter().flatten();
        lines
            .filter_map(|line| serde_json::from_str::<Value>(line["message"].as_str()?).ok())
            .filter(|event| event["message"]["method"] == "Network.requestWillBeSent")
            .filter_map(|event| {
                let url = event["message"]["params"]["request"]["url"].as_str()?;
                (url.starts_with("http") || url.starts_with("ws")).then(|| url.to_owned())
            })
            .collect()
    }

    /// Keeps what the window shows as `browser/NAME.png` beside what the tests were built to, for people to look at.
    ///
    /// # Panics
    /// When it cannot be written.
    pub async fn keep(&self, name: &str) -> PathBuf {
        let picture = self
            .window
            .screenshot()
            .await
            .expect("a window can be drawn");
        let test = std::env::current_exe().expect("a test knows where it is");
        let target = test
            .ancestors()
            .nth(3)
            .expect("a test is in target/PROFILE/deps");
        let dir = target.join("browser");
        std::fs::create_dir_all(&dir).expect("pictures have a directory");
        let path = dir.join(format!("{name}.png"));
        std::fs::write(&path, picture).expect("a picture can be written");
        path
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver's whole group, and the browsers it started are in it.
        if let Some(id) = self.driver.id().and_then(|id| i32::try_from(id).ok())
            && let Some(group) = rustix::process::Pid::from_raw(id)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
