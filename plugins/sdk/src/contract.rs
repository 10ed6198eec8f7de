//! The bindings of the contract, generated from `wit/`, where every item is documented. One module for each interface
//! that a plugin may export, so that a component exports what it uses and nothing else.

#![allow(missing_docs, reason = "generated: the documentation is in wit/")]

mod imports {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk;
            world sdk { include larder:plugin/imports@0.1.0; }
        ",
        generate_all,
    });
}
pub use imports::larder::plugin::{log, secrets, settings, types};

pub mod loader {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-loader;
            world sdk-loader { export larder:plugin/loader@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_loader",
    });
    pub use exports::larder::plugin::loader::*;
}

pub mod blocking_loader {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-blocking-loader;
            world sdk-blocking-loader { export larder:plugin/blocking-loader@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_blocking_loader",
    });
    pub use exports::larder::plugin::blocking_loader::*;
}

pub mod batch_loader {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-batch-loader;
            world sdk-batch-loader { export larder:plugin/batch-loader@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_batch_loader",
    });
    pub use exports::larder::plugin::batch_loader::*;
}

pub mod writer {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-writer;
            world sdk-writer { export larder:plugin/writer@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_writer",
    });
    pub use exports::larder::plugin::writer::*;
}

pub mod change_feed {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-change-feed;
            world sdk-change-feed { export larder:plugin/change-feed@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_change_feed",
    });
    pub use exports::larder::plugin::change_feed::*;
}

pub mod key_policy {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-key-policy;
            world sdk-key-policy { export larder:plugin/key-policy@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_key_policy",
    });
    pub use exports::larder::plugin::key_policy::*;
}

pub mod metadata {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-metadata;
            world sdk-metadata { export larder:plugin/metadata@0.1.0; }
        ",
        pub_export_macro: true,
        export_macro_name: "export_metadata",
    });
    pub use exports::larder::plugin::metadata::*;
}

pub mod lifecycle {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package larder:sdk-lifecycle;
            world sdk-lifecycle { export larder:plugin/lifecycle@0.1.0; }
        ",
        with: { "larder:plugin/types@0.1.0": crate::contract::types },
        pub_export_macro: true,
        export_macro_name: "export_lifecycle",
    });
    pub use exports::larder::plugin::lifecycle::*;
}
