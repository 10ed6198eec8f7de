//! One compiled component for all plugins whose files have the same bytes, for as long as one of them is there.
//!
//! A general component (a loader over HTTP, a key policy) is often used under many names with other settings. Its code, its
//! types and what it says about itself are then there once.
//!
//! Must not know what is kept, or how it was made.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What is in use, by digest. It keeps nothing alive.
pub(super) struct Shared<T>(Mutex<HashMap<String, Weak<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shared<T> {
    /// What those who have the same bytes use.
    pub(super) fn get(&self, digest: &str) -> Option<Arc<T>> {
        self.0.lock().get(digest)?.upgrade()
    }

    /// Makes `made` what others get from now on. If others were faster, it is theirs that is used.
    ///
    /// Two who find nothing both make it, the second from the code that the first has kept (`compile` has one turn). Both
    /// then come here, one after the other under the lock: the first to come leaves its own, and the second finds that, for
    /// the first still holds it in its hand; or the first has let go of it already, and then there is one again, the
    /// second's. So two are there at once only until the second has been here.
    pub(super) fn share(&self, digest: &str, made: T) -> Arc<T> {
        let mut kept = self.0.lock();
        if let Some(theirs) = kept.get(digest).and_then(Weak::upgrade) {
            return theirs;
        }
        // What nobody uses any more is forgotten before the map would grow (law 12).
        if kept.len() == kept.capacity() {
            kept.retain(|_, weak| weak.strong_count() > 0);
        }
        let made = Arc::new(made);
        kept.insert(digest.to_owned(), Arc::downgrade(&made));
        made
    }

    /// Everything that is in use now.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.0.lock().values().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_is_what_all_use_until_nobody_does() {
        let shared = Shared::default();
        assert!(shared.get("a").is_none());
        let first = shared.share("a", 1);
        // Made at the same time, by somebody who had found nothing.
        let second = shared.share("a", 2);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(*shared.get("a").unwrap(), 1);
        assert!(shared.get("b").is_none());
        drop((first, second));
        assert!(shared.get("a").is_none(), "it keeps nothing alive");
        assert_eq!(*shared.share("a", 3), 3);
    }

    #[test]
    fn what_is_gone_makes_no_map_grow() {
        let shared = Shared::default();
        let held = shared.share("held", 0);
        for number in 0..10_000 {
            shared.share(&number.to_string(), number);
        }
        assert!(shared.0.lock().capacity() < 64);
        assert!(Arc::ptr_eq(&shared.get("held").unwrap(), &held));
        assert_eq!(shared.all().len(), 1);
    }
}
