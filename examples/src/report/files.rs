//! The report's files.

use super::Report;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

impl Report {
    /// Writes `report.html` and `report.json` into `folder`, which is made where it is missing. Both are written whole
    /// beside their places (`*.partial`) before either is renamed, so that a failure to write leaves the files of an
    /// earlier run as they were.
    ///
    /// # Errors
    ///
    /// Where the report is inconsistent, and where a file or the folder cannot be written, with its path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_both(folder, &self.html()?, self)
    }
}

/// Writes `report.html`, and `report.json` beside it, as [`Report::write`].
pub(crate) fn write_both(folder: &Path, html: &str, report: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("cannot write the report as JSON")?;
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {} for the report", folder.display()))?;
    let staged = [stage(folder, "report.html", html)?, stage(folder, "report.json", &json)?];
    for (partial, path) in &staged {
        fs::rename(partial.path(), path)
            .with_context(|| format!("cannot rename {} to {}", partial.path().display(), path.display()))?;
    }
    Ok(())
}

/// A file under its temporary name, removed when it goes out of scope without having been renamed.
struct Partial(PathBuf);

impl Partial {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone after a rename; where it cannot be removed it is named so that nobody takes it for a report.
        let _ = fs::remove_file(&self.0);
    }
}

fn stage(folder: &Path, name: &str, text: &str) -> Result<(Partial, PathBuf)> {
    let path = folder.join(format!("{name}.partial"));
    let mut file = fs::File::create(&path)
        .with_context(|| format!("cannot write {}: is the folder writable?", path.display()))?;
    let partial = Partial(path);
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}: is the disk full?", partial.path().display()))?;
    Ok((partial, folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn both_files_are_written_and_the_json_reads_back_the_same() {
        let at = tempfile::tempdir().unwrap();
        let folder = at.path().join("a/b");
        let report = sample();
        report.write(&folder).unwrap();
        report.write(&folder).unwrap();
        assert_eq!(names(&folder), ["report.html", "report.json"]);
        let json = fs::read_to_string(folder.join("report.json")).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert_eq!(fs::read_to_string(folder.join("report.html")).unwrap(), report.html().unwrap());
    }

    #[test]
    fn a_failure_names_the_path_and_leaves_what_was_there() {
        let at = tempfile::tempdir().unwrap();
        fs::write(at.path().join("report.html"), "old").unwrap();
        fs::create_dir(at.path().join("report.json.partial")).unwrap();
        let error = format!("{:#}", sample().write(at.path()).unwrap_err());
        assert!(error.contains(&at.path().join("report.json.partial").display().to_string()), "{error}");
        assert_eq!(fs::read_to_string(at.path().join("report.html")).unwrap(), "old");
        assert_eq!(names(at.path()), ["report.html", "report.json.partial"]);

        let file = at.path().join("report.html");
        let error = format!("{:#}", sample().write(&file).unwrap_err());
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
