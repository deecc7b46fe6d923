//! Any bytes are a file that is accepted or refused with a reason; an accepted one can be written
//! and reads back the same.
#![no_main]

use fairlead_config::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match yaml::parse(bytes) {
    Ok(file) => {
        let text = yaml::encode(&file.settings, &file.snapshot);
        let again = yaml::parse(text.as_bytes()).expect("what we write is valid");
        assert_eq!(again, file, "{text}");
    }
    Err(problems) => assert!(!problems.list.is_empty()),
});
