//! Queries of API requests: parameters, field and label selectors, and the selectors that stand in objects. The API,
//! watches and the controllers match with them.

use serde_json::Value;

/// The query of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(value)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value, "" | "1" | "true"))
    }

    /// Whether the selectors let an object pass.
    pub(super) fn selects(&self, object: &Value) -> bool {
        self.get("fieldSelector")
            .is_none_or(|text| terms(text).all(|term| field_matches(object, term)))
            && self
                .get("labelSelector")
                .is_none_or(|text| terms(text).all(|term| label_matches(object, term)))
    }
}

// Commas inside parentheses separate values, not terms.
fn terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    selector
        .split(move |c| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            c == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|term| !term.is_empty())
}

fn field_matches(object: &Value, term: &str) -> bool {
    compare(term, |path| {
        let value = path.split('.').fold(object, |value, field| &value[field]);
        value.as_str()
    })
}

fn label_matches(object: &Value, term: &str) -> bool {
    let label = |name: &str| object["metadata"]["labels"][name].as_str();
    if let Some((head, values)) = term.strip_suffix(')').and_then(|term| term.split_once('(')) {
        let mut words = head.split_whitespace();
        let (Some(name), Some(operator)) = (words.next(), words.next()) else {
            return false;
        };
        let value = label(name);
        let listed = value.is_some_and(|value| values.split(',').any(|one| one.trim() == value));
        return match operator {
            "in" => listed,
            "notin" => !listed,
            _ => false,
        };
    }
    compare(term, label)
}

fn compare<'a>(term: &str, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    if let Some((name, wanted)) = term.split_once("!=") {
        value(name).unwrap_or_default() != wanted
    } else if let Some((name, wanted)) = term.split_once('=') {
        value(name).unwrap_or_default() == wanted.trim_start_matches('=')
    } else if let Some(name) = term.strip_prefix('!') {
        value(name).is_none()
    } else {
        value(term).is_some()
    }
}

/// Whether a `LabelSelector` object selects these labels; an empty one selects all.
pub(super) fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    wanted
        .into_iter()
        .flatten()
        .all(|(name, value)| labels[name] == *value)
        && expressions_match(&selector["matchExpressions"], labels)
}

/// Whether all `matchExpressions` hold, of a label selector or of a node selector's term.
pub(super) fn expressions_match(expressions: &Value, labels: &Value) -> bool {
    let mut all = expressions.as_array().into_iter().flatten();
    all.all(|expression| {
        let value = &labels[expression["key"].as_str().unwrap_or_default()];
        let values = expression["values"].as_array();
        let listed = values.is_some_and(|values| values.contains(value));
        match expression["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("Exists") => !value.is_null(),
            Some("DoesNotExist") => value.is_null(),
            _ => false,
        }
    })
}

pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_of_all_forms() {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "w1"}});
        let selects = |text: &str| Query::parse(text).selects(&pod);
        assert!(selects(
            "fieldSelector=spec.nodeName%3Dw1%2Cmetadata.name%3Da"
        ));
        assert!(!selects("fieldSelector=spec.nodeName%21%3Dw1"));
        assert!(selects("labelSelector=app+in+(web%2Capi)%2Ctier"));
        assert!(!selects("labelSelector=app+notin+(web%2Capi)"));
        assert!(selects("labelSelector=app%3D%3Dweb%2C%21none"));
    }

    #[test]
    fn selectors_in_objects() {
        let labels = json!({"app": "web"});
        let matches = |selector: Value| selector_matches(&selector, &labels);
        assert!(matches(json!({})));
        assert!(matches(json!({"matchLabels": {"app": "web"}})));
        assert!(!matches(json!({"matchLabels": {"app": "web", "x": "y"}})));
        assert!(matches(
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]},
                {"key": "x", "operator": "DoesNotExist"}]})
        ));
        assert!(!matches(
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]})
        ));
    }
}
