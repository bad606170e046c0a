//! Golden forms of results.

use super::*;
use serde_json::json;

fn schema(value: Value) -> Schema {
    serde_json::from_value(value).unwrap()
}

fn list_schema() -> Schema {
    schema(json!({"type": "array", "items": {"type": "object", "properties": {
        "vmid": {"type": "integer"}, "name": {"type": "string", "optional": true},
        "mem": {"type": "integer", "optional": true, "renderer": "bytes"},
        "template": {"type": "boolean", "optional": true}}}}))
}

fn shown(data: &Value, schema: Option<&Schema>, terminal: Terminal, switches: Switches) -> String {
    result_on(&terminal, data, schema, None, &switches).unwrap()
}

const UTF8: Terminal = Terminal { width: None, utf8: true };
const PLAIN: Terminal = Terminal { width: None, utf8: false };

fn rows() -> Value {
    json!([{"vmid": 101, "name": "bü", "mem": 1024, "template": 1}, {"vmid": 9, "mem": 0}])
}

#[test]
fn lists_of_objects_are_tables() {
    let schema = list_schema();
    insta::assert_snapshot!(shown(&rows(), Some(&schema), UTF8, Switches::default()), @r"
    ┌──────┬──────────┬──────┬──────────┐
    │ vmid │      mem │ name │ template │
    ╞══════╪══════════╪══════╪══════════╡
    │    9 │   0.00 B │      │          │
    ├──────┼──────────┼──────┼──────────┤
    │  101 │ 1.00 KiB │ bü   │ 1        │
    └──────┴──────────┴──────┴──────────┘
    ");
    insta::assert_snapshot!(shown(&rows(), Some(&schema), PLAIN, Switches::default()), @r"
    +------+----------+------+----------+
    | vmid |      mem | name | template |
    +======+==========+======+==========+
    |    9 |   0.00 B |      |          |
    +------+----------+------+----------+
    |  101 | 1.00 KiB | b?   | 1        |
    +------+----------+------+----------+
    ");
}

#[test]
fn switches_change_tables() {
    let schema = list_schema();
    let raw = Switches { human_readable: false, noborder: Some(true), ..Switches::default() };
    let lines = |text: String| text.lines().map(|line| format!("{line}|")).collect::<Vec<_>>();
    assert_eq!(
        lines(shown(&rows(), Some(&schema), UTF8, raw)),
        ["vmid  mem name template|", "   9    0      |", " 101 1024 bü   1|"]
    );
    let bare = Switches { noheader: Some(true), ..raw };
    assert_eq!(lines(shown(&rows(), Some(&schema), UTF8, bare)), ["   9    0      |", " 101 1024 bü   1|"]);
    let quiet = Switches { quiet: true, ..Switches::default() };
    assert_eq!(shown(&rows(), Some(&schema), UTF8, quiet), "");
}

#[test]
fn a_window_cuts_lines_off() {
    let narrow = Terminal { width: Some(10), utf8: true };
    let text = shown(&rows(), Some(&list_schema()), narrow, Switches::default());
    assert!(text.lines().all(|line| line.chars().count() == 10), "{text}");
}

#[test]
fn objects_scalars_and_nothing() {
    let object = schema(
        json!({"type": "object", "properties": {"release": {"type": "string"}, "at": {"type": "integer", "renderer": "timestamp_gmt", "optional": true}}}),
    );
    insta::assert_snapshot!(shown(&json!({"release": "9.2", "at": 0, "other": 1}), Some(&object), PLAIN, Switches::default()), @r"
    +---------+---------------------+
    | key     | value               |
    +=========+=====================+
    | at      | 1970-01-01 00:00:00 |
    +---------+---------------------+
    | release | 9.2                 |
    +---------+---------------------+
    ");
    insta::assert_snapshot!(shown(&json!(["b", "a"]), None, UTF8, Switches::default()), @r"
    ┌───────┐
    │ a     │
    ├───────┤
    │ b     │
    └───────┘
    ");
    for (data, declared, expected) in [
        (json!("100"), json!({"type": "integer"}), "100\n"),
        (json!(100), json!({"type": "integer"}), "100\n"),
        (json!(null), json!({"type": "null"}), ""),
        (json!(null), json!({"type": "string", "optional": true}), ""),
        (json!([]), json!({"type": "array", "items": {"type": "object"}}), ""),
        (json!("UPID:x"), json!({"type": "string"}), "UPID:x\n"),
    ] {
        assert_eq!(shown(&data, Some(&schema(declared)), UTF8, Switches::default()), expected, "{data}");
    }
}

#[test]
fn other_formats() {
    let in_format = |format| {
        let switches = Switches { format, ..Switches::default() };
        shown(&json!([{"b": 1, "a": "x"}]), Some(&list_schema()), UTF8, switches)
    };
    assert_eq!(in_format(Format::Json), "[{\"a\":\"x\",\"b\":1}]\n");
    assert_eq!(in_format(Format::JsonPretty), "[\n   {\n      \"a\" : \"x\",\n      \"b\" : 1\n   }\n]\n");
    assert_eq!(in_format(Format::Yaml), "---\n- a: x\n  b: 1\n");
}
