//! Reads the file: every section on its own, so that one fault does not hide the next.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{build::Config, build::Draft};
use crate::model::{
    Timestamp,
    fault::{Fault, nearest},
};

/// The largest configuration or policy file, in bytes.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A section with the line at which it begins.
pub(super) struct At<T> {
    pub line: usize,
    pub value: T,
}

/// A file while it is read: its text, where relative paths begin, and what is wrong with it so far.
pub(super) struct Reader {
    pub file: String,
    pub dir: PathBuf,
    text: String,
    /// CAs must not have expired by then.
    pub now: Timestamp,
    pub faults: Vec<Fault>,
}

/// Reads and checks a configuration file and everything that it names.
pub fn load(path: &Path, now: Timestamp) -> Result<Config, Vec<Fault>> {
    let file = path.display().to_string();
    let alone = |message: String| vec![Fault { file: file.clone(), line: 0, message }];
    let text = read_bounded(path).map_err(|error| alone(format!("cannot be read: {error}")))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let mut reader = Reader { file: file.clone(), dir, text, now, faults: Vec::new() };
    let source = reader.text.clone();
    let (root, errors) = DeTable::parse_recoverable(&source);
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| reader.fault_of(error, 0)).collect());
    }
    let draft = reader.sections(root.into_inner());
    reader.build(draft)
}

/// Reads a file that must not be larger than [`MAX_FILE`].
pub(super) fn read_bounded(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    std::fs::read_to_string(path)
}

impl Reader {
    fn sections(&mut self, root: DeTable<'_>) -> Draft {
        let mut draft = Draft::default();
        for (key, value) in root {
            let offset = key.span().start;
            draft.seen.insert(key.get_ref().to_string());
            match key.into_inner().as_ref() {
                "server" => self.server(value, &mut draft),
                "log" => draft.log = self.section(value),
                "store" => draft.store = self.section(value),
                "audit" => draft.audit = self.section(value),
                "policy" => draft.policy = self.section(value),
                "ca" => draft.cas = self.list("ca", value),
                "trust_domain" => draft.trust_domains = self.list("trust_domain", value),
                "issuer" => draft.issuers = self.list("issuer", value),
                "tenant" => draft.tenants = self.list("tenant", value),
                "role" => draft.roles = self.roles(value),
                "aws" => draft.aws = self.list("aws", value),
                "registry" => draft.registries = self.list("registry", value),
                "oidc" => draft.oidc = self.section(value),
                "keys" => draft.keys = self.section(value),
                unknown => self.unknown_section(unknown, offset),
            }
        }
        draft
    }

    fn unknown_section(&mut self, name: &str, offset: usize) {
        const KNOWN: [&str; 14] = [
            "server",
            "log",
            "store",
            "audit",
            "policy",
            "ca",
            "trust_domain",
            "issuer",
            "tenant",
            "role",
            "aws",
            "registry",
            "oidc",
            "keys",
        ];
        let hint = nearest(name, KNOWN).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let fault = Fault::at(&self.file, &self.text, offset, format!("unknown key {name}{hint}"));
        self.faults.push(fault);
    }

    /// `[server]` with `[server.limits]` inside it, each read on its own.
    fn server(&mut self, value: Spanned<DeValue<'_>>, draft: &mut Draft) {
        let span = value.span();
        let DeValue::Table(mut table) = value.into_inner() else {
            let fault = Fault::at(&self.file, &self.text, span.start, "server must be a table");
            self.faults.push(fault);
            return;
        };
        let limits = table.remove("limits");
        draft.limits = limits.and_then(|limits| self.section(limits));
        draft.server = self.section(Spanned::new(span, DeValue::Table(table)));
    }

    pub(super) fn section<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>) -> Option<At<T>> {
        let start = value.span().start;
        let line = self.line(start);
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(At { line, value }),
            Err(error) => {
                let fault = self.fault_of(&error, start);
                self.faults.push(fault);
                None
            }
        }
    }

    fn list<T: DeserializeOwned>(&mut self, name: &str, value: Spanned<DeValue<'_>>) -> Vec<At<T>> {
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Array(entries) => entries.into_iter().filter_map(|entry| self.section(entry)).collect(),
            _ => {
                let fault =
                    Fault::at(&self.file, &self.text, start, format!("write [[{name}]], with double brackets: there can be several"));
                self.faults.push(fault);
                Vec::new()
            }
        }
    }

    fn fault_of(&self, error: &toml::de::Error, fallback: usize) -> Fault {
        let offset = error.span().map_or(fallback, |span| span.start);
        Fault::at(&self.file, &self.text, offset, error.message().replace('\n', " "))
    }

    fn line(&self, offset: usize) -> usize {
        Fault::at("", &self.text, offset, "").line
    }

    /// Notes a fault at a place in the text.
    pub(super) fn fault_at(&mut self, offset: usize, message: impl Into<String>) {
        let fault = Fault::at(&self.file, &self.text, offset, message);
        self.faults.push(fault);
    }

    /// Notes a fault of the section at `line`.
    pub(super) fn fault(&mut self, line: usize, message: impl Into<String>) {
        self.faults.push(Fault { file: self.file.clone(), line, message: message.into() });
    }

    /// The text of the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A path of the file: relative ones begin at the file's own directory.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.dir.join(path)
    }

    /// The content of a file that the section at `line` names.
    pub(super) fn read(&mut self, line: usize, path: &Path) -> Option<Vec<u8>> {
        let path = self.path(path);
        match read_bounded(&path) {
            Ok(text) => Some(text.into_bytes()),
            Err(error) => {
                self.fault(line, format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }
}
