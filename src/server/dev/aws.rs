//! The throwaway role at an AWS endpoint that is not the real one, and `deploy`, which vends its sessions.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};
use url::Url;

use super::{at, make_dir, write, write_new};
use crate::{
    background::ticker,
    issuer::aws::{
        AwsConfig, AwsIdentity,
        bootstrap::{ThrowawayRole, account, ensure_role},
    },
    model::error::{Code, Error, Result},
};

const TEMPLATE: &str = include_str!("aws.toml");
const POLICY: &str = include_str!("policy_aws.cedar");

/// The `[[aws]]` and the `[[role]]` of the template.
const WAY: &str = "dev";
const ROLE: &str = "deploy";

/// The IAM role that is made at the endpoint.
const IAM_ROLE: &str = "daypass-dev-deploy";

/// The account of most stand-ins, where the endpoint does not answer yet.
const USUAL_ACCOUNT: &str = "000000000000";

/// Where the key lies that stand-ins take, in place of an identity of the environment.
const CREDENTIALS: &str = "aws/credentials";

/// Names of AWS' own endpoints end so.
const AWS_ITSELF: [&str; 4] = ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "api.aws"];

const PERMISSIONS: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;

/// How long the endpoint may take to answer, and how often it is asked until it does.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN_EVERY: Duration = Duration::from_secs(2);

/// Adds the way into AWS, the role `deploy` and its policies, or points what is there at this endpoint. Answers the way, for
/// [`keep_role`], and its endpoint.
pub(super) async fn make(dir: &Path, endpoint: &Url) -> Result<Made> {
    not_aws_itself(endpoint)?;
    let way = way(dir, endpoint)?;
    let faults = way.faults();
    if !faults.is_empty() {
        return Err(Error::new(Code::InvalidRequest, format!("--aws-endpoint: {}", faults.join("; "))));
    }
    configure(dir, &way, None)?;
    let path = dir.join("policy.cedar");
    let policy = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
    if !policy.contains("Role::\"deploy\"") {
        write(&path, (policy + POLICY).as_bytes(), 0o644)?;
    }
    // Nobody should be told to use the role before it is there, when that takes but a moment.
    let lacks_role = make_role(dir, &way).await.is_err();
    Ok(Made { way, lacks_role })
}

/// A way into AWS.
pub(super) struct Made {
    pub way: AwsConfig,
    /// Whether the IAM role could not be made yet.
    pub lacks_role: bool,
}

/// Makes the IAM role, as soon as the endpoint answers.
pub(super) async fn keep_role(dir: PathBuf, way: AwsConfig) {
    let mut tick = ticker(AGAIN_EVERY);
    let mut told = false;
    loop {
        tick.tick().await;
        match make_role(&dir, &way).await {
            Ok(()) => return tracing::info!(role = IAM_ROLE, "the IAM role of the role deploy is there"),
            Err(error) if !told => tracing::warn!(%error, role = IAM_ROLE, "the IAM role of the role deploy could not be made; trying on"),
            Err(_) => {}
        }
        told = true;
    }
}

/// Makes the IAM role, and names it in the configuration: only the endpoint knows in which account it is.
async fn make_role(dir: &Path, way: &AwsConfig) -> Result<()> {
    let account = account(way).await?;
    ensure_role(way, &ThrowawayRole { name: IAM_ROLE, trust: &trust(&account), policy: PERMISSIONS }).await?;
    configure(dir, way, Some(&account))
}

/// Whoever the account itself lets assume it: nobody else's account, whatever the endpoint turns out to be.
fn trust(account: &str) -> String {
    json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{account}:root")},
        "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
    }]})
    .to_string()
}

/// A throwaway role that may do all of S3 has no place in a real account.
fn not_aws_itself(endpoint: &Url) -> Result<()> {
    let host = endpoint.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let is_aws = AWS_ITSELF.iter().any(|suffix| host.strip_suffix(suffix).is_some_and(|front| front.is_empty() || front.ends_with('.')));
    if is_aws {
        let text = "--aws-endpoint is for stand-ins: at AWS itself a role that may do all of S3 would be made; configure [[aws]] and a role there, and use daypassd serve";
        return Err(Error::new(Code::InvalidRequest, text));
    }
    Ok(())
}

fn way(dir: &Path, endpoint: &Url) -> Result<AwsConfig> {
    let mut way = AwsConfig::new(WAY.parse().map_err(Error::internal)?, "us-east-1");
    way.endpoint = Some(endpoint.as_str().trim_end_matches('/').to_owned());
    way.timeout = PATIENCE;
    if !has_own_identity() {
        make_dir(&dir.join("aws"))?;
        let file = dir.join(CREDENTIALS);
        write_new(
            &file,
            b"# What stand-ins for AWS take for root.\n[default]\naws_access_key_id = test\naws_secret_access_key = test\n",
            0o600,
        )?;
        way.identity = AwsIdentity::CredentialsFile(file);
    }
    Ok(way)
}

/// Whether who started us brought an identity for AWS.
fn has_own_identity() -> bool {
    ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Writes the way and the role into the configuration; with no account the role keeps the one that it has.
fn configure(dir: &Path, way: &AwsConfig, account: Option<&str>) -> Result<()> {
    let path = dir.join("daypass.toml");
    let before = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
    let refuse = |error: toml_edit::TomlError| Error::new(Code::InvalidRequest, format!("{}: {error}", path.display()));
    let mut document: DocumentMut = before.parse().map_err(refuse)?;
    if named(&mut document, "aws", WAY).is_none() {
        let text = if named(&mut document, "role", ROLE).is_none() {
            TEMPLATE
        } else {
            TEMPLATE.split("\n# An AWS session").next().unwrap_or(TEMPLATE)
        };
        document = (before.clone() + text).parse().map_err(refuse)?;
    }
    if let Some(table) = named(&mut document, "aws", WAY) {
        table["endpoint"] = value(way.endpoint.clone().unwrap_or_default());
        match way.identity {
            AwsIdentity::CredentialsFile(_) => {
                table["identity"] = Item::Value(Value::InlineTable(InlineTable::from_iter([("credentials_file", CREDENTIALS)])));
            }
            _ => drop(table.remove("identity")),
        }
    }
    if let Some(table) = named(&mut document, "role", ROLE).filter(|table| table.get("aws").and_then(Item::as_str) == Some(WAY)) {
        let is_new = table.get("role_arn").and_then(Item::as_str).is_none_or(str::is_empty);
        if let Some(account) = account.or(is_new.then_some(USUAL_ACCOUNT)) {
            table["role_arn"] = value(format!("arn:aws:iam::{account}:role/{IAM_ROLE}"));
        }
    }
    let after = document.to_string();
    if after != before {
        write(&path, after.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The table of a name among those of a section.
fn named<'a>(document: &'a mut DocumentMut, section: &str, name: &str) -> Option<&'a mut Table> {
    let tables: &mut ArrayOfTables = document.get_mut(section)?.as_array_of_tables_mut()?;
    tables.iter_mut().find(|table| table.get("name").and_then(Item::as_str) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_itself_is_refused() {
        let refused = |url: &str| not_aws_itself(&Url::parse(url).unwrap()).is_err();
        for aws in [
            "https://sts.amazonaws.com",
            "https://STS.eu-central-1.amazonaws.com./",
            "https://sts.cn-north-1.amazonaws.com.cn",
            "https://iam.global.api.aws",
            "https://amazonaws.com",
        ] {
            assert!(refused(aws), "{aws}");
        }
        for other in ["http://127.0.0.1:4566", "http://localhost:4566", "http://[::1]:1", "https://notamazonaws.com", "https://aws.example"]
        {
            assert!(!refused(other), "{other}");
        }
    }
}
