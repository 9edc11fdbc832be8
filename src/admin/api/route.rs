//! What the table of routes says of each.

use hyper::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::call::{Answering, Call};
use crate::admin::tokens::Scope;

/// One route.
pub(super) struct Route {
    /// GET if it reads, POST if it changes something.
    pub(super) method: Method,
    /// Its path; `{name}` is a parameter.
    pub(super) path: &'static str,
    pub(super) scope: Scope,
    /// What it does, in a sentence.
    pub(super) summary: &'static str,
    /// The keys of its query: name, form and description.
    pub(super) query: &'static [(&'static str, SchemaOf, &'static str)],
    /// The request's body, if it takes one.
    pub(super) body: Option<Asked>,
    pub(super) answer: Answered,
    pub(super) handler: fn(Call) -> Answering,
}

/// The body of a request.
pub(super) struct Asked {
    pub(super) schema: SchemaOf,
    pub(super) is_required: bool,
}

/// The form of an answer.
pub(super) enum Answered {
    /// One value.
    Json(SchemaOf),
    /// Values one after another, as server-sent events.
    Events(SchemaOf),
}

/// The form of a type of `answers`.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The form of this type.
pub(super) const fn of<T: JsonSchema>() -> SchemaOf {
    |generator| generator.subschema_for::<T>()
}

/// An answer of this type.
pub(super) const fn answers<T: JsonSchema>() -> Answered {
    Answered::Json(of::<T>())
}

/// A body that must be there.
pub(super) const fn takes<T: JsonSchema>() -> Option<Asked> {
    Some(Asked {
        schema: of::<T>(),
        is_required: true,
    })
}

/// A body that may be left out.
pub(super) const fn may_take<T: JsonSchema>() -> Option<Asked> {
    Some(Asked {
        schema: of::<T>(),
        is_required: false,
    })
}
