//! Stands in for the egress and the secrets until they are merged; everything is denied.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// What one plugin may reach.
pub struct Egress;

/// What decides about one outbound request.
pub struct EgressHooks;

impl Egress {
    /// Grants nothing.
    pub fn denied() -> Arc<Self> {
        Arc::new(Self)
    }

    /// What decides about one outbound request.
    pub fn hooks(self: &Arc<Self>) -> EgressHooks {
        EgressHooks
    }

    /// Adds what is granted.
    pub fn furnish(&self, _wasi: &mut wasmtime_wasi::WasiCtxBuilder) -> wasmtime::Result<()> {
        Ok(())
    }

    /// The last denials.
    pub fn denials(&self) -> Vec<String> {
        Vec::new()
    }
}

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for EgressHooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _fut: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        drop(request.into_body().boxed_unsync());
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

/// What `secrets.get` finds.
#[derive(Clone, Default)]
pub struct Secrets;

/// Why a secret is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// No such grant.
    NotGranted,
    /// Granted and unreadable.
    Unavailable,
}

impl Secrets {
    /// The secret's value.
    ///
    /// # Errors
    /// Not granted, or not readable now.
    pub fn get(&self, _name: &str) -> Result<String, SecretError> {
        Err(SecretError::NotGranted)
    }
}
