//! Files that tests read.

use std::path::Path;

/// Runs `check` on every input that fuzzing found worth keeping for `target`.
pub(crate) fn replay_corpus(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is committed");
    let mut replayed = 0;
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        check(&std::fs::read(&path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed > 0, "no corpus in {}", folder.display());
}
