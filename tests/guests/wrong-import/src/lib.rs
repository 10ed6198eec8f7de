//! `wrong-import`: a loader that imports an interface (`acme:missing/thing@1.0.0`) which no host has.

wit_bindgen::generate!({
    path: ["../../../wit", "wit"],
    inline: "
        package guests:wrong-import;
        world wrong-import {
            include larder:plugin/loader-plugin@0.1.0;
            import acme:missing/thing@1.0.0;
        }
    ",
    generate_all,
});

use exports::larder::plugin::loader;
use larder::plugin::types::{Entry, Failure, Outcome, Question};

struct WrongImport;
export!(WrongImport);

impl loader::Guest for WrongImport {
    async fn load(_: Question) -> Result<Outcome, Failure> {
        Ok(Outcome::Found(Entry {
            status: None,
            content_type: None,
            headers: Vec::new(),
            body: acme::missing::thing::get().into_bytes(),
            validator: None,
            ttl_ms: None,
            tags: Vec::new(),
            hints: Vec::new(),
        }))
    }
}
