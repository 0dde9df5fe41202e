//! Owns `gyre top`: the figures of a tracker in a terminal, read from its admin listener.
//!
//! What is shown is made of readings by `model`, drawn by `view`; both know no terminal and no network. Threads of
//! their own ask the tracker (`source`), so that keys are answered however slow it is.

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

use model::{Model, News};
use source::Source;
pub use source::Target;
use view::View;

/// Keys and signals are looked for so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// News that wait to be taken.
const NEWS_MAX: usize = 16;
/// Columns of a frame without a terminal: info-hashes are whole.
const ONCE_COLUMNS: u16 = 132;

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// Nobody answers.
    #[error(
        "{target} does not answer: {why}; is the tracker running, with its admin listener (--admin) there?"
    )]
    Silent {
        /// Who was asked.
        target: Target,
        /// What happened.
        why: String,
    },
    /// Somebody else answers.
    #[error("{target} answers, but not as the admin listener of a gyre of this version: {why}")]
    Stranger {
        /// Who was asked.
        target: Target,
        /// What is wrong with the answer.
        why: String,
    },
    /// There is no terminal, or it is gone.
    #[error("the terminal can't be used: {0}; with --once one frame is written without one")]
    Terminal(#[from] io::Error),
}

impl TopError {
    /// What happened, without whom to.
    fn why(self) -> String {
        match self {
            Self::Silent { why, .. } | Self::Stranger { why, .. } => why,
            Self::Terminal(error) => error.to_string(),
        }
    }
}

/// Shows a tracker in the terminal until somebody quits; it is asked once in each interval.
///
/// # Errors
///
/// [`TopError`]: there is nobody to ask at first, or no terminal. Once it has answered it may come and go.
pub fn run(target: &Target, interval: Duration, color: bool) -> Result<(), TopError> {
    let source = Source::new(target);
    let mut model = Model::new(&target.to_string());
    model.take(source.stats()?);
    let (sender, news) = sync_channel(NEWS_MAX);
    source.watch(interval, &sender)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut screen = Screen::open()?;
    let shown = show(&mut screen.0, model, View::new(color), &news, &stop);
    drop(screen); // before an error is written
    Ok(shown?)
}

/// One frame as text, with the rates of one interval.
///
/// # Errors
///
/// [`TopError`]: there is nobody to ask.
pub fn once(target: &Target, interval: Duration) -> Result<String, TopError> {
    let source = Source::new(target);
    let mut model = Model::new(&target.to_string());
    model.take(source.stats()?);
    thread::sleep(interval);
    // A tracker that is too busy to look for these has figures all the same.
    [source.swarms(), source.clients()].into_iter().flatten().for_each(|news| model.take(news));
    model.take(source.stats()?);
    let mut view = View::new(false);
    view.keys = false;
    let backend = TestBackend::new(ONCE_COLUMNS, view::full_height(&model));
    let mut terminal = Terminal::new(backend).map_err(io::Error::other)?;
    let frame = terminal.draw(|frame| view::draw(frame, &model, &mut view)).map_err(io::Error::other)?;
    Ok(to_text(frame.buffer))
}

/// The rows of a screen, without blanks behind the words and empty rows at the end.
fn to_text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(buffer.area.width.max(1).into());
    let rows: Vec<String> = rows.map(|row| row.iter().map(Cell::symbol).collect()).collect();
    let text = rows.iter().map(|row| row.trim_end()).collect::<Vec<_>>().join("\n");
    text.trim_end().to_owned() + "\n"
}

/// Draws what is new and does what keys say, until one of them, or a signal, says to stop.
fn show(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    mut view: View,
    news: &Receiver<News>,
    stop: &AtomicBool,
) -> io::Result<()> {
    // What is seen during a pause; readings go on meanwhile.
    let mut still: Option<Model> = None;
    let mut changed = true;
    while !stop.load(Ordering::Acquire) {
        loop {
            match news.try_recv() {
                Ok(new) => model.take(new),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(io::Error::other("nobody asks any more")),
            }
            changed |= still.is_none();
        }
        if changed {
            view.paused = still.is_some();
            let shown = still.as_ref().unwrap_or(&model);
            terminal.draw(|frame| view::draw(frame, shown, &mut view))?;
        }
        changed = event::poll(LOOK_INTERVAL)?;
        if changed && let Event::Key(key) = event::read()? {
            match action(key) {
                Some(Action::Quit) => return Ok(()),
                Some(Action::Pause) => still = still.is_none().then(|| model.clone()),
                Some(Action::View(change)) => change(&mut view),
                None => {}
            }
        }
    }
    Ok(())
}

/// What a key does.
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

/// The terminal, which is given back as it was, whatever happens.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        let opened = ratatui::try_init();
        // A panic ends the process before anything is dropped.
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
    // A terminal that is gone needs nothing.
    let _ = ratatui::try_restore();
    let _ = execute!(io::stdout(), Show);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_lines() {
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
