//! Lines of columns with fixed widths.

/// The length of the longest text of a column.
pub fn longest<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(|text| text.chars().count()).max().unwrap_or(0)
}

/// Lines of two columns without titles, the first one as wide as its longest text.
pub fn pairs(rows: &[(String, String)]) -> String {
    let width = longest(rows.iter().map(|(first, _)| first.as_str()));
    rows.iter().map(|(first, second)| format!("{first:<width$} {second}\n")).collect()
}
