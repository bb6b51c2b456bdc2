//! What a student takes over from its teacher.

use crate::reduce::count;
use briquette_core::stop;
use briquette_nn::Compressible;
use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Why a student cannot be initialised from a teacher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitialiseError {
    /// One of the two models has no such list of blocks.
    #[error("the {model} has no list of blocks at `{path}`")]
    NoList {
        /// `student` or `teacher`.
        model: &'static str,
        /// Field path in the Rust model.
        path: String,
    },
    /// The student has not one block for each that is taken.
    #[error("the student has {student} blocks at `{path}`, {taken} are taken from the teacher")]
    Count {
        /// Field path of the list.
        path: String,
        /// Blocks of the student.
        student: usize,
        /// Blocks to be taken.
        taken: usize,
    },
    /// The teacher does not have a block.
    #[error("the teacher has {len} blocks at `{path}`, counted from 0; there is no block {index}")]
    NoBlock {
        /// Field path of the list.
        path: String,
        /// Blocks of the teacher.
        len: usize,
        /// The missing one.
        index: usize,
    },
    /// Parameters that do not fit, all of them.
    #[error("{}", lines(.0))]
    Parameters(Vec<Mismatch>),
}

/// A parameter of the student for which the teacher has nothing that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Its field path in the student.
    pub path: String,
    /// Its shape there; `None` where the student has no such parameter.
    pub student: Option<Vec<usize>>,
    /// The field path in the teacher.
    pub from: String,
    /// The shape there; `None` where the teacher has no such parameter.
    pub teacher: Option<Vec<usize>>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape =
            |shape: &Option<Vec<usize>>| shape.as_ref().map_or("missing".into(), |s| format!("{s:?}"));
        let Self { path, student, from, teacher } = self;
        write!(f, "`{path}` is {} in the student, `{from}` {} in the teacher", shape(student), shape(teacher))
    }
}

fn lines(mismatches: &[Mismatch]) -> String {
    let lines: Vec<String> = mismatches.iter().map(|m| format!("\n  {m}")).collect();
    format!("{} parameters of student and teacher do not fit:{}", mismatches.len(), lines.concat())
}

/// The student with values of the teacher: block `i` of the list at the field path `list` gets those of the
/// teacher's block `kept[i]`, and the parameters `copied` (field paths of parameters, or of modules with all that is
/// in them) those of the same path. All other parameters stay as they are. Values are copied by path, running
/// statistics of normalizations included; DeepSpeed's `student_initialization` goes by position and leaves those
/// out.
///
/// The student's parameters keep their ids, element types, devices and, where they have gradients, their requirement
/// of them. A copy of the student that was made before shares its running statistics and sees them change.
///
/// # Errors
/// When one of the models lacks the list or a block, or a parameter is missing or of another shape; the error lists
/// all such parameters.
pub fn initialise_from<B: Backend, M: Module<B> + Compressible<B>>(
    student: M,
    teacher: &M,
    list: &str,
    kept: &[usize],
    copied: &[String],
) -> Result<M, InitialiseError> {
    check_lists(&student, teacher, list, kept)?;
    let mut given = Collect { at: Vec::new(), found: HashMap::new() };
    teacher.visit(&mut given);
    let mut take = Take {
        at: Vec::new(),
        list,
        kept,
        copied,
        teacher: given.found,
        used: HashSet::new(),
        values: HashMap::new(),
        mismatches: Vec::new(),
    };
    student.visit(&mut take);
    let absent = copied.iter().filter(|path| !take.used.contains(path.as_str()));
    let mut mismatches = take.mismatches;
    mismatches.extend(absent.map(|path| Mismatch {
        path: path.clone(),
        student: None,
        from: path.clone(),
        teacher: take.teacher.get(path).map(|given| given.shape.clone()),
    }));
    if !mismatches.is_empty() {
        return Err(InitialiseError::Parameters(mismatches));
    }
    Ok(student.map(&mut Replace { values: take.values }))
}

fn check_lists<B: Backend, M: Compressible<B> + Clone>(
    student: &M,
    teacher: &M,
    list: &str,
    kept: &[usize],
) -> Result<(), InitialiseError> {
    let path = list.to_string();
    let none = |model| InitialiseError::NoList { model, path: path.clone() };
    let blocks = count(student, list).ok_or_else(|| none("student"))?;
    let len = count(teacher, list).ok_or_else(|| none("teacher"))?;
    if blocks != kept.len() {
        return Err(InitialiseError::Count { path, student: blocks, taken: kept.len() });
    }
    match kept.iter().find(|index| **index >= len) {
        Some(index) => Err(InitialiseError::NoBlock { path, len, index: *index }),
        None => Ok(()),
    }
}

/// A tensor of whatever rank, off the graph.
struct Given<B: Backend> {
    shape: Vec<usize>,
    value: TensorPrimitive<B>,
}

impl<B: Backend> Clone for Given<B> {
    fn clone(&self) -> Self {
        Self { shape: self.shape.clone(), value: self.value.clone() }
    }
}

/// All float parameters of a model by field path.
struct Collect<B: Backend> {
    at: Vec<String>,
    found: HashMap<String, Given<B>>,
}

impl<B: Backend> ModuleVisitor<B> for Collect<B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let value = stop(param.val());
        let given = Given { shape: value.dims().to_vec(), value: value.into_primitive() };
        self.found.insert(self.at.join("."), given);
    }
}

/// Finds the teacher's value of each parameter of the student that shall have one.
///
/// By id and not by path, so that parameters that the student shares stay shared.
struct Take<'a, B: Backend> {
    at: Vec<String>,
    list: &'a str,
    kept: &'a [usize],
    copied: &'a [String],
    teacher: HashMap<String, Given<B>>,
    used: HashSet<&'a str>,
    values: HashMap<ParamId, Given<B>>,
    mismatches: Vec<Mismatch>,
}

impl<B: Backend> Take<'_, B> {
    /// Where the teacher has the value for the student's parameter at `path`; `None` where it keeps its own.
    fn source(&mut self, path: &str) -> Option<String> {
        if let Some(inside) = below(path, self.list) {
            let (index, rest) = inside.split_once('.').unwrap_or((inside, ""));
            let from = self.kept.get(index.parse::<usize>().ok()?)?.to_string();
            let parts = [self.list, &from, rest];
            return Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("."));
        }
        let mut meant = false;
        for copied in self.copied.iter().filter(|copied| path == *copied || below(path, copied).is_some()) {
            self.used.insert(copied);
            meant = true;
        }
        meant.then(|| path.to_string())
    }
}

/// What of `path` lies below `module`.
fn below<'a>(path: &'a str, module: &str) -> Option<&'a str> {
    if module.is_empty() { Some(path) } else { path.strip_prefix(module)?.strip_prefix('.') }
}

impl<B: Backend> ModuleVisitor<B> for Take<'_, B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let path = self.at.join(".");
        let Some(from) = self.source(&path) else { return };
        let shape = param.lazy_shape().as_slice().to_vec();
        match self.teacher.get(&from) {
            Some(given) if given.shape == shape => {
                self.values.insert(param.id, given.clone());
            }
            other => {
                let teacher = other.map(|given| given.shape.clone());
                self.mismatches.push(Mismatch { path, student: Some(shape), from, teacher });
            }
        }
    }
}

struct Replace<B: Backend> {
    values: HashMap<ParamId, Given<B>>,
}

impl<B: Backend> ModuleMapper<B> for Replace<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(given) = self.values.get(&param.id).cloned() else { return param };
        param.map(|old| {
            let new = Tensor::<B, D>::from_primitive(given.value);
            let new = new.to_device(&old.device()).cast(old.dtype());
            stop(new).set_require_grad(old.is_require_grad())
        })
    }
}
