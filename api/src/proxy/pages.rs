//! What the front server shows besides the API: a page that says where one is.

use crate::wire::envelope::{Rendered, escape};
use crate::wire::html;
use crate::wire::response;
use actix_web::HttpResponse;

/// Answers a path outside of `/api2`. (PVE: files that do not exist are errors of the server)
pub fn answer(node: &str, method: &str, path: &str) -> HttpResponse {
    match (method, path) {
        ("GET", "/") => response::rendered(index(node)),
        _ => response::plain(500, &format!("no such file '{path}'\n")),
    }
}

fn index(node: &str) -> Rendered {
    let node = escape(node);
    let page = format!(
        "<!DOCTYPE html><html><head><meta charset=\"utf-8\"><title>{node} - Ferrovisor</title></head>\
         <body style=\"font-family:sans-serif;max-width:40em;margin:2em auto\"><h1>{node}</h1>\
         <p>This node runs Ferrovisor.</p><ul><li><a href=\"{}\">Walk through the API</a></li>\
         <li><a href=\"/api2/openapi.json\">Description of the API (OpenAPI)</a></li></ul></body></html>",
        html::BASE_URL
    );
    Rendered { status: 200, reason: String::new(), content_type: "text/html; charset=utf-8", body: page.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_files_are_errors() {
        let response = answer("pve1", "GET", "/nope.js");
        assert_eq!((response.status().as_u16(), response.head().reason()), (500, "no such file '/nope.js'"));
        assert_eq!(answer("pve1", "GET", "/").status().as_u16(), 200);
        assert_eq!(answer("pve1", "POST", "/").status().as_u16(), 500);
    }
}
