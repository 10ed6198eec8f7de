//! `needy`: a loader that says it cannot do without a setting (`base`) and a grant (`http`), and never uses the grant.
//! The answer is the setting.

use serde_json::json;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:needy;
        world needy {
            include larder:plugin/loader-plugin@0.1.0;
            export larder:plugin/metadata@0.1.0;
        }
    ",
    generate_all,
});

use exports::larder::plugin::{loader, metadata};
use larder::plugin::types::{Entry, Failure, Outcome, Question};

struct Needy;
export!(Needy);

impl loader::Guest for Needy {
    async fn load(_: Question) -> Result<Outcome, Failure> {
        Ok(Outcome::Found(Entry {
            status: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            body: larder::plugin::settings::get().into_bytes(),
            validator: None,
            ttl_ms: None,
            tags: Vec::new(),
            hints: Vec::new(),
        }))
    }
}

impl metadata::Guest for Needy {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "needy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "Cannot do without.",
                "additional_parameters": true,
                "settings": {
                    "type": "object", "additionalProperties": false, "required": ["base"],
                    "properties": { "base": { "type": "string", "description": "Where to ask." } },
                },
                "grants": { "http": ["the origin that the setting `base` names"] },
            })
            .to_string(),
        }
    }
}
