//! The local platform does what every platform must do.
#![allow(missing_docs, reason = "a test")]

mod support;

toygres_platform::platform_conformance!(support::Local::new());
