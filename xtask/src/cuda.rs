//! Is there an NVIDIA driver?

use std::path::Path;
use std::process::Command;

/// Where the driver's library lies when the loader's cache does not name it (containers, WSL).
const FOLDERS: [&str; 4] =
    ["/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/usr/lib64", "/usr/lib/x86_64-linux-gnu"];

/// What shows that a driver is here, or `None`.
pub(crate) fn driver() -> Option<String> {
    let device = Path::new("/dev/nvidiactl");
    if device.exists() {
        return Some(device.display().to_string());
    }
    let mut folders: Vec<_> = FOLDERS.iter().map(Into::into).collect();
    folders.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    let library = folders.iter().map(|folder| folder.join("libcuda.so.1")).find(|file| file.exists());
    library.map(|file| file.display().to_string()).or_else(|| in_loader_cache("libcuda.so.1"))
}

/// The path that the loader's cache gives for a library.
fn in_loader_cache(library: &str) -> Option<String> {
    let output = ["ldconfig", "/sbin/ldconfig"].iter().find_map(|program| {
        Command::new(program).arg("-p").output().ok().filter(|output| output.status.success())
    })?;
    path_in(&String::from_utf8_lossy(&output.stdout), library)
}

fn path_in(listing: &str, library: &str) -> Option<String> {
    listing.lines().find_map(|line| {
        let (name, path) = line.split_once("=>")?;
        (name.split_whitespace().next() == Some(library)).then(|| path.trim().to_owned())
    })
}

/// The graphics cards that the driver lists, or why it lists none.
pub(crate) fn cards() -> Result<Vec<String>, String> {
    let output =
        Command::new("nvidia-smi").arg("-L").output().map_err(|error| format!("nvidia-smi: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let cards: Vec<String> = text.lines().filter(|line| line.starts_with("GPU ")).map(String::from).collect();
    if cards.is_empty() { Err(format!("nvidia-smi -L lists no card: {}", text.trim())) } else { Ok(cards) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_by_its_whole_name() {
        let listing = "2 libs found in cache `/etc/ld.so.cache'\n\
            \tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1\n\
            \tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1\n";
        assert_eq!(path_in(listing, "libcuda.so.1").unwrap(), "/usr/lib/x86_64-linux-gnu/libcuda.so.1");
        assert_eq!(path_in(listing, "libcuda.so"), None);
        assert_eq!(path_in(listing, "cuda.so.1"), None);
    }
}
