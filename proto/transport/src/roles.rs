//! Who may call what: the table `rpc -> least role` that stands beside each server, and the proof that it is complete.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use canasta_proto::pb;
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// What a caller may do. Each role may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A caller without a certificate: enrolment and user tokens alone.
    Anonymous,
    /// May read, without logs and secrets.
    Viewer,
    /// May change what runs on the hosts.
    Operator,
    /// May change who and what belongs to the fleet.
    Admin,
}

/// The text or number is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is viewer, operator or admin")]
pub struct RoleError;

impl Role {
    /// The role as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Reads a role that a user can have; nobody is given *anonymous*.
impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(RoleError)
    }
}

impl From<Role> for pb::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Anonymous => Self::Anonymous,
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
        }
    }
}

impl TryFrom<pb::Role> for Role {
    type Error = RoleError;

    fn try_from(role: pb::Role) -> Result<Self, RoleError> {
        match role {
            pb::Role::Unspecified => Err(RoleError),
            pb::Role::Anonymous => Ok(Self::Anonymous),
            pb::Role::Viewer => Ok(Self::Viewer),
            pb::Role::Operator => Ok(Self::Operator),
            pb::Role::Admin => Ok(Self::Admin),
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The rpc by its path: `/canasta.fleet.v1.HostService/AddHost`.
    pub method: &'static str,
    /// The least role that may call it.
    pub least: Role,
    /// True when the call changes something and leaves a row in the audit trail.
    pub mutates: bool,
}

impl Rule {
    /// A call that only reads.
    pub const fn reads(method: &'static str, least: Role) -> Self {
        Self {
            method,
            least,
            mutates: false,
        }
    }

    /// A call that changes something.
    pub const fn changes(method: &'static str, least: Role) -> Self {
        Self {
            method,
            least,
            mutates: true,
        }
    }
}

/// Finds the row of an rpc. None means that nobody may call it.
pub fn rule_for<'a>(table: &'a [Rule], method: &str) -> Option<&'a Rule> {
    table.iter().find(|rule| rule.method == method)
}

/// Compares a table with the services that a server offers, both ways; for a test beside each server.
///
/// `table` are the rpcs that have a row, by their paths; `descriptors` are encoded descriptor sets, `services` full names
/// such as `canasta.fleet.v1.HostService`. Returns what is wrong, one sentence each; nothing when the table is complete.
pub fn completeness<'a>(
    table: impl IntoIterator<Item = &'a str>,
    descriptors: &[&[u8]],
    services: &[&str],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rpcs = BTreeSet::new();
    let mut known = BTreeSet::new();
    for bytes in descriptors {
        let set = match FileDescriptorSet::decode(*bytes) {
            Ok(set) => set,
            Err(error) => {
                wrong.push(format!("the descriptors can't be read: {error}"));
                continue;
            }
        };
        for file in &set.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                if services.contains(&name.as_str()) {
                    for method in &service.method {
                        rpcs.insert(format!("/{name}/{}", method.name()));
                    }
                    known.insert(name);
                }
            }
        }
    }
    for service in services {
        if !known.contains(*service) {
            wrong.push(format!("service {service} is not in the descriptors"));
        }
    }
    let mut rows = BTreeSet::new();
    for method in table {
        if !rows.insert(method.to_owned()) {
            wrong.push(format!("{method} has more than one row"));
        }
    }
    wrong.extend(
        rpcs.difference(&rows)
            .map(|rpc| format!("{rpc} has no row")),
    );
    wrong.extend(
        rows.difference(&rpcs)
            .map(|row| format!("{row} has a row but is no rpc of the services")),
    );
    wrong
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::{Role, RoleError, Rule, completeness, rule_for};

    const TABLE: &[Rule] = &[
        Rule::reads(
            "/canasta.fleet.v1.EnrolmentService/GetClock",
            Role::Anonymous,
        ),
        Rule::changes(
            "/canasta.fleet.v1.EnrolmentService/EnrolHost",
            Role::Anonymous,
        ),
        Rule::changes(
            "/canasta.fleet.v1.EnrolmentService/RedeemUser",
            Role::Anonymous,
        ),
    ];
    const SERVICE: &str = "canasta.fleet.v1.EnrolmentService";

    fn check(table: &[Rule], services: &[&str]) -> Vec<String> {
        let methods = table.iter().map(|rule| rule.method);
        completeness(methods, &[pb::DESCRIPTORS], services)
    }

    #[test]
    fn a_complete_table_has_nothing_wrong() {
        assert_eq!(check(TABLE, &[SERVICE]), Vec::<String>::new());
        let rule = rule_for(TABLE, "/canasta.fleet.v1.EnrolmentService/EnrolHost").expect("row");
        assert!(rule.mutates && rule.least == Role::Anonymous);
        assert_eq!(rule_for(TABLE, "/canasta.fleet.v1.EnrolmentService/"), None);
    }

    #[test]
    fn gaps_are_told_both_ways() {
        assert_eq!(
            check(&TABLE[1..], &[SERVICE]),
            ["/canasta.fleet.v1.EnrolmentService/GetClock has no row"]
        );
        assert_eq!(
            check(TABLE, &[]).len(),
            3,
            "rows of services that are not offered"
        );
        let twice = [TABLE, &TABLE[..1]].concat();
        assert_eq!(
            check(&twice, &[SERVICE]),
            ["/canasta.fleet.v1.EnrolmentService/GetClock has more than one row"]
        );
        assert!(check(TABLE, &[SERVICE, "x.Y"])[0].contains("x.Y is not in the descriptors"));
        assert!(!completeness([], &[b"\xff"], &[SERVICE]).is_empty());
    }

    #[test]
    fn roles_are_ordered_and_read() {
        assert!(Role::Anonymous < Role::Viewer);
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(Role::try_from(pb::Role::from(role)), Ok(role));
        }
        assert_eq!("anonymous".parse::<Role>(), Err(RoleError));
        assert_eq!("Admin".parse::<Role>(), Err(RoleError));
        assert_eq!(Role::try_from(pb::Role::Unspecified), Err(RoleError));
    }
}
