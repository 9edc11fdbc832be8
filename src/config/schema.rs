//! The configuration as a JSON Schema, by which editors complete and check it: its keys and forms from the types that read it, what they mean
//! and their defaults from the reference.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::file::File;
use super::reader::{Form, Shape, Value};

/// The reference: every key, below its explanation.
const REFERENCE: &str = include_str!("../../config/full.toml");

/// The keys without which a table means nothing; what stands for them in the reference is no default. A node that is found has no name.
const REQUIRED: &[(&str, &str)] = &[("listeners", "address"), ("nodes", "address")];

/// What the reference says in place of a default.
const EXAMPLES: &[&str] = &["nodes.name"];

/// The schema as a file.
pub fn schema() -> String {
    let reference = reference();
    let mut schema = of_shape(&<File as Value>::SHAPE, "", &reference);
    schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    schema.insert("title".to_owned(), json!("The configuration of Remora"));
    format!("{:#}\n", Json::Object(schema))
}

/// What the reference says of a key or a table.
#[derive(Debug, Default)]
struct About {
    description: String,
    value: Option<Json>,
    /// Whether the value is in force without the key.
    is_default: bool,
}

/// What the reference says, by path.
fn reference() -> BTreeMap<String, About> {
    let mut all = BTreeMap::new();
    let mut table = String::new();
    let mut comment: Vec<&str> = Vec::new();
    // Several keys may stand below one comment.
    let mut last = String::new();
    for line in REFERENCE.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned();
            last = comment.join(" ");
            comment.clear();
            let about = About {
                description: last.clone(),
                ..About::default()
            };
            all.entry(table.clone()).or_insert(about);
        } else if let Some((key, value)) = setting(bare) {
            if !comment.is_empty() {
                last = comment.join(" ");
                comment.clear();
            }
            let path = path_of(&table, key);
            let is_value =
                REQUIRED.iter().any(|(table, key)| path_of(table, key) == path) || EXAMPLES.contains(&&*path);
            let about = About {
                description: last.clone(),
                value,
                is_default: bare == line && !is_value,
            };
            all.entry(path).or_insert(about);
        } else if line.starts_with("# ") {
            comment.push(bare);
        } else {
            comment.clear();
            last.clear();
        }
    }
    all
}

/// The key of a line, and its value.
fn setting(line: &str) -> Option<(&str, Option<Json>)> {
    let (key, _) = line.split_once(" = ")?;
    let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let value = || serde_json::to_value(toml::from_str::<toml::Table>(line).ok()?.remove(key)?).ok();
    is_key.then(|| (key, value()))
}

fn path_of(table: &str, key: &str) -> String {
    match table {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    }
}

fn of_shape(shape: &Shape, path: &str, reference: &BTreeMap<String, About>) -> Map<String, Json> {
    let mut schema = match shape {
        Shape::Leaf(form) => of_form(*form),
        Shape::List(items) => {
            let mut items = of_shape(items, path, reference);
            // Said of the list.
            for key in ["description", "default", "examples"] {
                items.remove(key);
            }
            object(json!({ "type": "array", "items": items }))
        }
        Shape::Table(keys) => {
            let properties: Map<String, Json> = keys
                .iter()
                .map(|(key, shape)| {
                    let schema = of_shape(shape, &path_of(path, key), reference);
                    ((*key).to_owned(), Json::Object(schema))
                })
                .collect();
            let mut schema = object(json!({
                "type": "object",
                "additionalProperties": false,
                "properties": properties,
            }));
            let required = REQUIRED.iter().filter(|(table, _)| *table == path);
            let required: Vec<&str> = required.map(|(_, key)| *key).collect();
            if !required.is_empty() {
                schema.insert("required".to_owned(), json!(required));
            }
            schema
        }
    };
    if let Some(about) = reference.get(path) {
        schema.insert("description".to_owned(), json!(about.description));
        if let Some(value) = &about.value {
            let (key, value) = match about.is_default {
                true => ("default", value.clone()),
                false => ("examples", json!([value])),
            };
            schema.insert(key.to_owned(), value);
        }
    }
    schema
}

fn of_form(form: Form) -> Map<String, Json> {
    /// In the place of any string: what it names is known only where the process runs.
    const REFERENCE: &str = r"\$\{";
    object(match form {
        Form::Text => json!({ "type": "string" }),
        Form::Truth => json!({ "type": "boolean" }),
        Form::Whole(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Form::Amount(units) => {
            let units: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
            let pattern = format!("^[0-9]+({})$|{REFERENCE}", units.join("|"));
            json!({ "type": "string", "pattern": pattern })
        }
        Form::Words(words) => json!({ "type": "string", "anyOf": [{ "enum": words() }, { "pattern": REFERENCE }] }),
        Form::OneOrMore => json!({ "type": ["string", "array"], "items": { "type": "string" } }),
    })
}

fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_schema_of_the_repository_is_that_of_the_types() {
        let committed = include_str!("../../config/remora.schema.json");
        let hint = "write it anew: remora config --schema > config/remora.schema.json";
        assert_eq!(committed, schema(), "{hint}");
    }

    #[test]
    fn every_key_has_a_description_and_a_value() {
        let schema: Json = serde_json::from_str(&schema()).expect("JSON");
        let mut seen = 0;
        let mut left = vec![(String::new(), &schema)];
        while let Some((path, at)) = left.pop() {
            let table = if at["items"]["properties"].is_object() {
                &at["items"]
            } else {
                at
            };
            for (key, below) in table["properties"].as_object().into_iter().flatten() {
                let path = path_of(&path, key);
                let is_table = below["properties"].is_object() || below["items"]["properties"].is_object();
                // Those of an inline table are described with it.
                if path.matches('.').count() < 2 && !path.starts_with("nodes_tls.certificate.") {
                    let description = below["description"].as_str().unwrap_or_default();
                    assert!(description.len() > 10, "{path} has no description");
                    let has_value = below["default"] != Json::Null || below["examples"][0] != Json::Null;
                    assert!(has_value || is_table, "{path} has no value");
                    seen += 1;
                }
                left.push((path, below));
            }
        }
        assert!(seen > 100, "only {seen} keys");
        let key = |table: &str, key: &str| schema["properties"][table]["properties"][key].clone();
        assert_eq!(key("timeouts", "dial")["default"], "2s");
        assert_eq!(key("keepalive", "idle")["default"], Json::Null);
        let of_listener = &schema["properties"]["listeners"]["items"];
        assert_eq!(of_listener["required"], json!(["address"]));
        assert_eq!(
            of_listener["properties"]["address"]["examples"],
            json!(["0.0.0.0:1883"])
        );
    }

    #[test]
    fn what_the_schema_requires_is_required() {
        const MINIMAL: &str = include_str!("../../config/minimal.toml");
        for (table, key) in REQUIRED {
            let header = format!("[[{table}]]");
            let at = MINIMAL.find(&header).expect("the table");
            let line = at + MINIMAL[at..].find(&format!("{key} = ")).expect("the key");
            let mut without = MINIMAL.to_owned();
            without.insert_str(line, "# ");
            let problems = config::parse("without.toml", &without).expect_err("it is required");
            assert!(
                problems.first().contains("is missing"),
                "{table}.{key}: {}",
                problems.first()
            );
        }
    }
}
