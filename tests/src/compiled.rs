//! Components that are large: compiled once for all tests of a file, and not by each of them at the same time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::larder::{Builder, Larder, Wasm};
use crate::wait::eventually_within;

/// How long compiling may take on a machine that has other things to do.
const COMPILING: Duration = Duration::from_secs(240);

/// Compiled code, by the names of its files in the cache.
type Compiled = Vec<(OsString, Vec<u8>)>;

impl Builder {
    /// Starts a server that finds a first-party plugin in the cache of compiled code.
    ///
    /// # Panics
    /// When it cannot be compiled, or the server does not start.
    pub async fn start_compiled(self, plugin: &str) -> Larder {
        static COMPILED: Mutex<Option<HashMap<String, Compiled>>> = Mutex::const_new(None);
        let home = self.write();
        let cache = home.path("larder-data/compiled");
        let mut all = COMPILED.lock().await;
        let all = all.get_or_insert_default();
        if !all.contains_key(plugin) {
            all.insert(plugin.to_owned(), compile(plugin).await);
        }
        fs::create_dir_all(&cache).expect("a cache is made");
        for (name, bytes) in &all[plugin] {
            fs::write(cache.join(name), bytes).expect("and filled");
        }
        Larder::start(home).await
    }
}

/// Puts the component into a server that runs already, for compiling it may take longer than a start may, and waits until
/// it is judged. Gives what was compiled.
async fn compile(plugin: &str) -> Compiled {
    let larder = Larder::with().start().await;
    larder.install(plugin, &Wasm::plugin(plugin));
    eventually_within(COMPILING, "the component is compiled", async || {
        let all = larder.admin.get("/plugins").await.json();
        // Without settings it is refused, which is said once it is compiled.
        (!all.as_array()?.first()?["error"].is_null()).then_some(())
    })
    .await;
    let cache = larder.path("larder-data/compiled");
    let files = fs::read_dir(cache).expect("compiled code is kept");
    files
        .flatten()
        .map(|file| {
            let bytes = fs::read(file.path()).expect("and can be read");
            (file.file_name(), bytes)
        })
        .collect()
}
