//! The report in a terminal.

use super::text::{clean, fixed, short, width, wrap};
use super::{Cell, Conversation, Report, Table};
use anyhow::Result;

/// Headings of columns are broken into lines of this many columns.
const HEADING: usize = 12;
/// Between columns.
const GAP: &str = "  ";
/// A reply needs at least this many columns to be read beside others.
const REPLY: usize = 24;

impl Report {
    /// The table, the checks and the conversations in plain text, for a terminal of `columns` columns (at least 40
    /// are assumed). A table that is wider comes in blocks, the systems' names repeated; replies stand side by side,
    /// as many as fit. Control characters are replaced.
    ///
    /// # Errors
    ///
    /// Where a row of the table has not one cell per column.
    pub fn text(&self, columns: usize) -> Result<String> {
        self.table.check()?;
        let columns = columns.max(40);
        let mut lines = wrap(&clean(&self.title), columns);
        if !self.table.rows.is_empty() {
            lines.push(String::new());
            lines.extend(table(&self.table, columns));
        }
        if !self.checks.is_empty() {
            lines.push(String::new());
            for check in &self.checks {
                let word = if check.holds { "holds" } else { "does not hold" };
                let (measured, baseline) = (short(check.measured), short(check.baseline));
                let text =
                    format!("{word}: {}: {measured} against {baseline}, {}", check.name, check.against);
                lines.extend(hanging("", &clean(&text), columns));
            }
        }
        for (index, conversation) in self.conversations.iter().enumerate() {
            lines.push(String::new());
            lines.push(format!("Conversation {}", index + 1));
            lines.extend(talk(conversation, columns));
        }
        Ok(lines.iter().map(|line| format!("{}\n", line.trim_end())).collect())
    }
}

/// A table in blocks that are no wider than so many columns.
pub(crate) fn table(table: &Table, columns: usize) -> Vec<String> {
    let names: Vec<String> = table.rows.iter().map(|row| clean(&row.system)).collect();
    let name_width = names.iter().map(|name| width(name)).max().unwrap_or(0).min(columns / 3);
    let shown: Vec<Shown> = table.columns.iter().enumerate().map(|(at, _)| Shown::new(table, at)).collect();
    let mut lines = Vec::new();
    let mut rest = shown.as_slice();
    while !rest.is_empty() {
        let mut used = name_width;
        let fits = rest.iter().take_while(|column| {
            used += GAP.len() + column.width;
            used <= columns
        });
        let (block, after) = rest.split_at(fits.count().clamp(1, rest.len()));
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(table_block(&names, name_width, block));
        rest = after;
    }
    lines.extend(missing(table, columns));
    lines
}

/// A column as strings.
struct Shown {
    heading: Vec<String>,
    cells: Vec<String>,
    width: usize,
}

impl Shown {
    fn new(table: &Table, at: usize) -> Self {
        let heading = table.columns.get(at).map(|c| wrap(&clean(&c.name), HEADING)).unwrap_or_default();
        let decimals = table.columns.get(at).map_or(0, |c| c.decimals);
        let cells: Vec<String> = table
            .rows
            .iter()
            .map(|row| match row.cells.get(at) {
                Some(Cell::Value(value)) => fixed(*value, decimals),
                Some(Cell::Spread { mean, deviation }) => {
                    format!("{}±{}", fixed(*mean, decimals), fixed(*deviation, decimals))
                }
                Some(Cell::Missing(_)) | None => "-".into(),
            })
            .collect();
        let width = heading.iter().chain(&cells).map(|text| width(text)).max().unwrap_or(0);
        Self { heading, cells, width }
    }
}

fn table_block(names: &[String], name_width: usize, block: &[Shown]) -> Vec<String> {
    let rows = block.iter().map(|column| column.heading.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for row in 0..rows {
        let mut line = " ".repeat(name_width);
        for column in block {
            // Headings stand on the line beneath them.
            let text = (row + column.heading.len()).checked_sub(rows).and_then(|at| column.heading.get(at));
            push_right(&mut line, text.map_or("", |text| text), column.width);
        }
        lines.push(line);
    }
    lines.push("-".repeat(name_width + block.iter().map(|c| GAP.len() + c.width).sum::<usize>()));
    for (at, name) in names.iter().enumerate() {
        let mut parts = wrap(name, name_width).into_iter();
        let mut line = padded(&parts.next().unwrap_or_default(), name_width);
        for column in block {
            push_right(&mut line, column.cells.get(at).map_or("", |text| text), column.width);
        }
        lines.push(line);
        lines.extend(parts);
    }
    lines
}

/// Why there are no values, one line for every column and reason.
fn missing(table: &Table, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for row in &table.rows {
            if let Some(Cell::Missing(why)) = row.cells.get(at) {
                match reasons.iter_mut().find(|(reason, _)| reason == why) {
                    Some((_, systems)) => systems.push(&row.system),
                    None => reasons.push((why, vec![&row.system])),
                }
            }
        }
        for (why, systems) in reasons {
            let of = if systems.len() == table.rows.len() { "all".into() } else { systems.join(", ") };
            lines.extend(hanging("- ", &clean(&format!("{} ({of}): {why}", column.name)), columns));
        }
    }
    lines
}

fn talk(conversation: &Conversation, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for description in &conversation.persona {
        lines.extend(hanging("  * ", &clean(description), columns));
    }
    for (speaker, said) in &conversation.history {
        lines.extend(hanging("  ", &clean(&format!("{speaker}: {said}")), columns));
    }
    let count = conversation.replies.len();
    if count == 0 {
        return lines;
    }
    let room = columns - 2;
    let fit = ((room + GAP.len()) / (REPLY + GAP.len())).max(1);
    // Blocks of about equal size: six replies where four fit are three and three.
    let per_block = count.div_ceil(count.div_ceil(fit));
    let reply_width = ((room + GAP.len()) / per_block).saturating_sub(GAP.len());
    for block in conversation.replies.chunks(per_block) {
        lines.push(String::new());
        let cells: Vec<Vec<String>> = block
            .iter()
            .map(|reply| {
                let mut cell = wrap(&clean(&reply.system), reply_width);
                cell.push("-".repeat(cell.iter().map(|line| width(line)).max().unwrap_or(0)));
                let text = if reply.text.trim().is_empty() { "(empty reply)" } else { &reply.text };
                cell.extend(wrap(&clean(text), reply_width));
                if let Some(selected) = &reply.selected {
                    cell.extend(wrap(&clean(&format!("[selected: {selected}]")), reply_width));
                }
                cell
            })
            .collect();
        for row in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let texts: Vec<String> =
                cells.iter().map(|cell| padded(cell.get(row).map_or("", |text| text), reply_width)).collect();
            lines.push(format!("  {}", texts.join(GAP)));
        }
    }
    lines
}

/// `text` after `start`, its further lines indented to the same column and two more.
fn hanging(start: &str, text: &str, columns: usize) -> Vec<String> {
    let indent = width(start) + 2;
    let mut lines = Vec::new();
    for (at, line) in wrap(text, columns.saturating_sub(indent)).into_iter().enumerate() {
        lines.push(if at == 0 { format!("{start}{line}") } else { format!("{}{line}", " ".repeat(indent)) });
    }
    lines
}

fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

fn push_right(line: &mut String, text: &str, columns: usize) {
    line.push_str(GAP);
    line.push_str(&" ".repeat(columns.saturating_sub(width(text))));
    line.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::super::{Column, Row};
    use super::*;

    #[test]
    fn the_table_is_aligned_and_reasons_stand_below() {
        let lines = table(&sample().table, 110);
        let expected = [
            "              BLEU-1  Distinct-2  C.score",
            "-----------------------------------------",
            "stage 1 only    11.0       0.210        -",
            "PAL             12.4       0.254        -",
            "gold           100.0       0.612        -",
            "- C.score (all): no judge",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_wide_table_comes_in_blocks_that_lose_nothing() {
        let columns = (0..17)
            .map(|i| Column { name: format!("metric number {i}"), signature: String::new(), decimals: 3 })
            .collect();
        let row = |system: &str, start: usize| Row {
            system: system.into(),
            cells: (0..17).map(|i| Cell::Value((start + i) as f64)).collect(),
        };
        let wide = Table {
            columns,
            rows: vec![row("one", 100), row("a system with a rather long name 狗狗", 200)],
        };
        for columns in [40, 60, 110, 400] {
            let lines = table(&wide, columns);
            assert!(lines.iter().all(|line| width(line) <= columns), "{columns}:\n{}", lines.join("\n"));
            let blocks = lines.iter().filter(|line| line.starts_with("---")).count();
            assert_eq!(lines.iter().filter(|line| line.starts_with("one ")).count(), blocks);
            assert!(if columns == 400 { blocks == 1 } else { blocks > 1 });
            let text = lines.join(" ");
            for i in 0..17 {
                assert_eq!(text.matches(&format!(" {}.000", 100 + i)).count(), 1);
                assert_eq!(text.matches(&format!(" {}.000", 200 + i)).count(), 1);
            }
        }
    }

    #[test]
    fn conversations_keep_to_the_width_and_stand_side_by_side_where_they_fit() {
        let report = sample();
        for columns in [40, 60, 110, 160] {
            let text = report.text(columns).unwrap();
            assert!(text.lines().all(|line| width(line) <= columns), "{columns}:\n{text}");
        }
        let text = report.text(110).unwrap();
        assert!(text.contains("holds: validation loss: 4.812 against 6.204, unigram entropy\n"), "{text}");
        let beside = |columns| {
            let lines = talk(&report.conversations[0], columns);
            lines.iter().any(|line| line.contains("PAL") && line.contains("gold"))
        };
        assert!(beside(110) && !beside(40));
    }

    #[test]
    fn untrusted_text_cannot_steer_the_terminal() {
        let mut report = sample();
        let bad = || "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}".to_owned();
        report.title = bad();
        report.table.columns[0].name = bad();
        report.table.rows[0].system = bad();
        report.table.rows[0].cells[0] = Cell::Missing(bad());
        report.checks[0].name = bad();
        report.conversations[0].persona = vec![bad()];
        report.conversations[0].history = vec![(bad(), bad())];
        report.conversations[0].replies[0].system = bad();
        report.conversations[0].replies[0].text = bad();
        report.conversations[0].replies[0].selected = Some(bad());
        let text = report.text(110).unwrap();
        assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text:?}");
    }

    #[test]
    fn a_report_without_parts_is_its_title() {
        let mut report = sample();
        report.table.rows.clear();
        report.checks.clear();
        report.conversations.clear();
        assert_eq!(report.text(110).unwrap(), "PAL on a small corpus\n");
    }
}
