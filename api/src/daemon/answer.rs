//! From a request to its answer, without sockets: identity, checks, the engine, the format.

use crate::identity::Identities;
use crate::wire::credentials::{self, Credential};
use crate::wire::envelope::{Outcome, Rendered};
use crate::wire::format::{Format, canonical};
use crate::wire::html;
use crate::wire::params::{self, BodyKind};
use contract::Verb;
use engine::call::{Download, SocketTarget};
use engine::{Context, Error, Request, Result, registry};

/// A request as the daemons' sockets deliver it.
pub struct Asked {
    /// The verb.
    pub verb: Verb,
    /// The format of the answer.
    pub format: Format,
    /// The path below the format, encoded.
    pub path: String,
    /// The query string.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
    /// How to read the body.
    pub kind: BodyKind,
    /// What the request shows.
    pub credential: Option<Credential>,
    /// The address of the client, if the front server told it.
    pub client: Option<String>,
    /// Only whether it would be allowed.
    pub check_only: bool,
}

/// What is sent back.
pub enum Answer {
    /// An answer in the format that was asked for, and the status that it means.
    Rendered(Rendered, u16),
    /// A successful login on a page: the ticket becomes a cookie.
    LoggedIn(String),
    /// A file.
    Download(Download),
    /// An endpoint for a web socket, and the answer for a client that does not want one.
    Socket(SocketTarget, Rendered),
    /// Nobody was believed; the text says why.
    Unauthenticated(String),
}

/// An answer and for whom it is.
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The verified identity.
    pub user: Option<String>,
}

impl Asked {
    /// The name with which somebody tries to log in, as it can stand in a log.
    pub fn login_name(&self) -> Option<String> {
        if self.verb != Verb::Post || canonical(&self.path) != "/access/ticket" {
            return None;
        }
        let params = params::merge(&self.query, &self.body, self.kind).ok()?;
        let name = params.get("username")?.as_str()?;
        Some(name.chars().take(100).map(|c| if c.is_control() || c.is_whitespace() { '?' } else { c }).collect())
    }
}

impl Answered {
    /// Why nobody was believed.
    pub fn refusal(&self) -> Option<&str> {
        match &self.answer {
            Answer::Unauthenticated(text) => Some(text),
            Answer::Rendered(rendered, 401) => Some(rendered.reason.trim_end()),
            _ => None,
        }
    }
}

/// Answers a request.
pub fn answer(ctx: &Context, identities: &Identities, asked: Asked) -> Answered {
    let path = canonical(&asked.path);
    let user = if credentials::is_open(asked.verb, &path) {
        None
    } else {
        match identify(ctx, identities, asked.credential.as_ref()) {
            Ok(user) => Some(user),
            Err(error) => return Answered { answer: Answer::Unauthenticated(error.message().to_owned()), user: None },
        }
    };
    Answered { answer: answer_as(ctx, user.as_deref(), asked), user }
}

/// Answers a request of somebody who has been verified, or of nobody.
pub fn answer_as(ctx: &Context, user: Option<&str>, asked: Asked) -> Answer {
    let (format, verb, path) = (asked.format, asked.verb, asked.path.clone());
    // Only JSON is made of text; the other formats look into the values.
    let is_json = matches!(format, Format::Json | Format::Extjs | Format::Htmljs);
    match call(ctx, user, asked).map(|reply| if is_json { reply } else { reply.with_data() }) {
        Ok(reply) => match (reply.download.clone(), reply.socket.clone()) {
            (Some(download), _) => Answer::Download(download),
            (None, Some(socket)) => Answer::Socket(socket, Outcome::from(reply).render(format)),
            (None, None) => show(Outcome::from(reply), format, verb, &path),
        },
        Err(error) => show(Outcome::from(error), format, verb, &path),
    }
}

/// Who speaks. The texts are those that clients know; reasons stay here.
fn identify(ctx: &Context, identities: &Identities, credential: Option<&Credential>) -> Result<String> {
    let credential = credential.ok_or_else(|| Error::Unauthorized("No ticket".into()))?;
    identities.verify(ctx, credential).map_err(|error| match error {
        Error::Unauthorized(text) if text == "No ticket" => Error::Unauthorized(text),
        _ => Error::Unauthorized("Authentication failed!".into()),
    })
}

fn call(ctx: &Context, user: Option<&str>, asked: Asked) -> Result<engine::Reply> {
    let params = params::merge(&asked.query, &asked.body, asked.kind)?;
    let request = Request { verb: asked.verb, path: asked.path, params };
    let ctx = &Context { client: asked.client, ..ctx.clone() };
    if asked.check_only {
        return registry::authorize(ctx, user, request).map(|_| engine::Reply::null());
    }
    registry::dispatch(ctx, user, request)
}

fn show(outcome: Outcome, format: Format, verb: Verb, path: &str) -> Answer {
    let status = outcome.status;
    if format != Format::Html {
        return Answer::Rendered(outcome.render(format), status);
    }
    if canonical(path) != "/access/ticket" || !matches!(verb, Verb::Get | Verb::Post) {
        let method = contract::find(verb, path).ok().map(|route| route.method);
        return Answer::Rendered(html::page(&outcome, method, path), status);
    }
    match outcome.data.get("ticket").and_then(serde_json::Value::as_str) {
        Some(ticket) if verb == Verb::Post => Answer::LoggedIn(ticket.to_owned()),
        _ => Answer::Rendered(html::login_page(&outcome), status),
    }
}
