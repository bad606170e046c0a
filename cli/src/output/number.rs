//! Numbers as the original prints them: integers plainly, fractions with at most 15 digits.

use serde_json::Number;

/// The text of a number.
pub fn text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => general(float),
        _ => number.to_string(),
    }
}

/// C's `%.15g`.
pub fn general(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.14e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..15).contains(&exponent) && exponent != -5 {
        let places = usize::try_from(14 - exponent).unwrap_or(0);
        return without_zeros(&format!("{value:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(digits), exponent.abs())
}

fn without_zeros(text: &str) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn fractions_have_at_most_15_digits() {
        for (value, expected) in [
            (0.1 + 0.2, "0.3"),
            (1.0, "1"),
            (1.5, "1.5"),
            (-0.25, "-0.25"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (0.018_265_463_6, "0.0182654636"),
            (1.0 / 3.0, "0.333333333333333"),
        ] {
            assert_eq!(general(value), expected);
        }
    }
}
