//! A kept-alive TLS connection and, as the floor beside our figures, a server that answers fixed bytes.

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::{X509, X509NameBuilder};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// One connection that stays open.
pub struct Connection {
    stream: BufReader<SslStream<TcpStream>>,
    body: Vec<u8>,
}

impl Connection {
    /// Connects without looking at the certificate.
    pub fn open(port: u16) -> Self {
        let mut connector = SslConnector::builder(SslMethod::tls()).expect("TLS client");
        connector.set_verify(SslVerifyMode::NONE);
        let tcp = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        tcp.set_nodelay(true).expect("a fresh socket");
        let stream = connector.build().connect("localhost", tcp).expect("TLS handshake");
        Connection { stream: BufReader::new(stream), body: Vec::new() }
    }

    /// Sends a prepared request and reads its answer; panics unless it is 200.
    pub fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream.get_mut().write_all(request).expect("request sent");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("status line");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("header");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).expect("body");
        &self.body
    }
}

/// Starts a server that answers every request with `body`; gives back its port. It ends with the process.
pub fn floor_server(body: Vec<u8>) -> u16 {
    let (certificate, key) = certificate();
    let mut acceptor = SslAcceptor::mozilla_modern_v5(SslMethod::tls()).expect("TLS server");
    acceptor.set_certificate(&certificate).expect("own certificate");
    acceptor.set_private_key(&key).expect("own key");
    let acceptor = Arc::new(acceptor.build());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer: Arc<[u8]> = [head.as_bytes(), &body].concat().into();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            std::thread::spawn(move || serve(&acceptor, tcp, &answer));
        }
    });
    port
}

fn serve(acceptor: &SslAcceptor, tcp: TcpStream, answer: &[u8]) -> Option<()> {
    tcp.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(acceptor.accept(tcp).ok()?);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return Some(());
        }
        if line == "\r\n" {
            stream.get_mut().write_all(answer).ok()?;
        }
    }
}

fn certificate() -> (X509, PKey<Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
    let mut name = X509NameBuilder::new().expect("a name");
    name.append_entry_by_text("CN", "floor").expect("a name");
    let name = name.build();
    let mut builder = X509::builder().expect("a certificate");
    builder.set_version(2).expect("version 3");
    builder.set_subject_name(&name).expect("subject");
    builder.set_issuer_name(&name).expect("issuer");
    builder.set_pubkey(&key).expect("key");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("now")).expect("start");
    builder.set_not_after(&Asn1Time::days_from_now(1).expect("tomorrow")).expect("end");
    builder.sign(&key, MessageDigest::sha256()).expect("signature");
    (builder.build(), key)
}
