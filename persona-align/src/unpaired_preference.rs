//! The objective of learning from single replies that are desirable or not: KTO.

use std::cell::Cell;
use std::path::Path;

use persona_data::EncodedPair;
use persona_model::{CausalLm, TargetBatchBuilder};
use persona_train::{Contribution, Mean, Objective};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::losses;
use crate::preference::{means, objective_error};
use crate::reference::{Cache, cached, digest_ids};
use crate::unpaired::UnpairedLoss;

/// A reply that is desirable or not, as token ids. What is scored is all of `reply`, after `prompt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledReply {
    /// Its id.
    pub id: String,
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// The reply's ids, its end included.
    pub reply: Vec<u32>,
    /// Whether it is desirable.
    pub desirable: bool,
}

impl LabelledReply {
    /// Both replies of a pair: the chosen one is desirable, the rejected one is not. Their ids get `/chosen` and
    /// `/rejected` at the end.
    #[must_use]
    pub fn of_pair(pair: EncodedPair) -> [Self; 2] {
        let EncodedPair { id, prompt, chosen, rejected } = pair;
        let reply = |name: &str, prompt: Vec<u32>, reply: Vec<u32>, desirable: bool| Self {
            id: format!("{id}/{name}"),
            prompt,
            reply,
            desirable,
        };
        [reply("chosen", prompt.clone(), chosen, true), reply("rejected", prompt, rejected, false)]
    }
}

/// A reply with its summed log-probability under the reference, in nats, and with a reply to another prompt by which KTO
/// estimates how far the policy is from the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferencedReply {
    /// The reply.
    pub reply: LabelledReply,
    /// A reply to another prompt, cut where it does not fit the model after this one.
    pub mismatched: Vec<u32>,
    /// The reference's log-probability of the reply.
    pub log_prob: f32,
    /// The reference's log-probability of the mismatched reply after this prompt.
    pub mismatched_log_prob: f32,
}

/// Gives every reply a mismatched one, the last before it in the list that belongs to another prompt (the first ones take
/// from the end), and computes the reference's log-probabilities of both once, without dropout. TRL shifts replies by one
/// within each batch, whether or not prompts differ. A mismatched reply that has no room after its prompt is cut to the
/// model's positions.
///
/// Cache and precision: see [`reference_log_probs`](crate::reference_log_probs).
///
/// # Errors
/// [`Error::Combination`] when all replies have one prompt; [`Error::Reference`] for a cache of another model or other
/// replies; [`Error::Rows`] with what the model refuses, a prompt and reply that are too long for it above all.
pub fn unpaired_reference_log_probs(
    reference: &dyn CausalLm,
    replies: Vec<LabelledReply>,
    micro_batch_size: usize,
    cache: Option<&Path>,
) -> Result<Vec<ReferencedReply>> {
    let partners = partners(&replies)?;
    let positions = reference.limits().positions;
    let referenced = |(partner, reply): (usize, &LabelledReply)| {
        let mut mismatched = replies.get(partner).map(|partner| partner.reply.clone()).unwrap_or_default();
        // The last token is predicted and never read.
        mismatched.truncate(positions.saturating_add(1).saturating_sub(reply.prompt.len()).max(1));
        ReferencedReply { reply: reply.clone(), mismatched, log_prob: 0.0, mismatched_log_prob: 0.0 }
    };
    let mut referenced: Vec<ReferencedReply> = partners.into_iter().zip(&replies).map(referenced).collect();
    let cache = cache.map(|path| Cache { path, tokenizer: None });
    let id = |item: &ReferencedReply| item.reply.id.clone();
    let sums: Vec<[f32; 2]> =
        cached(reference, &referenced, micro_batch_size, cache, (id, digest), |part| {
            let mut builder = TargetBatchBuilder::for_model(reference, false);
            for item in part {
                builder.prompt(&item.reply.prompt, &[&item.reply.reply, &item.mismatched]);
            }
            let batch = builder.build(reference.limits(), reference.device())?;
            Ok(Vec::<f32>::try_from(batch.sums(&batch.log_probs(reference, false)?)?)?)
        })?;
    for (item, sums) in referenced.iter_mut().zip(sums) {
        [item.log_prob, item.mismatched_log_prob] = sums;
    }
    Ok(referenced)
}

/// For each reply the place of the last one before it, around the end, that has another prompt.
fn partners(replies: &[LabelledReply]) -> Result<Vec<usize>> {
    let Some(first) = replies.first() else { return Ok(Vec::new()) };
    let last = replies.iter().rposition(|reply| reply.prompt != first.prompt).ok_or_else(|| {
        let (count, id) = (replies.len(), &first.id);
        Error::Combination(format!(
            "all {count} replies have the prompt of {id}; KTO compares with replies to other prompts, give at least two prompts"
        ))
    })?;
    let mut partners = Vec::with_capacity(replies.len());
    let mut held = last;
    for (at, reply) in replies.iter().enumerate() {
        if at > 0 && replies[at - 1].prompt != reply.prompt {
            held = at - 1;
        }
        partners.push(held);
    }
    Ok(partners)
}

fn digest(item: &ReferencedReply, sink: &mut dyn FnMut(&[u8])) {
    let reply = &item.reply;
    for ids in [&reply.prompt, &reply.reply, &item.mismatched] {
        digest_ids(ids, sink);
    }
    sink(&[u8::from(reply.desirable)]);
}

/// Learning from single replies. Dropout is off, as in the reference. The loss is a mean over replies; the KL divergence
/// that KTO measures from is estimated over all replies of a step, or of an evaluation, by a pass without gradients.
#[derive(Debug)]
pub struct UnpairedPreference<M> {
    loss: UnpairedLoss,
    policy: M,
    step: Cell<Option<Step>>,
}

/// What the parts of a step share.
#[derive(Debug, Clone, Copy)]
struct Step {
    kl: f64,
    desirable: usize,
    replies: usize,
}

impl UnpairedLoss {
    /// The objective of training a policy with this loss.
    pub fn on<M: CausalLm>(self, policy: M) -> UnpairedPreference<M> {
        UnpairedPreference { loss: self, policy, step: Cell::new(None) }
    }
}

impl<M: CausalLm> UnpairedPreference<M> {
    /// The model, after training.
    pub fn into_model(self) -> M {
        self.policy
    }

    fn sums<'a>(&self, targets: impl Iterator<Item = (&'a [u32], &'a [u32])>) -> Result<Tensor> {
        let mut builder = TargetBatchBuilder::for_model(&self.policy, false);
        for (prompt, target) in targets {
            builder.prompt(prompt, &[target]);
        }
        let batch = builder.build(self.policy.limits(), self.policy.device())?;
        Ok(batch.sums(&batch.log_probs(&self.policy, false)?)?)
    }

    fn column(&self, items: &[&ReferencedReply], of: fn(&ReferencedReply) -> f32) -> Result<Tensor> {
        let values: Vec<f32> = items.iter().map(|item| of(item)).collect();
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.policy.device())?)
    }

    fn step(&self, items: &[&ReferencedReply], micro_batch_size: usize) -> Result<Step> {
        let desirable = items.iter().filter(|item| item.reply.desirable).count();
        let mut kl = 0.0;
        if self.loss.needs_kl() && !items.is_empty() {
            let _no_grad = tch::no_grad_guard();
            let mut policy = Vec::new();
            for part in items.chunks(micro_batch_size.max(1)) {
                let targets =
                    part.iter().map(|item| (item.reply.prompt.as_slice(), item.mismatched.as_slice()));
                policy.push(self.sums(targets)?);
            }
            let reference = self.column(items, |item| item.mismatched_log_prob)?;
            kl = losses::kl_estimate(&Tensor::f_cat(&policy, 0)?, &reference)?.f_double_value(&[])?;
        }
        Ok(Step { kl, desirable, replies: items.len() })
    }

    fn contribution(&self, items: &[&ReferencedReply]) -> Result<Contribution> {
        let step = match self.step.get() {
            Some(step) => step,
            None => self.step(items, items.len())?,
        };
        let replies = items.iter().map(|item| (item.reply.prompt.as_slice(), item.reply.reply.as_slice()));
        let policy = self.sums(replies)?;
        let reference = self.column(items, |item| item.log_prob)?;
        let desirable: Vec<bool> = items.iter().map(|item| item.reply.desirable).collect();
        let output = self.loss.evaluate_part(&policy, &reference, &desirable, step.kl)?;
        let mut means = means(&output.metrics()?);
        means.retain(|(name, _)| name != "rewards/margins" && name != "kl");
        // A difference of two means over the step: each part adds its share, and the shares of the parts make one.
        let undesirable = step.replies.saturating_sub(step.desirable);
        let share = items.len() as f64 / step.replies.max(1) as f64;
        if step.desirable > 0 && undesirable > 0 {
            let sum = |wanted: &str| {
                means.iter().find(|(name, _)| name == wanted).map_or(0.0, |(_, mean)| mean.sum)
            };
            let margin =
                sum("rewards/chosen") / step.desirable as f64 - sum("rewards/rejected") / undesirable as f64;
            means.push(("rewards/margins".to_owned(), Mean { sum: margin, count: share }));
        }
        if self.loss.needs_kl() {
            means.push(("kl".to_owned(), Mean { sum: step.kl * share, count: share }));
        }
        Ok(Contribution { numerator: output.losses.f_sum(Kind::Float)?, means })
    }
}

impl<M: CausalLm> Objective for UnpairedPreference<M> {
    type Item = ReferencedReply;
    type Model = M;

    fn model(&self) -> &M {
        &self.policy
    }

    fn model_mut(&mut self) -> &mut M {
        &mut self.policy
    }

    fn describe(&self) -> String {
        format!("preference {}", self.loss)
    }

    fn unit(&self) -> &'static str {
        "replies"
    }

    fn id<'a>(&self, item: &'a ReferencedReply) -> &'a str {
        &item.reply.id
    }

    fn tokens(&self, item: &ReferencedReply) -> usize {
        item.reply.prompt.len() + item.reply.reply.len()
    }

    fn digest(&self, item: &ReferencedReply, sink: &mut dyn FnMut(&[u8])) {
        digest(item, sink);
        sink(&item.log_prob.to_le_bytes());
        sink(&item.mismatched_log_prob.to_le_bytes());
    }

    fn count(&self, items: &[&ReferencedReply]) -> f64 {
        items.len() as f64
    }

    fn begin(&self, items: &[&ReferencedReply], micro_batch_size: usize) -> persona_train::Result<()> {
        self.step.set(Some(self.step(items, micro_batch_size).map_err(objective_error)?));
        Ok(())
    }

    fn evaluate(&self, items: &[&ReferencedReply], _train: bool) -> persona_train::Result<Contribution> {
        self.contribution(items).map_err(objective_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_have_other_prompts() {
        let reply = |prompt: u32| LabelledReply {
            id: String::new(),
            prompt: vec![prompt],
            reply: vec![1],
            desirable: true,
        };
        let of = |prompts: &[u32]| partners(&prompts.iter().map(|&prompt| reply(prompt)).collect::<Vec<_>>());
        assert_eq!(of(&[1, 2, 3]).unwrap(), [2, 0, 1], "shifted by one where prompts differ");
        assert_eq!(of(&[1, 1, 2, 2, 1, 1]).unwrap(), [3, 3, 1, 1, 3, 3]);
        assert!(of(&[]).unwrap().is_empty());
        assert!(of(&[4, 4]).unwrap_err().to_string().contains("at least two prompts"));
    }
}
