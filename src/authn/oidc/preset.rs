//! What is known of the usual issuers: their claims as their documentation lists them, with the types that their tokens
//! really have.

use super::{Algorithm, IssuerConfig};
use crate::model::{
    claim::{ClaimSpec, ClaimType},
    identity::TokenUse,
    name::IssuerName,
};
use ClaimType::{Boolean, Integer, String as Text, Strings};

/// The presets' names.
pub const PRESETS: [&str; 5] = ["github", "gitlab", "kubernetes", "buildkite", "circleci"];

/// What is known of an issuer's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// Its name, one of [`PRESETS`].
    pub name: &'static str,
    /// The usual `iss`; absent where each organisation or cluster has its own.
    pub url: Option<&'static str>,
    /// The form of `url` where it must be given.
    pub url_form: &'static str,
    /// The algorithms that it signs with.
    pub algorithms: Vec<Algorithm>,
    /// How often a token may be used, unless configured otherwise.
    pub token_use: TokenUse,
    /// Whether its tokens always have a `jti`.
    pub jti_required: bool,
    /// Its claims, but for the registered ones.
    pub claims: Vec<ClaimSpec>,
}

impl Preset {
    /// An issuer of this kind, with the default bounds.
    ///
    /// # Errors
    /// A text for the operator when neither `url` nor the preset has a URL.
    pub fn config(&self, name: IssuerName, url: Option<String>, audiences: Vec<String>) -> Result<IssuerConfig, String> {
        let url = url
            .or_else(|| self.url.map(str::to_owned))
            .ok_or_else(|| format!("the preset {} has no default url: give the issuer's own, {}", self.name, self.url_form))?;
        let mut config = IssuerConfig::new(name, url, audiences, self.algorithms.clone());
        config.claims = self.claims.clone();
        config.token_use = self.token_use;
        config.jti_required = self.jti_required;
        Ok(config)
    }
}

/// The preset of a name.
pub fn preset(name: &str) -> Option<Preset> {
    match name {
        "github" => Some(github()),
        "gitlab" => Some(gitlab()),
        "kubernetes" => Some(kubernetes()),
        "buildkite" => Some(buildkite()),
        "circleci" => Some(circleci()),
        _ => None,
    }
}

/// GitHub Actions. Every claim is a string, numbers and `ref_protected` included. `repo_property_*` claims are the
/// organisation's own; add them to the configuration.
fn github() -> Preset {
    let required = [
        "repository",
        "repository_id",
        "repository_owner",
        "repository_owner_id",
        "repository_visibility",
        "ref",
        "event_name",
        "run_id",
        "runner_environment",
    ];
    let optional = [
        "actor",
        "actor_id",
        "base_ref",
        "check_run_id",
        "enterprise",
        "enterprise_id",
        "environment",
        "head_ref",
        "job_workflow_ref",
        "job_workflow_sha",
        "ref_protected",
        "ref_type",
        "run_attempt",
        "run_number",
        "sha",
        "workflow",
        "workflow_ref",
        "workflow_sha",
    ];
    Preset {
        name: "github",
        url: Some("https://token.actions.githubusercontent.com"),
        url_form: "https://HOST/_services/token on GitHub Enterprise Server",
        algorithms: vec![Algorithm::Rs256],
        token_use: TokenUse::OncePerRole,
        jti_required: true,
        claims: required.map(|name| top(name, Text, true)).into_iter().chain(optional.map(|name| top(name, Text, false))).collect(),
    }
}

/// GitLab CI. `ref_protected` and `environment_protected` are the strings "true" and "false", ids are strings, and
/// `runner_id` is a number. `ci_config_*` is null when the pipeline's definition lies elsewhere.
fn gitlab() -> Preset {
    let required = [
        "namespace_id",
        "namespace_path",
        "project_id",
        "project_path",
        "pipeline_id",
        "pipeline_source",
        "job_id",
        "ref",
        "ref_type",
        "ref_path",
        "ref_protected",
    ];
    let optional = [
        "user_id",
        "user_login",
        "user_email",
        "user_access_level",
        "environment",
        "environment_protected",
        "environment_action",
        "deployment_tier",
        "runner_environment",
        "sha",
        "ci_config_ref_uri",
        "ci_config_sha",
        "project_visibility",
        "job_project_id",
        "job_project_path",
        "job_namespace_id",
        "job_namespace_path",
        "job_source",
    ];
    Preset {
        name: "gitlab",
        url: Some("https://gitlab.com"),
        url_form: "https://HOST of a GitLab of your own",
        algorithms: vec![Algorithm::Rs256],
        token_use: TokenUse::OncePerRole,
        jti_required: true,
        claims: required
            .map(|name| top(name, Text, true))
            .into_iter()
            .chain(optional.map(|name| top(name, Text, false)))
            .chain([
                top("runner_id", Integer, false),
                top("groups_direct", Strings, false),
                nested("job_config_url", &["job_config", "url"], Text, false),
                nested("job_config_sha", &["job_config", "sha"], Text, false),
            ])
            .collect(),
    }
}

/// Kubernetes' service account tokens, bound to pod, node or secret. A projected token is used until the kubelet rotates
/// it, so it may be used any number of times; `jti` is there from 1.29 on.
fn kubernetes() -> Preset {
    let bound = |name: &str, path: [&str; 2], required| nested(name, &["kubernetes.io", path[0], path[1]], Text, required);
    Preset {
        name: "kubernetes",
        url: None,
        url_form: "the cluster's --service-account-issuer, see kubectl get --raw /.well-known/openid-configuration",
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384],
        token_use: TokenUse::Any,
        jti_required: false,
        claims: vec![
            nested("namespace", &["kubernetes.io", "namespace"], Text, true),
            bound("serviceaccount_name", ["serviceaccount", "name"], true),
            bound("serviceaccount_uid", ["serviceaccount", "uid"], true),
            bound("pod_name", ["pod", "name"], false),
            bound("pod_uid", ["pod", "uid"], false),
            bound("node_name", ["node", "name"], false),
            bound("node_uid", ["node", "uid"], false),
            bound("secret_name", ["secret", "name"], false),
            bound("secret_uid", ["secret", "uid"], false),
            nested("warnafter", &["kubernetes.io", "warnafter"], Integer, false),
        ],
    }
}

/// Buildkite. `pipeline_id` is in a token only when the job asks for it: `buildkite-agent oidc request-token --claim
/// pipeline_id`. `step_key` is null when the step has none; there is no `jti`.
fn buildkite() -> Preset {
    let required = ["organization_slug", "pipeline_slug", "pipeline_id", "build_branch", "build_commit", "job_id", "agent_id"];
    let optional = [
        "organization_id",
        "build_id",
        "build_tag",
        "step_key",
        "build_source",
        "runner_environment",
        "cluster_id",
        "cluster_name",
        "queue_id",
        "queue_key",
    ];
    Preset {
        name: "buildkite",
        url: Some("https://agent.buildkite.com"),
        url_form: "https://agent.buildkite.com",
        algorithms: vec![Algorithm::Rs256],
        token_use: TokenUse::OncePerRole,
        jti_required: false,
        claims: required
            .map(|name| top(name, Text, true))
            .into_iter()
            .chain([top("build_number", Integer, true)])
            .chain(optional.map(|name| top(name, Text, false)))
            .collect(),
    }
}

/// CircleCI. Each organisation is an issuer of its own; claims are named like URLs. `vcs_*` are absent for pipelines of
/// custom webhooks.
fn circleci() -> Preset {
    let claim = |name: &str, own: &str, ty, required| nested(name, &[&format!("oidc.circleci.com/{own}")], ty, required);
    Preset {
        name: "circleci",
        url: None,
        url_form: "https://oidc.circleci.com/org/ORGANIZATION_ID",
        algorithms: vec![Algorithm::Rs256],
        token_use: TokenUse::OncePerRole,
        jti_required: false,
        claims: vec![
            claim("project_id", "project-id", Text, true),
            claim("org_id", "org-id", Text, false),
            claim("pipeline_id", "pipeline-id", Text, false),
            claim("pipeline_definition_id", "pipeline-definition-id", Text, false),
            claim("workflow_id", "workflow-id", Text, false),
            claim("job_id", "job-id", Text, false),
            claim("vcs_origin", "vcs-origin", Text, false),
            claim("vcs_ref", "vcs-ref", Text, false),
            claim("context_ids", "context-ids", Strings, false),
            claim("ssh_rerun", "ssh-rerun", Boolean, false),
        ],
    }
}

fn top(name: &str, ty: ClaimType, required: bool) -> ClaimSpec {
    nested(name, &[name], ty, required)
}

fn nested(name: &str, path: &[&str], ty: ClaimType, required: bool) -> ClaimSpec {
    ClaimSpec { name: name.to_owned(), path: path.iter().map(|part| (*part).to_owned()).collect(), ty, required }
}
