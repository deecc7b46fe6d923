//! The three ways in which a file changes, each seen by its effect. How soon, `fairlead-bench scale`
//! measures.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    greeter,
    harness::{PROGRAM, Process},
    support::{Server, file, free_addr, pages::applied, wait},
};

/// What the endpoint of a frontend says; empty while nobody answers.
fn greeting(front: std::net::SocketAddr) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    if let Ok(mut client) = std::net::TcpStream::connect(front) {
        client.read_to_string(&mut text).ok();
    }
    text
}

fn text(front: std::net::SocketAddr, server: &Server) -> String {
    file("", &[server.addr])
        .replace("accessLog: \"$LOG\", ", "")
        .replace("$FRONT", &front.to_string())
}

#[test]
fn a_write_in_place_takes_effect_whole() {
    let (one, two) = (greeter("one"), greeter("two"));
    let admin = free_addr();
    let admin_flag = admin.to_string();
    let process = Process::start(&file("", &[one.addr]), &["--admin", &admin_flag]);
    // The first half is a valid file of fewer services, so it would take effect if it were read.
    let (first, late) = (text(process.front, &two), free_addr());
    let second = text(late, &two)
        .replace("services:", "")
        .replace("t/s:p", "t/late:p");
    let mut judged = 0;
    for _ in 0..100 {
        if judged == 5 {
            break;
        }
        let before = applied(admin);
        let began = Instant::now();
        let mut file = fs::File::create(process.path()).unwrap();
        file.write_all(first.as_bytes()).unwrap();
        let seen = greeting(process.front);
        file.write_all(second.as_bytes()).unwrap();
        drop(file);
        let took = began.elapsed();
        wait("the write", || greeting(late) == "two");
        assert_eq!(greeting(process.front), "two");
        // A file that stood still for 50 ms was whole, as far as anybody can know.
        if took < Duration::from_millis(50) {
            assert_eq!(seen, "one", "nothing of it counts yet");
            assert_eq!(applied(admin), before + 1, "it was read once, and whole");
            judged += 1;
        }
        process.write(&text(process.front, &one));
        wait("the rename", || greeting(process.front) == "one");
    }
    let whole = first;
    // One who never closes: it counts when it stands still.
    let mut file = fs::File::create(process.path()).unwrap();
    file.write_all(whole.as_bytes()).unwrap();
    wait("what stands still", || greeting(process.front) == "two");
    drop(file);
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_swap_of_a_config_map_takes_effect() {
    let (one, two) = (greeter("one"), greeter("two"));
    let front = free_addr();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let put = |version: &str, server: &Server| {
        fs::create_dir(at.join(version)).unwrap();
        fs::write(at.join(version).join("proxy.yaml"), text(front, server)).unwrap();
        symlink(version, at.join("..data_tmp")).unwrap();
        fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    };
    put("..2026_1", &one);
    symlink(Path::new("..data/proxy.yaml"), at.join("proxy.yaml")).unwrap();
    let child = Command::new(PROGRAM)
        .arg("--config")
        .arg(at.join("proxy.yaml"))
        .stderr(Stdio::null())
        .spawn();
    let _process = Ended(child.unwrap());
    wait("the start", || greeting(front) == "one");
    for round in 2..6 {
        let server = if round % 2 == 0 { &two } else { &one };
        put(&format!("..2026_{round}"), server);
        // As the kubelet does it afterwards.
        fs::remove_dir_all(at.join(format!("..2026_{}", round - 1))).unwrap();
        let expected = if round % 2 == 0 { "two" } else { "one" };
        wait("the swap", || greeting(front) == expected);
    }
}
