//! Lists of blocks in a model, and the view of a model that loses some of them.

use crate::diagnostics::Problem;
use crate::model_view::{ModelView, Site};
use serde::Serialize;
use std::collections::HashMap;

/// A list of blocks of one kind that can lose some of them, such as the layers of an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockList {
    /// Its name, without a number: `bert.encoder.layer`.
    pub name: String,
    /// Its field path in the Rust model.
    pub path: String,
    /// How many blocks it holds.
    pub len: usize,
}

impl BlockList {
    /// The block that something of this name belongs to, and the name within the block; `None` for what stands
    /// beside the list.
    pub fn split_name<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        split(&self.name, name)
    }

    /// [`split_name`](Self::split_name) for a field path.
    pub fn split_path<'a>(&self, path: &'a str) -> Option<(usize, &'a str)> {
        split(&self.path, path)
    }

    /// Everything that speaks against keeping the blocks at `indices` only: none at all, one that is not there, one
    /// that is named twice or out of order.
    pub fn problems(&self, indices: &[usize]) -> Vec<Problem> {
        let mut found = Vec::new();
        if indices.is_empty() {
            let expected = format!("at least one layer of `{}`", self.name);
            found.push(Problem::Range { value: "[]".into(), expected });
        }
        for index in indices.iter().filter(|index| **index >= self.len) {
            let expected = format!("a layer of `{}`, which has {}, counted from 0", self.name, self.len);
            found.push(Problem::Range { value: index.to_string(), expected });
        }
        for pair in indices.windows(2).filter(|pair| pair[0] >= pair[1]) {
            let (first, then) = (pair[0], pair[1]);
            found.push(Problem::Conflict(if first == then {
                format!("layer {then} is kept twice")
            } else {
                format!("layer {then} stands after layer {first}; layers are kept in their order")
            }));
        }
        found
    }
}

/// `list.3.rest` as 3 and `rest`.
fn split<'a>(list: &str, text: &'a str) -> Option<(usize, &'a str)> {
    let below = match list {
        "" => text,
        _ => text.strip_prefix(list)?.strip_prefix('.')?,
    };
    let (index, rest) = below.split_once('.').unwrap_or((below, ""));
    Some((index.parse().ok()?, rest))
}

/// Names or paths after the blocks that are not in `kept` are gone.
struct Renumber<'a> {
    list: &'a str,
    kept: &'a [usize],
}

impl Renumber<'_> {
    /// The text as it reads then; `None` for what is gone.
    fn of(&self, text: &str) -> Option<String> {
        let Some((index, rest)) = split(self.list, text) else { return Some(text.to_string()) };
        let now = self.kept.iter().position(|kept| *kept == index)?.to_string();
        let parts = [self.list, &now, rest];
        Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("."))
    }
}

impl ModelView {
    /// The list of blocks of this name.
    ///
    /// # Errors
    /// When the model has none of this name; the problem names those it has.
    pub fn block_list(&self, name: &str) -> Result<&BlockList, Problem> {
        self.lists.iter().find(|list| list.name == name).ok_or_else(|| {
            let known: Vec<String> = self.lists.iter().map(|list| format!("`{}`", list.name)).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let expected = format!("a list of layers; the model has {known}");
            Problem::Range { value: format!("`{name}`"), expected }
        })
    }

    /// The view of the model that keeps of the list called `list` only the blocks at `indices`, which are then
    /// numbered from 0. It equals the view of a model whose list was really shortened.
    ///
    /// A weight that a dropped block shares with a kept one stays, as the kept block's.
    ///
    /// # Errors
    /// When the model has no such list, or `indices` are not strictly increasing numbers of its blocks; the first
    /// problem found, [`BlockList::problems`] lists all.
    pub fn keep_layers(&self, list: &str, indices: &[usize]) -> Result<Self, Problem> {
        let list = self.block_list(list)?;
        if let Some(problem) = list.problems(indices).into_iter().next() {
            return Err(problem);
        }
        let names = Renumber { list: &list.name, kept: indices };
        let paths = Renumber { list: &list.path, kept: indices };
        let lists = self.lists.iter().filter_map(|other| {
            let (name, path) = (names.of(&other.name)?, paths.of(&other.path)?);
            let len = if other == list { indices.len() } else { other.len };
            Some(BlockList { name, path, len })
        });
        let parameters = self.parameters.iter().filter_map(|p| {
            let (name, path) = (names.of(&p.name)?, paths.of(&p.path)?);
            Some(crate::Parameter { name, path, ..p.clone() })
        });
        let counts = self.counts.iter().filter_map(|c| {
            let (name, path, layer) = (names.of(&c.name)?, paths.of(&c.path)?, paths.of(&c.layer)?);
            Some(crate::OutputCount { name, path, layer, ..c.clone() })
        });
        let mut view = Self {
            sites: self.sites.iter().filter_map(|site| self.kept_site(site, &names, &paths)).collect(),
            parameters: parameters.collect(),
            norms: self.norms.iter().filter_map(|name| names.of(name)).collect(),
            lists: lists.collect(),
            layer_norms: self.layer_norms.iter().filter_map(|path| paths.of(path)).collect(),
            counts: counts.collect(),
            // Made for the whole model; whoever needs them traces the reduced one.
            dependencies: None,
        };
        view.sort_sites();
        Ok(view)
    }

    fn kept_site(&self, site: &Site, names: &Renumber<'_>, paths: &Renumber<'_>) -> Option<Site> {
        let mut tied: Vec<String> = site.tied.iter().filter_map(|name| names.of(name)).collect();
        let (name, path) = match (names.of(&site.name), paths.of(&site.path)) {
            (Some(name), Some(path)) => (name, path),
            _ => {
                // The first layer with this weight is gone; the next one that has it takes its place.
                let heir = site.tied.iter().find_map(|name| {
                    let (now, path) = (names.of(name)?, self.path_of_layer(name)?);
                    Some((now, paths.of(path)?))
                })?;
                tied.retain(|name| *name != heir.0);
                heir
            }
        };
        Some(Site { name, path, tied, ..site.clone() })
    }

    /// Path of the layer whose weight has this name; `None` where no layer of its own has it.
    fn path_of_layer(&self, name: &str) -> Option<&str> {
        let weight = format!("{name}.weight");
        let parameter = self.parameters.iter().find(|p| p.name == weight)?;
        parameter.path.strip_suffix(".weight")
    }

    /// Puts the sites into the order of their weights.
    fn sort_sites(&mut self) {
        let at: HashMap<&str, usize> =
            self.parameters.iter().enumerate().map(|(at, p)| (p.path.as_str(), at)).collect();
        self.sites.sort_by_key(|site| at.get(format!("{}.weight", site.path).as_str()).copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NameTable;
    use burn::backend::Flex;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::prelude::*;

    #[derive(Module, Debug)]
    struct Block<B: Backend> {
        own: Linear<B>,
        shared: Linear<B>,
        norm: BatchNorm<B>,
        inner: Vec<Linear<B>>,
    }

    #[derive(Module, Debug)]
    struct Net<B: Backend> {
        first: Linear<B>,
        stack: Vec<Block<B>>,
        stack_1: Vec<Linear<B>>,
    }

    fn linear(n: usize) -> Linear<Flex> {
        LinearConfig::new(n, 4).init(&Default::default())
    }

    /// Blocks of different widths, so that one taken for another shows.
    fn net(blocks: usize) -> Net<Flex> {
        let shared = linear(3);
        let block = |n| Block {
            own: linear(10 + n),
            shared: shared.clone(),
            norm: BatchNormConfig::new(20 + n).init(&Default::default()),
            inner: (0..n % 3).map(linear).collect(),
        };
        Net { first: linear(2), stack: (0..blocks).map(block).collect(), stack_1: vec![linear(5), linear(6)] }
    }

    /// The stack is called `layer.1`, whose own number is not that of a block; fields are called otherwise.
    fn view(net: &Net<Flex>) -> ModelView {
        let mut names = NameTable::default();
        for (n, block) in net.stack.iter().enumerate() {
            for (field, name) in [("own", "output.dense"), ("shared", "shared"), ("norm", "bn")] {
                names.insert(format!("stack.{n}.{field}"), format!("layer.1.{n}.{name}"), field == "own");
            }
            names.insert(format!("stack.{n}.inner"), format!("layer.1.{n}.inner"), false);
            names.insert_list(format!("stack.{n}.inner"), block.inner.len());
            for m in 0..block.inner.len() {
                names.insert(format!("stack.{n}.inner.{m}"), format!("layer.1.{n}.inner.{m}"), false);
            }
        }
        names.insert("stack", "layer.1", false);
        names.insert_list("stack", net.stack.len());
        names.insert_list("stack_1", net.stack_1.len());
        ModelView::with_names(net, &names)
    }

    #[test]
    fn the_reduced_view_is_that_of_the_reduced_model() {
        for kept in [vec![0], vec![1], vec![11], vec![1, 3, 5], vec![0, 2, 10, 11], (0..12).collect()] {
            let mut model = net(12);
            let reduced = view(&model).keep_layers("layer.1", &kept).expect("layers of the stack");
            let mut blocks: Vec<Option<Block<Flex>>> = model.stack.into_iter().map(Some).collect();
            model.stack = kept.iter().map(|k| blocks[*k].take().expect("once")).collect();
            assert_eq!(reduced, view(&model), "{kept:?}");
        }
    }

    #[test]
    fn a_number_is_a_whole_component() {
        let reduced = view(&net(12)).keep_layers("layer.1", &[1, 11]).expect("layers of the stack");
        let names: Vec<&str> = reduced.sites.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "first",
                "layer.1.0.output.dense",
                "layer.1.0.shared",
                "layer.1.0.inner.0",
                "layer.1.1.output.dense",
                "layer.1.1.inner.0",
                "layer.1.1.inner.1",
                "stack_1.0",
                "stack_1.1"
            ]
        );
        assert_eq!(reduced.sites[4].shape, [4, 21], "the block that was number 11");
        assert_eq!((reduced.sites[4].path.as_str(), reduced.sites[4].drop_in), ("stack.1.own", true));
        assert_eq!(reduced.sites[2].tied, ["layer.1.1.shared"]);
        assert_eq!(reduced.norms, ["layer.1.0.bn", "layer.1.1.bn"]);
        let list = |name: &str, path: &str, len| BlockList { name: name.into(), path: path.into(), len };
        assert!(reduced.lists.contains(&list("layer.1", "stack", 2)));
        assert!(reduced.lists.contains(&list("layer.1.1.inner", "stack.1.inner", 2)));
        assert!(reduced.lists.contains(&list("stack_1", "stack_1", 2)));
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let view = view(&net(3));
        let refused = |list: &str, kept: &[usize]| {
            view.keep_layers(list, kept).expect_err("cannot be kept").to_string()
        };
        let lists = "`layer.1.0.inner`, `layer.1.1.inner`, `layer.1.2.inner`, `layer.1`, `stack_1`";
        assert_eq!(refused("layer", &[0]), format!("`layer` is not a list of layers; the model has {lists}"));
        assert_eq!(refused("layer.1", &[]), "[] is not at least one layer of `layer.1`");
        let text = "3 is not a layer of `layer.1`, which has 3, counted from 0";
        assert_eq!(refused("layer.1", &[1, 3]), text);
        assert_eq!(refused("layer.1", &[1, 1]), "layer 1 is kept twice");
        let text = "layer 0 stands after layer 2; layers are kept in their order";
        assert_eq!(refused("layer.1", &[2, 0]), text);
        let list = view.block_list("layer.1").expect("a list");
        assert_eq!(list.problems(&[2, 2, 0, 9]).len(), 3, "all of them at once");
        let none = ModelView::of(&net(1)).keep_layers("stack", &[0]).expect_err("no lists");
        assert_eq!(none.to_string(), "`stack` is not a list of layers; the model has none");
    }
}
