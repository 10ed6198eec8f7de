//! What the first-party plugins share: reading settings and filling `{name}` templates.
//!
//! Pure: it must not know the contract's types (each plugin generates its own) nor import anything of the host.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod template;

pub use template::Template;

/// Reads a plugin's settings from `json`, the text that `settings.get` gives.
///
/// # Errors
/// A sentence for people that names the setting, when the text does not fit `T`. The host checks settings against the
/// descriptor's schema before, so this speaks only when the two disagree, or when there is no descriptor.
pub fn settings<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|fault| format!("[config] does not fit: {fault}; correct the sidecar"))
}

#[cfg(test)]
mod tests {
    use super::settings;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[serde(rename = "latency_ms")]
        _latency_ms: u64,
    }

    #[test]
    fn a_setting_that_does_not_fit_is_named() {
        let fault = settings::<Example>(r#"{"latency": 1}"#).unwrap_err();
        assert!(fault.contains("`latency`") && fault.contains("`latency_ms`"), "{fault}");
    }
}
