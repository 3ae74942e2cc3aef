//! Drawings in SVG: axes, lines, text. Knows coordinates and nothing of what is drawn; colours are classes, so that the
//! page's style decides them for light, dark and paper.

use std::fmt::Write as _;

use super::escape;

/// A drawing's width; the page scales it.
pub(super) const WIDTH: f64 = 860.0;

/// How values are laid onto a length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear {
        from: f64,
        to: f64,
    },
    /// Both ends above 0.
    Log {
        from: f64,
        to: f64,
    },
}

impl Scale {
    /// Where a value lies, 0 to 1. What lies outside is put at the end.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { from, to } => (value - from) / (to - from).max(f64::MIN_POSITIVE),
            Self::Log { from, to } => (value.max(from) / from).log10() / (to / from).log10().max(1e-9),
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// From 0 to a round number that is not below `most`.
    pub(super) fn up_to(most: f64) -> Self {
        let step = step(most.max(1e-9));
        Self::Linear { from: 0.0, to: ((most / step).ceil() * step).max(step) }
    }

    /// Powers of ten and their halves around these two values.
    pub(super) fn decades(least: f64, most: f64) -> Self {
        let least = least.max(1.0);
        let from = 10_f64.powf(least.log10().floor());
        let from =
            [5.0, 2.0, 1.0].into_iter().map(|part| part * from).find(|from| *from <= least).unwrap_or(from);
        let most = most.max(from * 2.0);
        let decade = 10_f64.powf(most.log10().floor());
        let to = [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * decade).find(|to| most <= *to);
        Self::Log { from, to: to.unwrap_or(decade * 10.0) }
    }

    /// Round values to write beside it.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { from, to } => {
                let step = step(to - from);
                let count = ((to - from) / step).round().max(1.0) as u32;
                (0..=count).map(|at| from + f64::from(at) * step).collect()
            }
            Self::Log { from, to } => {
                let parts: &[f64] = if (to / from).log10() < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let mut ticks = Vec::new();
                let mut decade = 10_f64.powf(from.log10().floor());
                while decade <= to * 1.001 {
                    ticks.extend(parts.iter().map(|part| part * decade));
                    decade *= 10.0;
                }
                ticks.retain(|tick| from * 0.999 <= *tick && *tick <= to * 1.001);
                ticks
            }
        }
    }
}

/// A round distance of which four to ten fit.
fn step(length: f64) -> f64 {
    let decade = 10_f64.powf((length / 5.0).max(1e-12).log10().floor());
    let parts = [1.0, 2.0, 5.0, 10.0];
    decade * parts.into_iter().find(|part| length / (decade * part) <= 6.0).unwrap_or(10.0)
}

/// A drawing with two axes.
pub(super) struct Plot {
    svg: String,
    pub(super) x: Scale,
    pub(super) y: Scale,
    height: f64,
}

const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

impl Plot {
    /// An empty one; `told` says to those who cannot see it what it shows.
    pub(super) fn new(told: &str, height: f64, x: Scale, y: Scale) -> Self {
        let svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{told}\"><title>{told}</title>",
            told = escape(told)
        );
        Self { svg, x, y, height }
    }

    pub(super) fn x_at(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn y_at(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.place(value) * (self.height - TOP - BOTTOM)
    }

    /// Writes marks below, at the given values.
    pub(super) fn x_axis(&mut self, name: &str, ticks: &[(f64, String)]) {
        let (top, bottom) = (TOP, self.height - BOTTOM);
        let mut lines = String::new();
        for (value, text) in ticks {
            let x = self.x_at(*value);
            write_to(&mut lines, format_args!("M{x:.1} {top}V{bottom}"));
            self.text(x, bottom + 16.0, "m", text);
        }
        self.path("g", &lines);
        self.text((LEFT + WIDTH - RIGHT) / 2.0, self.height - 8.0, "m n", name);
    }

    /// Writes marks at the left.
    pub(super) fn y_axis(&mut self, name: &str, text_of: impl Fn(f64) -> String) {
        let mut lines = String::new();
        for value in self.y.ticks() {
            let y = self.y_at(value);
            write_to(&mut lines, format_args!("M{LEFT} {y:.1}H{}", WIDTH - RIGHT));
            self.text(LEFT - 7.0, y + 4.0, "e", &text_of(value));
        }
        self.path("g", &lines);
        let (x, y) = (14.0, (TOP + self.height - BOTTOM) / 2.0);
        write_to(
            &mut self.svg,
            format_args!(
                "<text class=\"m n\" transform=\"translate({x} {y:.0})rotate(-90)\">{}</text>",
                escape(name)
            ),
        );
    }

    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        write_to(
            &mut self.svg,
            format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text)),
        );
    }

    pub(super) fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            write_to(&mut self.svg, format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
        }
    }

    /// A line through points, with what it says when it is pointed at.
    pub(super) fn line(&mut self, class: &str, told: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (x, y) in points {
            let verb = if path.is_empty() { 'M' } else { 'L' };
            write_to(&mut path, format_args!("{verb}{:.1} {:.1}", self.x_at(*x), self.y_at(*y)));
        }
        if !path.is_empty() {
            write_to(
                &mut self.svg,
                format_args!("<path class=\"l {class}\" d=\"{path}\"><title>{}</title></path>", escape(told)),
            );
        }
    }

    /// A point, with what it says when it is pointed at.
    pub(super) fn dot(&mut self, class: &str, told: &str, x: f64, y: f64) {
        let (x, y) = (self.x_at(x), self.y_at(y));
        write_to(
            &mut self.svg,
            format_args!(
                "<circle class=\"d {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{}</title></circle>",
                escape(told)
            ),
        );
    }

    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// Appends to a text, which cannot fail.
pub(super) fn write_to(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_keep_to_their_length_and_have_round_marks() {
        let linear = Scale::up_to(11_800.0);
        assert_eq!(linear, Scale::Linear { from: 0.0, to: 12_000.0 });
        assert_eq!(linear.ticks(), [0.0, 2_000.0, 4_000.0, 6_000.0, 8_000.0, 10_000.0, 12_000.0]);
        let log = Scale::decades(300_000.0, 45_000_000.0);
        assert_eq!(log, Scale::Log { from: 200_000.0, to: 50_000_000.0 });
        assert_eq!((log.place(1.0), log.place(1e12)), (0.0, 1.0));
        assert!(log.ticks().len() <= 10, "{:?}", log.ticks());
        for odd in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            for scale in [linear, log, Scale::decades(0.0, 0.0), Scale::up_to(0.0)] {
                assert!((0.0..=1.0).contains(&scale.place(odd)), "{odd} on {scale:?}");
                assert!((1..=20).contains(&scale.ticks().len()), "{scale:?}");
            }
        }
    }

    #[test]
    fn a_drawing_is_well_formed_and_escapes_what_it_is_told() {
        let mut plot = Plot::new("a <plot>", 200.0, Scale::up_to(10.0), Scale::decades(1e3, 1e6));
        plot.x_axis("seconds", &[(0.0, "0".to_owned())]);
        plot.y_axis("time", |value| value.to_string());
        plot.line("s0", "a & b", &[(0.0, 1e3), (10.0, 1e6)]);
        let svg = plot.finish();
        assert!(svg.contains("a &lt;plot&gt;") && svg.contains("a &amp; b") && svg.ends_with("</svg>"));
    }
}
