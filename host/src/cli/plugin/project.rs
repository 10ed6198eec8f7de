//! A new project: which languages and kinds there are, and every file of it. Pure; writes nothing.

use clap::ValueEnum;

use super::embedded::{self, Files};

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Language {
    /// Built by cargo.
    Rust,
    /// Built by componentize-py.
    Python,
    /// Built by jco.
    Js,
}

/// What it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Kind {
    /// Many loads at a time in one instance.
    Loader,
    /// One load at a time in each of several instances.
    BlockingLoader,
    /// Which requests share a value.
    KeyPolicy,
    /// Takes writes to the source, beside the loader that reads them.
    Writer,
}

impl Language {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::Js => "JavaScript",
        }
    }

    pub(super) const fn default_kind(self) -> Kind {
        match self {
            Self::Rust | Self::Python => Kind::Loader,
            Self::Js => Kind::BlockingLoader,
        }
    }
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::BlockingLoader => "blocking-loader",
            Self::KeyPolicy => "key-policy",
            Self::Writer => "writer",
        }
    }
}

/// Why there is no such project, and what there is instead.
pub(super) fn refusal(language: Language, kind: Kind) -> Option<(&'static str, &'static str)> {
    match (language, kind) {
        (Language::Python, Kind::BlockingLoader) => Some((
            "a Python loader is async, and many loads share one instance",
            "use --kind loader",
        )),
        (Language::Js, Kind::Loader) => Some((
            "JavaScript has blocking loaders only: jco's QuickJS cannot import async functions, so an async loader would have nothing to await",
            "use --kind blocking-loader, or --lang python or rust",
        )),
        (Language::Python | Language::Js, Kind::Writer) => Some((
            "writers are written in Rust in this version",
            "use --lang rust, or --kind loader",
        )),
        _ => None,
    }
}

/// Whether the lock file of a Rust project has a package of this name already.
pub(super) fn is_taken(language: Language, name: &str) -> bool {
    language == Language::Rust
        && text(embedded::RUST, "Cargo.lock").contains(&format!("\nname = \"{name}\"\n"))
}

/// Paths in the project, and texts.
pub(super) fn files(name: &str, language: Language, kind: Kind) -> Vec<(String, String)> {
    let mut files = match language {
        Language::Rust => rust(name, kind),
        Language::Python => python(kind),
        Language::Js => js(kind),
    };
    let tried = match kind {
        Kind::KeyPolicy => embedded::TRY_KEY_POLICY,
        Kind::Writer => embedded::TRY_WRITER,
        Kind::Loader | Kind::BlockingLoader => embedded::TRY_LOADER,
    };
    for (path, text) in &mut files {
        if !is_of_sdk(path) {
            *text = text
                .replace("{{try}}", tried.trim_end())
                .replace("{{name}}", name)
                .replace("{{kind}}", kind.name());
        }
    }
    files
}

/// Whether a file is copied as it is: an SDK may hold double braces of its own.
fn is_of_sdk(path: &str) -> bool {
    let directories = ["sdk/", "larder/", "larder_plugin/", "wit/"];
    directories.iter().any(|it| path.starts_with(it))
}

fn rust(name: &str, kind: Kind) -> Vec<(String, String)> {
    let templates = embedded::RUST;
    let mut files = vec![
        ("Cargo.toml".to_owned(), manifest()),
        (
            "Cargo.lock".to_owned(),
            lock(text(templates, "Cargo.lock"), name),
        ),
        own(
            "src/lib.rs",
            text(templates, &format!("{}.rs", kind.name())),
        ),
        own("README.md", text(templates, "README.md")),
        own(".gitignore", text(templates, "gitignore")),
    ];
    files.extend(all("sdk/", embedded::SDK_RUST));
    files.extend(all("sdk/wit/", embedded::WIT));
    files
}

fn python(kind: Kind) -> Vec<(String, String)> {
    let templates = embedded::PYTHON;
    let of_kind = |end: &str| text(templates, &format!("{}{end}", kind.name()));
    let mut files = vec![
        own("plugin.py", of_kind(".py")),
        own("test_plugin.py", of_kind(".test.py")),
        own("pyproject.toml", text(templates, "pyproject.toml")),
        own("README.md", text(templates, "README.md")),
        own(".gitignore", text(templates, "gitignore")),
    ];
    files.extend(all("", embedded::SDK_PYTHON));
    files.extend(all("wit/deps/larder-plugin/", embedded::WIT));
    files.extend(all("wit/deps/", embedded::WASI));
    files
}

fn js(kind: Kind) -> Vec<(String, String)> {
    let templates = embedded::JS;
    let of_kind = |end: &str| text(templates, &format!("{}{end}", kind.name()));
    let mut files = vec![
        own("plugin.js", of_kind(".js")),
        own("plugin.test.js", of_kind(".test.js")),
        own("README.md", text(templates, "README.md")),
        own(".gitignore", text(templates, "gitignore")),
    ];
    files.extend(all("", embedded::SDK_JS));
    files.extend(all("wit/deps/larder-plugin/", embedded::WIT));
    files
}

fn own(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

fn all(below: &'static str, files: Files) -> impl Iterator<Item = (String, String)> {
    let file = move |(path, text): &(&str, &str)| (format!("{below}{path}"), (*text).to_owned());
    files.iter().map(file)
}

fn text(files: Files, path: &str) -> &'static str {
    let file = files.iter().find(|(name, _)| *name == path);
    file.map_or("", |(_, text)| text)
}

/// A package, and the workspace that the SDK takes its versions from.
fn manifest() -> String {
    let package = "\
[package]
name = \"{{name}}\"
version = \"0.1.0\"
edition = \"2024\"
publish = false

[lib]
crate-type = [\"cdylib\"]

[dependencies]
larder-plugin.workspace = true
serde.workspace = true

";
    let (_, workspace) = embedded::RUST_WORKSPACE
        .split_once("[workspace]\n")
        .unwrap_or_default();
    let mut text = format!("{package}[workspace]\n");
    for line in workspace.lines() {
        if line.starts_with("larder-plugin-support") {
            continue;
        }
        text.push_str(if line.starts_with("members = ") {
            "members = [\"sdk\"]"
        } else {
            line
        });
        text.push('\n');
    }
    text
}

/// The lock file for a package of this name: cargo wants its packages in the order of their names.
fn lock(template: &str, name: &str) -> String {
    let own = "name = \"plugin\"\n";
    let mut packages: Vec<&str> = template.split("\n[[package]]\n").collect();
    let Some(at) = packages.iter().position(|package| package.starts_with(own)) else {
        return template.to_owned();
    };
    let renamed = packages
        .remove(at)
        .replacen(own, &format!("name = \"{name}\"\n"), 1);
    let mut renamed = renamed.trim_end().to_owned();
    renamed.push('\n');
    let name_of = |package: &str| package.split('"').nth(1).unwrap_or_default().to_owned();
    // The first piece is the head of the file.
    let before = packages
        .iter()
        .skip(1)
        .take_while(|package| name_of(package).as_str() < name)
        .count();
    packages.insert(before + 1, &renamed);
    let mut text = packages
        .iter()
        .map(|package| package.trim_end())
        .collect::<Vec<_>>()
        .join("\n\n[[package]]\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_its_kinds_and_says_why_it_has_no_others() {
        for language in Language::value_variants() {
            assert_eq!(refusal(*language, language.default_kind()), None);
            for kind in Kind::value_variants() {
                if refusal(*language, *kind).is_some() {
                    continue;
                }
                for (path, text) in files("weather", *language, *kind) {
                    assert!(!text.is_empty(), "{path} of {language:?} {kind:?}");
                    for placeholder in ["{{name}}", "{{kind}}", "{{try}}"] {
                        let left = text.contains(placeholder) && !is_of_sdk(&path);
                        assert!(!left, "{path}: {placeholder}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_lock_file_stays_in_order() {
        let template = "# head\nversion = 4\n\n[[package]]\nname = \"a\"\n\n[[package]]\nname = \"m\"\n\n[[package]]\nname = \"plugin\"\nversion = \"1\"\n";
        assert_eq!(
            lock(template, "b"),
            "# head\nversion = 4\n\n[[package]]\nname = \"a\"\n\n[[package]]\nname = \"b\"\nversion = \"1\"\n\n[[package]]\nname = \"m\"\n"
        );
        assert_eq!(lock(template, "plugin"), template);
        assert!(is_taken(Language::Rust, "serde") && !is_taken(Language::Js, "serde"));
    }
}
