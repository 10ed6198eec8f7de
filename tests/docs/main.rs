//! That the documentation is true: every command of a page is run, every block of settings judged, every link followed, and
//! every promise held by a test that exists. Owns which server stands beside which page.
//!
//! # Layout
//! - `page`: a page, read.
//! - `shell`: follows a page as its reader would (`prelude.sh` stands before it).
//! - `transcript`: what it shows of a terminal, and whether that is what was said.
//! - `settings`: judges its settings with `larder check`.
//! - `links`: whether what it points at is there.

mod links;
mod page;
mod settings;
mod shell;
mod transcript;

use std::process::Stdio;

use larder_tests::larder::repository;
use tokio::process::Command;

use page::{Block, Note, Page};
use settings::{Component, first_party};
use shell::Stage;

/// What stands beside a page when it is followed.
struct Setting {
    page: &'static str,
    /// A server runs before the first command.
    serves: bool,
    /// A Redis runs before it.
    redis: bool,
    /// Its settings beside those of the quickstart.
    settings: &'static str,
    /// Components that the page calls by names of its own.
    components: &'static [Component],
    /// The page's own settings are files that its reader writes.
    writes: bool,
    /// The page tells to restore files.
    git: bool,
}

const PLAIN: Setting = Setting {
    page: "",
    serves: false,
    redis: false,
    settings: "",
    components: &[],
    writes: false,
    git: false,
};

const COUNTRIES: Component = Component {
    name: "countries",
    is: "http",
    sidecar: "[config]\nurl = \"https://api.example.com/countries/{alpha_2}\"\n[grants]\nhttp = [\"https://api.example.com\"]\n",
};

const FILES: Component = Component {
    name: "files",
    is: "files",
    sidecar: "[config]\npath = \"/data\"\nformat = \"json\"\nkey = \"name\"\n[grants]\ndirs = { \"/data\" = { host = \"../data\", mode = \"rw\" } }\n",
};

/// Pages with commands to run or components to name; all others are [`PLAIN`].
const SETTINGS: &[Setting] = &[
    Setting {
        page: "README.md",
        serves: true,
        // Something whose queue can be asked for.
        settings: "[[routes]]\npath = \"/people/{name}\"\nloader = \"files\"\nwrite = \"behind\"\n",
        components: &[COUNTRIES, FILES],
        ..PLAIN
    },
    Setting {
        page: "docs/batch.md",
        serves: true,
        ..PLAIN
    },
    Setting {
        page: "docs/commands.md",
        serves: true,
        ..PLAIN
    },
    Setting {
        page: "docs/configuration.md",
        components: &[COUNTRIES],
        ..PLAIN
    },
    Setting {
        page: "docs/grants.md",
        components: &[Component {
            name: "records",
            is: "demo",
            sidecar: "",
        }],
        ..PLAIN
    },
    Setting {
        page: "docs/http.md",
        serves: true,
        ..PLAIN
    },
    Setting {
        page: "docs/invalidation.md",
        serves: true,
        ..PLAIN
    },
    Setting {
        page: "docs/openapi.md",
        serves: true,
        // The route that the page shows; nobody asks its source, for what is asked for is refused before.
        settings: "[[routes]]\npath = \"/countries/{alpha_2}\"\nloader = \"countries\"\nparams.alpha_2 = { type = \"string\", pattern = \"^[A-Z]{2}$\" }\nparams.lang = { enum = [\"en\", \"de\"], default = \"en\" }\nunknown_query = \"refuse\"\n",
        components: &[COUNTRIES],
        ..PLAIN
    },
    Setting {
        page: "docs/redis.md",
        serves: true,
        redis: true,
        settings: "[redis]\nurl = \"redis://127.0.0.1:6379\"\n",
        ..PLAIN
    },
    Setting {
        page: "docs/plugins.md",
        components: &[Component {
            name: "weather",
            is: "http",
            sidecar: "",
        }],
        ..PLAIN
    },
    Setting {
        page: "docs/tutorial.md",
        writes: true,
        ..PLAIN
    },
    Setting {
        page: "docs/writes.md",
        components: &[COUNTRIES],
        ..PLAIN
    },
    Setting {
        page: "examples/loader-python/README.md",
        components: &[Component {
            name: "stations",
            is: "http",
            sidecar: "",
        }],
        ..PLAIN
    },
    Setting {
        page: "examples/quickstart/README.md",
        serves: true,
        git: true,
        ..PLAIN
    },
];

impl Setting {
    fn of(page: &str) -> &'static Self {
        SETTINGS
            .iter()
            .find(|setting| setting.page == page)
            .unwrap_or(&PLAIN)
    }

    /// Whether the shell follows this block.
    fn follows(&self, block: &Block) -> bool {
        let typed = matches!(block.language.as_str(), "sh" | "console");
        (typed || self.writes && block.language == "toml")
            && block.note.is_none()
            && !is_make(block)
    }

    /// The component that a page calls so.
    fn component(&self, name: &str) -> Component {
        let own = self
            .components
            .iter()
            .find(|component| component.name == name)
            .copied();
        own.or_else(|| first_party(name))
            .unwrap_or_else(|| panic!("which component is {name}? say it in SETTINGS"))
    }
}

/// Whether a block is nothing but what `make` is asked for: which builds, and is run by whoever runs this.
fn is_make(block: &Block) -> bool {
    block.language == "sh" && block.text.lines().all(|line| line.starts_with("make "))
}

/// The pages whose commands are run, each by itself.
macro_rules! followed {
    ($($name:ident: $page:literal),* $(,)?) => {
        const FOLLOWED: &[&str] = &[$($page),*];
        $(#[tokio::test]
        async fn $name() {
            let (page, setting) = (Page::read($page), Setting::of($page));
            Stage::new(setting).follow(&page, setting).await;
        })*
    };
}

followed! {
    the_readme_says_what_comes: "README.md",
    the_page_of_batches_says_what_comes: "docs/batch.md",
    the_page_of_commands_says_what_comes: "docs/commands.md",
    the_page_of_responses_says_what_comes: "docs/http.md",
    the_page_of_invalidation_says_what_comes: "docs/invalidation.md",
    the_page_of_the_api_document_says_what_comes: "docs/openapi.md",
    the_page_of_redis_says_what_comes: "docs/redis.md",
    the_tutorial_can_be_followed: "docs/tutorial.md",
    the_quickstart_can_be_followed: "examples/quickstart/README.md",
}

#[test]
fn every_block_is_of_a_kind_that_is_tried() {
    let mut faults = Vec::new();
    let mut not_run = Vec::new();
    for page in page::all() {
        for block in &page.blocks {
            let place = format!("{}:{}", page.path, block.line);
            match &block.note {
                Some(Note::RunBy(test)) => {
                    let (file, name) = test.split_once(' ').unwrap_or((test, ""));
                    if !links::is_test(file, name) {
                        faults.push(format!("{place}: there is no test {test}"));
                    }
                    continue;
                }
                Some(Note::NotRun(why)) => {
                    not_run.push(format!("{place}: {why}"));
                    continue;
                }
                Some(Note::Fragments(_)) | None => {}
            }
            let tried = match block.language.as_str() {
                "sh" | "console" => is_make(block) || FOLLOWED.contains(&page.path.as_str()),
                "toml" | "json" | "python" | "rust" => true,
                _ => false,
            };
            if !tried {
                faults.push(format!(
                    "{place}: a block of `{}` that nobody tries",
                    block.language
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Each is a reason to doubt the page: a new one is a decision.
    assert!(not_run.len() <= 8, "{}", not_run.join("\n"));
    println!("not run:\n{}", not_run.join("\n"));
}

#[tokio::test]
async fn settings_are_what_the_server_takes() {
    for page in page::all() {
        settings::judge(&page, Setting::of(&page.path)).await;
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = page::all();
    let broken: Vec<String> = pages
        .iter()
        .flat_map(|page| links::broken(page, &pages))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_index() {
    let index = Page::read("docs/README.md");
    for page in page::all() {
        let Some(name) = page.path.strip_prefix("docs/") else {
            continue;
        };
        let listed = index
            .links
            .iter()
            .any(|(_, link)| link.split('#').next() == Some(name));
        assert!(
            listed || name == "README.md",
            "docs/README.md does not list {name}"
        );
    }
}

/// In `docs/promises.md`, the last cell of a row names the tests that hold its promise: `FILE`, and then the tests of it.
#[test]
fn every_promise_is_held_by_a_test() {
    let text = std::fs::read_to_string(repository().join("docs/promises.md")).expect("the page");
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("](../tests/"));
    let mut promises = 0;
    for row in rows {
        let cell = row
            .trim_end_matches('|')
            .rsplit_once('|')
            .map_or(row, |(_, cell)| cell);
        let mut tests = 0;
        for held in cell.split("](../").skip(1) {
            let (file, after) = held.split_once(')').expect("a link ends");
            let here = after.split('[').next().unwrap_or_default();
            for name in here.split('`').skip(1).step_by(2) {
                assert!(
                    links::is_test(file, name),
                    "{file} has no test {name}: {row}"
                );
                tests += 1;
            }
        }
        assert!(tests > 0, "nothing holds this: {row}");
        promises += 1;
    }
    assert!(
        promises >= 20,
        "the promises are not where they are looked for: {promises}"
    );
    // And none is told without one.
    let (_, told) = text.split_once("## Keys").expect("the first promises");
    let (told, _) = told
        .split_once("## What is not promised")
        .expect("the others");
    for line in told
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| promise |"))
    {
        assert!(line.contains("](../tests/"), "without a test: {line}");
    }
}

#[tokio::test]
async fn what_make_is_asked_for_it_knows() {
    for page in page::all() {
        for block in page.blocks.iter().filter(|block| is_make(block)) {
            for line in block.text.lines() {
                let target = line.split_whitespace().nth(1).unwrap_or_default();
                let ran = Command::new("make")
                    .args(["--question", "--silent", target])
                    .current_dir(repository())
                    // `make test` is what runs this, and its flags are not meant.
                    .env_remove("MAKEFLAGS")
                    .env_remove("MAKELEVEL")
                    .stdin(Stdio::null())
                    .output()
                    .await
                    .expect("make is there");
                let said = String::from_utf8_lossy(&ran.stderr).into_owned();
                assert!(
                    said.is_empty(),
                    "{}:{}: {line}: {said}",
                    page.path,
                    block.line
                );
            }
        }
    }
}

#[tokio::test]
async fn code_is_what_its_language_takes() {
    for page in page::all() {
        for block in &page.blocks {
            let place = format!("{}:{}", page.path, block.line);
            match block.language.as_str() {
                "json" => {
                    let read = serde_json::from_str::<serde_json::Value>(&block.text);
                    assert!(read.is_ok(), "{place}: {read:?}");
                }
                "python" => {
                    let parse = "import ast, sys; ast.parse(sys.argv[1])";
                    let ran = Command::new("python3")
                        .args(["-c", parse, &block.text])
                        .output()
                        .await;
                    let ran = ran.expect("python3 is there");
                    assert!(
                        ran.status.success(),
                        "{place}: {}",
                        String::from_utf8_lossy(&ran.stderr)
                    );
                }
                // It stands in the SDK too, where it is compiled.
                "rust" => {
                    let sdk = std::fs::read_to_string(repository().join("plugins/sdk/src/lib.rs"))
                        .expect("the SDK");
                    let said: String = sdk
                        .lines()
                        .filter_map(|line| line.strip_prefix("//!"))
                        .fold(String::new(), |text, line| {
                            text + line.trim_start_matches(' ') + "\n"
                        });
                    let plain: String = block
                        .text
                        .lines()
                        .fold(String::new(), |text, line| text + line.trim_start() + "\n");
                    assert!(
                        said.contains(&plain),
                        "{place}: the SDK does not begin with it"
                    );
                }
                _ => {}
            }
        }
    }
}
