//! Unpacking weights, whole and by rows.

use super::super::packed::{kinds, weight_on};
use super::*;
use crate::{Code, PackedMatrix, embedding_packed, unpack};

#[test]
fn unpacking_equals_the_oracle() {
    for bits in 1..=8 {
        for code in kinds(bits) {
            for (out, columns, group) in [(17, 160, 32), (5, 33, 11)] {
                let (p, expected) = weight_on::<Gpu>(out, columns, bits, code, group);
                let what = format!("{bits} bits {code:?} [{out}, {columns}] / {group}");
                crate::register::<Gpu>();
                near(&back(unpack(&p)), &expected, &what);
            }
        }
    }
}

#[test]
fn weights_of_one_scale_a_row_and_in_slices_unpack() {
    for (bits, columns) in [(4, 922), (8, 64), (3, 7), (1, 384)] {
        let (mut p, expected) = weight_on::<Gpu>(3, columns, bits, Code::Symmetric, columns);
        crate::register::<Gpu>();
        near(&back(unpack(&p)), &expected, &format!("{bits} bits, {columns} columns"));
        let width = p.words.dims()[1];
        p.words =
            Tensor::cat(vec![p.words.clone(), p.words.clone(), p.words.clone()], 1).narrow(1, width, width);
        near(&back(unpack(&p)), &expected, &format!("{bits} bits, {columns} columns of a slice"));
        p.words = p.words.transpose().reshape([width * 3]).reshape([width, 3]).transpose();
        near(&back(unpack(&p)), &expected, &format!("{bits} bits, {columns} columns, transposed"));
    }
}

#[test]
fn nothing_unpacks_to_nothing() {
    let device = Default::default();
    crate::register::<Gpu>();
    let p = PackedMatrix::<Gpu>::new(vec![], vec![], vec![], 3, Code::Symmetric, [0, 8], 8, &device);
    assert_eq!(unpack(&p).dims(), [0, 8]);
    let (p, _) = weight_on::<Gpu>(5, 64, 4, Code::Symmetric, 32);
    assert_eq!(embedding_packed(&p, Tensor::zeros([2, 0], &device)).dims(), [2, 0, 64]);
}

/// Tables whose scales, or words, are one column beside wider words or scales were once selected from
/// wrongly by fused kernels.
#[test]
fn embeddings_of_packed_tables_equal_the_cpu() {
    let picks: [(&[i32], [usize; 2]); 2] = [(&[3, 19, 0, 7, 7, 1], [2, 3]), (&[19], [1, 1])];
    let kinds = [(8, Code::Symmetric), (4, Code::Asymmetric), (3, Code::Symmetric)];
    for (bits, code) in kinds {
        for (columns, group) in [(96, 96), (96, 32), (33, 11), (4, 2), (4, 4)] {
            let (cpu, _) = weight_on::<Flex>(20, columns, bits, code, group);
            let (gpu, _) = weight_on::<Gpu>(20, columns, bits, code, group);
            for (ids, shape) in picks {
                let ids = TensorData::new(ids.to_vec(), shape);
                let want = embedding_packed(&cpu, Tensor::from_data(ids.clone(), &Default::default()));
                let got = embedding_packed(&gpu, Tensor::from_data(ids, &Default::default()));
                let what = format!("{bits} bits {code:?} [20, {columns}] / {group}, ids {shape:?}");
                near(&back(got), &floats(want), &what);
            }
        }
    }
}
