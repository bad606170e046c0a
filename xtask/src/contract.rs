//! Writes the interface tables out and compares them with published facts.

use crate::Outcome;
use serde_json::Value;
use std::fs;
use std::path::Path;

const USAGE: &str = "usage: cargo xtask contract (--dump FILE | --compare DIR | --openapi FILE)
  --dump FILE     writes all methods as JSON
  --compare DIR   compares them with DIR/api.json and reports every difference
  --openapi FILE  writes an OpenAPI 3.1 document";

/// Runs one of the commands.
pub fn main(arguments: &[&str]) -> Outcome {
    match arguments {
        ["--dump", file] => write(file, &contract::dump()),
        ["--openapi", file] => write(file, &contract::openapi::document()),
        ["--compare", folder] => compare(Path::new(folder)),
        _ => Err(USAGE.into()),
    }
}

fn write(file: &str, value: &Value) -> Outcome {
    let text = serde_json::to_string_pretty(value)?;
    fs::write(file, text + "\n").map_err(|error| format!("{file}: {error}").into())
}

fn compare(folder: &Path) -> Outcome {
    let path = folder.join("api.json");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let facts: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let dump = contract::dump();
    let differences = contract::compare(&facts["paths"], &dump["paths"]);
    differences.iter().for_each(|line| println!("{line}"));
    match differences.len() {
        0 => {
            println!("{} methods agree", contract::methods().len());
            Ok(())
        }
        count => Err(format!("{count} differences").into()),
    }
}
