//! The reason phrase: clients read the error text there, so each answer has a text of its own.
//!
//! `actix_http` wants `&'static str` for it, which a program that must not leak can only promise for a borrowed text.
//! This module owns that promise and nothing else may set a reason.

use actix_web::HttpResponse;

/// Longest phrase that is sent; clients' parsers have limits of their own for a status line.
const MAX_BYTES: usize = 4096;

/// The text of a response's reason phrase, kept alive by the response itself.
struct Phrase {
    text: Box<str>,
}

/// The first line of a message, as it can stand in a status line: control characters become blanks.
pub fn first_line(message: &str) -> String {
    let line = message.trim_start_matches(['\r', '\n']).split(['\r', '\n']).next().unwrap_or_default();
    let mut text: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.len() > MAX_BYTES {
        let end = (0..=MAX_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Whether a message's first line holds a carriage return. (PVE answers 400 to what led to such a message)
pub fn is_torn(message: &str) -> bool {
    message.split('\n').next().is_some_and(|line| line.contains('\r'))
}

/// Sends the first line of `message` as the reason phrase. Without any text the status code's usual phrase stays.
pub fn set(response: &mut HttpResponse, message: &str) {
    let text = first_line(message);
    if text.is_empty() {
        return;
    }
    let phrase = Phrase { text: text.into_boxed_str() };
    let borrowed: *const str = &*phrase.text;
    // SAFETY: the text lives in a heap allocation of its own, so it does not move when `phrase` moves. `phrase` goes into
    // the extensions of the response whose head gets the reference. Nothing takes it out again: the type is private, the
    // only way to remove it is to drop or clear the extensions, which nothing in this crate does before the response is
    // sent, and body and head stay together through all conversions (`map_body`, `set_body`, `into_parts` move both).
    // actix-http 3.20 reads the reason once, in `h1::encoder::encode_status`, while `h1::Codec::encode` holds the whole
    // `Response<()>` by value, and drops head and extensions together when it returns. The head then goes back to a pool
    // of heads: there the reference outlives its text, but `BoxedResponsePool::get_message` overwrites it with `None`
    // before anybody can see the head again, and neither the pool nor dropping a head looks at it.
    let reason: &'static str = unsafe { &*borrowed };
    response.extensions_mut().insert(phrase);
    response.head_mut().reason = Some(reason);
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;

    #[test]
    fn first_lines_are_clean() {
        for (message, expected) in [
            ("VM 100 already running\n", "VM 100 already running"),
            ("first\nsecond", "first"),
            ("\nafter an empty line\n", "after an empty line"),
            ("tab\there\u{7}", "tab here"),
            ("split\r\nX-Evil: 1", "split"),
            ("umlaut ä", "umlaut ä"),
            ("", ""),
        ] {
            assert_eq!(first_line(message), expected, "{message:?}");
        }
        let long = first_line(&"ä".repeat(5000));
        assert!(long.len() <= MAX_BYTES && long.chars().all(|c| c == 'ä'));
    }

    #[test]
    fn reason_stays_with_its_response() {
        let responses: Vec<HttpResponse> = (0..1000)
            .map(|number| {
                let mut response = HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR);
                set(&mut response, &format!("VM {number} does not exist\n"));
                response
            })
            .collect();
        for (number, response) in responses.iter().enumerate() {
            assert_eq!(response.head().reason(), format!("VM {number} does not exist"));
        }
    }

    #[test]
    fn pooled_heads_forget_the_text() {
        for number in 0..1000 {
            let mut response = HttpResponse::new(StatusCode::BAD_REQUEST);
            assert_eq!(response.head().reason(), "Bad Request");
            set(&mut response, &format!("text {number}"));
        }
    }
}
