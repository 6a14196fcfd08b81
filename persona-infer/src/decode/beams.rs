//! Beam search for one prompt, with transformers' scores and ends.

use super::config::{DecodeConfig, EarlyStopping};

/// The beams of one prompt.
#[derive(Debug)]
pub(crate) struct Beams {
    width: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    /// New tokens at most.
    room: usize,
    running: Vec<Beam>,
    /// At most as many as beams, best first.
    finished: Vec<Beam>,
    /// Whether a running beam may still become better than a finished one.
    open: bool,
    /// New tokens so far.
    new: usize,
}

/// New tokens and their score: the log-probability while running, over a power of the length once finished.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Beam {
    pub(crate) tokens: Vec<u32>,
    pub(crate) score: f32,
    /// The token that ended the beam, which is not among the others.
    pub(crate) end: Option<u32>,
}

/// A beam with one more token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) beam: usize,
    pub(crate) token: u32,
    pub(crate) score: f32,
}

impl Beams {
    pub(crate) fn new(config: &DecodeConfig, room: usize) -> Self {
        Self {
            width: config.num_beams,
            length_penalty: config.length_penalty,
            early_stopping: config.early_stopping,
            room,
            running: vec![Beam { tokens: Vec::new(), score: 0.0, end: None }],
            finished: Vec::new(),
            open: true,
            new: 0,
        }
    }

    /// How many candidates are looked at: enough that beams run on when the best ones end.
    pub(crate) fn candidates(width: usize, ends: usize) -> usize {
        width * (ends + 1).max(2)
    }

    /// The beams that run, best first: one before the first step, then as many as the search has beams.
    pub(crate) fn running(&self) -> &[Beam] {
        &self.running
    }

    /// Takes a step with the best candidates, best first, and returns for each running beam the one that it continues; none
    /// when the search has ended.
    pub(crate) fn advance(&mut self, candidates: &[Candidate], ends: &[u32]) -> Vec<usize> {
        self.new += 1;
        let last = self.new >= self.room;
        let full = self.finished.len() == self.width;
        let closed = !self.open || (full && self.early_stopping == EarlyStopping::Yes);
        let mut running = Vec::with_capacity(self.width);
        let mut parents = Vec::with_capacity(self.width);
        for (place, candidate) in candidates.iter().enumerate() {
            let Some(beam) = self.running.get(candidate.beam) else { continue };
            let end = ends.contains(&candidate.token).then_some(candidate.token);
            if end.is_some() || last {
                // Only candidates among the best may finish; the others are looked at so that beams run on.
                if place < self.width && !closed {
                    let mut tokens = beam.tokens.clone();
                    tokens.extend(end.is_none().then_some(candidate.token));
                    let score = candidate.score / self.scale(self.new);
                    self.finished.push(Beam { tokens, score, end });
                }
            } else if running.len() < self.width {
                let mut tokens = beam.tokens.clone();
                tokens.push(candidate.token);
                running.push(Beam { tokens, score: candidate.score, end: None });
                parents.push(candidate.beam);
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.width);
        self.running = running;
        let full = self.finished.len() == self.width;
        self.open &= !full || self.can_improve();
        if last || !self.open || (full && self.early_stopping == EarlyStopping::Yes) {
            self.running.clear();
            return Vec::new();
        }
        parents
    }

    /// Whether the best running beam may yet score better than the worst finished one.
    fn can_improve(&self) -> bool {
        let (Some(best), Some(worst)) = (self.running.first(), self.finished.last()) else {
            return false;
        };
        let far = self.early_stopping == EarlyStopping::Never && self.length_penalty > 0.0;
        best.score / self.scale(if far { self.room } else { self.new }) > worst.score
    }

    fn scale(&self, tokens: usize) -> f32 {
        (tokens as f64).powf(self.length_penalty) as f32
    }

    /// The finished beams, best first.
    pub(crate) fn finish(self) -> Vec<Beam> {
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 9;

    fn beams(early_stopping: EarlyStopping, length_penalty: f64) -> Beams {
        let config = DecodeConfig { num_beams: 2, length_penalty, early_stopping, ..DecodeConfig::default() };
        Beams::new(&config, 4)
    }

    fn step(beams: &mut Beams, candidates: &[(usize, u32, f32)]) -> Vec<usize> {
        let candidates: Vec<Candidate> =
            candidates.iter().map(|&(beam, token, score)| Candidate { beam, token, score }).collect();
        beams.advance(&candidates, &[END])
    }

    #[test]
    fn beams_that_end_make_room_for_the_next_best() {
        let mut search = beams(EarlyStopping::Yes, 1.0);
        assert_eq!(step(&mut search, &[(0, 1, -0.1), (0, END, -0.2), (0, 2, -0.3), (0, 3, -0.9)]), [0, 0]);
        assert_eq!(search.running().iter().map(|beam| beam.tokens[0]).collect::<Vec<_>>(), [1, 2]);
        // An end beyond the best two does not finish.
        assert_eq!(step(&mut search, &[(1, 4, -0.4), (0, 5, -0.5), (0, END, -0.6), (1, 6, -0.7)]), [1, 0]);
        // The second one that finishes ends the search.
        assert!(step(&mut search, &[(0, 7, -0.5), (1, END, -0.6), (0, 6, -0.7), (1, 6, -0.8)]).is_empty());
        let finished = search.finish();
        // A mean of -0.2 for one token and of -0.2 for three: the earlier stays first.
        assert_eq!(finished[0], Beam { tokens: vec![], score: -0.2, end: Some(END) });
        assert_eq!((finished[1].tokens.as_slice(), finished[1].end), ([1, 5].as_slice(), Some(END)));
    }

    #[test]
    fn a_search_without_an_end_finishes_with_its_best() {
        let mut search = beams(EarlyStopping::No, 0.0);
        for new in 0..4 {
            let parents = step(&mut search, &[(0, new, -1.0), (0, 5, -2.0), (0, 6, -3.0), (0, 7, -4.0)]);
            assert_eq!(parents.is_empty(), new == 3);
        }
        let finished = search.finish();
        assert_eq!(finished[0], Beam { tokens: vec![0, 1, 2, 3], score: -1.0, end: None });
        assert_eq!(finished[1].tokens, [0, 1, 2, 5]);
    }

    #[test]
    fn the_three_ends_differ_in_what_running_beams_may_reach() {
        let ended = |early_stopping| {
            let mut search = beams(early_stopping, 1.0);
            step(&mut search, &[(0, END, -0.5), (0, 1, -0.6), (0, 2, -0.7), (0, 3, -0.8)]);
            // Finished: -0.5 and -0.6 / 2. The best running beam has -1.02: -0.51 a token now, -0.255 at four.
            step(&mut search, &[(0, END, -0.6), (0, 4, -1.02), (1, 5, -1.1), (1, 6, -1.2)]).is_empty()
        };
        assert!(ended(EarlyStopping::Yes) && ended(EarlyStopping::No));
        assert!(!ended(EarlyStopping::Never));
    }
}
