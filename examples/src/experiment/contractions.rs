//! One way of writing contractions.

/// Written as two words wherever they stand, as ConvAI2's edit of PERSONA-CHAT replaced them: in the middle of a longer
/// word too (`isn'thing` was `is nothing`).
const ANYWHERE: [(&str, &str); 9] = [
    ("won't", "will not"),
    ("can't", "cannot"),
    ("shan't", "shall not"),
    ("n't", " not"),
    ("'m", " am"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'re", " are"),
    ("'d", " would"),
];

/// The words after which `'s` is `is`; after others it may be a possessive.
const IS: [&str; 10] = ["that", "he", "she", "it", "there", "here", "what", "who", "where", "how"];

/// A text with its contractions as words of their own: `i'm` is `i am`, as in the original PERSONA-CHAT, whose ConvAI2
/// edition contracts half of them. Text that has none comes back as it is.
#[must_use]
pub fn apart(text: &str) -> String {
    let text = text.replace('\u{2019}', "'");
    let words: Vec<String> = text.split(' ').map(word).collect();
    words.join(" ")
}

/// A description as [`apart`] writes it, its full stop on the last word: editions differ in the space before it.
#[must_use]
pub fn description(text: &str) -> String {
    let text = apart(text.trim());
    match text.strip_suffix(" .") {
        Some(start) => format!("{}.", start.trim_end()),
        None => text,
    }
}

fn word(word: &str) -> String {
    if word.eq_ignore_ascii_case("cant") {
        return format!("{}annot", word.get(..1).unwrap_or("c"));
    }
    let mut apart = word.to_owned();
    for (from, to) in ANYWHERE {
        apart = replace_in_any_case(&apart, from, to);
    }
    let end = apart.to_ascii_lowercase().find("'s");
    if let Some((start, rest)) = end.and_then(|at| apart.split_at_checked(at))
        && IS.iter().any(|is| start.eq_ignore_ascii_case(is))
    {
        return format!("{start} is{}", rest.get(2..).unwrap_or_default());
    }
    apart
}

/// Replaces whatever equals `from` up to the case of ASCII letters. The first letter keeps its case.
fn replace_in_any_case(text: &str, from: &str, to: &str) -> String {
    // Lower-casing ASCII keeps every byte in its place.
    let lower = text.to_ascii_lowercase();
    let mut replaced = String::with_capacity(text.len());
    let mut rest = 0;
    while let Some(found) = lower.get(rest..).and_then(|left| left.find(from)) {
        let at = rest + found;
        replaced.push_str(text.get(rest..at).unwrap_or_default());
        let capital = text.get(at..).is_some_and(|left| left.starts_with(|c: char| c.is_ascii_uppercase()));
        match to.split_at_checked(1) {
            Some((first, others)) if capital => {
                replaced.push_str(&first.to_ascii_uppercase());
                replaced.push_str(others);
            }
            _ => replaced.push_str(to),
        }
        rest = at + from.len();
    }
    replaced.push_str(text.get(rest..).unwrap_or_default());
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_editions_come_out_the_same() {
        for (convai2, original) in [
            ("i'm good , i've read it", "i am good , i have read it"),
            ("that's neat . she's here", "that is neat . she is here"),
            ("i don't , won't , can't and i'd rather", "i do not , will not , cannot and i would rather"),
            ("you'll see they're gone", "you will see they are gone"),
            ("there isn'thing , i'dn't , that'sn't", "there is nothing , i would not , that is not"),
            ("won'tice", "will notice"),
            ("i cant", "i cannot"),
        ] {
            assert_eq!(apart(convai2), original);
            assert_eq!(apart(original), original);
        }
    }

    #[test]
    fn case_possessives_and_other_languages_stay() {
        assert_eq!(
            apart("I'm Tom's dad. It's late. Won't you?"),
            "I am Tom's dad. It is late. Will not you?"
        );
        assert_eq!(apart("Don\u{2019}t  go, I CAN'T"), "Do not  go, I Cannot");
        assert_eq!(apart("我有一只狗 ' 's"), "我有一只狗 ' 's");
        assert_eq!(apart(""), "");
    }

    #[test]
    fn a_description_ends_in_its_full_stop() {
        assert_eq!(description(" i'm tall ."), "i am tall.");
        assert_eq!(description("i am tall."), "i am tall.");
        assert_eq!(description("i am tall"), "i am tall");
    }
}
