//! Ascending indices as a short text: `0-4,6,9-11`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt::Write;

/// Most indices that a text may stand for, so that a short text cannot fill the memory.
const MOST: usize = 1 << 24;

/// Ascending indices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indices(pub Vec<usize>);

impl Indices {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut rest = self.0.as_slice();
        while let Some(first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|(n, index)| **index == first + n).count();
            let comma = if text.is_empty() { "" } else { "," };
            match run {
                1 => write!(text, "{comma}{first}"),
                _ => write!(text, "{comma}{first}-{}", first + run - 1),
            }
            .expect("writing to a string does not fail");
            rest = &rest[run..];
        }
        text
    }

    fn read(text: &str) -> Result<Self, String> {
        let mut indices: Vec<usize> = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |digits: &str| digits.parse().map_err(|_| format!("`{part}` is no index or range"));
            let (first, last): (usize, usize) = (number(first)?, number(last)?);
            let ascends = first <= last && indices.last().is_none_or(|before| *before < first);
            if !ascends {
                return Err(format!("`{part}` is out of order"));
            }
            if last - first >= MOST - indices.len() {
                return Err(format!("more than {MOST} indices"));
            }
            indices.extend(first..=last);
        }
        Ok(Self(indices))
    }
}

impl Serialize for Indices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Indices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_ranges() {
        for (indices, text) in [
            (vec![], ""),
            (vec![7], "7"),
            (vec![0, 1, 2, 3, 4, 6, 9, 10, 11], "0-4,6,9-11"),
            (vec![1, 3, 5], "1,3,5"),
        ] {
            assert_eq!(Indices(indices.clone()).text(), text);
            assert_eq!(Indices::read(text), Ok(Indices(indices)));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["a", "1,", "3-2", "1,1", "4,2", "-1", "1-", "0-99999999999"] {
            assert!(Indices::read(text).is_err(), "{text}");
        }
    }
}
