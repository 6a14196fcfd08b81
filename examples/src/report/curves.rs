//! Curves as SVG. Drawn at twice the size shown, because the back end rounds to whole units.

use super::Curve;
use super::text::{clean, short, tick, width};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

const SIZE: (u32, u32) = (1040, 620);
const FONT: i32 = 34;
const ROW: i32 = 44;
/// A column of text in units: an estimate, as there is no font to ask.
const LETTER: f64 = 15.4;
/// Names longer than this are cut in the legend.
const NAME: usize = 60;
/// A line with more points is averaged down to this many.
const POINTS: usize = 400;
/// Beyond this a value cannot be placed: sums and differences would leave the range of numbers.
const LIMIT: f64 = 1e100;
/// The page recolours black (text, axes) and these two greys (mesh, levels) for dark mode by attribute selectors.
const MESH: RGBColor = RGBColor(221, 221, 221);
const LEVEL: RGBColor = RGBColor(119, 119, 119);
/// Of middle lightness: seen on white and on near-black.
const COLOURS: [RGBColor; 8] = [
    RGBColor(43, 125, 209),
    RGBColor(224, 108, 27),
    RGBColor(38, 153, 93),
    RGBColor(204, 68, 130),
    RGBColor(140, 100, 214),
    RGBColor(176, 134, 0),
    RGBColor(0, 150, 160),
    RGBColor(170, 94, 60),
];

impl Curve {
    /// The picture as an SVG element; `None` where no line has a point that can be drawn. Points that are not finite
    /// are left out, and lines of more than 400 points are averaged in 400 groups of neighbours.
    ///
    /// # Errors
    ///
    /// Where the drawing fails, with the curve's title.
    pub fn svg(&self) -> Result<Option<String>> {
        let lines: Vec<Vec<(f64, f64)>> =
            self.lines.iter().map(|line| thin(&drawable(&line.points))).collect();
        if lines.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let mut levels: Vec<(&str, f64)> =
            self.levels.iter().filter(|(_, y)| places(*y)).map(|(name, y)| (name.as_str(), *y)).collect();
        levels.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut svg = String::new();
        self.draw(&lines, &levels, &mut svg)
            .map_err(|e| anyhow!("cannot draw the curve {:?}: {e}", self.title))?;
        Ok(Some(svg))
    }

    /// Whether a line has so many points that groups of them are averaged.
    pub(super) fn is_thinned(&self) -> bool {
        self.lines.iter().any(|line| drawable(&line.points).len() > POINTS)
    }

    fn draw(&self, lines: &[Vec<(f64, f64)>], levels: &[(&str, f64)], svg: &mut String) -> Result<()> {
        let points = || lines.iter().flatten();
        let xs = range(points().map(|p| p.0), 0.0);
        let ys = range(points().map(|p| p.1).chain(levels.iter().map(|l| l.1)), 0.05);
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let entries = self.legend(lines);
        let rows = entries.iter().map(|e| e.row + 1).max().unwrap_or(0);
        let (top, below) = root.split_vertically(rows * ROW + 16);
        for entry in &entries {
            draw_entry(&top, entry).map_err(told)?;
        }
        let mut chart = ChartBuilder::on(&below)
            .margin_right(28)
            .margin_bottom(8)
            .margin_top(14)
            .x_label_area_size(96)
            .y_label_area_size(136)
            .build_cartesian_2d(xs.clone(), ys.clone())
            .map_err(told)?;
        let (x_span, y_span) = (xs.end - xs.start, ys.end - ys.start);
        chart
            .configure_mesh()
            .x_labels(7)
            .y_labels(6)
            .max_light_lines(0)
            .bold_line_style(MESH.stroke_width(2))
            .axis_style(BLACK.stroke_width(2))
            .x_label_formatter(&|x| tick(*x, x_span))
            .y_label_formatter(&|y| tick(*y, y_span))
            .label_style(("sans-serif", FONT))
            .axis_desc_style(("sans-serif", FONT))
            .x_desc(clean(&self.x))
            .y_desc(clean(&self.y))
            .draw()
            .map_err(told)?;
        for &(_, y) in levels {
            let dashes = DashedLineSeries::new([(xs.start, y), (xs.end, y)], 14, 10, LEVEL.stroke_width(3));
            chart.draw_series(dashes).map_err(told)?;
        }
        for (index, line) in lines.iter().enumerate() {
            let colour = colour(index);
            match line.as_slice() {
                [] => {}
                [point] => {
                    chart.draw_series([Circle::new(*point, 8, colour.filled())]).map_err(told)?;
                }
                more => {
                    chart
                        .draw_series(LineSeries::new(more.iter().copied(), colour.stroke_width(4)))
                        .map_err(told)?;
                }
            }
        }
        let area = chart.plotting_area();
        let (across, down) = area.get_pixel_range();
        let places = places_of(levels, &ys, down.end - down.start);
        for (at, (place, &(name, y))) in places.iter().zip(levels).enumerate() {
            let (x, side) = match place {
                0 => (across.end - 10, HPos::Right),
                1 => (across.start + 10, HPos::Left),
                _ => ((across.start + across.end) / 2, HPos::Center),
            };
            let (_, y) = area.map_coordinate(&(xs.start, y));
            // Above its line, but below it at the top of the picture and where the next level is close above.
            let crowded = places.get(at + 1).is_some_and(|next| *next > 0) && y + FONT < down.end;
            let below = crowded || y - FONT < down.start;
            let (y, edge) = if below { (y + 6, VPos::Top) } else { (y - 6, VPos::Bottom) };
            let style = TextStyle::from(("sans-serif", FONT)).pos(Pos::new(side, edge)).color(&LEVEL);
            root.draw(&Text::new(cut(name), (x, y), style)).map_err(told)?;
        }
        drop(chart);
        root.present().map_err(told)
    }

    /// The lines' names from left to right, in as many rows as they need.
    fn legend(&self, lines: &[Vec<(f64, f64)>]) -> Vec<Entry> {
        let (left, right) = (136, SIZE.0 as i32 - 28);
        let (mut row, mut x) = (0, left);
        let mut entries = Vec::new();
        for (index, (line, drawn)) in self.lines.iter().zip(lines).enumerate() {
            let mut name = cut(&line.name);
            if drawn.is_empty() {
                name.push_str(" (no points)");
            }
            let length = 56 + (width(&name) as f64 * LETTER) as i32;
            if x > left && x + length > right {
                row += 1;
                x = left;
            }
            entries.push(Entry { name, colour: colour(index), row, x });
            x += length + 36;
        }
        entries
    }
}

struct Entry {
    name: String,
    colour: RGBColor,
    row: i32,
    x: i32,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_entry(area: &Area<'_>, entry: &Entry) -> Result<(), Fault> {
    let middle = entry.row * ROW + ROW / 2 + 6;
    area.draw(&PathElement::new([(entry.x, middle), (entry.x + 44, middle)], entry.colour.stroke_width(6)))?;
    let style = TextStyle::from(("sans-serif", FONT)).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(entry.name.clone(), (entry.x + 56, middle), style))
}

type Fault = DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>;

fn told(fault: Fault) -> anyhow::Error {
    anyhow!("{fault}")
}

/// Distinct for the first eight lines, then hues a golden angle apart.
fn colour(index: usize) -> RGBColor {
    COLOURS.get(index).copied().unwrap_or_else(|| {
        let hue = (index as f64 * 0.618_034).fract();
        let (r, g, b) = HSLColor(hue, 0.6, 0.48).rgb();
        RGBColor(r, g, b)
    })
}

fn cut(name: &str) -> String {
    let name = clean(name);
    if name.chars().count() <= NAME {
        return name;
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

fn places(value: f64) -> bool {
    value.abs() < LIMIT
}

fn drawable(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().filter(|&(x, y)| places(x) && places(y)).collect()
}

/// At most [`POINTS`] points, each the mean of a group of neighbours.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let bound = |group: usize| group * points.len() / POINTS;
    (0..POINTS)
        .filter_map(|group| points.get(bound(group)..bound(group + 1)))
        .map(|group| {
            let (x, y) = group.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
            (x / group.len() as f64, y / group.len() as f64)
        })
        .collect()
}

/// From the least to the greatest value, widened by `margin` of the distance; around a value that stands alone.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let size = low.abs().max(high.abs());
    // Marks closer than this are no longer told apart in 64 bits, and a range under 1e-12 is none to look at.
    if high - low <= (size * 1e-9).max(1e-12) {
        let around = if size > 1e-9 { size * 0.1 } else { 1.0 };
        return low - around..high + around;
    }
    low - (high - low) * margin..high + (high - low) * margin
}

/// A place along its line for the name of every level (sorted by height), so that close ones do not overlap.
fn places_of(levels: &[(&str, f64)], ys: &Range<f64>, height: i32) -> Vec<usize> {
    let unit = (ys.end - ys.start) / f64::from(height.max(1));
    let mut places = Vec::with_capacity(levels.len());
    let mut before: Option<(f64, usize)> = None;
    for &(_, y) in levels {
        let place = match before {
            Some((under, place)) if y - under < f64::from(FONT) * 1.1 * unit => (place + 1) % 3,
            _ => 0,
        };
        places.push(place);
        before = Some((y, place));
    }
    places
}

/// Levels in words, for where the picture cannot be drawn and for readers who want the numbers.
pub(super) fn levels_in_words(curve: &Curve) -> String {
    let levels: Vec<String> = curve.levels.iter().map(|(name, y)| format!("{name} {}", short(*y))).collect();
    levels.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::Line;
    use super::*;

    fn curve(lines: &[(&str, Vec<(f64, f64)>)], levels: &[(&str, f64)]) -> Curve {
        Curve {
            title: "Loss".into(),
            x: "step".into(),
            y: "nats per token".into(),
            lines: lines.iter().map(|(n, p)| Line { name: (*n).into(), points: p.clone() }).collect(),
            levels: levels.iter().map(|(n, y)| ((*n).into(), *y)).collect(),
        }
    }

    fn drawn(curve: &Curve) -> String {
        let svg = curve.svg().unwrap().unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        svg
    }

    /// The points of the line in the colour of line `index`, the legend's sample left out.
    fn polyline(svg: &str, index: usize) -> Vec<(f64, f64)> {
        let RGBColor(r, g, b) = colour(index);
        let stroke = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\" stroke-width=\"4\"");
        let Some(element) = svg.lines().find(|l| l.starts_with("<polyline") && l.contains(&stroke)) else {
            return Vec::new();
        };
        let points = element.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        points
            .split_whitespace()
            .map(|p| p.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap())
            .collect()
    }

    #[test]
    fn lines_axes_legend_and_levels_are_all_there() {
        let svg = drawn(&curve(
            &[("train", vec![(0.0, 7.0), (10.0, 5.0)]), ("valid", vec![(0.0, 7.1), (10.0, 5.5)])],
            &[("unigram entropy", 6.2)],
        ));
        for text in ["train", "valid", "step", "nats per token", "unigram entropy"] {
            assert_eq!(svg.lines().filter(|l| l.trim() == text).count(), 1, "{text}: {svg}");
        }
        let (train, valid) = (polyline(&svg, 0), polyline(&svg, 1));
        assert_eq!((train.len(), valid.len()), (2, 2));
        assert!(train[0].1 < train[1].1, "a falling loss runs down the picture");
        assert_eq!(train[0].0, valid[0].0);
        let dashes = svg.lines().filter(|l| l.contains("#777777") && l.starts_with("<polyline")).count();
        assert!(dashes > 20, "{dashes} dashes");
    }

    #[test]
    fn nothing_to_draw_is_no_picture() {
        assert_eq!(curve(&[], &[("level", 1.0)]).svg().unwrap(), None);
        assert_eq!(curve(&[("empty", vec![])], &[]).svg().unwrap(), None);
        let nowhere = vec![(0.0, f64::NAN), (f64::NAN, 1.0), (1.0, f64::INFINITY), (1.0, f64::MAX)];
        assert_eq!(curve(&[("nowhere", nowhere)], &[]).svg().unwrap(), None);
    }

    #[test]
    fn an_empty_line_beside_a_full_one_is_named() {
        let svg = drawn(&curve(&[("a", vec![]), ("b", vec![(0.0, 1.0), (1.0, 2.0)])], &[]));
        assert!(svg.contains("a (no points)"));
        assert!(polyline(&svg, 0).is_empty());
        assert_eq!(polyline(&svg, 1).len(), 2);
    }

    #[test]
    fn a_single_point_is_a_dot_inside_the_picture() {
        let svg = drawn(&curve(&[("one", vec![(200.0, 3.5)])], &[]));
        let circle = svg.lines().find(|l| l.starts_with("<circle")).unwrap();
        let place = |name: &str| -> f64 {
            circle.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        assert!((200.0..1200.0).contains(&place("cx")) && (100.0..600.0).contains(&place("cy")), "{circle}");
    }

    #[test]
    fn constant_extreme_and_close_values_are_drawn() {
        for y in [0.0, 1.0, -3.0, 1e-30, 1e99, -1e99, 1e15] {
            let points = polyline(&drawn(&curve(&[("c", vec![(0.0, y), (5.0, y)])], &[])), 0);
            assert_eq!(points.len(), 2, "{y}");
            assert!(points[0].1 == points[1].1 && (100.0..600.0).contains(&points[0].1), "{y}: {points:?}");
        }
        drawn(&curve(&[("far", vec![(-1e99, -1e99), (1e99, 1e99)])], &[("l", 1e-99)]));
        drawn(&curve(&[("near", vec![(1e15, 1e15), (1e15 + 1.0, 1e15 + 1.0)])], &[]));
        drawn(&curve(&[("tiny", vec![(0.0, 0.0), (1e-11, 1e-11)])], &[]));
    }

    #[test]
    fn points_that_are_not_finite_are_left_out() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 2.0)];
        let svg = drawn(&curve(&[("gaps", points)], &[("nan", f64::NAN)]));
        assert_eq!(polyline(&svg, 0).len(), 2);
    }

    #[test]
    fn many_points_are_averaged_in_groups() {
        let points: Vec<_> = (0..10_007).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let few = thin(&points);
        assert_eq!(few.len(), 400);
        assert!(few.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(few.iter().all(|p| (p.1 - 0.5).abs() < 0.03), "noise is averaged out");
        let c = curve(&[("many", points)], &[]);
        assert!(c.is_thinned());
        assert_eq!(polyline(&drawn(&c), 0).len(), 400);
        assert_eq!(thin(&[(1.0, 2.0); 400]).len(), 400);
        assert_eq!(thin(&[(1.0, 2.0); 401]).len(), 400);
    }

    #[test]
    fn many_lines_have_distinct_colours_and_names_are_escaped() {
        let names: Vec<String> = (0..24).map(|i| format!("<script>{i}</script> & a name")).collect();
        let lines: Vec<_> = names.iter().map(|n| (n.as_str(), vec![(0.0, 1.0), (1.0, 2.0)])).collect();
        let svg = drawn(&curve(&lines, &[("</svg><script>", 1.5)]));
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;23"));
        assert_eq!(svg.matches("</svg>").count(), 1);
        let colours: std::collections::HashSet<_> = (0..24).map(|i| colour(i).rgb()).collect();
        assert_eq!(colours.len(), 24);
    }

    #[test]
    fn names_of_close_levels_are_set_apart() {
        let levels = [("a", 1.0), ("b", 1.01), ("c", 1.02), ("d", 2.0)];
        assert_eq!(places_of(&levels, &(0.0..3.0), 500), [0, 1, 2, 0]);
    }
}
