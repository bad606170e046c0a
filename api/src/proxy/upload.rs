//! Uploads: a form with a file of any size. The right to upload is asked before the first byte is taken, the file goes to
//! the disk as it arrives, and the handler gets its name.
//!
//! ```text
//! would it be allowed? (daemon) ─> form ─> /var/tmp/pveupload-HEX ─> the call itself (daemon), which owns the file then
//! ```
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`file_upload_multipart`). A file whose call is never made is removed.

use super::front::Front;
use super::multipart::{Event, Multipart};
use super::request::{self, ApiRequest};
use super::respond::{self, Exchange};
use crate::daemon::CHECK_HEADER;
use crate::wire::envelope::Outcome;
use crate::wire::params::decode_form;
use crate::wire::response;
use actix_web::web;
use bytes::{Bytes, BytesMut};
use engine::{Context, Error, Result, ResultExt, bail};
use futures_util::StreamExt;
use http_body_util::Full;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where files are received, below the node's root.
pub const DIRECTORY: &str = "/var/tmp";
/// How much is gathered before it is written.
pub const PIECE: usize = 256 * 1024;
/// A client that sends nothing for so long has gone.
pub const SILENCE: Duration = Duration::from_secs(60);
/// A form has fewer fields.
const MAX_FIELDS: usize = 32;

/// The file that is being received; removed unless it is given away.
pub struct Received {
    path: PathBuf,
    given_away: bool,
}

impl Received {
    /// A file that has been received before.
    pub fn at(path: PathBuf) -> Self {
        Received { path, given_away: false }
    }

    /// Leaves the file where it is.
    pub fn leave(mut self) {
        self.given_away = true;
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.given_away {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Receives an upload. `user` is who sends it, as far as the front knows.
pub async fn receive(front: &Front, api: &ApiRequest<'_>, payload: web::Payload, user: Option<String>) -> Exchange {
    if let Err(refused) = permitted(front, api, request::forwarded(api, Bytes::new()), user.clone()).await {
        return refused;
    }
    let kind = request::text(api.http, "content-type").unwrap_or_default();
    let Some(form) = Multipart::new(kind) else {
        return Exchange::own(response::plain(501, &format!("upload 'Content-Type '{kind}' not implemented")), user);
    };
    if request::text(api.http, "content-length").is_none() {
        return Exchange::own(response::plain(501, "upload without content length header not supported"), user);
    }
    match store(&front.ctx, form, payload, api).await {
        Ok((received, params)) => hand_over(front, request::forwarded(api, Bytes::new()), received, params).await,
        Err(error) => {
            let rendered = Outcome::from(error).render(api.format);
            Exchange::own(response::rendered(rendered), user)
        }
    }
}

/// Asks the daemon whether the call would be allowed; the answer is its user, or the refusal.
pub async fn permitted(
    front: &Front,
    api: &ApiRequest<'_>,
    mut check: hyper::Request<Full<Bytes>>,
    user: Option<String>,
) -> Result<Option<String>, Exchange> {
    check.headers_mut().remove("content-type");
    check.headers_mut().insert(CHECK_HEADER, hyper::header::HeaderValue::from_static("1"));
    match front.upstream.send(check).await {
        Ok(answered) if respond::is_unauthenticated(&answered) => {
            Err(respond::unbelieved(api.format, &respond::reason(&answered)))
        }
        Ok(answered) => {
            let exchange = respond::respond(answered, None).await;
            if exchange.status >= 400 { Err(exchange) } else { Ok(exchange.user.or(user)) }
        }
        Err(error) => Err(Exchange::error(&error, user)),
    }
}

/// Writes the form's file and gathers its fields.
async fn store(
    ctx: &Context,
    mut form: Multipart,
    mut payload: web::Payload,
    api: &ApiRequest<'_>,
) -> Result<(Received, Map<String, Value>)> {
    let query = api.http.uri().query().unwrap_or_default();
    if decode_form(query.as_bytes()).contains_key("tmpfilename") {
        bail!("'tmpfilename' query parameter is not allowed for file uploads");
    }
    let mut params = Map::new();
    let mut open: Option<(Received, File)> = None;
    let mut gathered = BytesMut::new();
    loop {
        while let Some(event) = form.next()? {
            match event {
                Event::Field(name, _) if name == "tmpfilename" => bail!("'{name}' is not allowed for file uploads"),
                Event::Field(..) if params.len() >= MAX_FIELDS => bail!("upload failed: too many fields"),
                Event::Field(name, value) => drop(params.insert(name, Value::String(value))),
                Event::File(name) => {
                    let (received, file, number) = create(&ctx.root.path(DIRECTORY))?;
                    params.insert("filename".into(), Value::String(name));
                    params.insert("tmpfilename".into(), Value::String(format!("/var/tmp/pveupload-{number}")));
                    open = Some((received, file));
                }
                Event::Data(data) => {
                    gathered.extend_from_slice(&data);
                    if gathered.len() >= PIECE {
                        open = Some(write(open, gathered.split().freeze()).await?);
                    }
                }
                Event::End => {
                    let (received, _) = write(open, gathered.freeze()).await?;
                    return Ok((received, params));
                }
            }
        }
        let piece =
            tokio::time::timeout(SILENCE, payload.next()).await.map_err(|_| Error::new("upload failed: timeout"))?;
        match piece {
            Some(Ok(piece)) => form.push(&piece),
            Some(Err(_)) | None => bail!("upload failed"),
        }
    }
}

/// A new file that only we can open, and its number in hexadecimal.
pub fn create(directory: &Path) -> Result<(Received, File, String)> {
    let mut random = [0; 16];
    openssl::rand::rand_bytes(&mut random).map_err(|error| Error::new(error.to_string()))?;
    let number = engine::types::hex(&random);
    let path = directory.join(format!("pveupload-{number}"));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.context(|| format!("unable to create temporary upload file '{}'", path.display()))?;
    Ok((Received::at(path), file, number))
}

/// Writes a piece on another thread; a full or slow disk must not hold this one.
async fn write(open: Option<(Received, File)>, data: Bytes) -> Result<(Received, File)> {
    let Some((received, mut file)) = open else {
        bail!("upload failed: no file");
    };
    let written = tokio::task::spawn_blocking(move || file.write_all(&data).map(|()| file)).await;
    let file = written.map_err(|error| Error::new(error.to_string()))?;
    Ok((received, file.context(|| "write to temporary file failed")?))
}

/// Makes the call with these parameters. It is made to its end also when the client goes away: from then on the file
/// belongs to it.
pub async fn hand_over(
    front: &Front,
    mut call: hyper::Request<Full<Bytes>>,
    received: Received,
    params: Map<String, Value>,
) -> Exchange {
    *call.body_mut() = Full::new(Bytes::from(Value::Object(params).to_string()));
    call.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    let upstream = std::rc::Rc::clone(&front.upstream);
    let made = tokio::task::spawn_local(async move {
        let mut received = received;
        let exchange = match upstream.send(call).await {
            Ok(answered) => respond::respond(answered, None).await,
            Err(error) => Exchange::error(&error, None),
        };
        // A daemon that went away in the middle may have begun; then its task removes the file.
        received.given_away = exchange.status < 400 || matches!(exchange.status, 596 | 597);
        exchange
    });
    made.await.unwrap_or_else(|error| Exchange::error(&Error::new(error.to_string()), None))
}
