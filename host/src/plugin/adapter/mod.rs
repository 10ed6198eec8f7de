//! The adapter that key policies are compiled with: a short way in, through which a request goes in one piece.
//!
//! By the function of the contract wasmtime enters a policy once for each text and each list of a request, to ask its allocator
//! for room: eleven times for a small one, which takes longer than to derive. The adapter (`adapter.wat`) is a core module that is put
//! beside the policy's own, into the same component. It is handed all of a request at once, makes the texts and the lists of
//! it in the policy's memory, with the policy's allocator, and calls what the policy has for `derive`: all inside of Wasm. The
//! decision is read from where the policy has left it, and taken back as the contract has it.
//!
//! What a policy is called with is what the rules of the component model would have made, and what it says is judged as it is read
//! (`layout.rs`). Two things differ. Its allocator may call imports while a request is made, which that model forbids. And its
//! post-return runs at the start of the next call: what it uses of `[limits] cpu` is that call's, and if it traps, so does that
//! call, on an instance that is then dropped.
//!
//! A component that exports these names by itself is asked through them: it could say the same by the contract.
//!
//! What is needed is found by the names that the tools give to the core function behind `derive`. A component that has it otherwise
//! is left alone, and asked by the function of the contract.
//!
//! Must not know instances, limits or the cache of compiled code.

mod append;
mod layout;

pub(super) use append::with_adapter;
pub(super) use layout::{Said, Unreadable, request};

/// The component's export through which it is asked, if there is an adapter: with the piece that [`request`] writes, for where the
/// decision lies and, in the upper half, how many pages the policy's memory has.
pub(super) const DERIVE_WHOLE: &str = "derive-in-one-piece";
/// Its export that gives the policy's memory.
pub(super) const MEMORY: &str = "memory-of-policy";
/// The adapter itself.
const TEXT: &str = include_str!("adapter.wat");
/// All that what is compiled depends on.
pub(super) const REVISION: [&str; 3] = [TEXT, include_str!("append.rs"), include_str!("mod.rs")];
