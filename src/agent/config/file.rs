//! Reads the file: every section on its own, so that one fault does not hide the next.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    Config,
    build::build,
    sections::{HealthSection, IdentitySection, LogSection, RoleSection, ServerSection},
};
use crate::{
    agent::sockets::SocketsSection,
    client::settings::read_bounded,
    model::fault::{Fault, nearest},
};

/// The sections that there are.
const KNOWN: [&str; 7] = ["state_dir", "server", "identity", "log", "health", "role", "sockets"];

/// A section with the line at which it begins.
pub(super) struct At<T> {
    pub line: usize,
    pub value: T,
}

/// What the file holds, as far as its form is right.
#[derive(Default)]
pub(super) struct Draft {
    /// The sections that are written, right or wrong.
    pub seen: Vec<String>,
    pub state_dir: Option<At<PathBuf>>,
    pub server: Option<At<ServerSection>>,
    pub identity: Option<At<IdentitySection>>,
    pub log: Option<At<LogSection>>,
    pub health: Option<At<HealthSection>>,
    pub roles: Vec<At<RoleSection>>,
    pub sockets: Option<At<SocketsSection>>,
}

/// The file while it is read, and what is wrong with it so far.
pub(super) struct Reader {
    file: String,
    /// Where relative paths begin.
    pub dir: PathBuf,
    text: String,
    faults: Vec<Fault>,
}

/// Reads and checks a file.
///
/// # Errors
/// Every fault, in the order of its lines.
pub(super) fn load(path: &Path) -> Result<Config, Vec<Fault>> {
    let file = path.display().to_string();
    let alone = |message: String| vec![Fault { file: file.clone(), line: 0, message }];
    let bytes = read_bounded(path).map_err(|why| alone(format!("cannot be read: {why}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| alone("is not UTF-8 text".to_owned()))?.to_owned();
    let absolute = std::path::absolute(path).map_err(|error| alone(error.to_string()))?;
    let dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let mut reader = Reader { file, dir, text: text.clone(), faults: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        reader.error(error, 0);
    }
    if !errors.is_empty() {
        return Err(reader.faults);
    }
    let draft = reader.sections(root.into_inner());
    let config = build(&mut reader, draft);
    reader.faults.sort_by_key(|fault| fault.line);
    match config {
        Some(config) if reader.faults.is_empty() => Ok(config),
        _ => Err(reader.faults),
    }
}

impl Reader {
    fn sections(&mut self, root: DeTable<'_>) -> Draft {
        let mut draft = Draft::default();
        for (key, value) in root {
            let offset = key.span().start;
            draft.seen.push(key.get_ref().to_string());
            match key.into_inner().as_ref() {
                "state_dir" => draft.state_dir = self.section(value),
                "server" => draft.server = self.section(value),
                "identity" => draft.identity = self.section(value),
                "log" => draft.log = self.section(value),
                "health" => draft.health = self.section(value),
                "role" => draft.roles = self.roles(value),
                "sockets" => draft.sockets = self.section(value),
                unknown => {
                    let hint = nearest(unknown, KNOWN).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                    let line = self.line(offset);
                    self.fault(line, format!("unknown key {unknown}{hint}"));
                }
            }
        }
        draft
    }

    fn roles(&mut self, value: Spanned<DeValue<'_>>) -> Vec<At<RoleSection>> {
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Array(entries) => entries.into_iter().filter_map(|entry| self.section(entry)).collect(),
            _ => {
                let line = self.line(start);
                self.fault(line, "write [[role]], with double brackets: there can be several");
                Vec::new()
            }
        }
    }

    fn section<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>) -> Option<At<T>> {
        let start = value.span().start;
        let line = self.line(start);
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(At { line, value }),
            Err(error) => {
                self.error(&error, start);
                None
            }
        }
    }

    fn error(&mut self, error: &toml::de::Error, fallback: usize) {
        let line = self.line(error.span().map_or(fallback, |span| span.start));
        self.fault(line, error.message().replace('\n', " "));
    }

    fn line(&self, offset: usize) -> usize {
        Fault::at("", &self.text, offset, "").line
    }

    /// Notes a fault at a line; 0 when it has no place.
    pub(super) fn fault(&mut self, line: usize, message: impl Into<String>) {
        self.faults.push(Fault { file: self.file.clone(), line, message: message.into() });
    }
}
