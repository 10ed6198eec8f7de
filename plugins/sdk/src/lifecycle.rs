//! What happens before the first call and after the last one.

use std::future::Future;

use crate::error::Error;

/// The life of an instance. Each step has ten seconds. Name the type in [`crate::plugin!`] as `lifecycle`.
pub trait Lifecycle {
    /// Connects and prepares. A failure refuses the plugin.
    fn start() -> impl Future<Output = Result<(), Error>> {
        async { Ok(()) }
    }

    /// Is the source reachable, do the settings make sense to it? A failure keeps the old version at a swap; when the
    /// server starts, the plugin is served all the same and probed again.
    fn probe() -> impl Future<Output = Result<(), Error>> {
        async { Ok(()) }
    }

    /// The last call was answered.
    fn stop() -> impl Future<Output = ()> {
        async {}
    }
}

impl<C: serde::de::DeserializeOwned + 'static> crate::Context<C> {
    /// What is there without a call: the settings, with a deadline of ten seconds.
    ///
    /// # Errors
    /// `internal`, if the settings do not fit `C`.
    pub fn of_instance() -> Result<Self, Error> {
        Self::of_nothing().map_err(Error)
    }
}
