//! The OpenAPI document, made of the table of routes.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::answers::Refused;
use super::call::{Call, Refusal, Reply};
use super::route::{Answered, Route};
use crate::base::build;

pub(super) async fn show(_: Call, routes: &[Route]) -> Result<Reply, Refusal> {
    Reply::json(&document(routes))
}

/// The document, of OpenAPI 3.1, whose schemas are those of JSON Schema 2020-12.
fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in routes {
        let of_path = paths.entry(route.path).or_insert_with(|| json!({}));
        let method = route.method.as_str().to_ascii_lowercase();
        of_path[method] = operation(route, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Remora's control API",
            "version": build::VERSION,
            "description": "On the admin socket every route is open; on TCP each takes a token with the scope that it names.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    for (name, schema, description) in route.query {
        parameters
            .push(json!({ "name": name, "in": "query", "description": description, "schema": schema(generator) }));
    }
    let scope = route.scope.name();
    let (content_type, schema) = match route.answer {
        Answered::Json(schema) => ("application/json", json!(schema(generator))),
        Answered::Events(schema) => ("text/event-stream", json!(schema(generator))),
    };
    let refused = json!(generator.subschema_for::<Refused>());
    let mut operation = json!({
        "summary": route.summary,
        "description": format!("Takes the scope `{scope}`."),
        "operationId": operation_id(route),
        "parameters": parameters,
        "security": [{ "token": [] }],
        "responses": {
            "200": { "description": "Done.", "content": { content_type: { "schema": schema } } },
            "default": { "description": "Refused.", "content": { "application/json": { "schema": refused } } },
        },
    });
    if let Some(body) = &route.body {
        operation["requestBody"] = json!({
            "required": body.is_required,
            "content": { "application/json": { "schema": (body.schema)(generator) } },
        });
    }
    operation
}

/// A name for the operation, as generators of clients want it: `nodes_name_drain_post`.
fn operation_id(route: &Route) -> String {
    let path = route.path.trim_start_matches("/api/v1/");
    let words = path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    format!("{}_{}", words.join("_"), route.method.as_str().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::routes::ROUTES;
    use super::*;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document(ROUTES);
        let mut written = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for method in operations.as_object().expect("operations").keys() {
                written.insert((path.clone(), method.to_uppercase()));
            }
        }
        let of = |route: &Route| (route.path.to_owned(), route.method.to_string());
        assert_eq!(written, ROUTES.iter().map(of).collect());
        assert_eq!(written.len(), ROUTES.len(), "no route is there twice");
        let ids: BTreeSet<String> = ROUTES.iter().map(operation_id).collect();
        assert_eq!(ids.len(), ROUTES.len());
    }

    #[test]
    fn the_documentation_lists_every_route_and_no_other() {
        let page = include_str!("../../../docs/control.md");
        let rows = page
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" | `/api/"));
        let listed: BTreeSet<String> = rows
            .filter_map(|(method, rest)| Some(format!("{method} /api/{}", rest.split_once('`')?.0)))
            .collect();
        let of = |route: &Route| format!("{} {}", route.method, route.path);
        assert_eq!(listed, ROUTES.iter().map(of).collect());
        for kind in crate::base::events::Change::KINDS {
            assert!(page.contains(&format!("`{kind}`")), "{kind}");
        }
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(entries) => {
                    found.extend(entries.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    entries.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document(ROUTES);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() >= 4, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("in this document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
