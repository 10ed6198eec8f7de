//! `feed-alone`: a change feed and nothing else, with a life. It tells the tag `tick` at every poll, as often as it is asked;
//! its cursor counts the polls of its instance. A poll of an instance that was not started panics.

use larder_plugin_support::Failure;
use std::cell::Cell;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:feed-alone;
        world feed-alone {
            include larder:plugin/change-feed-plugin@0.1.0;
            export larder:plugin/lifecycle@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

use exports::larder::plugin::{change_feed, lifecycle};

struct FeedAlone;
export!(FeedAlone);

thread_local! {
    static STARTED: Cell<bool> = const { Cell::new(false) };
    static POLLS: Cell<u64> = const { Cell::new(0) };
}

impl lifecycle::Guest for FeedAlone {
    async fn start() -> Result<(), Failure> {
        STARTED.set(true);
        Ok(())
    }

    async fn probe() -> Result<(), Failure> {
        Ok(())
    }

    async fn stop() {}
}

impl change_feed::Guest for FeedAlone {
    async fn poll(_: Option<Vec<u8>>, _: u32, _: u32) -> Result<change_feed::Page, Failure> {
        assert!(STARTED.get(), "it is started before it is polled");
        POLLS.set(POLLS.get() + 1);
        Ok(change_feed::Page {
            changes: vec![change_feed::Change::Tag("tick".to_owned())],
            cursor: POLLS.get().to_string().into_bytes(),
            poll_after_ms: 20,
            hints: Vec::new(),
        })
    }
}
