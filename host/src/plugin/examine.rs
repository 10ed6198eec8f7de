//! Is it a component, is it one of ours, and does the host offer what it asks for? Every refusal names the thing and says how to mend it.

use tokio::sync::OnceCell;
use wasmparser::{Chunk, Parser, Payload};
use wasmtime::component::Component;

use super::compile::{Compiled, Exports};
use super::engine::Engine;
use super::linkers::{self, AsyncImport};
use super::prepared::Prepared;
use super::runtime::Refusal;

/// Bytes of a component file, at most: compiling costs time in proportion.
pub(super) const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The package and the version of the contract that this host speaks.
const PACKAGE: &str = "larder:plugin/";
const VERSION: &str = "0.1";

const MAKE_A_COMPONENT: &str = "build it as a component: `larder plugin build`, or `cargo build --target wasm32-wasip2` in Rust, `componentize-py` in Python, `jco componentize` in JavaScript";

/// What can be seen before compiling.
///
/// # Errors
/// Too large, or evidently no component.
pub(super) fn bytes(name: &str, bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(Refusal::new(
            format!(
                "`{name}` is {} bytes; a component has at most {COMPONENT_BYTES_MAX}",
                bytes.len()
            ),
            "build it with optimisation and strip its debug sections (`wasm-tools strip`)",
        ));
    }
    let (found, remedy) = match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(()),
        [] => ("is empty".to_owned(), "was it copied whole?"),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => (
            "is a core WebAssembly module, not a component".to_owned(),
            MAKE_A_COMPONENT,
        ),
        [0, b'a', b's', b'm', _, _, layer, _, ..] if *layer != 0 => (
            "is a component in an encoding that this host does not know".to_owned(),
            "build it with the tools of today's WASI 0.2 or 0.3",
        ),
        short
            if b"\0asm".starts_with(short) || (short.starts_with(b"\0asm") && short.len() < 8) =>
        {
            (
                format!("ends after {} bytes", short.len()),
                "was it copied whole?",
            )
        }
        text if text.trim_ascii_start().starts_with(b"(") => (
            "is WebAssembly in text format".to_owned(),
            "turn it into a binary with `wasm-tools parse`",
        ),
        [0x7f, b'E', b'L', b'F', ..] => (
            "is a native program (ELF), not a component".to_owned(),
            MAKE_A_COMPONENT,
        ),
        other => (
            format!(
                "is not WebAssembly: it begins with `{}`",
                other[..other.len().min(8)].escape_ascii()
            ),
            MAKE_A_COMPONENT,
        ),
    };
    Err(Refusal::new(format!("`{name}` {found}"), remedy))
}

/// What the compiler's error means.
pub(super) fn not_compiled(name: &str, size: usize, why: &str) -> Refusal {
    // The parser meets the end in the middle of something, or a section that says it is longer than what is left.
    let cut = [
        "unexpected end",
        "unexpected-end",
        "is out of bounds (bound =",
    ];
    if cut.iter().any(|sign| why.contains(sign)) {
        return Refusal::new(
            format!("`{name}` is cut short: it ends after {size} bytes ({why})"),
            "was it copied whole? The host loads a file again when it changes",
        );
    }
    Refusal::new(
        format!("`{name}` is no valid component: {why}"),
        "build it again; `wasm-tools validate` says the same",
    )
}

/// What its exports and imports say.
///
/// # Errors
/// It exports none of our interfaces, or asks for something that this host does not offer.
pub(super) fn component(
    engine: &Engine,
    name: &str,
    component: &Component,
    digest: String,
    size: usize,
) -> Result<Compiled, Refusal> {
    let exports = exports(name, component)?;
    let prepared =
        Prepared::new(engine, component, &exports).map_err(|error| unlinkable(name, &error))?;
    Ok(Compiled {
        digest,
        size: size as u64,
        exports,
        imports: linkers::imports_of(component),
        prepared,
        described: OnceCell::new(),
    })
}

fn exports(name: &str, component: &Component) -> Result<Exports, Refusal> {
    let mut exports = Exports::default();
    let all = linkers::exports_of(component);
    for export in &all {
        let Some((interface, version)) = interface(export) else {
            continue;
        };
        if !compatible(version) {
            return Err(Refusal::new(
                format!(
                    "`{name}` exports `{export}`; this host speaks version {VERSION} of the contract"
                ),
                "build it against the contract that `larder wit` prints",
            ));
        }
        exports.add(interface);
    }
    if exports.is_useful() {
        return Ok(exports);
    }
    let found = if all.is_empty() {
        "nothing".to_owned()
    } else {
        let quoted: Vec<String> = all.iter().map(|export| format!("`{export}`")).collect();
        quoted.join(", ")
    };
    Err(Refusal::new(
        format!(
            "`{name}` is a component, but no plugin: it exports {found}; a plugin exports \
             `{PACKAGE}loader`, `{PACKAGE}batch-loader`, `{PACKAGE}blocking-loader`, \
             `{PACKAGE}writer`, `{PACKAGE}change-feed` or `{PACKAGE}key-policy` (@{VERSION}.0)"
        ),
        "build it against the contract that `larder wit` prints",
    ))
}

/// The interface and the version of an export that is one of ours.
fn interface(export: &str) -> Option<(&str, &str)> {
    let ours = export.strip_prefix(PACKAGE)?;
    Some(ours.split_once('@').unwrap_or((ours, "")))
}

/// Whether these bytes are a component that can only be a key policy. Reads what it exports and skips what is in it: nothing
/// is validated, so whoever compiles it comes to the same end either way.
pub(super) fn only_derives(bytes: &[u8]) -> bool {
    let mut exports = Exports::default();
    let mut parser = Parser::new(0);
    let mut rest = bytes;
    loop {
        let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(rest, true) else {
            return false;
        };
        let mut skip = 0;
        match payload {
            Payload::ModuleSection {
                unchecked_range, ..
            }
            | Payload::ComponentSection {
                unchecked_range, ..
            } => skip = unchecked_range.len(),
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let Ok(export) = export else {
                        return false;
                    };
                    if let Some((interface, _)) = interface(export.name.name) {
                        exports.add(interface);
                    }
                }
            }
            Payload::End(_) => return exports.key_policy && !exports.is_worldly(),
            _ => {}
        }
        let Some(left) = rest.get(consumed + skip..) else {
            return false;
        };
        rest = left;
    }
}

fn compatible(version: &str) -> bool {
    version
        .strip_prefix(VERSION)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// An import that no linker has. wasmtime names it between backticks.
fn unlinkable(name: &str, error: &wasmtime::Error) -> Refusal {
    if let Some(import) = error.downcast_ref::<AsyncImport>() {
        return Refusal::new(
            format!("`{name}`: {import}"),
            "a key policy only computes: build it without the parts of WASI 0.3 that wait",
        );
    }
    let why = format!("{error:#}");
    let missing = why
        .split_once("component imports ")
        .and_then(|(_, rest)| rest.split('`').nth(1));
    let Some(import) = missing else {
        return Refusal::new(
            format!("`{name}` does not fit the contract: {why}"),
            "build it against the contract that `larder wit` prints",
        );
    };
    let remedy = if import.starts_with(PACKAGE) {
        "build it against the contract that `larder wit` prints"
    } else if import.starts_with("wasi:") {
        "build it for WASI 0.2 or 0.3.0; other versions are not offered"
    } else {
        "the host offers settings, secrets and log of `larder:plugin`, and WASI 0.2 and 0.3; link anything else into the component with `wac plug`"
    };
    let reason = why
        .rsplit_once(": ")
        .filter(|(_, cause)| !cause.contains("not found") && !cause.contains("missing"))
        .map(|(_, cause)| format!(" ({cause})"))
        .unwrap_or_default();
    Refusal::new(
        format!("`{name}` imports `{import}`, which this host does not offer{reason}"),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(given: &[u8]) -> String {
        bytes("x", given).unwrap_err().message
    }

    #[test]
    fn what_is_no_component_is_said_to_be_what_it_is() {
        assert_eq!(refused(b""), "`x` is empty");
        assert_eq!(
            refused(b"\0asm\x01\0\0\0rest"),
            "`x` is a core WebAssembly module, not a component"
        );
        assert_eq!(
            refused(b"  (component)"),
            "`x` is WebAssembly in text format"
        );
        assert_eq!(refused(b"\0as"), "`x` ends after 3 bytes");
        assert_eq!(
            refused(b"\x7fELF\x02"),
            "`x` is a native program (ELF), not a component"
        );
        assert_eq!(
            refused(b"<html>"),
            "`x` is not WebAssembly: it begins with `<html>`"
        );
        assert_eq!(
            refused(b"\0asm\x0c\0\x01\0"),
            "`x` is a component in an encoding that this host does not know"
        );
        assert!(bytes("x", b"\0asm\x0d\0\x01\0").is_ok());
    }
}
