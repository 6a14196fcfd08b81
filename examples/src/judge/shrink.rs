//! A smaller encoder out of a larger one: its first layers, and the pieces of its vocabulary that some texts use most.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use persona_data::{EncoderTokenizer, NliItem};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// The pieces that every vocabulary keeps.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Writes a folder with the first `layers` of a BERT, the first `positions` of its positions and at most `vocabulary` of
/// its pieces: the special ones, every ASCII letter, digit and mark, and those that the texts of the pairs use most. A
/// word whose piece is gone is written with smaller ones. Nothing is written where the folder is finished already.
///
/// # Errors
/// A folder that is no BERT with a WordPiece vocabulary and safetensors, or has fewer layers or positions; a vocabulary
/// that does not hold what is always kept.
pub(super) fn shrink(
    folder: &Path,
    (layers, vocabulary, positions): (usize, usize, usize),
    pairs: &[NliItem],
    out: &Path,
) -> Result<()> {
    // Written last.
    let finished = out.join("model.safetensors");
    if finished.exists() {
        return Ok(());
    }
    let tokenizer = EncoderTokenizer::from_folder(folder)?.with_max_tokens(positions)?;
    let mut config = read_json(&folder.join("config.json"))?;
    let number = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
    ensure!(config.get("model_type") == Some(&json!("bert")), "{}: only a BERT is cut", folder.display());
    for (key, wanted) in [("num_hidden_layers", layers), ("max_position_embeddings", positions)] {
        ensure!(wanted <= number(key), "{}: `{key}` is {}, below {wanted}", folder.display(), number(key));
    }
    let pieces = pieces(folder)?;
    let mut counts = vec![0_u64; pieces.len()];
    let texts: Vec<(&str, &str)> =
        pairs.iter().map(|pair| (pair.premise.as_str(), pair.hypothesis.as_str())).collect();
    for row in tokenizer.encode_pairs(&texts)? {
        row.ids.iter().filter_map(|&id| id.try_into().ok()).for_each(|id: usize| {
            if let Some(count) = counts.get_mut(id) {
                *count += 1;
            }
        });
    }
    let kept = kept(&pieces, &counts, vocabulary)?;
    let name = |id: &i64| pieces.get(*id as usize).map_or("", String::as_str);
    let lines: String = kept.iter().map(|id| format!("{}\n", name(id))).collect();
    let padding = kept.iter().position(|id| name(id) == "[PAD]");
    let object = config.as_object_mut().context("config.json is no object")?;
    object.insert("num_hidden_layers".to_owned(), json!(layers));
    object.insert("max_position_embeddings".to_owned(), json!(positions));
    object.insert("vocab_size".to_owned(), json!(kept.len()));
    object.insert("pad_token_id".to_owned(), json!(padding));
    let mut side = read_json(&folder.join("tokenizer_config.json"))?;
    side.as_object_mut()
        .context("tokenizer_config.json is no object")?
        .insert("model_max_length".to_owned(), json!(positions));

    let path = folder.join("model.safetensors");
    let tensors = Tensor::read_safetensors(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut smaller = Vec::new();
    for (name, tensor) in tensors {
        let name = name.strip_prefix("bert.").unwrap_or(&name).to_owned();
        let layer: Option<usize> =
            name.strip_prefix("encoder.layer.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let tensor = match (name.as_str(), layer) {
            ("embeddings.position_ids", _) => continue,
            (_, Some(layer)) if layer >= layers => continue,
            ("embeddings.word_embeddings.weight", _) => {
                tensor.f_index_select(0, &Tensor::f_from_slice(&kept)?)?
            }
            ("embeddings.position_embeddings.weight", _) => tensor.f_narrow(0, 0, positions as i64)?,
            _ => tensor,
        };
        smaller.push((name, tensor.f_to_kind(Kind::Float)?.f_contiguous()?));
    }
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    persona_model::write_atomically(&out.join("vocab.txt"), lines.as_bytes())?;
    persona_model::write_atomically(&out.join("config.json"), &serde_json::to_vec_pretty(&config)?)?;
    persona_model::write_atomically(&out.join("tokenizer_config.json"), &serde_json::to_vec_pretty(&side)?)?;
    let unfinished = out.join("model.part");
    Tensor::write_safetensors(&smaller, &unfinished)
        .with_context(|| format!("writing {}", unfinished.display()))?;
    std::fs::rename(&unfinished, &finished).with_context(|| format!("writing {}", finished.display()))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// The pieces of a WordPiece vocabulary, by id.
fn pieces(folder: &Path) -> Result<Vec<String>> {
    let list = folder.join("vocab.txt");
    if list.exists() {
        let text = std::fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        return Ok(text.lines().map(str::to_owned).collect());
    }
    let path = folder.join("tokenizer.json");
    let json = read_json(&path)?;
    let vocabulary = json.pointer("/model/vocab").and_then(Value::as_object);
    let vocabulary = vocabulary.with_context(|| format!("{}: no WordPiece vocabulary", path.display()))?;
    let by_id: HashMap<u64, &String> =
        vocabulary.iter().filter_map(|(piece, id)| Some((id.as_u64()?, piece))).collect();
    (0..vocabulary.len() as u64)
        .map(|id| by_id.get(&id).map(|piece| (*piece).clone()))
        .collect::<Option<Vec<_>>>()
        .with_context(|| format!("{}: the ids of the vocabulary have gaps", path.display()))
}

/// The ids to keep, ascending.
fn kept(pieces: &[String], counts: &[u64], vocabulary: usize) -> Result<Vec<i64>> {
    for special in SPECIAL {
        ensure!(pieces.iter().any(|piece| piece == special), "the vocabulary has no {special}");
    }
    let always = |piece: &str| {
        let bare = piece.strip_prefix("##").filter(|bare| !bare.is_empty()).unwrap_or(piece);
        SPECIAL.contains(&piece) || matches!(bare.as_bytes(), [byte] if byte.is_ascii_graphic())
    };
    let (mut kept, mut others): (Vec<usize>, Vec<usize>) =
        (0..pieces.len()).partition(|&id| pieces.get(id).is_some_and(|piece| always(piece)));
    ensure!(
        kept.len() <= vocabulary,
        "`model.vocabulary` is {vocabulary}; {} pieces are always kept",
        kept.len()
    );
    let count = |id: &usize| counts.get(*id).copied().unwrap_or(0);
    others.retain(|id| count(id) > 0);
    others.sort_by_key(|id| std::cmp::Reverse(count(id)));
    kept.extend(others.into_iter().take(vocabulary - kept.len()));
    kept.sort_unstable();
    Ok(kept.into_iter().map(|id| id as i64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commonest_pieces_are_kept_with_all_letters() {
        let pieces: Vec<String> =
            ["[PAD]", "x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##x", "dog", "cat", "##ing", "é"]
                .map(str::to_owned)
                .to_vec();
        let counts = [0, 0, 0, 9, 9, 0, 0, 2, 5, 2, 0];
        assert_eq!(kept(&pieces, &counts, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 8]);
        assert_eq!(kept(&pieces, &counts, 9).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(kept(&pieces, &counts, 99).unwrap().len(), 10, "what no text uses goes");
        assert!(kept(&pieces, &counts, 6).unwrap_err().to_string().contains("`model.vocabulary`"));
        assert!(kept(&pieces[1..], &counts, 9).unwrap_err().to_string().contains("[PAD]"));
    }
}
