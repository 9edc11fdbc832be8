//! What one process tells the next, whatever it is.
#![no_main]

#[path = "../../tests/checks/mod.rs"]
#[allow(dead_code, reason = "each target checks one reader")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::handover::handover(bytes));
