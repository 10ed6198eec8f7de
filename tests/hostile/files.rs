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

/// A small file that takes a compiler long: functions of nothing but branches into each other's blocks.
pub(crate) fn compile_bomb() -> Vec<u8> {
    let mut functions = String::new();
    for function in 0..400 {
        let _ = write!(
            functions,
            "(func $f{function} (param i32) (result i32) (local i32 i32 i32)"
        );
        for step in 0..1500 {
            let _ = write!(
                functions,
                "(local.set {} (i32.rotl (i32.add (local.get {}) (i32.const {step})) (i32.mul (local.get {}) (local.get 0))))",
                1 + step % 3,
                1 + (step + 1) % 3,
                1 + (step + 2) % 3,
            );
        }
        functions.push_str("(local.get 1))\n");
    }
    policy(&functions, "(call $f0 (local.get 0))")
}
