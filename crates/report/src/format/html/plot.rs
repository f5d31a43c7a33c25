//! Plots as SVG text, drawn by plotters. They hold no style and no script: every colour is one of a few constants that
//! the page's style sheet turns into those of the light and the dark scheme, by attribute.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::escape::excerpt;

/// The adapted model, the base, what is no trigger, and lines that only help the eye.
pub(crate) const ADAPTED: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
pub(crate) const BASE: RGBColor = RGBColor(0x00, 0x72, 0xB2);
pub(crate) const NULL: RGBColor = RGBColor(0x7F, 0x7F, 0x7F);
const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
const INK: RGBColor = RGBColor(0x00, 0x00, 0x00);

/// Width of every plot in its own units, about that of a telephone: there its letters are still read.
const WIDTH: i32 = 400;
const LABELS: i32 = 164;
const RIGHT: i32 = 16;
const TOP: i32 = 10;
const BOTTOM: i32 = 44;
const ROW: i32 = 26;
const FONT: i32 = 13;
/// Characters of a label that fit beside the plot.
const LABEL: usize = 23;

/// A plot and what it says, for those who do not see it.
pub(crate) struct Plot {
    pub(crate) svg: String,
    pub(crate) caption: String,
    pub(crate) summary: String,
}

/// A value on a line of its own, with its interval and the observations behind it.
pub(crate) struct Mark {
    pub(crate) label: String,
    pub(crate) colour: RGBColor,
    pub(crate) value: f64,
    /// Lower and upper end.
    pub(crate) interval: Option<(f64, f64)>,
    /// Single observations, drawn faintly.
    pub(crate) points: Vec<f64>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// An error of drawing; a String cannot fail, so none is expected.
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Values one below the other on a common axis, which begins at zero or below. `None` if there are none.
pub(crate) fn marks(caption: &str, axis: &str, marks: &[Mark], line: Option<f64>) -> Option<Plot> {
    let numbers = marks.iter().flat_map(|mark| {
        let ends = mark.interval.map(|(lower, upper)| [lower, upper]);
        ends.into_iter().flatten().chain(mark.points.iter().copied()).chain([mark.value])
    });
    let (from, to) = range(numbers.chain(line))?;
    let height = TOP + ROW * i32::try_from(marks.len()).ok()? + BOTTOM;
    let svg = draw(height, |area| {
        let scale = Scale { axis: (from..to).into(), from: LABELS, to: WIDTH - RIGHT };
        scale.below(area, axis, height)?;
        for (row, mark) in (0_i32..).zip(marks) {
            let y = TOP + ROW * row + ROW / 2;
            area.draw(&Text::new(
                excerpt(&mark.label, LABEL),
                (LABELS - 10, y),
                font(HPos::Right, VPos::Center),
            ))?;
            for (index, &point) in mark.points.iter().enumerate() {
                // Neighbours lie on different heights, the same ones every time.
                let up = (index as i32 * 5) % 13 - 6;
                area.draw(&Circle::new((scale.at(point), y + up), 2, mark.colour.mix(0.35).filled()))?;
            }
            if let Some((lower, upper)) = mark.interval {
                let ends = [(scale.at(lower), y), (scale.at(upper), y)];
                area.draw(&PathElement::new(ends, mark.colour.stroke_width(2)))?;
                for (x, _) in ends {
                    area.draw(&PathElement::new([(x, y - 4), (x, y + 4)], mark.colour.stroke_width(2)))?;
                }
            }
            area.draw(&Circle::new((scale.at(mark.value), y), 4, mark.colour.filled()))?;
        }
        if let Some(at) = line {
            let ends = [(scale.at(at), TOP), (scale.at(at), height - BOTTOM)];
            area.draw(&PathElement::new(ends, NULL.stroke_width(1)))?;
        }
        Ok(())
    })?;
    let said: Vec<String> = marks
        .iter()
        .map(|mark| match mark.interval {
            Some((lower, upper)) => {
                format!("{}: {:.3}, from {lower:.3} to {upper:.3}", mark.label, mark.value)
            }
            None => format!("{}: {:.3}", mark.label, mark.value),
        })
        .collect();
    Some(Plot {
        svg,
        caption: caption.to_owned(),
        summary: format!("{caption} {axis}. {}.", said.join("; ")),
    })
}

/// Values by rank, the largest first, above the band of values that are no trigger's.
pub(crate) fn ranked(caption: &str, axis: &str, values: &[(f64, &str)], null: &[f64]) -> Option<Plot> {
    const HEIGHT: i32 = 260;
    const NAMED: usize = 3;
    const LEFT: i32 = 46;
    let (from, to) = range(values.iter().map(|(value, _)| *value).chain(null.iter().copied()))?;
    let band = range(null.iter().copied());
    let svg = draw(HEIGHT, |area| {
        let across = Scale { axis: (0.0..values.len() as f64 + 1.0).into(), from: LEFT, to: WIDTH - RIGHT };
        let up = Scale { axis: (from..to).into(), from: HEIGHT - BOTTOM, to: TOP };
        up.beside(area, axis)?;
        across.below(area, "rank among the candidates", HEIGHT)?;
        if let Some((lowest, highest)) = band {
            let corners = [(LEFT, up.at(highest)), (WIDTH - RIGHT, up.at(lowest))];
            area.draw(&Rectangle::new(corners, NULL.mix(0.25).filled()))?;
        }
        for (rank, (value, _)) in (1..).zip(values) {
            let at = (across.at(f64::from(rank)), up.at(*value));
            area.draw(&Circle::new(at, 2, ADAPTED.mix(0.7).filled()))?;
        }
        // The names of the first few, each on a line of its own beside the others.
        for (row, (value, name)) in (0_i32..).zip(values.iter().take(NAMED)) {
            let at = (across.at(f64::from(row) + 1.0), up.at(*value));
            let beside = (LEFT + 60, TOP + 8 + row * 16);
            area.draw(&PathElement::new([at, (beside.0 - 4, beside.1)], GRID.stroke_width(1)))?;
            let label = format!("{} ({value:.1})", excerpt(name, 40));
            area.draw(&Text::new(label, beside, font(HPos::Left, VPos::Center)))?;
        }
        Ok(())
    })?;
    let first: Vec<String> =
        values.iter().take(NAMED).map(|(value, name)| format!("{name}: {value:.2}")).collect();
    let against = band.map_or(String::new(), |(lowest, highest)| {
        format!(" {} random strings lie from {lowest:.2} to {highest:.2}.", null.len())
    });
    let summary =
        format!("{caption} {axis}. {} candidates; strongest: {}.{against}", values.len(), first.join("; "));
    Some(Plot { svg, caption: caption.to_owned(), summary })
}

/// A step of a search: what it had cost and reached at its end.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) cost: f64,
    pub(crate) reached: f64,
}

/// The best value reached over the cost so far.
pub(crate) fn progress(caption: &str, axis: &str, steps: &[Step]) -> Option<Plot> {
    const HEIGHT: i32 = 240;
    const LEFT: i32 = 46;
    let (_, most) = range(steps.iter().map(|step| step.cost))?;
    let (from, to) = range(steps.iter().map(|step| step.reached))?;
    let svg = draw(HEIGHT, |area| {
        let across = Scale { axis: (0.0..most).into(), from: LEFT, to: WIDTH - RIGHT };
        let up = Scale { axis: (from..to).into(), from: HEIGHT - BOTTOM, to: TOP + 14 };
        up.beside(area, axis)?;
        across.below(area, "token-forwards spent", HEIGHT)?;
        let mut path = vec![(across.at(0.0), up.at(0.0))];
        for step in steps {
            let before = path.last().map_or(HEIGHT - BOTTOM, |(_, y)| *y);
            path.extend([(across.at(step.cost), before), (across.at(step.cost), up.at(step.reached))]);
        }
        area.draw(&PathElement::new(path, ADAPTED.stroke_width(2)))?;
        let mut free = LEFT;
        for step in steps {
            let at = (across.at(step.cost), up.at(step.reached));
            area.draw(&Circle::new(at, 3, ADAPTED.filled()))?;
            // A name is left out where it would cover the one before it.
            let width = 7 * i32::try_from(step.name.chars().count()).unwrap_or(0);
            if at.0 - width / 2 >= free {
                let place = (at.0.min(WIDTH - RIGHT - width / 2), at.1 - 12);
                area.draw(&Text::new(step.name.clone(), place, font(HPos::Center, VPos::Center)))?;
                free = place.0 + width / 2 + 6;
            }
        }
        Ok(())
    })?;
    let said: Vec<String> = steps
        .iter()
        .map(|step| format!("{}: {:.2} after {:.0}", step.name, step.reached, step.cost))
        .collect();
    Some(Plot {
        svg,
        caption: caption.to_owned(),
        summary: format!("{caption} {axis}. {}.", said.join("; ")),
    })
}

/// Named points over two axes, which begin at zero or below. `None` if there are none.
pub(crate) fn scatter(
    caption: &str,
    (across_name, up_name): (&str, &str),
    points: &[(f64, f64, &str)],
) -> Option<Plot> {
    const HEIGHT: i32 = 240;
    const LEFT: i32 = 46;
    let (_, most) = range(points.iter().map(|(x, ..)| *x))?;
    let (from, to) = range(points.iter().map(|(_, y, _)| *y))?;
    let svg = draw(HEIGHT, |area| {
        let across = Scale { axis: (0.0..most).into(), from: LEFT, to: WIDTH - RIGHT };
        let up = Scale { axis: (from..to).into(), from: HEIGHT - BOTTOM, to: TOP };
        up.beside(area, up_name)?;
        across.below(area, across_name, HEIGHT)?;
        let mut named: Vec<i32> = Vec::with_capacity(points.len());
        for (x, y, name) in points {
            let at = (across.at(*x), up.at(*y));
            area.draw(&Circle::new(at, 4, ADAPTED.filled()))?;
            // Below the names that stand at its height already.
            let mut height = at.1;
            while named.iter().any(|other| (other - height).abs() < FONT + 2) {
                height += FONT + 2;
            }
            named.push(height);
            // On the side where there is room for the name.
            let (place, side) = if at.0 > i32::midpoint(LEFT, WIDTH) {
                ((at.0 - 8, height), HPos::Right)
            } else {
                ((at.0 + 8, height), HPos::Left)
            };
            area.draw(&Text::new(excerpt(name, LABEL), place, font(side, VPos::Center)))?;
        }
        Ok(())
    })?;
    let said: Vec<String> = points.iter().map(|(x, y, name)| format!("{name}: {y:.3} at {x:.0}")).collect();
    let summary = format!("{caption} {up_name} over {across_name}. {}.", said.join("; "));
    Some(Plot { svg, caption: caption.to_owned(), summary })
}

/// Values along an axis, joined by lines.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) colour: RGBColor,
    /// Across and up, in the order in which they are joined.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over one axis, which begin at zero or below. `None` if none has a finite point.
pub(crate) fn lines(caption: &str, [across, up]: [&str; 2], lines: &[Line]) -> Option<Plot> {
    const HEIGHT: i32 = 240;
    const LEFT: i32 = 46;
    let points =
        || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let last = points().map(|point| point.0).fold(f64::NEG_INFINITY, f64::max);
    let (from, to) = range(points().map(|point| point.1))?;
    let svg = draw(HEIGHT, |area| {
        let x = Scale { axis: (0.0..last.max(1.0)).into(), from: LEFT, to: WIDTH - RIGHT };
        let y = Scale { axis: (from..to).into(), from: HEIGHT - BOTTOM, to: TOP + 20 };
        y.beside(area, up)?;
        x.below(area, across, HEIGHT)?;
        let mut free = LEFT;
        for line in lines {
            let finite = line.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let path: Vec<(i32, i32)> = finite.map(|point| (x.at(point.0), y.at(point.1))).collect();
            for &at in &path {
                area.draw(&Circle::new(at, 2, line.colour.filled()))?;
            }
            area.draw(&PathElement::new(path, line.colour.stroke_width(2)))?;
            area.draw(&PathElement::new([(free, TOP), (free + 14, TOP)], line.colour.stroke_width(3)))?;
            area.draw(&Text::new(line.name, (free + 18, TOP), font(HPos::Left, VPos::Center)))?;
            free += 32 + 7 * i32::try_from(line.name.chars().count()).unwrap_or(0);
        }
        Ok(())
    })?;
    let said: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let most = line.points.iter().filter(|point| point.1.is_finite());
            let most = most.max_by(|a, b| a.1.total_cmp(&b.1))?;
            Some(format!("{}: at most {:.3} at {}", line.name, most.1, number(most.0)))
        })
        .collect();
    let summary = format!("{caption} {up} by {across}. {}.", said.join("; "));
    Some(Plot { svg, caption: caption.to_owned(), summary })
}

/// An axis on a stretch of pixels.
struct Scale {
    axis: RangedCoordf64,
    from: i32,
    to: i32,
}

impl Scale {
    fn at(&self, value: f64) -> i32 {
        self.axis.map(&value, (self.from, self.to))
    }

    fn ticks(&self) -> Vec<(i32, String)> {
        let points = self.axis.key_points(Ticks(6));
        points.into_iter().map(|value| (self.at(value), number(value))).collect()
    }

    /// Vertical lines, their numbers below and the axis' name below those.
    fn below(&self, area: &Area<'_>, name: &str, height: i32) -> Drawn {
        let bottom = height - BOTTOM;
        for (x, label) in self.ticks() {
            area.draw(&PathElement::new([(x, TOP), (x, bottom)], GRID.stroke_width(1)))?;
            area.draw(&Text::new(label, (x, bottom + 6), font(HPos::Center, VPos::Top)))?;
        }
        let middle = i32::midpoint(self.from, self.to);
        area.draw(&Text::new(name.to_owned(), (middle, bottom + 24), font(HPos::Center, VPos::Top)))
    }

    /// Horizontal lines, their numbers and the axis' name on the left.
    fn beside(&self, area: &Area<'_>, name: &str) -> Drawn {
        let left = 46;
        for (y, label) in self.ticks() {
            area.draw(&PathElement::new([(left, y), (WIDTH - RIGHT, y)], GRID.stroke_width(1)))?;
            area.draw(&Text::new(label, (left - 6, y), font(HPos::Right, VPos::Center)))?;
        }
        let style = font(HPos::Center, VPos::Center).transform(FontTransform::Rotate270);
        let middle = i32::midpoint(self.from, self.to);
        area.draw(&Text::new(name.to_owned(), (8, middle), style))
    }
}

/// At most so many ticks.
struct Ticks(usize);

impl KeyPointHint for Ticks {
    fn max_num_points(&self) -> usize {
        self.0
    }

    fn weight(&self) -> plotters::coord::ranged1d::KeyPointWeight {
        plotters::coord::ranged1d::KeyPointWeight::Any
    }

    fn bold_points(&self) -> usize {
        self.0
    }
}

/// From zero or below to beyond the largest; `None` without a finite number.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (mut lowest, mut highest) = (0.0_f64, f64::NEG_INFINITY);
    for value in values.filter(|value| value.is_finite()) {
        lowest = lowest.min(value);
        highest = highest.max(value);
    }
    if highest == f64::NEG_INFINITY {
        return None;
    }
    let width = if highest > lowest { highest - lowest } else { 1.0 };
    let below = if lowest < 0.0 { lowest - 0.03 * width } else { 0.0 };
    Some((below, lowest + 1.03 * width))
}

fn draw(height: i32, paint: impl FnOnce(&Area<'_>) -> Drawn) -> Option<String> {
    let mut svg = String::new();
    let size = (u32::try_from(WIDTH).ok()?, u32::try_from(height).ok()?);
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        paint(&area).ok()?;
        area.present().ok()?;
    }
    Some(svg)
}

fn font(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", FONT).into_font().color(&INK).pos(Pos::new(horizontal, vertical))
}

/// A tick's number, as short as it can be told.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6).replace(".0M", "M"),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        _ => {
            let text = format!("{value:.3}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            if text == "-0" { "0".to_owned() } else { text.to_owned() }
        }
    }
}
