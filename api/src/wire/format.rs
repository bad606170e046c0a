//! The URL's second part: in which clothes an answer comes.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`split_abs_uri`), Formatter/Standard.pm.

/// How the answer is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The envelope with meaningful status codes.
    Json,
    /// The envelope with `success`; always status 200.
    Extjs,
    /// As `Extjs`, escaped as HTML (upload forms of old browsers).
    Htmljs,
    /// Pages for people.
    Html,
    /// A file for virt-viewer.
    Spiceconfig,
    /// An image.
    Png,
}

/// A path below `/api2`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiPath<'a> {
    /// `/api2/FORMAT/REST` with a known format; the rest begins with a slash and is still encoded.
    Known(Format, &'a str),
    /// A format that we do not have.
    UnknownFormat(&'a str, &'a str),
    /// `/api2` without a format.
    NoFormat,
    /// Not below `/api2`.
    Outside,
}

/// Takes an URL path apart.
pub fn split(path: &str) -> ApiPath<'_> {
    // The base is a prefix of the text, not a path component.
    let Some(rest) = path.strip_prefix("/api2") else {
        return ApiPath::Outside;
    };
    let trimmed = rest.trim_start_matches('/');
    if trimmed.len() == rest.len() {
        return ApiPath::NoFormat;
    }
    let (name, rest) = match trimmed.find('/') {
        Some(at) => trimmed.split_at(at),
        None => (trimmed, "/"),
    };
    let plain = |name: &str| {
        name.len() > 1
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    match name {
        "json" => ApiPath::Known(Format::Json, rest),
        "extjs" => ApiPath::Known(Format::Extjs, rest),
        "htmljs" => ApiPath::Known(Format::Htmljs, rest),
        "html" => ApiPath::Known(Format::Html, rest),
        "spiceconfig" => ApiPath::Known(Format::Spiceconfig, rest),
        "png" => ApiPath::Known(Format::Png, rest),
        name if plain(name) => ApiPath::UnknownFormat(name, rest),
        _ => ApiPath::NoFormat,
    }
}

/// A path without doubled and trailing slashes, for comparing it with the few that the daemons know by name.
pub fn canonical(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for component in path.split('/').filter(|component| !component.is_empty()) {
        text.push('/');
        text.push_str(component);
    }
    if text.is_empty() {
        text.push('/');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split() {
        for (path, expected) in [
            ("/api2/json/version", ApiPath::Known(Format::Json, "/version")),
            ("/api2/json", ApiPath::Known(Format::Json, "/")),
            ("/api2/json/", ApiPath::Known(Format::Json, "/")),
            ("/api2//extjs//nodes/", ApiPath::Known(Format::Extjs, "//nodes/")),
            ("/api2/xml/version", ApiPath::UnknownFormat("xml", "/version")),
            ("/api2", ApiPath::NoFormat),
            ("/api2/", ApiPath::NoFormat),
            ("/api2/X/version", ApiPath::NoFormat),
            ("/api2x", ApiPath::NoFormat),
            ("/", ApiPath::Outside),
            ("/pve2/x.js", ApiPath::Outside),
        ] {
            assert_eq!(split(path), expected, "{path}");
        }
    }

    #[test]
    fn slashes_do_not_count() {
        assert_eq!(canonical("//nodes///a/"), "/nodes/a");
        assert_eq!(canonical(""), "/");
    }
}
