//! Lines of any reader.

use std::io::{BufRead, Read};

use anyhow::{Context, Result};

/// The longest line that is read, in bytes.
const LONGEST: usize = 1 << 16;

/// What a line may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Text without white space around it.
    Line(String),
    /// Something else, and why it is not taken.
    Bad(&'static str),
    /// Nothing follows.
    End,
}

/// The next line.
///
/// # Errors
/// The reader's.
pub(super) fn next(reader: &mut dyn BufRead) -> Result<Input> {
    let mut bytes = Vec::new();
    // No more of it is held than is looked at.
    let start = Read::take(&mut *reader, LONGEST as u64 + 1).read_until(b'\n', &mut bytes);
    let read = start.context("reading a line")?;
    if read == 0 {
        return Ok(Input::End);
    }
    if read > LONGEST {
        if bytes.last() != Some(&b'\n') {
            reader.skip_until(b'\n').context("reading a line")?;
        }
        return Ok(Input::Bad("the line is longer than 64 KiB"));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Input::Line(text.trim_start_matches('\u{feff}').trim().to_owned()),
        Err(_) => Input::Bad("the line is not UTF-8"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_text_of_bytes_and_of_too_much() {
        let long = "x".repeat(3 * LONGEST);
        let just = "x".repeat(LONGEST);
        let long = [just.as_str(), &long].join("\n");
        let text = [b"\xef\xbb\xbf hi \r\n\n\xff\n".as_slice(), long.as_bytes(), b"\nlast"].concat();
        let mut reader = text.as_slice();
        let line = |text: &str| Input::Line(text.to_owned());
        let bad = |input: &Input| matches!(input, Input::Bad(_));
        assert_eq!(next(&mut reader).unwrap(), line("hi"));
        assert_eq!(next(&mut reader).unwrap(), line(""));
        // Bytes that are no text, one too many with its end, and many too many.
        assert!((0..3).all(|_| bad(&next(&mut reader).unwrap())));
        assert_eq!(next(&mut reader).unwrap(), line("last"));
        assert_eq!(next(&mut reader).unwrap(), Input::End);
    }
}
