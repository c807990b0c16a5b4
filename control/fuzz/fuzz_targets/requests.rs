#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway_control_fuzz::laws::requests::law(data));
