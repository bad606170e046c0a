//! The option parser: options anywhere between other words, one or two dashes, unique prefixes, `--name=value` or
//! `--name value`. Owns the grammar that PVE's tools inherit from Perl's Getopt::Long with `prefix_pattern=(--|-)`;
//! knows no option by name besides `help`, and does not look at values.

use std::collections::{BTreeMap, VecDeque};

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueMode {
    /// The next word is its value, whatever it looks like.
    Required,
    /// The next word is its value unless it looks like an option; otherwise the value is empty.
    Optional,
}

/// What an option accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// Whether there must be a value.
    pub value: ValueMode,
    /// It may be given several times and collects its values.
    pub repeats: bool,
}

/// All options of a command, by name.
pub type OptionTable = BTreeMap<String, Acceptance>;

/// The value or values of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// The last value of an option that does not repeat.
    One(String),
    /// All values of an option that repeats.
    Many(Vec<String>),
}

/// What a command line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedWords {
    /// Values by the option's full name.
    pub options: BTreeMap<String, Given>,
    /// Words that are neither options nor values, in order.
    pub words: Vec<String>,
    /// What could not be understood, one line each.
    pub complaints: Vec<String>,
    /// `--help` was among the options.
    pub help: bool,
}

/// Splits a command line into options and other words.
pub fn parse(table: &OptionTable, arguments: &[String]) -> ParsedWords {
    let mut queue: VecDeque<&String> = arguments.iter().collect();
    let mut parsed = ParsedWords::default();
    while let Some(word) = queue.pop_front() {
        if word == "--" {
            parsed.words.extend(queue.drain(..).cloned());
            break;
        }
        let Some(body) = option_body(word) else {
            parsed.words.push(word.clone());
            continue;
        };
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) if !name.is_empty() => (name.to_lowercase(), Some(value)),
            _ => (body.to_lowercase(), None),
        };
        let (option, acceptance) = match find(table, &name) {
            Found::Option(option, acceptance) => (option, acceptance),
            Found::Help => {
                parsed.help = true;
                continue;
            }
            Found::Unknown => {
                parsed.complaints.push(format!("Unknown option: {name}"));
                continue;
            }
            Found::Ambiguous(candidates) => {
                parsed.complaints.push(format!("Option {name} is ambiguous ({})", candidates.join(", ")));
                continue;
            }
        };
        match value_of(acceptance, attached, &mut queue) {
            Some(value) => store(&mut parsed.options, option, acceptance, value),
            None => parsed.complaints.push(format!("Option {name} requires an argument")),
        }
    }
    parsed
}

/// The part of a word behind its dashes; a lonely dash is an ordinary word.
fn option_body(word: &str) -> Option<&str> {
    let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    (!body.is_empty()).then_some(body)
}

enum Found<'a> {
    Option(&'a str, Acceptance),
    Help,
    Unknown,
    Ambiguous(Vec<&'a str>),
}

/// Names match in any case; an exact match wins over prefixes.
fn find<'a>(table: &'a OptionTable, name: &str) -> Found<'a> {
    let starts = |candidate: &str| candidate.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let hits: Vec<(&String, &Acceptance)> = table.iter().filter(|(candidate, _)| starts(candidate)).collect();
    if let Some((option, acceptance)) = hits.iter().find(|(option, _)| option.eq_ignore_ascii_case(name)) {
        return Found::Option(option, **acceptance);
    }
    if matches!(name, "help" | "h" | "?") {
        return Found::Help;
    }
    match hits.as_slice() {
        [] => Found::Unknown,
        [(option, acceptance)] => Found::Option(option, **acceptance),
        several => Found::Ambiguous(several.iter().map(|(option, _)| option.as_str()).collect()),
    }
}

/// The value of an option, or `None` when a required one is missing. An attached value must not be empty.
fn value_of(acceptance: Acceptance, attached: Option<&str>, queue: &mut VecDeque<&String>) -> Option<String> {
    match (acceptance.value, attached) {
        (ValueMode::Required, Some("")) => None,
        (_, Some(value)) => Some(value.to_owned()),
        (ValueMode::Required, None) => queue.pop_front().cloned(),
        (ValueMode::Optional, None) => {
            let is_value = |word: &&String| word.as_str() != "--" && option_body(word).is_none();
            let value = if queue.front().is_some_and(is_value) { queue.pop_front() } else { None };
            Some(value.cloned().unwrap_or_default())
        }
    }
}

fn store(options: &mut BTreeMap<String, Given>, option: &str, acceptance: Acceptance, value: String) {
    match options.get_mut(option) {
        Some(Given::Many(values)) => values.push(value),
        _ if acceptance.repeats => {
            options.insert(option.to_owned(), Given::Many(vec![value]));
        }
        _ => {
            options.insert(option.to_owned(), Given::One(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> OptionTable {
        let option = |name: &str, value, repeats| (name.to_owned(), Acceptance { value, repeats });
        [
            option("memory", ValueMode::Required, false),
            option("net0", ValueMode::Required, false),
            option("net1", ValueMode::Required, false),
            option("onboot", ValueMode::Optional, false),
            option("tags", ValueMode::Required, true),
            option("output-format", ValueMode::Required, false),
            option("description", ValueMode::Required, false),
            option("delete", ValueMode::Required, false),
        ]
        .into()
    }

    /// `name=value` pairs, then `|`, then the other words, then `!` and the complaints.
    fn outcome(line: &[&str]) -> String {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let parsed = parse(&table(), &words);
        let options: Vec<String> = parsed
            .options
            .iter()
            .map(|(name, given)| match given {
                Given::One(value) => format!("{name}={value}"),
                Given::Many(values) => format!("{name}=[{}]", values.join(" ")),
            })
            .collect();
        let mut text = format!("{} | {}", options.join(" "), parsed.words.join(" "));
        if !parsed.complaints.is_empty() {
            text.push_str(&format!(" ! {}", parsed.complaints.join("; ")));
        }
        text
    }

    /// Each expectation was taken from a run of Getopt::Long with the same options.
    #[test]
    fn the_grammar_is_that_of_getopt_long() {
        for (line, expected) in [
            (&["--memory", "512"][..], "memory=512 | "),
            (&["-memory=5"], "memory=5 | "),
            (&["--memory="], " |  ! Option memory requires an argument"),
            (&["--memory", ""], "memory= | "),
            (&["--memory"], " |  ! Option memory requires an argument"),
            (&["--memory", "--onboot"], "memory=--onboot | "),
            (&["--memory", "--"], "memory=-- | "),
            (&["--onboot", "100"], "onboot=100 | "),
            (&["100", "--onboot"], "onboot= | 100"),
            (&["--onboot", "--memory", "1"], "memory=1 onboot= | "),
            (&["--onboot", "-"], "onboot=- | "),
            (&["--onboot="], "onboot= | "),
            (&["--onboot", "--", "5"], "onboot= | 5"),
            (&["--onboot", ""], "onboot= | "),
            (&["--onboot", "-1"], "onboot= |  ! Unknown option: 1"),
            (&["--net", "x"], " | x ! Option net is ambiguous (net0, net1)"),
            (&["--de", "1"], " | 1 ! Option de is ambiguous (delete, description)"),
            (&["--output=json"], "output-format=json | "),
            (&["--MEM", "4"], "memory=4 | "),
            (&["-", "a"], " | - a"),
            (&["--tags", "a", "--tags", "b"], "tags=[a b] | "),
            (&["--foo", "a", "--Bar=1"], " | a ! Unknown option: foo; Unknown option: bar"),
            (&["--memory", "1", "--memory", "2"], "memory=2 | "),
            (&["a", "b", "--", "-c", "--", "d"], " | a b -c -- d"),
            (&["--no-onboot"], " |  ! Unknown option: no-onboot"),
            (&["---memory", "5"], " | 5 ! Unknown option: -memory"),
            (&["--=5"], " |  ! Unknown option: =5"),
            (&["--memory", "-1"], "memory=-1 | "),
            (&["--description", "a=b"], "description=a=b | "),
            (&["--description=a=b"], "description=a=b | "),
            (&["+onboot"], " | +onboot"),
        ] {
            assert_eq!(outcome(line), expected, "{line:?}");
        }
    }

    #[test]
    fn help_is_understood_where_an_option_could_stand() {
        for (line, expected) in [
            (&["100", "--help"][..], true),
            (&["-h"], true),
            (&["--memory", "--help"], false),
            (&["--", "--help"], false),
        ] {
            let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(parse(&table(), &words).help, expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_parsed_without_panic(words in proptest::collection::vec("-{0,3}[a-zé=0-9 ]{0,8}", 0..6)) {
            let parsed = parse(&table(), &words);
            prop_assert!(parsed.words.len() + parsed.complaints.len() <= words.len());
        }
    }
}
