//! Numbers and strings as the report shows them, on a page and in a terminal.

/// `text` without what could steer a terminal or turn the direction of the text around it: control characters
/// other than line break and tab, and bidirectional embeddings, overrides and isolates, become U+FFFD.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\r' => ' ',
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// `value` with a fixed number of decimals (12 at most); in scientific form from 1e15 on.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return plain(value);
    }
    if value.abs() >= 1e15 {
        return format!("{value:.3e}");
    }
    unsigned_zero(format!("{value:.*}", decimals.min(12)))
}

/// `value` with four significant digits.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return plain(value);
    }
    let magnitude = value.abs().log10().floor();
    if !(-5.0..9.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    format!("{value:.*}", (3.0 - magnitude).clamp(0.0, 9.0) as usize)
}

/// `value` at an axis that spans `span`: with the decimals that tell neighbouring marks apart, and no more.
pub(crate) fn tick(value: f64, span: f64) -> String {
    // A mark computed by adding steps misses zero by a rounding error.
    let value = if value.abs() < span * 1e-9 { 0.0 } else { value };
    if value.abs() >= 1e7 || span < 1e-6 {
        return if value == 0.0 { "0".into() } else { format!("{value:.3e}") };
    }
    let decimals = (2.0 - span.log10().floor()).clamp(0.0, 9.0) as usize;
    let digits = format!("{value:.decimals$}");
    match digits.split_once('.') {
        Some(_) => unsigned_zero(digits.trim_end_matches('0').trim_end_matches('.').to_owned()),
        None => unsigned_zero(digits),
    }
}

fn plain(value: f64) -> String {
    if value.is_nan() { "NaN".into() } else { unsigned_zero(value.to_string()) }
}

fn unsigned_zero(digits: String) -> String {
    match digits.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        _ => digits,
    }
}

/// Terminal columns that `text` takes: two for the wide characters of East Asia and for emoji, none for marks that
/// combine. An estimate by block, enough to align a table.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text` in lines of at most `columns` (at least 2) terminal columns, broken between words, inside a word only
/// where it is longer than a line. White space is folded. At least one line.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        if used > 0 && used + 1 + width(word) <= columns {
            line.push(' ');
            used += 1;
        } else if used > 0 {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for c in word.chars() {
            if used + char_width(c) > columns {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += char_width(c);
        }
    }
    if used > 0 || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_at_a_readable_length() {
        assert_eq!(fixed(12.345, 1), "12.3");
        assert_eq!(fixed(-0.0001, 2), "0.00");
        assert_eq!(fixed(f64::NAN, 2), "NaN");
        assert_eq!(fixed(f64::NEG_INFINITY, 2), "-inf");
        assert_eq!(fixed(1.0, usize::MAX), "1.000000000000");
        assert_eq!(fixed(1e300, 2), "1.000e300");
        assert_eq!(short(0.51234), "0.5123");
        assert_eq!(short(-7.3), "-7.300");
        assert_eq!(short(12345.6), "12346");
        assert_eq!(short(0.0), "0");
        assert_eq!(short(-0.0), "0");
        assert_eq!(short(3e-9), "3.000e-9");
        assert_eq!(tick(0.30000000000000004, 1.0), "0.3");
        assert_eq!(tick(1500.0, 3000.0), "1500");
        assert_eq!(tick(-1e-17, 1.0), "0");
        assert_eq!(tick(2.5e8, 1e9), "2.500e8");
    }

    #[test]
    fn what_steers_a_terminal_is_replaced() {
        assert_eq!(clean("a\u{1b}[2Jb\u{202e}c\r\nd\te\u{0}"), "a\u{fffd}[2Jb\u{fffd}c \nd\te\u{fffd}");
        assert_eq!(clean("über 你好"), "über 你好");
    }

    #[test]
    fn lines_keep_to_the_width_and_lose_no_text() {
        assert_eq!(wrap("i like my two dogs", 8), ["i like", "my two", "dogs"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("我喜欢狗", 4), ["我喜", "欢狗"]);
        assert_eq!(wrap("  ", 4), [""]);
        let text = "one twothreefour five 我喜欢狗 six";
        for columns in 2..40 {
            let lines = wrap(text, columns);
            assert!(lines.iter().all(|line| width(line) <= columns), "{columns}: {lines:?}");
            assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        }
    }
}
