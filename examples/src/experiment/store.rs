//! The folder of an experiment: every cell in a folder of its own, called by a hash of what made it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use persona_model::write_atomically;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::workspace::hold;

/// The file that tells an experiment's folder from any other.
const MARKER: &str = ".persona-experiment";

/// What a finished cell says of itself, in `cell.json`: written last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The hash of what made it.
    pub key: String,
    /// What it is.
    pub what: String,
    /// Facts for the report.
    pub facts: Vec<(String, String)>,
    /// How long the last call worked on it.
    pub seconds: f64,
    /// The device and the number of threads of that call; absent where it is no matter, and of cells of an earlier
    /// version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// The folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// A folder that may not be there yet. Writes nothing.
    ///
    /// # Errors
    /// When it holds something and no experiment made it.
    pub fn new(folder: &Path) -> Result<Self> {
        let filled = folder.is_dir() && folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        ensure!(
            !filled || folder.join(MARKER).is_file(),
            "{} is not empty, and not the folder of an experiment (it has no {MARKER}); give another `out`",
            folder.display()
        );
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Makes the folder, and keeps other processes from it for as long as the file is open.
    ///
    /// # Errors
    /// When it cannot be written, or another process works in it.
    pub fn make(&self) -> Result<File> {
        let folder = &self.folder;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let marker = folder.join(MARKER);
        if !marker.exists() {
            write_atomically(&marker, b"The files of an experiment; cells are called by what made them.\n")?;
        }
        hold(folder, MARKER)
    }

    /// A place in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A cell's folder.
    #[must_use]
    pub fn cell(&self, kind: &str, key: &str) -> PathBuf {
        let short: String = key.chars().take(20).collect();
        self.folder.join("cells").join(format!("{kind}-{short}"))
    }

    /// What a finished cell says; nothing where it is not finished.
    ///
    /// # Errors
    /// When its file is damaged.
    pub fn finished(&self, kind: &str, key: &str) -> Result<Option<Finished>> {
        let path = self.cell(kind, key).join("cell.json");
        if !path.exists() {
            return Ok(None);
        }
        let finished: Finished = read_json(&path)?;
        Ok((finished.key == key).then_some(finished))
    }

    /// Says that a cell is finished.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&self, kind: &str, finished: &Finished) -> Result<()> {
        let folder = self.cell(kind, &finished.key);
        write_json(&folder.join("cell.json"), finished)?;
        // Only needed to go on with a training.
        let checkpoints = folder.join("checkpoints");
        if checkpoints.exists() {
            let removed = std::fs::remove_dir_all(&checkpoints);
            removed.with_context(|| format!("removing {}", checkpoints.display()))?;
        }
        Ok(())
    }
}

/// Reads a file of a cell.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; remove its folder to make it again", path.display()))
}

/// Writes a file of a cell whole or not at all, its folder before it.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    Ok(write_atomically(path, &serde_json::to_vec_pretty(value)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_there_once_it_is_finished_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("out")).unwrap();
        let held = store.make().unwrap();
        assert!(store.make().unwrap_err().to_string().contains("another process"));
        drop(held);
        store.make().unwrap();
        let key = "0123456789abcdef0123456789abcdef".to_owned();
        assert_eq!(store.finished("train", &key).unwrap(), None);
        let checkpoints = store.cell("train", &key).join("checkpoints/step-1");
        std::fs::create_dir_all(&checkpoints).unwrap();
        let what = "x".to_owned();
        let finished = Finished { key: key.clone(), what, facts: Vec::new(), seconds: 1.0, device: None };
        store.finish("train", &finished).unwrap();
        assert_eq!(store.finished("train", &key).unwrap(), Some(finished));
        assert!(!checkpoints.exists());
        std::fs::write(store.cell("train", &key).join("cell.json"), "{").unwrap();
        assert!(format!("{:#}", store.finished("train", &key).unwrap_err()).contains("damaged"));
        Store::new(&folder.path().join("out")).unwrap();
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Store::new(folder.path()).unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        assert!(Store::new(folder.path()).unwrap_err().to_string().contains(MARKER));
    }
}
