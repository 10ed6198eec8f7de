//! Puts the adapter into the component of a key policy: reads what the component numbers, and writes further sections at its end.
//!
//! Validates nothing: whoever compiles the component does.

use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption as CanonicalOptionTo, ComponentAliasSection,
    ComponentExportKind, ComponentExportSection, ComponentSection, ComponentSectionId,
    ComponentTypeSection, ComponentValType, ExportKind, InstanceSection, ModuleArg,
    PrimitiveValType, RawSection,
};
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind,
    ComponentOuterAliasKind, ComponentTypeRef, ExternalKind, Parser, Payload,
};

use super::{DERIVE_WHOLE, MEMORY, TEXT};

/// What tools that make components call the core function behind `derive`.
const DERIVE: &str = "larder:plugin/key-policy@0.1.0#derive";

/// The component with the adapter in it. `None`: it cannot be put in.
pub(in super::super) fn with_adapter(component: &[u8]) -> Option<Vec<u8>> {
    let (policy, next) = read(component)?;
    let adapter = wat::parse_str(TEXT).expect("the adapter is well-formed");
    let mut with = component.to_vec();
    let mut append = |section: &dyn ComponentSection| section.append_to_component(&mut with);

    append(&RawSection {
        id: ComponentSectionId::CoreModule.into(),
        data: &adapter,
    });
    let mut instances = InstanceSection::new();
    instances.export_items([
        ("memory", ExportKind::Memory, policy.memory),
        ("realloc", ExportKind::Func, policy.realloc),
        ("derive", ExportKind::Func, policy.derive),
        ("post-return", ExportKind::Func, policy.post_return),
    ]);
    instances.instantiate(
        next.core_modules,
        [("policy", ModuleArg::Instance(next.core_instances))],
    );
    append(&instances);

    let mut aliases = ComponentAliasSection::new();
    for (kind, name) in [
        (ExportKind::Func, "derive"),
        (ExportKind::Func, "memory-of-policy"),
        (ExportKind::Func, "post-memory-of-policy"),
        (ExportKind::Func, "realloc"),
        (ExportKind::Memory, "memory"),
    ] {
        aliases.alias(Alias::CoreInstanceExport {
            instance: next.core_instances + 1,
            kind,
            name,
        });
    }
    append(&aliases);
    let [derive, memory_of_policy, post_memory, realloc] =
        [0, 1, 2, 3].map(|nth| next.core_functions + nth);

    let mut types = ComponentTypeSection::new();
    let bytes = ComponentValType::Type(next.types);
    let number = ComponentValType::Primitive(PrimitiveValType::U64);
    types.defined_type().list(PrimitiveValType::U8);
    types
        .function()
        .params([("request", bytes)])
        .result(Some(number));
    let none: [(&str, ComponentValType); 0] = [];
    types.function().params(none).result(Some(bytes));
    append(&types);

    let mut lifted = CanonicalFunctionSection::new();
    let own = [
        CanonicalOptionTo::Memory(next.core_memories),
        CanonicalOptionTo::Realloc(realloc),
    ];
    lifted.lift(derive, next.types + 1, own);
    let of_policy = [
        CanonicalOptionTo::Memory(policy.memory),
        CanonicalOptionTo::PostReturn(post_memory),
    ];
    lifted.lift(memory_of_policy, next.types + 2, of_policy);
    append(&lifted);
    let mut exports = ComponentExportSection::new();
    // An export has a number of its own among the functions, too.
    for (nth, name) in [(0, DERIVE_WHOLE), (1, MEMORY)] {
        exports.export(name, ComponentExportKind::Func, next.functions + nth, None);
    }
    append(&exports);
    Some(with)
}

/// What `derive` of the policy is lifted with, as the component numbers it.
struct Policy {
    derive: u32,
    memory: u32,
    realloc: u32,
    post_return: u32,
}

impl Policy {
    /// `None`: it is lifted in another way than the adapter knows.
    fn of(derive: u32, options: &[CanonicalOption]) -> Option<Self> {
        let (mut memory, mut realloc, mut post_return) = (None, None, None);
        for option in options {
            match *option {
                CanonicalOption::UTF8 => {}
                CanonicalOption::Memory(index) => memory = Some(index),
                CanonicalOption::Realloc(index) => realloc = Some(index),
                CanonicalOption::PostReturn(index) => post_return = Some(index),
                _ => return None,
            }
        }
        Some(Self {
            derive,
            memory: memory?,
            realloc: realloc?,
            post_return: post_return?,
        })
    }
}

/// How many of each sort there are, which is what the next one is called.
#[derive(Default)]
struct Next {
    core_modules: u32,
    core_instances: u32,
    core_functions: u32,
    core_memories: u32,
    functions: u32,
    types: u32,
}

impl Next {
    fn count(&mut self, kind: ComponentExternalKind) {
        match kind {
            ComponentExternalKind::Module => self.core_modules += 1,
            ComponentExternalKind::Func => self.functions += 1,
            ComponentExternalKind::Type => self.types += 1,
            _ => {}
        }
    }
}

fn read(component: &[u8]) -> Option<(Policy, Next)> {
    let mut next = Next::default();
    let mut policy = None;
    // The core functions that are called as `derive` of the policy is.
    let mut derives = Vec::new();
    // Of what lies in modules and components inside of this one, nothing is counted.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.ok()? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } if depth > 0 => {
                depth += 1;
            }
            Payload::ModuleSection { .. } => {
                next.core_modules += 1;
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            Payload::InstanceSection(section) => next.core_instances += section.count(),
            Payload::ComponentTypeSection(section) => next.types += section.count(),
            Payload::ComponentImportSection(section) => {
                for import in section {
                    next.count(match import.ok()?.ty {
                        ComponentTypeRef::Module(_) => ComponentExternalKind::Module,
                        ComponentTypeRef::Func(_) => ComponentExternalKind::Func,
                        ComponentTypeRef::Type(_) => ComponentExternalKind::Type,
                        _ => continue,
                    });
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    next.count(export.ok()?.kind);
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias.ok()? {
                        ComponentAlias::InstanceExport { kind, .. } => next.count(kind),
                        ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::Func | ExternalKind::FuncExact,
                            name,
                            ..
                        } => {
                            if name == DERIVE {
                                derives.push(next.core_functions);
                            }
                            next.core_functions += 1;
                        }
                        ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::Memory,
                            ..
                        } => next.core_memories += 1,
                        ComponentAlias::CoreInstanceExport { .. } => {}
                        ComponentAlias::Outer { kind, .. } => match kind {
                            ComponentOuterAliasKind::CoreModule => next.core_modules += 1,
                            ComponentOuterAliasKind::Type => next.types += 1,
                            _ => {}
                        },
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    let CanonicalFunction::Lift {
                        core_func_index,
                        options,
                        ..
                    } = function.ok()?
                    else {
                        next.core_functions += 1;
                        continue;
                    };
                    next.functions += 1;
                    if derives.contains(&core_func_index) {
                        policy = Policy::of(core_func_index, &options);
                    }
                }
            }
            _ => {}
        }
    }
    Some((policy?, next))
}
