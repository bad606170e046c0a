//! Tables with or without borders (pve-common PVE/CLIFormatter.pm `print_text_table`).

use super::{Switches, Terminal, cell};
use contract::{Kind, Schema};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// One column.
#[derive(Debug, Clone)]
pub struct Column {
    /// The member of a row that stands in it.
    pub name: String,
    /// What stands above it.
    pub title: String,
    schema: Option<Schema>,
}

impl Column {
    /// A column titled by its name.
    pub fn new(name: &str, schema: Option<&Schema>) -> Column {
        Column { name: name.to_owned(), title: name.to_owned(), schema: schema.cloned() }
    }

    /// A column of texts.
    pub fn plain(name: &str) -> Column {
        Column::new(name, None)
    }

    /// The column under another title.
    #[must_use]
    pub fn titled(self, title: &str) -> Column {
        Column { title: title.to_owned(), ..self }
    }

    fn is_number(&self) -> bool {
        matches!(self.schema.as_ref().and_then(|schema| schema.kind), Some(Kind::Integer | Kind::Number))
    }

    /// Columns of this column: as wide as its longest line, but not wider than the declaration allows.
    fn width(&self, longest: usize) -> usize {
        let longest = longest.max(self.title.width());
        let limit = self.schema.as_ref().and_then(|schema| schema.max_length);
        limit.and_then(|limit| usize::try_from(limit).ok()).map_or(longest, |limit| limit.min(longest))
    }
}

/// How a table is drawn.
#[derive(Debug, Clone, Copy)]
pub struct TableStyle {
    /// Lines around cells.
    pub border: bool,
    /// Titles above columns.
    pub header: bool,
    /// Rows are sorted by the first column.
    pub sorted: bool,
    /// How cells are shown.
    pub switches: Switches,
}

impl TableStyle {
    /// As the switches of the command line say.
    pub fn of(switches: &Switches) -> TableStyle {
        TableStyle {
            border: !switches.noborder.unwrap_or(false),
            header: !switches.noheader.unwrap_or(false),
            sorted: true,
            switches: *switches,
        }
    }
}

/// Characters of the lines of a table: left end, filling, crossing, right end.
type Line = [&'static str; 4];

struct Frame {
    top: Line,
    below_header: Line,
    between: Line,
    bottom: Line,
    bar: &'static str,
}

const BOXES: Frame = Frame {
    top: ["┌", "─", "┬", "┐"],
    below_header: ["╞", "═", "╪", "╡"],
    between: ["├", "─", "┼", "┤"],
    bottom: ["└", "─", "┴", "┘"],
    bar: "│",
};

const ASCII: Frame = Frame {
    top: ["+", "-", "+", "+"],
    below_header: ["+", "=", "+", "+"],
    between: ["+", "-", "+", "+"],
    bottom: ["+", "-", "+", "+"],
    bar: "|",
};

/// Draws rows as a table.
pub fn table(terminal: &Terminal, rows: &[Map<String, Value>], columns: &[Column], style: &TableStyle) -> String {
    let mut rows: Vec<&Map<String, Value>> = rows.iter().collect();
    if style.sorted
        && let Some(first) = columns.first()
    {
        rows.sort_by(|a, b| compare(a.get(&first.name), b.get(&first.name), first.is_number()));
    }
    let cells: Vec<Vec<Vec<String>>> = rows.iter().map(|row| lines_of(row, columns, &style.switches)).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let lines = cells.iter().flat_map(|row| &row[at]);
            column.width(lines.map(|line| line.width()).max().unwrap_or(0))
        })
        .collect();
    let mut drawing = Drawing { terminal, columns, widths, border: style.border, text: String::new() };
    drawing.draw(&cells, style.header);
    drawing.text
}

fn lines_of(row: &Map<String, Value>, columns: &[Column], switches: &Switches) -> Vec<Vec<String>> {
    let text = |column: &Column| cell(row.get(&column.name).unwrap_or(&Value::Null), column.schema.as_ref(), switches);
    columns.iter().map(|column| text(column).trim_end_matches('\n').split('\n').map(str::to_owned).collect()).collect()
}

/// Missing values come first.
fn compare(a: Option<&Value>, b: Option<&Value>, as_numbers: bool) -> Ordering {
    let present = |value: Option<&Value>| value.filter(|value| !value.is_null()).map(super::text::plain);
    match (present(a), present(b)) {
        (Some(a), Some(b)) if as_numbers => {
            let number = |text: &str| text.parse().unwrap_or(0.0);
            f64::total_cmp(&number(&a), &number(&b))
        }
        (a, b) => a.cmp(&b),
    }
}

struct Drawing<'a> {
    terminal: &'a Terminal,
    columns: &'a [Column],
    widths: Vec<usize>,
    border: bool,
    text: String,
}

impl Drawing<'_> {
    fn draw(&mut self, cells: &[Vec<Vec<String>>], header: bool) {
        let frame = if self.terminal.utf8 { BOXES } else { ASCII };
        self.line(&frame.top);
        if header {
            let titles: Vec<String> = self.columns.iter().map(|column| column.title.clone()).collect();
            self.row(&titles, frame.bar);
        }
        for (at, row) in cells.iter().enumerate() {
            match (at, header) {
                (0, true) => self.line_below_header(&frame),
                (0, false) => {}
                _ => self.line(&frame.between),
            }
            let height = row.iter().map(Vec::len).max().unwrap_or(1);
            for line in 0..height {
                let texts: Vec<String> = row
                    .iter()
                    .zip(&self.widths)
                    .map(|(lines, width)| shortened(lines.get(line).map_or("", String::as_str), *width))
                    .collect();
                self.row(&texts, frame.bar);
            }
        }
        self.line(&frame.bottom);
    }

    /// The original leaves out the right end of this line in an ASCII table of one column.
    fn line_below_header(&mut self, frame: &Frame) {
        let mut line = frame.below_header;
        if !self.terminal.utf8 && self.columns.len() == 1 {
            line[3] = "";
        }
        self.line(&line);
    }

    fn line(&mut self, [left, filling, crossing, right]: &Line) {
        if self.border {
            let parts: Vec<String> = self.widths.iter().map(|width| filling.repeat(width + 2)).collect();
            self.put(&format!("{left}{}{right}", parts.join(crossing)));
        }
    }

    fn row(&mut self, texts: &[String], bar: &str) {
        let last = texts.len() - 1;
        let padded = texts.iter().enumerate().map(|(at, text)| {
            let missing = " ".repeat(self.widths[at].saturating_sub(text.width()));
            match (self.columns[at].is_number(), self.border || at < last) {
                // Without a border the last column is neither aligned nor filled.
                (_, false) => text.clone(),
                (true, true) => missing + text,
                (false, true) => text.clone() + &missing,
            }
        });
        let padded: Vec<String> = padded.collect();
        if self.border {
            self.put(&format!("{bar} {} {bar}", padded.join(&format!(" {bar} "))));
        } else {
            self.put(&padded.join(" "));
        }
    }

    fn put(&mut self, line: &str) {
        let line = match self.terminal.width {
            Some(width) => shortened(line, width),
            None => line.to_owned(),
        };
        if self.terminal.utf8 {
            self.text.push_str(&line);
        } else {
            self.text.extend(line.chars().map(|character| if character.is_ascii() { character } else { '?' }));
        }
        self.text.push('\n');
    }
}

/// The start of a text that fits into some columns.
fn shortened(text: &str, width: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|character| {
            used += character.width().unwrap_or(0);
            used <= width
        })
        .collect()
}
