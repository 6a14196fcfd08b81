//! Compiles the part of `src/autograd` that is in C++, with the headers of the libtorch that torch-sys has found.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/autograd/node.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let include = include_folder();
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .pic(true)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/autograd/node.cpp")
        .compile("persona_autograd");
}

/// libtorch's headers: those of LIBTORCH_INCLUDE, else beside its libraries, of which torch-sys tells.
fn include_folder() -> PathBuf {
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    if let Some(folder) = std::env::var_os("LIBTORCH_INCLUDE") {
        return Path::new(&folder).join("include");
    }
    let libraries = std::env::var_os("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    Path::new(&libraries).parent().unwrap_or(Path::new("")).join("include")
}
