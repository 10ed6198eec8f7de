//! What `larder plugin new` writes into a project, from the files that this host is built with: it needs no checkout.

/// Names, relative to where they come from, and texts.
pub(super) type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($base:literal; $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!($base, $name)))),*]
    };
}

/// The manifest of the workspace that the Rust SDK is of: versions, lints and the profile of a component.
pub(super) const RUST_WORKSPACE: &str = include_str!("../../../../plugins/Cargo.toml");

/// The contract.
pub(super) const WIT: Files = files!(
    "../../../../wit/";
    "change-feed.wit",
    "host.wit",
    "key-policy.wit",
    "lifecycle.wit",
    "loader.wit",
    "metadata.wit",
    "types.wit",
    "worlds.wit",
    "writer.wit",
);

/// The Rust SDK; its `wit` is the contract.
pub(super) const SDK_RUST: Files = files!(
    "../../../../plugins/sdk/";
    "Cargo.toml",
    "src/call.rs",
    "src/context.rs",
    "src/contract.rs",
    "src/describe.rs",
    "src/error.rs",
    "src/feed.rs",
    "src/heap.rs",
    "src/http.rs",
    "src/http/wasi.rs",
    "src/key.rs",
    "src/lib.rs",
    "src/lifecycle.rs",
    "src/log.rs",
    "src/params.rs",
    "src/plugin.rs",
    "src/reply.rs",
    "src/secret.rs",
    "src/tcp.rs",
    "src/tcp/wasi.rs",
    "src/template.rs",
    "src/testing.rs",
    "src/time.rs",
    "src/write.rs",
);

/// The Python SDK.
pub(super) const SDK_PYTHON: Files = files!(
    "../../../../plugins/sdk-python/";
    "larder_plugin/__init__.py",
    "larder_plugin/component_calls.py",
    "larder_plugin/component_host.py",
    "larder_plugin/component_http.py",
    "larder_plugin/component_key_policy.py",
    "larder_plugin/component_loader.py",
    "larder_plugin/context.py",
    "larder_plugin/declare.py",
    "larder_plugin/failures.py",
    "larder_plugin/outcomes.py",
    "larder_plugin/requests.py",
    "larder_plugin/schema.py",
    "larder_plugin/testing.py",
    "requirements.txt",
    "wit/plugin.wit",
);

/// The JavaScript SDK.
pub(super) const SDK_JS: Files = files!(
    "../../../../plugins/sdk-js/";
    "larder/blocking-loader.js",
    "larder/build.mjs",
    "larder/host.js",
    "larder/key-policy.js",
    "larder/larder.js",
    "larder/testing.js",
    "larder/utf8.js",
    "package-lock.json",
    "package.json",
    "wit/plugin.wit",
);

/// What the Python SDK imports of WASI.
pub(super) const WASI: Files = files!(
    "../../../../plugins/wasi/";
    "clocks-0.3.wit",
    "http-0.3.wit",
);

/// The templates in Rust.
pub(super) const RUST: Files = files!(
    "../templates/rust/";
    "Cargo.lock",
    "README.md",
    "blocking-loader.rs",
    "gitignore",
    "key-policy.rs",
    "loader.rs",
    "writer.rs",
);

/// The templates in Python.
pub(super) const PYTHON: Files = files!(
    "../templates/python/";
    "README.md",
    "gitignore",
    "key-policy.py",
    "key-policy.test.py",
    "loader.py",
    "loader.test.py",
    "pyproject.toml",
);

/// The templates in JavaScript.
pub(super) const JS: Files = files!(
    "../templates/js/";
    "README.md",
    "blocking-loader.js",
    "blocking-loader.test.js",
    "gitignore",
    "key-policy.js",
    "key-policy.test.js",
);

/// How to try a loader, for the READMEs.
pub(super) const TRY_LOADER: &str = include_str!("../templates/try-loader.md");
/// How to try a writer, for the READMEs.
pub(super) const TRY_WRITER: &str = include_str!("../templates/try-writer.md");
/// How to try a key policy, for the READMEs.
pub(super) const TRY_KEY_POLICY: &str = include_str!("../templates/try-key-policy.md");

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Every file below a directory, but what tools leave there, and a README that is about the place itself.
    fn below(directory: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).expect("a directory of the repository") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name");
            let path = format!("{prefix}{name}");
            let link = entry.file_type().expect("a type").is_symlink();
            if link || ["__pycache__", "node_modules", ".venv", "dist", "target"].contains(&&*name)
            {
                continue;
            }
            if entry.path().is_dir() {
                below(&entry.path(), &format!("{path}/"), found);
            } else {
                found.insert(path);
            }
        }
    }

    #[test]
    fn every_file_of_an_sdk_is_written_into_a_project() {
        let host = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (directory, embedded, kept_out) in [
            ("../wit", WIT, ""),
            ("../plugins/sdk", SDK_RUST, ""),
            ("../plugins/sdk-python", SDK_PYTHON, "README.md"),
            ("../plugins/sdk-js", SDK_JS, "README.md"),
            ("../plugins/wasi", WASI, ""),
            ("src/cli/templates/rust", RUST, ""),
            ("src/cli/templates/python", PYTHON, ""),
            ("src/cli/templates/js", JS, ""),
        ] {
            let mut there = BTreeSet::new();
            below(&host.join(directory), "", &mut there);
            there.remove(kept_out);
            let embedded: BTreeSet<_> = embedded
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect();
            assert_eq!(
                embedded, there,
                "list the files of {directory} in this file"
            );
        }
    }
}
