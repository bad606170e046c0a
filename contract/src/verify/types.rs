//! Types of single values: what counts as a number, a boolean, text.
//! The original is written in Perl, where a value has the type of the moment; these are its rules.

use super::errors::ParamErrors;
use crate::schema::Kind;
use serde_json::{Number, Value};

/// A sign and digits.
pub fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A sign, digits with one optional point before, between or behind them, an optional exponent.
pub fn is_number(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent.is_none_or(is_integer)
}

/// The words for true and false in property strings, configuration files and on command lines.
pub fn parse_boolean(text: &str) -> Option<bool> {
    let is_one_of = |words: [&str; 4]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_one_of(["1", "on", "yes", "true"]) {
        Some(true)
    } else if is_one_of(["0", "off", "no", "false"]) {
        Some(false)
    } else {
        None
    }
}

/// The text of a value that is not a container; `None` for null, lists, objects and booleans.
pub(crate) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number_text(number)),
        _ => None,
    }
}

/// A number as the original would write it: without a fraction of zero.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
            format!("{float:.0}")
        }
        _ => number.to_string(),
    }
}

/// Checks the type of a value that is not null; says whether further checks make sense.
pub(super) fn check_type(value: &Value, kind: Option<Kind>, path: &str, errors: &mut ParamErrors) -> bool {
    let Some(kind) = kind else { return true };
    let failure = match kind {
        Kind::Any => None,
        Kind::Null => Some(" - value is not null".to_owned()),
        Kind::Array => (!value.is_array()).then(String::new),
        Kind::Object => (!value.is_object()).then(String::new),
        Kind::Boolean | Kind::Integer | Kind::Number | Kind::String => check_scalar(value, kind),
    };
    match failure {
        None => true,
        Some(reason) => {
            errors.add(path, format!("type check ('{}') failed{reason}", kind.name()));
            false
        }
    }
}

fn check_scalar(value: &Value, kind: Kind) -> Option<String> {
    let got_reference = |name: &str| Some(format!(" - got {name}"));
    let text = match value {
        Value::Bool(_) if kind == Kind::Boolean => return None,
        Value::Bool(_) => return got_reference("JSON::PP::Boolean"),
        Value::Array(_) => return got_reference("ARRAY"),
        Value::Object(_) => return got_reference("HASH"),
        other => text_of(other).unwrap_or_default(),
    };
    let fits = match kind {
        Kind::Boolean => text == "0" || text == "1",
        Kind::Integer => is_integer(&text),
        Kind::Number => is_number(&text),
        _ => true,
    };
    (!fits).then(|| format!(" - got '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_original_syntax() {
        for text in ["0", "-1", "+5", "007", "1.5", "1.", ".5", "1e3", "1.5E-7", "+.5e+1"] {
            assert!(is_number(text), "{text}");
        }
        for text in ["", "-", ".", "e5", "1e", "1e1.5", "0x10", "1_000", " 1", "1 ", "1.2.3", "--1", "inf", "NaN", "٣"]
        {
            assert!(!is_number(text), "{text}");
        }
        for text in ["1.", "1e3", ""] {
            assert!(!is_integer(text), "{text}");
        }
        assert!(is_integer("-007") && is_integer("+1"));
    }

    #[test]
    fn floats_are_written_without_an_empty_fraction() {
        assert_eq!(text_of(&serde_json::json!(5.0)), Some("5".to_owned()));
        assert_eq!(text_of(&serde_json::json!(1.5)), Some("1.5".to_owned()));
        assert_eq!(text_of(&serde_json::json!(100)), Some("100".to_owned()));
    }
}
