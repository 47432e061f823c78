//! The few shapes that a picture is drawn with. Colours live in the style sheet, so that one picture serves light and
//! dark surroundings.

use std::fmt::Write;

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}
.paper{fill:#fff}.title{font-size:17px;font-weight:600}.heading{font-weight:600}
.small{font-size:11px}.grey{fill:#59636e}.end{text-anchor:end}.middle{text-anchor:middle}
.grid{stroke:#d8dee4}.one{stroke:#59636e;stroke-width:1.5}.spread{stroke:#1f2328;stroke-opacity:.55}
.cut{stroke:#fff;stroke-width:2}.strong{font-weight:600}
.ours{fill:#0969da}.haproxy{fill:#d4912a}.nginx{fill:#2a9d8f}.socat{fill:#9aa4af}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.paper{fill:#0d1117}.grey{fill:#9198a1}
.grid{stroke:#2a313a}.one{stroke:#9198a1}.spread{stroke:#e6edf3}.cut{stroke:#0d1117}
.ours{fill:#4493f8}.haproxy{fill:#b9822f}.nginx{fill:#2b8c80}.socat{fill:#6e7681}}
";

/// A picture that grows downwards.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    shapes: String,
}

impl Svg {
    /// An empty one.
    pub fn new(width: f64) -> Self {
        Self {
            width,
            shapes: String::new(),
        }
    }

    /// A bar or a swatch.
    pub fn bar(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        self.shape(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="1"/>"#
        ));
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.shape(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// Words; `y` is where they stand.
    pub fn text(&mut self, class: &str, x: f64, y: f64, words: &str) {
        let words = escape(words);
        self.shape(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{words}</text>"#
        ));
    }

    /// The file's text; `title` is for those who cannot see the picture.
    pub fn finish(self, height: f64, title: &str) -> String {
        let (width, title) = (self.width, escape(title));
        let begin = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img">"#
        );
        let paper = r#"<rect class="paper" width="100%" height="100%" rx="6"/>"#;
        let shapes = self.shapes;
        format!(
            "{begin}\n<title>{title}</title>\n<style>{STYLE}</style>\n{paper}\n{shapes}</svg>\n"
        )
    }

    fn shape(&mut self, shape: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.shapes, "{shape}");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
