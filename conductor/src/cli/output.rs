//! What people read: colours, tables, ages.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeDelta, Utc};
use conductor_runtime::client::Status;

pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(super) const STRONG: Style = Style::new().bold();
pub(super) const FAINT: Style = Style::new().dimmed();

/// Writes a line to standard output, with colours where it is a terminal that wants them.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a line to standard error, which nobody need read.
pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

pub(super) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The colour of a state.
pub(super) fn of_state(state: Status) -> Style {
    match state {
        Status::Pending => AnsiColor::Yellow,
        Status::Running => AnsiColor::Cyan,
        Status::Suspended => AnsiColor::Blue,
        Status::Completed => AnsiColor::Green,
        Status::Failed => AnsiColor::Red,
        Status::Cancelled => AnsiColor::Magenta,
    }
    .on_default()
}

/// A stored text on one line, without what a terminal might obey.
pub(super) fn line(text: &str, longest: usize) -> String {
    let mut short: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(longest + 1)
        .collect();
    if short.chars().count() > longest {
        short.pop();
        short.pop();
        short.push('…');
    }
    short
}

/// A stored text with its lines, without what else a terminal might obey.
pub(super) fn lines(text: &str) -> String {
    let harmless = |c: char| c == '\n' || c == '\t' || !c.is_control();
    text.chars()
        .map(|c| if harmless(c) { c } else { '\u{fffd}' })
        .collect()
}

/// "3m", in the one unit that says it best.
pub(super) fn short(time: TimeDelta) -> String {
    let millis = time.num_milliseconds().max(0);
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..10_000 => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        10_000..120_000 => format!("{}s", millis / 1000),
        120_000..7_200_000 => format!("{}m", millis / 60_000),
        7_200_000..172_800_000 => format!("{}h", millis / 3_600_000),
        _ => format!("{}d", millis / 86_400_000),
    }
}

/// "3m ago", "in 2h".
pub(super) fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at > now {
        format!("in {}", short(at - now))
    } else {
        format!("{} ago", short(now - at))
    }
}

/// "2026-05-01 12:00:00 UTC (3m ago)".
pub(super) fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let ago = styled(FAINT, &format!("({})", relative(at, now)));
    format!("{} {ago}", at.format("%Y-%m-%d %H:%M:%S UTC"))
}

/// Text in columns under a header.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|name| ((*name).to_owned(), STRONG));
        Self {
            rows: vec![header.collect()],
        }
    }

    pub(super) fn row(&mut self, cells: Vec<(String, Style)>) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|(text, _)| text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut gap = 0;
            let mut line = String::new();
            for ((text, style), width) in row.iter().zip(&widths) {
                if !text.is_empty() {
                    let _ = write!(line, "{:gap$}{style}{text}{style:#}", "");
                    gap = 0;
                }
                gap += width + 2 - text.chars().count();
            }
            out.push_str(&line);
            out.push('\n');
        }
        out.pop();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let text = |millis| short(TimeDelta::milliseconds(millis));
        assert_eq!(text(-5), "0ms");
        assert_eq!(text(1_250), "1.2s");
        assert_eq!(text(119_000), "119s");
        assert_eq!(text(120_000), "2m");
        assert_eq!(text(86_400_000), "24h");
        assert_eq!(text(30 * 86_400_000), "30d");
    }

    #[test]
    fn columns_line_up_and_lines_end_with_text() {
        let mut table = Table::new(&["ID", "NOTE"]);
        table.row(vec![
            ("größe".to_owned(), Style::new()),
            (String::new(), Style::new()),
        ]);
        table.row(vec![
            ("a".to_owned(), Style::new()),
            ("b".to_owned(), Style::new()),
        ]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(plain, "ID     NOTE\ngröße\na      b");
    }

    #[test]
    fn stored_texts_cannot_drive_the_terminal() {
        assert_eq!(line("a\u{1b}[31m\nb", 20), "a [31m b");
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(lines("a\n\u{1b}[31m"), "a\n\u{fffd}[31m");
    }
}
