//! Spans as a collector is sent them: whose trace is whose, and that nobody waits for the collector.

use std::collections::HashSet;
use std::time::Duration;

use larder_tests::{Builder, Larder, Origin, Reply, Wasm, eventually, sidecar};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

const CLIENT: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What a client sends along that wants to be traced.
fn traced() -> [(&'static str, &'static str); 3] {
    [
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("tracestate", "vendor=of-the-client"),
        ("baggage", "secret=of-the-client"),
    ]
}

fn collector() -> Origin {
    let collector = Origin::start();
    collector.on("/v1/traces", Reply::status(200));
    collector
}

/// The plugin `http` in front of an origin, of which nothing is traced but what a client asks for.
fn larder(collector: &Origin, origin: &Origin) -> Builder {
    let url = origin.url();
    Larder::with()
        .component(
            "http",
            Wasm::plugin("http"),
            &sidecar(origin, &format!("{url}/{{key}}")),
        )
        .route("/things/{key}", "http", "ttl = \"1h\"")
        .section(&format!(
            "[traces]\nendpoint = \"{}\"\nsample = 0.0\nservice = \"shop\"\n",
            collector.url()
        ))
}

/// All spans that the collector has been sent.
fn spans(collector: &Origin) -> Vec<Span> {
    let mut spans = Vec::new();
    for seen in collector.seen("/v1/traces") {
        let request = ExportTraceServiceRequest::decode(seen.body).expect("it is OTLP");
        for resource in request.resource_spans {
            let attributes = &resource.resource.as_ref().expect("who sends").attributes;
            let name = attributes
                .iter()
                .find(|it| it.key == "service.name")
                .unwrap();
            assert_eq!(
                text(name.value.as_ref().and_then(|it| it.value.as_ref())),
                "shop"
            );
            spans.extend(
                resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans),
            );
        }
    }
    spans
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("neither a text nor a number: {other:?}"),
    }
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|it| it.key == key);
    let value = found.and_then(|it| it.value.as_ref());
    text(value.and_then(|it| it.value.as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one span of this name, when it has been sent.
async fn span(collector: &Origin, name: &str) -> Span {
    eventually(&format!("the span {name:?} is sent"), async || {
        let mut named: Vec<_> = spans(collector);
        named.retain(|span| span.name == name);
        assert!(named.len() <= 1, "{} of {name:?}", named.len());
        named.pop()
    })
    .await
}

#[tokio::test]
async fn law_1_a_request_goes_on_in_its_clients_trace_and_its_load_is_another() {
    let (collector, origin) = (collector(), Origin::start());
    let larder = larder(&collector, &origin).start().await;
    larder
        .get_with("/things/a?x=1", &traced())
        .await
        .expect(200, "larder; fwd=uri-miss; stored");

    let request = span(&collector, "GET /things/{key}").await;
    assert_eq!(
        (hex(&request.trace_id), hex(&request.parent_span_id)),
        (CLIENT.into(), PARENT.into())
    );
    assert_eq!(request.trace_state, "vendor=of-the-client");
    assert_eq!(attribute(&request, "http.route"), "/things/{key}");
    assert_eq!(attribute(&request, "url.path"), "/things/a");
    assert_eq!(attribute(&request, "http.response.status_code"), "200");
    assert_eq!(
        attribute(&request, "larder.cache_status"),
        "fwd=uri-miss; stored"
    );
    for part in ["key", "wait for the load"] {
        let part = span(&collector, part).await;
        assert_eq!(
            (&part.trace_id, &part.parent_span_id),
            (&request.trace_id, &request.span_id)
        );
    }

    let load = span(&collector, "load /things/{key}").await;
    assert_ne!(load.trace_id, request.trace_id);
    assert!(load.parent_span_id.is_empty() && load.trace_state.is_empty());
    let links = |span: &Span| -> HashSet<Vec<u8>> {
        span.links.iter().map(|link| link.span_id.clone()).collect()
    };
    assert_eq!(links(&load), HashSet::from([request.span_id.clone()]));
    assert_eq!(links(&request), HashSet::from([load.span_id.clone()]));
    assert_eq!(
        links(&span(&collector, "wait for the load").await),
        HashSet::from([load.span_id.clone()])
    );

    let call = span(&collector, "call http").await;
    assert_eq!(
        (&call.trace_id, &call.parent_span_id),
        (&load.trace_id, &load.span_id)
    );
    let outbound = span(&collector, "GET").await;
    assert_eq!(
        (&outbound.trace_id, &outbound.parent_span_id),
        (&load.trace_id, &call.span_id)
    );
    assert_eq!(
        attribute(&outbound, "server.address"),
        origin.address().to_string()
    );

    // The source is told of the host's span, and of nothing that the client sent.
    let seen = &origin.seen("/a")[0];
    let expected = format!("00-{}-{}-01", hex(&load.trace_id), hex(&outbound.span_id));
    assert_eq!(seen.headers["traceparent"], expected);
    assert!(!seen.headers.contains_key("tracestate") && !seen.headers.contains_key("baggage"));

    // A hit is traced too, and leads no load.
    larder
        .get_with("/things/a?x=1", &[traced()[0]])
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    eventually("the hit is sent", async || {
        let hits = spans(&collector);
        let mut hits = hits.iter().filter(|span| span.name == "GET /things/{key}");
        hits.any(|span| attribute(span, "larder.cache_status").starts_with("hit;"))
            .then_some(())
    })
    .await;
    assert_eq!(
        spans(&collector)
            .iter()
            .filter(|span| span.name.starts_with("load"))
            .count(),
        1
    );
}

#[tokio::test]
async fn what_no_client_asks_to_be_traced_is_traced_by_the_share_alone() {
    let (collector, origin) = (collector(), Origin::start());
    let larder = larder(&collector, &origin).start().await;
    larder.get("/things/a").await;
    let not = traced()[0].1.replace("-01", "-00");
    larder.get_with("/things/b", &[("traceparent", &not)]).await;
    larder
        .get_with("/things/c", &[("traceparent", "00-nonsense-01")])
        .await;
    larder.get_with("/things/d", &traced()).await;
    let request = span(&collector, "GET /things/{key}").await;
    assert_eq!(attribute(&request, "url.path"), "/things/d");
    // A source is told of no trace that is not collected.
    for path in ["/a", "/b", "/c"] {
        assert!(
            !origin.seen(path)[0].headers.contains_key("traceparent"),
            "{path}"
        );
    }
    let metrics = larder.metrics().await;
    assert_eq!(metrics.sum("larder_spans_total"), 6.0);
}

#[tokio::test]
async fn a_load_that_fails_says_so_in_its_trace() {
    let (collector, origin) = (collector(), Origin::start());
    origin.on("/a", Reply::status(500));
    let larder = larder(&collector, &origin).start().await;
    assert_eq!(larder.get_with("/things/a", &traced()).await.status, 502);
    for name in ["GET /things/{key}", "load /things/{key}", "call http"] {
        let span = span(&collector, name).await;
        assert_eq!(span.status.unwrap_or_default().code, 2, "{name}");
    }
}

/// The collector takes the first batch and never answers: requests are answered as ever, spans that have no room are dropped,
/// and the server ends when it is told to.
#[tokio::test]
async fn a_collector_that_is_stuck_delays_nothing() {
    let (collector, origin) = (collector(), Origin::start());
    let gate = collector.gate("/v1/traces");
    let mut larder = larder(&collector, &origin).start().await;
    larder.get_with("/things/a", &traced()).await;
    gate.arrived(1).await;
    for _ in 0..1000 {
        larder
            .get_with("/things/a", &traced())
            .await
            .expect(200, "larder; hit; ttl=N; detail=memory");
    }
    larder.terminate();
    let ended = tokio::time::timeout(Duration::from_secs(20), larder.exit()).await;
    assert!(ended.expect("it ends").success());
}

#[tokio::test]
async fn what_is_left_is_sent_before_the_server_ends() {
    let (collector, origin) = (collector(), Origin::start());
    let mut larder = larder(&collector, &origin).start().await;
    larder.get_with("/things/a", &traced()).await;
    larder.terminate();
    assert!(larder.exit().await.success());
    assert!(
        spans(&collector)
            .iter()
            .any(|span| span.name == "GET /things/{key}")
    );
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_refused() {
    let home = Larder::with()
        .section("[traces]\nendpoint = \"collector:4318\"\nsample = 2.0\n")
        .write();
    let said = home.run(&["check"]).await.all();
    assert!(
        said.contains("endpoint of [traces]: it is not the http or https URL of a collector"),
        "{said}"
    );
    assert!(said.contains("sample of [traces]"), "{said}");
}
