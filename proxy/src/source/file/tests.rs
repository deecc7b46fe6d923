use std::{fs, os::unix::fs::symlink, path::Path};

use fairlead_runtime::clock::Clock;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::source::{EVENTS_MAX, Event};

/// A file with the services `a/s<i>:p` for each `i` below `services`.
fn text(services: usize) -> String {
    let mut text = String::from("services:");
    for index in 0..services {
        text.push_str(&format!("\n  - {{ name: a/s{index}:p, tiers: [] }}"));
    }
    if services == 0 {
        text.push_str(" []");
    }
    text + "\n"
}

/// A running source.
struct Running {
    events: mpsc::Receiver<Event>,
    reload: watch::Sender<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(path: &Path) -> Self {
        let source = FileSource::open(path, Clock::system()).expect("a good file");
        let (out, events) = mpsc::channel(EVENTS_MAX);
        let (reload, reloads) = watch::channel(0);
        let task = tokio::spawn(async move {
            source.run(reloads, out).await.expect("runs until dropped");
        });
        Self {
            events,
            reload,
            task,
        }
    }

    /// The next accepted number of services, or the refusal's text.
    async fn next(&mut self) -> Result<usize, String> {
        match self.events.recv().await.expect("the source runs") {
            Event::Whole(file) => Ok(file.snapshot.services.len()),
            Event::Refused(refusal) => Err(refusal.to_string()),
            Event::Delta(_) => unreachable!("a file yields whole states"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[test]
fn a_write_is_read_at_close_or_when_it_has_stood_still() {
    let mut settling = Settling::default();
    let at = |millis| Tick::from_start(Duration::from_millis(millis));
    assert!(!settling.take(at(0)));
    settling.note(Change::Begun, at(0));
    settling.note(Change::Begun, at(30));
    assert_eq!(settling.due(), Some(at(80)));
    assert!(!settling.take(at(79)));
    assert!(settling.take(at(80)));
    assert!(!settling.take(at(81)), "once per change");
    settling.note(Change::Begun, at(100));
    settling.note(Change::Complete, at(101));
    assert!(settling.take(at(101)));
}

#[test]
fn only_the_file_itself_and_the_data_link_concern_it() {
    let concerns = |name: &str| concerns(name.as_ref(), "proxy.yaml".as_ref());
    assert!(concerns("proxy.yaml"));
    assert!(concerns("..data"));
    assert!(!concerns(".proxy.yaml.swp"));
    assert!(!concerns("..data_tmp"));
}

#[test]
fn a_bad_file_at_the_start_says_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    let refused = FileSource::open(&path, Clock::system()).err().unwrap();
    assert!(refused.to_string().contains("can't be read: No such file"));
    fs::write(&path, "services: []\nadmin: x\nworkers: 0\n").unwrap();
    let refused = FileSource::open(&path, Clock::system()).err().unwrap();
    assert_eq!(refused.problems.len(), 2);
    let text = refused.to_string();
    assert!(text.contains("proxy.yaml:2:8: admin"), "{text}");
    assert!(text.contains("proxy.yaml:3:10: workers"), "{text}");
}

#[tokio::test]
async fn writes_in_place_and_renames_take_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    fs::write(&path, text(1)).unwrap();
    let mut running = Running::start(&path);
    fs::write(&path, text(2)).unwrap();
    assert_eq!(running.next().await, Ok(2));
    let other = folder.path().join("proxy.yaml.new");
    fs::write(&other, text(3)).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(running.next().await, Ok(3));
}

#[tokio::test]
async fn a_write_that_is_never_closed_takes_force_when_it_stands_still() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    fs::write(&path, text(1)).unwrap();
    let mut running = Running::start(&path);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"  - { name: a/x:p, tiers: [] }\n").unwrap();
    assert_eq!(running.next().await, Ok(2));
    drop(file);
}

#[tokio::test]
async fn the_swap_of_a_config_map_takes_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    let version = |name: &str, services: usize| {
        let version = folder.path().join(name);
        fs::create_dir(&version).unwrap();
        fs::write(version.join("proxy.yaml"), text(services)).unwrap();
        let link = folder.path().join("..data_tmp");
        symlink(name, &link).unwrap();
        fs::rename(&link, folder.path().join("..data")).unwrap();
    };
    version("..1", 1);
    symlink("..data/proxy.yaml", &path).unwrap();
    let mut running = Running::start(&path);
    version("..2", 2);
    assert_eq!(running.next().await, Ok(2));
    fs::remove_dir_all(folder.path().join("..1")).unwrap();
    version("..3", 3);
    fs::remove_dir_all(folder.path().join("..2")).unwrap();
    assert_eq!(running.next().await, Ok(3));
}

#[tokio::test]
async fn a_file_behind_a_symlink_is_watched_where_it_is() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = there.path().join("real.yaml");
    fs::write(&target, text(1)).unwrap();
    let path = here.path().join("proxy.yaml");
    symlink(&target, &path).unwrap();
    let mut running = Running::start(&path);
    fs::write(&target, text(2)).unwrap();
    assert_eq!(running.next().await, Ok(2));
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why_and_a_good_one_follows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    fs::write(&path, text(1)).unwrap();
    let mut running = Running::start(&path);
    fs::write(&path, "services: [{}]").unwrap();
    let refused = running.next().await.expect_err("a bad file");
    assert!(
        refused.contains("services[0]: name is missing"),
        "{refused}"
    );
    fs::remove_file(&path).unwrap();
    let refused = running.next().await.expect_err("no file");
    assert!(refused.contains("can't be read"), "{refused}");
    fs::write(&path, text(2)).unwrap();
    assert_eq!(running.next().await, Ok(2));
}

#[tokio::test]
async fn a_mass_removal_waits_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    fs::write(&path, text(12)).unwrap();
    let mut running = Running::start(&path);
    fs::write(&path, text(0)).unwrap();
    let refused = running.next().await.expect_err("every service would go");
    assert!(refused.contains("remove 12 of 12 services"), "{refused}");
    running.reload.send_modify(|count| *count += 1);
    assert_eq!(running.next().await, Ok(0), "SIGHUP confirms");
    fs::write(&path, text(12)).unwrap();
    assert_eq!(running.next().await, Ok(12));
    fs::write(&path, format!("allowMassRemoval: true\n{}", text(1))).unwrap();
    assert_eq!(running.next().await, Ok(1), "so does the file itself");
}

#[test]
fn the_bytes_in_force_are_looked_at_again_only_when_a_person_asks() {
    let bytes = text(1).into_bytes();
    let accepted = Accepted {
        file: Arc::new(yaml::parse(&bytes).unwrap()),
        digest: 7,
    };
    let judge = |digest, confirmed| judge("proxy.yaml", &bytes, digest, &accepted, confirmed);
    assert!(matches!(judge(7, false), Judgement::Unchanged));
    assert!(matches!(judge(7, true), Judgement::Accept(_)));
    assert!(matches!(judge(8, false), Judgement::Accept(_)));
}

#[tokio::test]
async fn a_write_of_the_same_bytes_is_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    fs::write(&path, text(1)).unwrap();
    let mut running = Running::start(&path);
    fs::write(&path, text(1)).unwrap();
    fs::write(&path, text(2)).unwrap();
    assert_eq!(running.next().await, Ok(2));
}
