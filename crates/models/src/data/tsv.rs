//! Sentences with labels: a header `sentence<TAB>label`, then one example per line.

use super::DataError;
use std::path::Path;

const HEADER: &str = "sentence\tlabel";

/// The examples of a file's text; `labels` is how many labels there are.
pub(super) fn parse(text: &str, labels: usize, file: &Path) -> Result<Vec<(String, usize)>, DataError> {
    let refuse = |line: usize, reason: String| DataError::Line { file: file.into(), line, reason };
    let mut lines = text.lines().zip(1..);
    match lines.next() {
        None => return Err(DataError::Empty { file: file.into() }),
        Some((HEADER, _)) => {}
        Some((found, line)) => {
            let found: String = found.chars().take(40).collect();
            return Err(refuse(line, format!("the header is {found:?}, {HEADER:?} wanted")));
        }
    }
    let examples: Vec<(String, usize)> = lines
        .map(|(text, line)| example(text, labels).map_err(|reason| refuse(line, reason)))
        .collect::<Result<_, _>>()?;
    if examples.is_empty() { Err(DataError::Empty { file: file.into() }) } else { Ok(examples) }
}

fn example(line: &str, labels: usize) -> Result<(String, usize), String> {
    let (sentence, label) = line.split_once('\t').ok_or("no tab between sentence and label")?;
    if label.contains('\t') {
        return Err("more than one tab".into());
    }
    match label.parse::<usize>() {
        Ok(label) if label < labels => Ok((sentence.to_string(), label)),
        Ok(label) => Err(format!("label {label} is not below {labels}")),
        Err(_) => Err(format!("label {label:?} is not a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text, 2, Path::new("a.tsv")).expect_err("malformed").to_string()
    }

    #[test]
    fn examples_are_read_as_they_stand() {
        let found = parse("sentence\tlabel\na b . \t1\r\n\t0\n", 2, Path::new("a.tsv")).expect("well-formed");
        assert_eq!(found, [("a b . ".to_string(), 1), (String::new(), 0)]);
    }

    #[test]
    fn mistakes_have_line_numbers() {
        assert_eq!(error(""), "a.tsv: holds no examples");
        assert_eq!(error("sentence\tlabel\n"), "a.tsv: holds no examples");
        assert_eq!(error("x\t1\n"), r#"a.tsv:1: the header is "x\t1", "sentence\tlabel" wanted"#);
        assert_eq!(error("sentence\tlabel\na\t1\nb 0\n"), "a.tsv:3: no tab between sentence and label");
        assert_eq!(error("sentence\tlabel\na\tb\t1\n"), "a.tsv:2: more than one tab");
        assert_eq!(error("sentence\tlabel\na\tpos\n"), r#"a.tsv:2: label "pos" is not a whole number"#);
        assert_eq!(error("sentence\tlabel\na\t-1\n"), r#"a.tsv:2: label "-1" is not a whole number"#);
        assert_eq!(error("sentence\tlabel\na\t2\n"), "a.tsv:2: label 2 is not below 2");
    }
}
