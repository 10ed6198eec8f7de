//! What is served, as one immutable snapshot: a request pins one and never sees a swap. Knows nothing of how it comes about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::last_good::LastKnown;
use super::version::Plugin;

/// Plugins that are shown or remembered, removed ones included.
pub(super) const PLACES_MAX: usize = 4096;

/// An immutable snapshot of what is served.
#[derive(Clone, Debug, Default)]
pub struct PluginSet {
    plugins: BTreeMap<String, Arc<Plugin>>,
    known: BTreeMap<String, LastKnown>,
    /// What lies there and would load, as far as is known, if it were not refused.
    refused: BTreeSet<String>,
}

impl PluginSet {
    /// Nothing is served yet; this was, before a restart.
    pub(super) fn knowing(known: BTreeMap<String, LastKnown>) -> Self {
        Self {
            known,
            ..Self::default()
        }
    }

    /// The version of a plugin that is served, if one is.
    pub fn get(&self, name: &str) -> Option<&Arc<Plugin>> {
        self.plugins.get(name)
    }

    /// All that is served, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values()
    }

    /// The last good version of a plugin that was ever served with this storage, removed and broken ones included: enough
    /// to find the entries that were stored through it.
    pub fn last_known(&self, name: &str) -> Option<LastKnown> {
        self.known.get(name).cloned()
    }

    /// The names of the loaders, as far as is known, whose files lie there and no version of which can be served.
    pub fn refused_loaders(&self) -> impl Iterator<Item = &str> {
        self.refused.iter().map(String::as_str)
    }

    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    pub(super) fn with(&self, plugin: &Arc<Plugin>) -> Self {
        let mut set = self.without(plugin.name());
        if set.known.len() >= PLACES_MAX {
            let served = &set.plugins;
            set.known.retain(|name, _| served.contains_key(name));
        }
        set.known
            .insert(plugin.name().to_owned(), LastKnown::of(plugin));
        set.plugins
            .insert(plugin.name().to_owned(), Arc::clone(plugin));
        set
    }

    pub(super) fn without(&self, name: &str) -> Self {
        let mut set = self.clone();
        set.plugins.remove(name);
        set.refused.remove(name);
        set
    }

    pub(super) fn refusing(&self, name: &str, loads: bool) -> Self {
        let mut set = self.without(name);
        if loads {
            set.refused.insert(name.to_owned());
        }
        set
    }
}
