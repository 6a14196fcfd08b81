//! One way of writing English for texts that come in several.
//!
//! PERSONA-CHAT is in lower case, with spaces before its punctuation and with contractions torn apart ("i m", "don t");
//! Synthetic-Persona-Chat is written as people write. A model of both is to write one of them: the second.

/// Marks that stand apart in tokenised text and belong to the word before.
const CLOSING: [char; 5] = ['.', ',', '!', '?', ';'];

/// What a torn-off end of a contraction may follow, in lower case.
const ENDS: [(&str, &[&str]); 7] = [
    ("m", &["i"]),
    ("re", &["you", "we", "they"]),
    ("ve", &["i", "you", "we", "they"]),
    ("ll", &["i", "you", "he", "she", "it", "we", "they", "that"]),
    ("d", &["i", "you", "he", "she", "we", "they"]),
    ("s", &["that", "it", "he", "she", "what", "there", "who", "where", "how", "here", "let"]),
    (
        "t",
        &[
            "don", "can", "won", "didn", "doesn", "isn", "wasn", "aren", "weren", "couldn", "wouldn",
            "shouldn", "haven", "hasn", "hadn",
        ],
    ),
];

/// Contractions without their apostrophe that are no other word, as they end after it.
const JOINED: [(&str, &str); 15] = [
    ("im", "I'm"),
    ("ive", "I've"),
    ("dont", "don't"),
    ("cant", "can't"),
    ("didnt", "didn't"),
    ("doesnt", "doesn't"),
    ("isnt", "isn't"),
    ("wasnt", "wasn't"),
    ("havent", "haven't"),
    ("wouldnt", "wouldn't"),
    ("couldnt", "couldn't"),
    ("youre", "you're"),
    ("thats", "that's"),
    ("whats", "what's"),
    ("theres", "there's"),
];

/// What ConvAI2's edit of PERSONA-CHAT made of "not" and "nothing" after a contraction ("that'sn't", "isn'thing").
const EDITED: [(&str, &str); 3] = [("'sn't", "'s not"), ("'dn't", "'d not"), ("n'thing", " nothing")];

/// Words before "not" that an edit of "can't" and "won't" left behind, and what they were.
const NOT: [(&str, &str); 2] = [("ca", "cannot"), ("wo", "will not")];

/// A text as people write it: single spaces, straight quotes, punctuation joined to its word, contractions with their
/// apostrophe ("i m", "im" and "I'm" are all "I'm"; "I am" stays), "I" and the first word of a sentence in upper case.
/// No word is put in place of another, and names keep the case they have.
///
/// ```
/// use persona_examples::pretrain::tidy;
///
/// assert_eq!(tidy("i don t know . whats up , bob ?"), "I don't know. What's up, bob?");
/// assert_eq!(tidy("Fine, thanks!  I'm well."), "Fine, thanks! I'm well.");
/// ```
#[must_use]
pub fn tidy(text: &str) -> String {
    let mut text =
        text.replace(['’', '‘'], "'").replace(['“', '”'], "\"").replace("``", "\"").replace("''", "\"");
    for (edited, meant) in EDITED {
        text = text.replace(edited, meant);
    }
    let mut words: Vec<String> = Vec::new();
    for token in text.split_whitespace() {
        if token == "not"
            && let Some(last) = words.last_mut()
            && let Some((_, meant)) = NOT.iter().find(|(torn, _)| last.eq_ignore_ascii_case(torn))
        {
            *last = (*meant).to_owned();
            continue;
        }
        match words.last_mut() {
            Some(last) if token.chars().all(|c| CLOSING.contains(&c)) => last.push_str(token),
            Some(last) if is_end(token, last) => {
                last.push('\'');
                last.push_str(token);
            }
            Some(last)
                if token.starts_with('\'') && ENDS.iter().any(|(end, _)| token.get(1..) == Some(*end)) =>
            {
                last.push_str(token);
            }
            _ => words.push(with_apostrophe(token)),
        }
    }
    let mut begins = true;
    for word in &mut words {
        if begins || is_i(word) {
            capitalise(word);
        }
        // Not after "..." and abbreviations such as "p.m.".
        begins = word.ends_with(['.', '!', '?'])
            && !word.trim_end_matches(CLOSING).contains('.')
            && !word.ends_with("..");
    }
    words.join(" ")
}

/// Whether a token is the torn-off end of the contraction that a word begins.
fn is_end(token: &str, word: &str) -> bool {
    ENDS.iter()
        .find(|(end, _)| *end == token)
        .is_some_and(|(_, stems)| stems.iter().any(|stem| word.eq_ignore_ascii_case(stem)))
}

/// The word with the apostrophe that it lacks, punctuation after it kept.
fn with_apostrophe(token: &str) -> String {
    let bare = token.trim_end_matches(CLOSING);
    let found = JOINED.iter().find(|(joined, _)| bare.eq_ignore_ascii_case(joined));
    found.map_or_else(
        || token.to_owned(),
        |(_, whole)| {
            let rest = token.get(bare.len()..).unwrap_or_default();
            let mut word = format!("{whole}{rest}");
            if bare.starts_with(char::is_uppercase) {
                capitalise(&mut word);
            }
            word
        },
    )
}

/// Whether a word is the pronoun, with a contraction's end or punctuation or without.
fn is_i(word: &str) -> bool {
    let bare = word.trim_start_matches('"');
    let mut chars = bare.chars();
    chars.next() == Some('i')
        && !bare.starts_with("i.e")
        && chars.next().is_none_or(|c| c == '\'' || c == '"' || CLOSING.contains(&c))
}

/// Puts the first letter in upper case, unless the word has upper case elsewhere ("iPhone").
fn capitalise(word: &mut String) {
    let first = word.char_indices().find(|(_, c)| !matches!(c, '"' | '\''));
    if let Some((at, c)) = first
        && c.is_lowercase()
        && !word.contains(char::is_uppercase)
    {
        let upper: String = c.to_uppercase().collect();
        word.replace_range(at..at + c.len_utf8(), &upper);
    }
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn tokenised_lower_case_becomes_written_english() {
        for (from, to) in [
            ("i do not , i am in the 10th grade", "I do not, I am in the 10th grade"),
            (
                "my parents don't know that i'm . . . homosexual .",
                "My parents don't know that I'm... homosexual.",
            ),
            ("anyway . what do you do ?", "Anyway. What do you do?"),
            ("i don t think if you would like", "I don't think if you would like"),
            ("that s my favorite movie and i run", "That's my favorite movie and I run"),
            ("they ll see , im sure . thats it !", "They'll see, I'm sure. That's it!"),
            ("that'sn't so , he isn'thing", "That's not so, he is nothing"),
            ("it 's fine", "It's fine"),
            ("sounds good . ca not stay , i wo not", "Sounds good. Cannot stay, I will not"),
            ("what s up ? i , too", "What's up? I, too"),
        ] {
            assert_eq!(tidy(from), to);
        }
    }

    #[test]
    fn written_english_stays() {
        for text in [
            "I'm doing well. How are you?",
            "He said, \"I like it!\" and left.",
            "I love the Beatles, e.g. some at 5 p.m. or so",
            "Wait... are you sure?",
            "IPhones? My iPhone is old; i.e. slow.",
            "Plan s was his idea, and t was hers",
            "",
        ] {
            assert_eq!(tidy(text), text);
            assert_eq!(tidy(&tidy(text)), tidy(text));
        }
        assert_eq!(tidy("iPhone users , beware"), "iPhone users, beware");
        assert_eq!(tidy("“Yes”  she said\nit’s late"), "\"Yes\" she said it's late");
    }

    #[test]
    fn nothing_but_white_space_or_marks() {
        assert_eq!(tidy(" \n"), "");
        assert_eq!(tidy(" . . ."), "...");
        assert_eq!(tidy("é tait"), "É tait");
    }
}
