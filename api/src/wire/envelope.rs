//! The outcome of a call, and the texts in which each format shows it.
//!
//! Facts: pve-http-server PVE/APIServer/Formatter/Standard.pm, pve-common PVE/Exception.pm.

use super::format::Format;
use engine::{Error, Reply};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The one content type of JSON answers; some clients compare the whole text.
pub const JSON_TYPE: &str = "application/json;charset=UTF-8";
/// The content type of answers for people.
pub const HTML_TYPE: &str = "text/html;charset=UTF-8";

/// What came out of a call.
#[derive(Debug)]
pub struct Outcome {
    /// The status that the outcome means; `extjs` sends 200 nevertheless.
    pub status: u16,
    /// What went wrong, with the line break at its end that clients know. Empty on success.
    pub message: String,
    /// Refused parameters.
    pub errors: Option<Map<String, Value>>,
    /// The answer's data.
    pub data: Value,
    /// The same as text already, instead of it.
    pub text: Option<Box<RawValue>>,
    /// Number of all entries.
    pub total: Option<u64>,
    /// Text difference of configurations.
    pub changes: Option<String>,
}

/// An answer as it goes on the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Status of the status line.
    pub status: u16,
    /// Text of which the first line becomes the reason phrase; empty for the usual phrase.
    pub reason: String,
    /// Content type.
    pub content_type: &'static str,
    /// Body.
    pub body: Vec<u8>,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Outcome {
            status: 200,
            message: String::new(),
            errors: None,
            data: reply.data,
            text: reply.text,
            total: reply.total,
            changes: reply.changes,
        }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        let status = error.status();
        // The only message without a line break: it is no exception in the original but a ready answer.
        let end = if status == 501 { "" } else { "\n" };
        let errors = error
            .parameter_errors()
            .map(|errors| errors.iter().map(|(path, text)| (path.to_owned(), Value::from(text))).collect());
        Outcome {
            status,
            message: format!("{}{end}", error.message()),
            errors,
            data: Value::Null,
            text: None,
            total: None,
            changes: None,
        }
    }
}

impl Outcome {
    /// Status below 400.
    pub fn is_success(&self) -> bool {
        self.status < 400
    }

    /// The outcome in a format. `Html` is made by [`super::html`], which knows more about the request.
    pub fn render(self, format: Format) -> Rendered {
        match format {
            Format::Json | Format::Html => self.json(),
            Format::Extjs => self.extjs(JSON_TYPE, |text| text.into_bytes()),
            Format::Htmljs => self.extjs(HTML_TYPE, |text| escape(&text).into_bytes()),
            Format::Spiceconfig => self.spiceconfig(),
            Format::Png => self.png(),
        }
    }

    /// The envelope's text: `data`, its siblings, and members that the format adds.
    fn body(&mut self, mut members: Map<String, Value>) -> String {
        if let Some(errors) = self.errors.take() {
            members.insert("errors".into(), Value::Object(errors));
        }
        if self.is_success() {
            // As in the original an empty list has no total.
            if let Some(total) = self.total.filter(|total| *total > 0) {
                members.insert("total".into(), json!(total));
            }
            if let Some(changes) = self.changes.take().filter(|text| !text.is_empty()) {
                members.insert("changes".into(), json!(changes));
            }
        } else {
            members.insert("message".into(), json!(self.message));
        }
        let Some(text) = self.text.take() else {
            members.insert("data".into(), self.data.take());
            return Value::Object(members).to_string();
        };
        let siblings = Value::Object(members).to_string();
        let separator = if siblings == "{}" { "" } else { "," };
        format!("{{\"data\":{}{separator}{}", text.get(), &siblings[1..])
    }

    fn json(mut self) -> Rendered {
        let body = self.body(Map::new()).into_bytes();
        Rendered { status: self.status, reason: self.message, content_type: JSON_TYPE, body }
    }

    fn extjs(mut self, content_type: &'static str, encode: impl FnOnce(String) -> Vec<u8>) -> Rendered {
        let mut members = Map::new();
        members.insert("success".into(), json!(u8::from(self.is_success())));
        if !self.is_success() {
            members.insert("status".into(), json!(self.status));
        }
        let body = encode(self.body(members));
        Rendered { status: 200, reason: String::new(), content_type, body }
    }

    fn spiceconfig(self) -> Rendered {
        let mut text = String::new();
        if let Value::Object(members) = &self.data {
            text.push_str("[virt-viewer]\n");
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                text.push_str(&format!("{name}={}\n", plain_text(value)));
            }
        }
        Rendered {
            status: self.status,
            reason: self.message,
            content_type: "application/x-virt-viewer;charset=UTF-8",
            body: text.into_bytes(),
        }
    }

    /// The image is a text in which each character stands for one byte.
    fn png(self) -> Rendered {
        let image = self.data.get("filename").and_then(|_| self.data.get("image")).and_then(Value::as_str);
        let body = image.map(|text| text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect());
        Rendered {
            status: self.status,
            reason: self.message,
            content_type: "image/png",
            body: body.unwrap_or_default(),
        }
    }
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace(['\r', '\n'], "\\n"),
        Value::Bool(value) => u8::from(*value).to_string(),
        other => other.to_string(),
    }
}

/// Text as it can stand in HTML, also inside quotes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(rendered: &Rendered) -> Value {
        serde_json::from_slice(&rendered.body).unwrap()
    }

    #[test]
    fn success() {
        let json = Outcome::from(Reply::from(json!([1]))).render(Format::Json);
        assert_eq!((json.status, json.reason.as_str(), json.content_type), (200, "", JSON_TYPE));
        assert_eq!(body(&json), json!({"data": [1]}));
        assert_eq!(body(&Outcome::from(Reply::null()).render(Format::Json)), json!({"data": null}));
        assert_eq!(
            body(&Outcome::from(Reply::from(json!([1])).total(7)).render(Format::Extjs)),
            json!({"data": [1], "success": 1, "total": 7})
        );
        let list = || Reply::list(&[1, 2]).unwrap();
        assert_eq!(Outcome::from(list()).render(Format::Json).body, b"{\"data\":[1,2]}");
        assert_eq!(
            body(&Outcome::from(list().total(7)).render(Format::Extjs)),
            json!({"data": [1, 2], "success": 1, "total": 7})
        );
    }

    #[test]
    fn failure() {
        let error = || Error::Forbidden("Permission check failed (/vms/100, VM.PowerMgmt)".into());
        let json = Outcome::from(error()).render(Format::Json);
        assert_eq!(json.status, 403);
        assert_eq!(body(&json), json!({"data": null, "message": "Permission check failed (/vms/100, VM.PowerMgmt)\n"}));
        let extjs = Outcome::from(error()).render(Format::Extjs);
        assert_eq!((extjs.status, extjs.reason.as_str()), (200, ""));
        assert_eq!(
            body(&extjs),
            json!({"data": null, "success": 0, "status": 403,
                   "message": "Permission check failed (/vms/100, VM.PowerMgmt)\n"})
        );
    }

    #[test]
    fn refused_parameters() {
        let json =
            Outcome::from(Error::parameter("vmid", "value must have a minimum value of 100")).render(Format::Json);
        assert_eq!((json.status, json.reason.as_str()), (400, "Parameter verification failed.\n"));
        assert_eq!(
            body(&json),
            json!({"data": null, "message": "Parameter verification failed.\n",
                   "errors": {"vmid": "value must have a minimum value of 100"}})
        );
    }

    #[test]
    fn htmljs_is_escaped() {
        let rendered = Outcome::from(Reply::from(json!("<b>"))).render(Format::Htmljs);
        assert_eq!(rendered.content_type, HTML_TYPE);
        assert_eq!(
            String::from_utf8(rendered.body).unwrap(),
            "{&quot;data&quot;:&quot;&lt;b&gt;&quot;,&quot;success&quot;:1}"
        );
    }

    #[test]
    fn special_formats() {
        let reply = Reply::from(json!({"host": "x", "tls-port": 61000, "ca": "a\nb", "none": null}));
        let rendered = Outcome::from(reply).render(Format::Spiceconfig);
        let text = String::from_utf8(rendered.body).unwrap();
        assert!(text.starts_with("[virt-viewer]\n") && text.contains("tls-port=61000\n"), "{text}");
        assert!(text.contains("ca=a\\nb\n") && !text.contains("none"), "{text}");
        let rendered =
            Outcome::from(Reply::from(json!({"filename": "x.png", "image": "\u{89}PNG"}))).render(Format::Png);
        assert_eq!(rendered.body, b"\x89PNG");
    }
}
