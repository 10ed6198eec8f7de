//! Secrets. The host reads them anew whenever their file changes, so they are asked for when they are used.

use crate::error::Error;

/// The secret of this name, as `[secrets]` of the sidecar grants it.
///
/// # Errors
/// `internal`, with the line to add, if it is not granted or cannot be had.
pub fn secret(name: &str) -> Result<String, Error> {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::contract::secrets::{self, SecretError};
        secrets::get(name).map_err(|error| match error {
            SecretError::NotGranted => not_granted(name),
            SecretError::Unavailable => Error::internal(format!(
                "the secret `{name}` cannot be had; set the variable, or write the file, that [secrets] of the sidecar names"
            ))
            .code("secret-unavailable"),
        })
    }
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::secret(name).ok_or_else(|| not_granted(name))
}

fn not_granted(name: &str) -> Error {
    Error::internal(format!(
        "the secret `{name}` is not granted; add `{name} = {{ env = \"…\" }}` to [secrets] of the sidecar"
    ))
    .code("secret-not-granted")
}
