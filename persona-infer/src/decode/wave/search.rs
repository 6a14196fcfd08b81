//! Beam search among the sequences in flight.

use tch::Tensor;

use super::{Out, Wave};
use crate::decode::beams::{Beams, Candidate};
use crate::decode::choice::Next;
use crate::decode::request::{Completion, Finish};
use crate::error::Result;

/// A search in flight.
pub(super) struct Search {
    pub(super) beams: Beams,
    /// The rows of the running beams, best first.
    pub(super) rows: Vec<usize>,
}

impl Wave<'_> {
    /// A step of a search, from the logits `[B, V]` of its running beams.
    pub(super) fn search(
        &mut self,
        request: usize,
        logits: &Tensor,
        out: &mut Out<'_, '_, '_>,
    ) -> Result<()> {
        let Some(mut search) = self.searches.remove(&request) else { return Ok(()) };
        let asked = &self.requests[request];
        let running = search.beams.running();
        let nexts: Vec<Next<'_>> = search.rows[..running.len()]
            .iter()
            .filter_map(|&row| Some(self.next(self.rows[row].as_ref()?)))
            .collect();
        let scores: Vec<f32> = running.iter().map(|beam| beam.score).collect();
        let scores = Tensor::f_from_slice(&scores)?.f_to_device(logits.device())?.f_unsqueeze(1)?;
        let log_probs = asked.config.constrain(&logits.f_log_softmax(-1, None)?, &nexts)?;
        let vocabulary = log_probs.size2()?.1;
        let count = Beams::candidates(asked.config.num_beams, asked.ends.len()) as i64;
        let (best, places) = log_probs.f_add(&scores)?.f_view([-1])?.f_topk(count, -1, true, true)?;
        let best = Vec::<f32>::try_from(&best)?;
        if let (Some(&highest), Some(next)) = (best.first(), nexts.first()) {
            next.check(highest)?;
        }
        let candidates: Vec<Candidate> = best
            .into_iter()
            .zip(Vec::<i64>::try_from(&places)?)
            .map(|(score, place)| Candidate {
                beam: (place / vocabulary) as usize,
                token: (place % vocabulary) as u32,
                score,
            })
            .collect();
        let parents = search.beams.advance(&candidates, &asked.ends);
        if parents.is_empty() {
            return self.end_search(request, search, out);
        }
        let moves: Vec<(usize, usize)> =
            parents.iter().zip(&search.rows).map(|(&parent, &row)| (search.rows[parent], row)).collect();
        self.cache.copy(&moves)?;
        let prompt = [asked.counted_before.as_slice(), &asked.prompt].concat();
        for (&row, beam) in search.rows.iter().zip(search.beams.running()) {
            if let Some(sequence) = &mut self.rows[row] {
                sequence.history = [prompt.as_slice(), &beam.tokens].concat();
                sequence.new = beam.tokens.len();
            }
        }
        self.searches.insert(request, search);
        Ok(())
    }

    fn end_search(&mut self, request: usize, search: Search, out: &mut Out<'_, '_, '_>) -> Result<()> {
        for &row in &search.rows {
            self.rows[row] = None;
            self.cache.clear(row)?;
        }
        let wanted = self.requests[request].config.num_return_sequences;
        for (index, beam) in search.beams.finish().into_iter().take(wanted).enumerate() {
            let text = self.text(&beam.tokens)?;
            if out.piece((request, index), text.as_deref().unwrap_or_default(), true).is_break() {
                self.cancelled = true;
            }
            let finish = beam.end.map_or(Finish::Length, Finish::Token);
            let score = Some(f64::from(beam.score));
            out.replies[request].push(Completion { tokens: beam.tokens, text, finish, score });
        }
        self.leave(request)
    }
}
