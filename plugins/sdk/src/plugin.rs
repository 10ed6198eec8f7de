//! [`plugin!`]: what a component exports.

/// Exports functions as a plugin, and describes it. Every member but one form is optional.
///
/// | member | what it is |
/// |---|---|
/// | `loader` | `async fn(P, Context<C>) -> Result<R, Error>` |
/// | `blocking_loader` | `fn(P, Context<C>) -> Result<R, Error>`; one at a time in an instance |
/// | `batch_loader` | `async fn(Vec<(P, Context<C>)>) -> Vec<Result<R, Error>>`; one result for each question |
/// | `key_policy` | `fn(Request, &C) -> Result<Key, Error>` |
/// | `writer` | `async fn(Mutation<P>, Context<C>) -> Result<Receipt, Error>` |
/// | `request` | of a writer: what the body of a PUT must be, as [`crate::Body`]; anything if left out |
/// | `pending` | of a writer: [`crate::Pending::Payload`], if the body of a PUT is what a read gives once it is applied |
/// | `change_feed` | `async fn(Poll, Context<C>) -> Result<Page, Error>` |
/// | `lifecycle` | a unit struct that is a [`crate::Lifecycle`] |
/// | `name` | what it is called; the package's name if left out |
/// | `about` | a sentence for the API documentation |
/// | `cache_version` | raise it when entries of the last release must not be used any more; 1 if left out |
/// | `needs` | the grants it cannot do without, as [`crate::Needs`] |
///
/// `P` is what the parts are read as, `C` what the sidecar's `[config]` is read as (`Context` alone: no settings), `R` any
/// serialisable value or a [`crate::Reply`] of one. `P`, `C` and the value derive `schemars::JsonSchema`; a doc comment on a
/// field becomes its description.
///
/// ```no_run
/// # fn main() {}
/// # mod plugin {
/// use larder_plugin::prelude::*;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Params {
///     city: String,
/// }
///
/// #[derive(Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     /// Where to ask.
///     url: String,
/// }
///
/// async fn load(params: Params, context: Context<Config>) -> Result<Reply<Value>, Error> {
///     let answer = larder_plugin::http::get(&context.url).send().await?;
///     Ok(Reply::found(answer.json()?).tag(params.city))
/// }
///
/// larder_plugin::plugin! {
///     about: "The weather of a city.",
///     needs: Needs::new().http("https://api.example.com", "the forecasts"),
///     loader: load,
/// }
/// # }
/// ```
#[macro_export]
macro_rules! plugin {
    ($($member:ident: $value:expr),+ $(,)?) => {
        #[doc(hidden)]
        mod __larder_plugin {
            #[allow(unused_imports, reason = "a value may be a literal")]
            use super::*;

            struct LarderPlugin;

            impl $crate::contract::metadata::Guest for LarderPlugin {
                fn describe() -> $crate::contract::metadata::Description {
                    let description = $crate::describe::Description::new(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                    );
                    $($crate::plugin!(@describe description, $member, $value);)+
                    description.finish()
                }
            }
            $crate::contract::metadata::export_metadata!(LarderPlugin with_types_in $crate::contract::metadata);

            $($crate::plugin!(@export $member, $value);)+
        }
    };

    (@describe $description:ident, needs, $value:expr) => { let $description = $description.needs($value); };
    (@describe $description:ident, request, $value:expr) => { let $description = $description.request($value); };
    (@describe $description:ident, pending, $value:expr) => { let $description = $description.pending($value); };
    (@describe $description:ident, name, $value:expr) => { let $description = $description.name($value); };
    (@describe $description:ident, about, $value:expr) => { let $description = $description.about($value); };
    (@describe $description:ident, cache_version, $value:expr) => {
        let $description = $description.cache_version($value);
    };
    (@describe $description:ident, $form:ident, $value:expr) => { let $description = $description.$form(&$value); };

    (@export name, $value:expr) => {};
    (@export about, $value:expr) => {};
    (@export cache_version, $value:expr) => {};
    (@export needs, $value:expr) => {};
    (@export request, $value:expr) => {};
    (@export pending, $value:expr) => {};

    (@export loader, $load:expr) => {
        impl $crate::contract::loader::Guest for LarderPlugin {
            async fn load(
                question: $crate::contract::types::Question,
            ) -> ::core::result::Result<$crate::contract::types::Outcome, $crate::contract::types::Failure> {
                $crate::call::load($load, question).await
            }
        }
        $crate::contract::loader::export_loader!(LarderPlugin with_types_in $crate::contract::loader);
    };

    (@export blocking_loader, $load:expr) => {
        impl $crate::contract::blocking_loader::Guest for LarderPlugin {
            fn load(
                question: $crate::contract::types::Question,
            ) -> ::core::result::Result<$crate::contract::types::Outcome, $crate::contract::types::Failure> {
                $crate::call::load_blocking($load, question)
            }
        }
        $crate::contract::blocking_loader::export_blocking_loader!(
            LarderPlugin with_types_in $crate::contract::blocking_loader
        );
    };

    (@export batch_loader, $load:expr) => {
        impl $crate::contract::batch_loader::Guest for LarderPlugin {
            async fn load_many(
                questions: ::std::vec::Vec<$crate::contract::types::Question>,
            ) -> ::std::vec::Vec<::core::result::Result<$crate::contract::types::Outcome, $crate::contract::types::Failure>> {
                $crate::call::load_many($load, questions).await
            }
        }
        $crate::contract::batch_loader::export_batch_loader!(
            LarderPlugin with_types_in $crate::contract::batch_loader
        );
    };

    (@export key_policy, $derive:expr) => {
        impl $crate::contract::key_policy::Guest for LarderPlugin {
            fn derive(
                request: $crate::contract::key_policy::Request,
            ) -> $crate::contract::key_policy::Decision {
                $crate::call::derive($derive, request)
            }
        }
        $crate::contract::key_policy::export_key_policy!(LarderPlugin with_types_in $crate::contract::key_policy);
    };

    (@export writer, $write:expr) => {
        impl $crate::contract::writer::Guest for LarderPlugin {
            async fn write(
                mutations: ::std::vec::Vec<$crate::contract::writer::Mutation>,
            ) -> ::std::vec::Vec<::core::result::Result<$crate::contract::writer::Receipt, $crate::contract::types::Failure>> {
                $crate::call::write($write, mutations).await
            }
        }
        $crate::contract::writer::export_writer!(LarderPlugin with_types_in $crate::contract::writer);
    };

    (@export change_feed, $poll:expr) => {
        impl $crate::contract::change_feed::Guest for LarderPlugin {
            async fn poll(
                cursor: ::core::option::Option<::std::vec::Vec<u8>>,
                max: u32,
                wait_ms: u32,
            ) -> ::core::result::Result<$crate::contract::change_feed::Page, $crate::contract::types::Failure> {
                let asked = $crate::Poll {
                    cursor,
                    max: max as usize,
                    wait: ::std::time::Duration::from_millis(wait_ms.into()),
                };
                $crate::call::poll($poll, asked).await
            }
        }
        $crate::contract::change_feed::export_change_feed!(
            LarderPlugin with_types_in $crate::contract::change_feed
        );
    };

    (@export lifecycle, $lifecycle:expr) => {
        impl $crate::contract::lifecycle::Guest for LarderPlugin {
            async fn start() -> ::core::result::Result<(), $crate::contract::types::Failure> {
                $crate::call::start(&$lifecycle).await
            }
            async fn probe() -> ::core::result::Result<(), $crate::contract::types::Failure> {
                $crate::call::probe(&$lifecycle).await
            }
            async fn stop() {
                $crate::call::stop(&$lifecycle).await;
            }
        }
        $crate::contract::lifecycle::export_lifecycle!(LarderPlugin with_types_in $crate::contract::lifecycle);
    };

    (@export $other:ident, $value:expr) => {
        compile_error!(concat!(
            "`", stringify!($other), "` is no member of a plugin; there are loader, blocking_loader, batch_loader, \
             key_policy, writer, request, pending, change_feed, lifecycle, name, about, cache_version and needs"
        ));
    };
}
