//! Change feeds: how a source tells the cache what changed.

use std::time::Duration;

use crate::contract::change_feed;
use crate::contract::types::Param;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Where the last page ended; none at the very first: begin at the end of what there is.
    pub cursor: Option<Vec<u8>>,
    /// Changes to answer at most.
    pub max: usize,
    /// How long to wait for a change before an empty page is answered.
    pub wait: Duration,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A resource.
    Item {
        /// The pattern of a route; none: every route of this loader with these parameters.
        route: Option<String>,
        /// Its path parameters.
        params: Vec<(String, String)>,
    },
    /// All that carries this tag.
    Tag(String),
    /// Everything that this loader made.
    Everything,
}

impl Change {
    /// A resource of every route of this loader.
    pub fn item<N: Into<String>, V: Into<String>>(
        params: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let params = params.into_iter();
        Self::Item {
            route: None,
            params: params
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }
}

/// A stretch of changes.
#[derive(Clone, Debug)]
pub struct Page {
    /// What changed, oldest first.
    pub changes: Vec<Change>,
    /// Where the next page begins. Kept by the host once these changes are applied.
    pub cursor: Vec<u8>,
    /// How long to wait before the next poll.
    pub poll_after: Duration,
}

impl Page {
    /// Changes up to a cursor, to be followed by the next poll at once.
    #[must_use]
    pub fn new(changes: Vec<Change>, cursor: impl Into<Vec<u8>>) -> Self {
        Self {
            changes,
            cursor: cursor.into(),
            poll_after: Duration::ZERO,
        }
    }

    /// Waits before the next poll.
    #[must_use]
    pub const fn poll_after(mut self, pause: Duration) -> Self {
        self.poll_after = pause;
        self
    }

    pub(crate) fn into_contract(self) -> change_feed::Page {
        let changes = self.changes.into_iter().map(|change| match change {
            Change::Item { route, params } => change_feed::Change::Item(change_feed::Item {
                route,
                params: params
                    .into_iter()
                    .map(|(name, value)| Param { name, value })
                    .collect(),
            }),
            Change::Tag(tag) => change_feed::Change::Tag(tag),
            Change::Everything => change_feed::Change::Everything,
        });
        change_feed::Page {
            changes: changes.collect(),
            cursor: self.cursor,
            poll_after_ms: self.poll_after.as_millis().try_into().unwrap_or(u32::MAX),
            hints: Vec::new(),
        }
    }
}
