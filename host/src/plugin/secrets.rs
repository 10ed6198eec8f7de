//! What `secrets.get` answers: a value read from its source each time it is asked for, so that a rotated secret needs no
//! reload. Values are never logged and never shown; the [`Redactor`] remembers those that were given, to keep them out of
//! what the plugin says. Knows nothing of wasmtime.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::redact::Redactor;
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

/// A secret that was not given, and why in a sentence with what to do. The sentence never holds what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSecret {
    /// For the guest.
    pub error: SecretError,
    /// For the operator.
    pub sentence: String,
}

/// The `[secrets]` of one sidecar. Cheap to clone.
#[derive(Clone, Default)]
pub struct Secrets {
    plugin: Arc<str>,
    sources: Arc<BTreeMap<String, SecretSource>>,
    redactor: Arc<Redactor>,
    /// Nothing is read: every value is [`stand_in`] of its name.
    offline: bool,
}

/// What stands for the value of a secret where the value itself must not be: `SECRET_` and its name, in characters that
/// mean the same in a URL, a header and JSON.
pub fn stand_in(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("SECRET_{}", name.chars().map(plain).collect::<String>())
}

impl Secrets {
    /// What the sidecar of `plugin` names.
    pub fn new(plugin: &str, sources: BTreeMap<String, SecretSource>) -> Self {
        Self {
            plugin: plugin.into(),
            sources: Arc::new(sources),
            redactor: Arc::default(),
            offline: false,
        }
    }

    /// The same names, with what stands in for their values.
    pub(super) fn stand_ins(plugin: &str, sources: BTreeMap<String, SecretSource>) -> Self {
        Self {
            offline: true,
            ..Self::new(plugin, sources)
        }
    }

    /// What knows the values that were given.
    pub(super) fn redactor(&self) -> &Arc<Redactor> {
        &self.redactor
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// Reads one value, now, and gives it away. Blocks for the time of one small file read, which is why values that are
    /// files should lie on a local file system, as mounted secrets do.
    ///
    /// # Errors
    /// It is not granted, or not available.
    pub fn get(&self, name: &str) -> Result<String, NoSecret> {
        let value = self.look(name)?;
        self.redactor.learn(name, &value);
        Ok(value)
    }

    /// As [`Secrets::get`], for the host: nobody is given the value.
    pub(super) fn look(&self, name: &str) -> Result<String, NoSecret> {
        let Some(source) = self.sources.get(name) else {
            return Err(NoSecret {
                error: SecretError::NotGranted,
                sentence: format!(
                    "the secret {} is not granted: in {}.toml under [secrets] write `{}`",
                    quoted(name),
                    self.plugin,
                    secret_line(name)
                ),
            });
        };
        if self.offline {
            return Ok(stand_in(name));
        }
        let (place, mend, value) = match source {
            SecretSource::Env(variable) => (
                format!("the environment variable {variable}"),
                format!("set {variable} where Larder is started"),
                std::env::var(variable).map_err(|error| match error {
                    std::env::VarError::NotPresent => "it is not set".to_owned(),
                    // The error's own text holds the value.
                    std::env::VarError::NotUnicode(_) => "it is not UTF-8".to_owned(),
                }),
            ),
            SecretSource::File(path) => (
                path.display().to_string(),
                "let the file be there and be readable by Larder".to_owned(),
                read(path),
            ),
        };
        value.map_err(|why| NoSecret {
            error: SecretError::Unavailable,
            sentence: format!(
                "the secret {} is not available: {place}: {why}; {mend}",
                quoted(name)
            ),
        })
    }
}

/// A name that a guest asked for, cut to what fits a sentence.
fn quoted(name: &str) -> String {
    format!("{:?}", &name[..name.floor_char_boundary(64)])
}

/// The line that grants a secret from the environment variable that one would expect.
pub(super) fn secret_line(name: &str) -> String {
    let name = &name[..name.floor_char_boundary(64)];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let key = if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    let variable: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("{key} = {{ env = \"{variable}\" }}")
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

    fn error_of(secrets: &Secrets, name: &str) -> SecretError {
        secrets.get(name).unwrap_err().error
    }

    #[test]
    fn a_file_is_read_when_asked_and_loses_one_newline() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let secrets = secrets(SecretSource::File(file.clone()));
        assert_eq!(error_of(&secrets, "token"), SecretError::Unavailable);
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
        let refused = secrets.get("password").unwrap_err();
        assert_eq!(refused.error, SecretError::NotGranted);
        assert_eq!(
            refused.sentence,
            "the secret \"password\" is not granted: in demo.toml under [secrets] write `password = { env = \"PASSWORD\" }`"
        );
        assert_eq!(format!("{secrets:?}"), "{\"token\"}");
    }

    #[test]
    fn an_endless_file_is_unavailable_not_memory() {
        let secrets = secrets(SecretSource::File("/dev/zero".into()));
        assert_eq!(error_of(&secrets, "token"), SecretError::Unavailable);
    }
}
