//! A problem of the configuration or of a plugin, as `larder check` prints it: what is wrong, where, and how to mend it.

use std::fmt;
use std::path::PathBuf;

/// One problem. `larder check` reports every one of them at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file at fault.
    pub file: Option<PathBuf>,
    /// Its line, counted from 1.
    pub line: Option<usize>,
    /// Whether it stops the server; a warning does not.
    pub severity: Severity,
    /// One sentence: what is wrong.
    pub message: String,
    /// One sentence: what to do.
    pub remedy: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `larder check` and `larder serve` exit with 1.
    Error,
    /// Shown, and served all the same.
    Warning,
}

impl Problem {
    /// An error without a place; add one with [`Problem::at`].
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            severity: Severity::Error,
            message: message.into(),
            remedy: None,
        }
    }

    /// A warning without a place.
    pub fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// Names the file and, where known, the line.
    #[must_use]
    pub fn at(mut self, file: impl Into<PathBuf>, line: Option<usize>) -> Self {
        self.file = Some(file.into());
        self.line = line;
        self
    }

    /// Says how to mend it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl Problem {
    /// `larder.toml:12: unknown key "tll" in [[routes]]; remedy: did you mean "ttl"?`, for a log, which has lines and levels of its own.
    pub fn on_one_line(&self) -> String {
        let text = self.to_string();
        let text = text.split_once(": ").map_or(&*text, |(_, text)| text);
        text.replace("\n  remedy: ", "; remedy: ")
    }
}

/// `error: larder.toml:12: unknown key "tll" in [[routes]]` and, on a line of its own, `  remedy: did you mean "ttl"?`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}
