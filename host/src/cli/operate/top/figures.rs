//! The figures above the tables: what all routes together came to, the tiers, and what an operator should look at.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ratatui::style::Style;
use ratatui::text::{Line, Span as Piece};

use super::overview::{Overview, Queue, Span, Tally};
use super::state::State;
use super::view::Theme;
use super::words::{bytes, number, percent, rate, span, within};
use crate::cli::operate::plain;

/// Lines of it.
pub(super) const HEIGHT: u16 = 8;
/// The least that the little chart is worth.
const CHART_MIN: usize = 10;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A failure is worth looking at for so long.
const LATELY_MS: u64 = 60_000;

/// [`HEIGHT`] lines, the most important first.
pub(super) fn figures(
    state: &State,
    it: &Span<'_>,
    theme: &Theme,
    width: u16,
) -> Vec<Line<'static>> {
    let (now, all) = (it.now, it.all());
    let since = match it.before {
        Some(_) => format!("over {:.0} s", it.seconds()),
        None => "since the start".to_owned(),
    };
    let mut requests = line(
        "Requests",
        theme,
        format!("{} /s {since}", rate(all.requests, it.seconds())),
    );
    if let Some(bars) = chart(
        state,
        usize::from(width).saturating_sub(requests.width() + 2),
    ) {
        requests.push_span(Piece::styled(format!("  {bars}"), theme.good));
    }
    let share = |count| percent(count, all.reads());
    let hits = format!(
        "memory {}  redis {}  absent {}",
        share(all.detail("hit", "memory")),
        share(all.detail("hit", "redis")),
        share(all.detail("hit", "missing")),
    );
    let stale = share(all.count("stale")) + &causes(": ", all.answers.get("stale"));
    // A load that failed may have been answered with something stale.
    let failed =
        percent(all.count("failure"), all.requests) + &causes("; loads: ", Some(&all.failures));
    let quantile = |of| within(all.durations.quantile(of));
    let others = format!(
        "50 % {}  95 % {}  99 % {}, not from memory",
        quantile(0.5),
        quantile(0.95),
        quantile(0.99)
    );
    let memory = format!(
        "{} of {}, {} entries; {} loads, {} wait",
        bytes(now.memory.bytes),
        bytes(now.memory.capacity),
        number(now.memory.entries),
        number(now.in_flight.loads),
        number(now.in_flight.waiters)
    );
    let (sentence, style) = attention(now, theme);
    vec![
        requests,
        line("Hits", theme, hits),
        line("Failed", theme, failed),
        line("Stale", theme, stale),
        line("Others", theme, others),
        line("Memory", theme, memory),
        line("Shared", theme, shared(now, &all)),
        Line::from(vec![
            Piece::styled("Look at   ", theme.head),
            Piece::styled(sentence, style),
        ]),
    ]
}

fn line(name: &str, theme: &Theme, text: String) -> Line<'static> {
    Line::from(vec![
        Piece::styled(format!("{name:9} "), theme.head),
        Piece::raw(text),
    ])
}

/// What there was any of, the most frequent first; nothing where there was nothing.
fn causes(begin: &str, counts: Option<&BTreeMap<String, u64>>) -> String {
    let counts = counts.into_iter().flatten();
    let mut counts: Vec<_> = counts.filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| Reverse(**count));
    let said = counts.into_iter().enumerate().map(|(at, (name, count))| {
        let before = if at == 0 { begin } else { ", " };
        format!("{before}{} {}", plain(name), number(*count))
    });
    said.collect()
}

/// Redis and the queue, which nodes may share.
fn shared(now: &Overview, all: &Tally) -> String {
    let redis = match &now.redis {
        None => "no Redis".to_owned(),
        Some(redis) if redis.available => {
            format!("Redis up, {} purges pending", redis.pending_purges)
        }
        Some(redis) => format!("Redis away, {} purges pending", redis.pending_purges),
    };
    let queue = match &now.queue {
        None => "no queue".to_owned(),
        Some(Queue::Unknown { error }) => format!("queue: {}", plain(error)),
        Some(Queue::Depth {
            pending,
            dead,
            max_pending,
        }) => format!(
            "queue {} of {}, {} given up",
            number(*pending),
            number(*max_pending),
            number(*dead)
        ),
    };
    let writes = match all.count("write") {
        0 => String::new(),
        writes => format!("; {} writes", number(writes)),
    };
    format!("{redis}; {queue}{writes}")
}

/// The worst thing there is to look at, in a sentence, and how many others there are.
fn attention(now: &Overview, theme: &Theme) -> (String, Style) {
    let mut found: Vec<(bool, String)> = Vec::new();
    for plugin in &now.plugins {
        if plugin.state != "ready" || plugin.error.is_some() {
            let is_bad = matches!(&*plugin.state, "broken" | "quarantined");
            let why = plugin
                .error
                .as_deref()
                .map_or(String::new(), |why| format!(": {}", plain(why)));
            found.push((
                is_bad,
                format!(
                    "plugin {} is {}{why}",
                    plain(&plugin.name),
                    plain(&plugin.state)
                ),
            ));
        }
    }
    match &now.redis {
        Some(redis) if !redis.available => {
            let why = redis.error.as_deref().unwrap_or("its breaker is open");
            found.push((false, format!("Redis is away: {}", plain(why))));
        }
        _ => {}
    }
    match &now.queue {
        Some(Queue::Unknown { error }) => {
            found.push((true, format!("the queue: {}", plain(error))));
        }
        Some(Queue::Depth { dead, .. }) if *dead > 0 => {
            found.push((false, format!("{} changes were given up", number(*dead))));
        }
        _ => {}
    }
    for route in &now.routes {
        if let Some(last) = &route.last_failure {
            let ago = now.now_ms.saturating_sub(last.at_ms);
            if ago < LATELY_MS {
                let route = plain(&route.route);
                found.push((
                    false,
                    format!("{route} failed {} ago: {}", span(ago), plain(&last.code)),
                ));
            }
        }
    }
    found.sort_by_key(|(is_bad, _)| !is_bad);
    let all = found.len();
    let Some((is_bad, mut sentence)) = found.into_iter().next() else {
        return ("nothing".to_owned(), theme.good);
    };
    if all > 1 {
        sentence = format!("1 of {all}: {sentence}");
    }
    (sentence, if is_bad { theme.bad } else { theme.warn })
}

/// Requests from reading to reading, the last at the right; as high as the busiest.
fn chart(state: &State, width: usize) -> Option<String> {
    let readings: Vec<_> = state.history.iter().collect();
    let rates: Vec<u64> = readings
        .windows(2)
        .map(|pair| {
            let it = Span {
                now: pair[1],
                before: Some(pair[0]),
            };
            let ms = pair[1].now_ms.saturating_sub(pair[0].now_ms).max(1);
            it.all().requests * 1_000_000 / ms
        })
        .collect();
    if width < CHART_MIN || rates.len() < 2 {
        return None;
    }
    let rates = &rates[rates.len().saturating_sub(width)..];
    let most = rates.iter().copied().max().unwrap_or(0).max(1);
    let bar = |rate: &u64| BARS[usize::try_from(rate * 7 / most).unwrap_or(7)];
    Some(rates.iter().map(bar).collect())
}
