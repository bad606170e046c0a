//! Values that do not stand on the command line: contents of files and answers to prompts.
//! Owns what the words of the contract's `value_mapping` mean; which parameters are mapped is the contract's business.

use engine::{Error, Result, ResultExt};
use openssl::base64::encode_block;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};

/// How a parameter gets its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapping {
    /// Asked for on the terminal when no value is given.
    Asked {
        /// A value on the command line is not accepted.
        always: bool,
    },
    /// The option names a file.
    File {
        /// How the file's content is sent.
        encoding: Encoding,
        /// This word is a value of its own and no file.
        literal: Option<String>,
    },
}

/// How the content of a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// Percent-encoded as a component of a URL.
    Percent,
    /// Base64.
    Base64,
    /// Base64 with the alphabet for URLs, without padding.
    Base64Url,
}

/// What is not encoded in a component of a URL. (Perl's URI::Escape)
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Reads the mappings of a command.
pub fn read(words: &BTreeMap<String, String>) -> Result<BTreeMap<String, Mapping>> {
    words.iter().map(|(name, words)| Ok((name.clone(), Mapping::from_words(words)?))).collect()
}

impl Mapping {
    fn from_words(words: &str) -> Result<Mapping> {
        if words.contains("prompt") {
            return Ok(Mapping::Asked { always: words.starts_with("always") });
        }
        if !words.contains("file path") {
            return Err(Error::new(format!("unknown mapping of a value: {words}")));
        }
        let encoding = match words {
            _ if words.contains("URI-escaped") => Encoding::Percent,
            _ if words.contains("base64url") => Encoding::Base64Url,
            _ if words.contains("base64") => Encoding::Base64,
            _ => Encoding::Plain,
        };
        let literal = words.split_once("or the word ").map(|(_, word)| word.to_owned());
        Ok(Mapping::File { encoding, literal })
    }

    /// The value is asked for on the terminal.
    pub fn is_asked(&self) -> bool {
        matches!(self, Mapping::Asked { .. })
    }

    /// How usage texts name the value.
    pub fn type_text(&self) -> &'static str {
        if self.is_asked() { "<password>" } else { "<filepath>" }
    }

    /// The value for the method: the given one, or what was typed.
    pub fn answer(&self, given: Option<&str>) -> Result<String> {
        match (self, given) {
            (Mapping::Asked { always: true }, _) => ask("Enter password: "),
            (_, Some(value)) if !value.is_empty() => Ok(value.to_owned()),
            _ => {
                let first = ask("Enter new password: ")?;
                if ask("Retype new password: ")? == first {
                    Ok(first)
                } else {
                    Err(Error::new("Passwords do not match."))
                }
            }
        }
    }

    /// The value for the method, from the value of the option.
    pub fn content(&self, value: &str) -> Result<String> {
        let Mapping::File { encoding, literal } = self else {
            return Ok(value.to_owned());
        };
        if literal.as_deref() == Some(value) {
            return Ok(value.to_owned());
        }
        let bytes = std::fs::read(value).context(|| format!("can't open '{value}'"))?;
        let text =
            |bytes| String::from_utf8(bytes).map_err(|_| Error::new(format!("file '{value}' is not UTF-8 text")));
        Ok(match encoding {
            Encoding::Plain => text(bytes)?,
            Encoding::Percent => utf8_percent_encode(&text(bytes)?, COMPONENT).to_string(),
            Encoding::Base64 => encode_block(&bytes),
            Encoding::Base64Url => encode_block(&bytes).trim_end_matches('=').replace('+', "-").replace('/', "_"),
        })
    }
}

/// Reads a line; on a terminal it is not shown.
fn ask(prompt: &str) -> Result<String> {
    let stdin = std::io::stdin();
    let _silent = if stdin.is_terminal() {
        eprint!("{prompt}");
        let _ = std::io::stderr().flush();
        Some(Silence::begin()?)
    } else {
        None
    };
    let mut line = String::new();
    if stdin.lock().read_line(&mut line)? == 0 {
        return Err(Error::new("unable to read password: end of input"));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// The terminal does not echo while this lives.
struct Silence {
    before: rustix::termios::Termios,
}

impl Silence {
    fn begin() -> Result<Silence> {
        let before = tcgetattr(std::io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing helps if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
        eprintln!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_of_the_contract_are_understood() {
        let mut mappings = 0;
        for name in contract::command::tools() {
            for command in contract::command::tool(name).unwrap().commands.values() {
                mappings += read(&command.value_mapping).unwrap().len();
            }
        }
        assert!(mappings > 10);
        assert!(Mapping::from_words("something else").is_err());
    }

    #[test]
    fn files_are_encoded_as_their_mapping_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ssh-rsa A+/= b\n>>>?").unwrap();
        let path = file.path().to_str().unwrap();
        for (words, expected) in [
            ("file path", "ssh-rsa A+/= b\n>>>?"),
            ("value is a file path whose content is used", "ssh-rsa A+/= b\n>>>?"),
            ("file path, content sent URI-escaped", "ssh-rsa%20A%2B%2F%3D%20b%0A%3E%3E%3E%3F"),
            ("file path, content sent base64 encoded", "c3NoLXJzYSBBKy89IGIKPj4+Pw=="),
            ("file path, content sent base64url encoded", "c3NoLXJzYSBBKy89IGIKPj4-Pw"),
        ] {
            assert_eq!(Mapping::from_words(words).unwrap().content(path).unwrap(), expected, "{words}");
        }
        let autogen = Mapping::from_words("file path, or the word autogen").unwrap();
        assert_eq!(autogen.content("autogen").unwrap(), "autogen");
        assert!(autogen.content("/nonexistent").is_err());
    }
}
