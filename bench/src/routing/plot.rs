//! Curves as SVG: logarithmic axes, bands of uncertainty, names beside the lines.
//!
//! Colours are those of Okabe and Ito, which people with any colour vision tell apart; kube-proxy's
//! lines are dashed. Text and grid take the page's colours, so that a dark page has a dark plot.

use std::fmt::Write as _;

use super::{results::Route, table::number};

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// Whose it is.
    pub route: Route,
    /// Points: x, y, and the bounds of y.
    pub points: Vec<(f64, f64, f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// A word for file names.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The unit of y.
    pub unit: String,
    /// Marks of the x axis with their names.
    pub ticks: Vec<(f64, String)>,
    /// What x is.
    pub x: String,
    /// Whether y is logarithmic.
    pub log: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 42.0;
/// Names of lines do not come closer than this.
const LABEL_GAP: f64 = 15.0;

/// The colour of a route and whether its line is dashed.
pub const fn style(route: Route) -> (&'static str, bool) {
    match route {
        Route::Direct | Route::DirectAgain => ("#8a8f98", false),
        Route::Iptables => ("#d55e00", false),
        Route::Ipvs => ("#cc79a7", false),
        Route::Nftables => ("#e69f00", false),
        Route::EbpfSocket => ("#0072b2", false),
        Route::EbpfTc => ("#009e73", false),
        Route::EbpfXdp => ("#56b4e9", false),
        Route::KubeProxyIptables => ("#d55e00", true),
        Route::KubeProxyIpvs => ("#cc79a7", true),
        Route::KubeProxyNftables => ("#e69f00", true),
        Route::Target => ("#555555", true),
    }
}

struct Scale {
    from: f64,
    to: f64,
    log: bool,
    start: f64,
    length: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let place = |value: f64| if self.log { value.max(1e-9).log10() } else { value };
        let (from, to) = (place(self.from), place(self.to));
        let share =
            if (to - from).abs() < 1e-12 { 0.5 } else { (place(value) - from) / (to - from) };
        self.start + share * self.length
    }
}

/// Marks of a y axis from `from` to `to`.
fn marks(from: f64, to: f64, log: bool) -> Vec<f64> {
    if log {
        let mut marks = Vec::new();
        let mut power = 10_f64.powf(from.max(1e-9).log10().floor());
        while power <= to {
            marks.extend([1.0, 2.0, 5.0].map(|it| it * power));
            power *= 10.0;
        }
        marks.retain(|it| *it >= from && *it <= to);
        if marks.len() > 8 {
            marks.retain(|it| (it.log10() - it.log10().round()).abs() < 1e-9);
        }
        return marks;
    }
    let rough = (to - from) / 5.0;
    let power = 10_f64.powf(rough.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|it| it * power);
    let step = steps.into_iter().find(|it| *it >= rough).unwrap_or(power * 10.0);
    let mut marks = Vec::new();
    let mut mark = (from / step).ceil() * step;
    while mark <= to + step * 1e-6 {
        marks.push(mark);
        mark += step;
    }
    marks
}

impl Plot {
    fn bounds(&self) -> (f64, f64) {
        let values = self.lines.iter().flat_map(|line| &line.points);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (_, y, from, to) in values {
            low = low.min(*y).min(*from);
            high = high.max(*y).max(*to);
        }
        if !low.is_finite() {
            return (0.0, 1.0);
        }
        if self.log { (low.max(1e-3) * 0.85, high.max(2e-3) * 1.15) } else { (0.0, high * 1.08) }
    }

    /// For a page that sets the colours `--fg`, `--muted` and `--grid`.
    pub fn inline(&self) -> String {
        self.svg("var(--fg)", "var(--muted)", "var(--grid)", "")
    }

    /// For a file of its own, on white.
    pub fn file(&self) -> String {
        let paper = format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>");
        self.svg("#1a1d21", "#555b66", "#e3e6ea", &paper)
    }

    fn svg(&self, fg: &str, muted: &str, grid: &str, paper: &str) -> String {
        let (low, high) = self.bounds();
        let firsts = self.ticks.iter().map(|(x, _)| *x);
        let (from, to) = firsts.fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
        let x = Scale { from, to, log: true, start: LEFT, length: WIDTH - LEFT - RIGHT };
        let y = Scale {
            from: low,
            to: high,
            log: self.log,
            start: HEIGHT - BOTTOM,
            length: -(HEIGHT - TOP - BOTTOM),
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\"><title>{}</title>{paper}",
            escaped(&self.title)
        );
        self.axes(&mut svg, &x, &y, (low, high), (fg, muted, grid));
        let mut labels = Vec::new();
        for line in &self.lines {
            let (colour, dashed) = style(line.route);
            draw(&mut svg, line, &x, &y, colour, dashed);
            if let Some((last, value, ..)) = line.points.last() {
                labels.push((y.at(*value), x.at(*last), line.route.name(), colour));
            }
        }
        name(&mut svg, labels);
        svg.push_str("</svg>");
        svg
    }

    fn axes(
        &self,
        svg: &mut String,
        x: &Scale,
        y: &Scale,
        (low, high): (f64, f64),
        (fg, muted, grid): (&str, &str, &str),
    ) {
        let right = WIDTH - RIGHT;
        for mark in marks(low, high, self.log) {
            let at = y.at(mark);
            write(
                svg,
                format_args!(
                    "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{grid}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{muted}\">{}</text>",
                    LEFT - 8.0,
                    at + 4.5,
                    mark_text(mark)
                ),
            );
        }
        let floor = HEIGHT - BOTTOM;
        for (value, text) in &self.ticks {
            let at = x.at(*value);
            write(
                svg,
                format_args!(
                    "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor}\" y2=\"{}\" stroke=\"{muted}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{muted}\">{}</text>",
                    floor + 4.0,
                    floor + 19.0,
                    escaped(text)
                ),
            );
        }
        write(
            svg,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\" stroke=\"{muted}\"/>\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{fg}\">{}</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"{fg}\">{}</text>",
                f64::midpoint(LEFT, right),
                HEIGHT - 6.0,
                escaped(&self.x),
                LEFT - 8.0,
                TOP - 10.0,
                escaped(&self.unit)
            ),
        );
    }
}

fn draw(svg: &mut String, line: &Line, x: &Scale, y: &Scale, colour: &str, dashed: bool) {
    if line.points.len() > 1 {
        let mut band = String::new();
        for (at, _, _, high) in &line.points {
            write(&mut band, format_args!("{:.1},{:.1} ", x.at(*at), y.at(*high)));
        }
        for (at, _, low, _) in line.points.iter().rev() {
            write(&mut band, format_args!("{:.1},{:.1} ", x.at(*at), y.at(*low)));
        }
        write(
            svg,
            format_args!(
                "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.14\"/>",
                band.trim_end()
            ),
        );
    }
    let mut path = String::new();
    for (at, value, ..) in &line.points {
        write(&mut path, format_args!("{:.1},{:.1} ", x.at(*at), y.at(*value)));
    }
    let dash = if dashed { " stroke-dasharray=\"6 4\"" } else { "" };
    write(
        svg,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\"{dash} \
         stroke-linejoin=\"round\"/>",
            path.trim_end()
        ),
    );
    for (at, value, ..) in &line.points {
        write(
            svg,
            format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                x.at(*at),
                y.at(*value),
                line.route.name(),
                number(*value)
            ),
        );
    }
}

/// Names beside the ends of lines, moved apart where they would meet.
fn name(svg: &mut String, mut labels: Vec<(f64, f64, &'static str, &'static str)>) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut places: Vec<f64> = labels.iter().map(|label| label.0).collect();
    for index in 1..places.len() {
        let above = places.get(index - 1).copied().unwrap_or(0.0);
        if let Some(place) = places.get_mut(index) {
            *place = place.max(above + LABEL_GAP);
        }
    }
    // What went out at the bottom comes back up.
    let mut limit = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - LABEL_GAP;
    }
    let edge = WIDTH - RIGHT + 12.0;
    for ((from, end, text, colour), place) in labels.into_iter().zip(places) {
        write(
            svg,
            format_args!(
                "<path d=\"M{end:.1} {from:.1} L{edge:.1} {place:.1}\" stroke=\"{colour}\" stroke-opacity=\"0.45\" \
             fill=\"none\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-weight=\"600\">{text}</text>",
                edge + 4.0,
                place + 4.5
            ),
        );
    }
}

fn mark_text(mark: f64) -> String {
    match mark {
        it if it >= 1e6 => format!("{}M", it / 1e6),
        it if it >= 1e3 => format!("{}k", it / 1e3),
        it if it >= 1.0 || it == 0.0 => format!("{it}"),
        it => format!("{it:.3}").trim_end_matches('0').to_owned(),
    }
}

fn write(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _: std::fmt::Result = text.write_fmt(what);
}

/// Text inside of XML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_within() {
        assert_eq!(marks(0.0, 10.0, false), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(marks(0.9, 60.0, true), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        let decades = marks(0.5, 1e5, true);
        assert!(decades.iter().all(|it| it.log10().fract().abs() < 1e-9) && decades.len() == 6);
    }

    #[test]
    fn a_plot_is_well_formed_and_names_every_line() {
        let line =
            |route| Line { route, points: vec![(1.0, 5.0, 4.0, 6.0), (100.0, 7.0, 6.0, 9.0)] };
        let plot = Plot {
            name: "a".into(),
            title: "a < b".into(),
            unit: "µs".into(),
            ticks: vec![(1.0, "1".into()), (100.0, "100".into())],
            x: "services".into(),
            log: true,
            lines: vec![line(Route::Direct), line(Route::Nftables), line(Route::EbpfTc)],
        };
        for svg in [plot.inline(), plot.file()] {
            for route in [Route::Direct, Route::Nftables, Route::EbpfTc] {
                assert!(svg.contains(&format!(">{}</text>", route.name())));
            }
            assert!(svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}
