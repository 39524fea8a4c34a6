//! What is wrong with a role's repositories, found when it is loaded and not when somebody asks.

use super::scope::is_pattern;
use crate::model::template::{Place, Template};

/// The most repositories of a role: each lease of it carries them.
pub const MAX_REPOSITORIES: usize = 32;

/// Every fault of a role's repositories.
pub fn repository_faults(repositories: &[Template]) -> Vec<String> {
    let mut faults = Vec::new();
    if repositories.is_empty() {
        faults.push("repositories is missing: name at least one".to_owned());
    }
    if repositories.len() > MAX_REPOSITORIES {
        faults.push(format!("there are {} repositories; name at most {MAX_REPOSITORIES}, or more with one *", repositories.len()));
    }
    for template in repositories {
        let source = template.source();
        if template.names_lease() {
            faults.push(format!("{{lease}} cannot stand in the repository {source:?}: a repository outlives a lease"));
            continue;
        }
        if !is_pattern(&template.sample()) {
            faults.push(format!(
                "the repository {source:?} is no name of one: segments of [a-z0-9] with single . _ or dashes inside, parted by /, and * \
                 for one whole segment"
            ));
        } else if let Err(fault) = Template::parse_for(Place::RepositorySegment, source) {
            faults.push(fault.to_string());
        }
    }
    faults
}
