//! Owns `gyre top`: the state of a tracker in a terminal, read from its admin listener.
//!
//! `model` turns readings into what is shown, and `view` draws it. Both know no terminal and no network. Separate
//! threads query the tracker (`source`), so that keys work however slow the tracker is.

mod clients;
mod model;
mod source;
mod view;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::{DefaultTerminal, Terminal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use model::{Model, Update};
use source::Source;
pub use source::Target;
use view::View;

/// Interval at which keys and signals are checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of updates in the queue.
const UPDATES_MAX: usize = 16;
/// Columns of a frame without a terminal. Info-hashes are not shortened.
const ONCE_COLUMNS: u16 = 132;

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There is no answer.
    #[error(
        "{target} does not answer: {why}; check that the tracker is running and that its --admin address is right"
    )]
    NoAnswer {
        /// The admin listener.
        target: Target,
        /// The reason.
        why: String,
    },
    /// The answer is not from an admin listener.
    #[error("{target} does not answer like an admin listener of this version of gyre: {why}")]
    WrongAnswer {
        /// The address.
        target: Target,
        /// What is wrong with the answer.
        why: String,
    },
    /// The terminal can't be used, or was closed.
    #[error("can't use the terminal: {0}; use --once to write one frame without a terminal")]
    Terminal(#[from] io::Error),
}

impl TopError {
    /// Returns the reason, without the target.
    fn why(self) -> String {
        match self {
            Self::NoAnswer { why, .. } | Self::WrongAnswer { why, .. } => why,
            Self::Terminal(error) => error.to_string(),
        }
    }
}

/// Shows a tracker in the terminal until the user quits. The tracker is queried once in each interval.
///
/// # Errors
///
/// [`TopError`], if the first query fails or there is no terminal. Later failures are shown and retried.
pub fn run(target: &Target, interval: Duration, color: bool) -> Result<(), TopError> {
    let source = Source::new(target);
    let mut model = Model::new(&target.to_string());
    model.apply(source.stats()?);
    let (sender, updates) = sync_channel(UPDATES_MAX);
    source.watch(interval, &sender)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut screen = Screen::open()?;
    let shown = show(&mut screen.0, model, View::new(color), &updates, &stop);
    drop(screen); // the terminal must be restored before an error is written
    Ok(shown?)
}

/// Returns one frame as text, with the rates of one interval.
///
/// # Errors
///
/// [`TopError`], if a query fails.
pub fn once(target: &Target, interval: Duration) -> Result<String, TopError> {
    let source = Source::new(target);
    let mut model = Model::new(&target.to_string());
    model.apply(source.stats()?);
    thread::sleep(interval);
    // A tracker that is too busy for these queries still has statistics.
    [source.swarms(), source.clients()].into_iter().flatten().for_each(|updates| model.apply(updates));
    model.apply(source.stats()?);
    let mut view = View::new(false);
    view.keys = false;
    let backend = TestBackend::new(ONCE_COLUMNS, view::full_height(&model));
    let mut terminal = Terminal::new(backend).map_err(io::Error::other)?;
    let frame = terminal.draw(|frame| view::draw(frame, &model, &mut view)).map_err(io::Error::other)?;
    Ok(to_text(frame.buffer))
}

/// Returns the rows of a screen, without trailing spaces and trailing empty rows.
fn to_text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(buffer.area.width.max(1).into());
    let rows: Vec<String> = rows.map(|row| row.iter().map(Cell::symbol).collect()).collect();
    let text = rows.iter().map(|row| row.trim_end()).collect::<Vec<_>>().join("\n");
    text.trim_end().to_owned() + "\n"
}

/// Draws updates and handles keys, until a key or a signal stops it.
fn show(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    mut view: View,
    updates: &Receiver<Update>,
    stop: &AtomicBool,
) -> io::Result<()> {
    // What is shown during a pause. Readings go on meanwhile.
    let mut frozen: Option<Model> = None;
    let mut changed = true;
    while !stop.load(Ordering::Acquire) {
        loop {
            match updates.try_recv() {
                Ok(new) => model.apply(new),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other("the query threads have ended"));
                }
            }
            changed |= frozen.is_none();
        }
        if changed {
            view.paused = frozen.is_some();
            let shown = frozen.as_ref().unwrap_or(&model);
            terminal.draw(|frame| view::draw(frame, shown, &mut view))?;
        }
        changed = event::poll(LOOK_INTERVAL)?;
        if changed && let Event::Key(key) = event::read()? {
            match action(key) {
                Some(Action::Quit) => return Ok(()),
                Some(Action::Pause) => frozen = frozen.is_none().then(|| model.clone()),
                Some(Action::View(change)) => change(&mut view),
                None => {}
            }
        }
    }
    Ok(())
}

/// The effect of a key.
enum Action {
    Quit,
    Pause,
    View(fn(&mut View)),
}

fn action(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Action::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
        KeyCode::Char('p') => Action::Pause,
        KeyCode::Char('?') => Action::View(|view| view.help = !view.help),
        KeyCode::Char('s') => Action::View(View::next_order),
        KeyCode::Up => Action::View(|view| view.first_worker = view.first_worker.saturating_sub(1)),
        KeyCode::Down => Action::View(|view| view.first_worker += 1),
        _ => return None,
    })
}

/// The terminal. It is restored when this is dropped.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        let opened = ratatui::try_init();
        // A panic ends the process without dropping anything.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        opened.map(Self).inspect_err(|_| restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // If the terminal was closed, there is nothing to restore.
    let _ = ratatui::try_restore();
    let _ = execute!(io::stdout(), Show);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_converted_to_lines() {
        let buffer = Buffer::with_lines(["a  b  ", "      ", " c    ", "      "]);
        assert_eq!(to_text(&buffer), "a  b\n\n c\n");
    }

    #[test]
    fn keys_quit_with_and_without_control() {
        let quits = |code, modifiers| matches!(action(KeyEvent::new(code, modifiers)), Some(Action::Quit));
        assert!(quits(KeyCode::Char('q'), KeyModifiers::NONE) && quits(KeyCode::Esc, KeyModifiers::NONE));
        assert!(quits(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!quits(KeyCode::Char('c'), KeyModifiers::NONE));
    }
}
