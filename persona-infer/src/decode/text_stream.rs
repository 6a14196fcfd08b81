//! Text of tokens that come one at a time.

use persona_data::TextTokenizer;

use crate::error::Result;

/// Turns tokens into text as they come: whole characters only, and nothing that may become a stop string.
///
/// ```
/// use persona_data::{BpeOptions, train_byte_level_bpe};
/// use persona_infer::TextStream;
///
/// let tokenizer = train_byte_level_bpe(["abc".to_owned()].into_iter(), &BpeOptions::default())?;
/// let mut stream = TextStream::new(&tokenizer, &[]);
/// let mut shown = String::new();
/// for id in tokenizer.encode("crème brûlée")? {
///     stream.push(id)?; // some of these are half a character
///     shown.push_str(stream.take());
/// }
/// assert_eq!(shown, "crème brûlée");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    stops: &'a [String],
    ids: Vec<u32>,
    /// The tokens before these are text already; those from `from` on are decoded with the new ones, because a token's
    /// text may depend on the one before it.
    from: usize,
    read: usize,
    text: String,
    taken: usize,
    stopped: Option<usize>,
}

/// What a decoder writes for bytes that are no character, or not yet.
const REPLACEMENT: char = '\u{FFFD}';

impl<'a> TextStream<'a> {
    /// A stream that ends where its text holds any of these strings.
    #[must_use]
    pub fn new(tokenizer: &'a TextTokenizer, stops: &'a [String]) -> Self {
        Self {
            tokenizer,
            stops,
            ids: Vec::new(),
            from: 0,
            read: 0,
            text: String::new(),
            taken: 0,
            stopped: None,
        }
    }

    /// Adds a token. Returns whether the text has reached a stop string, from which on it is cut.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) for a token outside the tokenizer's vocabulary.
    pub fn push(&mut self, id: u32) -> Result<bool> {
        if self.stopped.is_some() {
            return Ok(true);
        }
        self.ids.push(id);
        let whole = self.decode(self.from..self.ids.len())?;
        if whole.ends_with(REPLACEMENT) {
            return Ok(false);
        }
        let known = self.decode(self.from..self.read)?;
        if whole.len() > known.len() {
            // A decoder that rewrites earlier text gives no prefix; then all is decoded anew when the stream ends.
            if let Some(new) = whole.strip_prefix(known.as_str()) {
                let new = new.to_owned();
                self.extend(&new);
                (self.from, self.read) = (self.read, self.ids.len());
            }
        }
        Ok(self.stopped.is_some())
    }

    fn decode(&self, part: std::ops::Range<usize>) -> Result<String> {
        Ok(self.tokenizer.decode(&self.ids[part], true)?)
    }

    fn extend(&mut self, new: &str) {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut start = self.text.len().saturating_sub(longest.saturating_sub(1));
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        self.text.push_str(new);
        let found = self.stops.iter().enumerate().filter_map(|(which, stop)| {
            let at = self.text.get(start..)?.find(stop.as_str())?;
            Some((start + at, which))
        });
        if let Some((at, which)) = found.min() {
            self.text.truncate(at);
            self.stopped = Some(which);
        }
    }

    /// The stop string that ended the text.
    #[must_use]
    pub fn stopped_at(&self) -> Option<&'a str> {
        self.stopped.and_then(|which| self.stops.get(which)).map(String::as_str)
    }

    /// Says that no token follows: characters that never became whole are text now.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<()> {
        if self.stopped.is_none() && self.read < self.ids.len() {
            let whole = self.decode(self.from..self.ids.len())?;
            let known = self.decode(self.from..self.read)?;
            if let Some(new) = whole.strip_prefix(known.as_str()) {
                let new = new.to_owned();
                self.extend(&new);
            }
            self.read = self.ids.len();
        }
        // What was held back can no longer become a stop string.
        self.stops = if self.stopped.is_some() { self.stops } else { &[] };
        Ok(())
    }

    /// The text that has come since the last call.
    pub fn take(&mut self) -> &str {
        let end = if self.stopped.is_some() { self.text.len() } else { self.text.len() - self.held_back() };
        let from = self.taken.min(end);
        self.taken = from.max(end);
        self.text.get(from..end).unwrap_or_default()
    }

    /// Bytes at the end that may be the beginning of a stop string.
    fn held_back(&self) -> usize {
        let begun = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).skip(1);
            ends.filter(|&end| self.text.ends_with(&stop[..end])).max().unwrap_or(0)
        };
        self.stops.iter().map(begun).max().unwrap_or(0)
    }

    /// All the text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use persona_data::{BpeOptions, train_byte_level_bpe};

    use super::*;

    fn tokenizer() -> TextTokenizer {
        let corpus = ["the cat sat on the mat", "日本語のテキスト"].map(str::to_owned);
        let options = BpeOptions { vocab_size: 300, ..BpeOptions::default() };
        train_byte_level_bpe(corpus.into_iter().cycle().take(40), &options).unwrap()
    }

    /// The pieces, the whole text, and the stop string.
    fn stream(ids: &[u32], stops: &[&str]) -> (Vec<String>, String, Option<String>) {
        let tokenizer = tokenizer();
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&tokenizer, &stops);
        let mut pieces = Vec::new();
        for &id in ids {
            let stopped = stream.push(id).unwrap();
            pieces.push(stream.take().to_owned());
            if stopped {
                break;
            }
        }
        stream.finish().unwrap();
        pieces.push(stream.take().to_owned());
        assert_eq!(pieces.concat(), stream.text());
        (pieces, stream.text().to_owned(), stream.stopped_at().map(str::to_owned))
    }

    #[test]
    fn characters_are_never_split() {
        for text in ["the cat 🐈 sat, naïvely", "日本語です。👩‍👩‍👧", "a\u{FFFD}b", ""] {
            let ids = tokenizer().encode(text).unwrap();
            let (pieces, whole, _) = stream(&ids, &[]);
            assert_eq!(whole, text);
            assert!(pieces.iter().all(|piece| text.contains(piece.as_str())), "{pieces:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_character_appear_as_decoding_at_once_shows_them() {
        let tokenizer = tokenizer();
        let mut ids = tokenizer.encode("🐈").unwrap();
        ids.truncate(2);
        ids.extend(tokenizer.encode("cat").unwrap());
        ids.push(tokenizer.encode("🐈").unwrap()[0]);
        let (_, whole, _) = stream(&ids, &[]);
        assert_eq!(whole, tokenizer.decode(&ids, true).unwrap());
    }

    #[test]
    fn text_stops_before_a_stop_string_however_tokens_cut_it() {
        let ids = tokenizer().encode("the cat sat on the mat").unwrap();
        for (stops, text, stop) in [
            (vec!["at sat"], "the c", Some("at sat")),
            (vec!["mat", "on"], "the cat sat ", Some("on")),
            (vec!["t s", "cat sat"], "the ", Some("cat sat")),
            (vec!["mats", "the dog"], "the cat sat on the mat", None),
            (vec!["the"], "", Some("the")),
        ] {
            let (_, whole, stopped) = stream(&ids, &stops);
            assert_eq!((whole.as_str(), stopped.as_deref()), (text, stop), "{stops:?}");
        }
        // A beginning is held back until it is known.
        let ids: Vec<u32> =
            "a<|b".chars().flat_map(|c| tokenizer().encode(&c.to_string()).unwrap()).collect();
        let (pieces, _, _) = stream(&ids, &["<|end|>"]);
        assert_eq!(pieces, ["a", "", "", "<|b", ""]);
    }
}
