//! Multipart form data as it arrives, piece by piece: small fields first, then one file.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`file_upload_multipart`), RFC 7578. The memory in use does not depend
//! on the size of the file.

use bytes::{Buf, Bytes, BytesMut};
use engine::{Error, Result, bail};
use memchr::memmem;

/// A part's headers are shorter.
const MAX_HEADERS: usize = 16 * 1024;
/// A field's value is shorter.
const MAX_FIELD: usize = 64 * 1024;

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A field, whole.
    Field(String, String),
    /// The file begins; this is the name that the client gives it.
    File(String),
    /// The next bytes of the file.
    Data(Bytes),
    /// The end of the form.
    End,
}

/// Where in the form we are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter.
    Preamble,
    /// Behind a delimiter, before its line break or the closing dashes.
    Delimiter,
    /// In a part's headers.
    Headers,
    /// In the value of a field.
    Value(String),
    /// In the file.
    File,
    /// Behind the end.
    Over,
}

/// The parser.
#[derive(Debug)]
pub struct Multipart {
    delimiter: Vec<u8>,
    buffer: BytesMut,
    place: Place,
    file_seen: bool,
}

impl Multipart {
    /// For a Content-Type header of `multipart/form-data` with a boundary.
    pub fn new(content_type: &str) -> Option<Self> {
        let mut parts = content_type.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
        })?;
        if boundary.is_empty() || boundary.len() > 200 {
            return None;
        }
        Some(Multipart {
            delimiter: format!("--{boundary}").into_bytes(),
            buffer: BytesMut::new(),
            place: Place::Preamble,
            file_seen: false,
        })
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that is complete.
    ///
    /// # Errors
    /// When the form cannot be what a client means.
    pub fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let place = self.place.clone();
            let event = match &place {
                Place::Preamble => self.preamble()?,
                Place::Delimiter => self.delimiter()?,
                Place::Headers => self.headers()?,
                Place::Value(name) => self.value(name)?,
                Place::File => self.data(),
                Place::Over => return Ok(None),
            };
            // A change of place without an event is progress, too.
            if event.is_some() || self.place == place {
                return Ok(event);
            }
        }
    }

    fn preamble(&mut self) -> Result<Option<Event>> {
        match memmem::find(&self.buffer, &self.delimiter) {
            Some(at) if at == 0 || self.buffer[at - 1] == b'\n' => {
                self.buffer.advance(at + self.delimiter.len());
                self.place = Place::Delimiter;
            }
            Some(_) => bail!("upload failed: no boundary at the start of a line"),
            None if self.buffer.len() > MAX_HEADERS => bail!("upload failed: no boundary"),
            None => {}
        }
        Ok(None)
    }

    fn delimiter(&mut self) -> Result<Option<Event>> {
        if self.buffer.starts_with(b"--") {
            self.place = Place::Over;
            return Ok(Some(Event::End));
        }
        let Some(at) = memchr::memchr(b'\n', &self.buffer) else {
            if self.buffer.len() > MAX_HEADERS {
                bail!("upload failed: malformed boundary");
            }
            return Ok(None);
        };
        if self.file_seen {
            bail!("upload failed: the file must be the last part");
        }
        self.buffer.advance(at + 1);
        self.place = Place::Headers;
        Ok(None)
    }

    fn headers(&mut self) -> Result<Option<Event>> {
        let ends = [b"\r\n\r\n".as_slice(), b"\n\n".as_slice()];
        let end = ends.iter().filter_map(|end| Some((memmem::find(&self.buffer, end)?, end.len()))).min();
        let Some((at, length)) = end else {
            if self.buffer.len() > MAX_HEADERS {
                bail!("upload failed: headers of a part are too long");
            }
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
        self.buffer.advance(at + length);
        let Some(disposition) = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.trim())
        }) else {
            bail!("upload failed: a part without Content-Disposition");
        };
        let kind = disposition.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("form-data") {
            bail!("wrong Content-Disposition '{kind}' in multipart, expected 'form-data'");
        }
        let Some(name) = attribute(disposition, "name") else {
            bail!("upload failed: a part without a name");
        };
        match attribute(disposition, "filename") {
            None => {
                self.place = Place::Value(name);
                Ok(None)
            }
            Some(_) if name != "filename" => {
                Err(Error::new(format!("wrong field name '{name}' for file upload, expected 'filename'")))
            }
            Some(file) => {
                self.file_seen = true;
                self.place = Place::File;
                Ok(Some(Event::File(file.trim().to_owned())))
            }
        }
    }

    fn value(&mut self, name: &str) -> Result<Option<Event>> {
        let Some((end, next)) = self.find_end() else {
            if self.buffer.len() > MAX_FIELD {
                bail!("upload failed: field '{name}' is too long");
            }
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).trim().to_owned();
        self.buffer.advance(next);
        self.place = Place::Delimiter;
        Ok(Some(Event::Field(name.to_owned(), text)))
    }

    fn data(&mut self) -> Option<Event> {
        if let Some((end, next)) = self.find_end() {
            let data = self.buffer.split_to(end).freeze();
            self.buffer.advance(next - end);
            self.place = Place::Delimiter;
            return Some(Event::Data(data));
        }
        // The end may be the beginning of a delimiter, with its line break and what has to follow it.
        let safe = self.buffer.len().saturating_sub(self.delimiter.len() + 4);
        (safe > 0).then(|| Event::Data(self.buffer.split_to(safe).freeze()))
    }

    /// Where the part ends (before the line break) and where the text behind the delimiter begins.
    fn find_end(&self) -> Option<(usize, usize)> {
        let finder = memmem::Finder::new(&self.delimiter);
        for at in finder.find_iter(&self.buffer) {
            let before = &self.buffer[..at];
            let end = before.strip_suffix(b"\r\n").or_else(|| before.strip_suffix(b"\n"));
            let behind = &self.buffer[at + self.delimiter.len()..];
            // A boundary may be the beginning of a longer word in the file.
            let whole = behind.starts_with(b"\r\n") || behind.starts_with(b"\n") || behind.starts_with(b"--");
            match end {
                Some(end) if whole => return Some((end.len(), at + self.delimiter.len())),
                // Not decidable yet: stop here, more bytes will tell.
                Some(_) if behind.len() < 2 => return None,
                _ => {}
            }
        }
        None
    }
}

/// An attribute of a Content-Disposition; a value in quotes may hold any character but a quote.
fn attribute(disposition: &str, name: &str) -> Option<String> {
    let mut rest = disposition;
    while let Some(at) = rest.find(';') {
        rest = rest[at + 1..].trim_start();
        let Some((key, value)) = rest.split_once('=') else { continue };
        let quoted = value.strip_prefix('"').and_then(|value| value.split_once('"'));
        let found = key.trim().eq_ignore_ascii_case(name);
        match quoted {
            Some((value, _)) if found => return Some(value.to_owned()),
            Some((_, behind)) => rest = behind,
            None if found => return Some(value.split(';').next().unwrap_or_default().trim().to_owned()),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--xYz\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n--xYz\r\n\
        Content-Disposition: form-data; name=\"checksum\"\r\nContent-Type: text/plain\r\n\r\nabc\r\n--xYz\r\n\
        Content-Disposition: form-data; name=\"filename\"; filename=\"a; b.iso\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n";

    /// Parses in pieces of a size; the file's pieces are joined.
    fn parse(form: &[u8], size: usize) -> Result<(Vec<Event>, Vec<u8>)> {
        let mut parser = Multipart::new("multipart/form-data; boundary=xYz").unwrap();
        let (mut events, mut data) = (Vec::new(), Vec::new());
        for piece in form.chunks(size) {
            parser.push(piece);
            while let Some(event) = parser.next()? {
                match event {
                    Event::Data(bytes) => data.extend_from_slice(&bytes),
                    event => events.push(event),
                }
            }
        }
        Ok((events, data))
    }

    fn field(name: &str, value: &str) -> Event {
        Event::Field(name.into(), value.into())
    }

    #[test]
    fn forms_are_read_in_pieces_of_any_size() {
        let contents: [&[u8]; 7] =
            [b"", b"data", b"\r\n", b"\r\n--xY", b"--xYz\r\n", b"a\r\n--xYzz\r\nb\r\n\r\n", b"\r\n--xYz-\r\n"];
        for content in contents {
            let form = [FORM.as_bytes(), content, b"\r\n--xYz--\r\n"].concat();
            for size in [1, 2, 3, 7, 50, form.len()] {
                let (events, data) = parse(&form, size).unwrap();
                let expected =
                    [field("content", "iso"), field("checksum", "abc"), Event::File("a; b.iso".into()), Event::End];
                assert_eq!(events, expected, "{content:?} in pieces of {size}");
                assert_eq!(data, content, "{content:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_form_that_breaks_off_has_no_end() {
        let (events, data) = parse(&[FORM.as_bytes(), b"data"].concat(), 10).unwrap();
        assert!(!events.contains(&Event::End) && data.len() <= 4);
    }

    #[test]
    fn wrong_forms_are_refused() {
        let part = |disposition: &str| format!("--xYz\r\nContent-Disposition: {disposition}\r\n\r\nx\r\n--xYz--\r\n");
        for form in [
            part("form-data; name=\"file\"; filename=\"x\""),
            part("attachment; name=\"filename\"; filename=\"x\""),
            part("form-data"),
            format!("{FORM}data\r\n--xYz\r\nContent-Disposition: form-data; name=\"late\"\r\n\r\nx\r\n--xYz--\r\n"),
            "x".repeat(MAX_HEADERS + 1),
        ] {
            assert!(parse(form.as_bytes(), 100).is_err(), "{form}");
        }
        assert!(Multipart::new("multipart/form-data").is_none());
        assert!(Multipart::new("text/plain; boundary=x").is_none());
        assert!(Multipart::new("multipart/form-data; boundary=\"x y\"").is_some());
    }
}
