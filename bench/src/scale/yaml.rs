//! The same services from a file: what its start, a reload and its memory cost, as the slope between a
//! small and a large one.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use fairlead_config::{snapshot::Snapshot, yaml};

use super::{
    Options, live,
    proxy::Proxy,
    record::{self, Spread},
    world::World,
};

/// Measures files of a tenth and of a hundredth of the services.
pub(crate) fn measure(options: &Options, folder: &Path, port: u16) -> anyhow::Result<record::Yaml> {
    let part = |divisor: u32| Options {
        services: (options.services / divisor).max(2),
        ..options.clone()
    };
    let (small, large) = (part(100), part(10));
    let thousands = |options: &Options| f64::from(options.services * options.endpoints) / 1000.0;
    let difference = thousands(&large) - thousands(&small);
    ensure!(difference > 0.0, "too few services to tell what one costs");
    let small = one(&small, folder, port)?;
    let large = one(&large, folder, port)?;
    let slope = |of: fn(&record::Yaml) -> f64| (of(&large) - of(&small)) / difference;
    Ok(record::Yaml {
        start_milliseconds: slope(|it| it.start_milliseconds),
        reload_milliseconds: slope(|it| it.reload_milliseconds),
        peak_megabytes: slope(|it| it.peak_megabytes),
        kilobytes: slope(|it| it.kilobytes),
    })
}

fn one(options: &Options, folder: &Path, port: u16) -> anyhow::Result<record::Yaml> {
    let world = World::new(options, port);
    let path = folder.join("proxy.yaml");
    let snapshot = world.snapshot(0..options.services);
    let text = text(&snapshot);
    fs::write(&path, &text)?;
    let began = Instant::now();
    let proxy = Proxy::of_file(&path)?;
    proxy.wait_for(world.front(options.services - 1))?;
    let start = began.elapsed();
    let mut reloads = Vec::new();
    for round in 0..RELOADS {
        let number = round % options.services;
        let mut changed = snapshot.clone();
        let ready = world.with_first(number, true);
        changed.endpoints.extend(ready.endpoints);
        let new = folder.join("proxy.yaml.new");
        fs::write(&new, self::text(&changed))?;
        let wanted = world.endpoint_ip(number, 0);
        let began = Instant::now();
        fs::rename(&new, &path)?;
        while live::ask(world.front(number))? != wanted {
            ensure!(began.elapsed() < PATIENCE, "the reload took no effect");
        }
        reloads.push(began.elapsed());
    }
    reloads.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(record::Yaml {
        start_milliseconds: milliseconds(start),
        reload_milliseconds: milliseconds(reloads[reloads.len() / 2]),
        peak_megabytes: proxy.usage()?.peak,
        kilobytes: text.len() as f64 / 1e3,
    })
}

/// How soon a change of a file of ten services is in effect, by how the file changes.
pub(crate) fn reloads(
    options: &Options,
    folder: &Path,
    port: u16,
) -> anyhow::Result<record::Reloads> {
    let options = Options {
        services: 10,
        ..options.clone()
    };
    let world = World::new(&options, port);
    Ok(record::Reloads {
        write: reload(&world, &folder.join("write"), |folder, text, _| {
            fs::write(folder.join(FILE), text)
        })?,
        rename: reload(&world, &folder.join("rename"), |folder, text, _| {
            fs::write(folder.join("new"), text)?;
            fs::rename(folder.join("new"), folder.join(FILE))
        })?,
        swap: reload(&world, &folder.join("swap"), |folder, text, round| {
            // As the kubelet does it.
            let version = format!("..{round}");
            fs::create_dir(folder.join(&version))?;
            fs::write(folder.join(&version).join(FILE), text)?;
            symlink(&version, folder.join("..data_tmp"))?;
            fs::rename(folder.join("..data_tmp"), folder.join("..data"))
        })?,
    })
}

/// Makes another service's first endpoint ready each time, and waits for a connection there.
fn reload(
    world: &World,
    folder: &Path,
    put: impl Fn(&Path, &str, u32) -> std::io::Result<()>,
) -> anyhow::Result<Spread> {
    let whole = world.snapshot(0..world.services);
    fs::create_dir(folder)?;
    put(folder, &text(&whole), 0)?;
    if !folder.join(FILE).exists() {
        symlink(Path::new("..data").join(FILE), folder.join(FILE))?;
    }
    let proxy = Proxy::of_file(&folder.join(FILE))?;
    proxy.wait_for(world.front(world.services - 1))?;
    let mut effects = Vec::new();
    for round in 1..=CHANGES {
        let number = round % world.services;
        let mut changed = whole.clone();
        let ready = world.with_first(number, true);
        changed.endpoints.extend(ready.endpoints);
        let text = text(&changed);
        let wanted = world.endpoint_ip(number, 0);
        let began = Instant::now();
        put(folder, &text, round)?;
        while live::ask(world.front(number))? != wanted {
            ensure!(began.elapsed() < PATIENCE, "the reload took no effect");
        }
        effects.push(began.elapsed());
    }
    Ok(Spread::of(&effects))
}

fn text(snapshot: &Snapshot) -> String {
    yaml::encode(&yaml::Settings::default(), snapshot)
}

const RELOADS: u32 = 5;
const CHANGES: u32 = 100;
const FILE: &str = "proxy.yaml";
const PATIENCE: Duration = Duration::from_secs(60);
