//! A client's first bytes where its TLS ends at the node, whatever they are.
#![no_main]

#[path = "../../tests/checks/mod.rs"]
#[allow(dead_code, reason = "each target checks one reader")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::hello::hello(bytes));
