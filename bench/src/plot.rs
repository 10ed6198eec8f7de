//! Figures as horizontal bars: a picture in SVG that is read on light and on dark. Pure; must not know what the figures
//! are of.

use std::fmt::Write;

use crate::report::thousands;

/// The bars of one colour: of each, what it is of and how long it is.
pub(crate) struct Bars {
    pub(crate) name: String,
    pub(crate) bars: Vec<(String, f64)>,
}

/// Readable on white and on black, and told apart by those who see no red or no green.
const COLOURS: [&str; 4] = ["#3b82c4", "#d98218", "#7a9a2e", "#a06bb5"];

const WIDTH: usize = 860;
/// Where bars begin: to the left of it is what they are of.
const LEFT: usize = 330;
/// Room for a figure behind the longest bar.
const RIGHT: usize = 80;
const TOP: usize = 64;
const BAR: usize = 12;
/// Between what belongs to one and what belongs to the next.
const GAP: usize = 10;

/// A row for each name in the order in which names first appear, and in it a bar of each group that has one.
pub(crate) fn svg(title: &str, groups: &[Bars]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in groups.iter().flat_map(|group| &group.bars) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let values = groups.iter().flat_map(|group| &group.bars);
    let longest = values.map(|(_, value)| *value).fold(1.0, f64::max);
    let row = groups.len() * BAR + GAP;
    let height = TOP + names.len() * row + GAP;

    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <style>text {{ fill: #24292f }} @media (prefers-color-scheme: dark) {{ text {{ fill: #d8dee4 }} }}</style>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"600\">{title}</text>\n",
        title = escape(title)
    );
    for (at, group) in groups.iter().enumerate() {
        let (x, colour) = (LEFT + at * 140, colour(at));
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"38\" width=\"{BAR}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"48\">{}</text>",
            x + BAR + 6,
            escape(&group.name)
        );
    }
    for (at, name) in names.into_iter().enumerate() {
        let top = TOP + at * row;
        let middle = top + groups.len() * BAR / 2 + 4;
        let x = LEFT - 8;
        let name_shown = escape(name);
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{middle}\" text-anchor=\"end\">{name_shown}</text>"
        );
        for (at, group) in groups.iter().enumerate() {
            let Some((_, value)) = group.bars.iter().find(|(of, _)| of == name) else {
                continue;
            };
            let (y, colour) = (top + at * BAR, colour(at));
            let width = value / longest * (WIDTH - LEFT - RIGHT) as f64;
            let _ = writeln!(
                text,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{}</text>",
                BAR - 1,
                LEFT as f64 + width + 5.0,
                y + BAR - 3,
                thousands(Some(*value))
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> String {
        let group = |name: &str, bars: &[(&str, f64)]| Bars {
            name: name.to_owned(),
            bars: bars
                .iter()
                .map(|(of, value)| ((*of).to_owned(), *value))
                .collect(),
        };
        let small = group("300 bytes", &[("fast & bare", 1_000.0), ("slow", 250.0)]);
        let large = group("16,384 bytes", &[("slow", 125.0)]);
        svg("Requests per CPU-second", &[small, large])
    }

    #[test]
    fn a_bar_is_as_long_as_its_figure() {
        let text = drawn();
        let widths: Vec<&str> = text
            .match_indices(&format!("<rect x=\"{LEFT}\""))
            .filter_map(|(at, _)| text[at..].split("width=\"").nth(1)?.split('"').next())
            .filter(|width| width.contains('.'))
            .collect();
        assert_eq!(widths, ["450.0", "112.5", "56.2"]);
        assert!(
            text.contains(">1,000</text>") && text.contains(">125</text>"),
            "{text}"
        );
    }

    #[test]
    fn everyone_has_one_row_and_names_are_escaped() {
        let text = drawn();
        assert_eq!(text.matches("text-anchor=\"end\"").count(), 2);
        assert!(text.contains("fast &amp; bare") && !text.contains("fast & bare"));
    }

    #[test]
    fn what_is_drawn_is_as_high_as_what_is_in_it() {
        let text = drawn();
        let height = TOP + 2 * (2 * BAR + GAP) + GAP;
        assert!(text.starts_with(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {height}\""
        )));
        assert!(text.ends_with("</svg>\n"));
    }
}
