//! The tables: routes and plugins, in the order that was asked for, in as many columns as there is room for.

use ratatui::Frame;
use ratatui::layout::HorizontalAlignment::{self, Left, Right};
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Row, Table, TableState};

use super::overview::{Account, Overview, Plugin, Route, Span, Tally};
use super::state::{State, Tab};
use super::view::Theme;
use super::words::{bytes, number, percent, rate, span, within};
use crate::cli::operate::plain;

/// The least of the first column, which gets what the others leave.
const NAME_MIN: u16 = 14;
/// Of a digest, as much as tells two apart.
const DIGEST_SHOWN: usize = 12;

/// A title, its width and its side, the most important first: those for which there is no room are left out.
type Column = (&'static str, u16, HorizontalAlignment);

const ROUTE_COLUMNS: &[Column] = &[
    ("REQ/S", 8, Right),
    ("HITS", 7, Right),
    ("FAILED", 7, Right),
    ("99 %", 9, Right),
    ("STALE", 7, Right),
    ("95 %", 9, Right),
    ("50 %", 9, Right),
    ("LOADERS", 20, Left),
];
const PLUGIN_COLUMNS: &[Column] = &[
    ("STATE", 11, Left),
    ("CALLS", 8, Right),
    ("99 %", 9, Right),
    ("MEMORY", 9, Right),
    ("CPU", 7, Right),
    ("VERSION", 8, Left),
    ("BREAKER", 7, Left),
    ("FAULTS", 7, Right),
    ("INSTANCES", 9, Right),
    ("DIGEST", 12, Left),
];

/// A table: what it says in each row, and of what.
pub(super) struct Rows<'a> {
    title: &'static str,
    columns: &'static [Column],
    rows: Vec<(Of<'a>, Vec<String>)>,
}

/// Of what a row is.
enum Of<'a> {
    Route(&'a Route),
    Plugin(&'a Plugin),
}

impl<'a> Rows<'a> {
    /// Sorted as it was asked for; equals stay in the server's order.
    pub(super) fn of(state: &State, it: &Span<'a>, tab: Tab) -> Self {
        match tab {
            Tab::Routes => routes(it, state.order(tab)),
            Tab::Plugins => plugins(it, state.order(tab)),
        }
    }

    /// Its lines, with its head.
    pub(super) fn height(&self) -> u16 {
        u16::try_from(self.rows.len()).unwrap_or(u16::MAX - 1) + 1
    }
}

fn routes<'a>(it: &Span<'a>, order: &str) -> Rows<'a> {
    let mut found: Vec<(&Route, Tally)> = it
        .now
        .routes
        .iter()
        .map(|route| (route, it.of(route)))
        .collect();
    found.sort_by(|(_, a), (_, b)| match order {
        "requests" => b.requests.cmp(&a.requests),
        "failed" => b.count("failure").cmp(&a.count("failure")),
        "slowness" => {
            let slowness = |tally: &Tally| tally.durations.quantile(0.99).unwrap_or(0.0);
            slowness(b).total_cmp(&slowness(a))
        }
        _ => std::cmp::Ordering::Equal,
    });
    let row = |(route, tally): (&'a Route, Tally)| {
        let quantile = |of| within(tally.durations.quantile(of));
        let cells = vec![
            plain(&route.route),
            rate(tally.requests, it.seconds()),
            percent(tally.count("hit"), tally.reads()),
            percent(tally.count("failure"), tally.requests),
            quantile(0.99),
            percent(tally.count("stale"), tally.reads()),
            quantile(0.95),
            quantile(0.5),
            plain(&route.loaders.join(", ")),
        ];
        (Of::Route(route), cells)
    };
    Rows {
        title: "ROUTE",
        columns: ROUTE_COLUMNS,
        rows: found.into_iter().map(row).collect(),
    }
}

fn plugins<'a>(it: &Span<'a>, order: &str) -> Rows<'a> {
    let mut found: Vec<&Plugin> = it.now.plugins.iter().collect();
    let by = |plugin: &Plugin, of: fn(&Account) -> u64| plugin.account.as_ref().map(of);
    found.sort_by(|a, b| match order {
        "calls" => by(b, |it| it.calls).cmp(&by(a, |it| it.calls)),
        "faults" => by(b, |it| it.faults).cmp(&by(a, |it| it.faults)),
        "memory" => by(b, |it| it.memory_peak).cmp(&by(a, |it| it.memory_peak)),
        "processor" => {
            let share = |plugin| it.processor(plugin).unwrap_or(-1.0);
            share(b).total_cmp(&share(a))
        }
        _ => std::cmp::Ordering::Equal,
    });
    let row = |plugin: &'a Plugin| {
        let of =
            |say: &dyn Fn(&Account) -> String| plugin.account.as_ref().map_or("-".to_owned(), say);
        let text = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), plain);
        let cells = vec![
            plain(&plugin.name),
            plain(&plugin.state),
            of(&|it| number(it.calls)),
            of(&|it| within(it.durations.quantile(0.99))),
            of(&|it| bytes(it.memory_peak)),
            it.processor(plugin)
                .map_or("-".to_owned(), |share| format!("{share:.1} %")),
            text(&plugin.version),
            of(&|it| plain(&it.breaker)),
            of(&|it| number(it.faults)),
            of(&|it| format!("{} of {}", it.alive, it.instances)),
            text(&plugin.digest).chars().take(DIGEST_SHOWN).collect(),
        ];
        (Of::Plugin(plugin), cells)
    };
    Rows {
        title: "PLUGIN",
        columns: PLUGIN_COLUMNS,
        rows: found.into_iter().map(row).collect(),
    }
}

/// Draws it; with a row marked, if one is chosen.
pub(super) fn table(
    rows: &Rows<'_>,
    chosen: Option<usize>,
    theme: &Theme,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let mut room = area.width.saturating_sub(NAME_MIN);
    let fits = |(_, width, _): &&Column| {
        let fits = room > *width;
        room = room.saturating_sub(*width + 1);
        fits
    };
    let columns: Vec<&Column> = rows.columns.iter().take_while(fits).collect();
    let mut widths = vec![Constraint::Fill(1)];
    widths.extend(
        columns
            .iter()
            .map(|(_, width, _)| Constraint::Length(*width)),
    );
    let sides: Vec<HorizontalAlignment> = std::iter::once(Left)
        .chain(columns.iter().map(|(_, _, side)| *side))
        .collect();
    // As many cells as there are sides.
    let row = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&sides);
        let cells = cells.map(|(cell, side)| Text::raw(cell.to_owned()).alignment(*side));
        Row::new(cells.collect::<Vec<_>>())
    };
    let titles = columns.iter().map(|(title, _, _)| *title);
    let head = row(&mut std::iter::once(rows.title).chain(titles)).style(theme.head);
    let body = rows
        .rows
        .iter()
        .map(|(of, cells)| row(&mut cells.iter().map(String::as_str)).style(style(of, theme)));
    let table = Table::new(body, widths)
        .header(head)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

fn style(of: &Of<'_>, theme: &Theme) -> Style {
    match of {
        Of::Route(_) => Style::new(),
        Of::Plugin(plugin) => match &*plugin.state {
            "broken" | "quarantined" => theme.bad,
            "ready" if plugin.error.is_none() => Style::new(),
            _ => theme.warn,
        },
    }
}

/// More of the chosen row, in sentences.
pub(super) fn more(rows: &Rows<'_>, state: &State, theme: &Theme) -> Vec<Line<'static>> {
    match (rows.rows.get(state.chosen()), state.history.back()) {
        (Some((Of::Route(route), _)), Some(now)) => more_of_route(route, now, theme),
        (Some((Of::Plugin(plugin), _)), _) => more_of_plugin(plugin, theme),
        _ => vec![Line::styled("there is none", theme.soft)],
    }
}

fn more_of_route(route: &Route, now: &Overview, theme: &Theme) -> Vec<Line<'static>> {
    let loaders = format!(
        "{} asks {}",
        plain(&route.route),
        plain(&route.loaders.join(", then "))
    );
    let failed = match &route.last_failure {
        None => Line::styled("no load failed since the start", theme.good),
        Some(last) => {
            let causes: Vec<String> = route
                .failures
                .iter()
                .map(|(code, count)| format!("{} {}", plain(code), number(*count)))
                .collect();
            let ago = span(now.now_ms.saturating_sub(last.at_ms));
            let text = format!(
                "failed since the start: {}; {ago} ago: {}",
                causes.join(", "),
                plain(&last.message)
            );
            Line::styled(text, theme.warn)
        }
    };
    vec![Line::raw(loaders), failed]
}

fn more_of_plugin(plugin: &Plugin, theme: &Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(it) = &plugin.account {
        lines.push(Line::raw(format!(
            "{} of {} calls failed, {} trapped or passed a limit; {} alive, {} at most; {} of {}; {}",
            number(it.failures),
            number(it.calls),
            number(it.faults),
            it.alive,
            it.instances,
            bytes(it.memory_peak),
            bytes(it.memory_limit),
            plugin.digest.as_deref().unwrap_or("-").chars().take(DIGEST_SHOWN).collect::<String>(),
        )));
    }
    match (
        &plugin.error,
        plugin.account.as_ref().and_then(|it| it.log.last()),
    ) {
        (Some(error), _) => lines.push(Line::styled(plain(error), theme.bad)),
        (None, Some(last)) => lines.push(Line::styled(
            format!("{}: {}", plain(&last.level), plain(&last.message)),
            theme.soft,
        )),
        (None, None) => {}
    }
    lines
}
