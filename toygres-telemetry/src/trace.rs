//! Traces across processes and restarts: W3C `traceparent`
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>).

use crate::traces;
use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use std::cell::Cell;
use std::time::SystemTime;

/// One trace in so many is kept whatever happens in it. The collector goes by the mark on its spans.
const KEEP_ONE_IN: u64 = 10;

/// Whether this trace is kept whatever happens in it: told by its id, so that every process says the same.
pub(crate) fn is_kept(trace_id: TraceId) -> bool {
    // The last eight bytes are random even of ids that begin with a time.
    let bytes = trace_id.to_bytes();
    let mut low = [0; 8];
    low.copy_from_slice(&bytes[8..]);
    u64::from_be_bytes(low) % KEEP_ONE_IN == 0
}

/// A place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(SpanContext);

impl TraceParent {
    /// Reads a `traceparent`; none if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let fits = is_hex(version, 2) && is_hex(trace_id, 32) && is_hex(span_id, 16) && is_hex(flags, 2);
        // Version ff is forbidden, and version 00 has nothing more.
        if !fits || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let context = SpanContext::new(
            TraceId::from_hex(trace_id).ok()?,
            SpanId::from_hex(span_id).ok()?,
            flags,
            true,
            TraceState::default(),
        );
        context.is_valid().then_some(Self(context))
    }

    /// The place of this span in the trace of these ids. Zeros, which are no ids, become ones.
    #[must_use]
    pub fn of(trace_id: u128, span_id: u64) -> Self {
        let (trace_id, span_id) = (trace_id.max(1), span_id.max(1));
        Self(SpanContext::new(
            trace_id.into(),
            span_id.into(),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        ))
    }

    /// The span that is open now, if traces are on; none outside of any.
    #[must_use]
    pub fn current() -> Option<Self> {
        traces::here().map(Self)
    }

    /// Where this span is, if traces are on.
    #[must_use]
    pub fn of_span(span: &tracing::Span) -> Option<Self> {
        traces::of_span(span).map(Self)
    }

    /// The same trace, another span of it.
    #[must_use]
    pub fn with_span(&self, span_id: u64) -> Self {
        Self(SpanContext::new(
            self.0.trace_id(),
            span_id.max(1).into(),
            self.0.trace_flags(),
            true,
            TraceState::default(),
        ))
    }

    /// The trace's id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }

    /// As a `traceparent` header.
    #[must_use]
    pub fn header(&self) -> String {
        let flags = self.0.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", self.0.trace_id(), self.0.span_id())
    }

    /// Has what is told meanwhile, and spans that are made meanwhile, belong to this place.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _here = self.context().attach();
        work()
    }

    fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.0.clone())
    }
}

/// A span that was over before it could be written: of work that outlives processes.
#[derive(Debug, Clone)]
pub struct PastSpan {
    /// Its name.
    pub name: String,
    /// Its own place, which its children knew before.
    pub place: TraceParent,
    /// What began it. None: it begins its trace.
    pub parent: Option<TraceParent>,
    /// What it belongs to beside that.
    pub link: Option<TraceParent>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl PastSpan {
    /// Writes it.
    pub fn emit(self) {
        use opentelemetry::trace::Span;
        let parent = match &self.parent {
            Some(parent) => parent.context(),
            None => Context::new(),
        };
        let attributes = self
            .attributes
            .into_iter()
            .map(|(key, value)| KeyValue::new(key, value))
            .collect();
        let links = self
            .link
            .map(|link| Link::with_context(link.0))
            .into_iter()
            .collect();
        let builder = SpanBuilder::from_name(self.name)
            .with_kind(SpanKind::Internal)
            .with_start_time(self.start)
            .with_attributes::<Vec<_>>(attributes)
            .with_links(links);
        let ids = (self.place.0.trace_id(), self.place.0.span_id());
        GIVEN.set(Some(ids));
        let mut span = global::tracer("toygres").build_with_context(builder, &parent);
        GIVEN.set(None);
        if let Some(error) = self.error {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(self.end);
    }
}

thread_local! {
    /// The ids of the next span that is built on this thread.
    static GIVEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Random ids, but for spans whose ids are known before.
#[derive(Debug, Default)]
pub(crate) struct GivenOrRandom(RandomIdGenerator);

impl IdGenerator for GivenOrRandom {
    fn new_trace_id(&self) -> TraceId {
        GIVEN
            .get()
            .map_or_else(|| self.0.new_trace_id(), |(trace_id, _)| trace_id)
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN
            .get()
            .map_or_else(|| self.0.new_span_id(), |(_, span_id)| span_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_traceparent_is_taken_for_one() {
        assert_eq!(TraceParent::parse(GOOD).unwrap().header(), GOOD);
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert_eq!(TraceParent::parse(&later).unwrap().header(), GOOD);
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tenth_of_the_traces_is_kept() {
        let ids = RandomIdGenerator::default();
        let kept = (0..10_000).filter(|_| is_kept(ids.new_trace_id())).count();
        assert!((800..1200).contains(&kept), "{kept}");
    }

    fn is_what_it_is_printed_as(text: &str) {
        if let Some(parsed) = TraceParent::parse(text) {
            let printed = parsed.header();
            assert_eq!(TraceParent::parse(&printed), Some(parsed));
            assert_eq!(&printed[2..], &text[2..55]);
        }
    }

    #[test]
    fn fuzz_traceparent() {
        bolero::check!().for_each(|bytes: &[u8]| is_what_it_is_printed_as(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn a_traceparent_is_what_it_is_printed_as(
            any in ".*",
            near in "[0-9a-f]{2}-[0-9a-f]{32}-0?[0-9a-f]{15,16}-0[01](-[a-z]{0,3})?",
        ) {
            for text in [any, near] {
                is_what_it_is_printed_as(&text);
            }
        }
    }
}
