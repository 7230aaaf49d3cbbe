//! What systemd is notified of, and when it does not listen.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Signal, kill_process};

use crate::support::gateway::{Dir, PROGRAM, get};
use crate::support::*;

#[test]
fn systemd_is_told_of_every_turn() {
    let (dir, origin) = (Dir::new(), Origin::start());
    let listen = "[listen]\nproxy = \"127.0.0.1:0\"\n\n";
    dir.write("proxy.toml", &format!("{listen}{UNLIMITED}"));
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    // Reads what it is told, but for the watchdog's signs of life.
    let told = || {
        let mut buffer = [0; 200];
        loop {
            let length = systemd.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.trim() != "WATCHDOG=1" {
                return text;
            }
        }
    };
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-c", "proxy.toml"]).env("NOTIFY_SOCKET", "notify").env("WATCHDOG_USEC", "20000");
    command.env("NOTIFY_SOCKET", &path);
    let mut gateway = Gateway::start_by(&mut command, Arc::new(dir));
    assert_eq!(told().trim(), "READY=1");
    let mut buffer = [0; 200];
    for _ in 0..3 {
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length].trim_ascii(), b"WATCHDOG=1");
    }
    assert!(gateway.reload(UNLIMITED));
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told().trim(), "READY=1");
    let mut kept = gateway.caller();
    assert_eq!(kept.send(get(&origin.url("/"))).answer().status, 200);
    gateway.hand_over();
    assert!(told().starts_with("RELOADING=1\n"), "the old one reads the file once more");
    assert_eq!(told().trim(), "READY=1");
    // It has no connection left, so it ends by itself, and no caller sees that.
    assert!(gateway.ended().success());
    assert_eq!(told().trim(), format!("MAINPID={}\nREADY=1", gateway.serving().as_raw_nonzero()));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    let began = Instant::now();
    kill_process(gateway.serving(), Signal::TERM).unwrap();
    assert_eq!(told().trim(), "STOPPING=1");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn systemd_is_told_nothing_by_the_gateway_of_a_program() {
    let dir = Dir::new();
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{UNLIMITED}"));
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_nonblocking(true).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["exec", "-c", "proxy.toml", "--", "true"]).current_dir(dir.path());
    assert!(command.env("NOTIFY_SOCKET", &path).status().unwrap().success());
    let told = systemd.recv(&mut [0; 200]).unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::WouldBlock, "the program says itself when its service is ready");
}

#[test]
fn a_systemd_that_does_not_read_holds_nothing_up() {
    let (dir, origin) = (Dir::new(), Origin::start());
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{UNLIMITED}"));
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-c", "proxy.toml"]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000");
    let gateway = Gateway::start_by(&mut command, Arc::new(dir));
    let fill = UnixDatagram::unbound().unwrap();
    fill.set_nonblocking(true).unwrap();
    while fill.send_to(b"full", &path).is_ok() {}
    for _ in 0..3 {
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
        assert!(gateway.reload(UNLIMITED));
    }
    // As soon as it reads it is told of everything, in order.
    let mut told = Vec::new();
    let mut buffer = [0; 200];
    while told.len() < 7 {
        let length = systemd.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let word = text.lines().next().unwrap_or_default().to_owned();
        if word != "WATCHDOG=1" && word != "full" {
            told.push(word);
        }
    }
    let reload = ["RELOADING=1", "READY=1"];
    assert_eq!(told, [&["READY=1"][..], &reload, &reload, &reload].concat());
}
