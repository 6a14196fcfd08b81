//! Edits of an English sentence after which it and the one before cannot both be true.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

const NUMBERS: [&str; 12] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// Words that exclude each other, each way.
const OPPOSITES: [(&str, &str); 36] = [
    ("love", "hate"),
    ("loves", "hates"),
    ("like", "dislike"),
    ("enjoy", "hate"),
    ("always", "never"),
    ("often", "never"),
    ("married", "single"),
    ("single", "married"),
    ("tall", "short"),
    ("old", "young"),
    ("older", "younger"),
    ("oldest", "youngest"),
    ("boy", "girl"),
    ("man", "woman"),
    ("male", "female"),
    ("rich", "poor"),
    ("big", "small"),
    ("large", "tiny"),
    ("healthy", "sick"),
    ("early", "late"),
    ("morning", "night"),
    ("vegetarian", "meat eater"),
    ("vegan", "meat eater"),
    ("retired", "still working"),
    ("unemployed", "employed"),
    ("happy", "sad"),
    ("good", "bad"),
    ("best", "worst"),
    ("favorite", "least favorite"),
    ("hot", "cold"),
    ("summer", "winter"),
    ("long", "short"),
    ("black", "white"),
    ("everything", "nothing"),
    ("outgoing", "shy"),
    ("brother", "sister"),
];

/// After "i", these take "do not" before them.
const VERBS: [&str; 34] = [
    "have",
    "like",
    "love",
    "enjoy",
    "want",
    "work",
    "live",
    "play",
    "own",
    "drive",
    "read",
    "eat",
    "drink",
    "collect",
    "watch",
    "listen",
    "speak",
    "study",
    "teach",
    "cook",
    "bake",
    "paint",
    "write",
    "sing",
    "dance",
    "run",
    "swim",
    "hike",
    "travel",
    "volunteer",
    "go",
    "attend",
    "wear",
    "prefer",
];

/// The beginnings of descriptions whose rest names the one thing that the speaker has, is or likes best.
const RELATIONS: [&str; 10] = [
    "i work as",
    "i work in",
    "i work for",
    "i work at",
    "i live in",
    "i am from",
    "i was born in",
    "i grew up in",
    "my name is",
    "i drive a",
];

/// What the descriptions of a corpus name after the same beginning: `my favorite color is` has `red` and `blue`.
pub(super) struct Relations(BTreeMap<String, Vec<String>>);

impl Relations {
    pub(super) fn of(descriptions: &[&str]) -> Self {
        let mut rests: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for description in descriptions {
            if let Some((beginning, rest)) = cut(description) {
                rests.entry(beginning).or_default().push(rest);
            }
        }
        for list in rests.values_mut() {
            list.sort_unstable();
            list.dedup();
        }
        rests.retain(|_, rests| rests.len() > 1);
        Self(rests)
    }
}

/// A description in lower case, cut after the beginning of a relation.
fn cut(description: &str) -> Option<(String, String)> {
    let text = description.trim().trim_end_matches(['.', '!', ' ']).to_lowercase().replace("i'm ", "i am ");
    let favorite = text.strip_prefix("my favorite ").and_then(|rest| {
        let (what, rest) = rest.split_once(" is ")?;
        Some((format!("my favorite {what} is"), rest.to_owned()))
    });
    favorite.or_else(|| {
        RELATIONS.iter().find_map(|beginning| {
            let rest = text.strip_prefix(beginning)?.strip_prefix(' ')?;
            Some(((*beginning).to_owned(), rest.to_owned()))
        })
    })
}

/// An edit of the words of a text, where it fits.
type Edit = fn(&[&str], &mut ChaCha8Rng) -> Option<String>;

/// One edit of those that fit, drawn; nothing where none does, or where the text asks, or does not speak of its speaker.
/// White space becomes single spaces.
pub(super) fn contradict(text: &str, relations: &Relations, random: &mut ChaCha8Rng) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let own = |word: &&str| matches!(bare(word).as_str(), "i" | "i'm" | "i've" | "my" | "me");
    if text.contains('?') || !words.iter().any(own) {
        return None;
    }
    let mut edits: [Edit; 3] = [number, opposite, negated];
    // Another object says more than a "not", and is tried first half of the time.
    if random.random_bool(0.5)
        && let Some(edited) = other_object(text, relations, random)
    {
        return Some(edited);
    }
    edits.shuffle(random);
    edits.into_iter().find_map(|edit| edit(&words, random)).or_else(|| other_object(text, relations, random))
}

/// A word without punctuation, in lower case.
fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric() && c != '\'').to_lowercase()
}

/// The words with one replaced, its punctuation kept.
fn replaced(words: &[&str], at: usize, by: &str) -> String {
    let mut all: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    if let Some(word) = all.get_mut(at) {
        let core = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '\'').to_owned();
        *word = word.replacen(&core, by, 1);
    }
    all.join(" ")
}

fn number(words: &[&str], random: &mut ChaCha8Rng) -> Option<String> {
    let (at, word) = words.iter().map(|word| bare(word)).enumerate().find(|(_, word)| {
        NUMBERS.iter().skip(1).any(|number| number == word)
            || (word.len() < 5 && !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
    })?;
    if let Ok(value) = word.parse::<u32>() {
        let other = value + random.random_range(1..=9 + value / 2);
        return Some(replaced(words, at, &other.to_string()));
    }
    let others: Vec<&str> = NUMBERS.iter().skip(1).copied().filter(|number| *number != word).collect();
    Some(replaced(words, at, others.choose(random)?))
}

fn opposite(words: &[&str], random: &mut ChaCha8Rng) -> Option<String> {
    let found: Vec<(usize, &str)> = words
        .iter()
        .enumerate()
        .flat_map(|(at, word)| {
            let word = bare(word);
            OPPOSITES.iter().filter_map(move |&(one, other)| {
                if word == one {
                    Some((at, other))
                } else if word == other {
                    Some((at, one))
                } else {
                    None
                }
            })
        })
        .collect();
    let &(at, by) = found.choose(random)?;
    Some(replaced(words, at, by))
}

/// With a "not" where there is none, and without it where there is one.
fn negated(words: &[&str], _: &mut ChaCha8Rng) -> Option<String> {
    let word = |at: usize| words.get(at).map(|word| bare(word)).unwrap_or_default();
    let insert = |at: usize, what: &str| -> String {
        let (before, after) = words.split_at(at.min(words.len()));
        [before, &[what], after].concat().join(" ")
    };
    let without = |at: usize, count: usize| -> String {
        let kept = words.iter().enumerate().filter(|(place, _)| !(at..at + count).contains(place));
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    for at in 0..words.len() {
        let (here, next, after) = (word(at), word(at + 1), word(at + 2));
        let subject = here == "i" || (at > 0 && word(at - 1) == "my");
        match (here.as_str(), next.as_str(), after.as_str()) {
            ("i", "don't" | "can't" | "cannot" | "won't" | "never", _) => return Some(without(at + 1, 1)),
            ("i", "do" | "can" | "am" | "was" | "have", "not") if next == "do" => {
                return Some(without(at + 1, 2));
            }
            ("i", "can" | "am" | "was" | "have", "not") => return Some(without(at + 2, 1)),
            ("i'm", "not", _) => return Some(without(at + 1, 1)),
            ("i'm", ..) => return Some(insert(at + 1, "not")),
            ("i", "am" | "was" | "can" | "will", _) => return Some(insert(at + 2, "not")),
            ("i", verb, _) if VERBS.contains(&verb) => return Some(insert(at + 1, "do not")),
            (_, "is" | "are", "not") if subject => return Some(without(at + 2, 1)),
            (_, "is" | "are", _) if subject => return Some(insert(at + 2, "not")),
            _ => {}
        }
    }
    None
}

fn other_object(text: &str, relations: &Relations, random: &mut ChaCha8Rng) -> Option<String> {
    let (beginning, rest) = cut(text)?;
    let others: Vec<&String> =
        relations.0.get(&beginning)?.iter().filter(|other| !overlaps(other, &rest)).collect();
    Some(format!("{beginning} {}.", others.choose(random)?))
}

/// Whether two objects share a word of more than three letters, and may be the same thing.
fn overlaps(one: &str, other: &str) -> bool {
    one.split_whitespace().any(|word| word.len() > 3 && other.split_whitespace().any(|held| held == word))
        || one == other
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn negate(text: &str) -> Option<String> {
        negated(&text.split_whitespace().collect::<Vec<_>>(), &mut ChaCha8Rng::seed_from_u64(1))
    }

    #[test]
    fn a_not_comes_and_goes() {
        for (from, to) in [
            ("i have two dogs .", "i do not have two dogs ."),
            ("I am a nurse.", "I am not a nurse."),
            ("I'm not tall.", "I'm tall."),
            ("I'm tall.", "I'm not tall."),
            ("i do not like carrots .", "i like carrots ."),
            ("i don't like carrots.", "i like carrots."),
            ("my hair is red .", "my hair is not red ."),
            ("i can not swim .", "i can swim ."),
        ] {
            assert_eq!(negate(from).as_deref(), Some(to));
        }
        assert_eq!(negate("what about you ?"), None);
    }

    #[test]
    fn numbers_and_opposites_keep_their_punctuation() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
        for _ in 0..20 {
            let edited = number(&words("I have two, maybe."), &mut random).unwrap();
            assert!(
                edited.starts_with("I have ") && edited.ends_with(", maybe.") && !edited.contains("two"),
                "{edited}"
            );
            let edited = number(&words("i am 23 ."), &mut random).unwrap();
            assert!(!edited.contains("23"), "{edited}");
        }
        assert_eq!(number(&words("no one knows"), &mut random), None, "one is a pronoun too");
        assert_eq!(opposite(&words("I am married!"), &mut random).as_deref(), Some("I am single!"));
        assert_eq!(opposite(&words("I ski"), &mut random), None);
    }

    #[test]
    fn another_object_is_of_the_same_relation() {
        let relations = Relations::of(&[
            "My favorite color is red.",
            "my favorite color is blue .",
            "i work as a nurse .",
        ]);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let other = other_object("my favorite color is red", &relations, &mut random);
        assert_eq!(other.as_deref(), Some("my favorite color is blue."));
        assert_eq!(other_object("i work as a nurse", &relations, &mut random), None, "there is no other");
        assert_eq!(other_object("i ski", &relations, &mut random), None);
        for text in ["My favorite color is red.", "i have two dogs ."] {
            assert_ne!(contradict(text, &relations, &mut random).unwrap(), text);
        }
        assert_eq!(contradict("hm .", &relations, &mut random), None);
    }
}
