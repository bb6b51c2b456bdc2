//! Which layers an entry of a recipe means.

use crate::diagnostics::{Diagnostics, Problem, nearest};
use crate::model_view::{LayerKind, Site};
use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("pattern `{pattern}`: {reason}")]
pub struct PatternError {
    /// The pattern as written.
    pub pattern: String,
    /// Why.
    pub reason: String,
}

/// One pattern over layer names.
///
/// | written | means |
/// |---|---|
/// | `bert.pooler.dense` | the layer of exactly this name |
/// | `bert.*.dense` | a glob: `*` and `?` stay within one name component, `**` crosses components |
/// | `bert.encoder.layer.{0..3}.**` | a glob with a range of layer numbers, both ends included |
/// | `re:^bert\..*dense$` | a regular expression, unanchored unless it says otherwise |
#[derive(Debug, Clone)]
pub struct LayerPattern {
    text: String,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    Exact,
    Glob(Vec<GlobMatcher>),
    Regex(Regex),
    All,
    Kinds(Vec<LayerKind>),
}

impl LayerPattern {
    /// Reads a pattern of the native recipe.
    ///
    /// # Errors
    /// When the glob, the range or the regular expression is malformed.
    pub fn native(text: &str) -> Result<Self, PatternError> {
        let matcher = if let Some(expression) = text.strip_prefix("re:") {
            Matcher::Regex(compile(text, expression)?)
        } else if text == "*" || text == "**" {
            Matcher::All
        } else if text.contains(['*', '?', '{', '[']) {
            Matcher::Glob(globs(text)?)
        } else {
            Matcher::Exact
        };
        Ok(Self { text: text.into(), matcher })
    }

    /// Reads a pattern of a DeepSpeed recipe: an unanchored regular expression. `*`, DeepSpeed's
    /// documented default, means every layer.
    ///
    /// # Errors
    /// When the regular expression is malformed.
    pub fn deepspeed(text: &str) -> Result<Self, PatternError> {
        let matcher = match text {
            "*" | ".*" | "" => Matcher::All,
            _ => Matcher::Regex(compile(text, text)?),
        };
        Ok(Self { text: text.into(), matcher })
    }

    /// Every layer of these kinds that a method can act on; `text` is what messages call it.
    pub fn of_kinds(text: &str, kinds: &[LayerKind]) -> Self {
        Self { text: text.into(), matcher: Matcher::Kinds(kinds.to_vec()) }
    }

    /// The pattern as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it stands for every layer that a method can act on.
    pub fn is_all(&self) -> bool {
        matches!(self.matcher, Matcher::All | Matcher::Kinds(_))
    }

    /// Whether a layer of this kind can be meant.
    fn takes(&self, kind: LayerKind) -> bool {
        match &self.matcher {
            Matcher::Kinds(kinds) => kinds.contains(&kind),
            _ => true,
        }
    }

    /// Whether the layer called `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => self.text == name,
            Matcher::All | Matcher::Kinds(_) => true,
            Matcher::Regex(r) => r.is_match(name),
            // globset's separator is `/`, a layer name's is `.`.
            Matcher::Glob(globs) => globs.iter().any(|g| g.is_match(name.replace('.', "/"))),
        }
    }
}

fn compile(pattern: &str, expression: &str) -> Result<Regex, PatternError> {
    Regex::new(expression).map_err(|e| PatternError {
        pattern: pattern.into(),
        reason: e.to_string().lines().last().unwrap_or("malformed").trim().to_string(),
    })
}

/// Most numbers a `{a..b}` range may stand for.
const MAX_RANGE: usize = 4096;

fn globs(text: &str) -> Result<Vec<GlobMatcher>, PatternError> {
    let refuse = |reason: String| PatternError { pattern: text.into(), reason };
    expand_ranges(text)?
        .iter()
        .map(|one| {
            GlobBuilder::new(&one.replace('.', "/"))
                .literal_separator(true)
                .build()
                .map(|g| g.compile_matcher())
                .map_err(|e| refuse(e.kind().to_string()))
        })
        .collect()
}

/// `a.{0..2}.b` as `a.{0,1,2}.b`; one string, unless a range is malformed.
fn expand_ranges(text: &str) -> Result<Vec<String>, PatternError> {
    let refuse = |reason: &str| PatternError { pattern: text.into(), reason: reason.into() };
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').ok_or_else(|| refuse("`{` without `}`"))? + open;
        let inside = &rest[open + 1..close];
        out.push_str(&rest[..open]);
        match inside.split_once("..") {
            None => out.push_str(&rest[open..=close]),
            Some((from, to)) => {
                let number = |s: &str| s.parse::<usize>().map_err(|_| refuse("a range is `{first..last}`"));
                let (from, to) = (number(from)?, number(to)?);
                if from > to || to - from >= MAX_RANGE {
                    return Err(refuse("the range is empty or too long"));
                }
                let list: Vec<String> = (from..=to).map(|n| n.to_string()).collect();
                out.push_str(&format!("{{{}}}", list.join(",")));
            }
        }
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    Ok(vec![out])
}

/// The layers that an entry acts on: those matched by `on`, less those matched by `except`.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// Patterns of layers to take, each with its place in the recipe.
    pub on: Vec<(String, LayerPattern)>,
    /// Patterns of layers to leave out, each with its place in the recipe.
    pub except: Vec<(String, LayerPattern)>,
}

impl Selector {
    /// The layers meant, in model order. A pattern that matches nothing is a problem.
    ///
    /// `fits` says which layers the method can act on at all: a pattern for "every layer" takes
    /// only those, any other pattern takes what it matches, and the method reports what it cannot
    /// act on.
    pub fn select(&self, sites: &[Site], fits: impl Fn(&Site) -> bool, out: &mut Diagnostics) -> Vec<Site> {
        let hit = |p: &LayerPattern, s: &Site| {
            p.matches(&s.name) && p.takes(s.kind) && (!p.is_all() || fits(s))
                || s.tied.iter().any(|t| !p.is_all() && p.matches(t))
        };
        for (place, pattern) in self.on.iter().chain(&self.except) {
            if !sites.iter().any(|s| hit(pattern, s)) {
                let nearest = nearest(pattern.text(), sites.iter().map(|s| s.name.as_str()));
                out.add(place, Problem::NoMatch { pattern: pattern.text().into(), nearest });
            }
        }
        sites
            .iter()
            .filter(|s| self.on.iter().any(|(_, p)| hit(p, s)))
            .filter(|s| !self.except.iter().any(|(_, p)| hit(p, s)))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let p = LayerPattern::native(pattern).expect("a legal pattern");
        yes.iter().for_each(|n| assert!(p.matches(n), "{pattern} should match {n}"));
        no.iter().for_each(|n| assert!(!p.matches(n), "{pattern} should not match {n}"));
    }

    #[test]
    fn native_patterns() {
        check("a.b", &["a.b"], &["a.b.c", "xa.b", "aXb"]);
        check("a.*.c", &["a.b.c"], &["a.b.b.c", "a.c"]);
        check("a.**", &["a.b.c", "a.b"], &["b.a"]);
        check("layer.1.**", &["layer.1.x"], &["layer.10.x", "layer.11.x"]);
        check("layer.{0..2}.x", &["layer.0.x", "layer.2.x"], &["layer.3.x", "layer.20.x"]);
        check("{q,k}", &["q", "k"], &["v"]);
        check(r"re:layer\.1$", &["a.layer.1"], &["a.layer.10"]);
        check("*", &["anything.at.all"], &[]);
    }

    #[test]
    fn layers_of_a_kind() {
        let site = |name: &str, kind| Site {
            name: name.into(),
            path: name.into(),
            kind,
            shape: [2, 2],
            native: vec![2, 2],
            trainable: true,
            tied: vec!["also".into()],
            drop_in: true,
        };
        let sites =
            [site("words", LayerKind::Embedding), site("a", LayerKind::Linear), site("b", LayerKind::Linear)];
        let select = |kinds: &[LayerKind], fits: fn(&Site) -> bool| {
            let pattern = LayerPattern::of_kinds("these layers", kinds);
            let selector = Selector { on: vec![("here".into(), pattern)], except: vec![] };
            let mut out = Diagnostics::new();
            let names: Vec<String> =
                selector.select(&sites, fits, &mut out).into_iter().map(|s| s.name).collect();
            (names, out.iter().map(|d| d.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(select(&[LayerKind::Linear], |_| true).0, ["a", "b"]);
        assert_eq!(select(&[LayerKind::Linear, LayerKind::Embedding], |s| s.name != "a").0, ["words", "b"]);
        let none = "here: pattern `these layers` matches no layer";
        assert_eq!(select(&[LayerKind::Conv2d], |_| true), (vec![], vec![none.to_string()]));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in ["re:(", "a.{0..", "a.{5..2}", "a.{x..2}", "a.[", "{0..99999}"] {
            assert!(LayerPattern::native(bad).is_err(), "{bad}");
        }
        assert!(LayerPattern::deepspeed("(").is_err());
    }

    #[test]
    fn deepspeed_patterns_are_unanchored() {
        let p = LayerPattern::deepspeed("layer.1").expect("legal");
        assert!(p.matches("layer.1.x") && p.matches("layer.10.x") && p.matches("my_layer-1"));
        assert!(LayerPattern::deepspeed("*").expect("legal").is_all());
    }
}
