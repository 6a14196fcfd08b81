//! Models by repository id, fetched into the cache that Hugging Face's own tools use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};
use crate::weights;

/// The small files that are taken where a repository has them; weights come beside them.
const FILES: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: &str = "adapter_model.safetensors";

/// Where models are fetched from, and where they are kept: the layout of `huggingface_hub`, so that what Python has
/// fetched is not fetched again.
///
/// ```no_run
/// use persona_model::{Hub, load_causal_lm};
/// use tch::{Device, Kind};
///
/// let folder = Hub::from_env()?.model("openai-community/gpt2")?;
/// let (model, _) = load_causal_lm(&folder, Device::Cpu, Kind::Float)?;
/// # Ok::<(), persona_model::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Hub {
    cache: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// As the environment says: `HF_HUB_CACHE` or `HF_HOME/hub` (else `~/.cache/huggingface/hub`) is the cache,
    /// `HF_ENDPOINT` the address, `HF_TOKEN` the token (else the one that `hf auth login` has stored), and
    /// `HF_HUB_OFFLINE` (1, true, yes, on) forbids the network.
    ///
    /// # Errors
    /// [`Error::Hub`] where nothing says where the cache is: no such variable, and no home folder.
    pub fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")));
            Some(cache?.join("huggingface"))
        });
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or(Error::Hub {
            repository: String::new(),
            reason: "there is no home folder to keep models in; set HF_HOME".to_owned(),
        })?;
        let stored = || std::fs::read_to_string(home?.join("token")).ok();
        let token = variable("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned());
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value));
        let token = token.filter(|token| !token.is_empty());
        Ok(Self { endpoint: variable("HF_ENDPOINT"), token, offline, ..Self::at(cache) })
    }

    /// With this cache folder, whatever the environment says.
    pub fn at(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), endpoint: None, token: None, offline: false }
    }

    /// Another address than `https://huggingface.co`: a mirror.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Whether only the cache is looked at.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// The folder of a model: this folder if there is one of that name, else the repository of that id.
    ///
    /// # Errors
    /// As [`Hub::revision`].
    pub fn model(&self, folder_or_id: &str) -> Result<PathBuf> {
        let folder = Path::new(folder_or_id);
        if folder.is_dir() {
            return Ok(folder.to_path_buf());
        }
        self.revision(folder_or_id, "main")
    }

    /// The folder of a repository at a branch, tag or commit: configuration, tokenizer, and weights in safetensors, single
    /// or sharded, or those of an adapter. What the cache holds of that commit is not fetched again.
    ///
    /// # Errors
    /// [`Error::Hub`] for an id that is none, a repository that cannot be reached or has no weights in safetensors, and
    /// offline for what the cache does not hold whole.
    pub fn revision(&self, id: &str, revision: &str) -> Result<PathBuf> {
        let fail = |reason: String| Error::Hub { repository: id.to_owned(), reason };
        check_id(id).map_err(fail)?;
        if revision.is_empty() || revision.contains("..") || revision.starts_with('/') {
            return Err(fail(format!("`{revision}` is no branch, tag or commit")));
        }
        if self.offline { self.cached(id, revision) } else { self.fetch(id, revision) }
    }

    /// The snapshot that the cache holds.
    fn cached(&self, id: &str, revision: &str) -> Result<PathBuf> {
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        let root = self.cache.join(repo.folder_name());
        let commit = std::fs::read_to_string(root.join("refs").join(revision));
        let folder = root.join("snapshots").join(commit.as_deref().unwrap_or(revision).trim());
        let missing = |what: &str| Error::Hub {
            repository: id.to_owned(),
            reason: format!(
                "{what} is not in {} at `{revision}`, and the network is forbidden (HF_HUB_OFFLINE); allow it once, or \
                 give the folder of a checkpoint",
                root.display()
            ),
        };
        if !folder.is_dir() {
            return Err(missing("the repository"));
        }
        if folder.join(ADAPTER).is_file() && folder.join("adapter_config.json").is_file() {
            return Ok(folder);
        }
        if !folder.join("config.json").is_file() {
            return Err(missing("config.json"));
        }
        match weights::weight_files(&folder) {
            Ok(files) => match files.iter().find(|file| !file.is_file()) {
                Some(file) => Err(missing(&file.file_name().unwrap_or_default().to_string_lossy())),
                None => Ok(folder),
            },
            Err(Error::NoWeights { .. }) => Err(missing(WEIGHTS)),
            Err(other) => Err(other),
        }
    }

    fn fetch(&self, id: &str, revision: &str) -> Result<PathBuf> {
        let fail = |reason: String| Error::Hub { repository: id.to_owned(), reason };
        let endpoint = self.endpoint.as_deref().unwrap_or("https://huggingface.co");
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            fail(format!(
                "{what} from {endpoint}: {error}; look at the id and the network, set HF_ENDPOINT to a mirror, HF_TOKEN for \
                 a gated repository, or HF_HUB_OFFLINE=1 to use what the cache holds"
            ))
        };
        let mut builder =
            ApiBuilder::from_cache(Cache::new(self.cache.clone())).with_token(self.token.clone());
        builder = builder.with_progress(true).with_retries(3).with_endpoint(endpoint.to_owned());
        let api = builder.build().map_err(|error| failed("no client", &error))?;
        let repo = |revision: &str| Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        let info = api.repo(repo(revision)).info();
        let info = info.map_err(|error| failed("the list of files is not to be had", &error))?;
        // By its commit, so that no file of another commit is among them.
        let commit = Snapshot {
            folder: Cache::new(self.cache.clone()).repo(repo(&info.sha)).pointer_path(&info.sha),
            repo: api.repo(repo(&info.sha)),
        };
        let get = |file: &str| commit.get(file).map_err(|error| failed(file, &*error));
        let there: BTreeSet<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let has = |file: &str| there.contains(file);
        let weights: Vec<PathBuf> = if has(WEIGHTS) {
            vec![get(WEIGHTS)?]
        } else if has(INDEX) {
            let index = get(INDEX)?;
            let names = weights::shard_names(&index)?;
            names.iter().map(|name| get(name)).collect::<Result<_>>()?
        } else if has(ADAPTER) {
            vec![get(ADAPTER)?]
        } else {
            return Err(fail(format!(
                "at `{revision}` it has neither {WEIGHTS} nor {INDEX} nor {ADAPTER}; weights in other formats are not read: \
                 convert them to safetensors"
            )));
        };
        FILES.into_iter().filter(|file| has(file)).try_for_each(|file| get(file).map(drop))?;
        // What the branch is now, for later calls offline.
        let create_ref = Cache::new(self.cache.clone()).repo(repo(revision)).create_ref(&info.sha);
        create_ref.map_err(Error::io(&self.cache))?;
        let folder = weights.first().and_then(|file| file.parent());
        folder.map(Path::to_path_buf).ok_or_else(|| fail(format!("{INDEX} names no shard")))
    }
}

/// A repository at a commit.
struct Snapshot {
    folder: PathBuf,
    repo: ApiRepo,
}

impl Snapshot {
    fn get(&self, file: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let path = self.folder.join(file);
        if path.is_file() { Ok(path) } else { Ok(self.repo.download(file)?) }
    }
}

/// What `huggingface_hub` takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

fn check_id(id: &str) -> Result<(), String> {
    let part = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(known) && !part.starts_with('.') && !part.contains("..")
    };
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() <= 2 && parts.iter().all(|text| part(text)) {
        return Ok(());
    }
    Err("there is no such folder, and a repository's id is `owner/name`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_lead_out_of_the_cache() {
        for id in ["gpt2", "openai-community/gpt2", "meta-llama/Llama-3.1-8B"] {
            assert_eq!(check_id(id), Ok(()));
        }
        for id in ["", "a/b/c", "../x", "a/..", "/etc", "a b", "a/", ".hidden/x", "a\\b"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        let hub = Hub::at("nowhere").offline(true);
        assert!(hub.revision("gpt2", "../main").unwrap_err().to_string().contains("no branch"));
    }

    #[test]
    fn yes_is_what_python_takes_for_it() {
        assert!(["1", "ON", "yes", "True"].into_iter().all(is_true));
        assert!(!["0", "", "off", "2"].into_iter().any(is_true));
    }
}
