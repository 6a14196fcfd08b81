//! The folder of a run: what is finished lies in a file, and is read instead of made again.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The file that tells a run's folder from any other.
const MARKER: &str = ".persona-run";

/// What a run makes before its first training. Another recipe may replace it.
const SET_UP: [&str; 4] = ["recipe.toml", "split.json", "tokenizer", "start"];

/// What else a run makes.
const RESULTS: [&str; 15] = [
    "plain",
    "stage1",
    "align",
    "judge",
    "pretrain",
    "pairs.jsonl",
    "pairs.report.json",
    "pairs.reference.safetensors",
    "held_out_pairs.jsonl",
    "held_out_pairs.report.json",
    "held_out_pairs.reference.safetensors",
    "controls",
    "replies",
    "report.html",
    "report.json",
];

/// What becomes of an earlier run in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// It is continued.
    #[default]
    Continue,
    /// What it made is removed, and nothing else.
    Fresh,
}

/// The folder of a run, bound to its recipe.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
    _held: File,
}

/// Keeps other processes from a folder, by its marker, for as long as the file is open.
///
/// # Errors
/// When another one has it; when the marker cannot be read.
pub(crate) fn hold(folder: &Path, marker: &str) -> Result<File> {
    let path = folder.join(marker);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        // A file system without locks is no reason not to work.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "{}: another process works in this folder; wait for it, or give another `out`",
                folder.display()
            )
        }
    }
}

impl Workspace {
    /// Whether [`Workspace::open`] would take the folder for a recipe's text. Changes nothing.
    ///
    /// # Errors
    /// When the folder holds what a run would make and no run made it; when it holds results of another recipe.
    pub fn check(folder: &Path, recipe: &str, start: Start) -> Result<()> {
        let there = |name: &&&str| folder.join(name).symlink_metadata().is_ok();
        if !there(&&MARKER) {
            if let Some(name) = SET_UP.iter().chain(&RESULTS).find(there) {
                bail!(
                    "{} holds {name:?}, and is not the folder of a run (it has no {MARKER}); give another `out`, or remove it yourself",
                    folder.display()
                );
            }
            return Ok(());
        }
        let other = start == Start::Continue && held_recipe(folder)?.as_deref() != Some(recipe);
        ensure!(
            !other || !RESULTS.iter().any(|name| there(&name)),
            "{} holds a run of another recipe (see recipe.toml there); give another `out`, or start over with --fresh",
            folder.display()
        );
        Ok(())
    }

    /// Opens the folder for a recipe's text, and makes it where it is not there.
    ///
    /// # Errors
    /// As [`Workspace::check`]; when the folder cannot be written, or another process works in it.
    pub fn open(folder: &Path, recipe: &str, start: Start) -> Result<Self> {
        Self::check(folder, recipe, start)?;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let marker = folder.join(MARKER);
        if !marker.exists() {
            persona_model::write_atomically(&marker, b"The files of a run. `--fresh` removes them.\n")?;
        }
        let workspace = Self { folder: folder.to_path_buf(), _held: hold(folder, MARKER)? };
        if start == Start::Fresh || held_recipe(folder)?.as_deref() != Some(recipe) {
            // The recipe last: until then the folder still says whose the rest is.
            for name in RESULTS.iter().chain(SET_UP.iter().rev()) {
                remove(&workspace.path(name))?;
            }
            persona_model::write_atomically(&workspace.path("recipe.toml"), recipe.as_bytes())?;
        }
        Ok(workspace)
    }

    /// The name of the run's file or folder in `folder` in which `path` lies, if any.
    #[must_use]
    pub fn name_around(folder: &Path, path: &Path) -> Option<&'static str> {
        SET_UP.iter().chain(&RESULTS).find(|name| lies_in(path, &folder.join(name))).copied()
    }

    /// A place in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a file holds, where it was made from `inputs` (see [`digest`]); else what `make` makes, which is then written
    /// to it.
    ///
    /// # Errors
    /// Those of `make`; when the file cannot be read or written.
    pub fn cached<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        inputs: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let path = self.path(name);
        if path.exists() {
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let held: Cached<T> = serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged; remove it to make it again", path.display()))?;
            if held.inputs == inputs {
                return Ok(held.value);
            }
            println!("{name} was made from other data or another model, and is made again");
        }
        let value = make()?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        let held = Cached { inputs: inputs.to_owned(), value: &value };
        persona_model::write_atomically(&path, &serde_json::to_vec_pretty(&held)?)?;
        Ok(value)
    }
}

/// A value with the digest of what it was made from.
#[derive(Serialize, Deserialize)]
struct Cached<T> {
    inputs: String,
    value: T,
}

/// The SHA-256 of a value's JSON, in hexadecimal.
///
/// # Errors
/// When the value has no JSON form.
pub fn digest(inputs: &impl Serialize) -> Result<String> {
    let hash = Sha256::digest(serde_json::to_vec(inputs)?);
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files of a model's folder that loading reads, besides the weights.
const MODEL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];

/// The SHA-256 of the files that loading a model and its tokenizer reads of a folder, with their names in ascending order;
/// of a file, its own.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn model_digest(path: &Path) -> Result<String> {
    let mut files = Vec::new();
    if path.is_dir() {
        let entries = std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
        for entry in entries {
            let entry = entry?.path();
            let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let read = MODEL_FILES.contains(&name.as_str()) || name.ends_with(".safetensors");
            if entry.is_file() && read {
                files.push((name, entry));
            }
        }
        files.sort();
    } else {
        files.push((String::new(), path.to_path_buf()));
    }
    let mut all = Sha256::new();
    for (name, file) in files {
        let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        all.update(name.as_bytes());
        all.update(Sha256::digest(bytes));
    }
    Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a file or folder that is there lies in a folder that is there, or is that folder.
#[must_use]
pub fn lies_in(path: &Path, folder: &Path) -> bool {
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(path), Ok(folder)) => path.starts_with(folder),
        _ => false,
    }
}

fn held_recipe(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("recipe.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(data) if data.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, recipe: &str) -> Result<Workspace> {
        Workspace::open(folder, recipe, Start::Continue)
    }

    #[test]
    fn what_is_finished_is_read_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = open(folder.path(), "a = 1").unwrap();
        assert_eq!(workspace.cached("x/y.json", "i", || Ok(vec![1, 2])).unwrap(), [1, 2]);
        assert!(open(folder.path(), "a = 1").unwrap_err().to_string().contains("another process"));
        let twice = || -> Result<Vec<i32>> { bail!("made twice") };
        assert_eq!(workspace.cached("x/y.json", "i", twice).unwrap(), [1, 2]);
        assert!(workspace.cached("z.json", "i", || -> Result<i32> { bail!("broken") }).is_err());
        assert!(!workspace.path("z.json").exists());
        std::fs::write(workspace.path("x/y.json"), "[1,").unwrap();
        let error = format!("{:#}", workspace.cached("x/y.json", "i", || Ok(vec![0])).unwrap_err());
        assert!(error.contains("y.json is damaged"), "{error}");
    }

    #[test]
    fn what_was_made_from_other_inputs_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = open(folder.path(), "a = 1").unwrap();
        let (one, other) = (digest(&["hello"]).unwrap(), digest(&["hello!"]).unwrap());
        assert_eq!(workspace.cached("x.json", &one, || Ok(1)).unwrap(), 1);
        assert_eq!(workspace.cached("x.json", &other, || Ok(2)).unwrap(), 2);
        assert_eq!(workspace.cached("x.json", &other, || Ok(3)).unwrap(), 2);
    }

    #[test]
    fn a_model_is_known_by_what_loading_reads() {
        let folder = tempfile::tempdir().unwrap();
        let digest_with = |name: &str| {
            std::fs::write(folder.path().join(name), name).unwrap();
            model_digest(folder.path()).unwrap()
        };
        let config = digest_with("config.json");
        assert_eq!(digest_with("measured.json"), config);
        assert_eq!(digest_with("README.md"), config);
        let vocabulary = digest_with("vocab.txt");
        assert_ne!(vocabulary, config);
        assert_ne!(digest_with("model-00001-of-00002.safetensors"), vocabulary);
    }

    #[test]
    fn results_of_another_recipe_are_refused_and_a_mere_set_up_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        open(folder.path(), "a = 1").unwrap();
        std::fs::write(path("split.json"), "{}").unwrap();
        open(folder.path(), "a = 1").unwrap();
        assert!(path("split.json").exists());
        open(folder.path(), "a = 2").unwrap();
        assert!(!path("split.json").exists());
        std::fs::create_dir(path("plain")).unwrap();
        open(folder.path(), "a = 2").unwrap();
        let error = open(folder.path(), "a = 3").unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
        assert!(path("plain").exists());
    }

    #[test]
    fn a_fresh_start_removes_what_a_run_makes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        open(folder.path(), "a = 1").unwrap();
        std::fs::create_dir_all(path("plain/checkpoints")).unwrap();
        std::fs::write(path("notes.txt"), "mine").unwrap();
        Workspace::check(folder.path(), "a = 2", Start::Fresh).unwrap();
        assert!(path("plain").exists());
        Workspace::open(folder.path(), "a = 2", Start::Fresh).unwrap();
        assert!(!path("plain").exists());
        assert_eq!(std::fs::read_to_string(path("notes.txt")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(path("recipe.toml")).unwrap(), "a = 2");
    }

    #[test]
    fn a_folder_that_no_run_made_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("recipe.toml"), "a = 1").unwrap();
        for start in [Start::Continue, Start::Fresh] {
            let error = Workspace::open(folder.path(), "a = 1", start).unwrap_err().to_string();
            assert!(error.contains("recipe.toml") && error.contains(MARKER), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
