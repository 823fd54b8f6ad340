-- The W3C trace context of the request that asked for an operation, so that the work on it belongs to that trace.

alter table cms.operations add column traceparent text;
