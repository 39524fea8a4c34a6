//! An endpoint that answers as it is told, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use daypass::model::SignedDuration;

use super::world::now;

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Does {
    /// Makes a session that lives this much longer than asked, in seconds.
    Session(i64),
    /// Answers with this status and body.
    Answer(u16, String),
    /// Sends half of an answer and closes.
    Half,
    /// Closes without a word.
    Close,
    /// Keeps silent.
    Hang,
}

/// A form, as STS and IAM take it.
pub type Form = BTreeMap<String, String>;

pub struct Endpoint {
    pub url: String,
    asked: Arc<Mutex<Vec<Form>>>,
    over: Arc<AtomicBool>,
}

impl Endpoint {
    /// Does one thing after the other, the last for ever.
    pub fn start(does: &[Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, over) = (Arc::<Mutex<Vec<Form>>>::default(), Arc::<AtomicBool>::default());
        let (does, asked_there, over_there) = (does.to_vec(), asked.clone(), over.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over_there.load(Ordering::Acquire) {
                    return;
                }
                let (does, asked, over) = (does.clone(), asked_there.clone(), over_there.clone());
                thread::spawn(move || serve(&stream, &does, &asked, &over));
            }
        });
        Self { url, asked, over }
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Form> {
        self.asked.lock().unwrap().clone()
    }

    /// The last of it.
    pub fn last(&self) -> Form {
        self.asked().pop().expect("nothing was asked")
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // It waits for one more connection.
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
    }
}

fn serve(stream: &TcpStream, does: &[Does], asked: &Mutex<Vec<Form>>, over: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    while let Some(form) = request(&mut reader) {
        let number = {
            let mut asked = asked.lock().unwrap();
            asked.push(form.clone());
            asked.len() - 1
        };
        let mut out = stream;
        match does[number.min(does.len() - 1)].clone() {
            Does::Session(longer) => answer(out, 200, &made(&form, longer)),
            Does::Answer(status, body) => answer(out, status, &body),
            Does::Half => {
                let body = made(&form, 0);
                let _ = write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.len(), &body[..body.len() / 2]);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Does::Close => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Does::Hang => {
                while !over.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(20));
                }
                return;
            }
        }
    }
}

fn request(reader: &mut BufReader<&TcpStream>) -> Option<Form> {
    let mut length = 0;
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" && !first {
            break;
        }
        first = false;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(url::form_urlencoded::parse(&body).into_owned().collect())
}

fn answer(mut out: &TcpStream, status: u16, body: &str) {
    let _ = write!(out, "HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// A session as STS answers.
fn made(form: &Form, longer: i64) -> String {
    let action = form.get("Action").map_or("AssumeRole", String::as_str);
    let seconds: i64 = form.get("DurationSeconds").map_or(3600, |seconds| seconds.parse().unwrap());
    let ends = now() + SignedDuration::from_secs(seconds + longer);
    let ends = daypass::model::Timestamp::from_second(ends.as_second()).unwrap();
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials><AccessKeyId>ASIATEST</AccessKeyId>\
         <SecretAccessKey>made-secret</SecretAccessKey><SessionToken>made-token</SessionToken><Expiration>{ends}</Expiration></Credentials>\
         </{action}Result><ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></{action}Response>"
    )
}

/// An error as STS and IAM answer it.
pub fn error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>secret-request-id</RequestId></ErrorResponse>"
    )
}
