//! Frames as releases sent them, whole and in chunks.

use super::*;

#[test]
fn frames_of_every_release_mean_what_they_meant() {
    let releases = std::fs::read_dir(recorded()).unwrap();
    let releases = releases.map(|entry| entry.unwrap().path());
    for release in releases.filter(|path| path.is_dir()) {
        let text = std::fs::read_to_string(release.join("snapshot.yaml")).unwrap();
        let mut decoder = Decoder::default();
        let mut snapshot = Snapshot::default();
        for index in 0.. {
            let Ok(frame) = std::fs::read(release.join(format!("{index}.pb"))) else {
                assert!(index > 2, "{} holds all three types", release.display());
                break;
            };
            let resource = Resource::decode(frame.as_slice()).unwrap();
            let url = resource.resource.as_ref().unwrap().type_url.clone();
            let decoded = decoder.decode(&url, &[resource], &[]);
            assert_eq!(decoded.problems, [], "{}", release.display());
            snapshot.apply(decoded.delta);
        }
        assert_eq!(snapshot, of_file(&text), "{}", release.display());
    }
}

#[test]
#[ignore = "writes the frames of this release"]
fn record_the_resources() {
    let version = env!("CARGO_PKG_VERSION");
    let (release, _) = version.rsplit_once('.').unwrap();
    let stamp = Stamp {
        as_of: 7,
        epoch: "recorded".to_owned(),
    };
    let resources = encode(&web(), &stamp);
    let all = parts(&resources).into_iter().flat_map(|(_, all)| all);
    for (index, resource) in all.enumerate() {
        let path = recorded().join(release).join(format!("{index}.pb"));
        std::fs::write(path, resource.encode_to_vec()).unwrap();
    }
    let folder = recorded().join(format!("{release}-chunks"));
    for (index, resource) in apart(&web(), &stamp).into_iter().enumerate() {
        let path = folder.join(format!("{index}.pb"));
        std::fs::write(path, resource.encode_to_vec()).unwrap();
    }
    let yaml = recorded().join(release).join("snapshot.yaml");
    std::fs::copy(yaml, folder.join("snapshot.yaml")).unwrap();
}

/// The resources for a client that takes chunks, in order.
fn apart(snapshot: &Snapshot, stamp: &Stamp) -> Vec<Resource> {
    let whole = encode(snapshot, stamp);
    let mut all = whole.clusters;
    for (name, rows) in &snapshot.endpoints {
        let service = &snapshot.services[name];
        for member in service.tiers.iter().flat_map(|tier| &tier.members) {
            for chunk in chunks::cut(rows.of_member(&member.name)) {
                let name = chunks::name(name, chunk).unwrap();
                all.push(envelope::seal(&name, &chunks::message(chunk), stamp));
            }
        }
        let outline = chunks::outline(service);
        all.push(envelope::seal(name.as_str(), &outline, stamp));
    }
    all.extend(whole.listeners);
    all
}

fn recorded() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded")
}
