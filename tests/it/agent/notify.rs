//! sd_notify(3) over a real socket.

use std::{collections::HashMap, ffi::OsString, os::unix::net::UnixDatagram, time::Duration};

use daypass::agent::notify::Notifier;

fn notifier(env: &[(&str, &str)], pid: u32) -> Notifier {
    let env: HashMap<String, OsString> = env.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    Notifier::from_env(&|name| env.get(name).cloned(), pid)
}

fn next(socket: &UnixDatagram) -> String {
    let mut state = [0; 512];
    let length = socket.recv(&mut state).expect("systemd is told");
    String::from_utf8(state[..length].to_vec()).unwrap()
}

#[test]
fn systemd_is_told_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let path = path.display().to_string();
    let told = notifier(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "7")], 7);
    assert_eq!(told.alive_every(), Some(Duration::from_millis(1500)));
    told.ready();
    told.status("1 of 2\nroles");
    told.reloading();
    told.alive();
    told.stopping();
    assert_eq!([next(&socket), next(&socket)], ["READY=1", "STATUS=1 of 2 roles"]);
    let reloading = next(&socket);
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(micros.parse::<u64>().unwrap() > 0);
    assert_eq!([next(&socket), next(&socket)], ["WATCHDOG=1", "STOPPING=1"]);
}

#[test]
fn who_does_not_ask_is_not_told_and_a_socket_that_is_gone_does_no_harm() {
    assert_eq!(notifier(&[("WATCHDOG_USEC", "3000000")], 7).alive_every(), None);
    let path = ("NOTIFY_SOCKET", "/nonexistent/notify");
    notifier(&[path], 7).ready();
    assert_eq!(notifier(&[path, ("WATCHDOG_USEC", "1"), ("WATCHDOG_PID", "8")], 7).alive_every(), None, "another's watchdog");
    assert_eq!(notifier(&[path, ("WATCHDOG_USEC", "x")], 7).alive_every(), None);
}

#[test]
fn a_name_in_the_abstract_namespace_is_one_too() {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
    let name = format!("daypass-notify-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))], 7).ready();
    assert_eq!(next(&socket), "READY=1");
}
