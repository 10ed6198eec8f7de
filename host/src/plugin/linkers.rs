//! What a component finds when it looks for its imports: one linker for loaders, one for key policies.
//!
//! Loaders find all of WASI 0.2 and 0.3 with `wasi:http`, so that an ordinary guest of any language loads; what is not
//! granted is denied when it is used. Key policies are pure by their linker: what could tell one call from another is
//! frozen, and every other import is there, and is a trap that names itself.

use std::collections::BTreeSet;

use bytes::Bytes;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, HasData, HasSelf, Linker, Resource, ResourceTable, ResourceType, Val,
};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::p2::bindings::io::error;
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::bindings::{cli, clocks, random};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};

use super::adapter;
use super::bindings::{log, secrets, settings, types};
use super::sockets;
use super::state::State;

/// For `loader`, `blocking-loader` and what they bring with them.
pub(super) fn for_loaders(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    sockets::guard(&mut linker)?;
    secrets::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    add_ours(&mut linker)?;
    Ok(linker)
}

fn add_ours(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    settings::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    log::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

/// What the linker of key policies answers; of these packages the 0.2 versions, of the contract's own the first.
const PURE: &[(&str, &str)] = &[
    ("wasi:cli/environment", "0.2"),
    ("wasi:cli/exit", "0.2"),
    ("wasi:cli/stdin", "0.2"),
    ("wasi:cli/stdout", "0.2"),
    ("wasi:cli/stderr", "0.2"),
    ("wasi:cli/terminal-input", "0.2"),
    ("wasi:cli/terminal-output", "0.2"),
    ("wasi:cli/terminal-stdin", "0.2"),
    ("wasi:cli/terminal-stdout", "0.2"),
    ("wasi:cli/terminal-stderr", "0.2"),
    ("wasi:clocks/wall-clock", "0.2"),
    ("wasi:clocks/monotonic-clock", "0.2"),
    ("wasi:random/random", "0.2"),
    ("wasi:random/insecure", "0.2"),
    ("wasi:random/insecure-seed", "0.2"),
    ("wasi:io/error", "0.2"),
    ("wasi:io/poll", "0.2"),
    ("wasi:io/streams", "0.2"),
    ("larder:plugin/types", "0.1"),
    ("larder:plugin/settings", "0.1"),
    ("larder:plugin/log", "0.1"),
];

/// For `key-policy`. Everything in it is synchronous: derivations run on the caller's thread.
pub(super) fn for_policies(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    clocks::monotonic_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    random::random::add_to_linker::<State, WasiRandom>(l, State::random)?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, State::random)?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, State::random)?;
    error::add_to_linker::<State, Table>(l, |state| state.ctx().table)?;
    poll::add_to_linker::<State, Pure>(l, |state| Still(state.ctx().table))?;
    streams::add_to_linker::<State, Pure>(l, |state| Still(state.ctx().table))?;
    add_ours(l)?;
    Ok(linker)
}

/// The linker of key policies, with a trap for every import of `component` that it does not answer.
pub(super) fn with_traps(
    pure: &Linker<State>,
    component: &Component,
) -> wasmtime::Result<Linker<State>> {
    let engine = component.engine();
    let mut linker = pure.clone();
    let world = component.component_type();
    // The resources of the interfaces that are answered: others borrow them under names of their own, and a component
    // imports what it borrows from first.
    let mut lent = Vec::new();
    for (interface, import) in world.imports(engine) {
        let ComponentItem::ComponentInstance(import) = import.ty else {
            continue;
        };
        if answered(interface) {
            let resources = import
                .exports(engine)
                .filter_map(|(name, item)| match item.ty {
                    ComponentItem::Resource(ty) => Some((ty, stream_type(name)?)),
                    _ => None,
                });
            lent.extend(resources);
            continue;
        }
        let mut instance = linker.instance(interface)?;
        for (name, item) in import.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(function) => {
                    let called = format!("{interface}#{name}");
                    if interface.starts_with("wasi:filesystem/preopens@0.2") {
                        // The C library of most guests asks for them before `main`, needed or not.
                        instance.func_new(name, |_, _, _, results| {
                            results.fill(Val::List(Vec::new()));
                            Ok(())
                        })?;
                    } else if function.async_() {
                        return Err(AsyncImport(called).into());
                    } else {
                        instance
                            .func_new(name, move |_, _, _, _| Err(Impure(called.clone()).into()))?;
                    }
                }
                ComponentItem::Resource(ty) => {
                    let borrowed = lent.iter().find(|(lent, _)| *lent == ty);
                    let ty = borrowed.map_or_else(ResourceType::host::<Unreachable>, |(_, ty)| *ty);
                    instance.resource(name, ty, |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(linker)
}

fn answered(interface: &str) -> bool {
    let (name, version) = interface.split_once('@').unwrap_or((interface, ""));
    PURE.iter().any(|(pure, compatible)| {
        *pure == name
            && version
                .strip_prefix(compatible)
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// What stands behind a resource of `wasi:io`.
fn stream_type(name: &str) -> Option<ResourceType> {
    match name {
        "input-stream" => Some(ResourceType::host::<DynInputStream>()),
        "output-stream" => Some(ResourceType::host::<DynOutputStream>()),
        "pollable" => Some(ResourceType::host::<DynPollable>()),
        "error" => Some(ResourceType::host::<error::Error>()),
        _ => None,
    }
}

/// A key policy imports an async function. It cannot be a trap either: wasmtime lets nobody call such a component
/// synchronously, whatever the function does.
#[derive(Debug)]
pub(super) struct AsyncImport(pub(super) String);

impl std::fmt::Display for AsyncImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a key policy is synchronous, but imports the async function `{}`",
            self.0
        )
    }
}

impl std::error::Error for AsyncImport {}

/// A key policy asked for something that could make its answers differ.
#[derive(Debug)]
pub(super) struct Impure(String);

impl std::fmt::Display for Impure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a key policy is pure, so `{}` is not there: it may use settings, log and what the request holds",
            self.0
        )
    }
}

impl std::error::Error for Impure {}

/// The type of resources that no policy can ever hold.
struct Unreachable;

/// The bindings of streams and polls for key policies.
struct Pure;

impl HasData for Pure {
    type Data<'a> = Still<'a>;
}

/// The bindings of errors: those of WASI wait for nothing anyway.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Streams that never wait: stdout and stderr always have room, stdin is at its end.
struct Still<'a>(&'a mut ResourceTable);

fn impure(called: &str) -> wasmtime::Error {
    Impure(called.to_owned()).into()
}

impl poll::Host for Still<'_> {
    fn poll(&mut self, _: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        Err(impure("wasi:io/poll#poll"))
    }
}

impl poll::HostPollable for Still<'_> {
    fn ready(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<bool> {
        Err(impure("wasi:io/poll#[method]pollable.ready"))
    }

    fn block(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<()> {
        Err(impure("wasi:io/poll#[method]pollable.block"))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::drop(self.0, pollable)
    }
}

impl streams::Host for Still<'_> {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<streams::StreamError> {
        streams::Host::convert_stream_error(self.0, error)
    }
}

impl streams::HostOutputStream for Still<'_> {
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        self.0.delete(stream)?;
        Ok(())
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        streams::HostOutputStream::check_write(self.0, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.0.get_mut(&stream)?.write(Bytes::from(bytes))
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        self.write_zeroes(stream, len)
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        streams::HostOutputStream::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        streams::HostOutputStream::write_zeroes(self.0, stream, len)
    }

    fn flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
}

impl streams::HostInputStream for Still<'_> {
    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        self.0.delete(stream)?;
        Ok(())
    }

    fn read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn blocking_read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn subscribe(
        &mut self,
        _: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        Err(impure("wasi:io/streams#[method]input-stream.subscribe"))
    }
}

/// The interfaces that a component imports, in its order.
pub(super) fn imports_of(component: &Component) -> Vec<String> {
    let world = component.component_type();
    let mut seen = BTreeSet::new();
    world
        .imports(component.engine())
        .map(|(name, _)| name.to_owned())
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

/// What a component exports, in its own order.
pub(super) fn exports_of(component: &Component) -> Vec<String> {
    let world = component.component_type();
    let names = world.exports(component.engine()).map(|(name, _)| name);
    let its_own = names.filter(|name| ![adapter::DERIVE_WHOLE, adapter::MEMORY].contains(name));
    its_own.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::answered;

    #[test]
    fn a_policy_is_answered_by_compatible_versions_alone() {
        assert!(answered("wasi:cli/environment@0.2.9"));
        assert!(!answered("wasi:cli/environment@0.3.0"));
        assert!(!answered("wasi:cli/environment@0.20.0"));
        assert!(!answered("wasi:http/outgoing-handler@0.2.4"));
        assert!(answered("larder:plugin/log@0.1.0"));
    }
}
