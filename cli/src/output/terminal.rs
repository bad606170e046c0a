//! What the terminal can show: its width and whether it draws boxes.

use std::io::IsTerminal;

/// Where a table will be seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminal {
    /// Columns of the window, if it is one.
    pub width: Option<usize>,
    /// It understands UTF-8.
    pub utf8: bool,
}

impl Terminal {
    /// Standard output and the locale of the environment.
    pub fn detect() -> Terminal {
        let stdout = std::io::stdout();
        let width = if stdout.is_terminal() {
            rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0)
        } else {
            None
        };
        Terminal { width, utf8: locale_is_utf8(|name| std::env::var(name).ok()) }
    }
}

/// The first of the three variables that is not empty names the locale.
fn locale_is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| variable(name)).find(|value| !value.is_empty());
    let charset = locale.unwrap_or_default().to_ascii_lowercase().replace('-', "");
    charset.split(['.', '@']).any(|part| part == "utf8")
}

#[cfg(test)]
mod tests {
    use super::locale_is_utf8;

    #[test]
    fn the_first_variable_that_is_set_decides() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            locale_is_utf8(move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
        };
        assert!(with(&[("LANG", "en_US.UTF-8")]));
        assert!(with(&[("LC_ALL", "C.utf8"), ("LANG", "C")]));
        assert!(with(&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8@euro")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!with(&[]));
    }
}
