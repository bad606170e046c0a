//! The tables as a whole: everything that one record names exists, every pattern compiles, names are unique.

use crate::format::{property_string_formats, simple_format, simple_formats};
use crate::property_string;
use crate::schema::{AdditionalProperties, Kind, Schema};
use crate::{command, lookup, method, methods, pattern, section_config_schema};
use std::collections::{BTreeMap, BTreeSet};

/// Visits a schema and all schemas inside it.
fn visit(schema: &Schema, at: &str, seen: &mut dyn FnMut(&Schema, &str)) {
    seen(schema, at);
    for (name, member) in schema.properties.iter().flatten() {
        visit(member, &format!("{at}.{name}"), seen);
    }
    let alternatives = schema.one_of.iter().flatten().chain(schema.all_of.iter().flatten());
    for part in alternatives.chain(schema.items.as_deref()).chain(schema.type_property_schema.as_deref()) {
        visit(part, &format!("{at}[]"), seen);
    }
    if let Some(AdditionalProperties::Checked(inner)) = &schema.additional_properties {
        visit(inner, &format!("{at}.*"), seen);
    }
}

fn visit_all(schemas: &BTreeMap<String, Schema>, at: &str, seen: &mut dyn FnMut(&Schema, &str)) {
    schemas.iter().for_each(|(name, schema)| visit(schema, &format!("{at} {name}"), seen));
}

/// Visits every schema of the tables.
fn visit_tables(seen: &mut dyn FnMut(&Schema, &str)) {
    for (verb, template) in methods() {
        let method = method(verb, template).expect("listed");
        let at = format!("{verb} {template}");
        visit_all(&method.parameters, &at, seen);
        visit(&method.returns, &at, seen);
        method.parameters_schema.iter().for_each(|schema| visit(schema, &at, seen));
    }
    for name in property_string_formats() {
        visit_all(&property_string::format(name).expect("listed").keys, name, seen);
    }
    for name in section_config_schema::files() {
        let file = section_config_schema::file(name).expect("listed");
        visit_all(&file.properties, name, seen);
        file.types.values().for_each(|section| visit_all(&section.isolated, name, seen));
    }
    for name in command::tools() {
        for (words, command) in &command::tool(name).expect("listed").commands {
            command.parameters.iter().for_each(|parameters| visit_all(parameters, &format!("{name} {words}"), seen));
            command.returns.iter().for_each(|schema| visit(schema, &format!("{name} {words}"), seen));
        }
    }
}

#[test]
fn every_format_exists() {
    let simple: BTreeSet<&str> = simple_formats().collect();
    let property_strings: BTreeSet<&str> = property_string_formats().collect();
    assert!(simple.is_disjoint(&property_strings));
    let mut used = 0;
    visit_tables(&mut |schema, at| {
        let Some(name) = schema.format.as_deref() else { return };
        used += 1;
        let base = name.strip_suffix("-list").or_else(|| name.strip_suffix("-opt")).unwrap_or(name);
        assert!(simple.contains(base) || property_strings.contains(name), "{at}: format {name}");
    });
    assert!(used > 1700, "{used}");
}

#[test]
fn every_pattern_compiles() {
    let mut patterns = BTreeSet::new();
    visit_tables(&mut |schema, _| patterns.extend(schema.pattern.clone()));
    patterns.extend(simple_formats().filter_map(|name| simple_format(name).expect("listed").pattern));
    assert!(patterns.len() > 100, "{}", patterns.len());
    for expression in patterns {
        assert!(pattern::translate(&expression).is_ok() || pattern::matches(&expression, ""), "{expression}");
    }
}

#[test]
fn placeholders_are_parameters() {
    for (verb, template) in methods() {
        let method = method(verb, template).expect("listed");
        for name in template.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            // Declares no path parameters; other names are let through there.
            let exception = template == "/cluster/sdn/prefix-lists/{id}/entries/{url_seq}";
            let declared = method.parameters.get(name);
            assert!(declared.is_some() || exception, "{verb} {template}: {name}");
        }
        let proxied = method.proxyto.as_ref().is_none_or(|name| method.parameters.contains_key(name));
        assert!(proxied, "{verb} {template}: proxied to a node that no parameter names");
    }
}

#[test]
fn required_and_selecting_properties_exist() {
    for (verb, template) in methods() {
        let method = method(verb, template).expect("listed");
        for (name, schema) in &method.parameters {
            for other in schema.requires.iter().chain(&schema.type_property).chain(&schema.alias) {
                assert!(lookup(&method.parameters, other).is_some(), "{verb} {template} {name}: {other}");
            }
            assert_eq!(schema.index.is_some(), name.ends_with("[n]"), "{verb} {template} {name}");
            assert!(schema.index.is_none() || schema.optional, "{verb} {template} {name}: required and indexed");
        }
    }
}

#[test]
fn index_methods_name_their_children() {
    for (verb, template) in methods() {
        let method = method(verb, template).expect("listed");
        let Some(member) = method.child_member() else { continue };
        assert_eq!(method.returns.kind, Some(Kind::Array), "{verb} {template}");
        let row = method.returns.items.as_deref().expect("rows have a schema");
        let known = row.properties.as_ref().is_none_or(|members| members.is_empty() || members.contains_key(member));
        assert!(known, "{verb} {template}: rows have no {member}");
    }
}

#[test]
fn property_string_formats_are_consistent() {
    for name in property_string_formats() {
        let format = property_string::format(name).expect("listed");
        let marked: Vec<&String> =
            format.keys.iter().filter(|(_, schema)| schema.default_key).map(|(key, _)| key).collect();
        assert_eq!(marked, format.default_key.iter().collect::<Vec<_>>(), "{name}");
        for (alias, key) in &format.aliases {
            assert!(format.keys.contains_key(key) && !format.keys.contains_key(alias), "{name} {alias}");
        }
        for group in format.key_alias_groups.values() {
            assert!(format.keys.contains_key(&group.key_stored_in), "{name}");
            assert!(format.keys.contains_key(&group.value_stored_in), "{name}");
        }
        for schema in format.keys.values() {
            assert!(schema.requires.as_ref().is_none_or(|other| format.keys.contains_key(other)), "{name}");
        }
    }
}

#[test]
fn sentences_end_and_fit() {
    let check = |at: &str, doc: &str| {
        assert!(doc.ends_with('.') && doc.len() <= 240 && !doc.contains("  "), "{at}: {doc}");
    };
    for (verb, template) in methods() {
        let method = method(verb, template).expect("listed");
        method.doc.iter().for_each(|doc| check(&format!("{verb} {template}"), doc));
        for name in method.parameters.keys() {
            method.parameter_doc(name).iter().for_each(|doc| check(&format!("{verb} {template} {name}"), doc));
        }
    }
}
