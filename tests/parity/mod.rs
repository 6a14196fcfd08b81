//! The parity cases that tests read: what transformers, TRL and PEFT answer for tiny random models.
//!
//! Included by the tests of several crates with `#[path]`. The cases lie in `cases/` beside this file; the environment
//! variable `PERSONA_PARITY_DIR` names further folders of cases, separated as in PATH.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::Tensor;

/// Every kind that some crate of the workspace reads or will read; another one is an error.
const KINDS: [&str; 13] = [
    "causal_lm",
    "generate",
    "logits_processors",
    "lora",
    "modules_to_save",
    "prompt_tuning",
    "dpo",
    "training",
    "encoder",
    "sequence_classification",
    "seq2seq",
    "chat_template",
    "nf4_model",
];

/// One case: its folder, its `case.json`, its tensors.
pub(crate) struct Case {
    pub(crate) folder: PathBuf,
    pub(crate) json: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

impl Case {
    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.folder.display()))
    }

    /// The rows of a padded batch without their padding.
    pub(crate) fn rows(&self, ids: &str, mask: &str) -> Vec<Vec<u32>> {
        let ids = Vec::<Vec<i64>>::try_from(self.tensor(ids)).unwrap();
        let mask = Vec::<Vec<i64>>::try_from(self.tensor(mask)).unwrap();
        ids.iter()
            .zip(&mask)
            .map(|(ids, mask)| {
                ids.iter().zip(mask).filter(|(_, seen)| **seen == 1).map(|(&id, _)| id as u32).collect()
            })
            .collect()
    }

    /// `model_type` of a model folder of this case.
    pub(crate) fn model_type(&self, model: &str) -> String {
        let text = std::fs::read_to_string(self.folder.join(model).join("config.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["model_type"].as_str().unwrap().to_owned()
    }
}

/// Runs `check` on every case of a kind in every folder, and prints how many there were. `check` returns false for a
/// case that it passes over, having said why.
pub(crate) fn for_each(kind: &str, mut check: impl FnMut(&Case) -> bool) {
    for folder in folders() {
        let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("case.json").is_file())
            .collect();
        cases.sort();
        let mut checked = 0;
        for path in cases {
            let json: Value =
                serde_json::from_str(&std::fs::read_to_string(path.join("case.json")).unwrap()).unwrap();
            let found = json["kind"].as_str().unwrap();
            assert!(KINDS.contains(&found), "{}: unknown kind {found}", path.display());
            if found != kind {
                continue;
            }
            let file = path.join("tensors.safetensors");
            let tensors =
                if file.is_file() { persona_model::read_tensors(&file).unwrap().0 } else { BTreeMap::new() };
            checked += usize::from(check(&Case { folder: path, json, tensors }));
        }
        println!("parity {kind}: {checked} cases from {}", folder.display());
    }
}

/// The folder of the cases beside this file, and those that the environment names.
pub(crate) fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/cases");
    let more = std::env::var_os("PERSONA_PARITY_DIR").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&more).filter(|path| !path.as_os_str().is_empty()))
        .collect()
}
