//! What the body of a PUT must be, where the plugin that writes says so. Must not know how it came, nor what is done with it.

use super::Route;
use crate::plugin::BodyFault;

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is not said to be of this media type.
    MediaType(String),
    /// It is not JSON: why, and where.
    NotJson(String),
    /// It does not fit the schema of the writer.
    Members(Vec<Fault>),
}

/// One thing that is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The member of the body that it is in; empty for the body itself.
    pub name: String,
    /// The JSON Schema keyword that is not met.
    pub code: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// Where in the body, as a JSON Pointer (RFC 6901); empty for the body itself.
    pub pointer: String,
    /// What the schema says under `code`.
    pub expected: Option<serde_json::Value>,
}

impl Route {
    /// Checks the body of a PUT. Where neither the operator nor the writer says anything of it, every body will do.
    ///
    /// # Errors
    /// The first kind of thing that is wrong.
    pub fn check_body(&self, content_type: Option<&str>, body: &[u8]) -> Result<(), Unfit> {
        let Some(request) = &self.body else {
            return Ok(());
        };
        request
            .check(content_type, body)
            .map_err(|fault| match fault {
                BodyFault::MediaType => Unfit::MediaType(request.content_type.clone()),
                BodyFault::NotJson(why) => Unfit::NotJson(why),
                BodyFault::Unfit(faults) => Unfit::Members(
                    faults
                        .into_iter()
                        .map(|fault| Fault {
                            name: member(&fault.pointer),
                            code: fault.code,
                            message: fault.message,
                            pointer: fault.pointer,
                            expected: fault.expected,
                        })
                        .collect(),
                ),
            })
    }
}

/// The first name of a JSON Pointer.
fn member(pointer: &str) -> String {
    let first = pointer.split('/').nth(1).unwrap_or_default();
    first.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::member;

    #[test]
    fn a_fault_is_in_the_member_that_its_pointer_begins_with() {
        for (pointer, name) in [("", ""), ("/a", "a"), ("/a~1b~0/0/c", "a/b~"), ("/0", "0")] {
            assert_eq!(member(pointer), name);
        }
    }
}
