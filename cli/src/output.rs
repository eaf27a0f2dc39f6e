//! Prints data: a table for people, JSON or YAML for programs. The commands call it last.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Format;
use crate::error::Error;

/// Prints `value` in the wanted format; for people, what `people` makes of it.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    people: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    let mut text = match format {
        Format::Table => plain(&people(value)),
        Format::Json => serde_json::to_string_pretty(value).expect("views are plain data"),
        Format::Yaml => serde_norway::to_string(value).expect("views are plain data"),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    write(&text)
}

/// Says that something was done: to people as a sentence that is no data, to programs as an object.
pub(crate) fn confirm<T: Serialize>(
    format: Format,
    value: &T,
    sentence: &str,
) -> Result<(), Error> {
    if format == Format::Table {
        note(sentence);
        return Ok(());
    }
    print(format, value, |_| String::new())
}

/// Prints one event of long work, so that each can be read as it comes: JSON on a line of its own, YAML as a document of
/// its own.
pub(crate) fn print_event<T: Serialize>(format: Format, value: &T) -> Result<(), Error> {
    if format == Format::Yaml {
        let text = serde_norway::to_string(value).expect("views are plain data");
        return write(&format!("---\n{text}"));
    }
    let mut text = serde_json::to_string(value).expect("views are plain data");
    text.push('\n');
    write(&text)
}

/// Writes data to standard output.
pub(crate) fn write(text: &str) -> Result<(), Error> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// Tells the person something that is not data.
pub(crate) fn note(text: &str) {
    anstream::eprintln!("{}", plain(text));
}

/// The text without what could play tricks on a terminal. Much of what is printed was written by nodes: lines of their
/// journals, names, answers of programs.
pub(crate) fn plain(text: &str) -> String {
    let harmless = |character: char| {
        let turns = matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        matches!(character, '\n' | '\t') || !(character.is_control() || turns)
    };
    text.chars()
        .filter(|&character| harmless(character))
        .collect()
}

/// A table without lines, as wide as it needs to be.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// The cells of each line of a table, the header first, as a person reads them.
#[cfg(test)]
pub(crate) fn cells(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| {
            let cells = line.split("  ").map(str::trim);
            cells.filter(|cell| !cell.is_empty()).collect()
        })
        .collect()
}

/// `name  value` lines; rows without a value are left out.
pub(crate) fn facts<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn nothing_that_a_node_wrote_plays_tricks_on_the_terminal() {
        assert_eq!(
            plain("a\u{1b}]0;title\u{7}b\r\u{9b}2Jc\u{202e}d\n\tü"),
            "a]0;titleb2Jcd\n\tü"
        );
    }
}
