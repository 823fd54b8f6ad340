//! The API as its callers meet it: every operation of the document that the server itself serves.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod auth;
mod bad_input;
mod docs;
mod instances;
mod limits;
mod orchestrations;
mod streams;
mod support;
