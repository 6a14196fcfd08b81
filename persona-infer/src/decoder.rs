//! Decoding of token ids, all prompts with the same settings.

use persona_model::CausalLm;

use crate::decode::{DecodeConfig, Engine, EngineConfig, Request};
use crate::error::{Error, Result};

/// Continues prompts with a model, one reply each. An [`Engine`] does more; this is it for prompts of one kind. A reply's
/// tokens depend on its own prompt and index alone.
pub struct Decoder<'a> {
    engine: Engine<'a>,
    config: DecodeConfig,
    ends: Vec<u32>,
}

impl std::fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("config", &self.config)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl<'a> Decoder<'a> {
    /// A decoder that ends a reply at any of these tokens, which is not part of it.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings, for several sequences a prompt, and for what only text has.
    pub fn new(model: &'a dyn CausalLm, config: DecodeConfig, ends: &[u32]) -> Result<Self> {
        config.validate()?;
        config.check_tokens()?;
        if config.num_return_sequences > 1 {
            let reason = "is above 1, and this gives one reply a prompt; use an Engine".to_owned();
            return Err(Error::Config { key: "num_return_sequences", reason });
        }
        let engine =
            Engine::new(model, EngineConfig { sequences: config.batch_size, ..EngineConfig::default() })?;
        Ok(Self { engine, config, ends: ends.to_vec() })
    }

    /// Calls this with the number of prompts done, whenever there are more.
    #[must_use]
    pub fn watched_by(mut self, progress: &'a dyn Fn(usize)) -> Self {
        self.engine = self.engine.watched_by(progress);
        self
    }

    /// The new tokens of every prompt, in the order of the prompts.
    ///
    /// # Errors
    /// As [`Engine::complete`].
    pub fn generate(&self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
        let requests: Vec<Request> = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| {
                Request::new(prompt.clone(), self.config).ending_at(&self.ends).in_stream(index as u32)
            })
            .collect();
        let replies = self.engine.complete(&requests)?;
        Ok(replies
            .into_iter()
            .map(|replies| replies.into_iter().next().map_or(vec![], |one| one.tokens))
            .collect())
    }
}
