//! Calendar events as systemd writes them (pve-common PVE/CalendarEvent.pm names the library that reads them):
//! `[WEEKDAYS] [[YEARS-]MONTHS-DAYS] [[HOURS:]MINUTES[:SECONDS]]`, or a word such as `daily`.
//! Owns the grammar; when the next event is due is computed elsewhere.

use super::Checked;

const WORDS: [&str; 10] = [
    "minutely",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "quarterly",
    "semiannually",
    "semi-annually",
    "yearly",
    "annually",
];

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Checks an event.
pub(super) fn event(text: &str) -> Checked {
    let invalid =
        |reason: &str| format!("invalid calendar event '{text}' - unable to parse calendar event - {reason}\n");
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(invalid("event is empty"));
    }
    if WORDS.iter().any(|word| word.eq_ignore_ascii_case(trimmed)) {
        return Ok(());
    }
    let mut parts = trimmed.split_whitespace().peekable();
    if parts.peek().is_some_and(|part| part.starts_with(|c: char| c.is_ascii_alphabetic())) {
        let days = parts.next().unwrap_or_default();
        if !days.split(',').all(is_weekdays) {
            return Err(invalid("unknown day of the week"));
        }
    }
    if parts.peek().is_some_and(|part| part.contains('-')) && !is_date(parts.next().unwrap_or_default()) {
        return Err(invalid("bad date"));
    }
    if parts.peek().is_some() && !is_time(parts.next().unwrap_or_default()) {
        return Err(invalid("bad time"));
    }
    match parts.next() {
        Some(_) => Err(invalid("trailing data")),
        None => Ok(()),
    }
}

fn is_weekday(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    DAYS.iter().any(|day| *day == text || day[..3] == text)
}

/// A day or a range of days.
fn is_weekdays(text: &str) -> bool {
    match text.split_once("..") {
        Some((first, last)) => is_weekday(first) && is_weekday(last),
        None => is_weekday(text),
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [months, days] => is_component(months, 1, 12) && is_component(days, 1, 31),
        [years, months, days] => {
            is_component(years, 0, 9999) && is_component(months, 1, 12) && is_component(days, 1, 31)
        }
        _ => false,
    }
}

fn is_time(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [minutes] => is_component(minutes, 0, 59),
        [hours, minutes] => is_component(hours, 0, 23) && is_component(minutes, 0, 59),
        [hours, minutes, seconds] => {
            is_component(hours, 0, 23) && is_component(minutes, 0, 59) && is_component(seconds, 0, 59)
        }
        _ => false,
    }
}

/// A comma list of `*`, numbers and ranges, each with an optional `/STEP`.
fn is_component(text: &str, least: u32, most: u32) -> bool {
    let number = |text: &str| -> Option<u32> {
        let value = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        (least..=most).contains(&value).then_some(value)
    };
    text.split(',').all(|item| {
        let (start, step) = item.split_once('/').map_or((item, None), |(start, step)| (start, Some(step)));
        let good_step = step.is_none_or(|step| step.parse::<u32>().is_ok_and(|step| (1..=most).contains(&step)));
        let good_start = match start.split_once("..") {
            Some((first, last)) => {
                matches!((number(first), number(last)), (Some(first), Some(last)) if first < last)
            }
            None => start == "*" || number(start).is_some(),
        };
        good_step && good_start
    })
}
