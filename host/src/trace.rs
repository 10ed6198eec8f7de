//! What happened to a request, as spans of OpenTelemetry, where an operator collects them. Owns which span is the current
//! one and who is traced; knows neither what is done in a span nor where spans go.
//!
//! # Who is traced
//! It is decided once, where a request comes in ([`Span::of_request`]): as the client's `traceparent` says, or by the share that is
//! configured. Everybody else has [`Span::NONE`], whose every method does nothing; and while nothing is collected at all,
//! [`Span::current`] is one look at a flag.
//!
//! # Why a load is a trace of its own
//! Many requests may wait for one load, and a load is told nothing of a request but the parts of its key (law 1). So it is the
//! root of a trace of its own, linked with the request that led it, in both directions. A guest is told the load's
//! `traceparent` and nothing of the client's; what it sends out under it is found here by the id of its span ([`Span::outbound`]).

use std::borrow::Cow;
use std::collections::HashSet;
use std::future::Future;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue, Value, global};
use parking_lot::Mutex;

/// One span, or none; whoever has it may have it in several places, and it ends with the last of them.
#[derive(Clone)]
pub struct Span(Option<Arc<Open>>);

struct Open {
    context: SpanContext,
    span: Mutex<global::BoxedSpan>,
    /// A guest is told of it.
    is_told: bool,
}

/// A span that somebody else may be linked with, also after it has ended.
#[derive(Clone, Debug)]
pub struct Link(SpanContext);

tokio::task_local! {
    static CURRENT: Span;
}

/// Whether spans are collected at all.
static COLLECTED: AtomicBool = AtomicBool::new(false);
/// The share of requests that are traced although no client asks for it, in millionths.
static SHARE: AtomicU64 = AtomicU64::new(0);
/// Spans that have ended.
static ENDED: AtomicU64 = AtomicU64::new(0);
/// The spans that guests are told of just now.
static TOLD: Mutex<Option<HashSet<SpanId>>> = Mutex::new(None);

/// From now on spans are made, for this share (0 to 1) of what no client asks to be traced. A provider has been set.
pub fn collect(share: f64) {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is from 0 to 1"
    )]
    SHARE.store((share * 1e6) as u64, Ordering::Relaxed);
    COLLECTED.store(true, Ordering::Release);
}

/// Spans that have ended since the start; they are exported, or dropped on the way.
pub fn ended() -> u64 {
    ENDED.load(Ordering::Relaxed)
}

fn is_chosen() -> bool {
    rand::random_range(0..1_000_000) < SHARE.load(Ordering::Relaxed)
}

impl Span {
    /// Not traced.
    pub const NONE: Self = Self(None);

    /// A request comes in, with these headers of W3C Trace Context. A `traceparent` that is none is ignored, as that says.
    pub fn of_request(
        name: impl Into<Cow<'static, str>>,
        traceparent: Option<&str>,
        tracestate: Option<&str>,
    ) -> Self {
        if !COLLECTED.load(Ordering::Acquire) {
            return Self::NONE;
        }
        let parent = traceparent.and_then(|parent| parse(parent, tracestate));
        let is_traced = parent
            .as_ref()
            .map_or_else(is_chosen, SpanContext::is_sampled);
        if !is_traced {
            return Self::NONE;
        }
        Self::start(name.into(), SpanKind::Server, parent.as_ref(), &[])
    }

    /// The span of this task.
    #[inline]
    pub fn current() -> Self {
        if !COLLECTED.load(Ordering::Relaxed) {
            return Self::NONE;
        }
        CURRENT.try_with(Self::clone).unwrap_or(Self::NONE)
    }

    /// Whether anything comes of it.
    #[inline]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Runs something in which it is the current span.
    pub async fn scope<F: Future>(self, inner: F) -> F::Output {
        if self.is_some() {
            CURRENT.scope(self, inner).await
        } else {
            inner.await
        }
    }

    /// A part of what this is.
    pub fn child(&self, name: &'static str) -> Self {
        self.part(Cow::Borrowed(name), SpanKind::Internal)
    }

    /// Something that another server does for it.
    pub fn client(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.part(name.into(), SpanKind::Client)
    }

    /// The load that it leads: another trace, and each says which the other is.
    pub fn load(&self, name: impl Into<Cow<'static, str>>) -> Self {
        let Some(open) = &self.0 else {
            return Self::NONE;
        };
        let load = Self::start(
            name.into(),
            SpanKind::Internal,
            None,
            std::slice::from_ref(&open.context),
        );
        self.link(load.as_link().as_ref());
        load
    }

    /// The call of a guest, which is told of it.
    pub fn call(&self, name: impl Into<Cow<'static, str>>) -> Self {
        let Some(open) = &self.0 else {
            return Self::NONE;
        };
        Self::start_told(name.into(), Some(&open.context), &[], true)
    }

    /// The one call of a guest in which all of these are answered.
    pub fn batch<'t>(name: &str, traceparents: impl Iterator<Item = &'t str>) -> Self {
        let calls: Vec<_> = traceparents.filter_map(|text| parse(text, None)).collect();
        if calls.is_empty() {
            return Self::NONE;
        }
        Self::start(
            format!("batch {name}").into(),
            SpanKind::Internal,
            None,
            &calls,
        )
    }

    /// What a guest sends out, if it says under which of its calls. The header that goes out is
    /// [`Span::traceparent`] of this one.
    pub fn outbound(name: impl FnOnce() -> String, traceparent: Option<&str>) -> Self {
        if !COLLECTED.load(Ordering::Relaxed) {
            return Self::NONE;
        }
        let Some(call) = traceparent.and_then(|text| parse(text, None)) else {
            return Self::NONE;
        };
        // A guest that makes one up is nobody's call.
        let is_told = TOLD
            .lock()
            .as_ref()
            .is_some_and(|told| told.contains(&call.span_id()));
        if !is_told {
            return Self::NONE;
        }
        Self::start(name().into(), SpanKind::Client, Some(&call), &[])
    }

    /// Says something about it.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &self.0 {
            open.span.lock().set_attribute(KeyValue::new(key, value));
        }
    }

    /// It failed.
    pub fn fail(&self, why: impl FnOnce() -> String) {
        if let Some(open) = &self.0 {
            open.span.lock().set_status(Status::error(why()));
        }
    }

    /// Names another that has to do with it.
    pub fn link(&self, other: Option<&Link>) {
        if let (Some(open), Some(Link(other))) = (&self.0, other) {
            open.span.lock().add_link(other.clone(), Vec::new());
        }
    }

    /// To be linked with.
    pub fn as_link(&self) -> Option<Link> {
        self.0.as_ref().map(|open| Link(open.context.clone()))
    }

    /// As the header of that name has it (W3C Trace Context, version 00).
    pub fn traceparent(&self) -> Option<String> {
        self.0.as_ref().map(|open| {
            let context = &open.context;
            format!(
                "00-{}-{}-{:02x}",
                context.trace_id(),
                context.span_id(),
                context.trace_flags().to_u8()
            )
        })
    }

    /// The id of its trace.
    pub fn trace_id(&self) -> Option<String> {
        self.0
            .as_ref()
            .map(|open| open.context.trace_id().to_string())
    }

    fn part(&self, name: Cow<'static, str>, kind: SpanKind) -> Self {
        match &self.0 {
            None => Self::NONE,
            Some(open) => Self::start(name, kind, Some(&open.context), &[]),
        }
    }

    fn start(
        name: Cow<'static, str>,
        kind: SpanKind,
        parent: Option<&SpanContext>,
        links: &[SpanContext],
    ) -> Self {
        Self::made(builder(name, kind, links), parent, false)
    }

    fn start_told(
        name: Cow<'static, str>,
        parent: Option<&SpanContext>,
        links: &[SpanContext],
        is_told: bool,
    ) -> Self {
        Self::made(builder(name, SpanKind::Internal, links), parent, is_told)
    }

    fn made(builder: SpanBuilder, parent: Option<&SpanContext>, is_told: bool) -> Self {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let span = builder.start_with_context(&global::tracer("larder"), &context);
        let context = span.span_context().clone();
        if is_told {
            TOLD.lock()
                .get_or_insert_default()
                .insert(context.span_id());
        }
        Self(Some(Arc::new(Open {
            context,
            span: Mutex::new(span),
            is_told,
        })))
    }
}

fn builder(name: Cow<'static, str>, kind: SpanKind, links: &[SpanContext]) -> SpanBuilder {
    let links = links
        .iter()
        .cloned()
        .map(opentelemetry::trace::Link::with_context);
    SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_links(links.collect())
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_told
            && let Some(told) = TOLD.lock().as_mut()
        {
            told.remove(&self.context.span_id());
        }
        // The span itself ends as it is dropped.
        ENDED.fetch_add(1, Ordering::Relaxed);
    }
}

/// `00-` trace id `-` parent id `-` flags, all in lower-case hexadecimal. A later version is read as far as this one goes.
fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let mut fields = traceparent.trim().split('-');
    let (version, trace, parent, flags) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !is_hex(version, 2)
        || version == "ff"
        || version == "00" && fields.next().is_some()
        || !is_hex(trace, 32)
        || !is_hex(parent, 16)
        || !is_hex(flags, 2)
    {
        return None;
    }
    let state = tracestate.and_then(|state| TraceState::from_str(state).ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(parent).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        state.unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let context = parse(GOOD, Some("vendor=1")).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "vendor=1");
        assert!(
            !parse(&GOOD.replace("-01", "-00"), None)
                .unwrap()
                .is_sampled()
        );
        // A later version may say more.
        assert!(parse(&format!("01{}-what-comes", &GOOD[2..]), None).is_some());
        // What cannot be read of the state is left out, and the parent stands.
        assert_eq!(
            parse(GOOD, Some("no-equals"))
                .unwrap()
                .trace_state()
                .header(),
            ""
        );
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let upper = GOOD.to_uppercase();
        let bad = [
            "",
            "00",
            &upper,
            &format!("{GOOD}-more"),
            &format!("ff{}", &GOOD[2..]),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ];
        for text in bad {
            assert!(parse(text, None).is_none(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn while_nothing_is_collected_nothing_is_traced() {
        let span = Span::of_request("GET", Some(GOOD), None);
        assert!(!span.is_some() && span.traceparent().is_none());
        span.child("part")
            .load("load")
            .call("call")
            .set("key", "value");
        span.scope(async { assert!(!Span::current().is_some()) })
            .await;
    }
}
