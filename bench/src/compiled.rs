//! A warm cache of compiled code for components that differ in a custom section and in nothing that runs. To compile a
//! thousand of them takes minutes, and gives the same bytes a thousand times: so two are compiled by the host itself, and what
//! it made of one, which has to be what it made of the other, is put into its cache for the others, a file of its own for each.
//! Owns how the host names these files; must not know what is measured.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::fixture::{Fixture, Programs, components};

/// Code that the host has compiled, and where it belongs in its cache.
pub(crate) struct Compiled {
    /// Everything there was after two components and the key policy were compiled.
    kept: Vec<PathBuf>,
    /// What was made of the first component, and the digest that lies beside it.
    code: PathBuf,
    sum: PathBuf,
    /// What follows the digest of the component in the names of the files: which hosts can run it.
    engine: String,
}

impl Compiled {
    /// Lets the host compile two components in a directory of their own.
    pub(crate) async fn by_the_host(
        core: usize,
        directory: &Path,
        fixture: &Fixture<'_>,
        programs: &Programs,
    ) -> Result<Self> {
        let two = Fixture {
            loaders: 2,
            components: 2,
            routes: 1,
            redis: None,
            ..*fixture
        };
        let larder = two.start("compiled", core, directory, programs).await?;
        larder.server.stop().await;
        let cache = cache(&directory.join("compiled"));
        let kept = files(&cache)?;
        let found = |component: &[u8]| {
            let digest = digest(component);
            let of = |path: &&PathBuf| {
                name(path).starts_with(&digest) && path.extension().is_some_and(|it| it == CODE)
            };
            kept.iter().find(of).cloned().with_context(|| {
                format!(
                    "the host keeps no compiled code of {digest} in {}: are its files named otherwise now?",
                    cache.display()
                )
            })
        };
        let mut pair = components(programs, 2)?;
        let (second, first) = (
            pair.pop().unwrap_or_default(),
            pair.pop().unwrap_or_default(),
        );
        let (code, other) = (found(&first)?, found(&second)?);
        ensure!(
            fs::read(&code)? == fs::read(&other)?,
            "components that differ in a custom section are not compiled to the same code"
        );
        let engine = name(&code)[DIGEST..].trim_end_matches(CODE).to_owned();
        Ok(Self {
            sum: code.with_extension(SUM),
            kept,
            code,
            engine,
        })
    }

    /// Fills the cache of a Larder that is about to be started in `directory` with so many components, each a copy of its own.
    pub(crate) fn keep_for(
        &self,
        directory: &Path,
        count: usize,
        programs: &Programs,
    ) -> Result<()> {
        let cache = cache(directory);
        fs::create_dir_all(&cache)?;
        for path in &self.kept {
            fs::copy(path, cache.join(name(path)))?;
        }
        for component in components(programs, count)? {
            let stem = cache.join(digest(&component) + &self.engine);
            fs::copy(&self.code, format!("{}{CODE}", stem.display()))?;
            fs::copy(&self.sum, format!("{}{SUM}", stem.display()))?;
        }
        Ok(())
    }

    /// Whether the host found the code of all of them: otherwise it has compiled some, and keeps more than there was.
    pub(crate) fn were_found(directory: &Path, count: usize) -> Result<()> {
        let code = |path: &&PathBuf| path.extension().is_some_and(|it| it == CODE);
        // What the two are made of is there whether or not they are among the others.
        let (kept, expected) = (files(&cache(directory))?, count.max(2) + 1);
        let found = kept.iter().filter(code).count();
        ensure!(
            found == expected,
            "of {expected} components there is compiled code of {found} in {}",
            cache(directory).display()
        );
        Ok(())
    }
}

/// Extensions of the files, and how much of a component's digest their names begin with.
const CODE: &str = "cwasm";
const SUM: &str = "blake3";
const DIGEST: usize = 32;

fn digest(component: &[u8]) -> String {
    blake3::hash(component).to_hex()[..DIGEST].to_owned()
}

fn cache(directory: &Path) -> PathBuf {
    directory.join("larder-data/compiled")
}

fn files(cache: &Path) -> Result<Vec<PathBuf>> {
    let read = || format!("cannot read {}", cache.display());
    let entries = fs::read_dir(cache).with_context(read)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_that_the_host_compiled_after_all_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        fs::create_dir_all(&cache).unwrap();
        let keep = |name: &str| fs::write(cache.join(name), []).unwrap();
        for name in ["one", "two", "policy"] {
            keep(&format!("{name}.{CODE}"));
            keep(&format!("{name}.{SUM}"));
        }
        let were_found = |count| Compiled::were_found(directory.path(), count).is_ok();
        assert!(were_found(1) && were_found(2) && !were_found(3));
        keep(&format!("another.{CODE}"));
        assert!(!were_found(2) && were_found(3));
    }
}
