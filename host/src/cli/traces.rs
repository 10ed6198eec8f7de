//! Where spans go: to a collector, by OTLP over HTTP, from a thread of its own and in batches. Nobody waits for it; what it has
//! no room for is dropped. Knows nothing of what is traced.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use tokio::runtime::Handle;

use crate::config;
use crate::trace;

/// Spans that wait to be sent (law 12).
const WAITING_MAX: usize = 8192;
/// How often they are sent, if there are not enough for a batch before.
const EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server that ends waits for the last of them.
const LAST: Duration = Duration::from_secs(2);
/// Bytes of what the collector answers.
const ANSWER_MAX: usize = 64 * 1024;

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Exported {
    sent: AtomicU64,
    failed: AtomicU64,
    /// Whether the last batch was not taken.
    is_failing: AtomicBool,
}

/// Spans that ended, those of them that the collector took, and those that it did not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) ended: u64,
    pub(super) sent: u64,
    pub(super) failed: u64,
}

/// The way to the collector.
pub(super) struct Traces {
    provider: SdkTracerProvider,
    exported: Arc<Exported>,
}

impl Traces {
    /// Collects from here on, if the configuration names a collector. `OTEL_EXPORTER_OTLP_HEADERS` is what is sent along with
    /// each batch, as the standard has it.
    pub(super) fn start(traces: &config::Traces) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &traces.endpoint else {
            return Ok(None);
        };
        let path = "/v1/traces";
        let base = endpoint.as_str().trim_end_matches('/');
        let url = if base.ends_with(path) {
            base.to_owned()
        } else {
            format!("{base}{path}")
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Wire::new(url.starts_with("https"))?)
            .with_endpoint(&url)
            .with_timeout(TIMEOUT)
            .build()
            .with_context(|| format!("endpoint of [traces]: {url} cannot be sent to"))?;
        let exported = Arc::new(Exported::default());
        let counted = Counted {
            exporter,
            exported: Arc::clone(&exported),
            url: url.clone(),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING_MAX)
            .with_scheduled_delay(EVERY)
            .build();
        let resource = Resource::builder()
            .with_service_name(traces.service.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            // Whom to trace is decided where a request comes in: what is begun is kept.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_span_processor(
                BatchSpanProcessor::builder(counted)
                    .with_batch_config(batches)
                    .build(),
            )
            .build();
        opentelemetry::global::set_tracer_provider(provider.clone());
        trace::collect(traces.sample);
        tracing::info!(
            endpoint = url,
            sample = traces.sample,
            "spans are collected"
        );
        Ok(Some(Self { provider, exported }))
    }

    /// What became of spans so far.
    pub(super) fn counts(&self) -> impl Fn() -> Counts + Send + Sync + 'static {
        let exported = Arc::clone(&self.exported);
        move || Counts {
            ended: trace::ended(),
            sent: exported.sent.load(Ordering::Relaxed),
            failed: exported.failed.load(Ordering::Relaxed),
        }
    }

    /// Sends what is left, for a little while.
    pub(super) async fn end(self) {
        // It blocks, and its requests need this runtime's threads.
        let last = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(LAST));
        if let Ok(Err(error)) = last.await {
            tracing::warn!("the last spans were not taken: {error}");
        }
    }
}

/// Counts what becomes of batches.
#[derive(Debug)]
struct Counted {
    exporter: opentelemetry_otlp::SpanExporter,
    exported: Arc<Exported>,
    url: String,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        let exported = &self.exported;
        let was_failing = exported.is_failing.swap(result.is_err(), Ordering::Relaxed);
        let count = match &result {
            Ok(()) => {
                if was_failing {
                    tracing::info!("the collector takes spans again");
                }
                &exported.sent
            }
            Err(error) => {
                if !was_failing {
                    tracing::warn!(
                        endpoint = self.url,
                        "the collector takes no spans ({error}); look whether endpoint of [traces] is where it listens for OTLP over HTTP"
                    );
                }
                &exported.failed
            }
        };
        count.fetch_add(spans, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// HTTP on the threads of the server: the one that batches has no runtime.
struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    fn new(is_secured: bool) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?;
        let tls = if is_secured {
            tls.with_native_roots().context(
                "the collector is asked over TLS, and no certificate authorities were found: install ca-certificates, or set SSL_CERT_FILE",
            )?
        } else {
            tls.with_root_certificates(rustls::RootCertStore::empty())
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            runtime: Handle::current(),
        })
    }
}

impl HttpClient for Wire {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let exchange = async {
                let response = client.request(request.map(Full::new)).await?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            tokio::time::timeout(TIMEOUT, exchange)
                .await
                .unwrap_or_else(|elapsed| Err(elapsed.into()))
        });
        Box::pin(async move { sent.await? })
    }
}
