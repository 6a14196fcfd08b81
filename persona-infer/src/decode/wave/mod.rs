//! Sequences in flight: requests enter the rows of a cache, take steps together, and leave.

mod forward;
mod search;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use persona_model::{BatchBuilder, KvCache, SharedId};
use tch::Tensor;

use self::forward::{Prompt, compute, forward};
use self::search::Search;
use super::beams::Beams;
use super::choice::{Draws, Next};
use super::engine::{Engine, Receiver};
use super::request::{Completion, Finish, Piece, Request};
use super::text_stream::TextStream;
use crate::error::Result;

/// Requests of one kind, in flight and waiting: each prompt in a row of its own, or shared by several rows.
pub(super) struct Wave<'e> {
    engine: &'e Engine<'e>,
    requests: &'e [Request],
    /// For each request how many new tokens it may have.
    rooms: &'e [usize],
    waiting: VecDeque<usize>,
    /// Prompts whose sequences have not all begun.
    begun: VecDeque<Begun>,
    cache: KvCache,
    /// For each row of the cache the sequence in it.
    rows: Vec<Option<Sequence<'e>>>,
    /// Searches in flight, by request.
    searches: BTreeMap<usize, Search>,
    /// For each request with a shared prompt what it holds and how many sequences still run or wait.
    shared: BTreeMap<usize, (SharedId, usize)>,
    done: usize,
    cancelled: bool,
}

/// A sequence in a row of the cache: a reply, or a beam.
struct Sequence<'e> {
    request: usize,
    /// Among the request's replies.
    index: usize,
    /// What is counted before the prompt, prompt, new tokens.
    history: Vec<u32>,
    new: usize,
    text: Option<TextStream<'e>>,
}

/// A prompt that is computed: the logits after it `[1, V]`, and the sequence that begins next.
struct Begun {
    request: usize,
    shared: SharedId,
    logits: Tensor,
    next: usize,
}

impl<'e> Wave<'e> {
    pub(super) fn new(
        engine: &'e Engine<'e>,
        requests: &'e [Request],
        rooms: &'e [usize],
        order: Vec<usize>,
    ) -> Result<Self> {
        let all: usize = order.iter().map(|&at| requests[at].sequences()).sum();
        let widest = order.iter().map(|&at| requests[at].config.num_beams).max().unwrap_or(1);
        let rows = all.min(engine.config.sequences).max(widest);
        // Room for the longest prompt and the first new tokens; more is made when replies get there.
        let prompt = |at: usize| if requests[at].shares_prompt() { 0 } else { requests[at].prompt.len() };
        let tokens = order.iter().map(|&at| prompt(at) + rooms[at].min(64)).max().unwrap_or(1);
        Ok(Self {
            engine,
            requests,
            rooms,
            waiting: order.into(),
            begun: VecDeque::new(),
            cache: engine.model.cache(rows, tokens)?,
            rows: (0..rows).map(|_| None).collect(),
            searches: BTreeMap::new(),
            shared: BTreeMap::new(),
            done: 0,
            cancelled: false,
        })
    }

    /// How many requests are answered.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Whether the receiver wanted no more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Lets requests in where there is room, and takes a step. Returns whether anything is left to do.
    pub(super) fn advance(
        &mut self,
        replies: &mut [Vec<Completion>],
        receiver: &mut Option<&mut Receiver<'_>>,
    ) -> Result<bool> {
        let mut out = Out { replies, receiver };
        self.admit(&mut out)?;
        if !self.cancelled {
            self.make_smaller()?;
            self.step(&mut out)?;
        }
        if self.cancelled {
            self.cancel(&mut out)?;
            return Ok(false);
        }
        let running = self.rows.iter().any(Option::is_some);
        Ok(running || !self.waiting.is_empty() || !self.begun.is_empty())
    }

    fn free(&self) -> Vec<usize> {
        (0..self.rows.len()).filter(|&row| self.rows[row].is_none()).collect()
    }

    fn admit(&mut self, out: &mut Out<'_, '_, '_>) -> Result<()> {
        let free = self.free();
        // A prompt alone uses the weights for few tokens: some are let in together.
        let idle = free.len() == self.rows.len();
        if !idle && free.len() * 4 < self.rows.len() {
            return Ok(());
        }
        let Some(&first) = self.waiting.front() else {
            return self.begin(out);
        };
        if !self.requests[first].shares_prompt() {
            let count = free.len().min(self.waiting.len());
            let entering: Vec<usize> = self.waiting.drain(..count).collect();
            let places: Vec<(usize, usize)> = free.into_iter().zip(entering).collect();
            return self.prefill(&places, out);
        }
        if self.begun.is_empty() {
            // As many prompts as have room for all of their sequences, and at least one.
            let mut room = free.len();
            let mut entering = Vec::new();
            while let Some(&request) = self.waiting.front() {
                let sequences = self.requests[request].sequences();
                if sequences > room && !entering.is_empty() {
                    break;
                }
                room = room.saturating_sub(sequences);
                entering.push(request);
                self.waiting.pop_front();
            }
            self.compute_prompts(&entering)?;
        }
        self.begin(out)
    }

    /// Computes prompts in rows of this cache, and lets their replies begin.
    fn prefill(&mut self, places: &[(usize, usize)], out: &mut Out<'_, '_, '_>) -> Result<()> {
        let (engine, requests) = (self.engine, self.requests);
        let prompts: Vec<Prompt<'_>> = places
            .iter()
            .map(|&(row, request)| Prompt { row, request, ids: &requests[request].prompt })
            .collect();
        let mut entered = Vec::new();
        compute(engine, requests, &prompts, &mut self.cache, |finished, logits| {
            entered.push((finished, logits));
            Ok(())
        })?;
        for (finished, logits) in entered {
            let rows: Vec<usize> = finished.iter().map(|&at| places[at].0).collect();
            for &at in &finished {
                let (row, request) = places[at];
                self.rows[row] = Some(self.sequence(request, 0, out.receiver.is_some()));
            }
            self.choose(&rows, &logits, out)?;
        }
        Ok(())
    }

    /// Computes prompts that several sequences will share.
    fn compute_prompts(&mut self, entering: &[usize]) -> Result<()> {
        let (engine, requests) = (self.engine, self.requests);
        let prompts: Vec<Prompt<'_>> = entering
            .iter()
            .enumerate()
            .map(|(row, &request)| Prompt { row, request, ids: &requests[request].prompt })
            .collect();
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(1);
        let mut computed = engine.model.cache(prompts.len(), longest)?;
        let mut logits: Vec<Option<Tensor>> = entering.iter().map(|_| None).collect();
        compute(engine, requests, &prompts, &mut computed, |finished, rows| {
            for (at, &prompt) in finished.iter().enumerate() {
                logits[prompt] = Some(rows.f_narrow(0, at as i64, 1)?);
            }
            Ok(())
        })?;
        for ((row, &request), logits) in entering.iter().enumerate().zip(logits) {
            let Some(logits) = logits else { continue };
            let shared = self.cache.hold(&computed, row)?;
            let config = &requests[request].config;
            // A search is one reply at a time here: its beams finish together.
            let count = if config.num_beams > 1 { 1 } else { config.num_return_sequences };
            self.shared.insert(request, (shared, count));
            self.begun.push_back(Begun { request, shared, logits, next: 0 });
        }
        Ok(())
    }

    /// Lets sequences of computed prompts begin in the rows that are free.
    fn begin(&mut self, out: &mut Out<'_, '_, '_>) -> Result<()> {
        while let Some(begun) = self.begun.front_mut() {
            let request = begun.request;
            let config = &self.requests[request].config;
            let free: Vec<usize> = (0..self.rows.len()).filter(|&row| self.rows[row].is_none()).collect();
            let logits = begun.logits.shallow_clone();
            let (shared, next) = (begun.shared, begun.next);
            if config.num_beams > 1 {
                if free.len() < config.num_beams {
                    return Ok(());
                }
                self.begun.pop_front();
                for &row in &free[..config.num_beams] {
                    self.cache.attach(row, shared)?;
                    self.rows[row] = Some(self.sequence(request, 0, false));
                }
                let search = Search {
                    beams: Beams::new(config, self.rooms[request]),
                    rows: free[..config.num_beams].to_vec(),
                };
                self.searches.insert(request, search);
                self.search(request, &logits, out)?;
                continue;
            }
            let count = free.len().min(config.num_return_sequences - next);
            if count == 0 {
                return Ok(());
            }
            begun.next += count;
            if begun.next == config.num_return_sequences {
                self.begun.pop_front();
            }
            let rows = &free[..count];
            for (at, &row) in rows.iter().enumerate() {
                self.cache.attach(row, shared)?;
                self.rows[row] = Some(self.sequence(request, next + at, out.receiver.is_some()));
            }
            self.choose(rows, &logits.f_expand([count as i64, -1], false)?, out)?;
        }
        Ok(())
    }

    fn sequence(&self, request: usize, index: usize, streams: bool) -> Sequence<'e> {
        let asked = &self.requests[request];
        let wanted = streams || !asked.stop_strings.is_empty();
        let tokenizer = self.engine.tokenizer.filter(|_| wanted);
        Sequence {
            request,
            index,
            history: [asked.counted_before.as_slice(), &asked.prompt].concat(),
            new: 0,
            text: tokenizer.map(|tokenizer| TextStream::new(tokenizer, &asked.stop_strings)),
        }
    }

    /// Gives back rows once half of them have ended and nobody waits for them.
    fn make_smaller(&mut self) -> Result<()> {
        let staying: Vec<usize> = (0..self.rows.len()).filter(|&row| self.rows[row].is_some()).collect();
        let waits = !self.waiting.is_empty() || !self.begun.is_empty();
        if waits || staying.is_empty() || staying.len() * 2 > self.rows.len() {
            return Ok(());
        }
        self.cache.keep(&staying)?;
        for search in self.searches.values_mut() {
            for row in &mut search.rows {
                *row = staying.partition_point(|staying| staying < row);
            }
        }
        let rows = std::mem::take(&mut self.rows);
        self.rows = rows.into_iter().filter(Option::is_some).collect();
        Ok(())
    }

    /// One forward pass with the last token of every sequence, and the next token of each.
    fn step(&mut self, out: &mut Out<'_, '_, '_>) -> Result<()> {
        let mut builder = BatchBuilder::default();
        let mut running = Vec::new();
        for (row, sequence) in self.rows.iter().enumerate() {
            let Some(last) = sequence.as_ref().and_then(|sequence| sequence.history.last()) else { continue };
            builder.cached(row, self.cache.lengths()[row], &[*last]);
            running.push(row);
        }
        if running.is_empty() {
            return Ok(());
        }
        let requests: Vec<usize> =
            running.iter().filter_map(|&row| Some(self.rows[row].as_ref()?.request)).collect();
        let hidden = forward(self.engine, self.requests, builder, &requests, &mut self.cache, None)?;
        let logits = self.engine.model.logits(&hidden)?;
        let pick = |rows: &[usize]| -> Result<Tensor> {
            if rows == running {
                return Ok(logits.shallow_clone());
            }
            let places: Vec<i64> =
                rows.iter().filter_map(|row| running.binary_search(row).ok()).map(|at| at as i64).collect();
            Ok(logits.f_index_select(0, &Tensor::f_from_slice(&places)?.f_to_device(logits.device())?)?)
        };
        let searches: Vec<usize> = self.searches.keys().copied().collect();
        let mut in_searches: Vec<usize> = Vec::new();
        for request in searches {
            let rows = self.searches[&request].rows.clone();
            self.search(request, &pick(&rows)?, out)?;
            in_searches.extend(rows);
        }
        let single: Vec<usize> = running.iter().copied().filter(|row| !in_searches.contains(row)).collect();
        if single.is_empty() { Ok(()) } else { self.choose(&single, &pick(&single)?, out) }
    }

    /// The next token of rows from logits `[B, V]`; those of requests that choose alike are processed together.
    fn choose(&mut self, rows: &[usize], logits: &Tensor, out: &mut Out<'_, '_, '_>) -> Result<()> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (at, &row) in rows.iter().enumerate() {
            let Some(sequence) = &self.rows[row] else { continue };
            let config = &self.requests[sequence.request].config;
            let alike = groups.iter_mut().find(|group| {
                let first = self.rows[rows[group[0]]].as_ref();
                first.is_some_and(|first| self.requests[first.request].config.chooses_like(config))
            });
            match alike {
                Some(group) => group.push(at),
                None => groups.push(vec![at]),
            }
        }
        for group in groups {
            let nexts: Vec<Next<'_>> =
                group.iter().filter_map(|&at| Some(self.next(self.rows[rows[at]].as_ref()?))).collect();
            let Some(config) = nexts.first().map(|next| self.requests[next.prompt].config) else { continue };
            let own = if group.len() == rows.len() {
                logits.shallow_clone()
            } else {
                let places: Vec<i64> = group.iter().map(|&at| at as i64).collect();
                logits.f_index_select(0, &Tensor::f_from_slice(&places)?.f_to_device(logits.device())?)?
            };
            let tokens = config.choose(&config.constrain(&own, &nexts)?, &nexts)?;
            for (&at, token) in group.iter().zip(tokens) {
                self.add(rows[at], token, out)?;
            }
        }
        Ok(())
    }

    fn next<'s>(&self, sequence: &'s Sequence<'_>) -> Next<'s>
    where
        'e: 's,
    {
        let request = &self.requests[sequence.request];
        let (length, new) = (sequence.history.len(), sequence.new);
        let stream = u64::from(request.stream) << 32 | sequence.index as u64;
        Next {
            prompt: sequence.request,
            history: &sequence.history,
            new,
            ends: &request.ends,
            short: request.config.is_short(length, new),
            draws: Draws { seed: request.config.seed, stream },
        }
    }

    /// Gives a sequence its next token, and ends it where that ends it.
    fn add(&mut self, row: usize, token: u32, out: &mut Out<'_, '_, '_>) -> Result<()> {
        let Some(sequence) = &mut self.rows[row] else { return Ok(()) };
        let request = &self.requests[sequence.request];
        let finish = if request.ends.contains(&token) {
            Some(Finish::Token(token))
        } else {
            sequence.history.push(token);
            sequence.new += 1;
            if let Some(text) = &mut sequence.text {
                text.push(token)?;
            }
            match sequence.text.as_ref().and_then(TextStream::stopped_at) {
                Some(stop) => Some(Finish::Text(stop.to_owned())),
                None if sequence.new >= self.rooms[sequence.request] => Some(Finish::Length),
                None => None,
            }
        };
        match finish {
            Some(finish) => self.end(row, finish, out),
            None => {
                if let Some(text) = &mut sequence.text
                    && out.piece((sequence.request, sequence.index), text.take(), false).is_break()
                {
                    self.cancelled = true;
                }
                Ok(())
            }
        }
    }

    fn end(&mut self, row: usize, finish: Finish, out: &mut Out<'_, '_, '_>) -> Result<()> {
        let Some(mut sequence) = self.rows[row].take() else { return Ok(()) };
        self.cache.clear(row)?;
        let tokens = sequence.history.split_off(sequence.history.len() - sequence.new);
        let text = match &mut sequence.text {
            Some(text) => {
                text.finish()?;
                if out.piece((sequence.request, sequence.index), text.take(), true).is_break() {
                    self.cancelled = true;
                }
                Some(text.text().to_owned())
            }
            None => self.text(&tokens)?,
        };
        let completion = Completion { tokens, text, finish, score: None };
        let replies = &mut out.replies[sequence.request];
        // Replies of one request end in any order; those that are missing are filled in later.
        if replies.len() <= sequence.index {
            let missing =
                Completion { tokens: Vec::new(), text: None, finish: Finish::Cancelled, score: None };
            replies.resize(sequence.index + 1, missing);
        }
        replies[sequence.index] = completion;
        self.leave(sequence.request)
    }

    fn text(&self, tokens: &[u32]) -> Result<Option<String>> {
        Ok(self.engine.tokenizer.map(|tokenizer| tokenizer.decode(tokens, true)).transpose()?)
    }

    /// Notes that a reply or a search of a request has ended; the last one gives up the shared prompt.
    fn leave(&mut self, request: usize) -> Result<()> {
        if let Some((shared, count)) = self.shared.get_mut(&request) {
            *count -= 1;
            if *count > 0 {
                return Ok(());
            }
            let shared = *shared;
            self.cache.release(shared)?;
            self.shared.remove(&request);
        }
        self.done += 1;
        Ok(())
    }

    /// Ends everything that runs, and leaves unanswered what waits.
    fn cancel(&mut self, out: &mut Out<'_, '_, '_>) -> Result<()> {
        for (_, search) in std::mem::take(&mut self.searches) {
            for row in search.rows {
                self.rows[row] = None;
            }
        }
        // Nobody is told any more.
        let mut quiet = Out { replies: &mut *out.replies, receiver: &mut None };
        for row in 0..self.rows.len() {
            self.end(row, Finish::Cancelled, &mut quiet)?;
        }
        self.waiting.clear();
        self.begun.clear();
        Ok(())
    }
}

/// Where replies go.
struct Out<'o, 'r, 's> {
    replies: &'o mut [Vec<Completion>],
    receiver: &'o mut Option<&'r mut Receiver<'s>>,
}

impl Out<'_, '_, '_> {
    fn piece(&mut self, (request, sequence): (usize, usize), text: &str, finished: bool) -> ControlFlow<()> {
        match self.receiver {
            Some(receiver) if finished || !text.is_empty() => {
                receiver(Piece { request, sequence, text, finished })
            }
            _ => ControlFlow::Continue(()),
        }
    }
}
