//! How Python writes values: as text, and as JSON.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::chat_template::is_list;

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// `repr(value)`, for what comes from JSON.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Map => {
            let items = entries(value).map(|(key, value)| format!("{}: {}", repr(&key), repr(&value)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
        _ if is_list(value) => {
            let items = value.try_iter().into_iter().flatten().map(|item| repr(&item));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn entries(map: &Value) -> impl Iterator<Item = (Value, Value)> {
    let keys = map.try_iter().into_iter().flatten();
    keys.filter_map(|key| Some((key.clone(), map.get_item(&key).ok()?)))
}

/// Integers in digits; floats in the fewest digits that give them back, from 1e16 on and below 1e-4 with an exponent of
/// two digits.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let text = format!("{number:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A string in quotes: single ones, unless it holds those and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => quoted.extend(['\\', c]),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                let code = u32::from(c);
                quoted.push_str(&if code < 0x100 {
                    format!("\\x{code:02x}")
                } else {
                    format!("\\u{code:04x}")
                });
            }
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// `json.dumps` with the arguments that transformers lets through, of which `ensure_ascii` is off.
#[derive(Debug)]
struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(
    value: Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let positional = [ensure_ascii, indent];
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.get(at).cloned().flatten() {
            Some(value) => Some(value),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let indent = argument(1, "indent")?.map(|indent| match i64::try_from(indent.clone()) {
        Ok(spaces) => " ".repeat(spaces.clamp(0, 64) as usize),
        Err(_) => text(&indent),
    });
    let separators: Vec<String> = match argument(2, "separators")? {
        Some(pair) => pair.try_iter()?.map(|one| text(&one)).collect(),
        None => vec![if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let [item, key] = separators.try_into().map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, "tojson: separators are two, between items and after keys")
    })?;
    let on = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let json = Json {
        ensure_ascii: on(argument(0, "ensure_ascii")?),
        indent,
        item,
        key,
        sort_keys: on(argument(3, "sort_keys")?),
    };
    named.assert_all_used()?;
    let mut out = String::new();
    json.write(&value, 0, &mut out)?;
    Ok(out)
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(match number(value).as_str() {
                "nan" => "NaN",
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                digits => digits,
            }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => {
                let mut items = Vec::new();
                for (key, value) in entries(value) {
                    let key = match key.kind() {
                        ValueKind::String => text(&key),
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => text(&key).to_lowercase(),
                        _ => number(&key),
                    };
                    items.push((Some(key), value));
                }
                if self.sort_keys {
                    items.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.list(('{', '}'), &items, depth, out)?;
            }
            _ if is_list(value) => {
                let items: Vec<(Option<String>, Value)> =
                    value.try_iter()?.map(|item| (None, item)).collect();
                self.list(('[', ']'), &items, depth, out)?;
            }
            kind => {
                let reason = format!("tojson: a value of type {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        (open, close): (char, char),
        items: &[(Option<String>, Value)],
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for (at, (key, value)) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(&self.item);
            }
            line(depth + 1, out);
            if let Some(key) = key {
                self.string(key, out);
                out.push_str(&self.key);
            }
            self.write(value, depth + 1, out)?;
        }
        if !items.is_empty() {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ensure_ascii && !c.is_ascii()) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
