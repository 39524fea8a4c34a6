//! The identity that a CI job, or a pod, has from where it runs: found by the environment, asked for when it is needed.

pub(super) mod command;
pub(super) mod github;

use std::{fmt, path::PathBuf, str::FromStr};

use self::{command::Command, github::TokenRequest};
use super::{
    error::{Error, Result},
    settings::{Env, variable},
    token::{TokenSource, claims, no_identity},
};
pub use crate::model::request::MAX_AUDIENCE;

/// The audience that tokens are asked for when nothing else is said. Never a CI system's own default: a token for that would be good
/// elsewhere too.
pub const DEFAULT_AUDIENCE: &str = "daypass";

/// The variable that a GitLab job names its ID token by (`id_tokens:`).
pub const GITLAB_VARIABLE: &str = "DAYPASS_ID_TOKEN";

/// Where a pod's service account token for us is projected to when nothing else is said.
pub const KUBERNETES_FILE: &str = "/var/run/secrets/tokens/daypass";

/// Names another file.
pub const KUBERNETES_FILE_VARIABLE: &str = "DAYPASS_KUBERNETES_TOKEN_FILE";

/// Which identity to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Identity {
    /// That of where we run, when no certificate and no token is set.
    #[default]
    Auto,
    /// None but what is set.
    None,
    /// This one, and no other token.
    Of(Platform),
}

/// Who knows a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// GitHub Actions, and what speaks like it.
    Github,
    /// GitLab CI.
    Gitlab,
    /// Buildkite.
    Buildkite,
    /// CircleCI.
    Circleci,
    /// A Kubernetes pod.
    Kubernetes,
}

const PLATFORMS: [Platform; 5] = [Platform::Github, Platform::Gitlab, Platform::Buildkite, Platform::Circleci, Platform::Kubernetes];

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            text => PLATFORMS
                .into_iter()
                .find(|platform| platform.as_str() == text)
                .map(Self::Of)
                .ok_or_else(|| "write auto, github, gitlab, buildkite, circleci, kubernetes or none".to_owned()),
        }
    }
}

impl Identity {
    /// As flags and variables write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Of(platform) => platform.as_str(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Github => "GitHub Actions",
            Self::Gitlab => "GitLab CI",
            Self::Buildkite => "Buildkite",
            Self::Circleci => "CircleCI",
            Self::Kubernetes => "Kubernetes",
        })
    }
}

impl Platform {
    fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Buildkite => "buildkite",
            Self::Circleci => "circleci",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// Where we run, as the environment says. CI systems come first: their runners often are pods.
    fn here(env: Env<'_>) -> Option<Self> {
        let is_true = |name| variable(name, env).is_some_and(|value| value == "true" || value == "1");
        PLATFORMS.into_iter().find(|platform| match platform {
            Self::Github => is_true("GITHUB_ACTIONS") || variable("ACTIONS_ID_TOKEN_REQUEST_URL", env).is_some(),
            Self::Gitlab => is_true("GITLAB_CI"),
            Self::Buildkite => is_true("BUILDKITE"),
            Self::Circleci => is_true("CIRCLECI"),
            Self::Kubernetes => variable("KUBERNETES_SERVICE_HOST", env).is_some(),
        })
    }

    fn source(self, audience: &str, env: Env<'_>) -> Result<TokenSource> {
        let name = format!("{self} (audience {audience})");
        match self {
            Self::Github => TokenRequest::from_env(audience, env).map(|request| TokenSource::github(name, request)),
            Self::Gitlab => gitlab(audience, env),
            Self::Buildkite => {
                let words = ["oidc", "request-token", "--audience", audience];
                Ok(TokenSource::command(name, Command::new("buildkite-agent", words, job(&["BUILDKITE_JOB_ID"], env))))
            }
            Self::Circleci => circleci(name, audience, env),
            Self::Kubernetes => kubernetes(audience, env),
        }
    }
}

/// The identity of where we run; none when we run nowhere that we know.
///
/// # Errors
/// Not authenticated (`NO_IDENTITY`), when the platform is known and has no identity for us, with what to set.
pub(crate) fn find(wanted: Identity, audience: &str, env: Env<'_>) -> Result<Option<TokenSource>> {
    let platform = match wanted {
        Identity::None => None,
        Identity::Of(platform) => Some(platform),
        Identity::Auto => Platform::here(env),
    };
    platform.map(|platform| platform.source(audience, env)).transpose()
}

/// An audience as a flag or a variable may say it.
///
/// # Errors
/// What it must be.
pub fn audience(text: &str) -> Result<String, String> {
    match text.len() <= MAX_AUDIENCE && !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(format!("it must be 1 to {MAX_AUDIENCE} printable ASCII characters, none a space")),
    }
}

/// `id_tokens:` puts the token of the whole job into a variable that the job names.
fn gitlab(audience: &str, env: Env<'_>) -> Result<TokenSource> {
    let Some(token) = variable(GITLAB_VARIABLE, env) else {
        return Err(no_identity(format!(
            "this GitLab job has no identity: add `id_tokens: {{{GITLAB_VARIABLE}: {{aud: {audience}}}}}` to the job"
        )));
    };
    let token = zeroize::Zeroizing::new(token.into_string().unwrap_or_default());
    TokenSource::fixed(format!("{} ({GITLAB_VARIABLE})", Platform::Gitlab), &token)
}

/// The token in the job's environment has the organization's id as its audience: it is used only where that is the wanted one.
fn circleci(name: String, audience: &str, env: Env<'_>) -> Result<TokenSource> {
    const VARIABLE: &str = "CIRCLE_OIDC_TOKEN_V2";
    if let Some(token) = variable(VARIABLE, env).and_then(|token| token.into_string().ok()) {
        let token = zeroize::Zeroizing::new(token);
        if is_for(&token, audience) {
            return TokenSource::fixed(format!("{} ({VARIABLE})", Platform::Circleci), &token);
        }
    }
    let wanted = serde_json::json!({ "aud": audience }).to_string();
    let words = ["run", "oidc", "get", "--claims", wanted.as_str()];
    Ok(TokenSource::command(name, Command::new("circleci", words, job(&["CIRCLE_WORKFLOW_JOB_ID", "CIRCLE_JOB"], env))))
}

/// A projected token, whose audience the pod's manifest says. The token that every pod has by default is for the cluster's own API
/// server, and is never sent anywhere.
fn kubernetes(audience: &str, env: Env<'_>) -> Result<TokenSource> {
    let named = variable(KUBERNETES_FILE_VARIABLE, env).map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| KUBERNETES_FILE.into());
    if named.is_none() && !path.exists() {
        return Err(no_identity(format!(
            "this pod has no identity for daypass: project a serviceAccountToken with `audience: {audience}` to {KUBERNETES_FILE}, or set \
             DAYPASS_TOKEN_FILE (the default service account token is for the API server, and is not used)"
        )));
    }
    TokenSource::file(format!("{} ({})", Platform::Kubernetes, path.display()), path)
        .map_err(|error| Error::new(error.kind(), "NO_IDENTITY", error.message().to_owned()))
}

/// Whether a token is for an audience, which may be a string or an array (RFC 7519, section 4.1.3).
fn is_for(token: &str, audience: &str) -> bool {
    let Some(claims) = claims(token) else { return false };
    match claims.get("aud") {
        Some(serde_json::Value::String(one)) => one == audience,
        Some(serde_json::Value::Array(all)) => all.iter().any(|one| one == audience),
        _ => false,
    }
}

/// What tells this job from others.
fn job(names: &[&str], env: Env<'_>) -> Vec<String> {
    names.iter().map(|name| variable(name, env).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests;
