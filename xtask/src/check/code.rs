//! Rust source with comments and literals blanked, so that words in them are not taken for code.

/// `source` with the same lines, where comments, strings and characters are spaces.
pub(super) fn only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut kept = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped_until(&chars, at);
        if end > at {
            kept.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            kept.push(chars[at]);
            at += 1;
        }
    }
    kept
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn skipped_until(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment(rest),
        ['"', ..] => at + quoted(rest),
        ['r', '"' | '#', ..] if !in_word(chars, at) => at + raw_string(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !in_word(chars, at) => at + raw_string(rest, 2),
        ['\'', ..] => at + character(rest),
        _ => at,
    }
}

/// Whether the character before `at` belongs to a name.
fn in_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

/// Length of a block comment; they nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a string with escapes, quotes included.
fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a raw string whose `#`s start at `prefix`; 0 for a raw name such as `r#type`.
fn raw_string(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    let mut at = open + 1;
    while at < rest.len() {
        let closing = rest[at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
        if closing {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

/// Length of a character literal; 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => 3 + tail.iter().position(|c| *c == '\'').map_or(tail.len(), |i| i + 1),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Whether `word` stands at byte `at` of `line` and is not part of a longer name.
pub(super) fn is_word(line: &str, at: usize, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let before = line[..at].chars().next_back().is_some_and(part_of_name);
    let after = line[at + word.len()..].chars().next().is_some_and(part_of_name);
    !before && !after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_become_spaces() {
        let check = |source: &str, expected: &str| assert_eq!(only(source), expected);
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check("f(\"x \\\" y\") + 1", "f(        ) + 1");
        check("r#\"a \" b\"# z", "           z");
        check("br\"a\" cr#\"b\"#", "             ");
        check("let c: &'a str = '\\''; '\"'", "let c: &'a str =     ;    ");
        check("r#type bar\"x\"", "r#type bar   ");
        check("\"a\nb\"", "  \n  ");
    }

    #[test]
    fn unfinished_literals_end_with_the_file() {
        for source in ["\"abc", "r#\"abc\"", "/* abc", "'\\", "\"abc\\"] {
            assert_eq!(only(source).chars().count(), source.chars().count());
        }
    }

    #[test]
    fn words_end_where_names_end() {
        assert!(is_word("an unsafe fn", 3, "unsafe"));
        assert!(!is_word("deny(unsafe_code)", 5, "unsafe"));
        assert!(!is_word("eprintln!", 1, "println"));
    }
}
