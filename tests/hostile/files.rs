//! Components whose harm is in the file: made from text, because no compiler would write them. Must not know the host.

use std::fmt::Write as _;

use larder_tests::larder::repository;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A key policy around this `derive`, whose locals 0 to 9 are the request.
fn policy(items: &str, derive: &str) -> Vec<u8> {
    let module = format!(
        r#"(module
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            {items}
            (func (export "larder:plugin/key-policy@0.1.0#derive")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                {derive}))"#
    );
    let mut module = wat::parse_str(module).expect("the text is WebAssembly");
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(repository().join("wit"))
        .expect("the contract parses");
    let world = resolve
        .select_world(&[package], Some("key-policy-plugin"))
        .expect("the contract has the world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
        .expect("the module fits the world");
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .expect("the module makes a component")
}

/// Lets a table grow until that fails, and traps then.
pub(crate) fn table_bomb() -> Vec<u8> {
    policy(
        "(table $t 1 funcref)",
        "(loop $again (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
    )
}

/// A small file that takes a compiler long: blocks in each other, and in the innermost as many jumps to any of them.
pub(crate) fn compile_bomb() -> Vec<u8> {
    const DEPTH: usize = 1000;
    let labels = (0..DEPTH).fold(String::new(), |mut labels, label| {
        let _ = write!(labels, "{label} ");
        labels
    });
    let jump = format!("block local.get 0 br_table {labels} end ");
    let function = format!(
        "(func $bomb (param i32) (result i32) {} {} {} local.get 0)",
        "block ".repeat(DEPTH),
        jump.repeat(DEPTH),
        "end ".repeat(DEPTH),
    );
    policy(&function, "(call $bomb (local.get 0))")
}
