//! The variants of a resource that Redis holds, for the operator: searched for, page after page, because nothing indexes them.

use redis::Value;

use super::Shared;
use super::link::{Link, Road};
use super::trouble::Trouble;
use crate::cache::entry::Entry;
use crate::cache::tier::Lookup;
use crate::key::Resource;

/// Variants of a resource that are listed at most.
const VARIANTS_MAX: usize = 256;
/// Pages of the key space that are searched for them at most, of [`VARIANTS_PAGE`] keys each.
const VARIANTS_PAGES_MAX: usize = 1_000;
const VARIANTS_PAGE: usize = 1_000;

impl Shared {
    pub(super) async fn variants(&self, resource: &Resource) -> Vec<(String, Entry)> {
        let mut found = Vec::new();
        let Some(link) = self.link_of(resource) else {
            return found;
        };
        if let Err(trouble) = self.search(&link, resource, &mut found).await {
            self.failed(&link, &trouble);
        }
        found
    }

    /// Adds the variants of a resource that live, until there are enough or the key space was searched far enough.
    async fn search(
        &self,
        link: &Link,
        resource: &Resource,
        found: &mut Vec<(String, Entry)>,
    ) -> Result<(), Trouble> {
        let pattern = self.names.variants(resource);
        let mut cursor = 0_u64;
        for _ in 0..VARIANTS_PAGES_MAX {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern);
            command.arg("COUNT").arg(VARIANTS_PAGE);
            let answer = link.ask(Road::Control, &command, self.timeout).await?;
            let (next, names): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer)
                .map_err(|error| Trouble::Strange(error.to_string()))?;
            for name in names {
                let text = std::str::from_utf8(&name).ok();
                let Some(key) = text.and_then(|text| text.strip_prefix(&self.names.entry)) else {
                    continue;
                };
                // A page may repeat what an earlier one gave.
                if found.iter().any(|(known, _)| known == key) {
                    continue;
                }
                let mut command = redis::cmd("MGET");
                self.names.push_entry(&mut command, key);
                self.names.push_generation(&mut command, resource);
                let answer = link.ask(Road::Control, &command, self.timeout).await?;
                if let Value::Array(answer) = answer
                    && let Ok([Value::BulkString(entry), Value::BulkString(generation)]) =
                        <[Value; 2]>::try_from(answer)
                    && let Lookup::Found(entry, _) =
                        self.judge(key, entry.into(), &generation, self.clock.now_ms())
                {
                    found.push((key.to_owned(), entry));
                }
                if found.len() == VARIANTS_MAX {
                    return Ok(());
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        Ok(())
    }
}
