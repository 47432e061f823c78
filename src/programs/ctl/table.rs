//! Text in columns, as wide as their widest cell; colours do not count.

use anstyle::Style;

/// Between two columns.
const GAP: &str = "  ";

/// One place of a row.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Makes a cell; what would control a terminal is shown as a question mark.
    pub(super) fn new(text: impl ToString) -> Cell {
        Cell {
            text: text.to_string().replace(char::is_control, "?"),
            style: Style::new(),
        }
    }

    /// Says that there is nothing to say.
    pub(super) fn nothing() -> Cell {
        Cell::new("-").style(Style::new().dimmed())
    }

    /// Colours it.
    pub(super) fn style(mut self, style: Style) -> Cell {
        self.style = style;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// What is said of a column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    is_number: bool,
    is_optional: bool,
}

impl Column {
    /// Text, which begins at the left.
    pub(super) const fn text(title: &'static str) -> Column {
        Column {
            title,
            is_number: false,
            is_optional: false,
        }
    }

    /// Numbers, which end at the right.
    pub(super) const fn number(title: &'static str) -> Column {
        Column {
            is_number: true,
            ..Column::text(title)
        }
    }

    /// Makes it one that is left out where there is no room.
    pub(super) const fn optional(self) -> Column {
        Column {
            is_optional: true,
            ..self
        }
    }
}

/// Returns a line for the titles, if there are to be any, and one for each row, each behind `indent`; `width` is that of the
/// terminal.
pub(super) fn table(
    columns: &[Column],
    rows: &[Vec<Cell>],
    indent: &str,
    width: Option<usize>,
    has_titles: bool,
) -> Vec<String> {
    let title = |column: &Column| Cell::new(column.title).style(Style::new().bold());
    let titles: Vec<Cell> = columns.iter().map(title).collect();
    let widest = |index: usize| {
        let cells = rows.iter().chain([&titles]).map(|row| row[index].width());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    let shown = fitting(columns, &widths, indent, width);
    let line = |row: &Vec<Cell>| {
        let cells = shown
            .iter()
            .map(|&index| padded(&row[index], columns[index], widths[index]));
        let text = cells.collect::<Vec<_>>().join(GAP);
        format!("{indent}{}", text.trim_end())
    };
    let titles = has_titles.then_some(&titles);
    titles.into_iter().chain(rows).map(line).collect()
}

/// Leaves optional columns out, the last one first, until the others fit.
fn fitting(columns: &[Column], widths: &[usize], indent: &str, width: Option<usize>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let Some(width) = width else { return shown };
    loop {
        let text: usize = shown.iter().map(|&index| widths[index]).sum();
        let total = indent.len() + text + GAP.len() * shown.len().saturating_sub(1);
        let optional = shown.iter().rposition(|&index| columns[index].is_optional);
        match optional {
            Some(last) if total > width => drop(shown.remove(last)),
            _ => return shown,
        }
    }
}

fn padded(cell: &Cell, column: Column, width: usize) -> String {
    let Cell { text, style } = cell;
    let room = " ".repeat(width - cell.width());
    match column.is_number {
        true => format!("{room}{style}{text}{style:#}"),
        false => format!("{style}{text}{style:#}{room}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::text("NAME"),
        Column::number("N").optional(),
        Column::text("END"),
    ];

    fn lines(rows: &[[&str; 3]], indent: &str, width: Option<usize>) -> Vec<String> {
        let row = |row: &[&str; 3]| row.iter().map(Cell::new).collect();
        let rows: Vec<Vec<Cell>> = rows.iter().map(row).collect();
        let plain = |line: &String| anstream::adapter::strip_str(line).to_string();
        table(&COLUMNS, &rows, indent, width, true)
            .iter()
            .map(plain)
            .collect()
    }

    #[test]
    fn columns_are_aligned_whatever_the_colour() {
        let red = Style::new().fg_color(Some(anstyle::AnsiColor::Red.into()));
        let rows = [
            vec![Cell::new("a").style(red), Cell::new(7), Cell::new("x")],
            vec![Cell::new("long"), Cell::new(1000), Cell::new("y")],
        ];
        let table = table(&COLUMNS, &rows, "", None, true).join("\n");
        assert!(table.contains("\x1b[31ma\x1b[0m     "), "{table:?}");
        let plain = anstream::adapter::strip_str(&table).to_string();
        assert_eq!(plain, "NAME     N  END\na        7  x\nlong  1000  y");
    }

    #[test]
    fn an_optional_column_goes_where_there_is_no_room() {
        let rows = [["long", "7", "x"]];
        let all = ["  NAME  N  END", "  long  7  x"];
        assert_eq!(lines(&rows, "  ", None), all);
        assert_eq!(lines(&rows, "  ", Some(14)), all);
        assert_eq!(lines(&rows, "  ", Some(13)), ["  NAME  END", "  long  x"]);
        assert_eq!(lines(&rows, "  ", Some(1)), ["  NAME  END", "  long  x"]);
    }

    #[test]
    fn nothing_in_a_cell_controls_the_terminal() {
        let lines = lines(&[["a\x1b[2J\nb", "", ""]], "", None);
        assert_eq!(lines[1], "a?[2J?b");
    }
}
