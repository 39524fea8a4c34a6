//! Trust, tokens, retries, time limits.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    run,
    server::{After, Server},
};

#[test]
fn only_unavailable_is_tried_again_with_the_same_request_id() {
    let server = Server::new();
    let flaky = server.run("issue flaky -o json");
    assert_eq!((flaky.code, server.seen.calls("flaky")), (0, 3), "{flaky:?}");
    let ids = std::mem::take(&mut *server.seen.request_ids.lock().unwrap());
    assert!(ids.len() == 3 && ids[0].len() == 36 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!((server.run("issue down").code, server.seen.calls("down")), (6, 3));
    assert_eq!((server.run("issue denied").code, server.seen.calls("denied")), (4, 1));
    server.seen.request_ids.lock().unwrap().clear();
    server.run("issue web --request-id job-7");
    server.run("issue web");
    let ids = server.seen.request_ids.lock().unwrap();
    assert!(ids[0] == "job-7" && ids[1].len() == 36, "{ids:?}");
}

#[test]
fn a_slow_server_is_given_up_in_time() {
    let server = Server::new();
    let began = Instant::now();
    let run = server.run("issue slow --timeout 700ms -o json");
    let (code, message) = run.error();
    assert_eq!((run.code, code.as_str()), (6, "DEADLINE_EXCEEDED"));
    assert!(message.contains("within 700ms") && message.contains("--timeout"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(server.seen.calls("slow"), 1, "what timed out is not tried again");
    assert!(server.seen.grpc_timeout.lock().unwrap().is_some(), "the server knows when to stop");
}

#[test]
fn a_server_that_does_not_shake_hands_is_given_up_in_time() {
    let server = Server::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let run = run(server.daypass("whoami --timeout 500ms -o json").args(["--addr", &addr]));
    assert_eq!((run.code, run.error().0.as_str()), (6, "DEADLINE_EXCEEDED"), "{run:?}");
    assert!(run.error().1.contains(&addr));
}

#[test]
fn nothing_that_listens_is_unavailable() {
    let server = Server::new();
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let run = run(server.daypass("whoami").args(["--addr", &addr]));
    assert_eq!(run.code, 6, "{run:?}");
    assert!(run.stderr.contains(&format!("nothing listens at {addr}")) && run.stderr.contains("DAYPASS_ADDR"), "{run:?}");
}

#[test]
fn a_server_that_hangs_up_is_unavailable_after_three_tries() {
    let server = Server::with("127.0.0.1", 2090, After::HangUp);
    let run = server.run("whoami -o json");
    assert_eq!((run.code, run.error().0.as_str()), (6, "UNAVAILABLE"), "{run:?}");
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 3);
}

#[test]
fn a_port_that_speaks_something_else_is_told() {
    let server = Server::new();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = http.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = http.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        // Until the client has gone.
        let _ = stream.read(&mut [0; 1024]);
    });
    let run = run(server.daypass("whoami").args(["--addr", &addr]));
    assert!(run.code == 1 && run.stderr.contains("does not speak TLS"), "{run:?}");
    answers.join().unwrap();
}

#[test]
fn a_server_that_is_not_trusted_is_told_and_not_tried_again() {
    let (server, other) = (Server::new(), Server::new());
    let run = run(server.daypass("whoami -o json").env("DAYPASS_CA", other.pki.path("ca.pem")));
    let (code, message) = run.error();
    assert_eq!((run.code, code.as_str()), (1, "SERVER_NOT_TRUSTED"), "{run:?}");
    assert!(message.contains("DAYPASS_CA"), "{message}");
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_servers_wrong_name_and_old_certificate_are_told() {
    let named = Server::with("vend.example.org", 2090, After::Serve).run("whoami");
    assert!(named.code == 1 && named.stderr.contains("not for the name 127.0.0.1"), "{named:?}");
    let old = Server::with("127.0.0.1", 2021, After::Serve).run("whoami");
    assert!(old.code == 1 && old.stderr.contains("expired at 2021-12-31") && old.stderr.contains("clock"), "{old:?}");
}

#[test]
fn without_a_ca_the_systems_are_trusted() {
    let server = Server::new();
    let mut command = server.daypass("whoami");
    let trusted = run(command.env_remove("DAYPASS_CA").env("SSL_CERT_FILE", server.pki.path("ca.pem")));
    assert_eq!(trusted.code, 0, "{trusted:?}");
    let other = Server::new();
    let refused = run(command.env("SSL_CERT_FILE", other.pki.path("ca.pem")));
    assert!(refused.code == 1 && refused.stderr.contains("this system"), "{refused:?}");
}

#[test]
fn a_revoked_client_is_not_authenticated() {
    let server = Server::new();
    // The alert races with the client's first bytes: it must be seen every time.
    for _ in 0..10 {
        let mut command = server.daypass("whoami -o json");
        let run = run(command.env("DAYPASS_CERT", server.pki.path("revoked.pem")).env("DAYPASS_KEY", server.pki.path("revoked.key")));
        assert_eq!((run.code, run.error().0.as_str()), (3, "CERTIFICATE_REVOKED"), "{run:?}");
    }
    assert_eq!(server.seen.calls("whoami"), 0);
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 10, "a refusal is not tried again");
}

#[test]
fn who_says_nothing_is_told_how_to() {
    let server = Server::new();
    let mut command = server.daypass("issue anonymous");
    let run = run(command.env_remove("DAYPASS_CERT").env_remove("DAYPASS_KEY"));
    assert!(run.code == 3 && run.stderr.contains("who are you?; set DAYPASS_CERT"), "{run:?}");
}

#[test]
fn a_token_is_sent_and_never_shown() {
    let server = Server::new();
    let file = server.pki.path("job.jwt");
    fs::write(&file, "canary.in.file\n").unwrap();
    let by_file = run(server.daypass("whoami").env("DAYPASS_TOKEN_FILE", &file));
    assert_eq!((by_file.code, server.seen.authorization.lock().unwrap().as_deref()), (0, Some("Bearer canary.in.file")));
    for line in ["issue expired", "issue hostile", "issue down -o json", "whoami --addr 127.0.0.1:1"] {
        let run = run(server.daypass(line).env("DAYPASS_TOKEN", "canary.in.env").env("RUST_LOG", "trace"));
        assert_ne!(run.code, 0);
        assert!(!format!("{run:?}").contains("canary"), "{run:?}");
    }
    assert_eq!(server.seen.authorization.lock().unwrap().as_deref(), Some("Bearer canary.in.env"));
}

#[test]
fn the_handshake_is_post_quantum() {
    let server = Server::new();
    assert_eq!(server.run("whoami").code, 0);
    assert_eq!(*server.seen.handshake.lock().unwrap(), "Some(TLSv1_3) Some(X25519MLKEM768)");
}

#[test]
fn an_answer_that_is_too_large_is_refused() {
    let run = Server::new().run("explain huge -o json");
    assert_eq!((run.code, run.error().0.as_str()), (1, "OUT_OF_RANGE"), "{run:?}");
}
