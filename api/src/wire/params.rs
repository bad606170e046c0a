//! Parameters of a request: form data, JSON, query string, and how they are merged.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`decode_urlencoded`, `extract_params`).

use engine::{Error, Result};
use serde_json::{Map, Value};

/// How a request body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// `application/x-www-form-urlencoded`, or no content type at all.
    Form,
    /// `application/json`, with or without parameters behind it.
    Json,
}

impl BodyKind {
    /// The kind that a Content-Type header announces; `None` if it is not one of ours.
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        let Some(text) = content_type else {
            return Some(BodyKind::Form);
        };
        match text.split([';', ',']).next().unwrap_or_default().trim() {
            "" | "application/x-www-form-urlencoded" => Some(BodyKind::Form),
            "application/json" => Some(BodyKind::Json),
            _ => None,
        }
    }
}

/// All parameters of a request. What stands in the query string wins over the body; `_dc` (a browser's cache breaker) is
/// dropped.
pub fn merge(query: &str, body: &[u8], kind: BodyKind) -> Result<Map<String, Value>> {
    let mut params = match kind {
        BodyKind::Form => decode_form(body),
        BodyKind::Json => decode_json(body)?,
    };
    for (name, value) in decode_form(query.as_bytes()) {
        params.insert(name, value);
    }
    params.remove("_dc");
    Ok(params)
}

/// Pairs separated by `&` or `;`. A name that occurs again makes an array, a name without `=` is there without a value.
pub fn decode_form(text: &[u8]) -> Map<String, Value> {
    let mut params = Map::new();
    for pair in text.split(|byte| matches!(byte, b'&' | b';')).filter(|pair| !pair.is_empty()) {
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (decode_component(&pair[..at]), Value::String(decode_component(&pair[at + 1..]))),
            None => (decode_component(pair), Value::Null),
        };
        match params.get_mut(&name) {
            None | Some(Value::Null) => {
                params.insert(name, value);
            }
            Some(_) if value.is_null() => {}
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    params
}

/// `+` is a blank, `%XX` a byte; what is not UTF-8 afterwards is replaced.
pub fn decode_component(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
                at += 3;
            }
            (b'+', ..) => {
                bytes.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn decode_json(body: &[u8]) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(params)) => Ok(params),
        Ok(_) => Err(Error::new("malformed JSON body: an object with the parameters is expected")),
        Err(error) => Err(Error::new(format!("malformed JSON body: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(text: &str) -> Value {
        Value::Object(decode_form(text.as_bytes()))
    }

    #[test]
    fn forms_decode() {
        for (text, expected) in [
            ("", json!({})),
            ("a=1&b=2", json!({"a": "1", "b": "2"})),
            ("a=1;b=2", json!({"a": "1", "b": "2"})),
            ("a=1&&b=", json!({"a": "1", "b": ""})),
            ("flag", json!({"flag": null})),
            ("net0=virtio,bridge=vmbr0", json!({"net0": "virtio,bridge=vmbr0"})),
            ("a=x+y%20z", json!({"a": "x y z"})),
            ("a=%C3%A4&%C3%B6=1", json!({"a": "ä", "ö": "1"})),
            ("a=100%&b=%zz", json!({"a": "100%", "b": "%zz"})),
            ("a=%ff", json!({"a": "\u{fffd}"})),
            ("c=a&c=b&c=c", json!({"c": ["a", "b", "c"]})),
            ("c=a&c", json!({"c": "a"})),
            ("c&c=a", json!({"c": "a"})),
        ] {
            assert_eq!(form(text), expected, "{text}");
        }
    }

    #[test]
    fn query_wins_over_body_and_dc_goes() {
        let params = merge("b=query&_dc=123", b"a=1&b=body", BodyKind::Form).unwrap();
        assert_eq!(Value::Object(params), json!({"a": "1", "b": "query"}));
        let params = merge("b=2", br#"{"a": [1, true], "b": null}"#, BodyKind::Json).unwrap();
        assert_eq!(Value::Object(params), json!({"a": [1, true], "b": "2"}));
    }

    #[test]
    fn json_must_be_an_object() {
        assert!(merge("", b"", BodyKind::Json).unwrap().is_empty());
        assert!(merge("", b"  \n", BodyKind::Json).unwrap().is_empty());
        for text in ["[]", "1", "{", "null", "a=b"] {
            assert_eq!(merge("", text.as_bytes(), BodyKind::Json).unwrap_err().status(), 500, "{text}");
        }
    }

    #[test]
    fn content_types() {
        for (text, kind) in [
            (None, Some(BodyKind::Form)),
            (Some("application/x-www-form-urlencoded; charset=UTF-8"), Some(BodyKind::Form)),
            (Some("application/json"), Some(BodyKind::Json)),
            (Some("application/json;charset=utf-8"), Some(BodyKind::Json)),
            (Some("text/plain"), None),
            (Some("multipart/form-data; boundary=x"), None),
        ] {
            assert_eq!(BodyKind::of(text), kind, "{text:?}");
        }
    }
}
