//! Reads the fixture files of this folder's functions: the copies in tests/fixtures, and those in every folder that the
//! environment variable PERSONA_METRICS_FIXTURES names (a list as in PATH).

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs a check over the file of that name in every folder, and says how many cases it held.
pub(crate) fn check(name: &str, check: fn(&str) -> usize) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let others = env::var_os("PERSONA_METRICS_FIXTURES").unwrap_or_default();
    let others: Vec<PathBuf> =
        env::split_paths(&others).filter(|path| !path.as_os_str().is_empty()).collect();
    for (folder, needed) in std::iter::once((&own, true)).chain(others.iter().map(|path| (path, false))) {
        let path = folder.join(name);
        if !needed && !path.exists() && folder.is_dir() {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let cases = check(&text);
        assert!(cases > 0, "{}: no cases", path.display());
        report(&format!("fixture {name}: {cases} cases from {}", folder.display()));
    }
}

/// The test harness keeps what `println!` writes in a passing test; these lines are to be seen.
pub(crate) fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

#[cfg(not(feature = "jieba"))]
#[test]
fn fixture_without_jieba() {
    report("fixture jieba_tokens.json: passed over, the feature jieba is off");
}
