//! How Redis is told of a purge, and how far it is known to have come. When it is told, and what becomes of a purge that it
//! could not be told, is for `keeper` and the tier to know.

use std::sync::Arc;

use redis::Cmd;
use tokio::time::Instant;

use super::Shared;
use super::link::Link;
use super::scripts::Numbered;
use super::trouble::Trouble;
use crate::cache::generations::{Mode, Scope};
use crate::key::Resource;

/// How far a purge is known to have come.
pub(super) struct Reached {
    pub(super) numbered: Numbered,
    /// The server of the group.
    group: Arc<Link>,
    /// The server of the resource if it is another, and what it was told.
    holder: Option<(Arc<Link>, Cmd)>,
}

/// A purge that did not come all the way.
pub(super) struct Untold {
    /// It has its number, which every node that listens was told: what is missing is the generation of the resource.
    pub(super) numbered: Option<Numbered>,
    pub(super) trouble: Trouble,
}

impl Shared {
    /// Tells Redis of a purge, until `deadline`, and takes over the number it gave. The caller holds `exchange`, shared or not.
    ///
    /// The group's seq is raised before the resource's generation is: whoever reads the seq and then stores (see
    /// `store.lua`) either reads it before, and the generation written after covers what was stored; or after, and is
    /// refused.
    pub(super) async fn tell(
        &self,
        link: &Arc<Link>,
        scope: &Scope,
        mode: Mode,
        deadline: Instant,
    ) -> Result<Reached, Untold> {
        let own_seq = self.generations.seq();
        let limit = deadline - Instant::now();
        let numbered = self
            .scripts
            .purge(link, (scope, mode), own_seq, limit)
            .await
            .map_err(|trouble| Untold {
                numbered: None,
                trouble,
            })?;
        let mut holder = None;
        if let Scope::Resource(resource) = scope {
            let raised = async {
                let holder = self.holder(link, resource).ok_or(Trouble::Away)?;
                let limit = deadline - Instant::now();
                let raised = self.scripts.raise(&holder, resource, mode, numbered, limit);
                // Told to the server of the resource, whose trouble is not that of the group's.
                if let Err(trouble) = raised.await {
                    self.failed(&holder, &trouble);
                    return Err(match trouble {
                        Trouble::Moved(_) => trouble,
                        _ if holder.id != link.id => Trouble::Away,
                        trouble => trouble,
                    });
                }
                Ok(holder)
            };
            match raised.await {
                Ok(told) => {
                    let write = self.scripts.raising(resource, mode, numbered);
                    holder = Some((told, write)).filter(|(told, _)| told.id != link.id);
                }
                Err(trouble) => {
                    self.take_over(scope, mode, numbered);
                    return Err(Untold {
                        numbered: Some(numbered),
                        trouble,
                    });
                }
            }
        }
        self.wrote(link);
        self.take_over(scope, mode, numbered);
        Ok(Reached {
            numbered,
            group: Arc::clone(link),
            holder,
        })
    }

    /// Waits, for about `timeout` at most, until a replica of each server that was told of a purge has it. How many have it, of
    /// the server of which the fewest have; none where no server has a replica.
    /// Whether there are replicas must be known by `deadline`, or it is not known of any.
    pub(super) async fn copied(&self, reached: &Reached, deadline: Instant) -> Option<u32> {
        let (group, limits) = (&reached.group, (deadline, self.timeout));
        let mark = self.scripts.marking(reached.numbered);
        let (one, other) = tokio::join!(group.copies.of_written(group, &mark, limits), async {
            let (link, write) = reached.holder.as_ref()?;
            link.copies.of_written(link, write, limits).await
        });
        one.into_iter().chain(other).min()
    }

    /// The connections to the server that holds a resource. That of the group is spoken to before requests are let in.
    fn holder(&self, group: &Arc<Link>, resource: &Resource) -> Option<Arc<Link>> {
        let map = self.map.load();
        let (holder, of_group) = (map.of_resource(resource)?, map.group()?);
        if Arc::ptr_eq(holder, of_group) {
            return Some(Arc::clone(group));
        }
        holder.breaker.link()
    }

    /// Writes a purge that Redis has numbered into this node's record.
    fn take_over(&self, scope: &Scope, mode: Mode, numbered: Numbered) {
        let now_ms = self.clock.now_ms();
        if numbered.epoch == self.generations.epoch() {
            if numbered.collapsed {
                self.generations
                    .raise_to(&Scope::All, Mode::Delete, numbered.seq, now_ms);
            }
            self.generations.raise_to(scope, mode, numbered.seq, now_ms);
        } else {
            // Redis had lost the group. Until the new epoch is adopted, this node goes by its own numbers.
            self.generations.raise(scope, mode, now_ms);
            self.wake.notify_one();
        }
    }
}
