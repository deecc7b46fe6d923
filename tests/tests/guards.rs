//! The house's laws, read off the sources: what a reviewer would otherwise have to remember.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read the sources must fail"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Shells by nature: they may touch the world in every file below them.
const SHELLS: &[&str] = &[
    "bench/src",
    "controller/apiserver/src",
    "controller/cli/src",
    "controller/examples",
    "controller/src/app",
    "controller/src/hub",
    "controller/src/main",
    "proxy/config/src/xds/service",
    "proxy/runtime/src",
    "proxy/src/admin",
    "proxy/src/app",
    "proxy/src/control",
    "proxy/src/main",
    "proxy/src/source",
    "proxy/src/tcp",
    "proxy/src/upgrade",
    "tests",
];

/// What a pure file may not name.
const WORLD: &[&str] = &[
    ".await",
    "tokio::",
    "kube::Client",
    "std::fs",
    "std::process",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime",
    "rand::rng",
];

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn only_shells_and_io_files_touch_the_world() {
    let broken = findings(|path, text| {
        if is_shell(path) {
            return Vec::new();
        }
        code_lines(text)
            .filter_map(|(number, line)| {
                let word = WORLD.iter().find(|word| line.contains(*word))?;
                Some(format!(
                    "{number}: {word} in a pure file; move it to io.rs or a shell"
                ))
            })
            .collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_lives_in_sys_only() {
    let broken = findings(|path, text| {
        if has_part(path, "sys") {
            return Vec::new();
        }
        // Put together here, so that this file does not find itself.
        let words = [" {", " fn", " impl"].map(|rest| format!("{}{rest}", "unsafe"));
        code_lines(text)
            .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
            .map(|(number, _)| format!("{number}: unsafe outside a folder named sys"))
            .collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_and_functions_stay_readable() {
    let broken = findings(|_, text| {
        let mut found = Vec::new();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!(
                "1: {lines} lines, {FILE_LINES_MAX} is the limit; split it"
            ));
        }
        for (name, start, length) in functions(text) {
            if length > FUNCTION_LINES_MAX {
                found.push(format!(
                    "{start}: fn {name} has {length} lines, {FUNCTION_LINES_MAX} is the limit"
                ));
            }
        }
        found
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_source_file_is_reachable_from_a_mod() {
    let files = sources();
    let declared: BTreeSet<PathBuf> = files.iter().flat_map(|path| modules(path)).collect();
    let roots = ["main.rs", "lib.rs", "build.rs"];
    let lost: Vec<_> = files
        .iter()
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
            let is_target = ["tests", "bin", "benches", "examples", "fuzz_targets"]
                .iter()
                .any(|target| folder == *target);
            !roots.contains(&name) && !is_target && !declared.contains(*path)
        })
        .map(|path| format!("{}: in no mod list", relative(path)))
        .collect();
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn the_control_plane_does_not_link_the_data_plane() {
    let manifest = fs::read_to_string(root().join("controller/Cargo.toml")).unwrap();
    assert!(
        !manifest.contains("fairlead-proxy"),
        "only the CLI links proxy and controller"
    );
    let manifest = fs::read_to_string(root().join("controller/apiserver/Cargo.toml")).unwrap();
    let own = manifest
        .lines()
        .filter(|line| line.starts_with("fairlead-"));
    assert_eq!(own.count(), 0, "the API server knows nothing of Fairlead");
}

#[test]
fn nothing_is_left_undone_or_asleep() {
    // Put together here, so that this file does not find itself.
    let words = [
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
        concat!("thread::sl", "eep("),
    ];
    let broken = findings(|_, text| {
        code_lines(text)
            .filter_map(|(number, line)| {
                let word = words.iter().find(|word| line.contains(**word))?;
                Some(format!("{number}: {word}"))
            })
            .collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_function_is_measured_from_its_name_to_its_brace() {
    let text =
        "impl A {\n    fn long(\n        a: u8,\n    ) {\n        a();\n    }\n}\nfn short() {}\n";
    assert_eq!(
        functions(text),
        [("long".to_owned(), 2, 5), ("short".to_owned(), 8, 1)]
    );
}

// === sources ===

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["proxy", "controller", "bench", "tests"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(
        found.len() > 30,
        "the guard found too few sources to guard: {}",
        found.len()
    );
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn findings(check: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let check_file = |path: &PathBuf| {
        let name = relative(path);
        let text = fs::read_to_string(path).unwrap();
        check(&name, &text)
            .into_iter()
            .map(|found| format!("{name}:{found}"))
            .collect::<Vec<_>>()
    };
    sources().iter().flat_map(check_file).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn has_part(path: &str, part: &str) -> bool {
    path.trim_end_matches(".rs")
        .split('/')
        .any(|name| name == part)
}

fn is_shell(path: &str) -> bool {
    let module = path.trim_end_matches(".rs");
    has_part(path, "io")
        || has_part(path, "sys")
        || has_part(path, "tests")
        || has_part(path, "fuzz")
        || has_part(path, "examples")
        || SHELLS.iter().any(|shell| {
            module == *shell
                || module
                    .strip_prefix(shell)
                    .is_some_and(|rest| rest.starts_with('/'))
        })
}

/// Lines of code with their numbers: comments and everything after `mod tests {` left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("mod tests {"))
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// `(name, first line, lines)` of each function, by rustfmt's indentation.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(at) = code.find("fn ").filter(|at| {
            code[..*at].split_whitespace().all(|word| {
                matches!(word, "async" | "const" | "unsafe" | "extern" | "\"C\"")
                    || word.starts_with("pub")
                    || word.ends_with(')')
            })
        }) else {
            continue;
        };
        let name = code[at + 3..].split(['(', '<']).next().unwrap_or_default();
        if code.ends_with(';') || code.ends_with('}') {
            found.push((name.to_owned(), start + 1, 1));
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let length = lines[start..]
            .iter()
            .position(|line| *line == close)
            .map_or(1, |at| at + 1);
        found.push((name.to_owned(), start + 1, length));
    }
    found
}

/// The files that `path` declares with `mod name;`.
fn modules(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(path).unwrap();
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let folder = path.parent().unwrap();
    let own = match stem {
        "main" | "lib" | "build" | "mod" => folder.to_owned(),
        _ if folder
            .file_name()
            .is_some_and(|name| name == "tests" || name == "bin")
            && folder
                .parent()
                .is_some_and(|crate_folder| crate_folder.join("Cargo.toml").exists()) =>
        {
            folder.to_owned()
        }
        _ => folder.join(stem),
    };
    let mut found = Vec::new();
    let mut at = None;
    for line in text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"") {
            at = path.split('"').next().map(|file| folder.join(file));
        }
        let Some(name) = line
            .strip_suffix(';')
            .and_then(|line| line.split("mod ").nth(1))
        else {
            continue;
        };
        if line
            .split_whitespace()
            .next()
            .is_some_and(|word| word == "mod" || word.starts_with("pub"))
        {
            found.extend(at.take());
            found.push(own.join(format!("{name}.rs")));
            found.push(own.join(name).join("mod.rs"));
            // Inside an inline module of a test's root, files live in the folder of that module.
            found.push(folder.join(stem).join(format!("{name}.rs")));
        }
    }
    found
}
