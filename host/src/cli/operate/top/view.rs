//! A state as a frame: pure. Top to bottom: who is asked, figures, one table, more of its chosen row, keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::figures::{self, figures};
use super::overview::Overview;
use super::state::{State, Tab};
use super::tables::{self, Rows};
use super::words;
use crate::cli::operate::plain;

/// Lines that say more of the chosen row.
const MORE: u16 = 3;
/// The least that a table is worth showing with: its head and two rows.
const TABLE_MIN: u16 = 4;

const KEYS: &[(&str, &str)] = &[
    ("q, Esc", "quit"),
    ("Tab, ← →", "the other table"),
    (
        "↑ ↓, Home, End",
        "choose a row: what is below says more of it",
    ),
    ("s", "sort by something else"),
    ("p", "pause: what is shown stands still"),
    ("?", "this"),
];

/// How things are marked. Without colours they are in words all the same.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    pub(super) good: Style,
    pub(super) warn: Style,
    pub(super) bad: Style,
    pub(super) soft: Style,
    pub(super) head: Style,
}

impl Theme {
    fn of(state: &State) -> Self {
        let plain = Style::new();
        let coloured = |colour| match state.has_colours {
            true => plain.fg(colour),
            false => plain,
        };
        Self {
            good: coloured(Color::Green),
            warn: coloured(Color::Yellow),
            bad: coloured(Color::Red).add_modifier(Modifier::BOLD),
            soft: coloured(Color::DarkGray),
            head: plain.add_modifier(Modifier::BOLD),
        }
    }
}

/// The whole screen.
pub(super) fn view(state: &State, frame: &mut Frame<'_>) {
    let theme = Theme::of(state);
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(header(state, &theme, top.width), top);
    body(state, &theme, frame, middle);
    frame.render_widget(footer(state, &theme), bottom);
    if state.shows_help {
        help(frame);
    }
}

/// One reading as text, every row of both tables: for who is no terminal.
pub(super) fn page(state: &State, frame: &mut Frame<'_>) {
    let theme = Theme::of(state);
    let mut lines = vec![header(state, &theme, frame.area().width)];
    let Some(span) = state.span() else {
        return;
    };
    lines.extend(figures(state, &span, &theme, frame.area().width));
    let heights = [Tab::Routes, Tab::Plugins].map(|tab| Rows::of(state, &span, tab).height() + 1);
    let mut rest = frame.area();
    for line in lines {
        frame.render_widget(line, Rect { height: 1, ..rest });
        rest = below(rest, 1);
    }
    for (tab, height) in [Tab::Routes, Tab::Plugins].into_iter().zip(heights) {
        rest = below(rest, 1);
        let area = Rect {
            height: height.min(rest.height),
            ..rest
        };
        tables::table(&Rows::of(state, &span, tab), None, &theme, frame, area);
        rest = below(rest, height - 1);
    }
}

/// How many lines [`page`] has.
pub(super) fn page_height(state: &State) -> u16 {
    let Some(span) = state.span() else {
        return 0;
    };
    let tables = [Tab::Routes, Tab::Plugins].map(|tab| Rows::of(state, &span, tab).height() + 1);
    1 + figures::HEIGHT + tables.iter().sum::<u16>()
}

fn below(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect {
        y: area.y + lines,
        height: area.height - lines,
        ..area
    }
}

fn header(state: &State, theme: &Theme, width: u16) -> Line<'static> {
    let mut line = Line::default();
    match state.history.back() {
        None => line.push_span(Span::styled("larder", theme.head)),
        Some(now) => {
            line.push_span(Span::styled(
                format!("larder {}", plain(&now.version)),
                theme.head,
            ));
            line.push_span("  ");
            line.push_span(condition(now, theme));
            line.push_span(format!(", up {}", words::span(now.uptime_ms)));
        }
    }
    if state.is_paused {
        line.push_span(Span::styled("  paused", theme.warn));
    }
    // To the right, where there is room.
    let room = usize::from(width).saturating_sub(line.width());
    if room > state.place.len() + 2 {
        line.push_span(Span::styled(format!("{:>room$}", state.place), theme.soft));
    }
    line
}

fn condition(now: &Overview, theme: &Theme) -> Span<'static> {
    if now.draining {
        Span::styled("draining", theme.warn)
    } else if now.starting {
        Span::styled("starting", theme.warn)
    } else {
        Span::styled("serving", theme.good)
    }
}

fn body(state: &State, theme: &Theme, frame: &mut Frame<'_>, area: Rect) {
    let Some(span) = state.span() else {
        let text = match &state.trouble {
            None => format!("asking {}", state.place),
            Some(problem) => problem.to_string(),
        };
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), area);
        return;
    };
    // On a small screen the figures give way to the table: the last of them first.
    let room = area.height.saturating_sub(TABLE_MIN + MORE + 1);
    let [above, tabs, table, more] = Layout::vertical([
        Constraint::Length(figures::HEIGHT.min(room)),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(MORE),
    ])
    .areas(area);
    let lines = figures(state, &span, theme, area.width);
    frame.render_widget(Paragraph::new(lines), above);
    frame.render_widget(tab_line(state, theme, tabs.width), tabs);
    let rows = Rows::of(state, &span, state.tab);
    let said = Paragraph::new(tables::more(&rows, state, theme)).wrap(Wrap { trim: false });
    tables::table(&rows, Some(state.chosen()), theme, frame, table);
    frame.render_widget(said, more);
}

fn tab_line(state: &State, theme: &Theme, width: u16) -> Line<'static> {
    let mut line = Line::default();
    for (tab, name) in [(Tab::Routes, " Routes "), (Tab::Plugins, " Plugins ")] {
        let style = match tab == state.tab {
            true => theme.head.add_modifier(Modifier::REVERSED),
            false => theme.soft,
        };
        line.push_span(Span::styled(name, style));
        line.push_span(" ");
    }
    let order = format!("by {}", state.order(state.tab));
    let room = usize::from(width).saturating_sub(line.width());
    line.push_span(Span::styled(format!("{order:>room$}"), theme.soft));
    line
}

/// The keys; or that the server is gone, which is more important.
fn footer(state: &State, theme: &Theme) -> Line<'static> {
    match &state.trouble {
        Some(problem) if !state.history.is_empty() => {
            let text = format!("{}; asking again", plain(&problem.message));
            Line::styled(text, theme.bad)
        }
        _ => Line::styled(
            "q quit  Tab table  ↑↓ choose  s sort  p pause  ? help",
            theme.soft,
        ),
    }
}

fn help(frame: &mut Frame<'_>) {
    let lines = KEYS.iter().map(|(keys, what)| format!("{keys:15} {what}"));
    let text: Vec<Line<'_>> = lines.map(Line::from).collect();
    let height = u16::try_from(text.len()).unwrap_or(u16::MAX) + 2;
    let area = frame
        .area()
        .centered(Constraint::Max(62), Constraint::Max(height));
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(text).block(Block::bordered().title(" Keys ")),
        area,
    );
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
