//! Directives as they are in force in a block, and which of them were looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;

use crate::import::draft::Draft;
use crate::import::environment;
use crate::import::nginx::syntax::Directive;
use crate::import::nginx::template::{self, Own};
use crate::import::report::Report;
use crate::import::text::{Place, printable};
use crate::import::units::nginx_time;

/// What the parts of the importer share.
pub(super) struct Context<'d> {
    pub(super) draft: Draft,
    pub(super) report: Report,
    /// Where relative paths of files start.
    pub(super) prefix: PathBuf,
    /// What gives a variable its value: `map`, `geo`, `split_clients`, `js_set`, `set`.
    pub(super) variables: BTreeMap<String, &'d Directive>,
    used: HashSet<usize>,
}

/// The blocks that a directive is in, from the outermost in.
#[derive(Clone)]
pub(super) struct Scope<'d> {
    levels: Vec<Rc<Level<'d>>>,
}

/// One block, by name: thousands of servers look into the one around them.
struct Level<'d> {
    by_name: HashMap<&'d str, Vec<&'d Directive>>,
}

impl<'d> Context<'d> {
    pub(super) fn new(draft: Draft, report: Report, prefix: PathBuf) -> Self {
        Self {
            draft,
            report,
            prefix,
            variables: BTreeMap::new(),
            used: HashSet::new(),
        }
    }

    pub(super) fn mark(&mut self, directive: &Directive) {
        self.used.insert(directive.id);
    }

    /// Marks a directive and all in its block.
    pub(super) fn mark_all(&mut self, directive: &Directive) {
        self.mark(directive);
        for inner in directive.inner() {
            self.mark_all(inner);
        }
    }

    pub(super) fn is_marked(&self, directive: &Directive) -> bool {
        self.used.contains(&directive.id)
    }

    /// The text with its variables as those of the environment, if it is clear that they are.
    pub(super) fn filled(&self, text: &str, own: Own) -> Option<String> {
        let is_defined = |name: &str| self.variables.keys().any(|defined| defined.eq_ignore_ascii_case(name));
        template::filled(text, own, is_defined)
    }

    /// The path of a file, as nginx would open it. Its variables are those of the environment; where one may be another one, that is
    /// reported, and the path is as written.
    pub(super) fn path(&mut self, written: &str, place: Place) -> String {
        let filled = self.filled(written, Own::Taken).unwrap_or_else(|| {
            self.unreadable(place, written, "a file");
            written.to_owned()
        });
        if environment::begins(&filled) {
            self.report.path_of_variable(place);
            return filled;
        }
        self.prefix.join(filled).display().to_string()
    }

    /// Sets a duration from the first argument of a directive. Returns whether there is one.
    pub(super) fn time(&mut self, table: &'static str, key: &'static str, directive: Option<&Directive>) -> bool {
        let Some(directive) = directive else {
            return false;
        };
        match nginx_time(directive.arg(0)) {
            Some(ms) => self.draft.set_time(table, key, ms, directive.place(), &mut self.report),
            None => {
                self.unreadable(directive.place(), directive.arg(0), "a duration");
                false
            }
        }
    }

    /// Reports a value that nginx might compute, and the importer cannot.
    pub(super) fn unreadable(&mut self, place: Place, written: &str, wanted: &str) {
        let has_variable = written.contains(['$', environment::DOLLAR]);
        let message = match (written, has_variable) {
            ("", _) => format!("{wanted} is missing"),
            (_, true) => format!("{} has a variable, and is to be {wanted}", printable(written)),
            (_, false) => format!("{} is not {wanted}", printable(written)),
        };
        let advice = if has_variable {
            environment::ADVICE
        } else {
            "write the value itself"
        };
        self.report.lost(place, message, advice);
    }
}

impl<'d> Level<'d> {
    fn new(directives: &'d [Directive]) -> Rc<Self> {
        let mut by_name: HashMap<&str, Vec<&Directive>> = HashMap::new();
        for directive in directives {
            by_name.entry(&directive.name.text).or_default().push(directive);
        }
        Rc::new(Self { by_name })
    }

    fn named(&self, name: &str) -> &[&'d Directive] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

impl<'d> Scope<'d> {
    pub(super) fn new(level: &'d [Directive]) -> Self {
        Self {
            levels: vec![Level::new(level)],
        }
    }

    pub(super) fn below(&self, level: &'d [Directive]) -> Self {
        let mut levels = self.levels.clone();
        levels.push(Level::new(level));
        Self { levels }
    }

    /// All directives of this name in the innermost block that has one; those further out do not count there.
    pub(super) fn many(&self, name: &str, context: &mut Context<'d>) -> Vec<&'d Directive> {
        self.mixed(&[name], context)
    }

    /// The directive of this name that is in force.
    pub(super) fn one(&self, name: &str, context: &mut Context<'d>) -> Option<&'d Directive> {
        self.many(name, context).last().copied()
    }

    /// Directives of several names in the innermost block that has any, in their order.
    pub(super) fn mixed(&self, names: &[&str], context: &mut Context<'d>) -> Vec<&'d Directive> {
        let mut found = Vec::new();
        for level in &self.levels {
            let mut here: Vec<&Directive> = names.iter().flat_map(|name| level.named(name)).copied().collect();
            here.sort_by_key(|directive| directive.id);
            here.iter().for_each(|directive| context.mark(directive));
            if !here.is_empty() {
                found = here;
            }
        }
        found
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, name: &str, context: &mut Context<'d>) -> bool {
        self.one(name, context)
            .is_some_and(|directive| directive.arg(0) == "on")
    }

    /// Whether a directive of this name is in force; it is not marked for that.
    pub(super) fn has(&self, name: &str) -> bool {
        self.levels.iter().any(|level| !level.named(name).is_empty())
    }

    /// Those of this name in the outermost block.
    pub(super) fn outermost(&self, name: &str) -> &[&'d Directive] {
        self.levels.first().map_or(&[], |level| level.named(name))
    }
}
