//! What is looked at, and how: readings, the table in front, the chosen row. Pure: keys and answers come in, nothing goes out.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::overview::{Overview, Span};
use crate::config::Problem;

/// Readings that are kept, for the little chart.
const KEPT: usize = 120;
/// Rates are those of so long.
const OVER_MS: u64 = 10_000;

/// The tables, one of which is in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Routes,
    Plugins,
}

/// Orders of a table; the first is the server's own.
pub(super) const ROUTE_ORDERS: &[&str] = &["configuration", "requests", "failed", "slowness"];
pub(super) const PLUGIN_ORDERS: &[&str] = &["name", "calls", "faults", "memory", "processor"];

/// What a message makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Quit,
}

/// Everything that a frame is made of.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Who is asked.
    pub(super) place: String,
    /// Oldest first.
    pub(super) history: VecDeque<Overview>,
    /// Why there is no newer reading.
    pub(super) trouble: Option<Problem>,
    pub(super) tab: Tab,
    /// The chosen row of each table.
    chosen: [usize; 2],
    /// The order of each table.
    order: [usize; 2],
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
    /// Off where `NO_COLOR` is set.
    pub(super) has_colours: bool,
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(place: &str, has_colours: bool) -> Self {
        Self {
            place: place.to_owned(),
            has_colours,
            ..Self::default()
        }
    }

    /// An answer came, or why none did. What is shown stands still while it is paused.
    pub(super) fn heard(&mut self, heard: Result<Overview, Problem>) {
        if self.is_paused {
            return;
        }
        match heard {
            Err(problem) => self.trouble = Some(problem),
            Ok(now) => {
                self.trouble = None;
                // A server that was started anew counts from zero.
                let last = self.history.back();
                if last.is_some_and(|last| now.uptime_ms < last.uptime_ms) {
                    self.history.clear();
                }
                if self.history.len() == KEPT {
                    self.history.pop_front();
                }
                self.history.push_back(now);
            }
        }
    }

    /// A key was pressed.
    pub(super) fn pressed(&mut self, key: KeyEvent) -> Flow {
        if key.kind == KeyEventKind::Release {
            return Flow::Go;
        }
        let is_control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control_c {
            return Flow::Quit;
        }
        // Any key ends the help.
        if self.shows_help {
            self.shows_help = false;
            return Flow::Go;
        }
        let tab = self.tab as usize;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
                self.tab = match self.tab {
                    Tab::Routes => Tab::Plugins,
                    Tab::Plugins => Tab::Routes,
                }
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.chosen[tab] = self.chosen().saturating_sub(1);
            }
            KeyCode::Down | KeyCode::Char('j') => self.chosen[tab] += 1,
            KeyCode::Home => self.chosen[tab] = 0,
            KeyCode::End => self.chosen[tab] = usize::MAX - 1,
            KeyCode::Char('s') => self.order[tab] = (self.order[tab] + 1) % self.orders().len(),
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            _ => {}
        }
        // No further than the last row there is.
        self.chosen[tab] = self.chosen();
        Flow::Go
    }

    /// The newest reading, and the one before it that rates are made with.
    pub(super) fn span(&self) -> Option<Span<'_>> {
        let now = self.history.back()?;
        let is_within = |before: &&Overview| now.now_ms.saturating_sub(before.now_ms) <= OVER_MS;
        let before = self.history.iter().rev().skip(1);
        Some(Span {
            now,
            before: before
                .take_while(is_within)
                .last()
                .or_else(|| self.history.iter().rev().nth(1)),
        })
    }

    fn orders(&self) -> &'static [&'static str] {
        match self.tab {
            Tab::Routes => ROUTE_ORDERS,
            Tab::Plugins => PLUGIN_ORDERS,
        }
    }

    /// What a table is sorted by.
    pub(super) fn order(&self, tab: Tab) -> &'static str {
        let orders = match tab {
            Tab::Routes => ROUTE_ORDERS,
            Tab::Plugins => PLUGIN_ORDERS,
        };
        orders[self.order[tab as usize]]
    }

    /// The chosen row of the table in front; 0 where it is empty.
    pub(super) fn chosen(&self) -> usize {
        let rows = self.history.back().map_or(0, |now| match self.tab {
            Tab::Routes => now.routes.len(),
            Tab::Plugins => now.plugins.len(),
        });
        self.chosen[self.tab as usize].min(rows.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::overview;
    use super::*;

    fn press(state: &mut State, keys: &[KeyCode]) -> Flow {
        let mut flow = Flow::Go;
        for key in keys {
            flow = state.pressed(KeyEvent::from(*key));
        }
        flow
    }

    fn seconds(state: &State) -> f64 {
        state.span().unwrap().seconds()
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut state = State::new("", false);
        assert!(state.span().is_none());
        state.heard(Ok(overview(0)));
        assert_eq!(seconds(&state), 200.0, "since the start");
        for second in 1..=30 {
            state.heard(Ok(overview(second)));
            assert_eq!(
                seconds(&state),
                f64::from(u32::try_from(second.min(10)).unwrap())
            );
        }
        // Longer ago than that is better than nothing.
        state.heard(Ok(overview(90)));
        assert_eq!(seconds(&state), 60.0);
    }

    #[test]
    fn a_server_that_was_started_anew_counts_from_zero() {
        let mut state = State::new("", false);
        state.heard(Ok(overview(10)));
        let mut anew = overview(11);
        anew.uptime_ms = 500;
        state.heard(Ok(anew));
        assert_eq!((state.history.len(), seconds(&state)), (1, 0.5));
    }

    #[test]
    fn readings_are_bounded_and_stand_still_while_it_is_paused() {
        let mut state = State::new("", false);
        for second in 0..200 {
            state.heard(Ok(overview(second)));
        }
        assert_eq!(state.history.len(), KEPT);
        press(&mut state, &[KeyCode::Char('p')]);
        state.heard(Ok(overview(300)));
        state.heard(Err(Problem::error("gone")));
        assert_eq!(state.history.back().unwrap().now_ms, overview(199).now_ms);
        assert!(state.trouble.is_none());
        press(&mut state, &[KeyCode::Char('p')]);
        state.heard(Err(Problem::error("gone")));
        assert!(state.trouble.is_some() && !state.history.is_empty());
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut state = State::new("", false);
        state.heard(Ok(overview(1)));
        press(&mut state, &[KeyCode::Down, KeyCode::Down, KeyCode::Down]);
        assert_eq!(state.chosen(), 1, "the last of two");
        press(&mut state, &[KeyCode::Up]);
        assert_eq!(state.chosen(), 0, "one key, one row");
        press(&mut state, &[KeyCode::End, KeyCode::Tab]);
        assert_eq!((state.tab, state.chosen()), (Tab::Plugins, 0));
        press(&mut state, &[KeyCode::Char('s')]);
        assert_eq!(
            (state.order(Tab::Plugins), state.order(Tab::Routes)),
            ("calls", "configuration")
        );
        press(&mut state, &[KeyCode::Char('s'); 4]);
        assert_eq!(state.order(Tab::Plugins), "name", "round");
        assert_eq!(
            press(&mut state, &[KeyCode::Char('?'), KeyCode::Esc]),
            Flow::Go
        );
        assert!(!state.shows_help);
        assert_eq!(press(&mut state, &[KeyCode::Esc]), Flow::Quit);
        assert_eq!(press(&mut state, &[KeyCode::Char('q')]), Flow::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state.pressed(control_c), Flow::Quit);
    }
}
