//! `cargo xtask setup`: libtorch found or fetched, and linked as `.libtorch`.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::cache::Cache;
use crate::libtorch::{Build, Libtorch, inspect};
use crate::workspace::Workspace;
use crate::{Result, cuda, fill, prerequisites};

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// Asked for by name; else whatever is linked already, or what suits the machine.
    pub(crate) build: Option<Build>,
    /// Fetch again what is there.
    pub(crate) force: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for argument in arguments {
            let build = match argument.as_str() {
                "--force" => {
                    options.force = true;
                    continue;
                }
                "--cpu" => Build::Cpu,
                "--cuda" => Build::Cuda,
                other => {
                    return Err(format!(
                        "`cargo xtask setup` knows --cpu, --cuda and --force, not `{other}`"
                    ));
                }
            };
            if options.build.replace(build).is_some_and(|before| before != build) {
                return Err("--cpu and --cuda exclude each other".into());
            }
        }
        Ok(options)
    }
}

/// Leaves a whole libtorch behind `.libtorch`, or an error that says what to do. Does nothing where
/// that is so already.
pub(crate) fn ensure(workspace: &Workspace, options: &Options) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    prerequisites::cxx(env::var_os("CXX").as_deref(), &path)?;
    if !workspace.is_built() {
        build_room(&workspace.target(), BUILD_ROOM)?;
    }
    let libtorch = match workspace.libtorch_variable() {
        Some(given) => from_variable(workspace, &given, options)?,
        None => match linked(workspace).filter(|_| *options == Options::default()) {
            Some(present) => present,
            None => from_cache(workspace, &Cache::find()?, options)?,
        },
    };
    println!("setup: {libtorch} is linked, .libtorch -> {}", libtorch.path.display());
    if libtorch.build == Build::Cpu
        && options.build.is_none()
        && let Some(driver) = cuda::driver()
    {
        println!(
            "setup: a CUDA driver is here ({driver}); `cargo xtask setup --cuda` fetches the build that uses it"
        );
    }
    Ok(())
}

/// What a release build of programs, tests and benches takes, with some to spare.
const BUILD_ROOM: u64 = 2_000_000_000;

fn build_room(target: &Path, needed: u64) -> Result<()> {
    prerequisites::room(target, needed, "a build of the workspace", "CARGO_TARGET_DIR")
}

fn linked(workspace: &Workspace) -> Option<Libtorch> {
    inspect(&workspace.link()).ok()
}

fn from_variable(workspace: &Workspace, given: &Path, options: &Options) -> Result<Libtorch> {
    if *options != Options::default() {
        return Err(
            "LIBTORCH is set and is what gets linked; unset it to use --cpu, --cuda or --force".into()
        );
    }
    let libtorch = inspect(given).map_err(|error| {
        format!(
            "LIBTORCH does not name a usable libtorch: {error}\nCorrect it, or unset it to have one fetched."
        )
    })?;
    point(&workspace.link(), given)?;
    Ok(libtorch)
}

fn from_cache(workspace: &Workspace, cache: &Cache, options: &Options) -> Result<Libtorch> {
    refuse_folder(&workspace.link())?;
    let build =
        options.build.unwrap_or_else(|| if cuda::driver().is_some() { Build::Cuda } else { Build::Cpu });
    let folder = cache.libtorch(build);
    let present = inspect(&folder).ok().filter(|_| !options.force);
    let libtorch = match present {
        Some(libtorch) => libtorch,
        None => fill::fill(cache, build, options.force)?,
    };
    point(&workspace.link(), &folder)?;
    Ok(libtorch)
}

/// A folder where the link belongs was put there by hand, and is not ours to remove.
fn refuse_folder(link: &Path) -> Result<()> {
    match fs::symlink_metadata(link) {
        Ok(data) if !data.is_symlink() => Err(format!(
            "{} is in the way: it is not a link; move it elsewhere and call again",
            link.display()
        )),
        _ => Ok(()),
    }
}

/// Makes `link` point to `target`, in one step: whoever builds meanwhile sees the old or the new.
fn point(link: &Path, target: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    refuse_folder(link)?;
    let say = |error| format!("{} cannot be made: {error}", link.display());
    let fresh = link.with_file_name(format!(".libtorch-{}", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(say(error)),
        _ => {}
    }
    symlink(target, &fresh).and_then(|()| fs::rename(&fresh, link)).map_err(say)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::{VERSION, fake};

    #[test]
    fn what_the_cache_holds_is_linked_without_fetching() {
        let folder = tempfile::tempdir().unwrap();
        let (workspace, cache) = (Workspace::at(folder.path()), Cache::at(&folder.path().join("cache")));
        fake(&cache.libtorch(Build::Cpu), VERSION);
        let options = Options { build: Some(Build::Cpu), force: false };
        let libtorch = from_cache(&workspace, &cache, &options).unwrap();
        assert_eq!(libtorch.build, Build::Cpu);
        assert_eq!(linked(&workspace), Some(libtorch));
    }

    #[test]
    fn a_build_folder_without_room_is_named_with_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let message = build_room(&folder.path().join("target"), 1 << 60).unwrap_err();
        assert!(message.contains("target") && message.contains("1152921504.6 GB"), "{message}");
        assert!(message.contains("CARGO_TARGET_DIR"), "{message}");
        assert_eq!(build_room(folder.path(), 1), Ok(()));
    }

    #[test]
    fn the_variable_wins_over_an_existing_link() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fake(&old, VERSION);
        fake(&new, VERSION);
        point(&workspace.link(), &old).unwrap();
        from_variable(&workspace, &new, &Options::default()).unwrap();
        assert_eq!(fs::read_link(workspace.link()).unwrap(), new);
    }

    #[test]
    fn a_wrong_variable_is_an_error_and_leaves_the_link_alone() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fake(&old, VERSION);
        fake(&new, "2.4.0");
        point(&workspace.link(), &old).unwrap();
        let message = from_variable(&workspace, &new, &Options::default()).unwrap_err();
        assert!(message.starts_with("LIBTORCH") && message.contains("2.4.0"), "{message}");
        assert_eq!(fs::read_link(workspace.link()).unwrap(), old);
    }

    #[test]
    fn a_dangling_link_is_replaced_and_a_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        symlink("/nowhere/libtorch", workspace.link()).unwrap();
        assert_eq!(linked(&workspace), None);
        let there = folder.path().join("there");
        fake(&there, VERSION);
        point(&workspace.link(), &there).unwrap();
        assert!(linked(&workspace).is_some());
        fs::remove_file(workspace.link()).unwrap();
        fs::create_dir(workspace.link()).unwrap();
        assert!(point(&workspace.link(), &there).unwrap_err().contains("in the way"));
    }
}
