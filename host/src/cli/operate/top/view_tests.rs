//! What is on the screen, whole: at the size of a terminal, and at that of a corner of one.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::style::Color;

use super::*;
use crate::cli::operate::top::testing::{answer, overview};
use crate::config::Problem;

fn drawn(state: &State, width: u16, height: u16) -> TestBackend {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| view(state, frame));
    terminal.backend().clone()
}

fn watched(keys: &[KeyCode]) -> State {
    let mut state = State::new("http://127.0.0.1:8081", false);
    for second in [0, 1, 3, 6, 8, 10] {
        state.heard(Ok(overview(second)));
    }
    for key in keys {
        state.pressed(KeyEvent::from(*key));
    }
    state
}

#[test]
fn routes_in_a_terminal() {
    insta::assert_snapshot!(drawn(&watched(&[]), 80, 24));
}

#[test]
fn routes_in_a_corner() {
    insta::assert_snapshot!(drawn(&watched(&[]), 40, 15));
}

#[test]
fn plugins_in_a_terminal() {
    let state = watched(&[KeyCode::Tab, KeyCode::Down]);
    insta::assert_snapshot!(drawn(&state, 80, 24));
}

#[test]
fn plugins_in_a_corner() {
    insta::assert_snapshot!(drawn(&watched(&[KeyCode::Tab]), 40, 15));
}

#[test]
fn the_keys_over_it() {
    insta::assert_snapshot!(drawn(&watched(&[KeyCode::Char('?')]), 80, 24));
}

#[test]
fn a_server_that_is_not_there_yet() {
    let mut state = State::new("http://127.0.0.1:8081", false);
    state.heard(Err(Problem::error(
        "http://127.0.0.1:8081 does not answer: refused",
    )
    .remedy("start the server")));
    insta::assert_snapshot!(drawn(&state, 80, 24));
}

#[test]
fn a_server_that_went_away_and_what_was_last_known() {
    let mut state = watched(&[KeyCode::Char('s')]);
    state.heard(Err(Problem::error(
        "http://127.0.0.1:8081 does not answer: refused",
    )));
    insta::assert_snapshot!(drawn(&state, 80, 24));
}

#[test]
fn no_size_is_too_small_and_no_table_too_long() {
    let mut long = answer(10);
    let route = long["routes"][0].clone();
    for _ in 0..100 {
        long["routes"].as_array_mut().unwrap().push(route.clone());
    }
    let mut state = watched(&[]);
    state.heard(Overview::read(&long));
    state.pressed(KeyEvent::from(KeyCode::End));
    for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 9), (400, 100)] {
        drawn(&state, width, height);
    }
    let screen = drawn(&state, 80, 24).to_string();
    assert_eq!(
        screen.matches("/data/{key}").count(),
        10,
        "rows, and the sentence of the last: {screen}"
    );
}

#[test]
fn colours_are_there_unless_they_are_not_wanted() {
    let coloured = |state: &State| {
        let backend = drawn(state, 80, 24);
        let cells = backend.buffer().content.iter();
        cells
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    let mut state = watched(&[KeyCode::Tab]);
    assert_eq!(coloured(&state), 0);
    state.has_colours = true;
    assert!(coloured(&state) > 0);
}
