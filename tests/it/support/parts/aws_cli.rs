//! The aws CLI and boto3, as a job runs them: unmodified, with a home and a configuration of their own.
//!
//! Both take a `credential_process` from the configuration and the container endpoint from the environment. While less than 15
//! minutes of a credential remain, botocore asks for another on every call, and a `credential_process` runs each time.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{Ran, run, tool, tools};

/// A user of AWS, who has no credentials yet.
#[derive(Debug)]
pub struct AwsUser {
    home: TempDir,
    environment: Vec<(String, String)>,
}

impl AwsUser {
    /// One who finds every AWS service at this URL.
    pub fn new(endpoint: &str) -> Self {
        let environment = vec![("AWS_ENDPOINT_URL".into(), endpoint.into())];
        let user = Self { home: tempfile::tempdir().expect("a temporary folder can be made"), environment };
        user.configure("");
        user
    }

    /// Writes the configuration file: the settings of the profile `default`.
    pub fn configure(&self, settings: &str) {
        // The path in the URL: 127.0.0.1 has no subdomain for a bucket.
        let text = format!("[default]\nregion = us-east-1\ns3 =\n  addressing_style = path\n{settings}\n");
        fs::write(self.home().join("config"), text).expect("the test's folder can be written");
    }

    /// Sets a variable of all that run from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// A folder for the user's files.
    pub fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// A program with the user's environment and no other.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let home = self.home();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home).current_dir(&home);
        command.env("AWS_CONFIG_FILE", home.join("config")).env("AWS_SHARED_CREDENTIALS_FILE", home.join("credentials"));
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_PAGER", "");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `aws ARGUMENTS…`
    pub fn aws(&self, arguments: &[&str]) -> Ran {
        run(self.command(tool("aws")).args(arguments))
    }

    /// Runs a Python program that may import boto3.
    pub fn python(&self, program: &str) -> Ran {
        run(self.command(python()).args(["-c", program]))
    }
}

/// The Python that has boto3.
pub fn python() -> PathBuf {
    tools().join("venv/bin/python")
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use daypass::clock::{Clock, SystemClock};
    use jiff::SignedDuration;
    use serde_json::json;

    use super::{
        super::{
            boto::Keys,
            http::HttpServer,
            ministack::{MiniStack, allow, policy, trust},
        },
        *,
    };

    /// Reads an object twice with one client.
    const READ: &str = "
import boto3
client = boto3.client('s3')
for _ in range(2):
    print(client.get_object(Bucket='releases', Key='a/x')['Body'].read().decode())
";

    fn session(aws: &MiniStack) -> Keys {
        aws.bucket("releases", &["a/x"]);
        let service = aws.user("service", &policy(&[allow(&["sts:AssumeRole"], &["*"])]));
        let role = aws.role("deploy", &trust("service"), &policy(&[allow(&["s3:GetObject"], &["*"])]));
        aws.assume(&service, &role, "job", &json!({})).expect("a session")
    }

    fn expiry(minutes: i64) -> String {
        (SystemClock.now() + SignedDuration::from_mins(minutes)).to_string()
    }

    #[test]
    fn both_take_a_credential_process() {
        let aws = MiniStack::start();
        let user = AwsUser::new(aws.url());
        let Keys { id, secret, token } = session(&aws);
        let ran = user.aws(&["s3", "cp", "s3://releases/a/x", "-"]);
        assert!(!ran.ok && ran.all().contains("Unable to locate credentials"), "{}", ran.all());

        let (process, calls) = (user.home().join("credential-process"), user.home().join("calls"));
        let answer = |minutes: i64| {
            let answer = json!({
                "Version": 1, "AccessKeyId": id, "SecretAccessKey": secret, "SessionToken": token, "Expiration": expiry(minutes),
            });
            fs::write(&process, format!("#!/bin/sh\necho called >>'{}'\necho '{answer}'\n", calls.display())).expect("a file");
            fs::set_permissions(&process, fs::Permissions::from_mode(0o700)).expect("a mode");
            fs::write(&calls, "").expect("a file");
        };
        let called = || fs::read_to_string(&calls).expect("a file").lines().count();
        user.configure(&format!("credential_process = {}", process.display()));
        answer(60);
        let ran = user.aws(&["s3", "cp", "s3://releases/a/x", "-"]);
        assert!(ran.ok && ran.text() == "a/x", "{}", ran.all());
        let ran = user.aws(&["s3api", "put-object", "--bucket", "releases", "--key", "new"]);
        assert!(!ran.ok && ran.all().contains("AccessDenied"), "{}", ran.all());

        answer(60);
        let ran = user.python(READ);
        assert!(ran.ok && ran.text() == "a/x\na/x\n", "{}", ran.all());
        assert_eq!(called(), 1);
        answer(14);
        assert!(user.python(READ).ok);
        assert!(called() > 2, "for the client, and for each of its calls: {}", called());
    }

    #[test]
    fn both_take_the_container_endpoint() {
        let aws = MiniStack::start();
        let Keys { id, secret, token } = session(&aws);
        let asked = Arc::new(AtomicUsize::new(0));
        let asked_at_server = asked.clone();
        let endpoint = HttpServer::start(move |request| {
            if request.header("authorization") != Some("the token of a file") {
                return (401, json!({"code": "Unauthorized", "message": "a wrong token"}));
            }
            asked_at_server.fetch_add(1, Ordering::Relaxed);
            (200, json!({"AccessKeyId": id, "SecretAccessKey": secret, "Token": token, "Expiration": expiry(60)}))
        });
        let mut user = AwsUser::new(aws.url());
        let file = user.home().join("token");
        fs::write(&file, "the token of a file").expect("a file");
        user.set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/credentials", endpoint.url()));
        user.set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file.display().to_string());
        let ran = user.aws(&["s3", "cp", "s3://releases/a/x", "-"]);
        assert!(ran.ok && ran.text() == "a/x", "{}", ran.all());
        let ran = user.python(READ);
        assert!(ran.ok && ran.text() == "a/x\na/x\n", "{}", ran.all());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
