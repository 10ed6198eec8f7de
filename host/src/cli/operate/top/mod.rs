//! `larder top`: the dashboard in a terminal. Asks the admin listener again and again, and shows what it answers.
//!
//! # Layout
//! - this file: the command; who brings messages, and the loop that they end in.
//! - [`overview`]: what was answered, and what lies between two answers.
//! - [`state`]: what is looked at, and how; what a key does.
//! - [`view`], [`figures`], [`tables`], [`words`]: a state as a frame.

mod figures;
mod overview;
mod state;
mod tables;
#[cfg(test)]
mod testing;
mod view;
mod words;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::{DefaultTerminal, Terminal};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Asking;
use super::client::Client;
use crate::config::Problem;
use overview::Overview;
use state::{Flow, State};

/// An answer that takes longer than this is none: one asks again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that wait to be looked at; who brings one more waits.
const MESSAGES_MAX: usize = 64;
/// Of a page that goes to no terminal.
const PAGE_WIDTH: u16 = 120;

/// `larder top`
#[derive(Debug, Args)]
pub(in crate::cli) struct Top {
    /// How often to ask, e.g. 500ms.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print what is now as text, every row of it, and end. Needs no terminal. Rates are those since the start.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    asking: Asking,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) {
        return Err("write 100ms or more: each time is a request to the server".to_owned());
    }
    Ok(interval)
}

/// What the loop is told.
enum Message {
    Heard(Result<Overview, Problem>),
    Pressed(KeyEvent),
    /// The window has another size: it is drawn anew.
    Resized,
    /// Told to end, by this signal.
    Signalled(SignalKind),
}

pub(in crate::cli) fn run(arguments: &Top) -> ExitCode {
    if arguments.once || arguments.asking.json {
        return arguments.asking.ask(
            async |client| {
                let answer = client.get("/overview").await?;
                Overview::read(&answer)?;
                Ok(answer)
            },
            said,
        );
    }
    let ended = watch(arguments);
    ended.unwrap_or_else(|problem| {
        crate::cli::complain([problem]);
        ExitCode::FAILURE
    })
}

/// One reading as text.
fn said(answer: &Value) -> String {
    let mut state = State::new("", false);
    state.heard(Overview::read(answer));
    let Ok(mut terminal) = Terminal::new(TestBackend::new(PAGE_WIDTH, view::page_height(&state)));
    let Ok(_) = terminal.draw(|frame| view::page(&state, frame));
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in buffer.content.chunks(usize::from(PAGE_WIDTH)) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn watch(arguments: &Top) -> Result<ExitCode, Problem> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let problem = Problem::error("this is no terminal, so nothing can be drawn in it");
        return Err(problem.remedy("print what is now with --once, or with --json for a script"));
    }
    let client = arguments.asking.place.client()?;
    let cannot = |what: &str, error: &io::Error| Problem::error(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| cannot("the runtime cannot be started", &error))?;
    let state = State::new(client.place(), has_colours());
    let (sender, messages) = mpsc::channel(MESSAGES_MAX);
    let ended = runtime.block_on(async {
        listen(&sender).map_err(|error| cannot("signals cannot be heard", &error))?;
        tokio::spawn(ask(client, arguments.interval, sender.clone()));
        // From here on the terminal is ours, and given back whatever happens: at the end of this scope, and by a hook when
        // something panics.
        let mut screen =
            Screen::open().map_err(|error| cannot("the terminal cannot be used", &error))?;
        std::thread::spawn(move || read_keys(&sender));
        show(&mut screen.0, state, messages)
            .await
            .map_err(|error| cannot("the terminal cannot be drawn in", &error))
    });
    // The thread that waits for keys ends with the process.
    runtime.shutdown_background();
    ended
}

/// <https://no-color.org>: set, and not empty.
fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The terminal while it is ours.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        ratatui::try_init()
            .map(Self)
            .inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// The loop: a message, a state, a frame. Ends with what the process exits with.
async fn show(
    terminal: &mut DefaultTerminal,
    mut state: State,
    mut messages: mpsc::Receiver<Message>,
) -> io::Result<ExitCode> {
    loop {
        terminal.draw(|frame| view::view(&state, frame))?;
        match messages.recv().await {
            Some(Message::Heard(heard)) => state.heard(heard),
            Some(Message::Pressed(key)) => {
                if state.pressed(key) == Flow::Quit {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some(Message::Resized) => terminal.autoresize()?,
            // As a shell says of who was ended by a signal.
            Some(Message::Signalled(kind)) => {
                let code = u8::try_from(kind.as_raw_value()).unwrap_or(0);
                return Ok(ExitCode::from(128 + code));
            }
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Asks, again and again. A server that is gone is asked again like any other.
async fn ask(client: Client, interval: Duration, to: mpsc::Sender<Message>) {
    let mut every = tokio::time::interval(interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let asked = tokio::time::timeout(PATIENCE, client.get("/overview")).await;
        let heard = match asked {
            Err(_) => Err(Problem::error(format!(
                "{} did not answer within {PATIENCE:?}",
                client.place()
            ))),
            Ok(answer) => answer.and_then(|answer| Overview::read(&answer)),
        };
        if to.send(Message::Heard(heard)).await.is_err() {
            return;
        }
    }
}

/// Keys and sizes, on a thread of its own: the terminal is read blocking.
fn read_keys(to: &mpsc::Sender<Message>) {
    while let Ok(event) = event::read() {
        let message = match event {
            Event::Key(key) => Message::Pressed(key),
            Event::Resize(..) => Message::Resized,
            _ => continue,
        };
        if to.blocking_send(message).is_err() {
            return;
        }
    }
}

/// The signals that end a program, so that it can give the terminal back first.
fn listen(to: &mpsc::Sender<Message>) -> io::Result<()> {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ] {
        let (mut signals, to) = (signal(kind)?, to.clone());
        tokio::spawn(async move {
            signals.recv().await;
            let _ = to.send(Message::Signalled(kind)).await;
        });
    }
    Ok(())
}
