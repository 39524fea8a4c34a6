//! As much of an HTTP server as a test needs to stand for one: it answers and hangs up.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde_json::Value;
use url::Url;

/// A request without its body.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its URL, without its host.
    pub url: Url,
    /// Its header lines.
    pub headers: Vec<String>,
}

impl Request {
    /// A header's value; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.headers.iter().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The values of a parameter of the query.
    pub fn query(&self, name: &str) -> Vec<String> {
        self.url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// A server on a free port of 127.0.0.1; it ends with this value, but for answers that are under way.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Answers each request with a status and JSON, each connection in a thread of its own.
    pub fn start(answer: impl Fn(&Request) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let ends = Arc::new(AtomicBool::new(false));
        let (seen, answer) = (ends.clone(), Arc::new(answer));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().flatten().take_while(|_| !seen.load(Ordering::Relaxed)) {
                let answer = answer.clone();
                thread::spawn(move || serve(stream, answer.as_ref()));
            }
        });
        Self { address, ends, accepting: Some(accepting) }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A client that hangs up first is no error.
fn serve(mut stream: TcpStream, answer: &(impl Fn(&Request) -> (u16, Value) + ?Sized)) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(line) = lines.next() else { return };
    let base = Url::parse("http://127.0.0.1").expect("a URL");
    let Ok(url) = base.join(line.split(' ').nth(1).unwrap_or_default()) else { return };
    let headers = lines.take_while(|line| !line.is_empty()).collect();
    let (status, body) = answer(&Request { url, headers });
    let (body, kind) = (body.to_string(), "Content-Type: application/json\r\nConnection: close");
    let _ = write!(stream, "HTTP/1.1 {status} Status\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}
