//! `audit tail` and `audit verify`.

use std::{io::Write, path::Path};

use serde::Serialize;
use serde_json::Value;

use super::{
    args::{DEFAULT_TAIL, TextFormat},
    exit::{Exit, Outcome},
    output,
};
use crate::client::{
    Client, TailFrom,
    error::{Error, Kind, Result},
    settings::plain,
    text::one_line,
    types::Record,
};

/// The JSON of a log that is whole.
#[derive(Debug, Serialize)]
struct Verified {
    records: u64,
    segments: u64,
    /// The newest record's number and hash: who keeps them elsewhere can tell later that nothing was cut off.
    last_seq: u64,
    last_hash: String,
    /// Bytes at the end of a live log that are no whole record yet.
    unfinished_bytes: u64,
}

/// `audit tail`.
pub async fn tail(
    client: &mut Client,
    follow: bool,
    last: Option<u32>,
    after_seq: Option<u64>,
    format: TextFormat,
    out: &mut dyn Write,
) -> Outcome {
    let from = match (last, after_seq) {
        (Some(last), _) => TailFrom::Last(last),
        (None, Some(seq)) => TailFrom::After(seq),
        (None, None) => TailFrom::Last(DEFAULT_TAIL),
    };
    let mut records = client.tail(from, follow).await?;
    while let Some(record) = records.next().await? {
        match format {
            TextFormat::Text => writeln!(out, "{}", line(&record))?,
            TextFormat::Json => writeln!(out, "{}", record.json)?,
        }
        if follow {
            out.flush()?;
        }
    }
    Ok(Exit::Done)
}

/// `audit verify`.
pub fn verify(path: &Path, format: TextFormat, out: &mut dyn Write) -> Outcome {
    std::fs::metadata(path).map_err(|error| Error::usage(format!("{} cannot be read: {}", path.display(), plain(&error))))?;
    let verified = check(path)?;
    match format {
        TextFormat::Text => {
            let Verified { records, segments, last_seq, last_hash, unfinished_bytes } = verified;
            writeln!(out, "whole: {records} records in {segments} files; the last is {last_seq}, with hash {}", one_line(&last_hash))?;
            if unfinished_bytes > 0 {
                writeln!(out, "{unfinished_bytes} bytes at the end are no whole record yet")?;
            }
        }
        TextFormat::Json => output::json(out, &verified)?,
    }
    Ok(Exit::Done)
}

/// The one place that calls the verifier.
fn check(path: &Path) -> Result<Verified> {
    let told = |broken: crate::audit::verify::Broken| {
        Error::new(Kind::Other, "AUDIT_BROKEN", format!("the audit log is not whole: {}", one_line(&broken.to_string())))
    };
    let whole = crate::audit::verify::verify(path).map_err(told)?;
    Ok(Verified {
        records: whole.records,
        segments: whole.segments,
        last_seq: whole.last_seq,
        last_hash: whole.last_hash,
        unfinished_bytes: whole.unfinished_bytes,
    })
}

/// A record on one line: when, what, how it ended, who, which role and lease.
fn line(record: &Record) -> String {
    let json: Value = serde_json::from_str(&record.json).unwrap_or(Value::Null);
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).map(one_line);
    let mut line = format!("{} {}", record.seq, text("/time").unwrap_or_else(|| "-".to_owned()));
    for (name, pointer) in [
        ("", "/method"),
        ("", "/outcome"),
        ("", "/reason"),
        ("actor=", "/actor/subject"),
        ("tenant=", "/tenant"),
        ("role=", "/role"),
        ("lease=", "/lease_id"),
        ("from=", "/peer_address"),
    ] {
        if let Some(value) = text(pointer) {
            line.push_str(&format!(" {name}{value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_as_text_is_one_line_without_escapes() {
        let json = r#"{"time":"2026-01-31T12:00:00Z","method":"CredentialService/Issue","outcome":"denied","reason":"DENIED","actor":{"subject":"a\u001b[2Jb"},"role":"web","seq":7}"#;
        let shown = line(&Record { seq: 7, json: json.to_owned() });
        assert_eq!(shown, "7 2026-01-31T12:00:00Z CredentialService/Issue denied DENIED actor=a\u{fffd}[2Jb role=web");
    }

    #[test]
    fn a_path_that_is_not_there_is_usage() {
        let stop = verify(Path::new("/nonexistent/audit"), TextFormat::Text, &mut Vec::new()).unwrap_err();
        let super::super::exit::Stop::Error(error) = stop else { panic!("an error is to be told") };
        assert_eq!(error.kind(), Kind::Usage);
    }
}
