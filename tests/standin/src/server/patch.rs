//! Merge patch, strategic merge patch and JSON patch, as far as this project's clients use them.

use serde_json::Value;

/// Applies a JSON merge patch (RFC 7386).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Some(object) = target.as_object_mut() {
        for (name, value) in fields {
            if value.is_null() {
                object.remove(name);
            } else {
                merge(object.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// Applies a strategic merge patch: lists that have a key are merged by it, others replaced.
pub(crate) fn strategic(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if fields
        .get("$patch")
        .is_some_and(|directive| directive == "replace")
    {
        *target = without_directives(patch);
        return;
    }
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(object) = target.as_object_mut() else {
        return;
    };
    for (name, value) in fields {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !value.as_array().is_some_and(|gone| gone.contains(item)));
            }
        } else if name.starts_with('$') {
            // Order directives change nothing here.
        } else if value.is_null() {
            object.remove(name);
        } else if let (Some(key), Some(items)) = (merge_key(name), value.as_array()) {
            let list = object
                .entry(name.clone())
                .or_insert_with(|| Value::Array(Vec::new()));
            merge_list(list, items, key);
        } else {
            strategic(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a JSON patch (RFC 6902); `None` if a step does not apply.
pub(crate) fn json_patch(target: &mut Value, patch: &Value) -> Option<()> {
    for step in patch.as_array()? {
        let path = step["path"].as_str()?;
        match step["op"].as_str()? {
            "add" => add(target, path, step.get("value")?.clone())?,
            "replace" => *target.pointer_mut(path)? = step.get("value")?.clone(),
            "remove" => {
                take(target, path)?;
            }
            "test" => {
                if target.pointer(path) != step.get("value") {
                    return None;
                }
            }
            "copy" => {
                let value = target.pointer(step["from"].as_str()?)?.clone();
                add(target, path, value)?;
            }
            "move" => {
                let value = take(target, step["from"].as_str()?)?;
                add(target, path, value)?;
            }
            _ => return None,
        }
    }
    Some(())
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    let (parent, name) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(name, value);
        }
        Value::Array(items) if name == "-" => items.push(value),
        Value::Array(items) => {
            let index: usize = name.parse().ok()?;
            if index > items.len() {
                return None;
            }
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&name),
        Value::Array(items) => {
            let index: usize = name.parse().ok()?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, name) = path.rsplit_once('/')?;
    Some((parent, name.replace("~1", "/").replace("~0", "~")))
}

fn merge_list(list: &mut Value, patches: &[Value], key: &str) {
    let Some(items) = list.as_array_mut() else {
        return;
    };
    for patch in patches {
        let at = items.iter().position(|item| {
            if key.is_empty() {
                item == patch
            } else {
                item[key] == patch[key]
            }
        });
        match (at, patch["$patch"] == "delete") {
            (Some(index), true) => {
                items.remove(index);
            }
            (Some(index), false) => strategic(&mut items[index], patch),
            (None, true) => {}
            (None, false) => items.push(without_directives(patch)),
        }
    }
}

fn without_directives(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !name.starts_with('$'));
    }
    value
}

/// The lists that Kubernetes merges, and by which field; empty for lists of plain values.
pub(super) fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "conditions" | "addresses" => Some("type"),
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" | "secrets" => {
            Some("name")
        }
        "volumeMounts" => Some("mountPath"),
        "ownerReferences" => Some("uid"),
        "finalizers" => Some(""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_merged_by_type_and_taints_replaced() {
        let mut node = json!({"spec": {"taints": [{"key": "a"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "Disk"}]}});
        strategic(
            &mut node,
            &json!({"spec": {"taints": [{"key": "b"}], "unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}],
                    "$setElementOrder/conditions": [{"type": "Ready"}]}}),
        );
        assert_eq!(
            node,
            json!({"spec": {"taints": [{"key": "b"}], "unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}, {"type": "Disk"}]}})
        );
        strategic(
            &mut node,
            &json!({"spec": null, "status": {"conditions": [{"type": "Disk", "$patch": "delete"}]}}),
        );
        assert_eq!(
            node,
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}]}})
        );
    }

    #[test]
    fn json_patches_apply_step_by_step() {
        let mut node =
            json!({"spec": {"taints": [{"key": "a"}]}, "metadata": {"labels": {"x/y": "1"}}});
        let patch = json!([
            {"op": "test", "path": "/metadata/labels/x~1y", "value": "1"},
            {"op": "add", "path": "/spec/unschedulable", "value": true},
            {"op": "add", "path": "/spec/taints/-", "value": {"key": "b"}},
            {"op": "remove", "path": "/spec/taints/0"},
            {"op": "replace", "path": "/metadata/labels/x~1y", "value": "2"},
            {"op": "move", "from": "/metadata/labels/x~1y", "path": "/metadata/labels/z"},
        ]);
        assert!(json_patch(&mut node, &patch).is_some());
        assert_eq!(
            node,
            json!({"spec": {"taints": [{"key": "b"}], "unschedulable": true}, "metadata": {"labels": {"z": "2"}}})
        );
        for bad in [
            json!([{"op": "test", "path": "/spec/unschedulable", "value": false}]),
            json!([{"op": "remove", "path": "/spec/none"}]),
            json!([{"op": "add", "path": "/none/a", "value": 1}]),
            json!({}),
        ] {
            assert!(json_patch(&mut node.clone(), &bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn merge_patch_removes_with_null() {
        let mut object = json!({"a": {"b": 1, "c": [1]}});
        merge(
            &mut object,
            &json!({"a": {"b": null, "c": [2], "d": {"e": 1}}}),
        );
        assert_eq!(object, json!({"a": {"c": [2], "d": {"e": 1}}}));
    }
}
