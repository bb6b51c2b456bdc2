//! The recipes of the shared data on the models they were written for.
#![allow(clippy::print_stderr, reason = "a test that skips says so")]

use briquette_composer::{Composer, Recipe};
use briquette_core::ModelView;
use briquette_graph::{Tracing, trace};
use briquette_kernels::backend::Cpu;
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

fn shared(path: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let root = std::env::var_os("BRIQUETTE_DATA").map_or(default, PathBuf::from);
    let found = root.join(path);
    if !found.exists() {
        eprintln!(
            "SKIPPED: {} is missing; set BRIQUETTE_DATA to the folder with models and data",
            found.display()
        );
        return None;
    }
    Some(found)
}

fn recipes() -> Option<Vec<PathBuf>> {
    Some(files(&shared("recipes")?))
}

/// The recipes in a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// Runs a model with weights that do not matter, to see what goes together in it.
struct Traced;

impl ModelJob<Tracing> for Traced {
    type Output = ModelView;

    fn run<M: Pretrained<Tracing>>(self, config: &M::Config) -> ModelView {
        let device = Default::default();
        let model = M::init(config, &device);
        let inputs = Inputs::dummy(&config.task(), 2, 3, &device).expect("inputs of its task");
        let trace = trace(&model, &model.naming().layers, inputs, |m, inputs| m.logits(inputs));
        model.view().with_dependencies(trace.expect("it can be traced").dependencies())
    }
}

/// The model that a word of a recipe's name stands for.
fn view(word: Option<&str>) -> Option<ModelView> {
    let folder = match word {
        Some("bert") => "models/minilm-sst2",
        Some("gpt2") => "models/gpt2-wikitext2",
        Some("resnet20") => "models/resnet20-cifar10",
        _ => panic!("{word:?} names no model"),
    };
    static VIEWS: Mutex<BTreeMap<&str, ModelView>> = Mutex::new(BTreeMap::new());
    let mut views = VIEWS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(view) = views.get(folder) {
        return Some(view.clone());
    }
    let view = ModelConfig::from_dir(shared(folder)?).expect("a model's folder").run(Traced);
    Some(views.entry(folder).or_insert(view).clone())
}

#[test]
fn every_recipe_reads() {
    let Some(files) = recipes() else { return };
    assert!(!files.is_empty());
    for file in files {
        let recipe = Recipe::from_file(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(recipe.problems.is_empty(), "{}", recipe.problems);
    }
}

#[test]
fn every_recipe_plans() {
    let Some(files) = recipes() else { return };
    for file in files {
        let name = name(&file);
        let Some(view) = view(name.rsplit('_').next()) else { continue };
        let recipe = Recipe::from_file(&file).unwrap_or_else(|e| panic!("{e}"));
        let planned = Composer::<Cpu>::builtin().plan(&recipe, &view);
        if name.starts_with("layer_reduction_") {
            let plan = planned.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(plan.layer_reduction().and_then(|r| r.indices()), Some(&[1, 3, 5][..]), "{name}");
            let half = |view: &ModelView| view.sites.iter().filter(|s| s.name.contains(".layer.")).count();
            assert_eq!(2 * half(plan.model()), half(&view), "{name}");
            assert_eq!(plan.steps().is_empty(), name == "layer_reduction_bert", "{name}");
            let last = plan.steps().iter().filter(|s| s.site.name.contains(".layer.2.")).count();
            assert_eq!(last, if plan.steps().is_empty() { 0 } else { 2 * 6 }, "{name}");
        } else if name.starts_with("moq_") {
            let plan = planned.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(plan.steps().iter().all(|s| s.details["start_bits"] == 12 && s.details["bits"] == 8));
            assert_eq!(plan.eigenvalue().map(|e| (e.layer_num, e.max_iter)), Some((6, 50)));
            assert_eq!(plan.eigenvalue_blocks()[5].path, "bert.encoder.layer.5");
        } else if name.starts_with("zeroquant_") || name.starts_with("xtc_") {
            let plan = planned.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(plan.steps().len() > view.sites.len() / 2, "{name}");
            assert!(plan.steps().iter().any(|s| s.method == "weight_quantization"), "{name}");
            assert!(plan.steps().iter().any(|s| s.method == "activation_quantization"), "{name}");
        } else {
            let plan = planned.unwrap_or_else(|e| panic!("{name}: {e}"));
            let (method, steps, kept) = match name.as_str() {
                "row_topk_bert" => ("row_pruning", 6, Some(922)),
                "head_topk_bert" => ("head_pruning", 6, Some(8)),
                "channel_topk_resnet20" => ("channel_pruning", 9, None),
                "sparse_l1_bert" => ("sparse_pruning", 36, None),
                "sparse_snip_bert" => ("sparse_pruning", 36, None),
                _ => panic!("{name} is new"),
            };
            assert!(plan.steps().iter().all(|s| s.method == method), "{name}");
            assert_eq!(plan.steps().len(), steps, "{name}");
            for step in plan.steps() {
                let cut = step.cut.as_ref();
                let removed = cut.is_some_and(|cut| cut.removed);
                assert_eq!(removed, method != "sparse_pruning", "{name}: {}", step.site.name);
                if let Some(kept) = kept {
                    assert_eq!(cut.and_then(|cut| cut.kept), Some(kept), "{name}");
                }
            }
        }
    }
}

#[test]
fn the_same_recipe_gives_the_same_plan() {
    let Some(files) = recipes() else { return };
    for file in files.iter().filter(|f| name(f).starts_with("zeroquant_")) {
        let Some(view) = view(name(file).rsplit('_').next()) else { continue };
        let text = || {
            let recipe = Recipe::from_file(file).unwrap_or_else(|e| panic!("{e}"));
            let plan = Composer::<Cpu>::builtin().plan(&recipe, &view).unwrap_or_else(|e| panic!("{e}"));
            plan.to_json().to_string()
        };
        assert_eq!(text(), text());
    }
}

#[test]
fn the_recipes_of_this_repository_plan() {
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes")) {
        let name = name(&file);
        let recipe = Recipe::from_file(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(recipe.problems.is_empty(), "{name}: {}", recipe.problems);
        let Some(view) = view(name.split('_').next()) else { continue };
        let plan = Composer::<Cpu>::builtin().plan(&recipe, &view).unwrap_or_else(|e| panic!("{name}: {e}"));
        let acts =
            !plan.steps().is_empty() || plan.layer_reduction().is_some() || plan.sensitivity().is_some();
        assert!(acts, "{name} does nothing");
        assert_eq!(plan.layer_by_layer().is_some(), name.contains("_lkd_"), "{name}");
        let planned = |bits: u64| plan.steps().iter().any(|s| s.details["bits"] == bits);
        let widths = name.split('_').find_map(|part| part.strip_prefix('w')).unwrap_or_default();
        let weights = widths.split(['a', 'g']).next().unwrap_or_default();
        assert!(weights.chars().filter_map(|c| c.to_digit(10)).all(|bits| planned(bits.into())), "{name}");
    }
}
