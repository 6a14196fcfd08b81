//! What the layers of a causal model begin with: words and virtual tokens.

use tch::Tensor;

use super::{Adapter, AdapterId, Adapters, SoftPrompt};
use crate::batch::{Batch, Context};
use crate::cache::KvCache;
use crate::error::{Error, Result};

/// The embeddings of a batch's tokens, with the virtual tokens of soft prompts before its texts.
///
/// Virtual tokens are the model's own affair: callers count the text alone, in rows, limits and caches.
pub(crate) struct Input<'a> {
    text: &'a Batch,
    /// The rows with their virtual tokens; None where no row has any.
    behind: Option<Batch>,
    /// Where the text's tokens stand among all, `[N]`; None where all are text.
    places: Option<Tensor>,
    /// `[N, D]` in the kind of the embeddings, virtual tokens included.
    pub(crate) words: Tensor,
}

impl Input<'_> {
    /// The rows that the layers compute.
    pub(crate) fn batch(&self) -> &Batch {
        self.behind.as_ref().unwrap_or(self.text)
    }

    /// Where the wanted tokens of the text stand among all that the layers compute: all of the text where `at` is None.
    /// None where that is everything.
    pub(crate) fn wanted(&self, at: Option<&Tensor>) -> Result<Option<Tensor>> {
        Ok(match (&self.places, at) {
            (Some(places), Some(at)) => Some(places.f_index_select(0, at)?),
            (Some(places), None) | (None, Some(places)) => Some(places.shallow_clone()),
            (None, None) => None,
        })
    }

    /// Counts the text as held, once every layer has stored it.
    pub(crate) fn advance(&self, cache: Option<&mut KvCache>) {
        if let Some(cache) = cache {
            cache.advance(self.text);
        }
    }
}

impl Adapters {
    /// Embeds a batch for a model of `positions` positions, by the weights `words [V, D]` or the active adapter's own,
    /// puts soft prompts before the rows that begin a text, and gets the cache ready for them.
    pub(crate) fn input<'b>(
        &self,
        words: &Tensor,
        positions: usize,
        batch: &'b Batch,
        cache: Option<&mut KvCache>,
    ) -> Result<Input<'b>> {
        self.check_own_modules(batch)?;
        let prompts = self.prompts(batch)?;
        let rows = batch.rows().iter();
        let before: Vec<usize> = rows
            .zip(&prompts)
            .map(|(row, prompt)| match row.context {
                Context::Cached(held) if row.past > 0 => {
                    cache.as_deref().map_or(0, |cache| cache.virtual_tokens(held))
                }
                _ => prompt.map_or(0, SoftPrompt::virtual_tokens),
            })
            .collect();
        // What is refused here leaves the cache as it was.
        let any = before.iter().any(|&tokens| tokens > 0);
        let behind = any.then(|| batch.behind(&before, positions)).transpose()?;
        if let Some(cache) = cache {
            cache.prepare(batch, &before)?;
        }
        let own = self.own_modules().and_then(|own| own.embedding.as_ref());
        let text = Tensor::f_embedding(own.unwrap_or(words), &batch.ids, -1, false, false)?;
        let text = text.f_to_kind(words.kind())?;
        let (words, places) = interleave(text, batch, &prompts)?;
        Ok(Input { text: batch, behind, places, words })
    }

    /// The soft prompt of every row, where it has one.
    fn prompts(&self, batch: &Batch) -> Result<Vec<Option<&SoftPrompt>>> {
        let prompt = |id: Option<AdapterId>| -> Result<Option<&SoftPrompt>> {
            id.map_or(Ok(None), |id| Ok(self.get(id)?.soft_prompt()))
        };
        match batch.adapters() {
            Some(chosen) => chosen.iter().map(|&id| prompt(id)).collect(),
            None => Ok(vec![prompt(self.active)?; batch.rows().len()]),
        }
    }

    /// The head is applied to hidden states that no longer know their rows: own modules are the active adapter's, and
    /// then every row's.
    fn check_own_modules(&self, batch: &Batch) -> Result<()> {
        let Some(chosen) = batch.adapters() else { return Ok(()) };
        let has_own = |id: Option<AdapterId>| -> Result<bool> {
            id.map_or(Ok(false), |id| Ok(self.get(id)?.lora().is_some_and(|lora| lora.own().is_some())))
        };
        let active_has_own = has_own(self.active)?;
        for (row, &id) in chosen.iter().enumerate() {
            if id != self.active && (active_has_own || has_own(id)?) {
                let reason = format!(
                    "row {row} is to be computed with {id:?} while {:?} is active, and one of them has embeddings or a \
                     head of its own (modules_to_save), which only a whole batch can have: activate the adapter and \
                     give its rows a batch of their own",
                    self.active
                );
                return Err(Error::Batch(reason));
            }
        }
        Ok(())
    }

    /// How many virtual tokens the active adapter puts before a text.
    pub(crate) fn virtual_tokens(&self) -> usize {
        let active = self.active.and_then(|id| self.get(id).ok());
        active.and_then(Adapter::soft_prompt).map_or(0, SoftPrompt::virtual_tokens)
    }

    /// The active adapter's own head `[V, D]`, where it has one.
    pub(crate) fn head(&self) -> Option<&Tensor> {
        self.own_modules()?.head.as_ref()
    }
}

/// Puts the virtual tokens before the text's words `[N, D]`, and says where the text then stands.
fn interleave(
    text: Tensor,
    batch: &Batch,
    prompts: &[Option<&SoftPrompt>],
) -> Result<(Tensor, Option<Tensor>)> {
    // The words and each prompt once, and an index that repeats the prompts.
    let mut sources = vec![text];
    let mut starts: Vec<(*const SoftPrompt, i64)> = Vec::new();
    let mut end = batch.tokens() as i64;
    let (mut order, mut places) = (Vec::new(), Vec::new());
    for (row, prompt) in batch.rows().iter().zip(prompts) {
        if let Some(prompt) = prompt.filter(|_| row.begins()) {
            let tokens = prompt.virtual_tokens() as i64;
            let held = starts.iter().find(|(held, _)| std::ptr::eq(*held, prompt)).map(|(_, start)| *start);
            let start = match held {
                Some(start) => start,
                None => {
                    let kind = sources[0].kind();
                    sources.push(prompt.embeddings().f_to_kind(kind)?);
                    starts.push((prompt, end));
                    end += tokens;
                    end - tokens
                }
            };
            order.extend(start..start + tokens);
        }
        places.extend(order.len() as i64..(order.len() + row.len) as i64);
        order.extend(row.start as i64..(row.start + row.len) as i64);
    }
    if starts.is_empty() {
        return Ok((sources.swap_remove(0), None));
    }
    let device = batch.device();
    let index = |places: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(places)?.f_to_device(device)?) };
    let words = Tensor::f_cat(&sources, 0)?.f_index_select(0, &index(&order)?)?;
    Ok((words, Some(index(&places)?)))
}
