//! The Porter stemmer of nltk 3.10.4, in two of its three modes.
//!
//! M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980. nltk's own changes are marked in the code;
//! neither mode gives the stems of the Snowball project's English or Porter stemmers.

use super::python::push_token;

/// Which rules a stem follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// nltk's default mode `NLTK_EXTENSIONS`, which rouge_score and nltk's METEOR use.
    Nltk,
    /// nltk's mode `ORIGINAL_ALGORITHM`, which py-rouge uses.
    Original,
}

/// Words of at most so many bytes are stemmed without allocation if they are ASCII.
const ON_STACK: usize = 64;

/// Appends the stem of a lower-cased word to `out` as a token. A stem may be empty (`s` by the original rules).
pub(crate) fn stem(word: &str, rules: Rules, out: &mut String) {
    push_token(word, out);
    stem_last(out, out.len() - word.len(), rules);
}

/// Puts the stem of the lower-cased word that starts at the byte `start` and goes to the end of `text` in its place.
pub(crate) fn stem_last(text: &mut String, start: usize, rules: Rules) {
    let Some(word) = text.get(start..) else { return };
    if let Some(irregular) = irregular(word).filter(|_| rules == Rules::Nltk) {
        text.truncate(start);
        text.push_str(irregular);
    } else if !word.is_ascii() {
        let mut letters: Vec<char> = word.chars().collect();
        let (kept, len) = Word::new(&mut letters, rules).stem();
        let tail = letters.get(kept..len).unwrap_or_default();
        let kept: usize = word.chars().take(kept).map(char::len_utf8).sum();
        text.truncate(start + kept);
        text.extend(tail);
    } else {
        let mut on_stack = [0; ON_STACK];
        let mut on_heap = Vec::new();
        let letters = match on_stack.get_mut(..word.len()) {
            Some(letters) => {
                letters.copy_from_slice(word.as_bytes());
                letters
            }
            None => {
                on_heap.extend_from_slice(word.as_bytes());
                &mut on_heap[..]
            }
        };
        let (kept, len) = Word::new(letters, rules).stem();
        let tail = letters.get(kept..len).unwrap_or_default();
        text.truncate(start + kept);
        text.extend(tail.iter().map(|&byte| char::from(byte)));
    }
}

/// nltk's list of irregular forms.
fn irregular(word: &str) -> Option<&'static str> {
    Some(match word {
        "sky" | "skies" => "sky",
        "dying" => "die",
        "lying" => "lie",
        "tying" => "tie",
        "news" => "news",
        "inning" | "innings" => "inning",
        "outing" | "outings" => "outing",
        "canning" | "cannings" => "canning",
        "howe" => "howe",
        "proceed" => "proceed",
        "exceed" => "exceed",
        "succeed" => "succeed",
        _ => return None,
    })
}

/// A suffix and what it becomes.
type Rule = (&'static [u8], &'static [u8]);

/// What a rule asks of the stem, the word without the suffix. The measure m is the number of times that a vowel is
/// followed by a consonant.
struct Shape {
    measure: usize,
    has_vowel: bool,
    /// For the last three letters, the last first, whether they are vowels.
    vowels: [bool; 3],
}

/// A word that becomes its stem. Its letters never become more.
struct Word<'w, T> {
    letters: &'w mut [T],
    len: usize,
    /// Letters at the start that no rule has touched.
    kept: usize,
    rules: Rules,
}

fn is_one_of<T: Copy + PartialEq + From<u8>>(letter: Option<&T>, letters: &[u8]) -> bool {
    letter.is_some_and(|&letter| letters.iter().any(|&other| letter == T::from(other)))
}

impl<'w, T: Copy + PartialEq + From<u8>> Word<'w, T> {
    fn new(letters: &'w mut [T], rules: Rules) -> Self {
        let len = letters.len();
        Self { letters, len, kept: len, rules }
    }

    /// The number of letters kept from the word, and the length of the stem.
    fn stem(mut self) -> (usize, usize) {
        if self.rules == Rules::Original || self.len > 2 {
            self.plural();
            self.past();
            self.final_y();
            self.double_suffixes();
            self.suffixes();
            self.last_suffix();
            self.final_e();
            self.final_l();
        }
        (self.kept, self.len)
    }

    fn nltk(&self) -> bool {
        self.rules == Rules::Nltk
    }

    fn first(&self, len: usize) -> &[T] {
        self.letters.get(..len).unwrap_or_default()
    }

    fn word(&self) -> &[T] {
        self.first(self.len)
    }

    fn last_is(&self, letters: &[u8]) -> bool {
        is_one_of(self.word().last(), letters)
    }

    /// The length of the stem if the word has the suffix.
    fn without(&self, suffix: &[u8]) -> Option<usize> {
        let stem = self.len.checked_sub(suffix.len())?;
        let end = self.word().get(stem..)?;
        let same = end.iter().zip(suffix).rev().all(|(&letter, &other)| letter == T::from(other));
        same.then_some(stem)
    }

    fn ends(&self, suffix: &[u8]) -> bool {
        self.without(suffix).is_some()
    }

    fn shorten(&mut self, len: usize) {
        self.len = len;
        self.kept = self.kept.min(len);
    }

    /// Shortens the word and appends a suffix.
    fn replace(&mut self, stem: usize, suffix: &[u8]) {
        self.shorten(stem);
        for &letter in suffix {
            if let Some(place) = self.letters.get_mut(self.len) {
                *place = T::from(letter);
                self.len += 1;
            }
        }
    }

    fn shape(&self, len: usize) -> Shape {
        let [a, e, i, o, u, y] = b"aeiouy".map(T::from);
        let mut shape = Shape { measure: 0, has_vowel: false, vowels: [false; 3] };
        // A `y` is a vowel after a consonant.
        let mut after_consonant = false;
        for &letter in self.first(len) {
            let vowel = [a, e, i, o, u].contains(&letter) || (letter == y && after_consonant);
            shape.measure += usize::from(!vowel && shape.vowels[0]);
            shape.has_vowel |= vowel;
            shape.vowels = [vowel, shape.vowels[0], shape.vowels[1]];
            after_consonant = !vowel;
        }
        shape
    }

    fn measure(&self, len: usize) -> usize {
        self.shape(len).measure
    }

    /// Porter's `*o`: consonant, vowel, consonant, the last not w, x or y. For nltk also vowel, consonant.
    fn ends_short(&self, len: usize, shape: &Shape) -> bool {
        let [last, middle, first] = shape.vowels;
        match len {
            0 | 1 => false,
            2 => self.nltk() && middle && !last,
            _ => !first && middle && !last && !is_one_of(self.first(len).last(), b"wxy"),
        }
    }

    /// Step 1a.
    fn plural(&mut self) {
        if !self.last_is(b"s") || self.ends(b"ss") {
            return;
        }
        let short = self.nltk() && self.len == 4;
        let gone = if self.ends(b"sses") || (self.ends(b"ies") && !short) { 2 } else { 1 };
        self.shorten(self.len - gone);
    }

    /// Step 1b.
    fn past(&mut self) {
        if !self.last_is(b"dg") {
            return;
        }
        if self.nltk() && self.ends(b"ied") {
            return self.shorten(self.len - if self.len == 4 { 1 } else { 2 });
        }
        if let Some(stem) = self.without(b"eed") {
            if self.measure(stem) > 0 {
                self.shorten(self.len - 1);
            }
            return;
        }
        let Some(stem) = self.without(b"ed").or_else(|| self.without(b"ing")) else { return };
        let shape = self.shape(stem);
        if !shape.has_vowel {
            return;
        }
        self.shorten(stem);
        if self.ends(b"at") || self.ends(b"bl") || self.ends(b"iz") {
            self.replace(stem, b"e");
        } else if let [.., before, last] = self.word()
            && before == last
            && !shape.vowels[0]
        {
            if !self.last_is(b"lsz") {
                self.shorten(stem - 1);
            }
        } else if shape.measure == 1 && self.ends_short(stem, &shape) {
            self.replace(stem, b"e");
        }
    }

    /// Step 1c.
    fn final_y(&mut self) {
        if let Some(stem) = self.without(b"y") {
            let shape = self.shape(stem);
            let changes = if self.nltk() { stem > 1 && !shape.vowels[0] } else { shape.has_vowel };
            if changes {
                self.replace(stem, b"i");
            }
        }
    }

    /// The first rule of the list whose suffix the word has, and the length of its stem.
    fn rule<'r>(&self, rules: &'r [Rule]) -> Option<(usize, &'r Rule)> {
        rules.iter().find_map(|rule| Some((self.without(rule.0)?, rule)))
    }

    /// Step 2.
    fn double_suffixes(&mut self) {
        if self.nltk() {
            if let Some(stem) = self.without(b"alli") {
                if self.measure(stem) > 0 {
                    self.replace(stem, b"al");
                    self.double_suffixes();
                }
                return;
            }
            if let Some(stem) = self.without(b"logi") {
                if self.measure(stem + 1) > 0 {
                    self.replace(stem, b"log");
                }
                return;
            }
        }
        const ENDING_IN_I_NLTK: &[Rule] = &[(b"bli", b"ble"), (b"fulli", b"ful")];
        const ENDING_IN_I_ORIGINAL: &[Rule] = &[(b"abli", b"able"), (b"alli", b"al")];
        const ENDING_IN_I: &[Rule] = &[
            (b"enci", b"ence"),
            (b"anci", b"ance"),
            (b"entli", b"ent"),
            (b"eli", b"e"),
            (b"ousli", b"ous"),
            (b"aliti", b"al"),
            (b"iviti", b"ive"),
            (b"biliti", b"ble"),
        ];
        const OTHERS: &[Rule] = &[
            (b"ational", b"ate"),
            (b"tional", b"tion"),
            (b"izer", b"ize"),
            (b"ization", b"ize"),
            (b"ation", b"ate"),
            (b"ator", b"ate"),
            (b"alism", b"al"),
            (b"iveness", b"ive"),
            (b"fulness", b"ful"),
            (b"ousness", b"ous"),
        ];
        let rule = if self.last_is(b"i") {
            let own = if self.nltk() { ENDING_IN_I_NLTK } else { ENDING_IN_I_ORIGINAL };
            self.rule(ENDING_IN_I).or_else(|| self.rule(own))
        } else if self.last_is(b"lrnms") {
            self.rule(OTHERS)
        } else {
            None
        };
        if let Some((stem, (_, becomes))) = rule
            && self.measure(stem) > 0
        {
            self.replace(stem, becomes);
        }
    }

    /// Step 3.
    fn suffixes(&mut self) {
        const RULES: &[Rule] = &[
            (b"icate", b"ic"),
            (b"ative", b""),
            (b"alize", b"al"),
            (b"iciti", b"ic"),
            (b"ical", b"ic"),
            (b"ful", b""),
            (b"ness", b""),
        ];
        if self.last_is(b"eils")
            && let Some((stem, (_, becomes))) = self.rule(RULES)
            && self.measure(stem) > 0
        {
            self.replace(stem, becomes);
        }
    }

    /// Step 4.
    fn last_suffix(&mut self) {
        const ENDING_IN_E: &[&[u8]] = &[b"ance", b"ence", b"able", b"ible", b"ate", b"ive", b"ize"];
        const ENDING_IN_T: &[&[u8]] = &[b"ant", b"ement", b"ment", b"ent"];
        const OTHERS: &[&[u8]] = &[b"al", b"er", b"ic", b"ion", b"ou", b"ism", b"iti", b"ous"];
        let suffixes = if self.last_is(b"e") {
            ENDING_IN_E
        } else if self.last_is(b"t") {
            ENDING_IN_T
        } else {
            OTHERS
        };
        let found = suffixes.iter().find_map(|suffix| Some((self.without(suffix)?, suffix)));
        if let Some((stem, suffix)) = found
            && self.measure(stem) > 1
        {
            let is_ion = *suffix == b"ion";
            if !is_ion || is_one_of(self.first(stem).last(), b"st") {
                self.shorten(stem);
            }
        }
    }

    /// Step 5a.
    fn final_e(&mut self) {
        if let Some(stem) = self.without(b"e") {
            let shape = self.shape(stem);
            if shape.measure > 1 || (shape.measure == 1 && !self.ends_short(stem, &shape)) {
                self.shorten(stem);
            }
        }
    }

    /// Step 5b.
    fn final_l(&mut self) {
        if self.ends(b"ll") && self.measure(self.len - 1) > 1 {
            self.shorten(self.len - 1);
        }
    }
}

/// Checks `porter_stems.json`: rows of a word, its stem by nltk's extensions and by the original rules, and a third mode
/// that is not built.
#[cfg(test)]
pub(crate) fn fixture(text: &str) -> usize {
    #[derive(serde::Deserialize)]
    struct Stems {
        rows: Vec<(String, Option<String>, Option<String>, serde::de::IgnoredAny)>,
    }
    let stems: Stems = serde_json::from_str(text).unwrap();
    for (word, nltk, original, _) in &stems.rows {
        for (rules, expected) in [(Rules::Nltk, nltk), (Rules::Original, original)] {
            let Some(expected) = expected else { continue };
            // The package lower-cases first; callers here have done so.
            let mut stemmed = word.to_lowercase();
            stem_last(&mut stemmed, 0, rules);
            assert_eq!(&stemmed, expected, "{word} by {rules:?}");
        }
    }
    stems.rows.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stems(words: &str, rules: Rules) -> String {
        let mut out = String::new();
        words.split(' ').for_each(|word| stem(word, rules, &mut out));
        out
    }

    #[test]
    fn fixture_stems() {
        crate::text::fixtures::check("porter_stems.json", fixture);
    }

    /// `PorterStemmer().stem(word)` of nltk 3.10.4.
    #[test]
    fn the_two_modes() {
        let words =
            "skies flies dies died spied enjoy happy spy radically geologi hopefulli conformabli at as";
        let nltk = "sky fli die die spi enjoy happi spi radic geolog hope conform at as";
        let original = "ski fli di di spi enjoi happi spy radic geologi hopefulli conform at a";
        assert_eq!(stems(words, Rules::Nltk), nltk);
        assert_eq!(stems(words, Rules::Original), original);
    }

    #[test]
    fn letters_beyond_ascii_are_consonants_of_one_letter() {
        // Four letters ending in "ies"; a double consonant; a stem of one letter before "y".
        assert_eq!(stems("ñies aññed ñy éñy naïveness", Rules::Nltk), "ñie añ ñy éñi naïv");
    }

    #[test]
    fn only_the_last_word_changes() {
        let mut text = "running ponies".to_owned();
        stem_last(&mut text, 8, Rules::Nltk);
        assert_eq!(text, "running poni");
        stem_last(&mut text, 99, Rules::Nltk);
        assert_eq!(text, "running poni");
    }

    #[test]
    fn long_words() {
        let long = "a".repeat(ON_STACK) + "nationalizations";
        assert_eq!(stems(&long, Rules::Nltk), "a".repeat(ON_STACK) + "nation");
    }
}
