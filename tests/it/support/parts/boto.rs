//! The AWS API by boto3 (`tests/tools/aws.py`): a client that is not the SDK that Daypass is built with.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::tools;

/// An access key, of a user or, with a token, of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token.
    pub token: Option<String>,
}

impl Keys {
    /// Out of `Credentials` of STS or `AccessKey` of IAM.
    pub fn of(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        Self {
            id: text("AccessKeyId").expect("it has an access key id"),
            secret: text("SecretAccessKey").expect("it has a secret access key"),
            token: text("SessionToken"),
        }
    }
}

/// How a server refused a call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// `AccessDenied`, `ExpiredToken`, …
    pub code: String,
    /// In words.
    pub message: String,
    /// The HTTP status.
    pub status: u16,
}

/// Calls a method by its name in boto3 (`assume_role`), with its arguments as in boto3, signed by `who` or not at all. Whatever is
/// no answer of the server's ends the test. Arguments go as they are: the server judges them, not the client.
pub fn call(endpoint: &str, who: Option<&Keys>, service: &str, method: &str, arguments: &Value) -> Result<Value, Refusal> {
    let call = json!({
        "endpoint": endpoint, "service": service, "method": method, "arguments": arguments,
        "key": who.map(|keys| &keys.id), "secret": who.map(|keys| &keys.secret), "token": who.and_then(|keys| keys.token.as_ref()),
    });
    // One for the whole process: importing boto3 takes longer than most tests. It ends when its standard input does.
    static LINE: OnceLock<Mutex<Line>> = OnceLock::new();
    // A test that panicked while it held the line has failed already.
    let mut line = LINE.get_or_init(|| Mutex::new(Line::open())).lock().unwrap_or_else(PoisonError::into_inner);
    let mut answer = line.ask(&call);
    drop(line);
    match (answer.get_mut("result").map(Value::take), answer.get("error")) {
        (Some(result), _) => Ok(result),
        (None, Some(error)) => Err(Refusal::deserialize(error).expect("a refusal has a code, a message and a status")),
        (None, None) => panic!("{service} {method}: {answer}"),
    }
}

/// What an S3 object holds.
pub fn read(endpoint: &str, who: &Keys, bucket: &str, key: &str) -> Result<String, Refusal> {
    let object = call(endpoint, Some(who), "s3", "get_object", &json!({"Bucket": bucket, "Key": key}))?;
    Ok(object["Body"].as_str().expect("an object has a body").to_owned())
}

/// Writes an S3 object.
pub fn write(endpoint: &str, who: &Keys, bucket: &str, key: &str, body: &str) -> Result<(), Refusal> {
    call(endpoint, Some(who), "s3", "put_object", &json!({"Bucket": bucket, "Key": key, "Body": body})).map(drop)
}

/// Calls go in and answers come out, one line each.
struct Line {
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
    _child: Child,
}

impl Line {
    fn open() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/aws.py");
        let mut child = Command::new(tools().join("venv/bin/python"))
            .arg(script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs; or run scripts/setup");
        let calls = child.stdin.take().expect("its standard input is piped");
        let answers = BufReader::new(child.stdout.take().expect("its standard output is piped"));
        Self { calls, answers, _child: child }
    }

    fn ask(&mut self, call: &Value) -> Value {
        writeln!(self.calls, "{call}").expect("boto3 runs as long as the tests; or run scripts/setup");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("its standard output can be read");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("boto3 does not run: see its message above; or run scripts/setup"))
    }
}
