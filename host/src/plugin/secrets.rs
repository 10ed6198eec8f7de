//! What `secrets.get` answers: a value read from its source each time it is asked for, so that a rotated secret needs no
//! reload. Values are never logged, never shown and never kept here. Knows nothing of wasmtime.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use crate::config::SecretSource;

/// A secret is a password or a token, not a data set: a larger file is a mistake, and is not read into memory (law 12).
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no secret: the contract's `secret-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// The sidecar has no such name in `[secrets]`.
    NotGranted,
    /// The sidecar names it, but its environment variable is not set, or its file cannot be read as text.
    Unavailable,
}

/// The `[secrets]` of one sidecar. Cheap to clone.
#[derive(Clone, Default)]
pub struct Secrets {
    plugin: Arc<str>,
    sources: Arc<BTreeMap<String, SecretSource>>,
}

impl Secrets {
    /// What the sidecar of `plugin` names.
    pub fn new(plugin: &str, sources: BTreeMap<String, SecretSource>) -> Self {
        Self {
            plugin: plugin.into(),
            sources: Arc::new(sources),
        }
    }

    /// Reads one value, now. Blocks for the time of one small file read, which is why values that are files should lie on
    /// a local file system, as mounted secrets do.
    ///
    /// # Errors
    /// [`SecretError`]; the log says what to add or to mend, and never what was read.
    pub fn get(&self, name: &str) -> Result<String, SecretError> {
        let Some(source) = self.sources.get(name) else {
            tracing::warn!(
                plugin = &*self.plugin,
                "secret {name:?} is not granted: add `{name} = {{ env = \"…\" }}` under [secrets] of {}.toml",
                self.plugin
            );
            return Err(SecretError::NotGranted);
        };
        let (place, value) = match source {
            SecretSource::Env(variable) => (
                format!("the environment variable {variable}"),
                std::env::var(variable).map_err(|error| error.to_string()),
            ),
            SecretSource::File(path) => (path.display().to_string(), read(path)),
        };
        value.map_err(|why| {
            tracing::warn!(
                plugin = &*self.plugin,
                "secret {name:?} is unavailable: {place}: {why}"
            );
            SecretError::Unavailable
        })
    }
}

/// The text of a file without one trailing newline: editors and `echo` add one, and nobody means it.
fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("larger than {SECRET_BYTES_MAX} bytes"));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sources.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(source: SecretSource) -> Secrets {
        Secrets::new("demo", BTreeMap::from([("token".to_owned(), source)]))
    }

    #[test]
    fn a_file_is_read_when_asked_and_loses_one_newline() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let secrets = secrets(SecretSource::File(file.clone()));
        assert_eq!(secrets.get("token"), Err(SecretError::Unavailable));
        std::fs::write(&file, "one\n\n").unwrap();
        assert_eq!(secrets.get("token").as_deref(), Ok("one\n"));
        std::fs::write(&file, "two\r\n").unwrap();
        assert_eq!(secrets.get("token").as_deref(), Ok("two"));
    }

    #[test]
    fn what_is_not_named_is_not_granted_and_nothing_leaks_into_debug() {
        // PATH is the one variable every test run has.
        let secrets = secrets(SecretSource::Env("PATH".into()));
        assert_eq!(
            secrets.get("token"),
            Ok(std::env::var("PATH").expect("tests run with PATH"))
        );
        assert_eq!(secrets.get("password"), Err(SecretError::NotGranted));
        assert_eq!(format!("{secrets:?}"), "{\"token\"}");
    }

    #[test]
    fn an_endless_file_is_unavailable_not_memory() {
        let secrets = secrets(SecretSource::File("/dev/zero".into()));
        assert_eq!(secrets.get("token"), Err(SecretError::Unavailable));
    }
}
