//! The elements of a JSON array, one at a time: data files of this kind are often one line of many megabytes.

use std::io::BufRead;

use serde::de::DeserializeOwned;

use crate::error::{Error, Place, Result};
use crate::loaders::source::{Bytes, Source, read_error};

/// Cuts a JSON array into its elements and parses each when it is asked for. An element that parses but has the wrong
/// form costs only itself; broken nesting ends the reading.
pub(crate) struct Elements {
    bytes: Bytes,
    name: String,
    expected: &'static str,
    line: u64,
    record: u64,
    state: State,
    element: Vec<u8>,
}

#[derive(PartialEq)]
enum State {
    Start,
    Within,
    AfterEnd,
    Done,
}

/// How an element ended.
enum End {
    Comma,
    Bracket,
    File,
}

impl Elements {
    /// `expected` describes one element in error messages.
    pub(crate) fn new(source: Source, expected: &'static str) -> Self {
        Self {
            bytes: source.bytes,
            name: source.name,
            expected,
            line: 1,
            record: 0,
            state: State::Start,
            element: Vec::new(),
        }
    }

    /// The element read last; its line is the one on which it starts.
    pub(crate) fn place(&self, line: u64) -> Place {
        Place { file: self.name.clone(), line, record: Some(self.record) }
    }

    /// The next element with the line on which it starts.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Option<Result<(T, Place)>> {
        match self.advance() {
            Ok(None) => None,
            Ok(Some(line)) => {
                let place = self.place(line);
                Some(match serde_json::from_slice(&self.element) {
                    Ok(value) => Ok((value, place)),
                    Err(source) => Err(match str::from_utf8(&self.element) {
                        Err(broken) => Error::NotUtf8 { place, byte: broken.valid_up_to() + 1 },
                        Ok(_) => Error::Json { place, expected: self.expected, source },
                    }),
                })
            }
            Err(error) => {
                self.state = State::Done;
                Some(Err(error))
            }
        }
    }

    /// Brings the next element into `self.element` and gives its line; `None` at the array's end.
    fn advance(&mut self) -> Result<Option<u64>> {
        if self.state == State::Start {
            match self.skip_space()? {
                Some(b'[') => self.state = State::Within,
                Some(_) => {
                    return Err(self.malformed("the file does not start with '['; expected a JSON array"));
                }
                None => {
                    self.state = State::Done;
                    return Ok(None);
                }
            }
            self.bytes.consume(1);
            if self.skip_space()? == Some(b']') {
                self.bytes.consume(1);
                self.state = State::AfterEnd;
            }
        }
        if self.state == State::AfterEnd {
            self.state = State::Done;
            if self.skip_space()?.is_some() {
                return Err(self.malformed("text after the end of the array; is this two files in one?"));
            }
        }
        if self.state == State::Done {
            return Ok(None);
        }
        self.skip_space()?;
        let line = self.line;
        self.record += 1;
        match self.cut()? {
            End::Comma => {}
            End::Bracket => self.state = State::AfterEnd,
            End::File => {
                return Err(self.malformed("the file ends within this record; was it fetched whole?"));
            }
        }
        Ok(Some(line))
    }

    fn malformed(&self, problem: &str) -> Error {
        Error::Malformed { place: self.place(self.line), problem: problem.to_owned() }
    }

    /// The next byte that is no white space, left unread.
    fn skip_space(&mut self) -> Result<Option<u8>> {
        loop {
            let block = match self.bytes.fill_buf() {
                Ok(block) => block,
                Err(source) => return Err(read_error(source, self.place(self.line))),
            };
            if block.is_empty() {
                return Ok(None);
            }
            let space = block.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.line += newlines(block.iter().take(space));
            let found = block.get(space).copied();
            self.bytes.consume(space);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Reads up to the comma or bracket that ends the element, which is read but not kept.
    fn cut(&mut self) -> Result<End> {
        self.element.clear();
        let (mut depth, mut in_string, mut escaped) = (0_u64, false, false);
        loop {
            let block = match self.bytes.fill_buf() {
                Ok(block) => block,
                Err(source) => return Err(read_error(source, self.place(self.line))),
            };
            if block.is_empty() {
                return Ok(End::File);
            }
            let mut end = None;
            let mut used = block.len();
            for (at, &byte) in block.iter().enumerate() {
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => in_string = true,
                    b'[' | b'{' => depth += 1,
                    b',' if depth == 0 => end = Some(End::Comma),
                    b']' | b'}' if depth == 0 => end = Some(End::Bracket),
                    b']' | b'}' => depth -= 1,
                    _ => {}
                }
                if end.is_some() {
                    used = at + 1;
                    break;
                }
            }
            let kept = used - usize::from(end.is_some());
            self.element.extend(block.iter().take(kept));
            self.line += newlines(block.iter().take(used));
            self.bytes.consume(used);
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }
}

fn newlines<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    /// Elements as strings, errors as messages, read through a buffer of 3 bytes so that every border is met.
    fn read(text: &str) -> Vec<std::result::Result<(Vec<String>, u64), String>> {
        let bytes = BufReader::with_capacity(3, Cursor::new(text.as_bytes().to_vec()));
        let mut elements = Elements::new(Source::new(bytes, "f".into()).unwrap(), "a list of strings");
        let mut all = Vec::new();
        while let Some(item) = elements.next::<Vec<String>>() {
            all.push(item.map(|(list, place)| (list, place.line)).map_err(|e| e.to_string()));
        }
        all
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|&w| w.to_owned()).collect()
    }

    #[test]
    fn brackets_and_quotes_inside_strings_do_not_cut() {
        let text = r#" [ ["a]", "b\"],["], [], ["\\"] ] "#;
        let want = [list(&["a]", "b\"],["]), list(&[]), list(&["\\"])];
        assert_eq!(read(text), want.map(|l| Ok((l, 1))));
        assert_eq!(read("[]"), []);
        assert_eq!(read(" [\n\n ] \n"), []);
    }

    #[test]
    fn an_element_of_another_form_costs_only_itself() {
        let got = read("[[\"a\"],\n 17,\n [\"b\"]]");
        assert_eq!(got[0], Ok((list(&["a"]), 1)));
        assert!(
            got[1].as_ref().unwrap_err().starts_with("f:2 (record 2): invalid type: integer `17`"),
            "{:?}",
            got[1]
        );
        assert_eq!(got[2], Ok((list(&["b"]), 3)));
    }

    #[test]
    fn broken_arrays_end_with_an_error_that_says_where() {
        for (text, want) in [
            ("[[\"a\"],\n[\"b\"", "f:2 (record 2): the file ends within"),
            ("[[\"a\"],\n[\"b", "f:2 (record 2): the file ends within"),
            ("[[\"a\"]] [", "f:1 (record 1): text after the end"),
            ("{\"a\": 1}", "f:1 (record 0): the file does not start with '['"),
            ("[[\"a\"],]", "f:1 (record 2): EOF while parsing"),
            ("[[\"a\"}", "f:1 (record 1): "),
        ] {
            let got = read(text);
            let message = got.last().unwrap().as_ref().unwrap_err();
            assert!(message.starts_with(want), "{text:?}: {message}");
        }
    }
}
