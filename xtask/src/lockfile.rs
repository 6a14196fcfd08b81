//! Versions out of `Cargo.lock`.

/// The versions of package `name` in the text of a `Cargo.lock`, as they stand there.
pub(crate) fn versions<'a>(lock: &'a str, name: &str) -> Vec<&'a str> {
    let value = |block: &'a str, key: &str| {
        block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
    };
    lock.split("[[package]]")
        .skip(1)
        .filter(|block| value(block, "name") == Some(name))
        .filter_map(|block| value(block, "version"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"version = 4

[[package]]
name = "tch"
version = "0.24.0"
dependencies = [
 "torch-sys",
]

[[package]]
name = "syn"
version = "1.0.109"

[[package]]
name = "syn"
version = "2.0.100"
"#;

    #[test]
    fn versions_are_found_by_exact_name() {
        assert_eq!(versions(LOCK, "tch"), ["0.24.0"]);
        assert_eq!(versions(LOCK, "syn"), ["1.0.109", "2.0.100"]);
        assert!(versions(LOCK, "torch-sys").is_empty());
        assert!(versions("", "tch").is_empty());
    }

    /// The exact libtorch is a fact of torch-sys' build script: who updates tch must update both.
    #[test]
    fn the_libtorch_we_fetch_is_the_one_that_the_locked_torch_sys_expects() {
        let lock = crate::Workspace::find().lockfile().unwrap();
        assert_eq!((versions(&lock, "torch-sys"), crate::libtorch::VERSION), (vec!["0.24.0"], "2.11.0"));
    }
}
