//! Printing: tables for people, JSON for programs; what went wrong on standard error.

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    io::{ErrorKind, Write},
    time::{Duration, SystemTime},
};

/// Prints a line. A reader that went away (`| head`) ends the program quietly, as every Unix tool does; a line that cannot be
/// written for another reason (a full disk) ends it as a failure, as what was asked for is not there.
pub(crate) fn text(line: &str) {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            complain(&format!("oneiro: cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// Prints a line to standard error, where it disturbs no program that reads the answer.
#[expect(clippy::print_stderr, reason = "a command line tells its failures there")]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}

/// Prints one value as JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A value as JSON with one more field, which says whose it is.
pub(crate) fn tagged(field: &str, name: &str, value: &impl Serialize) -> serde_json::Result<serde_json::Value> {
    let mut value = serde_json::to_value(value)?;
    value[field] = name.into();
    Ok(value)
}

/// Prints a table, or `empty` where it has no rows.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>, empty: &str) {
    if rows.is_empty() {
        return text(empty);
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header(headers);
    table.add_rows(rows);
    text(&table.to_string());
}

/// `3m 20s ago`, in at most two units.
pub(crate) fn ago(time: SystemTime) -> String {
    match SystemTime::now().duration_since(time) {
        Ok(age) => format!("{} ago", span(age)),
        Err(ahead) => format!("in {}", span(ahead.duration())),
    }
}

/// A duration in at most two units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A text cut for a table's cell; what is cut is shown by `jobs show` and by `--json`.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= most {
        line.to_owned()
    } else {
        line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
    }
}

/// Counts what is found where the total is not known yet. Shown on a terminal only; with `--json` never.
pub(crate) fn counter(what: &str, json: bool) -> ProgressBar {
    styled(ProgressBar::new_spinner(), &format!("{{spinner}} {{pos}} {what}"), json)
}

/// How far a change of so many jobs is. Shown on a terminal only; with `--json` never.
pub(crate) fn progress_bar(total: u64, json: bool) -> ProgressBar {
    styled(ProgressBar::new(total), "{bar:40} {pos}/{len} jobs, {per_sec}, {eta} left", json)
}

fn styled(bar: ProgressBar, template: &str, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_at_most_two_units() {
        for (seconds, shown) in [(0, "0 ms"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90_000, "1d 1h")] {
            assert_eq!(span(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn cells_are_cut_by_characters() {
        assert_eq!(cut("梦境标题", 3), "梦境…");
        assert_eq!(cut("a\nb", 9), "a");
    }
}
