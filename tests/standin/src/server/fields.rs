//! Who owns which field: `metadata.managedFields`, kept for every change that comes through the API, and server-side
//! apply, which decides by it. Lists with a merge key are owned item by item, all others as a whole.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::patch::{self, merge_key};
use crate::clock::kubernetes_now;

/// A field: its steps as `fieldsV1` writes them.
type Path = Vec<String>;
type Fields = BTreeSet<Path>;

/// Who changes an object, and by which version of its API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manager<'a> {
    pub(super) name: &'a str,
    pub(super) api_version: &'a str,
}

/// Fields that an apply may not take, each with its owner.
pub(super) type Conflicts = Vec<(String, String)>;

/// Notes what an update or a patch changed from `old`; the changed fields are then the manager's alone.
pub(super) fn track(old: &Value, new: &mut Value, manager: Manager<'_>) {
    let before = owned_fields(old);
    let after = owned_fields(new);
    let changed: Fields = after
        .iter()
        .filter(|path| at(old, path) != at(new, path))
        .cloned()
        .collect();
    let gone: Fields = before.difference(&after).cloned().collect();
    let mut entries = entries(old);
    if changed.is_empty() && gone.is_empty() {
        write(new, entries);
        return;
    }
    for entry in &mut entries {
        let own = entry.manager == manager.name && entry.operation == "Update";
        entry
            .fields
            .retain(|path| !gone.contains(path) && (own || !changed.contains(path)));
    }
    claim(&mut entries, manager, "Update", &changed, false);
    write(new, entries);
}

/// Server-side apply of `config` over `old`.
pub(super) fn apply(
    old: Option<&Value>,
    config: &Value,
    manager: Manager<'_>,
    force: bool,
) -> Result<Value, Conflicts> {
    let wanted = owned_fields(config);
    let empty = json!({});
    let base = old.unwrap_or(&empty);
    let mut entries = entries(base);
    let own = |entry: &Entry| entry.manager == manager.name && entry.operation == "Apply";
    let mut conflicts = Conflicts::new();
    for entry in &mut entries {
        if own(entry) {
            continue;
        }
        let taken: Vec<Path> = entry
            .fields
            .iter()
            .filter(|path| wanted.contains(*path) && at(base, path) != at(config, path))
            .cloned()
            .collect();
        for path in taken {
            conflicts.push((entry.manager.clone(), display(&path)));
            entry.fields.remove(&path);
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut new = base.clone();
    let mut given = config.clone();
    if let Some(metadata) = given.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    patch::strategic(&mut new, &given);
    let dropped: Vec<Path> = entries
        .iter()
        .filter(|entry| own(entry))
        .flat_map(|entry| entry.fields.difference(&wanted).cloned())
        .collect();
    for path in dropped {
        let shared = entries
            .iter()
            .any(|entry| !own(entry) && entry.fields.contains(&path));
        if !shared {
            remove(&mut new, &path);
        }
    }
    claim(&mut entries, manager, "Apply", &wanted, true);
    write(&mut new, entries);
    Ok(new)
}

/// One entry of `managedFields`.
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    time: String,
    fields: Fields,
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter()
        .flatten()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let mut fields = Fields::new();
            read(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
            Entry {
                manager: text("manager"),
                operation: text("operation"),
                api_version: text("apiVersion"),
                time: text("time"),
                fields,
            }
        })
        .collect()
}

fn claim(
    entries: &mut Vec<Entry>,
    manager: Manager<'_>,
    operation: &str,
    fields: &Fields,
    replace: bool,
) {
    let at = entries
        .iter()
        .position(|entry| entry.manager == manager.name && entry.operation == operation);
    match at {
        Some(index) => {
            let entry = &mut entries[index];
            let mut claimed = fields.clone();
            if !replace {
                claimed.extend(entry.fields.iter().cloned());
            }
            if claimed != entry.fields {
                entry.fields = claimed;
                entry.time = kubernetes_now();
            }
        }
        None => entries.push(Entry {
            manager: manager.name.to_owned(),
            operation: operation.to_owned(),
            api_version: manager.api_version.to_owned(),
            time: kubernetes_now(),
            fields: fields.clone(),
        }),
    }
}

fn write(object: &mut Value, entries: Vec<Entry>) {
    let list: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut tree = json!({});
            for path in &entry.fields {
                let mut place = &mut tree;
                for step in path {
                    if place[step].is_null() {
                        place[step] = json!({});
                    }
                    place = &mut place[step];
                }
            }
            json!({"manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": tree})
        })
        .collect();
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if !list.is_empty() {
            metadata.insert("managedFields".into(), list.into());
        }
    }
}

fn read(tree: &Value, path: &mut Path, fields: &mut Fields) {
    let steps = tree.as_object().filter(|steps| !steps.is_empty());
    let Some(steps) = steps else {
        if !path.is_empty() {
            fields.insert(path.clone());
        }
        return;
    };
    for (step, below) in steps {
        path.push(step.clone());
        read(below, path, fields);
        path.pop();
    }
}

// What can be owned: all but the type, and of the metadata what its owner writes.
fn owned_fields(object: &Value) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let mut path = vec![format!("f:{name}")];
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    if !value[part].is_null() {
                        path.push(format!("f:{part}"));
                        leaves(part, &value[part], &mut path, &mut fields);
                        path.pop();
                    }
                }
            }
            _ => leaves(name, value, &mut path, &mut fields),
        }
    }
    fields
}

fn leaves(name: &str, value: &Value, path: &mut Path, fields: &mut Fields) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (field, value) in map {
                path.push(format!("f:{field}"));
                leaves(field, value, path, fields);
                path.pop();
            }
        }
        Value::Array(items) if keyed(name, items).is_some() => {
            let key = keyed(name, items).unwrap_or_default();
            for item in items {
                path.push(step(key, item));
                leaves("", item, path, fields);
                path.pop();
            }
        }
        _ => {
            fields.insert(path.clone());
        }
    }
}

// The merge key of a list whose items all have it.
fn keyed(name: &str, items: &[Value]) -> Option<&'static str> {
    let key = merge_key(name)?;
    let all = !items.is_empty()
        && items
            .iter()
            .all(|item| key.is_empty() || !item[key].is_null());
    all.then_some(key)
}

fn step(key: &str, item: &Value) -> String {
    if key.is_empty() {
        format!("v:{item}")
    } else {
        let mut named = Map::new();
        named.insert(key.to_owned(), item[key].clone());
        format!("k:{}", Value::Object(named))
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(object, |value, step| match step.split_at_checked(2)? {
            ("f:", field) => value.get(field),
            ("k:", named) => {
                let named: Map<String, Value> = serde_json::from_str(named).ok()?;
                let matches =
                    |item: &&Value| named.iter().all(|(key, wanted)| item[key] == *wanted);
                value.as_array()?.iter().find(matches)
            }
            ("v:", item) => {
                let item: Value = serde_json::from_str(item).ok()?;
                value.as_array()?.iter().find(|one| **one == item)
            }
            _ => None,
        })
}

// Removes a field, and the maps and items that are empty without it.
fn remove(object: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match step.split_at_checked(2) {
        Some(("f:", field)) => {
            let Some(map) = object.as_object_mut() else {
                return;
            };
            if let Some(below) = map.get_mut(field) {
                remove(below, rest);
                let empty = below.as_object().is_some_and(Map::is_empty)
                    || below.as_array().is_some_and(Vec::is_empty);
                if rest.is_empty() || empty {
                    map.remove(field);
                }
            }
        }
        Some((_, named)) => {
            let named: Value = serde_json::from_str(named).unwrap_or_default();
            let Some(items) = object.as_array_mut() else {
                return;
            };
            let matches = |item: &Value| match named.as_object() {
                Some(keys) => keys.iter().all(|(key, wanted)| item[key] == *wanted),
                None => *item == named,
            };
            let Some(index) = items.iter().position(matches) else {
                return;
            };
            remove(&mut items[index], rest);
            let only_key = items[index].as_object().is_some_and(|item| item.len() <= 1);
            if rest.is_empty() || only_key {
                items.remove(index);
            }
        }
        None => {}
    }
}

// As messages name a field: `.spec.unschedulable`, `.items[name="a"]`.
fn display(path: &[String]) -> String {
    path.iter()
        .map(|step| match step.split_at_checked(2) {
            Some(("f:", field)) => format!(".{field}"),
            Some(("k:", named)) => {
                let named: Map<String, Value> = serde_json::from_str(named).unwrap_or_default();
                let keys: Vec<String> = named
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                format!("[{}]", keys.join(","))
            }
            _ => format!("[={}]", &step[2..]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> Manager<'_> {
        Manager {
            name,
            api_version: "v1",
        }
    }

    fn owners(object: &Value) -> Vec<(&str, &str, &Value)> {
        let list = object["metadata"]["managedFields"].as_array().unwrap();
        list.iter()
            .map(|entry| {
                let text = |field: &str| entry[field].as_str().unwrap();
                (text("manager"), text("operation"), &entry["fieldsV1"])
            })
            .collect()
    }

    #[test]
    fn the_recorded_walk_through_server_side_apply() {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa", "labels": {"l": "1"}},
            "data": {"k": "v", "m": "n"}});
        let made = apply(None, &config, manager("one"), false).unwrap();
        let all =
            json!({"f:data": {"f:k": {}, "f:m": {}}, "f:metadata": {"f:labels": {"f:l": {}}}});
        assert_eq!(owners(&made), [("one", "Apply", &all)]);
        let again = apply(Some(&made), &config, manager("one"), false).unwrap();
        assert_eq!(again, made);

        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa"}, "data": {"k": "other"}});
        let conflicts = apply(Some(&made), &other, manager("two"), false).unwrap_err();
        assert_eq!(conflicts, [("one".to_owned(), ".data.k".to_owned())]);
        let forced = apply(Some(&made), &other, manager("two"), true).unwrap();
        let first = json!({"f:data": {"f:m": {}}, "f:metadata": {"f:labels": {"f:l": {}}}});
        let second = json!({"f:data": {"f:k": {}}});
        assert_eq!(
            owners(&forced),
            [("one", "Apply", &first), ("two", "Apply", &second)]
        );
        assert_eq!(forced["data"], json!({"k": "other", "m": "n"}));

        let dropped = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa", "labels": {"l": "1"}},
            "data": {"m": "n"}});
        let unchanged = apply(Some(&forced), &dropped, manager("one"), true).unwrap();
        assert_eq!(unchanged, forced);
        let mut merged = forced.clone();
        patch::merge(&mut merged, &json!({"data": {"m": null}}));
        track(&forced, &mut merged, manager("unknown"));
        let first = json!({"f:metadata": {"f:labels": {"f:l": {}}}});
        assert_eq!(
            owners(&merged),
            [("one", "Apply", &first), ("two", "Apply", &second)]
        );
    }

    #[test]
    fn an_owner_that_drops_its_field_removes_it() {
        let config = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}, "spec": {"unschedulable": true}});
        let node = json!({"metadata": {"name": "w1"}, "spec": {"podCIDR": "10.42.1.0/24"}});
        let cordoned = apply(Some(&node), &config, manager("canasta"), false).unwrap();
        assert_eq!(cordoned["spec"]["unschedulable"], true);
        let mut other = cordoned.clone();
        other["spec"]["unschedulable"] = false.into();
        track(&cordoned, &mut other, manager("kubectl-cordon"));
        assert_eq!(
            apply(Some(&other), &config, manager("canasta"), false).unwrap_err(),
            [(
                "kubectl-cordon".to_owned(),
                ".spec.unschedulable".to_owned()
            )]
        );
        let nothing = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}});
        let released = apply(Some(&cordoned), &nothing, manager("canasta"), false).unwrap();
        assert_eq!(released["spec"], json!({"podCIDR": "10.42.1.0/24"}));
    }

    #[test]
    fn items_of_keyed_lists_have_owners_of_their_own() {
        let config = json!({"apiVersion": "v1", "kind": "Node", "status": {"conditions": [
            {"type": "Mine", "status": "True"}]}});
        let node = json!({"metadata": {"name": "w1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let applied = apply(Some(&node), &config, manager("canasta"), false).unwrap();
        assert_eq!(applied["status"]["conditions"].as_array().unwrap().len(), 2);
        let nothing = json!({"apiVersion": "v1", "kind": "Node"});
        let released = apply(Some(&applied), &nothing, manager("canasta"), false).unwrap();
        assert_eq!(released["status"], node["status"]);
    }
}
