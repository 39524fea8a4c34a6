//! The SPIFFE Workload API by py-spiffe (`tests/tools/workload.py`): a workload's library as it is, on a socket.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

use super::{Process, tools};

/// A workload with py-spiffe in it; it ends with this value.
pub struct SpiffePy {
    line: Mutex<Line>,
    _process: Process,
}

/// Orders go in and answers come out, one line each.
struct Line {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// An X509-SVID that the library took: its chain is well-formed by its rules, and its key is the certificate's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Svid {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// The leaf's serial, lower-case hex.
    pub serial: String,
    /// The leaf first, each DER.
    pub chain: Vec<Der>,
}

/// A JWT-SVID that the library took; its signature is not verified.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct JwtSvid {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// The token in compact form.
    pub token: String,
    /// Its `exp`, in seconds.
    pub expiry: i64,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Der(pub Vec<u8>);

/// Roots by the name of their trust domain, sorted.
pub type Bundles = BTreeMap<String, Vec<Der>>;

/// What the library's `X509Source` has now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Current {
    /// The first SVID.
    pub svid: Svid,
    /// The bundles.
    pub bundles: Bundles,
    /// How often the source changed since [`SpiffePy::follow`].
    pub updates: u64,
}

/// An error of the library.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// The exception.
    pub kind: String,
    /// The gRPC status behind it (`PERMISSION_DENIED`), if there is one.
    pub code: Option<String>,
    /// In words.
    pub message: String,
}

impl SpiffePy {
    /// Starts it on a Workload API's socket. The file must be there: the library looks for it as it starts.
    pub fn start(socket: &Path) -> Self {
        assert!(socket.exists(), "{} does not exist", socket.display());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/workload.py");
        let mut command = Command::new(tools().join("venv/bin/python"));
        command.arg(script).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let orders = process.child().stdin.take().expect("its standard input is piped");
        let answers = BufReader::new(process.child().stdout.take().expect("its standard output is piped"));
        Self { line: Mutex::new(Line { orders, answers }), _process: process }
    }

    /// Fetches the default X509-SVID.
    pub fn svid(&self) -> Result<Svid, Refusal> {
        self.order(&json!({"op": "svid"}))
    }

    /// Fetches the X.509 bundles.
    pub fn bundles(&self) -> Result<Bundles, Refusal> {
        self.order(&json!({"op": "bundles"}))
    }

    /// Fetches a JWT-SVID, of the default identity unless a SPIFFE ID is given.
    pub fn jwt(&self, audience: &[&str], subject: Option<&str>) -> Result<JwtSvid, Refusal> {
        self.order(&json!({"op": "jwt", "audience": audience, "subject": subject}))
    }

    /// Fetches the JWT bundles: the key ids by trust domain.
    pub fn jwt_bundles(&self) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
        self.order(&json!({"op": "jwt_bundles"}))
    }

    /// Asks the socket's server whether a token holds for an audience; its SPIFFE ID.
    pub fn validate(&self, token: &str, audience: &str) -> Result<String, Refusal> {
        self.spiffe_id(&json!({"op": "validate", "token": token, "audience": audience}))
    }

    /// Verifies a token by the JWT bundles that the socket gives; its SPIFFE ID.
    pub fn verify(&self, token: &str, audience: &str) -> Result<String, Refusal> {
        self.spiffe_id(&json!({"op": "verify", "token": token, "audience": audience}))
    }

    /// Opens the library's `X509Source`, which follows changes from now on: [`Self::current`] tells what it has.
    pub fn follow(&self) -> Result<(), Refusal> {
        self.order(&json!({"op": "follow"}))
    }

    /// What the source has now.
    pub fn current(&self) -> Result<Current, Refusal> {
        self.order(&json!({"op": "current"}))
    }

    fn spiffe_id(&self, order: &Value) -> Result<String, Refusal> {
        let result: Value = self.order(order)?;
        Ok(result["spiffe_id"].as_str().expect("a token has a SPIFFE ID").to_owned())
    }

    fn order<T: for<'de> Deserialize<'de>>(&self, order: &Value) -> Result<T, Refusal> {
        // A test that panicked while it held the line has failed already.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(line.orders, "{order}").expect("py-spiffe runs as long as this value; or run scripts/setup");
        let mut text = String::new();
        line.answers.read_line(&mut text).expect("its standard output can be read");
        let answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("py-spiffe does not run: see its message above; or run scripts/setup"));
        match (answer.get("result"), answer.get("error")) {
            (Some(result), _) => Ok(T::deserialize(result).unwrap_or_else(|error| panic!("{order}: {error}: {result}"))),
            (None, Some(error)) => Err(Refusal::deserialize(error).expect("a refusal has a kind, a code and a message")),
            (None, None) => panic!("{order}: {answer}"),
        }
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}
