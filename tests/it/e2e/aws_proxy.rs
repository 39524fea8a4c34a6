//! What stands between daypassd and AWS: it passes calls on, remembers the sessions that were made, and fails as it is told.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::parts::boto::Keys;

/// What it does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Passes it on.
    Pass,
    /// Hangs up on every call.
    Down,
    /// Keeps silent at a call for a session, which AWS never sees.
    Hang,
    /// Passes a call for a session on, and keeps its answer to itself.
    Swallow,
    /// Passes a call for a session on, and hangs up in the midst of its answer.
    Break,
    /// Answers a call for a session as AWS does to who calls too often.
    Throttle,
}

/// A session that AWS made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its keys.
    pub keys: Keys,
    /// The lease that its tag names.
    pub lease: String,
}

/// A proxy before an endpoint; it ends with this value.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    state: Mutex<State>,
    over: AtomicBool,
}

struct State {
    does: Does,
    asked: usize,
    made: Vec<Made>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Stands before an endpoint (`http://127.0.0.1:PORT`) from now on, at a free port.
    pub fn start(endpoint: &str) -> Self {
        Self::start_at(0, endpoint)
    }

    /// The same at a port.
    pub fn start_at(port: u16, endpoint: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let state = Mutex::new(State { does: Does::Pass, asked: 0, made: Vec::new() });
        let shared = Arc::new(Shared { to: endpoint.trim_start_matches("http://").to_owned(), state, over: AtomicBool::new(false) });
        let held = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if held.over.load(Ordering::Acquire) {
                    return;
                }
                let shared = held.clone();
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { port, shared }
    }

    /// Its own endpoint.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on it does this.
    pub fn does(&self, does: Does) {
        self.shared.state().does = does;
    }

    /// How often a session was asked for.
    pub fn asked(&self) -> usize {
        self.shared.state().asked
    }

    /// Every session that AWS made, whoever learnt of it.
    pub fn made(&self) -> Vec<Made> {
        self.shared.state().made.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // It waits for one more connection.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Answers one call and hangs up.
fn serve(mut stream: &TcpStream, shared: &Shared) {
    let Some(request) = Request::read(stream) else { return };
    let for_session = request.field("Action").as_deref() == Some("AssumeRole");
    let does = {
        let mut state = shared.state();
        state.asked += usize::from(for_session);
        if for_session || state.does == Does::Down { state.does } else { Does::Pass }
    };
    match does {
        Does::Down => return,
        Does::Hang => return shared.keep_silent(does),
        Does::Throttle => return drop(stream.write_all(throttled().as_bytes())),
        Does::Pass | Does::Swallow | Does::Break => {}
    }
    let Some(answer) = request.pass_on(&shared.to) else { return };
    if for_session && let Some(made) = Made::of(&request, &answer) {
        shared.state().made.push(made);
    }
    match does {
        Does::Swallow => shared.keep_silent(does),
        Does::Break => drop(stream.write_all(&answer[..answer.len() - 40])),
        _ => drop(stream.write_all(&answer)),
    }
}

impl Shared {
    fn keep_silent(&self, does: Does) {
        while self.state().does == does && !self.over.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A call as it came.
struct Request {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            match line.trim_end() {
                "" => break,
                text => head.push(text.to_owned()),
            }
        }
        let length = head.iter().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let mut body = vec![0; length.map_or(0, |(_, value)| value.trim().parse().unwrap_or(0))];
        reader.read_exact(&mut body).ok()?;
        Some(Self { head, body })
    }

    /// A field of a form, as STS takes it.
    fn field(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(&self.body).find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
    }

    fn pass_on(&self, to: &str) -> Option<Vec<u8>> {
        let mut there = TcpStream::connect(to).ok()?;
        let kept = self.head.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head: String = kept.map(|line| format!("{line}\r\n")).collect();
        there.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
        there.write_all(&self.body).ok()?;
        let mut answer = Vec::new();
        there.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    }
}

impl Made {
    /// Out of a call and its answer; none when it was refused.
    fn of(request: &Request, answer: &[u8]) -> Option<Self> {
        let answer = String::from_utf8_lossy(answer);
        let text = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            rest.split_once("</").map(|(value, _)| value.to_owned())
        };
        let keys = Keys { id: text("AccessKeyId")?, secret: text("SecretAccessKey")?, token: Some(text("SessionToken")?) };
        let tags = (1..=50).map(|n| (request.field(&format!("Tags.member.{n}.Key")), request.field(&format!("Tags.member.{n}.Value"))));
        let lease = tags.into_iter().find(|(key, _)| key.as_deref() == Some("daypass:lease")).and_then(|(_, value)| value);
        Some(Self { keys, lease: lease.expect("a session is tagged with its lease") })
    }
}

fn throttled() -> String {
    let body = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>Throttling</Code>\
                <Message>Rate exceeded</Message></Error><RequestId>r-1</RequestId></ErrorResponse>";
    format!("HTTP/1.1 400 Bad Request\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
