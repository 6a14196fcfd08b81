//! The report of an experiment as one HTML file, and in a terminal.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::bars::Bars;
use super::compare::Compared;
use super::measure::mean_of;
use super::predictions::{Order, Outcome};
use super::report::ExperimentReport;
use crate::report::files::write_both;
use crate::report::html::{article, definitions, escape, figure, head, table};
use crate::report::text::fixed;
use crate::report::{Table, terminal};

impl ExperimentReport {
    /// Writes `report.html` and `report.json` into a folder, both or neither.
    ///
    /// # Errors
    /// Where a table is inconsistent, a curve cannot be drawn, or a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_both(folder, &self.html()?, self)
    }

    /// One page that needs nothing beside it. Every text is escaped.
    ///
    /// # Errors
    /// Where a table is inconsistent, and where a picture cannot be drawn.
    pub fn html(&self) -> Result<String> {
        let mut page = head(&self.title)?;
        for paragraph in &self.summary {
            writeln!(page, "<p>{}</p>", escape(paragraph))?;
        }
        for (name, systems) in &self.tables {
            systems.check()?;
            writeln!(page, "<h2>Systems, {}</h2>", escape(name))?;
            table(&mut page, systems)?;
        }
        let main = self.tables.first().map(|(_, table)| table);
        if let Some(main) = main {
            self.significance(&mut page, main)?;
        }
        self.predicted(&mut page)?;
        if !self.bars.is_empty() {
            page.push_str("<h2>Bars</h2>\n<div class=\"curves\">\n");
            for bars in &self.bars {
                picture(&mut page, bars)?;
            }
            page.push_str("</div>\n");
        }
        if !self.curves.is_empty() {
            page.push_str("<h2>Curves</h2>\n<div class=\"curves\">\n");
            for curve in &self.curves {
                figure(&mut page, curve)?;
            }
            page.push_str("</div>\n");
        }
        for (title, facts) in [("Data and model", &self.facts), ("What was trained", &self.trainings)] {
            if !facts.is_empty() {
                writeln!(page, "<h2>{title}</h2>")?;
                let items = facts.iter().map(|(name, fact)| (name.as_str(), fact.as_str()));
                definitions(&mut page, "", items)?;
            }
        }
        if !self.conversations.is_empty() {
            page.push_str("<h2>Conversations, first seed</h2>\n");
            for (index, conversation) in self.conversations.iter().enumerate() {
                article(&mut page, index + 1, conversation)?;
            }
        }
        let texts = [("Recipe", Some(&self.recipe)), ("Predictions", self.predictions.as_ref())];
        for (title, text) in texts {
            if let Some(text) = text {
                writeln!(page, "<h2>{title}</h2>\n<pre>\n{}</pre>", escape(text))?;
            }
        }
        page.push_str("</body>\n</html>\n");
        Ok(page)
    }

    fn significance(&self, page: &mut String, main: &Table) -> Result<()> {
        if self.best.is_empty() && self.against_pal.is_empty() {
            return Ok(());
        }
        page.push_str(
            "<h2>Could it be chance?</h2>\n<p>p: paired approximate randomisation of the mean over the seeds, an \
             example&#39;s replies of all seeds swapped together; beside PAL corrected by Holm over the rows of a \
             column. p over seeds: Welch&#39;s t-test of the seeds&#39; values. A difference counts where p is below \
             0.05 and every seed has its sign. The copy rate has no better end.</p>\n",
        );
        if !self.best.is_empty() {
            page.push_str("<h3>The best system against the second best</h3>\n");
            rows(
                page,
                &["Column", "Best", "Second best", "Difference", "p", "p over seeds", "Seeds with its sign"],
                &{
                    let row = |test: &Compared| {
                        vec![
                            test.column.clone(),
                            test.system.clone(),
                            test.against.clone(),
                            difference(main, test),
                            format!("{:.4}", test.p_value),
                            p_seeds(test),
                            format!("{} of {}", test.agreeing, test.seeds),
                        ]
                    };
                    self.best.iter().map(row).collect::<Vec<_>>()
                },
            )?;
        }
        if !self.against_pal.is_empty() {
            page.push_str("<h3>Every other row against PAL</h3>\n");
            rows(
                page,
                &[
                    "System",
                    "Column",
                    "Difference from PAL",
                    "p (Holm)",
                    "p over seeds",
                    "Seeds with its sign",
                    "Counts",
                ],
                &{
                    let row = |test: &Compared| {
                        vec![
                            test.system.clone(),
                            test.column.clone(),
                            difference(main, test),
                            format!("{:.4}", test.p_holm),
                            p_seeds(test),
                            format!("{} of {}", test.agreeing, test.seeds),
                            if test.counts() { "yes" } else { "no" }.to_owned(),
                        ]
                    };
                    self.against_pal.iter().map(row).collect::<Vec<_>>()
                },
            )?;
        }
        Ok(())
    }

    fn predicted(&self, page: &mut String) -> Result<()> {
        if !self.outcomes.is_empty() {
            page.push_str(
                "<h2>Predicted before the first run, and what came out</h2>\n<p>A row is higher or lower than PAL where \
                 the difference counts, gold with any difference; where a curve is highest is read off its means, \
                 without a test.</p>\n",
            );
            let head =
                ["About", "Column", "Predicted", "Came out", "Numbers", "Paper", "Holds", "Why predicted"];
            rows(page, &head, &self.outcomes.iter().map(outcome_row).collect::<Vec<_>>())?;
        }
        if !self.orders.is_empty() {
            page.push_str("<h2>The paper&#39;s order and ours</h2>\n");
            let head =
                ["Column", "Source", "Paper, best first", "Ours, best first", "Kendall&#39;s tau", "Turned"];
            rows(page, &head, &self.orders.iter().map(order_row).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// The tables and what came of the predictions, for a terminal of so many columns.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        let mut lines = vec![self.title.clone()];
        for (name, systems) in &self.tables {
            lines.extend([String::new(), name.clone()]);
            lines.extend(terminal::table(systems, columns.max(40)));
        }
        lines.push(String::new());
        lines.extend(self.summary.iter().cloned());
        for outcome in &self.outcomes {
            let word = match outcome.holds {
                Some(true) => "as predicted",
                Some(false) => "NOT as predicted",
                None => "not measured",
            };
            let Outcome { about, column, predicted, numbers, .. } = outcome;
            lines.push(format!("{word}: {about}, {column}: predicted {predicted}; {numbers}"));
        }
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn outcome_row(outcome: &Outcome) -> Vec<String> {
    let holds = match outcome.holds {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not measured",
    };
    vec![
        outcome.about.clone(),
        outcome.column.clone(),
        outcome.predicted.clone(),
        outcome.outcome.clone().unwrap_or_else(|| "-".to_owned()),
        outcome.numbers.clone(),
        outcome.paper.clone().unwrap_or_else(|| "-".to_owned()),
        holds.to_owned(),
        outcome.why.clone(),
    ]
}

fn order_row(order: &Order) -> Vec<String> {
    let turned: Vec<String> =
        order.turned.iter().map(|(above, below)| format!("{below} above {above}")).collect();
    vec![
        order.column.clone(),
        order.source.clone(),
        order.paper.join(" > "),
        order.ours.join(" > "),
        order.tau.map_or_else(|| "-".to_owned(), |tau| format!("{tau:.2}")),
        if turned.is_empty() { "none".to_owned() } else { turned.join("; ") },
    ]
}

/// A table of texts. The headings are HTML, the cells are escaped.
fn rows(page: &mut String, head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    page.push_str("<div class=\"wide\"><table class=\"texts\">\n<thead><tr>");
    for name in head {
        write!(page, "<th scope=\"col\">{name}</th>")?;
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            write!(page, "<td>{}</td>", escape(cell))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

fn picture(page: &mut String, bars: &Bars) -> Result<()> {
    if let Some(svg) = bars.svg()? {
        let title = escape(&bars.title);
        writeln!(page, "<figure><figcaption>{title}</figcaption><div class=\"wide\">{svg}</div></figure>")?;
    }
    Ok(())
}

/// The difference of the means, with its sign.
fn difference(table: &Table, test: &Compared) -> String {
    let decimals = table.columns.iter().find(|column| column.name == test.column).map_or(2, |c| c.decimals);
    let mean = |name: &str| mean_of(table, name, &test.column);
    match (mean(&test.system), mean(&test.against)) {
        (Some(one), Some(two)) if one > two => format!("+{}", fixed(one - two, decimals)),
        (Some(one), Some(two)) => fixed(one - two, decimals),
        _ => "-".to_owned(),
    }
}

fn p_seeds(test: &Compared) -> String {
    test.p_seeds.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Bar;
    use crate::report::{Cell, Column, Conversation, Curve, Line, Reply, Row};

    /// A report whose every text is `text`.
    fn report(text: &str) -> ExperimentReport {
        let t = || text.to_owned();
        let row = |cell| Row { system: t(), cells: vec![cell] };
        let table = Table {
            columns: vec![Column { name: t(), signature: t(), decimals: 1 }],
            rows: vec![row(Cell::Spread { mean: 1.0, deviation: 0.5 }), row(Cell::Missing(t()))],
        };
        let test = Compared {
            column: t(),
            system: t(),
            against: t(),
            p_value: 0.25,
            p_holm: 0.5,
            p_seeds: Some(0.125),
            agreeing: 1,
            seeds: 2,
        };
        let outcome = Outcome {
            about: t(),
            column: t(),
            predicted: t(),
            outcome: Some(t()),
            numbers: t(),
            paper: Some(t()),
            holds: Some(true),
            why: t(),
        };
        let (one, turned) = (vec![t()], vec![(t(), t())]);
        let order = Order { column: t(), source: t(), paper: one.clone(), ours: one, tau: Some(0.5), turned };
        let bar = Bar { name: t(), value: 1.0, deviation: None };
        let line = Line { name: t(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let reply = Reply { system: t(), selected: Some(t()), text: t() };
        ExperimentReport {
            title: t(),
            summary: vec![t()],
            facts: vec![(t(), t())],
            tables: vec![(t(), table)],
            best: vec![test.clone()],
            against_pal: vec![test],
            outcomes: vec![outcome],
            orders: vec![order],
            bars: vec![Bars { title: t(), decimals: 1, bars: vec![bar] }],
            curves: vec![Curve { title: t(), x: t(), y: t(), lines: vec![line], levels: vec![(t(), 1.0)] }],
            trainings: vec![(t(), t())],
            conversations: vec![Conversation {
                persona: vec![t()],
                history: vec![(t(), t())],
                replies: vec![reply],
            }],
            recipe: t(),
            predictions: Some(t()),
        }
    }

    #[test]
    fn text_cannot_become_markup_anywhere() {
        let plain = report("plain").html().unwrap();
        let page = report("</pre></title></style><script>alert('1')</script>\"'>").html().unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert_eq!(page.matches('<').count(), plain.matches('<').count());
        for part in ["0.2500", "0.5000", "0.1250", "1 of 2", "<td>no</td>", "<td>yes</td>"] {
            assert!(plain.contains(part), "{part} is not in {plain}");
        }
    }
}
