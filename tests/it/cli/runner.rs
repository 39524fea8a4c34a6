//! A runner's ID token endpoint, with whatever can be wrong with one.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

/// The token of the runner's own, which nobody may print.
pub const RUNNER_TOKEN: &str = "canary.runner.token";

/// An endpoint; it ends with the process.
pub struct Runner {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Runner {
    /// Answers with what `answer` makes of the number of the request, from 1: the whole HTTP response; none is silence.
    pub fn new(mut answer: impl FnMut(usize) -> Option<String> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let head = head(&stream);
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(head);
                    seen.len()
                };
                match answer(number) {
                    Some(text) => drop(stream.write_all(text.as_bytes())),
                    // Until the client has gone.
                    None => drop(thread::spawn(move || stream.read(&mut [0; 1]))),
                }
            }
        });
        Self { port, requests }
    }

    /// One that gives tokens: `a.b.N`.
    pub fn good() -> Self {
        Self::new(|number| Some(http("200 OK", &format!("{{\"count\":1,\"value\":\"canary.id.{number}\"}}"))))
    }

    /// The heads of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// What a step of a job has in its environment.
    pub fn step<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env_remove("DAYPASS_CERT")
            .env_remove("DAYPASS_KEY")
            .env("GITHUB_ACTIONS", "true")
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("http://127.0.0.1:{}/token?api-version=2.0", self.port))
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", RUNNER_TOKEN)
    }
}

/// A response that closes its connection.
pub fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn head(stream: &TcpStream) -> String {
    let mut head = String::new();
    let mut lines = BufReader::new(stream);
    while lines.read_line(&mut head).is_ok_and(|length| length > 2) {}
    head
}
