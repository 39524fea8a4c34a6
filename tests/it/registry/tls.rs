//! The token endpoint over TLS.

use std::fs;

use super::world::{SERVICE, login, send};
use crate::{
    e2e::world::World,
    support::parts::{
        containers::{ContainerUser, Image},
        free_port,
        nginx::curl,
        registry::Registry,
    },
};

#[test]
fn over_tls_it_is_not_at_the_plain_port_any_more() {
    let mut world = World::start();
    let holder = login(&world, "push");
    world.stop();
    let https = free_port();
    world.edit("daypass.toml", "[server]\n", &format!("[server]\nhttps = \"127.0.0.1:{https}\"\n"));
    world.start_again();

    let ca = world.file("ca.pem").display().to_string();
    let url = |path: &str| format!("https://127.0.0.1:{https}{path}");
    let status = |arguments: &[&str]| curl(&[&["--cacert", &ca, "-o", "/dev/null", "-w", "%{http_code}"], arguments].concat()).text();
    let token = url(&format!("/token?service={SERVICE}"));
    assert_eq!(status(&[&token]), "401");
    assert_eq!(status(&["-u", &format!("{}:{}", holder.user, holder.secret), &token]), "200");
    assert_eq!(status(&[&url("/healthz")]), "200");
    let plain = send(&world, "GET /token HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"");
    assert_eq!(plain.status, 404, "a secret does not travel in the clear where it need not");
    assert_eq!(world.get("/healthz").map(|(status, _)| status), Some(200));

    let yml = world.file("registry.yml");
    let realm = fs::read_to_string(&yml).unwrap().replace(&format!("http://127.0.0.1:{}/token", world.http), &url("/token"));
    fs::write(&yml, realm).unwrap();
    let registry = Registry::from_file(&yml);
    assert!(registry.challenge().contains(&url("/token")));
    let pushed = ContainerUser::new().skopeo_push(&Image::new(), &format!("{}/demo/a:v1", registry.host()), holder.pair());
    assert!(pushed.ok, "{}", pushed.all());
}
