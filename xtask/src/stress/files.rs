//! Folders, files and what damages them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::workspace::shown;

pub(super) fn say(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let path = path.to_path_buf();
    move |error| format!("{}: {error}", path.display())
}

/// What lies in a folder, sorted; nothing where it is not there.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(super) fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let read = |name: String| {
        let path = folder.join(&name);
        Ok((name, fs::read(&path).map_err(say(&path))?))
    };
    names(folder).into_iter().map(read).collect()
}

pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

pub(super) fn flip(path: &Path) -> std::io::Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    fs::write(path, bytes)
}

pub(super) fn truncate(path: &Path) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len() / 2)
}

/// A file system in memory, gone when this is dropped.
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn mount(path: &Path, bytes: u64) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(path).stderr(Stdio::null());
        mount.status().ok()?.success().then(|| Self(path.to_path_buf()))
    }

    pub(super) fn grow(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=256m"]).arg(&self.0);
        let grown = mount.status().map_err(|error| error.to_string())?;
        if grown.success() { Ok(()) } else { Err(format!("`{}` failed", shown(&mount))) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        flip(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0123446789");
        truncate(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"01234");
    }
}
