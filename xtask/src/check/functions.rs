//! Function lengths: none above 100 lines, and 95 of 100 within 40, over the whole repository.

use super::Violation;
use super::code::is_word;

const LONGEST: usize = 100;
const USUAL: usize = 40;

/// Lengths of all functions seen so far.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    seen: Vec<Function>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    path: String,
    line: usize,
    name: String,
    lines: usize,
}

impl Lengths {
    /// Takes in the functions of one file, and returns those above the hard limit.
    pub(super) fn add(&mut self, path: &str, code: &str) -> Vec<Violation> {
        let functions = functions(path, code);
        let too_long = functions
            .iter()
            .filter(|function| function.lines > LONGEST)
            .map(|f| {
                let message = format!("`{}` has {} lines, at most {LONGEST}", f.name, f.lines);
                Violation::new(&f.path, f.line, message)
            })
            .collect();
        self.seen.extend(functions);
        too_long
    }

    /// When more than one in twenty is above the usual length: all of those.
    pub(super) fn violations(&self) -> Vec<Violation> {
        let long: Vec<&Function> = self.seen.iter().filter(|f| f.lines > USUAL).collect();
        if long.len() * 20 <= self.seen.len() {
            return Vec::new();
        }
        let share = format!("{} of {} functions are", long.len(), self.seen.len());
        let message = |f: &Function| {
            format!("`{}` has {} lines, and {share} above {USUAL} (5 % may be)", f.name, f.lines)
        };
        long.iter().map(|f| Violation::new(&f.path, f.line, message(f))).collect()
    }
}

/// Every `fn` with a body, with the lines from its `fn` to its closing brace.
fn functions(path: &str, code: &str) -> Vec<Function> {
    let starts = code.match_indices("fn ").filter(|(at, _)| is_word(code, *at, "fn"));
    starts
        .filter_map(|(at, _)| {
            let after = code[at + 3..].trim_start();
            let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let body = body_length(&code[at..])?;
            let line = code[..at].matches('\n').count() + 1;
            let lines = code[at..at + body].matches('\n').count() + 1;
            (!name.is_empty()).then(|| Function { path: path.to_owned(), line, name, lines })
        })
        .collect()
}

/// Bytes from the `fn` to the closing brace of its body; `None` without a body.
fn body_length(from_fn: &str) -> Option<usize> {
    let (mut depth, mut brackets) = (0usize, 0usize);
    for (at, c) in from_fn.char_indices() {
        match c {
            '(' | '[' if depth == 0 => brackets += 1,
            ')' | ']' if depth == 0 => brackets = brackets.checked_sub(1)?,
            // Inside brackets a `;` is an array's length, as in `[u8; 4]`.
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if c == '}' && depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "x();\n".repeat(lines - 2))
    }

    #[test]
    fn lengths_run_from_fn_to_brace() {
        let code = "pub fn a(x: [u8; 4]) -> u8\nwhere\n{\n  { 1 }\n}\ntrait T { fn b(&self); fn c() {} }\n";
        let found = functions("a.rs", code);
        let short: Vec<(&str, usize, usize)> =
            found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(short, [("a", 1, 5), ("c", 6, 1)]);
    }

    #[test]
    fn a_function_type_is_not_a_function() {
        assert_eq!(functions("a.rs", "type F = fn (u8) -> u8;\nlet f: fn (u8) = g;\n"), []);
    }

    #[test]
    fn above_the_hard_limit() {
        let mut lengths = Lengths::default();
        assert_eq!(lengths.add("a.rs", &body(100)), []);
        assert_eq!(lengths.add("a.rs", &body(101)).len(), 1);
    }

    #[test]
    fn one_in_twenty_may_be_long() {
        let mut lengths = Lengths::default();
        lengths.add("a.rs", &format!("{}{}", body(41), "fn f() {}\n".repeat(19)));
        assert_eq!(lengths.violations(), []);
        lengths.add("b.rs", &body(41));
        assert_eq!(lengths.violations().len(), 2);
    }
}
