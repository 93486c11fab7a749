//! Output for people: colours, tables, ages.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeDelta, Utc};
use conductor_runtime::client::Status;

pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(crate) const STRONG: Style = Style::new().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();

/// The size of the buffer for output of many lines.
const OUT_BYTES: usize = 64 * 1024;

/// Writes a line to standard output, in colour if that is a terminal that supports it.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes lines of JSON to standard output. They have no colours, and so bypass `anstream`, whose search for escape
/// sequences would take longer than everything else.
pub(crate) fn print_json(lines: impl IntoIterator<Item = String>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(OUT_BYTES, io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Writes a line to standard error and ignores failures to write.
pub(crate) fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Returns the colour of a state.
pub(crate) fn of_state(state: Status) -> Style {
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

/// Whether a terminal might act on the character: control characters, and those that change the text direction.
pub(crate) fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the number of columns that a text takes in a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// Approximates Unicode's width tables: combining marks take no column, East Asian letters and emoji take two.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Returns a stored text on one line, without [`obeyed`] characters, cut to `longest` columns.
pub(crate) fn line(text: &str, longest: usize) -> String {
    let mut short = String::new();
    // `end` is the length of the text before the ellipsis, if the text has to be cut.
    let (mut used, mut end) = (0, 0);
    for c in text.chars() {
        used += columns(c);
        if used > longest {
            short.truncate(end);
            short.push('…');
            break;
        }
        short.push(if obeyed(c) { ' ' } else { c });
        if used < longest {
            end = short.len();
        }
    }
    short
}

/// Returns the row change that an event name stands for; `None` for other events.
pub(crate) fn row_change(event: &str) -> Option<&str> {
    event.strip_prefix("conductor:")
}

/// Returns a stored text with its line breaks and tabs, and without other [`obeyed`] characters.
pub(crate) fn lines(text: &str) -> String {
    let harmless = |c: char| c == '\n' || c == '\t' || !obeyed(c);
    text.chars()
        .map(|c| if harmless(c) { c } else { '\u{fffd}' })
        .collect()
}

/// Returns a duration in one unit, such as "3m".
pub(crate) fn short(time: TimeDelta) -> String {
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

/// Returns the distance to `now`, such as "3m ago" or "in 2h".
pub(crate) fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at > now {
        format!("in {}", short(at - now))
    } else {
        format!("{} ago", short(now - at))
    }
}

/// Returns a time and its distance to `now`, such as "2026-05-01 12:00:00 UTC (3m ago)".
pub(crate) fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let ago = styled(FAINT, &format!("({})", relative(at, now)));
    format!("{} {ago}", at.format("%Y-%m-%d %H:%M:%S UTC"))
}

/// Returns why a postponed execution waits, such as "for its window, opens in 2h".
pub(crate) fn window(opens: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("for its window, opens {}", relative(opens, now))
}

/// A row of a table.
pub(crate) type Cells = Vec<(String, Style)>;

/// Text in columns, with or without a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Cells>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|name| ((*name).to_owned(), STRONG));
        Self {
            rows: vec![header.collect()],
        }
    }

    pub(crate) fn without_header(rows: impl IntoIterator<Item = Cells>) -> Self {
        Self {
            rows: rows.into_iter().collect(),
        }
    }

    pub(crate) fn row(&mut self, cells: Cells) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|(text, _)| self::width(text)).max().unwrap_or(0)
        };
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut gap = 0;
            let mut line = String::new();
            for ((text, style), width) in row.iter().zip(&widths) {
                if !text.is_empty() {
                    let _ = write!(line, "{:gap$}{style}{text}{style:#}", "");
                    gap = 0;
                }
                gap += width + 2 - self::width(text);
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
        assert_eq!(line("abcd", 4), "abcd");
        assert_eq!(line("漢字漢字", 5), "漢字…");
        assert_eq!(line("漢字漢字", 4), "漢…");
        assert_eq!(line("a\u{202e}b", 9), "a b");
        assert_eq!(lines("a\n\u{1b}[31m"), "a\n\u{fffd}[31m");
    }
}
