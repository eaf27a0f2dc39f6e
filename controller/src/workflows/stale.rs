//! Whether a plan still holds when its operation is about to act on it. Called by the preflight steps, which may run days
//! after the plan was made: what was recorded or changed meanwhile must not be put back.

use canasta_proto::name::HostName;
use canasta_steps::StepError;
use serde::Serialize;
use serde_json::Value;

use super::Refusal;
use super::record::refused;

/// What explains a plan and decides nothing.
const EXPLAINS: [&str; 1] = ["node_ip_source"];

/// Compares a plan with what would be planned now from the same request.
pub(super) fn check<P: Serialize>(
    host: &HostName,
    planned: &P,
    again: Result<P, Refusal>,
) -> Result<(), StepError> {
    let again = again.map_err(refused)?;
    let differences = differences(&object(planned), &object(&again));
    if differences.is_empty() {
        return Ok(());
    }
    let mut error = StepError::new(
        "PLAN_STALE",
        format!("things have changed on or about host '{host}' since this was planned"),
    )
    .subject(format!("host {host}"))
    .hint("nothing was changed; run the command again: it plans from what is there now");
    for difference in differences {
        error = error.cause(difference);
    }
    Err(error)
}

fn object(plan: &impl Serialize) -> serde_json::Map<String, Value> {
    match serde_json::to_value(plan) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

fn differences(
    planned: &serde_json::Map<String, Value>,
    again: &serde_json::Map<String, Value>,
) -> Vec<String> {
    let differs = |field: &&String| {
        !EXPLAINS.contains(&field.as_str()) && planned.get(*field) != again.get(*field)
    };
    planned
        .keys()
        .filter(differs)
        .map(|field| {
            let (was, is) = (&planned[field], again.get(field).unwrap_or(&Value::Null));
            format!(
                "{}: planned was {was}, now it would be {is}",
                field.replace('_', " ")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::check;
    use crate::workflows::Refusal;

    #[derive(Serialize)]
    struct Plan {
        node_name: &'static str,
        node_ip_source: &'static str,
        public_ips: Vec<&'static str>,
    }

    fn plan(node_name: &'static str, node_ip_source: &'static str) -> Plan {
        Plan {
            node_name,
            node_ip_source,
            public_ips: vec!["203.0.113.7"],
        }
    }

    #[test]
    fn a_plan_holds_until_something_that_decides_has_changed() {
        let host = "cp1".parse().expect("name");
        let planned = plan("cp1", "link eth0");
        check(&host, &planned, Ok(plan("cp1", "recorded"))).expect("the same");
        let error = check(&host, &planned, Ok(plan("box", "link eth0"))).expect_err("renamed");
        assert_eq!(error.reason(), "PLAN_STALE");
        assert_eq!(
            error.report().causes,
            [r#"node name: planned was "cp1", now it would be "box""#]
        );
        let refusal = Refusal::new("FOREIGN_K3S", "somebody else's", "adopt it");
        let error = check(&host, &planned, Err(refusal)).expect_err("refused now");
        assert_eq!(error.reason(), "FOREIGN_K3S");
    }
}
