#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway_flow_fuzz::tables::law(data));
