//! Bars as SVG, one a system, with a line for the deviation over the seeds.

use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::report::html::escape;
use crate::report::text::fixed;

/// One picture of bars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// The heading.
    pub title: String,
    /// Decimals shown.
    pub decimals: usize,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// How long.
    pub value: f64,
    /// The standard deviation over the seeds; absent where there is one seed.
    pub deviation: Option<f64>,
}

const WIDTH: f64 = 1040.0;
/// Where bars may begin: names stand before it, with room for negative ones.
const LEFT: f64 = 470.0;
/// Values stand after the bars.
const RIGHT: f64 = 850.0;
const ROW: f64 = 44.0;

impl Bars {
    /// The picture as an SVG element; nothing without a bar whose value is finite.
    ///
    /// # Errors
    /// Never of these types.
    pub fn svg(&self) -> Result<Option<String>> {
        let bars: Vec<&Bar> = self.bars.iter().filter(|bar| bar.value.is_finite()).collect();
        if bars.is_empty() {
            return Ok(None);
        }
        let ends = |bar: &&Bar| {
            let deviation = bar.deviation.filter(|value| value.is_finite()).unwrap_or_default();
            (bar.value - deviation, bar.value + deviation)
        };
        let low = bars.iter().map(|bar| ends(bar).0).fold(0.0, f64::min);
        let high = bars.iter().map(|bar| ends(bar).1).fold(0.0, f64::max);
        let span = if high > low { high - low } else { 1.0 };
        let x = |value: f64| LEFT + (value - low) / span * (RIGHT - LEFT);
        let height = ROW * bars.len() as f64 + 12.0;
        // Colours by attribute, which the page's style turns for dark mode.
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\" \
             font-size=\"26\">\n"
        );
        for (at, bar) in bars.iter().enumerate() {
            let top = ROW * at as f64 + 6.0;
            let (text, middle) = (top + 27.0, top + 18.0);
            let (from, to) = (x(bar.value.min(0.0)), x(bar.value.max(0.0)));
            writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\" fill=\"#000000\">{}</text>\
                 <rect x=\"{from:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"30\" fill=\"#2B7DD1\"/>",
                LEFT - 14.0,
                escape(&bar.name),
                top + 3.0,
                (to - from).max(1.0),
            )?;
            let (start, end) = ends(bar);
            if end > start {
                writeln!(
                    svg,
                    "<line x1=\"{:.1}\" y1=\"{middle:.0}\" x2=\"{:.1}\" y2=\"{middle:.0}\" stroke=\"#000000\" \
                     stroke-width=\"3\"/>",
                    x(start),
                    x(end)
                )?;
            }
            let mut value = fixed(bar.value, self.decimals);
            if let Some(deviation) = bar.deviation {
                value += &format!(" ± {}", fixed(deviation, self.decimals));
            }
            let after = x(end).max(to) + 12.0;
            writeln!(svg, "<text x=\"{after:.0}\" y=\"{text:.0}\" fill=\"#000000\">{value}</text>")?;
        }
        svg.push_str("</svg>");
        Ok(Some(svg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64, deviation: Option<f64>) -> Bar {
        Bar { name: name.into(), value, deviation }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bars = vec![bar("a", 2.0, Some(0.5)), bar("<b>", -0.5, None), bar("c", f64::NAN, None)];
        let svg = Bars { title: "x".into(), decimals: 1, bars }.svg().unwrap().unwrap();
        let width = |svg: &str| -> Vec<f64> {
            let rects = svg.split("<rect").skip(1);
            rects
                .map(|r| r.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
                .collect()
        };
        let widths = width(&svg);
        assert_eq!(widths.len(), 2);
        assert!((widths[0] / widths[1] - 4.0).abs() < 0.01, "{widths:?}");
        assert_eq!(svg.matches("<line").count(), 1);
        assert!(svg.contains("2.0 ± 0.5") && svg.contains("&lt;b&gt;") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn nothing_is_no_picture_and_zeros_are_one() {
        let of = |bars| Bars { title: String::new(), decimals: 2, bars }.svg().unwrap();
        assert_eq!(of(Vec::new()), None);
        assert_eq!(of(vec![bar("a", f64::INFINITY, None)]), None);
        assert!(of(vec![bar("a", 0.0, Some(0.0))]).is_some());
    }
}
