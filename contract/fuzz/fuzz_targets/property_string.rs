//! Arbitrary text against every property string format: the first byte picks the format.
//! What is written for a text that was read must be read again and written alike.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [pick, text @ ..] = data else { return };
    let formats = contract::format::property_string_formats().count();
    let format = contract::format::property_string_formats().nth(usize::from(*pick) % formats).expect("in range");
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(values) = contract::property_string::parse(format, text) else { return };
    let Ok(written) = contract::property_string::print(format, &values) else { return };
    let again = contract::property_string::parse(format, &written).expect("what was written can be read");
    assert_eq!(contract::property_string::print(format, &again), Ok(written), "{format} {text:?}");
});
