//! `kind = "aws"` and `kind = "ecr"`

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    issuer::{
        aws::{Asked, AwsReport, check_role},
        x509::RoleReport,
    },
    model::{
        catalog::Catalog,
        name::AwsName,
        policy_template::PolicyTemplate,
        role::{AwsMode, AwsOverflow, AwsRevocation, AwsRole, Role, RoleSpec},
        template::{Place, Template},
    },
    server::config::{
        build::{Configured, hint},
        file::{At, Reader},
        sections::RoleSection,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct AwsRoleSection {
    pub aws: AwsName,
    pub role_arn: String,
    #[serde(default)]
    pub mode: ModeName,
    #[serde(default)]
    pub audience: Option<String>,
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub session_name: Option<String>,
    #[serde(default)]
    pub session_policy: Option<String>,
    #[serde(default)]
    pub policy_arns: Vec<String>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub transitive_tags: Vec<String>,
    #[serde(default)]
    pub source_identity: Option<String>,
    #[serde(default)]
    pub external_id: Option<String>,
    #[serde(default = "by_tag")]
    pub revocation: AwsRevocation,
    #[serde(default)]
    pub overflow: AwsOverflow,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::server::config) enum ModeName {
    #[default]
    AssumeRole,
    WebIdentity,
}

/// The session's name when none is configured: it says whose it is in CloudTrail, and works with every way of revocation.
const SESSION_NAME: &str = "daypass-{lease}";

/// The JWT's subject when none is configured.
const SUBJECT: &str = "{tenant}/{role}";

fn by_tag() -> AwsRevocation {
    AwsRevocation::SessionTag
}

impl Reader {
    pub(super) fn aws_role(
        &mut self,
        role: &At<RoleSection>,
        section: &AwsRoleSection,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<AwsRole> {
        let (line, name) = (role.line, &role.value.name);
        if configured.way(&section.aws).is_none() {
            let known = configured.aws.iter().map(|way| way.name.as_str());
            self.fault(line, format!("role {name}: there is no aws {}{}", section.aws, hint(section.aws.as_str(), known)));
        }
        self.aws_spec(role, section, catalog)
    }

    fn aws_spec(&mut self, role: &At<RoleSection>, section: &AwsRoleSection, catalog: &Catalog) -> Option<AwsRole> {
        let before = self.faults.len();
        let mut text = |place, source: &str| self.aws_text(role, place, source, catalog);
        let source_identity = section.source_identity.as_ref().and_then(|source| text(Place::SessionName, source));
        let external_id = section.external_id.as_ref().and_then(|source| text(Place::ExternalId, source));
        let session_name = text(Place::SessionName, section.session_name.as_deref().unwrap_or(SESSION_NAME));
        let tags = section.tags.iter().filter_map(|(key, source)| Some((key.clone(), text(Place::TagValue, source)?))).collect();
        let session_policy = section.session_policy.as_ref().and_then(|source| self.session_policy(role, source, catalog));
        let mode = self.aws_mode(role, section, catalog);
        (self.faults.len() == before).then_some(())?;
        Some(AwsRole {
            aws: section.aws.clone(),
            role_arn: section.role_arn.clone(),
            mode: mode?,
            session_name: session_name?,
            session_policy,
            policy_arns: section.policy_arns.clone(),
            tags,
            transitive_tags: section.transitive_tags.clone(),
            source_identity,
            external_id,
            revocation: section.revocation,
            overflow: section.overflow,
        })
    }

    fn aws_mode(&mut self, role: &At<RoleSection>, section: &AwsRoleSection, catalog: &Catalog) -> Option<AwsMode> {
        let (line, name) = (role.line, &role.value.name);
        match (section.mode, &section.audience) {
            (ModeName::AssumeRole, None) if section.subject.is_none() => Some(AwsMode::AssumeRole),
            (ModeName::AssumeRole, _) => {
                self.fault(line, format!("role {name}: audience and subject belong to mode = \"web_identity\""));
                None
            }
            (ModeName::WebIdentity, Some(audience)) if !audience.is_empty() => {
                let subject = self.aws_text(role, Place::ClaimText, section.subject.as_deref().unwrap_or(SUBJECT), catalog)?;
                Some(AwsMode::WebIdentity { audience: audience.clone(), subject })
            }
            (ModeName::WebIdentity, _) => {
                self.fault(line, format!("role {name}: mode web_identity needs an audience, as AWS' OIDC provider has it"));
                None
            }
        }
    }

    /// A template whose values cannot run together where it stands.
    fn aws_text(&mut self, role: &At<RoleSection>, place: Place, source: &str, catalog: &Catalog) -> Option<Template> {
        let template = self.template(role, source, catalog)?;
        let apart = Template::parse_for(place, source);
        apart.map_err(|error| self.fault(role.line, format!("role {}: {error}", role.value.name))).is_ok().then_some(template)
    }

    fn session_policy(&mut self, role: &At<RoleSection>, source: &str, catalog: &Catalog) -> Option<PolicyTemplate> {
        match PolicyTemplate::parse(source) {
            Ok(policy) => {
                self.claims_exist(role, policy.claims(), catalog);
                Some(policy)
            }
            Err(error) => {
                self.fault(role.line, format!("role {}: session_policy: {error}", role.value.name));
                None
            }
        }
    }
}

/// Two roles that deny at one IAM role write one policy: by one way into AWS, and with one rule for what does not fit.
fn one_list(role: &AwsRole, other: &Role) -> Option<String> {
    let (RoleSpec::Aws(spec) | RoleSpec::Ecr(spec)) = &other.spec else { return None };
    let same_policy = role.role_arn == spec.role_arn && role.revocation == spec.revocation && role.revocation != AwsRevocation::None;
    if same_policy && role.aws != spec.aws {
        return Some(format!(
            "the role {} denies at the same IAM role by aws {}: two ways would overwrite each other's policy; name one of them in both",
            other.name, spec.aws
        ));
    }
    (same_policy && role.overflow != spec.overflow)
        .then(|| format!("the role {} denies at the same IAM role and has another overflow: both must have the same", other.name))
}

/// What is wrong with a role that says all it must.
pub(in crate::server::config) fn check(spec: &AwsRole, role: &Role, catalog: &Catalog, configured: &Configured) -> RoleReport {
    let Some(way) = configured.way(&spec.aws) else { return RoleReport::default() };
    let asked = Asked { role: spec, way, default_ttl: role.default_ttl, max_ttl: role.max_ttl, signs: configured.signs_jwts };
    let AwsReport { mut faults, mut warnings } = check_role(&asked);
    faults.extend(catalog.roles.values().filter_map(|other| one_list(spec, other)));
    warnings.extend(spec.session_policy.iter().flat_map(PolicyTemplate::open_ended).map(|text| {
        format!(
            "session_policy: in {text:?} a pattern begins directly after a placeholder: who has the value \"a\" gets what is of \"ab\", too; \
             put a mark between them that no value holds, such as /"
        )
    }));
    RoleReport { faults, warnings }
}

/// What the issuer must know of the roles.
pub(in crate::server::config) fn of_catalog(catalog: &Catalog) -> impl Iterator<Item = &AwsRole> {
    catalog.roles.values().filter_map(|role| match &role.spec {
        RoleSpec::Aws(spec) | RoleSpec::Ecr(spec) => Some(spec),
        RoleSpec::X509(_) | RoleSpec::Registry(_) | RoleSpec::Jwt(_) => None,
    })
}
