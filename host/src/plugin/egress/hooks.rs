//! Where `wasi:http` meets the host's client: one request in, one response or one of WASI's errors out.

use std::future::Future;
use std::sync::Arc;

use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use super::Egress;

/// The hooks of one store: [`Egress`] seen through wasmtime's eyes.
pub struct EgressHooks {
    egress: Arc<Egress>,
}

impl EgressHooks {
    pub(super) fn new(egress: Arc<Egress>) -> Self {
        Self { egress }
    }
}

impl WasiHttpHooks for EgressHooks {
    /// `_processed` would tell what became of the response in the guest; nobody here needs to know. The second future of
    /// the answer drives the connection in wasmtime's own client; here the pool drives it, so it is done at once.
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<(
                    http::Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                )>,
            > + Send,
    > {
        let egress = Arc::clone(&self.egress);
        Box::new(async move {
            let options = options.unwrap_or_default();
            let response = match egress.tape.clone() {
                None => egress.send(request, options).await?,
                Some(tape) => tape.send(egress, request, options).await?,
            };
            let driven: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(async { Ok(()) });
            Ok((response, driven))
        })
    }
}
