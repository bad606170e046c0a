//! Arbitrary JSON against arbitrary methods: the first two bytes pick the method, the rest is the body.
//! What is accepted must be accepted again, unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let [high, low, body @ ..] = data else { return };
    let index = usize::from(u16::from_be_bytes([*high, *low])) % contract::methods().len();
    let (verb, template) = contract::methods().nth(index).expect("the index is below the length");
    let method = contract::method(verb, template).expect("listed methods are found");
    let Ok(params) = serde_json::from_slice::<Map<String, Value>>(body) else { return };
    if let Ok(values) = contract::verify(method, params.clone()) {
        assert_eq!(contract::verify(method, values.clone()), Ok(values), "{verb} {template}");
    }
    let _ = contract::verify_cli(method, params);
    if let Ok(path) = std::str::from_utf8(body) {
        let _ = contract::find(verb, path);
    }
});
