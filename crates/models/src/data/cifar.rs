//! CIFAR-10 binary files: records of a label and 32 x 32 pixels, red, green and blue plane one after the other.

use super::DataError;
use crate::task::IMAGE_SIDE;
use std::path::Path;

/// Bytes of one record.
pub const RECORD_BYTES: usize = 1 + 3 * IMAGE_SIDE * IMAGE_SIDE;

/// The format has ten classes, whatever the model has.
const CLASSES: usize = 10;

/// The records, which must be whole and have legal labels.
pub(super) fn check(records: Vec<u8>, classes: usize, file: &Path) -> Result<Vec<u8>, DataError> {
    if records.is_empty() {
        return Err(DataError::Empty { file: file.into() });
    }
    if !records.len().is_multiple_of(RECORD_BYTES) {
        return Err(DataError::Length { file: file.into(), bytes: records.len() });
    }
    let classes = classes.min(CLASSES);
    let labels = records.chunks(RECORD_BYTES).map(|r| r[0]);
    match labels.enumerate().find(|(_, label)| usize::from(*label) >= classes) {
        Some((record, label)) => Err(DataError::Label { file: file.into(), record, label, classes }),
        None => Ok(records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_whole_and_labels_legal() {
        let check = |records: Vec<u8>| check(records, 10, Path::new("a.bin")).map_err(|e| e.to_string());
        assert!(check(vec![9; RECORD_BYTES]).is_ok());
        assert_eq!(check(vec![]), Err("a.bin: holds no examples".into()));
        assert_eq!(
            check(vec![0; 3072]),
            Err("a.bin: 3072 bytes are no whole number of records of 3073".into())
        );
        let mut two = vec![0; 2 * RECORD_BYTES];
        two[RECORD_BYTES] = 10;
        assert_eq!(check(two), Err("a.bin: record 1: label 10 is not below 10".into()));
    }
}
