//! The commands of docs/operations.md and docs/keys.md that make a CA and take it back, as an operator pastes them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    config::SAMPLE,
    support::parts::{Process, Ran, free_port, openssl::verify, run, wait_until},
};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const KEYS: &str = include_str!("../../../docs/keys.md");
const POLICY: &str = include_str!("../../../deploy/policy.cedar");

/// The shell block of a page that has this line.
fn block(page: &str, has: &str) -> String {
    let found = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).find(|block| block.contains(has));
    found.unwrap_or_else(|| panic!("no shell block has {has:?}")).to_owned()
}

/// A folder that stands for the operator's directory, `/etc/daypass` and `/var/lib/daypass` in one, and a service over it.
struct Site {
    dir: tempfile::TempDir,
    first: String,
    grpc: u16,
    http: u16,
}

impl Site {
    /// With what the page's block makes, and the sample's configuration over it.
    fn new() -> Self {
        let page = block(OPERATIONS, "key issuing");
        // What differs from an operator's: the tests have no name service.
        let first = page.replace("DNS:daypass.example.org", "DNS:daypass.example.org,IP:127.0.0.1");
        assert_ne!(first, page, "the block no longer names the server as this test expects");
        let site = Self { dir: tempfile::tempdir().unwrap(), first, grpc: free_port(), http: free_port() };
        site.paste(&site.first);
        // The sample's vendor brings a CA of its own.
        site.paste("openssl req -x509 -newkey rsa:2048 -nodes -subj '/CN=Vendor' -keyout /dev/null -out vendor-ca.pem");
        fs::write(site.path("policy.cedar"), POLICY).unwrap();
        site.configure(SAMPLE);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, sample: &str) {
        let dir = self.dir.path().to_str().unwrap();
        let text = sample
            .replace("0.0.0.0:7443", &format!("127.0.0.1:{}", self.grpc))
            .replace("0.0.0.0:7480", &format!("127.0.0.1:{}", self.http))
            .replace("/etc/daypass", dir)
            .replace("/var/lib/daypass", dir);
        fs::write(self.path("daypass.toml"), text).unwrap();
    }

    fn paste(&self, script: &str) {
        let ran = run(Command::new("bash").args(["-eu", "-o", "pipefail", "-c", script]).current_dir(self.dir.path()));
        assert!(ran.ok, "{script}\n{}", ran.all());
    }

    fn serve(&self) -> Process {
        let mut daypassd = Command::new(env!("CARGO_BIN_EXE_daypassd"));
        daypassd.args(["serve", "--config", "daypass.toml"]).current_dir(self.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let served = Process::start(&mut daypassd);
        wait_until(Duration::from_secs(20), "daypassd is ready", || self.get("readyz").ok.then_some(()));
        served
    }

    fn get(&self, path: &str) -> Ran {
        run(Command::new("curl")
            .args(["-fsS", "-o", "answer", &format!("http://127.0.0.1:{}/{path}", self.http)])
            .current_dir(self.dir.path()))
    }

    fn who_am_i(&self, name: &str) -> Ran {
        let mut daypass = Command::new(env!("CARGO_BIN_EXE_daypass"));
        daypass.args(["--addr", &format!("127.0.0.1:{}", self.grpc), "--ca", "root.pem"]);
        daypass.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key"), "whoami"]);
        run(daypass.current_dir(self.dir.path()).env_remove("DAYPASS_TOKEN"))
    }
}

#[test]
fn the_first_certificates_serve_the_sample_and_a_leaked_ca_is_taken_back() {
    let site = Site::new();
    for name in ["issuing.pem", "server.pem", "operator.pem"] {
        let verified = verify(&site.path(name), &site.path("root.pem"), None, None);
        assert!(verified.ok, "{name}: {}", verified.all());
    }
    let checked = run(Command::new(env!("CARGO_BIN_EXE_daypassd")).args(["check", "--config"]).arg(site.path("daypass.toml")));
    assert!(checked.ok && !checked.all().contains("warning"), "{}", checked.all());
    let _served = site.serve();
    let known = site.who_am_i("operator");
    assert!(known.ok && known.text().contains("spiffe://example.org/operator"), "{}", known.all());

    // Somebody has the issuing CA's key, and makes an operator.
    site.paste(
        "umask 077; cp issuing.pem stolen.pem; cp issuing.key stolen.key
        openssl req -newkey rsa:2048 -nodes -subj /CN=x -keyout forged.key -out forged.csr
        printf 'subjectAltName=URI:spiffe://example.org/operator\\nextendedKeyUsage=clientAuth\\n' |
          openssl x509 -req -in forged.csr -CA stolen.pem -CAkey stolen.key -CAcreateserial -days 1 -extfile /dev/stdin -out leaf.pem
        cat leaf.pem stolen.pem > forged.pem",
    );
    assert!(site.who_am_i("forged").ok, "without a CRL a forged operator is an operator: else this test shows nothing");

    // The page's answer: another CA, and the root's CRL. The functions come from the other page, as it says.
    let functions: String = site.first.lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    site.paste(&(functions + &block(KEYS, "-revoke issuing.pem")));
    let named = SAMPLE.replace("# crls = [\"/etc/daypass/clients.crl\"]", "crls = [\"/etc/daypass/root.crl\"]");
    assert_ne!(named, SAMPLE, "the sample no longer shows crls as this test expects");
    site.configure(&named);
    wait_until(Duration::from_secs(20), "the forged operator is refused", || {
        let refused = site.who_am_i("forged");
        (refused.code == Some(3) && refused.stderr.contains("revoked")).then_some(())
    });
    wait_until(Duration::from_secs(20), "the CRL is the new CA's", || {
        let args = ["crl", "-inform", "der", "-in", "answer", "-CAfile", "issuing.pem", "-noout", "-verify"];
        let got = site.get("crl/issuing.crl").ok;
        (got && run(Command::new("openssl").args(args).current_dir(site.dir.path())).all().contains("verify OK")).then_some(())
    });
    assert!(site.who_am_i("operator").ok, "what the root signed goes on");
    let metrics = site.get("metrics").ok.then(|| fs::read_to_string(site.path("answer")).unwrap()).unwrap();
    assert!(metrics.lines().any(|line| line == "daypass_config_in_force 1"), "the new CA is taken up too: {metrics}");
}
