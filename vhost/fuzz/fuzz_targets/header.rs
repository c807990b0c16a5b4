#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway_vhost_fuzz::header::law(data));
