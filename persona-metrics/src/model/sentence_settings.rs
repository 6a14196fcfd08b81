//! What the files of sentence-transformers say of a model.

use std::io::ErrorKind;
use std::path::Path;

use persona_model::Pooling;
use serde_json::Value;

use crate::error::ModelError;

/// How a folder's sentences become vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SentenceSettings {
    pub(super) pooling: Pooling,
    /// The most tokens, special ones included.
    pub(super) longest: Option<usize>,
    pub(super) lower_case: bool,
}

impl SentenceSettings {
    /// Of a folder; the mean of all tokens, as they stand, where it has no such files.
    ///
    /// # Errors
    /// A file that is no JSON, a module or a pooling that is not there, named with its file.
    pub(super) fn of(folder: &Path) -> Result<Self, ModelError> {
        let config = read(&folder.join("sentence_bert_config.json"))?;
        let longest = config.get("max_seq_length").and_then(Value::as_u64).map(|longest| longest as usize);
        let lower_case = config.get("do_lower_case").and_then(Value::as_bool).unwrap_or_default();
        let pooling = pooling(&folder.join(pooling_folder(folder)?).join("config.json"))?;
        Ok(Self { pooling, longest, lower_case })
    }
}

/// Where modules.json has the pooling. What scales vectors changes no cosine.
fn pooling_folder(folder: &Path) -> Result<String, ModelError> {
    let path = folder.join("modules.json");
    let modules = read(&path)?;
    let mut found = None;
    for module in modules.as_array().into_iter().flatten() {
        let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type").rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" => found = Some(text("path").to_owned()),
            _ => {
                let (path, kind) = (path.display(), text("type"));
                let problem = format!(
                    "{path} has a module {kind:?}, which is not there; there are Transformer, Pooling and Normalize"
                );
                return Err(problem.into());
            }
        }
    }
    Ok(found.unwrap_or_else(|| "1_Pooling".to_owned()))
}

/// The pooling of a file; the mean where it is missing.
fn pooling(path: &Path) -> Result<Pooling, ModelError> {
    let config = read(path)?;
    let text = |mode: &Value| mode.as_str().map_or_else(|| mode.to_string(), str::to_owned);
    let modes: Vec<String> = match config.get("pooling_mode") {
        Some(Value::Array(modes)) => modes.iter().map(text).collect(),
        Some(mode) => vec![text(mode)],
        // Up to version 5: a key for each.
        None => {
            let keys = config.as_object().into_iter().flatten();
            let keys = keys.filter(|(_, value)| **value == Value::Bool(true));
            keys.filter_map(|(key, _)| Some(key.strip_prefix("pooling_mode_")?.to_owned())).collect()
        }
    };
    let modes: Vec<&str> = modes.iter().map(String::as_str).collect();
    match *modes.as_slice() {
        [] | ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        ["max" | "max_tokens"] => Ok(Pooling::Max),
        ["mean_sqrt_len_tokens"] => Ok(Pooling::MeanSqrtLength),
        _ => {
            let (path, modes) = (path.display(), modes.join(" and "));
            let there = "cls, mean, max and mean_sqrt_len_tokens";
            Err(format!("{path} asks for {modes}, which is not there; there are {there}").into())
        }
    }
}

/// A JSON file; null where it is missing.
fn read(path: &Path) -> Result<Value, ModelError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()).into())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(files: &[(&str, &str)]) -> Result<SentenceSettings, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        SentenceSettings::of(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn poolings_are_read_as_each_version_writes_them() {
        let pooling = |text: &str| settings(&[("1_Pooling/config.json", text)]).map(|found| found.pooling);
        for (new, old, expected) in [
            ("cls", "cls_token", Pooling::Cls),
            ("max", "max_tokens", Pooling::Max),
            ("mean", "mean_tokens", Pooling::Mean),
            ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLength),
        ] {
            let dimension = "\"embedding_dimension\": 768";
            let of = |rest: String| pooling(&format!("{{{dimension}, {rest}, \"include_prompt\": true}}"));
            assert_eq!(of(format!("\"pooling_mode\": \"{new}\"")), Ok(expected));
            assert_eq!(of(format!("\"pooling_mode\": [\"{new}\"]")), Ok(expected));
            assert_eq!(of(format!("\"pooling_mode_{old}\": true, \"pooling_mode_x\": false")), Ok(expected));
        }
        assert_eq!(settings(&[]).unwrap().pooling, Pooling::Mean);
        for (mode, named) in
            [("\"lasttoken\"", "lasttoken"), ("[\"cls\", \"max\"]", "cls and max"), ("3", "asks for 3")]
        {
            let error = pooling(&format!("{{\"pooling_mode\": {mode}}}")).unwrap_err();
            assert!(error.contains(named) && error.contains("/1_Pooling/config.json asks for"), "{error}");
        }
    }

    #[test]
    fn modules_that_change_a_cosine_are_refused_by_name() {
        let module = |path: &str, kind: &str| format!("{{\"path\": \"{path}\", \"type\": \"{kind}\"}}");
        let modules = |last: &str| {
            let first = module("", "sentence_transformers.models.Transformer");
            let pooling = module("2_Pooling", "sentence_transformers.sentence_transformer.modules.Pooling");
            format!("[{first}, {pooling}, {}]", module("3", &format!("sentence_transformers.models.{last}")))
        };
        let pooling = ("2_Pooling/config.json", "{\"pooling_mode\": \"cls\"}");
        let found = settings(&[("modules.json", &modules("Normalize")), pooling]).unwrap();
        assert_eq!(found.pooling, Pooling::Cls);
        let error = settings(&[("modules.json", &modules("Dense")), pooling]).unwrap_err();
        assert!(error.contains("modules.json") && error.contains("models.Dense"), "{error}");
    }
}
