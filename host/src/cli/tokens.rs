//! The tokens of the admin listener, read from where the configuration says they stand. Must not know who shows them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::admin::Tokens;
use crate::config::kind::{Scalar as _, Token};
use crate::config::{Admin, Problem, TokenSource};

/// Whoever is neither the owner nor of the group.
const EVERYBODY: u32 = 0o007;

/// Those of a configuration.
///
/// # Errors
/// Every file that holds none, or that everybody may read.
pub(super) fn read(admin: &Admin) -> Result<Tokens, Vec<Problem>> {
    let of = |source: &Option<TokenSource>, setting| {
        let token = source.as_ref().map(|source| text(source, setting));
        token.transpose()
    };
    let full = of(&admin.token, "token_file of [admin]");
    let read = of(&admin.read_token, "read_token_file of [admin]");
    match (full, read) {
        (Ok(full), Ok(read)) if full.is_some() && full == read => {
            let message =
                "the read token of [admin] is its token: who has it may change everything";
            let problem = Problem::error(message).remedy("make another one of the two");
            Err(vec![problem])
        }
        (Ok(full), Ok(read)) => Ok(Tokens::new(full.as_deref(), read.as_deref())),
        (full, read) => Err([full.err(), read.err()].into_iter().flatten().collect()),
    }
}

/// One token, where the server is configured. `setting` is what names its file.
pub(super) fn text(source: &TokenSource, setting: &str) -> Result<String, Problem> {
    match source {
        TokenSource::Written(token) => Ok(token.clone()),
        TokenSource::File(path) => of_own_file(path, setting),
    }
}

/// The token of a file that the server is to keep to itself.
fn of_own_file(path: &Path, setting: &str) -> Result<String, Problem> {
    let is_open = std::fs::metadata(path).is_ok_and(|it| it.permissions().mode() & EVERYBODY != 0);
    if is_open {
        let why = "everybody on this machine may read it";
        let remedy = format!("run: chmod o= {}", path.display());
        return Err(fault(path, setting, why).remedy(remedy));
    }
    of_file(path, setting)
}

/// The token on the first line of a file, whoever may read it.
pub(super) fn of_file(path: &Path, setting: &str) -> Result<String, Problem> {
    let all = std::fs::read_to_string(path).map_err(|error| {
        fault(path, setting, &format!("it cannot be read: {error}"))
            .remedy("name a file that this user may read, with the token on its first line")
    })?;
    let first = all.lines().next().unwrap_or_default().trim();
    Token::parse(first).map_err(|token| {
        let why = format!("its first line is no token: {}", token.message);
        fault(path, setting, &why).remedy(token.remedy)
    })
}

fn fault(path: &Path, setting: &str, why: &str) -> Problem {
    Problem::error(format!("{setting}: {why}")).at(path, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn a_file_holds_a_token_that_few_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let said = |text: Option<&str>, mode| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
            of_own_file(&path, "token_file").map_err(|problem| problem.to_string())
        };
        let none = said(None, 0).unwrap_err();
        assert!(none.contains("it cannot be read") && none.contains("remedy"));
        assert_eq!(said(Some(" abc \r\nnot this\n"), 0o640).unwrap(), "abc");
        let open = said(Some("abc"), 0o644).unwrap_err();
        assert!(
            open.contains("everybody") && open.contains("chmod o="),
            "{open}"
        );
        for bad in ["", "\nabc", "a b"] {
            let empty = said(Some(bad), 0o600).unwrap_err();
            assert!(empty.contains("its first line is no token"), "{empty}");
        }
    }

    #[test]
    fn what_may_only_read_is_not_what_may_all() {
        let admin = Admin {
            listen: ([127, 0, 0, 1], 0).into(),
            identity: None,
            client_ca: None,
            token: Some(TokenSource::Written("a".into())),
            read_token: Some(TokenSource::Written("a".into())),
        };
        let problems = read(&admin).unwrap_err();
        assert!(
            problems[0]
                .to_string()
                .contains("who has it may change everything")
        );
    }
}
