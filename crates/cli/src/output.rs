//! Standard output, whose reader may close it early: `briquette plan .. | head` is no mistake.

use std::fmt::Arguments;
use std::io::Write;

/// Writes to standard output, as long as somebody reads it.
pub(crate) fn write(text: Arguments<'_>) {
    let _ = std::io::stdout().lock().write_fmt(text);
}

/// `println!` that does not panic when nobody reads on.
macro_rules! say {
    ($($text:tt)*) => {{
        $crate::output::write(format_args!($($text)*));
        $crate::output::write(format_args!("\n"));
    }};
}
pub(crate) use say;
