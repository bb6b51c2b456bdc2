//! Settings resolved for one model.

use crate::settings::{Keep, LayerReduction};
use briquette_core::{BlockList, Diagnostics, LayerKind, ModelView, Problem, nearest};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// Which blocks of a model's list stay.
#[derive(Debug, Clone, PartialEq)]
pub struct ReducedLayers {
    /// Name of the list: `bert.encoder.layer`.
    pub list: String,
    /// Its field path in the Rust model.
    pub path: String,
    /// Which blocks stay.
    pub kept: Kept,
    /// How many blocks there were.
    pub of: usize,
    /// What a teacher gives to the student beside its blocks, as the recipe names it; `None` for everything.
    pub copy: Option<Vec<String>>,
    /// Field paths of the parameters that [`copy`](Self::copy) means, in model order.
    pub copied: Vec<String>,
}

/// Which blocks stay, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// These, counted from 0 and strictly increasing.
    Indices(Vec<usize>),
    /// So many; [`BlockInfluence::most_influential`](crate::BlockInfluence::most_influential) says which.
    ByInfluence(usize),
}

impl ReducedLayers {
    /// The blocks that stay; `None` where that is not known yet.
    pub fn indices(&self) -> Option<&[usize]> {
        match &self.kept {
            Kept::Indices(indices) => Some(indices),
            Kept::ByInfluence(_) => None,
        }
    }

    /// How many blocks stay.
    pub fn count(&self) -> usize {
        match &self.kept {
            Kept::Indices(indices) => indices.len(),
            Kept::ByInfluence(count) => *count,
        }
    }

    /// The view of the student. Where the blocks are not chosen yet it is that of the first ones, which then are
    /// like all the others.
    ///
    /// # Errors
    /// When `model` is not the view that this was resolved for.
    pub fn view(&self, model: &ModelView) -> Result<ModelView, Problem> {
        let first: Vec<usize> = (0..self.count()).collect();
        model.keep_layers(&self.list, self.indices().unwrap_or(&first))
    }

    /// As JSON, for programs.
    pub fn to_json(&self) -> Value {
        let kept = match &self.kept {
            Kept::Indices(indices) => json!(indices),
            Kept::ByInfluence(count) => json!({"count": count, "choice": "block_influence"}),
        };
        let mut value = json!({"list": self.list, "kept": kept, "of": self.of});
        if let Some(copy) = &self.copy {
            value["copy"] = json!(copy);
        }
        value
    }
}

impl fmt::Display for ReducedLayers {
    /// One line: the list, what stays and what a teacher gives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { list, of, .. } = self;
        match &self.kept {
            Kept::Indices(indices) => {
                let indices: Vec<String> = indices.iter().map(usize::to_string).collect();
                write!(f, "{list}: layers {} of {of} stay", indices.join(", "))?;
            }
            Kept::ByInfluence(count) => {
                write!(f, "{list}: the {count} most influential of {of} layers stay")?
            }
        }
        match &self.copy {
            None => Ok(()),
            Some(copy) if copy.is_empty() => f.write_str("; a teacher gives nothing else"),
            Some(copy) => write!(f, "; a teacher gives {} too", copy.join(", ")),
        }
    }
}

impl LayerReduction {
    /// Checks the settings against a model. `place` gives the place of each of their keys in the recipe. What is
    /// wrong goes to `out`, all of it, and nothing comes back.
    pub fn resolve(
        &self,
        model: &ModelView,
        place: &dyn Fn(&str) -> String,
        out: &mut Diagnostics,
    ) -> Option<ReducedLayers> {
        let before = out.len();
        let list = match model.block_list(&self.layers) {
            Ok(list) => list,
            Err(problem) => {
                out.add(place("layers"), problem);
                return None;
            }
        };
        let kept = self.kept(model, list, place, out);
        let copied = copied(self.copy.as_deref(), model, list, &place("copy"), out);
        (out.len() == before).then(|| ReducedLayers {
            list: list.name.clone(),
            path: list.path.clone(),
            kept,
            of: list.len,
            copy: self.copy.clone(),
            copied,
        })
    }

    fn kept(
        &self,
        model: &ModelView,
        list: &BlockList,
        place: &dyn Fn(&str) -> String,
        out: &mut Diagnostics,
    ) -> Kept {
        let (count, at) = match &self.keep {
            Keep::Indices(indices) => {
                list.problems(indices).into_iter().for_each(|problem| out.add(place("keep"), problem));
                (indices.len(), place("keep"))
            }
            Keep::Count { count, .. } => (*count, place("keep.count")),
        };
        if count > list.len && matches!(self.keep, Keep::Count { .. }) {
            let expected = format!("at most {}, the number of layers of `{}`", list.len, list.name);
            out.add(&at, Problem::Range { value: count.to_string(), expected });
        }
        if count == list.len {
            let text = format!("`{}` has {count} layers; keeping {count} reduces nothing", list.name);
            out.add(&at, Problem::Conflict(text));
        }
        match &self.keep {
            Keep::Indices(indices) => Kept::Indices(indices.clone()),
            Keep::Count { count, choice } => match choice.of(*count, list.len) {
                Some(indices) => Kept::Indices(indices),
                None => {
                    alike(model, list, &place("keep.choice"), out);
                    Kept::ByInfluence(*count)
                }
            },
        }
    }
}

/// What a block is made of: layers with kind and shape, parameters with shape, normalizations, by their names within
/// the block.
type Block<'a> = BTreeSet<(&'a str, Option<(LayerKind, bool)>, &'a [usize])>;

/// A plan that does not know yet which blocks stay holds for any of them only if they are alike.
fn alike(model: &ModelView, list: &BlockList, place: &str, out: &mut Diagnostics) {
    let mut blocks: Vec<Block<'_>> = vec![BTreeSet::new(); list.len];
    let mut add = |name, what, shape| {
        if let Some((block, name)) = list.split_name(name) {
            blocks.get_mut(block).map(|parts| parts.insert((name, what, shape)));
        }
    };
    model.sites.iter().for_each(|s| add(&s.name, Some((s.kind, s.drop_in)), s.native.as_slice()));
    model.parameters.iter().for_each(|p| add(&p.name, None, p.shape.as_slice()));
    for (other, block) in blocks.iter().enumerate().skip(1).filter(|(_, block)| **block != blocks[0]) {
        let differs = block.symmetric_difference(&blocks[0]).next().map_or("", |(name, ..)| *name);
        let text = format!(
            "layers chosen by influence must be alike; `{differs}` of layer {other} differs from that of layer 0"
        );
        out.add(place, Problem::Conflict(text));
    }
}

/// Field paths of the parameters beside the list that `names` mean, in model order.
fn copied(
    names: Option<&[String]>,
    model: &ModelView,
    list: &BlockList,
    place: &str,
    out: &mut Diagnostics,
) -> Vec<String> {
    let beside = Beside::new(model, list);
    let Some(names) = names else {
        return beside.paths.iter().map(|path| (*path).to_string()).collect();
    };
    let mut by: HashMap<usize, usize> = HashMap::new();
    for (n, name) in names.iter().enumerate() {
        let place_n = format!("{place}[{n}]");
        match beside.meant_by(name, list) {
            Err(problem) => out.add(place_n, problem),
            Ok(meant) => match meant.iter().map(|m| by.get(m).copied()).collect::<Option<Vec<usize>>>() {
                Some(earlier) => {
                    let first = earlier.into_iter().min().unwrap_or(0);
                    out.add(place_n, Problem::Claimed { by: format!("{place}[{first}]") });
                }
                None => meant.into_iter().for_each(|m| {
                    by.entry(m).or_insert(n);
                }),
            },
        }
    }
    let copied = beside.paths.iter().enumerate().filter(|(at, _)| by.contains_key(at));
    copied.map(|(_, path)| (*path).to_string()).collect()
}

/// The parameters that are not in the list, under all their names.
struct Beside<'a> {
    paths: Vec<&'a str>,
    names: Vec<(String, usize)>,
}

impl<'a> Beside<'a> {
    fn new(model: &'a ModelView, list: &BlockList) -> Self {
        let outside = model.parameters.iter().filter(|p| list.split_path(&p.path).is_none());
        let (paths, mut names) = (outside.clone().map(|p| p.path.as_str()).collect::<Vec<_>>(), Vec::new());
        names.extend(outside.enumerate().map(|(at, p)| (p.name.clone(), at)));
        for site in &model.sites {
            let weight = format!("{}.weight", site.path);
            if let Some(at) = paths.iter().position(|path| **path == weight) {
                names.extend(site.tied.iter().map(|name| (format!("{name}.weight"), at)));
            }
        }
        Self { paths, names }
    }

    /// The parameters that a name of a module or parameter means.
    fn meant_by(&self, name: &str, list: &BlockList) -> Result<Vec<usize>, Problem> {
        if name == list.name || is_below(&list.name, name) {
            let text = format!("`{name}` holds the layers of `{}`; name what stands beside them", list.name);
            return Err(Problem::Conflict(text));
        }
        if is_below(name, &list.name) {
            let text = format!("`{name}` is of `{}`, whose kept layers are taken anyway", list.name);
            return Err(Problem::Conflict(text));
        }
        let hits = self.names.iter().filter(|(known, _)| known == name || is_below(known, name));
        let meant: BTreeSet<usize> = hits.map(|(_, at)| *at).collect();
        if meant.is_empty() {
            return Err(self.unknown(name));
        }
        Ok(meant.into_iter().collect())
    }

    fn unknown(&self, name: &str) -> Problem {
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for (full, _) in &self.names {
            known.insert(full);
            known.extend(full.match_indices('.').map(|(dot, _)| &full[..dot]));
        }
        let hint = nearest(name, known).map_or(String::new(), |near| format!(", did you mean `{near}`?"));
        let expected = format!("a parameter of the model or a module that has some{hint}");
        Problem::Range { value: format!("`{name}`"), expected }
    }
}

/// Whether `name` is that of something inside of `module`.
fn is_below(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}
