#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsock_bridge::fuzzing::proxy_header(data));
