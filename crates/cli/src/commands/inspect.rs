//! `briquette inspect`: what is in a folder.

use crate::args::InspectArgs;
use crate::error::CliError;
use crate::model::Opened;
use crate::output::say;
use briquette_checkpoint::TensorFiles;
use briquette_composer::artefact::Artefact;
use briquette_composer::report::{Bytes, RemovedReport, pattern_text};

pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let opened = Opened::new(&args.dir)?;
    let view = opened.config.view();
    let view = match &opened.artefact {
        Some(artefact) => artefact.view(&view)?,
        None => view,
    };
    let task = opened.config.task();
    say!("{}", opened.folder.display());
    say!("measured by {}, {} parameters, {} layers", task.metric(), view.num_params(), view.sites.len());
    match &opened.artefact {
        Some(artefact) => {
            packed(artefact);
            bytes(artefact.files());
        }
        None => {
            let files = TensorFiles::open(&opened.folder)?;
            for site in &view.sites {
                say!("{}  {} x {}", site.name, site.shape[0], site.shape[1]);
            }
            bytes(&files);
        }
    }
    Ok(())
}

fn packed(artefact: &Artefact) {
    let manifest = artefact.manifest();
    say!("artefact, format {}, by {}", manifest.format_version, manifest.written_by);
    for RemovedReport { group, of, kept } in RemovedReport::all(manifest) {
        say!("{group}  {kept} of {of} units");
    }
    for layer in &manifest.layers {
        let input = match manifest.inputs.get(&layer.name) {
            Some(q) => format!(", input {} bits", q.bits),
            None => String::new(),
        };
        let [rows, columns] = layer.shape;
        let (name, bits, group, error) = (&layer.name, layer.bits, layer.group, layer.relative_error);
        say!("{name}  {rows} x {columns}  {bits} bits, {group} columns a scale, error {error:.5}{input}");
    }
    for layer in &manifest.sparse {
        let ([rows, columns], pattern) = (layer.shape, pattern_text(layer.pattern));
        let (name, kept, dense, stored) = (&layer.name, layer.kept, layer.dense_bytes, layer.stored_bytes());
        let form = match layer.format.is_sparse() {
            true => "without zeros",
            false => "with zeros",
        };
        let of = rows * columns;
        say!(
            "{name}  {rows} x {columns}  {pattern}, {kept} of {of} kept, {stored} of {dense} bytes, stored {form}"
        );
    }
}

fn bytes(files: &TensorFiles) {
    let bytes = Bytes::of(files);
    let types: Vec<String> = bytes.by_dtype.iter().map(|(t, n)| format!("{t} {n}")).collect();
    say!("{} bytes of tensors: {}", bytes.total, types.join(", "));
}
