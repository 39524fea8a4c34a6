//! The throwaway role at an AWS endpoint that is not the real one, and `deploy`, which vends its sessions.

use std::{env, fs, path::Path, time::Duration};

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

const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"]}]}"#;
const PERMISSIONS: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;

/// How long the endpoint may take to answer, and how often it is asked until it does.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN_EVERY: Duration = Duration::from_secs(2);

/// Adds the way into AWS, the role `deploy` and its policies, or points what is there at this endpoint. Answers the way.
pub(super) async fn make(dir: &Path, endpoint: &Url) -> Result<AwsConfig> {
    let way = way(dir, endpoint)?;
    let faults = way.faults();
    if !faults.is_empty() {
        return Err(Error::new(Code::InvalidRequest, format!("--aws-endpoint: {}", faults.join("; "))));
    }
    let account = account(&way).await.unwrap_or_else(|_| USUAL_ACCOUNT.to_owned());
    configure(dir, &way, &format!("arn:aws:iam::{account}:role/{IAM_ROLE}"))?;
    let path = dir.join("policy.cedar");
    let policy = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
    if !policy.contains("Role::\"deploy\"") {
        write(&path, (policy + POLICY).as_bytes(), 0o644)?;
    }
    Ok(way)
}

/// Makes the IAM role, as soon as the endpoint answers.
pub(super) async fn keep_role(way: AwsConfig) {
    let role = ThrowawayRole { name: IAM_ROLE, trust: TRUST, policy: PERMISSIONS };
    let mut tick = ticker(AGAIN_EVERY);
    let mut told = false;
    loop {
        tick.tick().await;
        match ensure_role(&way, &role).await {
            Ok(()) => return tracing::info!(role = IAM_ROLE, "the IAM role of the role deploy is there"),
            Err(error) if !told => tracing::warn!(%error, role = IAM_ROLE, "the IAM role of the role deploy could not be made; trying on"),
            Err(_) => {}
        }
        told = true;
    }
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

fn configure(dir: &Path, way: &AwsConfig, role_arn: &str) -> Result<()> {
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
        table["role_arn"] = value(role_arn);
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
