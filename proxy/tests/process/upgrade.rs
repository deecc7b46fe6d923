//! Hand-overs to a new process, good and bad ones.

use std::{
    io::Read as _,
    net::TcpListener,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use fairlead_proxy::{
    sys::fdpass,
    upgrade::{
        io::Channel,
        wire::{Message, VERSION},
    },
};

use crate::{
    harness::{Load, PROGRAM, Process},
    support::{PATIENCE, Server, exchange, file, pages, wait},
};

fn child_of(process: &Process) -> Option<u32> {
    let pid = process.child.id();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The processes that run with this one's file. A successor can't be found as a child: its parent
/// may be gone before anybody looks.
fn pids_with(process: &Process) -> Vec<u32> {
    let file = process.path().display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains(&file) && line.contains("fairlead-proxy")
    })
    .collect()
}

/// Before that a signal would end the process.
fn hears_usr2(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (libc::SIGUSR2 - 1)) != 0)
}

/// A copy of the binary that can be replaced.
fn copied(folder: &Path) -> PathBuf {
    let program = folder.join("fairlead-proxy");
    std::fs::copy(PROGRAM, &program).unwrap();
    program
}

/// Puts a script in the place of the binary, in one step.
fn replace(program: &Path, script: &str) {
    let next = program.with_extension("next");
    std::fs::write(&next, script).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(next, program).unwrap();
}

#[test]
fn sigusr2_hands_over_five_times_under_load_and_fails_no_connection() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &["--workers", "2"]);
    let mut long = process.connect();
    exchange(&mut long, b"before").unwrap();
    let mut known = vec![process.child.id()];
    let failed = Load::during(process.front, |load| {
        for round in 0..5 {
            load.wait_for(50);
            let former = known[round];
            Command::new("kill")
                .args(["-s", "USR2", &former.to_string()])
                .status()
                .unwrap();
            let mut successor = None;
            wait("a successor", || {
                let mut all = pids_with(&process).into_iter();
                successor = all.find(|pid| !known.contains(pid));
                successor.is_some()
            });
            let successor = successor.unwrap();
            if round > 0 {
                // The first one still has the long session.
                wait("the former process to end", || {
                    !Path::new(&format!("/proc/{former}/exe")).exists()
                });
            }
            known.push(successor);
            wait("it to listen to signals", || hears_usr2(successor));
        }
        load.wait_for(50);
    });
    assert_eq!(failed, 0);
    assert_eq!(exchange(&mut long, b"after").unwrap(), b"after");
    drop(long);
    assert_eq!(process.ended().code(), Some(0));
    exchange(&mut process.connect(), b"served by the successor").unwrap();
}

#[test]
fn takeover_by_path_fails_no_connection_and_can_be_repeated() {
    let server = Server::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("take-over");
    let admin = crate::support::free_addr();
    let text = format!("admin: {admin}\n{}", file("", &[server.addr]));
    let arguments = ["--workers", "2", "--takeover", path.to_str().unwrap()];
    let mut process = Process::start(&text, &arguments);
    let failed = Load::during(process.front, |load| {
        for workers in ["1", "4", "2"] {
            load.wait_for(50);
            wait("the door", || path.exists());
            let arguments = ["--workers", workers, "--takeover", path.to_str().unwrap()];
            let next = process.spawn(Path::new(PROGRAM), &arguments);
            let mut former = std::mem::replace(&mut process.child, next);
            let mut status = None;
            wait("the former process to leave", || {
                status = former.try_wait().unwrap();
                status.is_some()
            });
            assert_eq!(status.unwrap().code(), Some(0));
            let healthy = pages::ask(admin, "GET", "/healthz");
            assert_eq!(healthy.unwrap().status, 200, "admin goes along");
        }
        load.wait_for(50);
    });
    assert_eq!(failed, 0);
}

#[test]
fn a_new_binary_that_crashes_or_hangs_up_leaves_the_old_one_serving() {
    let server = Server::echo();
    let folder = tempfile::tempdir().unwrap();
    let program = copied(folder.path());
    let mut process = Process::start(&file("", &[server.addr]), &[]);
    let own = process.spawn(&program, &["--workers", "1"]);
    own_port_conflict_is_expected(own);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    process.child = process.spawn(&program, &["--workers", "1"]);
    wait("the frontend", || {
        std::net::TcpStream::connect(process.front).is_ok()
    });
    // Each leaves a mark before it fails, but for the last one, which can't even start.
    let mark = folder.path().join("mark");
    let scripts = [
        "#!/bin/sh\ntouch MARK\nexit 1\n",
        "#!/bin/sh\ntouch MARK\nkill -SEGV $$\n",
        "not a program\n",
    ];
    let failed = Load::during(process.front, |load| {
        for script in scripts {
            replace(&program, &script.replace("MARK", mark.to_str().unwrap()));
            // Again where another test's fork holds the fresh script open ("text file busy").
            wait("it to be tried", || {
                process.signal("USR2");
                load.wait_for(20);
                mark.exists() || !script.contains("MARK")
            });
            std::fs::remove_file(&mark).ok();
            wait("it to be gone", || child_of(&process).is_none());
            load.wait_for(50);
        }
        // The right binary again: now it works.
        let fresh = folder.path().join("fresh");
        std::fs::copy(PROGRAM, &fresh).unwrap();
        std::fs::rename(&fresh, &program).unwrap();
        process.signal("USR2");
        wait("the hand-over", || {
            process.child.try_wait().unwrap().is_some()
        });
        load.wait_for(50);
    });
    assert_eq!(failed, 0);
    assert_eq!(process.ended().code(), Some(0));
    exchange(&mut process.connect(), b"served by the successor").unwrap();
}

/// The last step of a successor that gets as far as its last batch.
const LAST: u32 = u32::MAX;

/// What a new binary does in a hand-over, up to `step`; then it leaves a mark and crashes.
#[tokio::test]
#[ignore = "a new binary that crashes, started by the test below"]
async fn crash_at_a_step() {
    let step: u32 = std::env::var("CRASH_AT").unwrap().parse().unwrap();
    let reached = |at: u32| {
        if at == step {
            std::fs::write(std::env::var("CRASH_MARK").unwrap(), at.to_string()).unwrap();
            std::process::abort();
        }
    };
    let channel = Channel::from_parent().unwrap().unwrap();
    reached(0);
    channel.send(&Message::hello(), &[]).await.unwrap();
    reached(1);
    let (begun, _) = channel.receive(PATIENCE, "begun").await.unwrap();
    let Message::Begin { batches, .. } = begun else {
        panic!("{begun:?}");
    };
    assert!(batches > 1, "sockets, and what was learned");
    reached(2);
    for batch in 0..batches {
        let _held = channel.receive(PATIENCE, "sent").await.unwrap();
        reached(3 + 2 * batch);
        channel.send(&Message::Taken { batch }, &[]).await.unwrap();
        reached(4 + 2 * batch);
    }
    reached(LAST);
}

#[test]
fn a_new_binary_that_crashes_at_any_step_leaves_the_old_one_serving() {
    let server = Server::echo();
    let folder = tempfile::tempdir().unwrap();
    let program = copied(folder.path());
    let mut process = Process::start(&file("", &[server.addr]), &[]);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    process.child = process.spawn(&program, &["--workers", "1"]);
    wait("the frontend", || {
        std::net::TcpStream::connect(process.front).is_ok()
    });
    let test = std::env::current_exe().unwrap();
    let mark = folder.path().join("mark");
    let mut long = process.connect();
    let failed = Load::during(process.front, |load| {
        load.wait_for(50);
        // Hello, begin, two batches each taken or not, and then all of it.
        for step in (0..=6).chain([LAST]) {
            let script = format!(
                "#!/bin/sh\nCRASH_AT={step} CRASH_MARK={} exec {} --exact upgrade::crash_at_a_step --ignored\n",
                mark.display(),
                test.display()
            );
            replace(&program, &script);
            wait("it to get so far", || {
                process.signal("USR2");
                load.wait_for(20);
                mark.exists()
            });
            let reached = std::fs::read_to_string(&mark).unwrap();
            assert_eq!(reached, step.to_string());
            wait("it to be gone", || child_of(&process).is_none());
            std::fs::remove_file(&mark).unwrap();
            exchange(&mut long, b"still the old one").unwrap();
            load.wait_for(20);
        }
        // One that starts, and then doesn't understand the file of today.
        let fresh = folder.path().join("fresh");
        std::fs::copy(PROGRAM, &fresh).unwrap();
        std::fs::rename(&fresh, &program).unwrap();
        process.write("services: [ { name: broken } ]");
        process.signal("USR2");
        wait("it to say so", || {
            process
                .told()
                .contains("ended before it had started to accept")
        });
        load.wait_for(20);
    });
    assert_eq!(failed, 0);
    assert!(process.child.try_wait().unwrap().is_none(), "it serves on");
}

/// Two proxies on one port: the second one must say no.
fn own_port_conflict_is_expected(mut second: Child) {
    let mut status = None;
    wait("the second proxy to refuse", || {
        status = second.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
}

/// A taker that was welcomed, and how many batches it gets. One is sent away as long as the process
/// has not noticed that the one before has ended.
pub(crate) async fn welcomed(path: &Path) -> (Channel, u32) {
    let start = std::time::Instant::now();
    loop {
        let channel = Channel::find(path).unwrap().unwrap();
        let begun = match channel.send(&Message::hello(), &[]).await {
            Ok(()) => channel.receive(PATIENCE, "begun").await,
            Err(error) => Err(error),
        };
        match begun {
            Ok((Message::Begin { batches, .. }, _)) => return (channel, batches),
            Ok((other, _)) => panic!("{other:?}"),
            Err(error) => assert!(start.elapsed() < PATIENCE, "never welcomed: {error}"),
        }
    }
}

/// A taker that stops after `step` messages of its own.
async fn stop_after(path: &Path, step: usize) {
    if step == 0 {
        Channel::find(path).unwrap().unwrap();
        return;
    }
    let (channel, batches) = welcomed(path).await;
    if step == 1 {
        return;
    }
    for batch in 0..batches {
        channel.receive(PATIENCE, "sent").await.unwrap();
        if step == 2 {
            return;
        }
        channel.send(&Message::Taken { batch }, &[]).await.unwrap();
    }
    // Everything was taken, and now it crashes instead of saying that it is ready.
}

#[tokio::test]
async fn a_taker_that_crashes_at_any_step_leaves_the_old_one_serving() {
    let server = Server::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("take-over");
    let arguments = ["--takeover", path.to_str().unwrap()];
    let process = Process::start(&file("", &[server.addr]), &arguments);
    wait("the door", || path.exists());
    for step in 0..=3 {
        stop_after(&path, step).await;
        for _ in 0..20 {
            exchange(&mut process.connect(), b"still here").unwrap();
        }
    }
}

#[tokio::test]
async fn an_unknown_version_is_refused_with_both_versions_named() {
    let server = Server::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("take-over");
    let arguments = ["--takeover", path.to_str().unwrap()];
    let process = Process::start(&file("", &[server.addr]), &arguments);
    wait("the door", || path.exists());
    let channel = Channel::find(&path).unwrap().unwrap();
    let hello = Message::Hello {
        versions: vec![999],
        build: "of the future".to_owned(),
    };
    channel.send(&hello, &[]).await.unwrap();
    let (answer, _) = channel.receive(PATIENCE, "answered").await.unwrap();
    let Message::Refuse { reason } = answer else {
        panic!("{answer:?}");
    };
    assert!(
        reason.contains("999") && reason.contains(&VERSION.to_string()),
        "{reason}"
    );
    exchange(&mut process.connect(), b"still here").unwrap();
}

#[test]
fn pid_1_refuses_to_fork_a_successor_and_serves_on() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &[]);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let log = process.folder.path().join("stderr");
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child", PROGRAM, "--config"])
        .arg(process.path())
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(Stdio::null());
    let started = unshare.spawn();
    let Ok(child) = started else {
        println!("skipped: unshare is not there");
        return;
    };
    process.child = child;
    let mut skipped = false;
    wait("the frontend", || {
        skipped = process.child.try_wait().unwrap().is_some();
        skipped || std::net::TcpStream::connect(process.front).is_ok()
    });
    if skipped {
        println!("skipped: no right to make a pid namespace");
        return;
    }
    let inner = child_of(&process).unwrap();
    Command::new("kill")
        .args(["-s", "USR2", &inner.to_string()])
        .status()
        .unwrap();
    for _ in 0..50 {
        exchange(&mut process.connect(), b"x").unwrap();
    }
    let children = std::fs::read_to_string(format!("/proc/{inner}/task/{inner}/children"));
    assert_eq!(children.unwrap(), "");
    Command::new("kill")
        .args(["-s", "TERM", &inner.to_string()])
        .status()
        .unwrap();
    process.ended();
}

#[test]
fn a_service_manager_hears_when_it_serves_and_keeps_its_sockets() {
    let server = Server::echo();
    let mut process = Process::start(&file("", &[server.addr]), &[]);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let ear = process.folder.path().join("notify");
    let manager = UnixDatagram::bind(&ear).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    manager.set_nonblocking(true).unwrap();
    process.child = Command::new(PROGRAM)
        .arg("--config")
        .arg(process.path())
        .args(["--workers", "1"])
        .env("NOTIFY_SOCKET", &ear)
        .env("FDSTORE", "16")
        .spawn()
        .unwrap();
    let mut stored: Vec<OwnedFd> = Vec::new();
    let mut said = String::new();
    wait("READY=1", || {
        let mut buffer = [0; 1024];
        if let Ok((len, fds)) = fdpass::receive(manager.as_fd(), &mut buffer) {
            said.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
            stored.extend(fds);
        }
        said.contains("READY=1")
    });
    assert!(
        said.contains("FDSTORE=1") && said.contains("FDNAME=tcp-"),
        "{said}"
    );
    assert_eq!(stored.len(), 1);
    // It is killed, and a client comes while no process runs.
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let mut waiting = process.connect();
    std::io::Write::write_all(&mut waiting, b"patient").unwrap();
    let listener = TcpListener::from(stored.remove(0));
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    process.child = Command::new("sh")
        .args(["-c", script, "sh", PROGRAM, "--config"])
        .arg(process.path())
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .unwrap();
    let mut answer = [0; 7];
    waiting.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"patient");
}
