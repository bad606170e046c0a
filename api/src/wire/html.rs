//! Pages for people who walk through the API with a browser, and the form with which they log in.
//!
//! Facts: pve-http-server PVE/APIServer/Formatter/HTML.pm. Only this format sets the cookie.

use super::credentials::COOKIE;
use super::envelope::{HTML_TYPE, Outcome, Rendered, escape};
use contract::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Where the form lies.
pub const LOGIN_URL: &str = "/api2/html/access/ticket";
/// Where a successful login leads.
pub const BASE_URL: &str = "/api2/html";

/// Characters that stand for themselves in URLs and cookies.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The page that shows an outcome. `path` is the path below the format.
pub fn page(outcome: &Outcome, method: Option<&Method>, path: &str) -> Rendered {
    let mut content = String::new();
    if !outcome.is_success() {
        content.push_str(&format!("<p class=\"error\">Error {}: {}</p>", outcome.status, escape(&outcome.message)));
    }
    if let Some(doc) = method.and_then(|method| method.doc.as_deref()) {
        content.push_str(&format!("<h3>Description</h3><p>{}</p>", escape(doc)));
    }
    let children = method.and_then(Method::child_member).filter(|_| outcome.is_success());
    match (children, &outcome.data) {
        (Some(member), Value::Array(rows)) => content.push_str(&links(rows, member, path)),
        _ => content.push_str(&format!("<pre>{}</pre>", escape(&pretty(&outcome.data)))),
    }
    rendered(outcome, &document(path, &content))
}

/// The page with the login form, and why the last attempt failed.
pub fn login_page(outcome: &Outcome) -> Rendered {
    let error = if outcome.is_success() {
        String::new()
    } else {
        format!("<p class=\"error\">{}</p>", escape(outcome.message.trim_end()))
    };
    let content = format!(
        "{error}<form method=\"POST\" action=\"{LOGIN_URL}\"><p>Please sign in</p>\
         <input type=\"text\" name=\"username\" placeholder=\"Enter user name\" required autofocus>\
         <input type=\"password\" name=\"password\" placeholder=\"Password\" required>\
         <button type=\"submit\">Sign in</button></form>"
    );
    rendered(outcome, &document("/access/ticket", &content))
}

/// The Set-Cookie header of a successful login.
pub fn cookie(ticket: &str) -> String {
    format!("{COOKIE}={}; path=/; secure; SameSite=Lax;", utf8_percent_encode(ticket, PLAIN))
}

fn rendered(outcome: &Outcome, page: &str) -> Rendered {
    Rendered {
        status: outcome.status,
        reason: outcome.message.clone(),
        content_type: HTML_TYPE,
        body: page.as_bytes().to_vec(),
    }
}

fn links(rows: &[Value], member: &str, path: &str) -> String {
    let mut rows: Vec<(String, &Value)> = rows
        .iter()
        .filter_map(|row| match row.get(member)? {
            Value::String(text) => Some((text.clone(), row)),
            Value::Null => None,
            other => Some((other.to_string(), row)),
        })
        .collect();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let base = format!("{BASE_URL}{}", path.trim_end_matches('/'));
    let mut text = String::new();
    for (name, row) in rows {
        text.push_str(&format!(
            "<a href=\"{}/{}\"><h4>{}</h4></a><pre>{}</pre>",
            escape(&base),
            utf8_percent_encode(&name, PLAIN),
            escape(&name),
            escape(&pretty(row))
        ));
    }
    text
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a value is plain data")
}

fn document(path: &str, content: &str) -> String {
    let mut crumbs = format!("<a href=\"{BASE_URL}\">Home</a>");
    let mut target = BASE_URL.to_owned();
    for component in path.split('/').filter(|component| !component.is_empty()) {
        target.push('/');
        target.push_str(component);
        crumbs.push_str(&format!(" / <a href=\"{}\">{}</a>", escape(&target), escape(component)));
    }
    format!(
        "<!DOCTYPE html><html><head><meta charset=\"utf-8\"><title>Ferrovisor API</title><style>\
         body{{font-family:sans-serif;max-width:60em;margin:1em auto;padding:0 1em}}pre{{background:#f4f4f4;padding:.5em;\
         overflow:auto}}nav{{border-bottom:1px solid #ccc;padding-bottom:.5em}}.error{{color:#a00}}input{{margin:.2em}}\
         </style></head><body><nav>{crumbs} <a style=\"float:right\" href=\"{LOGIN_URL}\">Login</a></nav>{content}\
         </body></html>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Verb;
    use engine::{Error, Reply};
    use serde_json::json;

    fn text(rendered: Rendered) -> String {
        assert_eq!(rendered.content_type, HTML_TYPE);
        String::from_utf8(rendered.body).unwrap()
    }

    #[test]
    fn indexes_link_to_their_children() {
        let method = contract::method(Verb::Get, "/nodes").unwrap();
        let outcome = Outcome::from(Reply::from(json!([{"node": "b<"}, {"node": "a"}])));
        let page = text(page(&outcome, Some(method), "/nodes/"));
        assert!(page.contains("href=\"/api2/html/nodes/a\""), "{page}");
        assert!(page.contains("href=\"/api2/html/nodes/b%3C\"><h4>b&lt;</h4>"), "{page}");
        assert!(page.find("nodes/a\"") < page.find("nodes/b%3C"), "{page}");
    }

    #[test]
    fn errors_are_shown_escaped() {
        let page = text(page(&Outcome::from(Error::new("<script>")), None, "/x"));
        assert!(page.contains("Error 500: &lt;script&gt;") && !page.contains("<script>"), "{page}");
    }

    #[test]
    fn cookies_are_encoded() {
        assert_eq!(
            cookie("PVE:a@pam:1::x+/="),
            "PVEAuthCookie=PVE%3Aa%40pam%3A1%3A%3Ax%2B%2F%3D; path=/; secure; SameSite=Lax;"
        );
    }
}
