#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fairlead_proxy::proxy_protocol::check(bytes));
