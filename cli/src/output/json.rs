//! JSON as Perl's modules write it with sorted keys: in one line, or with three blanks per level and `"key" : value`.

use super::number;
use serde_json::Value;

/// JSON in one line, without a line break at its end.
pub fn compact(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text, None);
    text
}

/// JSON over several lines, with a line break at its end.
pub fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text, Some(0));
    text.push('\n');
    text
}

/// The answer of a guest agent: its `result` if it has one; scalars as a line, blank ones and empty objects not at all.
pub fn pretty_or_plain(value: &Value) -> String {
    let result = value.get("result").filter(|result| !result.is_null()).unwrap_or(value);
    match result {
        Value::Null => String::new(),
        Value::Object(members) if members.is_empty() => String::new(),
        Value::Object(_) | Value::Array(_) => pretty(result),
        scalar => {
            let text = super::text::plain(scalar);
            let line = text.strip_suffix('\n').unwrap_or(&text);
            if line.trim().is_empty() { String::new() } else { format!("{line}\n") }
        }
    }
}

/// `level` is the depth of indentation; without one everything stands in one line.
fn write(value: &Value, text: &mut String, level: Option<usize>) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&number::text(number)),
        Value::String(string) => write_string(string, text),
        Value::Array(list) => {
            let write_item = |item: &Value, text: &mut String, level| write(item, text, level);
            write_container(list.iter(), ('[', ']'), text, level, write_item);
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            write_container(members.into_iter(), ('{', '}'), text, level, |(name, value), text, level| {
                write_string(name, text);
                text.push_str(if level.is_some() { " : " } else { ":" });
                write(value, text, level);
            });
        }
    }
}

fn write_container<T>(
    items: impl ExactSizeIterator<Item = T>,
    (open, close): (char, char),
    text: &mut String,
    level: Option<usize>,
    mut write_item: impl FnMut(T, &mut String, Option<usize>),
) {
    let new_line = |text: &mut String, level: Option<usize>| {
        if let Some(level) = level {
            text.push('\n');
            text.extend(std::iter::repeat_n("   ", level));
        }
    };
    let inner = level.map(|level| level + 1);
    let count = items.len();
    text.push(open);
    for (at, item) in items.enumerate() {
        new_line(text, inner);
        write_item(item, text, inner);
        if at + 1 < count {
            text.push(',');
        }
    }
    if count > 0 {
        new_line(text, level);
    }
    text.push(close);
}

fn write_string(string: &str, text: &mut String) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{c}' => text.push_str("\\f"),
            '\u{8}' => text.push_str("\\b"),
            control if control < ' ' => text.push_str(&format!("\\u{:04x}", control as u32)),
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pretty_form() {
        let value = json!({"b": [1, {"x": "ü\"\n\u{1}"}], "a": {}, "c": [], "d": 0.1});
        let expected = "{\n   \"a\" : {},\n   \"b\" : [\n      1,\n      {\n         \"x\" : \"ü\\\"\\n\\u0001\"\n      }\n   ],\n   \"c\" : [],\n   \"d\" : 0.1\n}\n";
        assert_eq!(pretty(&value), expected);
        assert_eq!(compact(&value), "{\"a\":{},\"b\":[1,{\"x\":\"ü\\\"\\n\\u0001\"}],\"c\":[],\"d\":0.1}");
    }

    #[test]
    fn answers_of_a_guest_agent() {
        for (value, expected) in [
            (json!({"result": {"id": "debian"}}), "{\n   \"id\" : \"debian\"\n}\n"),
            (json!({"result": {}}), ""),
            (json!({"result": 5}), "5\n"),
            (json!({"result": " \n"}), ""),
            (json!({"exitcode": 0}), "{\n   \"exitcode\" : 0\n}\n"),
            (json!(null), ""),
        ] {
            assert_eq!(pretty_or_plain(&value), expected, "{value}");
        }
    }
}
