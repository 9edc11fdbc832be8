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
    /// One value, of which a query asks for a part.
    Part { of: SchemaOf, query: SchemaOf },
}

/// The form of a type of `answers`.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

const fn of<T: JsonSchema>() -> SchemaOf {
    |generator| generator.subschema_for::<T>()
}

/// An answer of this type.
pub(super) const fn answers<T: JsonSchema>() -> Answered {
    Answered::Json(of::<T>())
}

/// An answer of this type, to a query of that type.
pub(super) const fn answers_query<T: JsonSchema, Q: JsonSchema>() -> Answered {
    Answered::Part {
        of: of::<T>(),
        query: of::<Q>(),
    }
}

/// A body that may be left out.
pub(super) const fn may_take<T: JsonSchema>() -> Option<Asked> {
    Some(Asked {
        schema: of::<T>(),
        is_required: false,
    })
}

/// A body that must be there.
pub(super) const fn takes<T: JsonSchema>() -> Option<Asked> {
    Some(Asked {
        schema: of::<T>(),
        is_required: true,
    })
}
