//! Holds the house rules against the source: who may know whom, how long a file may be, what must not be committed.
//! A breach names the file, the line, the rule and its reason. `ARCHITECTURE.md` has the rules in prose.

#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/rules.rs"]
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Most files stay far below; a longer one is a question to ask, answered here by name.
const MAX_LINES: usize = 500;

/// Reviewed: these files are longer than [`MAX_LINES`], each with its reason.
const LONG_FILES: [(&str, &str); 3] = [
    ("tests/it/authn/bad_tokens.rs", "one table of named bad tokens, read as a list"),
    ("tests/it/authn/mtls.rs", "one suite of named bad certificates over one world"),
    ("tests/it/store/conformance.rs", "one suite that every store must pass; a second file would hide what is missing from it"),
];

#[test]
fn rooms_know_only_what_they_may() {
    let found: Vec<String> = source_files().iter().flat_map(|(path, text)| rules::breaches(path, text)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn files_are_short() {
    let mut found = Vec::new();
    for path in tracked_files().iter().filter(|path| path.ends_with(".rs")) {
        let (lines, reviewed) = (read(path).lines().count(), LONG_FILES.iter().any(|(long, _)| long == path));
        match (lines > MAX_LINES, reviewed) {
            (true, false) => found.push(format!("{path} has {lines} lines: split it, or have it reviewed into LONG_FILES")),
            (false, true) => found.push(format!("{path} has only {lines} lines: take it out of LONG_FILES")),
            _ => {}
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn nothing_committed_names_a_machine_or_a_registry() {
    let mut found = Vec::new();
    for path in tracked_files() {
        // A file that is not text names nothing.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        found.extend(private_names(&path, &text));
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn private_names_are_found() {
    for needle in private() {
        assert_eq!(private_names("README.md", &format!("a\nsee {needle}x\n")).len(), 1, "{needle}");
    }
    assert_eq!(private_names("README.md", "in a workspace, at home, on crates.io"), [""; 0]);
}

#[test]
fn every_error_code_is_documented() {
    let documented = read("docs/errors.md");
    let mut rows: Vec<&str> = documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let source = read("src/model/error.rs");
    // Each arm of `Code::as_str`: `Self::Denied => "DENIED",`.
    let mut codes: Vec<&str> =
        source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.strip_suffix("\",")).collect();
    assert!(codes.len() > 20, "the codes are no longer found in src/model/error.rs: mend this test");
    rows.sort_unstable();
    codes.sort_unstable();
    assert_eq!(rows, codes, "docs/errors.md (left) has one row for each code (right)");
}

/// A command that the store sends and the ACL of `deploy/` does not grant is found out in production, by half of the service.
#[test]
fn every_command_of_the_redis_store_is_granted() {
    let granted = read("deploy/redis/users.acl.example");
    let granted: Vec<&str> = granted.split_whitespace().filter_map(|word| word.strip_prefix('+')).collect();
    let (mut found, mut called) = (0, 0);
    for path in tracked_files().iter().filter(|path| path.starts_with("src/store/redis/")) {
        let text = read(path);
        let after = |call: &str, quote: char| -> Vec<String> {
            text.split(call).skip(1).filter_map(|rest| Some(rest.split_once(quote)?.0.to_lowercase())).collect()
        };
        for command in [after("redis.call('", '\''), after("redis::cmd(\"", '"')].concat() {
            assert!(granted.contains(&command.as_str()), "{path} sends {command}, which deploy/redis/users.acl.example does not grant");
            found += 1;
        }
        called += text.matches("redis.call(").count() + text.matches("redis::cmd(").count();
    }
    assert!(found > 40 && found == called, "{found} of {called}: a command is written in a way that this test does not read");
}

fn private_names(path: &str, text: &str) -> Vec<String> {
    let needles = private();
    let named = |line: &str| needles.iter().find(|needle| line.contains(needle.as_str())).cloned();
    let lines = text.lines().enumerate();
    lines.filter_map(|(number, line)| named(line).map(|needle| format!("{path}:{}: names {needle:?}", number + 1))).collect()
}

/// Folders of the machines that this is written on, and the hosts of package registries: whoever builds it has their own.
/// Put together here, so that this file does not hold them.
fn private() -> Vec<String> {
    let folders = [["/wo", "rk/"], ["/tmp", "/wt"], ["/ho", "me/"], ["/Us", "ers/"]];
    let hosts = [
        ["index.crates", ".io"],
        ["static.crates", ".io"],
        ["registry.npmjs", ".org"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["deb.debian", ".org"],
    ];
    folders.iter().chain(&hosts).map(|parts| parts.concat()).collect()
}

/// Every file under src/, with its path from the repository's root.
fn source_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src/ can be read") {
            let path = entry.expect("src/ can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("it lies below the root").display().to_string();
                found.push((name.clone(), read(&name)));
            }
        }
    }
    assert!(found.len() > 20, "the source is no longer found: mend this test");
    found.sort();
    found
}

/// What git has, and what it would take in: an ignored file is nobody's business.
fn tracked_files() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root()).output();
    let listed = listed.expect("git is there: run scripts/setup");
    assert!(listed.status.success(), "this is no git work tree: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    // A file that was deleted and not yet committed is still listed.
    names.split_terminator('\0').filter(|name| root().join(name).exists()).map(Into::into).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
