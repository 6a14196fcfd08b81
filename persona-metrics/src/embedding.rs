//! What embeds texts: the traits, and the cosine of two vectors.

use ndarray::{Array2, ArrayView1};

use crate::error::{Error, ModelError, Result, shortened};

/// A text's tokens as an encoder sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenVectors {
    /// The hidden state of each token, `[T, D]`.
    pub vectors: Array2<f32>,
    /// The id of each token, `[T]`: weights by inverse document frequency belong to ids.
    pub ids: Vec<u32>,
    /// Whether each token is one that the tokenizer puts around every text (`[CLS]`, `[SEP]`), `[T]`. Such a token can be
    /// matched, but has weight 0.
    pub special: Vec<bool>,
}

impl TokenVectors {
    fn check(&self, text: &str) -> Result<()> {
        let (tokens, (rows, width)) = (self.ids.len(), self.vectors.dim());
        let fail = |problem| Err(Error::Embedding { text: shortened(text), problem });
        if rows != tokens || self.special.len() != tokens {
            let marks = self.special.len();
            return fail(format!("{rows} vectors, {tokens} ids and {marks} marks of special tokens"));
        }
        if rows == 0 || width == 0 {
            return fail(format!("its shape is [{rows}, {width}]"));
        }
        if !self.vectors.iter().all(|value| value.is_finite()) {
            return fail("it holds a NaN or an infinity".to_owned());
        }
        Ok(())
    }
}

/// Embeds the tokens of texts, for [`BertScore`](crate::BertScore).
pub trait TokenEmbedder {
    /// Name for the signature: model and revision. Not to contain `|`.
    fn name(&self) -> String;

    /// Which layer's output the vectors are; 0 is what the embeddings give.
    fn layer(&self) -> usize;

    /// How many texts one call of [`embed`](Self::embed) gets at most. They are of like length, longest first.
    fn batch_size(&self) -> usize {
        64
    }

    /// The token ids of each text, special tokens included, without running the model.
    ///
    /// # Errors
    /// Whatever keeps the tokenizer from reading them.
    fn token_ids(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError>;

    /// The tokens of each text, in order. Texts come stripped of white space at both ends, as bert-score hands them to its
    /// tokenizer; an empty one has its special tokens alone.
    ///
    /// # Errors
    /// Whatever keeps the model from embedding them.
    fn embed(&self, texts: &[&str]) -> Result<Vec<TokenVectors>, ModelError>;
}

/// Embeds whole texts, for [`EmbeddingSimilarity`](crate::EmbeddingSimilarity).
pub trait SentenceEmbedder {
    /// Name for the signature: model, revision, pooling. Not to contain `|`.
    fn name(&self) -> String;

    /// How many texts one call of [`embed`](Self::embed) gets at most. They are of like length, longest first.
    fn batch_size(&self) -> usize {
        64
    }

    /// One vector a text, `[n, D]`, of any length: it is the cosine that counts.
    ///
    /// # Errors
    /// Whatever keeps the model from embedding them.
    fn embed(&self, texts: &[&str]) -> Result<Array2<f32>, ModelError>;
}

/// The cosine of two vectors, computed in f64: 1 exactly for equal ones. A length below 1e-12 counts as 1e-12, so that a
/// zero vector has the cosine 0 with every other.
///
/// # Errors
/// Vectors of unequal length, or with a NaN or an infinity; lengths whose square is not finite when multiplied.
pub fn cosine<A: Copy + Into<f64>>(left: ArrayView1<'_, A>, right: ArrayView1<'_, A>) -> Result<f64> {
    crate::error::same_length("values of one vector", left.len(), "values of the other", right.len())?;
    let (mut product, mut squares) = (0.0, (0.0, 0.0));
    for (&left, &right) in left.iter().zip(right) {
        let (left, right): (f64, f64) = (left.into(), right.into());
        product += left * right;
        squares = (squares.0 + left * left, squares.1 + right * right);
    }
    // One root: of equal factors it is exact.
    let lengths = (squares.0.max(1e-24) * squares.1.max(1e-24)).sqrt();
    let cosine = product / lengths;
    match [cosine, lengths].into_iter().find(|value| !value.is_finite()) {
        None => Ok(cosine),
        Some(value) => Err(Error::OutOfRange { metric: "cosine", value }),
    }
}

/// The token vectors of a batch, checked.
pub(crate) fn embed_tokens<E: TokenEmbedder + ?Sized>(
    embedder: &E,
    metric: &'static str,
    texts: &[&str],
) -> Result<Vec<TokenVectors>> {
    let name = || embedder.name();
    let vectors = embedder.embed(texts).map_err(|source| Error::Model { metric, model: name(), source })?;
    same_count((metric, name), texts.len(), vectors.len())?;
    for (text, vectors) in texts.iter().zip(&vectors) {
        vectors.check(text)?;
    }
    let width = |vectors: &TokenVectors| vectors.vectors.ncols();
    if let [first, ..] = vectors.as_slice()
        && let Some(at) = vectors.iter().position(|other| width(other) != width(first))
    {
        let text = shortened(texts.get(at).copied().unwrap_or_default());
        let problem = format!("its vectors do not have the {} values of others", width(first));
        return Err(Error::Embedding { text, problem });
    }
    Ok(vectors)
}

/// The vectors of a batch of texts, checked.
pub(crate) fn embed_texts<E: SentenceEmbedder + ?Sized>(
    embedder: &E,
    metric: &'static str,
    texts: &[&str],
) -> Result<Vec<ndarray::Array1<f32>>> {
    let name = || embedder.name();
    let vectors = embedder.embed(texts).map_err(|source| Error::Model { metric, model: name(), source })?;
    same_count((metric, name), texts.len(), vectors.nrows())?;
    let rows = texts.iter().zip(vectors.rows()).map(|(text, row)| {
        if row.is_empty() || !row.iter().all(|value| value.is_finite()) {
            let problem = "it is empty or holds a NaN or an infinity".to_owned();
            return Err(Error::Embedding { text: shortened(text), problem });
        }
        Ok(row.to_owned())
    });
    rows.collect()
}

/// One answer a question.
pub(crate) fn same_count(
    (metric, model): (&'static str, impl FnOnce() -> String),
    asked: usize,
    answered: usize,
) -> Result<()> {
    if asked == answered {
        Ok(())
    } else {
        Err(Error::ModelCount { metric, model: model(), asked, answered })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn cosines() {
        assert_eq!(cosine(array![3.0, 4.0].view(), array![4.0, 3.0].view()).unwrap(), 24.0 / 25.0);
        assert_eq!(cosine(array![0.0f32, 0.0].view(), array![4.0, 3.0].view()).unwrap(), 0.0);
        assert!(cosine(array![1.0].view(), array![1.0, 2.0].view()).is_err());
        assert!(cosine(array![f32::NAN, 0.0].view(), array![4.0, 3.0].view()).is_err());
        assert!(cosine(array![1e100, 0.0].view(), array![1e100, 1.0].view()).is_err());
        assert!((cosine(array![1e-13].view(), array![1e-13].view()).unwrap() - 0.01).abs() < 1e-12);
    }

    #[test]
    fn equal_vectors_have_the_cosine_1() {
        for seed in 0..200 {
            let vector = ndarray::Array1::from_iter((0..64).map(|at| f64::from(seed * 64 + at).sin() as f32));
            assert_eq!(cosine(vector.view(), vector.view()).unwrap(), 1.0, "{seed}");
        }
    }
}
