//! A GPT-2 of rust-bert over bytes, and what persona-align asks of it.

use anyhow::Result;
use persona_align::{PairLogProbs, TokenLogProbs};
use rust_bert::gpt2::{GPT2LMHeadModel, Gpt2Config};
use tch::{Device, Tensor, nn};

/// What a pair is made of.
#[derive(Clone, Copy)]
pub struct Example {
    pub persona: &'static str,
    pub prompt: &'static str,
    pub chosen: &'static str,
    pub rejected: &'static str,
}

/// The token behind every reply; the others are bytes.
const END: i64 = 256;
const POSITIONS: i64 = 64;

/// The model with its weights.
pub struct Policy {
    weights: nn::VarStore,
    model: GPT2LMHeadModel,
}

impl Policy {
    /// Random weights.
    pub fn new() -> Self {
        let weights = nn::VarStore::new(Device::Cpu);
        let config = Gpt2Config {
            vocab_size: END + 1,
            n_positions: POSITIONS,
            n_ctx: POSITIONS,
            n_embd: 64,
            n_layer: 2,
            n_head: 4,
            ..Gpt2Config::default()
        };
        let model = GPT2LMHeadModel::new(weights.root(), &config);
        // rust-bert keeps the causal masks among the weights, where an optimiser would train them.
        for (name, variable) in weights.variables() {
            if name.ends_with(".attn.bias") {
                let _ = variable.set_requires_grad(false);
            }
        }
        Self { weights, model }
    }

    /// The weights, for an optimiser.
    pub fn weights(&self) -> &nn::VarStore {
        &self.weights
    }

    /// Takes the weights of another.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        Ok(self.weights.copy(&other.weights)?)
    }

    /// The log-probabilities of all chosen and all rejected replies, their ends included. Dropout is off.
    pub fn log_probs(&self, examples: &[Example]) -> Result<PairLogProbs> {
        let rows = |reply: fn(&Example) -> &'static str| {
            let rows: Vec<_> = examples.iter().map(|example| (example.prompt, reply(example))).collect();
            self.tokens(&rows)
        };
        let (chosen, rejected) = (rows(|example| example.chosen)?, rows(|example| example.rejected)?);
        Ok(PairLogProbs::from_tokens(&chosen, &rejected)?)
    }

    /// Token log-probabilities of replies after their prompts, padded on the right.
    fn tokens(&self, rows: &[(&str, &str)]) -> Result<TokenLogProbs> {
        let length = |(prompt, reply): &(&str, &str)| prompt.len() + reply.len() + 1;
        let width = rows.iter().map(length).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row @ (prompt, reply) in rows {
            let padding = width - length(row);
            ids.extend(prompt.bytes().chain(reply.bytes()).map(i64::from));
            ids.extend(std::iter::repeat_n(END, 1 + padding));
            mask.extend(std::iter::repeat_n(0i64, prompt.len()));
            mask.extend(std::iter::repeat_n(1, reply.len() + 1));
            mask.extend(std::iter::repeat_n(0, padding));
        }
        let shape = [rows.len() as i64, width as i64];
        let (ids, mask) = (Tensor::from_slice(&ids).view(shape), Tensor::from_slice(&mask).view(shape));
        Ok(TokenLogProbs::from_causal_lm(&self.logits(&ids)?, &ids, &mask)?)
    }

    /// `[B, T]` to `[B, T, V]`. What stands behind a reply changes nothing before it, so padding needs no mask.
    fn logits(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.model.forward_t(Some(ids), None, None, None, None, None, false)?.lm_logits)
    }

    /// A greedy reply of at most 20 bytes.
    pub fn reply(&self, prompt: &str) -> Result<String> {
        let _no_grad = tch::no_grad_guard();
        let mut ids: Vec<i64> = prompt.bytes().map(i64::from).collect();
        let start = ids.len();
        while ids.len() < start + 20 {
            let row = Tensor::from_slice(&ids).view([1, -1]);
            let next = self.logits(&row)?.select(1, -1).argmax(-1, false).int64_value(&[0]);
            if next == END {
                break;
            }
            ids.push(next);
        }
        let bytes: Vec<u8> = ids[start..].iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
