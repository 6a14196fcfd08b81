//! The report as one HTML file.

use super::curves::levels_in_words;
use super::text::{clean, fixed, short};
use super::{Cell, Check, Conversation, Curve, Report, Table};
use anyhow::Result;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

impl Report {
    /// One HTML page that needs nothing beside it: no script, no link, the pictures and the style inside. Every text of
    /// the report is escaped. Parts of the report that are empty are left out.
    ///
    /// # Errors
    ///
    /// Where a row of the table has not one cell per column, and where a curve cannot be drawn.
    pub fn html(&self) -> Result<String> {
        self.table.check()?;
        let mut page = head(&self.title)?;
        for paragraph in &self.summary {
            writeln!(page, "<p>{}</p>", escape(paragraph))?;
        }
        if !self.facts.is_empty() {
            page.push_str("<h2>The run</h2>\n");
            definitions(&mut page, "", self.facts.iter().map(|(name, fact)| (name.as_str(), fact.as_str())))?;
        }
        if !self.table.rows.is_empty() {
            page.push_str("<h2>Systems</h2>\n");
            table(&mut page, &self.table)?;
        }
        if !self.checks.is_empty() {
            page.push_str("<h2>Did it learn?</h2>\n");
            checks(&mut page, &self.checks)?;
        }
        if !self.curves.is_empty() {
            page.push_str("<h2>Curves</h2>\n<div class=\"curves\">\n");
            for curve in &self.curves {
                figure(&mut page, curve)?;
            }
            page.push_str("</div>\n");
        }
        if !self.conversations.is_empty() {
            page.push_str("<h2>Conversations</h2>\n");
            for (index, conversation) in self.conversations.iter().enumerate() {
                article(&mut page, index + 1, conversation)?;
            }
        }
        if !self.recipe.is_empty() {
            // A line break directly after <pre> is dropped, so that one of the recipe's own is kept.
            writeln!(page, "<h2>Recipe</h2>\n<pre>\n{}</pre>", escape(&self.recipe))?;
        }
        page.push_str("</body>\n</html>\n");
        Ok(page)
    }
}

/// The page up to its heading.
pub(crate) fn head(title: &str) -> Result<String> {
    let mut page = String::new();
    let title = escape(title);
    // The policy forbids scripts and requests even if something slipped past the escaping.
    writeln!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>"
    )?;
    Ok(page)
}

/// `text` as the content of an element or of a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// `text` with every word in an element of its own, which the style keeps from being broken at a hyphen.
fn heading(text: &str) -> String {
    let words: Vec<String> =
        text.split_whitespace().map(|word| format!("<span>{}</span>", escape(word))).collect();
    words.join(" ")
}

pub(crate) fn definitions<'a>(
    page: &mut String,
    class: &str,
    items: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    writeln!(page, "<dl class=\"{class}\">")?;
    for (name, text) in items {
        writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(text))?;
    }
    page.push_str("</dl>\n");
    Ok(())
}

pub(crate) fn table(page: &mut String, table: &Table) -> Result<()> {
    page.push_str("<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">System</th>");
    for column in &table.columns {
        write!(page, "<th scope=\"col\" class=\"number\">{}</th>", heading(&column.name))?;
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        write!(page, "<tr><th scope=\"row\">{}</th>", heading(&row.system))?;
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            match cell {
                Cell::Value(v) => write!(page, "<td class=\"number\">{}</td>", fixed(*v, column.decimals))?,
                Cell::Spread { mean, deviation } => write!(
                    page,
                    "<td class=\"number\">{}<br><small>± {}</small></td>",
                    fixed(*mean, column.decimals),
                    fixed(*deviation, column.decimals)
                )?,
                Cell::Missing(why) => {
                    write!(page, "<td class=\"number\"><small>{}</small></td>", escape(why))?
                }
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
    let signed = || table.columns.iter().filter(|column| !column.signature.is_empty());
    if signed().next().is_some() {
        definitions(page, "quiet", signed().map(|column| (column.name.as_str(), column.signature.as_str())))?;
    }
    Ok(())
}

fn checks(page: &mut String, checks: &[Check]) -> Result<()> {
    page.push_str(
        "<div class=\"wide\"><table class=\"checks\">\n<thead><tr><th scope=\"col\">What is looked at</th>\
         <th scope=\"col\" class=\"number\">Measured</th><th scope=\"col\" class=\"number\">Against</th>\
         <th scope=\"col\">Compared with</th><th scope=\"col\">Result</th></tr></thead>\n<tbody>\n",
    );
    for check in checks {
        let (class, word) = if check.holds { ("holds", "holds") } else { ("fails", "does not hold") };
        let note = if check.note.is_empty() {
            String::new()
        } else {
            format!("<small>{}</small>", escape(&check.note))
        };
        writeln!(
            page,
            "<tr><td>{}{note}</td><td class=\"number\" data-label=\"Measured\">{}</td>\
             <td class=\"number\" data-label=\"Against\">{}</td><td data-label=\"Compared with\">{}</td>\
             <td class=\"{class}\">{word}</td></tr>",
            escape(&check.name),
            short(check.measured),
            short(check.baseline),
            escape(&check.against),
        )?;
    }
    page.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

pub(crate) fn figure(page: &mut String, curve: &Curve) -> Result<()> {
    writeln!(page, "<figure><figcaption>{}</figcaption>", escape(&curve.title))?;
    match curve.svg()? {
        Some(svg) => writeln!(page, "<div class=\"wide\">{svg}</div>")?,
        None => page.push_str("<p>No points were recorded.</p>\n"),
    }
    let mut notes = Vec::new();
    if !curve.levels.is_empty() {
        notes.push(format!("Dashed: {}.", escape(&levels_in_words(curve))));
    }
    if curve.is_thinned() {
        notes.push("Lines of more than 400 points are averaged in 400 groups of neighbours.".to_owned());
    }
    if !notes.is_empty() {
        writeln!(page, "<small>{}</small>", notes.join(" "))?;
    }
    page.push_str("</figure>\n");
    Ok(())
}

pub(crate) fn article(page: &mut String, number: usize, conversation: &Conversation) -> Result<()> {
    writeln!(page, "<article>\n<h3>Conversation {number}</h3>")?;
    if !conversation.persona.is_empty() {
        page.push_str("<h4>Persona of the one who replies</h4>\n<ul>\n");
        for description in &conversation.persona {
            writeln!(page, "<li dir=\"auto\">{}</li>", escape(description))?;
        }
        page.push_str("</ul>\n");
    }
    if let Some((first, _)) = conversation.history.first() {
        page.push_str("<h4>History</h4>\n");
        for (speaker, said) in &conversation.history {
            let class = if speaker == first { "turn first" } else { "turn" };
            writeln!(
                page,
                "<div class=\"{class}\"><b><bdi>{}</bdi></b><bdi>{}</bdi></div>",
                escape(speaker),
                escape(said)
            )?;
        }
    }
    if !conversation.replies.is_empty() {
        page.push_str("<h4>Replies</h4>\n<div class=\"replies\">\n");
        for reply in &conversation.replies {
            let text = if reply.text.trim().is_empty() {
                "<small>(empty reply)</small>".to_owned()
            } else {
                escape(&reply.text)
            };
            write!(page, "<div class=\"reply\"><b>{}</b><p dir=\"auto\">{text}</p>", escape(&reply.system))?;
            if let Some(selected) = &reply.selected {
                write!(page, "<small>selected: <bdi>{}</bdi></small>", escape(selected))?;
            }
            page.push_str("</div>\n");
        }
        page.push_str("</div>\n");
    }
    page.push_str("</article>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::super::{Cell, Reply};

    /// The names of the elements of a page whose text is escaped.
    fn elements(page: &str) -> std::collections::BTreeSet<String> {
        page.split('<')
            .skip(1)
            .map(|tag| {
                tag.trim_start_matches('/').chars().take_while(|c| c.is_ascii_alphanumeric()).collect()
            })
            .collect()
    }

    #[test]
    fn every_part_is_on_the_page() {
        let report = sample();
        let page = report.html().unwrap();
        for text in [
            "<h1>PAL on a small corpus</h1>",
            "<dt>Seconds</dt><dd>412</dd>",
            "<th scope=\"row\"><span>PAL</span></th>",
            "<td class=\"number\">12.4</td>",
            "<td class=\"number\"><small>no judge</small></td>",
            "<dt>BLEU-1</dt><dd>corpus, 1 reference, 13a, lower case</dd>",
            "data-label=\"Measured\">4.812</td>",
            "data-label=\"Against\">6.204</td>",
            "<td class=\"holds\">holds</td>",
            "<td class=\"fails\">does not hold</td>",
            "<svg ",
            "Dashed: unigram entropy 6.204.",
            "selected: <bdi>i have two dogs.</bdi>",
            "<div class=\"turn first\"><b><bdi>A</bdi></b>",
            "<pre>\nsteps = 600\n</pre>",
        ] {
            assert!(page.contains(text), "{text} is not in {page}");
        }
    }

    #[test]
    fn the_page_loads_and_runs_nothing() {
        let page = sample().html().unwrap();
        let names = elements(&page);
        for name in ["script", "link", "img", "iframe", "object", "a", "form", "base"] {
            assert!(!names.contains(name), "{name} in {names:?}");
        }
        assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("src=\""));
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    }

    #[test]
    fn text_cannot_become_markup_anywhere() {
        let hostile =
            "</pre></title></style><script>alert('1')</script>\"'><img src=x onerror=alert(1)>&lt;\u{0}";
        let bad = || hostile.to_owned();
        let mut report = sample();
        let clean_elements = elements(&report.html().unwrap());
        report.title = bad();
        report.summary = vec![bad()];
        report.facts = vec![(bad(), bad())];
        report.recipe = bad();
        report.table.columns[0].name = bad();
        report.table.columns[0].signature = bad();
        report.table.rows[0].system = bad();
        report.table.rows[0].cells[0] = Cell::Missing(bad());
        report.checks[0].name = bad();
        report.checks[0].against = bad();
        report.checks[0].note = bad();
        let curve = &mut report.curves[0];
        (curve.title, curve.x, curve.y) = (bad(), bad(), bad());
        curve.lines[0].name = bad();
        curve.levels[0].0 = bad();
        let conversation = &mut report.conversations[0];
        conversation.persona = vec![bad()];
        conversation.history = vec![(bad(), bad())];
        conversation.replies = vec![Reply { system: bad(), selected: Some(bad()), text: bad() }];
        let page = report.html().unwrap();
        assert_eq!(elements(&page), clean_elements);
        assert!(
            page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;") && page.contains("&amp;lt;")
        );
        assert!(!page.contains('\u{0}'));
    }

    #[test]
    fn an_empty_report_and_values_that_are_no_numbers_are_shown() {
        let mut report = sample();
        report.table.rows[0].cells[0] = Cell::Value(f64::NAN);
        report.curves[0].lines.clear();
        report.conversations[0].replies[0].text = " ".into();
        let page = report.html().unwrap();
        assert!(page.contains("<td class=\"number\">NaN</td>"));
        assert!(page.contains("No points were recorded."));
        assert!(page.contains("(empty reply)"));

        report.facts.clear();
        report.table.rows.clear();
        report.checks.clear();
        report.curves.clear();
        report.conversations.clear();
        report.recipe.clear();
        assert!(!report.html().unwrap().contains("<h2>"));
    }

    #[test]
    fn a_row_with_a_missing_cell_is_an_error() {
        let mut report = sample();
        report.table.rows[1].cells.pop();
        let error = report.html().unwrap_err().to_string();
        assert!(
            error.contains("\"PAL\"") && error.contains("3 columns") && error.contains("2 cells"),
            "{error}"
        );
    }
}
