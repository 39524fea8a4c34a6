//! `daypass agent run`, the real binary against a real `daypassd`.

use std::{
    collections::VecDeque,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    e2e::world::{Caller, World},
    support::parts::{
        Process, free_port,
        handshakes::{Server, client},
        nginx::NginxServer,
        openssl::openssl_ok,
        run, wait_until,
    },
};

/// The life of a credential: long enough that a server can be restarted within half of it on a busy machine.
pub const TTL: &str = "ttl = \"24s\"";

/// How long a rotation may take to come, and anything else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running agent by the world's `agent.toml`; it is killed with this value.
pub struct Agent {
    process: Process,
    /// The port of its health, on 127.0.0.1.
    pub health: u16,
    /// What systemd was told and nobody has waited for yet.
    told: Arc<Mutex<VecDeque<String>>>,
    /// All that it was told so far.
    ever_told: Mutex<Vec<String>>,
}

impl Agent {
    /// Starts it with nothing in its environment but systemd.
    pub fn start(world: &World, health: u16) -> Self {
        let path = world.file("notify");
        let _ = fs::remove_file(&path);
        let told = systemd(&path);
        let log = fs::File::options().create(true).append(true).open(world.file("agent.log")).unwrap();
        let mut command = daypass(world, "run");
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000").env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { process: Process::start(&mut command), health, told, ever_told: Mutex::default() }
    }

    pub fn signal(&mut self, name: &str) {
        let pid = self.process.child().id().to_string();
        assert!(run(Command::new("kill").args([&format!("-{name}"), &pid])).ok);
    }

    pub fn end(&mut self) -> ExitStatus {
        wait_until(PATIENCE, "the agent ends", || self.process.child().try_wait().unwrap())
    }

    /// Waits until systemd is told this; what comes before is passed over.
    pub fn wait_told(&self, what: &str) {
        wait_until(PATIENCE, &format!("systemd is told {what}"), || {
            let mut told = self.told.lock().unwrap();
            let mut ever_told = self.ever_told.lock().unwrap();
            let mut next = std::iter::from_fn(|| told.pop_front()).inspect(|state| ever_told.push(state.clone()));
            next.any(|state| state.starts_with(what)).then_some(())
        });
    }

    /// Waits for nothing that it was told so far.
    pub fn pass_over(&self) {
        self.ever_told.lock().unwrap().extend(self.told.lock().unwrap().drain(..));
    }

    /// Which of these systemd was told, up to what was waited for last.
    pub fn has_told(&self, what: &[&str]) -> Vec<String> {
        let ever_told = self.ever_told.lock().unwrap();
        ever_told.iter().filter(|state| what.iter().any(|what| state.starts_with(what))).cloned().collect()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.health)).expect("health is served");
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn metric(&self, line: &str) -> f64 {
        let page = self.get("/metrics").1;
        let found = page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in:\n{page}"))
    }
}

/// Listens as systemd does, which never lets its queue run full; ends with what it gives.
fn systemd(path: &Path) -> Arc<Mutex<VecDeque<String>>> {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let told = Arc::<Mutex<VecDeque<String>>>::default();
    let listener = Arc::downgrade(&told);
    thread::spawn(move || {
        let mut state = [0; 512];
        while let Some(told) = listener.upgrade() {
            if let Ok(length) = socket.recv(&mut state) {
                told.lock().unwrap().push_back(String::from_utf8_lossy(&state[..length]).into_owned());
            }
        }
    });
    told
}

/// `daypass agent COMMAND --config agent.toml`.
pub fn daypass(world: &World, command: &str) -> Command {
    let mut daypass = Command::new(env!("CARGO_BIN_EXE_daypass"));
    daypass.env_clear().args(["agent", command, "--config"]).arg(world.file("agent.toml"));
    daypass
}

/// A world whose sample agent has a short-lived role and health; gives its port.
pub fn world() -> (World, u16) {
    let world = World::start();
    let health = free_port();
    world.edit("agent.toml", "# [health]\n# listen = \"127.0.0.1:7490\"", &format!("[health]\nlisten = \"127.0.0.1:{health}\""));
    world.edit("agent.toml", "name = \"web\"\n", &format!("name = \"web\"\n{TTL}\n"));
    (world, health)
}

pub fn certificate(world: &World) -> Option<String> {
    fs::read_to_string(world.file("agent/tls.crt")).ok()
}

/// Waits for another certificate than this; its key is there with it.
pub fn wait_rotation(world: &World, before: Option<&str>) -> String {
    let fresh = wait_until(PATIENCE, "a fresh certificate", || certificate(world).filter(|now| Some(now.as_str()) != before));
    let dir = world.file("agent/..data").canonicalize().unwrap();
    let public = |args: &[&str]| openssl_ok(&dir, args).text();
    assert_eq!(public(&["x509", "-in", "tls.crt", "-noout", "-pubkey"]), public(&["pkey", "-in", "tls.key", "-pubout"]));
    fresh
}

/// How many leases of the role there are, living or dead.
pub fn leases(world: &World, caller: &Caller) -> usize {
    let said = world.cli(caller, ["lease", "list", "--role", "web", "-o", "json"]).json();
    said.as_array().unwrap_or_else(|| panic!("{said}")).len()
}

fn hook_runs(world: &World) -> Vec<String> {
    fs::read_to_string(world.file("hook.log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

pub fn log(world: &World) -> String {
    fs::read_to_string(world.file("agent.log")).unwrap_or_default()
}

#[test]
fn the_sample_of_dev_works_as_it_is() {
    let world = World::start();
    let checked = run(&mut daypass(&world, "check"));
    assert!(checked.ok && checked.text().contains("1 role, server 127.0.0.1:"), "{}", checked.all());
    let mut agent = Agent::start(&world, 0);
    agent.wait_told("READY=1");
    wait_rotation(&world, None);
    for socket in ["agent/workload.sock", "agent/sds.sock"] {
        wait_until(PATIENCE, socket, || std::os::unix::net::UnixStream::connect(world.file(socket)).ok());
    }
    // One at a time.
    let second = run(&mut daypass(&world, "run"));
    assert!(second.code == Some(2) && second.stderr.contains("another agent"), "{}", second.all());
    agent.signal("TERM");
    agent.wait_told("STOPPING=1");
    assert!(agent.end().success(), "{}", log(&world));
    assert!(!world.file("agent/workload.sock").exists() && certificate(&world).is_some());
}

#[test]
fn a_role_stays_fresh_through_restarts_of_both_with_one_lease() {
    let (mut world, health) = world();
    let hook = format!("on_change = {{ command = [\"sh\", \"-c\", \"echo run >> {}\"] }}\n", world.file("hook.log").display());
    world.edit("agent.toml", TTL, &format!("{TTL}\n{hook}"));
    let mut agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    agent.wait_told("WATCHDOG=1");
    let first = wait_rotation(&world, None);
    assert_eq!((agent.get("/healthz").0, agent.get("/readyz").0, agent.get("/nothing").0), (200, 200, 404));
    assert_eq!(agent.metric("daypass_agent_ready"), 1.0);
    assert_eq!(agent.metric("daypass_agent_generation{role=\"web\"}"), 1.0);

    let second = wait_rotation(&world, Some(&first));
    wait_until(PATIENCE, "the hook ran for each", || (hook_runs(&world).len() >= 2).then_some(()));
    assert_eq!(leases(&world, &world.operator()), 1);

    // Killed, an agent takes its lease up where it was.
    agent.signal("KILL");
    agent.end();
    agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    assert_eq!(certificate(&world).as_ref(), Some(&second), "a restart brings nothing new");
    let third = wait_rotation(&world, Some(&second));

    // Without its server it keeps what is valid.
    world.kill();
    wait_until(PATIENCE, "it sees that the server has gone", || {
        (agent.metric("daypass_agent_connected{role=\"web\"}") == 0.0).then_some(())
    });
    assert_eq!((agent.get("/readyz").0, certificate(&world).as_ref()), (200, Some(&third)));
    world.start_again();
    wait_rotation(&world, Some(&third));
    assert_eq!(leases(&world, &world.operator()), 1, "{}", log(&world));
    assert!(agent.metric("daypass_agent_hook_runs_total{role=\"web\",outcome=\"done\"}") >= 2.0);
}

#[test]
fn nginx_shows_each_new_certificate_by_the_hook_that_a_reload_brings() {
    let (world, health) = world();
    world.reconfigure(|world| world.edit("daypass.toml", "dns_sans = [\"web.dev.daypass.test\"]", "dns_sans = [\"localhost\"]"));
    let mut agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    let file = |name: &str| -> PathBuf { world.file("agent").join(name) };
    let nginx = NginxServer::start(&file("tls.crt"), &file("tls.key"));

    // A file with a fault changes nothing.
    let good = world.read("agent.toml");
    world.append("agent.toml", "[nonsense]");
    agent.signal("HUP");
    agent.wait_told("RELOADING=1");
    agent.wait_told("READY=1");
    assert!(log(&world).contains("unknown key nonsense"), "{}", log(&world));
    let command = serde_json::to_string(&nginx.reload_command()).unwrap();
    world.write("agent.toml", &good.replace(TTL, &format!("{TTL}\non_change = {{ command = {command} }}")));
    agent.signal("HUP");
    agent.wait_told("RELOADING=1");
    agent.wait_told("READY=1");

    let trusting = client(&world.file("ca.pem"), None);
    let shown = || Server::localhost(nginx.port()).shake(trusting.clone()).expect("a handshake").leaf;
    let before = shown();
    wait_until(PATIENCE, "nginx shows another", || (shown() != before).then_some(()));
    assert_eq!(leases(&world, &world.operator()), 1, "the reload took the lease up");
}

#[test]
fn an_enrolled_agent_needs_no_other_identity() {
    let (world, health) = world();
    world.edit("agent.toml", "[identity]\ncertificate = \"operator.pem\"\nkey = \"operator.key\"\n", "");
    let refused = run(&mut daypass(&world, "run"));
    assert!(refused.code == Some(3) && refused.stderr.contains("daypass agent enroll"), "{}", refused.all());

    let code = world.cli(&world.operator(), ["enroll", "create", "--tenant", "fleet", "--role", "agent", "-o", "json"]).json();
    let code = code["code"].as_str().unwrap_or_else(|| panic!("{code}")).to_owned();
    let enrolled = world.cli(&Caller::nobody(), ["agent", "enroll", "--code", &code, "--state-dir", "agent/state"]);
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    let agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    wait_rotation(&world, None);
    assert_eq!(agent.metric("daypass_agent_identity_generation"), 1.0);
    let who = openssl_ok(world.dir(), ["x509", "-in", "agent/tls.crt", "-noout", "-ext", "subjectAltName"]).text();
    assert!(who.contains("spiffe://dev.daypass.test/fleet/web"), "{who}");
}

/// systemd gives 1024 files by default, which users of the sockets could take.
#[test]
fn it_may_have_more_files_open_than_it_was_started_with() {
    let world = World::start();
    let mut shell = Command::new("sh");
    shell.env_clear().args(["-c", "ulimit -Sn 200 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_daypass"), "agent", "run", "--config"]);
    shell.arg(world.file("agent.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::start(&mut shell);
    let limits = PathBuf::from(format!("/proc/{}/limits", process.child().id()));
    wait_until(PATIENCE, "it has raised its limit", || {
        let limits = fs::read_to_string(&limits).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("{limits}"));
        (soft > 200 && world.file("agent/workload.sock").exists()).then_some(())
    });
}

#[test]
fn what_is_missing_is_said_where_it_is_looked_for() {
    let (world, health) = world();
    // The operator may not have it.
    world.edit("agent.toml", TTL, "role = \"vendor-client\"");
    let agent = Agent::start(&world, health);
    let said = wait_until(PATIENCE, "it says why", || {
        let listens = TcpStream::connect(("127.0.0.1", health)).is_ok();
        listens.then(|| agent.get("/readyz")).filter(|(_, body)| body.contains('('))
    });
    assert!(said.0 == 503 && said.1.starts_with("role web: it has no credential yet ("), "{said:?}");
    assert_eq!(agent.get("/healthz").0, 200);
    assert!(agent.metric("daypass_agent_failures_total{role=\"web\"}") >= 1.0);

    world.append("agent.toml", "[[role]]\nname = \"web\"\n[health]\nlisten = \"0.0.0.0:1\"");
    let checked = run(&mut daypass(&world, "check"));
    assert_eq!(checked.code, Some(2), "{}", checked.all());
    assert!(checked.stderr.contains("agent.toml:"), "{}", checked.all());
}
