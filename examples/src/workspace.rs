//! The folder of a run: what is finished lies in a file, and is read instead of made again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The folder of a run, bound to its recipe.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
}

impl Workspace {
    /// Opens the folder for a recipe's text, and makes it where it is not there.
    ///
    /// # Errors
    /// When the folder holds a run of another recipe, or cannot be written.
    pub fn open(folder: &Path, recipe: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join("recipe.toml");
        match std::fs::read_to_string(&path) {
            Ok(held) if held == recipe => {}
            Ok(_) => bail!(
                "{} holds a run of another recipe (see recipe.toml there); give another `out`, or start over with --fresh",
                folder.display()
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                persona_model::write_atomically(&path, recipe.as_bytes())?;
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// A place in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a file holds, or what `make` makes, which is then written to it.
    ///
    /// # Errors
    /// Those of `make`; when the file cannot be read or written.
    pub fn cached<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let path = self.path(name);
        if path.exists() {
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            return serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged; remove it to make it again", path.display()));
        }
        let value = make()?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        persona_model::write_atomically(&path, &serde_json::to_vec_pretty(&value)?)?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_read_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path(), "a = 1").unwrap();
        assert_eq!(workspace.cached("x/y.json", || Ok(vec![1, 2])).unwrap(), [1, 2]);
        assert_eq!(
            workspace.cached("x/y.json", || -> Result<Vec<i32>> { bail!("made twice") }).unwrap(),
            [1, 2]
        );
        assert!(workspace.cached("z.json", || -> Result<i32> { bail!("broken") }).is_err());
        assert!(!workspace.path("z.json").exists());
        std::fs::write(workspace.path("x/y.json"), "[1,").unwrap();
        let error = format!("{:#}", workspace.cached("x/y.json", || Ok(vec![0])).unwrap_err());
        assert!(error.contains("y.json is damaged"), "{error}");
    }

    #[test]
    fn another_recipe_in_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Workspace::open(folder.path(), "a = 1").unwrap();
        Workspace::open(folder.path(), "a = 1").unwrap();
        let error = Workspace::open(folder.path(), "a = 2").unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
    }
}
