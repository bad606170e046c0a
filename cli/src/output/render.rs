//! The renderers that declarations of results name (pve-common PVE/Format.pm).

use super::{text, yaml};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// A value as its renderer shows it; `None` for a renderer or value that is unknown.
pub fn value(renderer: &str, value: &Value) -> Option<String> {
    match renderer {
        "bytes" => number(value).map(bytes),
        "duration" => number(value).map(duration),
        "timestamp" => number(value).and_then(|seconds| time(seconds, TimeZone::system())),
        "timestamp_gmt" => number(value).and_then(|seconds| time(seconds, TimeZone::UTC)),
        "fraction_as_percentage" => number(value).map(|fraction| format!("{:.2}%", fraction * 100.0)),
        "yaml" => yaml::text(value).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    text::plain(value).parse().ok()
}

fn bytes(value: f64) -> String {
    let (number, unit) = engine::types::scaled(value);
    format!("{number:.2} {unit}")
}

/// A table passes its switches where the precision would stand, so long durations leave out the smallest units.
fn duration(seconds: f64) -> String {
    let mut rest = seconds.round() as i64;
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut parts = Vec::new();
    let (mut weeks, mut days) = (false, false);
    for (unit, length) in [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        let left_out = (unit == "m" && weeks) || (unit == "s" && days);
        let count = rest / length;
        if left_out || count <= 0 {
            continue;
        }
        rest -= count * length;
        weeks |= unit == "w";
        days |= matches!(unit, "w" | "d");
        parts.push(format!("{count}{unit}"));
    }
    parts.join(" ")
}

fn time(seconds: f64, zone: TimeZone) -> Option<String> {
    let time = Timestamp::from_second(seconds as i64).ok()?.to_zoned(zone);
    Some(time.strftime("%F %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::value;
    use serde_json::json;

    #[test]
    fn values_are_rendered() {
        for (renderer, data, expected) in [
            ("bytes", json!(0), "0.00 B"),
            ("bytes", json!(1023), "1023.00 B"),
            ("bytes", json!(1024), "1.00 KiB"),
            ("bytes", json!(536_870_912), "512.00 MiB"),
            ("bytes", json!("1610612736"), "1.50 GiB"),
            ("duration", json!(0), "0s"),
            ("duration", json!(61), "1m 1s"),
            ("duration", json!(90_061), "1d 1h 1m"),
            ("duration", json!(700_000), "1w 1d 2h"),
            ("timestamp_gmt", json!(1_700_000_000), "2023-11-14 22:13:20"),
            ("fraction_as_percentage", json!(0.1234), "12.34%"),
            ("yaml", json!({"b": 1, "a": ["x"]}), "a:\n- x\nb: 1\n"),
        ] {
            assert_eq!(value(renderer, &data).as_deref(), Some(expected), "{renderer} {data}");
        }
        assert_eq!(value("bytes", &json!("much")), None);
        assert_eq!(value("unheard-of", &json!(1)), None);
    }
}
