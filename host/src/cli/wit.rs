//! `larder wit`: the whole contract as one WIT document, from the files that the host is built from.

/// The line with which every file of the contract begins, below its comment.
const PACKAGE: &str = "package larder:plugin@0.1.0;\n";

macro_rules! contract {
    ($($name:literal),*) => {
        /// The files, in reading order. The first says what the package is.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../wit/", $name, ".wit")))),*];
    };
}

contract!(
    "types",
    "loader",
    "key-policy",
    "writer",
    "change-feed",
    "lifecycle",
    "metadata",
    "host",
    "worlds"
);

/// The contract, with one package line.
pub(super) fn text() -> String {
    let mut text = String::new();
    for (i, (_, file)) in FILES.iter().enumerate() {
        let (before, after) = file.split_once(PACKAGE).unwrap_or(("", file));
        if i == 0 {
            text.push_str(before);
            text.push_str(PACKAGE);
        }
        text.push_str(after);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn it_is_every_file_of_the_contract_under_one_package_line() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let names: BTreeSet<String> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "wit"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let printed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names, printed);

        let text = text();
        let package = |line: &&str| line.starts_with("package ");
        assert_eq!(text.lines().filter(package).count(), 1);
        for (name, file) in FILES {
            assert_eq!(file.lines().filter(package).count(), 1, "{name}");
            let (_, after) = file.split_once(PACKAGE).unwrap();
            assert!(text.contains(after), "{name}");
        }
    }
}
