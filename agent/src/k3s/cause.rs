//! Names the cause in the last lines of k3s's journal, where a known text shows one. Pure; texts are those of a real k3s.

/// Why k3s doesn't come up, as an operator reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// Stable reason.
    pub reason: &'static str,
    /// What is wrong.
    pub message: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

/// A text that gives a cause away: all of `signs` in one line, in lower case.
struct Rule {
    signs: &'static [&'static str],
    cause: Cause,
}

const fn rule(
    signs: &'static [&'static str],
    reason: &'static str,
    message: &'static str,
    hint: &'static str,
) -> Rule {
    Rule {
        signs,
        cause: Cause {
            reason,
            message,
            hint,
        },
    }
}

/// Special before general: the first rule that fits a line counts.
const RULES: [Rule; 19] = [
    rule(
        &["address already in use"],
        "PORT_TAKEN",
        "another program holds a port that k3s needs",
        "the evidence names the port; `ss -lntup` on the node names the program: stop it, then run the command again",
    ),
    rule(
        &["no space left on device"],
        "DISK_FULL",
        "the disk is full",
        "make room on the file system of /var/lib/rancher/k3s (`df -h`, `df -i`), then run the command again",
    ),
    rule(
        &["read-only file system"],
        "READ_ONLY",
        "a file system that k3s writes to is read-only",
        "look for disk errors with `dmesg`, mount the file system read-write, then run the command again",
    ),
    rule(
        &["failed to find memory cgroup"],
        "CGROUP_MEMORY_MISSING",
        "the kernel's memory control group is off",
        "add `cgroup_memory=1 cgroup_enable=memory` to the kernel's command line and reboot",
    ),
    rule(
        &["--token is required"],
        "TOKEN_MISSING",
        "k3s has no token to join with",
        "run the command again: it writes the token anew",
    ),
    rule(
        &["token ca hash does not match"],
        "TOKEN_CA_MISMATCH",
        "the token belongs to another cluster: its CA hash is not that of the server",
        "the server was installed anew, or the address leads to another cluster; join with a token of this server",
    ),
    rule(
        &["invalid token format"],
        "TOKEN_INVALID",
        "the token has no form that k3s knows",
        "run the command again: it writes the token anew",
    ),
    rule(
        &["node password rejected"],
        "NODE_PASSWORD_REJECTED",
        "the server knows a node of this name with another password",
        "give this node another hostname, or delete the old Node object (`kubectl delete node NAME`) if this machine replaces it",
    ),
    rule(
        &["bootstrap data already found and encrypted with different token"],
        "DATASTORE_TOKEN_MISMATCH",
        "the data on disk were encrypted with another server token",
        "restore /var/lib/rancher/k3s/server/token from the backup that the data come from",
    ),
    rule(
        &["401 unauthorized"],
        "TOKEN_REFUSED",
        "the server refused the token",
        "the token is wrong or has expired; join with a new one",
    ),
    rule(
        &["flag provided but not defined"],
        "CONFIG_INVALID",
        "the configuration has a key that this version of k3s doesn't know",
        "the evidence names the flag; look into /etc/rancher/k3s/config.yaml.d and `systemctl cat k3s.service`",
    ),
    rule(
        &["incorrect usage"],
        "CONFIG_INVALID",
        "the configuration has a key or a value that this version of k3s doesn't understand",
        "the evidence names it; look into /etc/rancher/k3s/config.yaml.d and `systemctl cat k3s.service`",
    ),
    rule(
        &["config.yaml", "yaml:"],
        "CONFIG_INVALID",
        "a configuration file of k3s is not valid YAML",
        "the evidence names the line; look into /etc/rancher/k3s/config.yaml.d",
    ),
    rule(
        &["database disk image is malformed"],
        "DATASTORE_CORRUPT",
        "the cluster's database is damaged",
        "stop k3s, keep a copy of /var/lib/rancher/k3s/server/db, and restore a backup of it together with server/token",
    ),
    rule(
        &["file is not a database"],
        "DATASTORE_CORRUPT",
        "the cluster's database is damaged",
        "stop k3s, keep a copy of /var/lib/rancher/k3s/server/db, and restore a backup of it together with server/token",
    ),
    rule(
        &["certificate has expired"],
        "CERTIFICATE_EXPIRED",
        "a certificate of the cluster has expired, or the clock is wrong",
        "check the clock with `timedatectl`; k3s renews its certificates when it is started with the right time",
    ),
    rule(
        &["unable to find suitable network address"],
        "NO_DEFAULT_ROUTE",
        "the node has no default route, and k3s finds no address without one",
        "add a default route (a dummy link will do), then run the command again",
    ),
    rule(
        &["failed to find interface"],
        "LINK_MISSING",
        "the link that the configuration names for flannel is not there",
        "compare flannel-iface in /etc/rancher/k3s/config.yaml with `ip link`, then run the command again",
    ),
    rule(
        &["failed to get ca certs"],
        "SERVER_UNREACHABLE",
        "the server of the cluster doesn't answer",
        "check that the server's k3s runs and that port 6443 of it can be reached from this node",
    ),
];

/// The cause that the lines show, oldest line first. The last line that shows one counts, because k3s logs its fatal error last;
/// lines that k3s logs as information never do.
pub fn cause_of<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> Option<Cause> {
    lines.rev().find_map(|line| {
        let line = line.to_ascii_lowercase();
        if line.contains("level=info") || line.contains("level=debug") {
            return None;
        }
        RULES
            .iter()
            .find(|rule| rule.signs.iter().all(|sign| line.contains(sign)))
            .map(|rule| rule.cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as a real k3s logs them.
    #[test]
    fn known_lines_name_their_cause() {
        for (line, reason) in [
            (
                r#"time="…" level=fatal msg="starting kubernetes: preparing server: init cluster datastore and https: listen tcp :6443: bind: address already in use""#,
                "PORT_TAKEN",
            ),
            (
                r#"time="2026-11-23T00:24:24.515313503Z" level=fatal msg="--token is required""#,
                "TOKEN_MISSING",
            ),
            (
                r#"time="…" level=error msg="token CA hash does not match the Cluster CA certificate hash: 0000 != 5de3""#,
                "TOKEN_CA_MISMATCH",
            ),
            (
                r#"time="…" level=error msg="invalid token format""#,
                "TOKEN_INVALID",
            ),
            (
                r#"time="…" level=error msg="Failed to configure agent: failed to retrieve configuration from server: https://127.0.0.1:6444/v1-k3s/config: 401 Unauthorized""#,
                "TOKEN_REFUSED",
            ),
            (
                r#"time="…" level=error msg="Failed to configure agent: Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag""#,
                "NODE_PASSWORD_REJECTED",
            ),
            (
                r#"time="…" level=error msg="failed to get CA certs: Get \"https://127.0.0.1:6444/cacerts\": EOF""#,
                "SERVER_UNREACHABLE",
            ),
            (
                "Incorrect Usage: flag provided but not defined: -nonsense",
                "CONFIG_INVALID",
            ),
            (
                r#"time="…" level=fatal msg="flag provided but not defined: -nonsense""#,
                "CONFIG_INVALID",
            ),
            (
                r#"time="…" level=fatal msg="failed to read config file /etc/rancher/k3s/config.yaml: yaml: line 3: did not find expected key""#,
                "CONFIG_INVALID",
            ),
            (
                r#"time="…" level=fatal msg="mkdir /var/lib/rancher/k3s/data: no space left on device""#,
                "DISK_FULL",
            ),
            (
                r#"time="…" level=fatal msg="open /var/lib/rancher/k3s/server/token: read-only file system""#,
                "READ_ONLY",
            ),
            (
                r#"time="…" level=fatal msg="failed to find memory cgroup (v2)""#,
                "CGROUP_MEMORY_MISSING",
            ),
            (
                r#"time="…" level=fatal msg="starting kubernetes: creating storage endpoint: database disk image is malformed""#,
                "DATASTORE_CORRUPT",
            ),
            (
                r#"time="…" level=fatal msg="starting kubernetes: preparing server: bootstrap data already found and encrypted with different token""#,
                "DATASTORE_TOKEN_MISMATCH",
            ),
            (
                r#"time="…" level=fatal msg="unable to find interface: failed to find interface host9: no such network interface""#,
                "LINK_MISSING",
            ),
        ] {
            assert_eq!(
                cause_of([line].into_iter()).map(|cause| cause.reason),
                Some(reason),
                "{line}"
            );
        }
    }

    #[test]
    fn lines_of_a_good_start_name_none() {
        for line in [
            r#"time="…" level=info msg="Starting k3s v1.21.3+k3s1 (1d1f220f)""#,
            "modprobe: FATAL: Module br_netfilter not found in directory /lib/modules/6.18.0-test",
            r#"time="…" level=info msg="certificate CN=system:admin signed by CN=k3s-client-ca""#,
            r#"time="…" level=info msg="retry: 401 Unauthorized""#,
            "",
        ] {
            assert_eq!(cause_of([line].into_iter()), None, "{line}");
        }
    }

    #[test]
    fn the_last_line_that_shows_a_cause_counts() {
        let lines = [
            r#"level=error msg="invalid token format""#,
            r#"level=fatal msg="--token is required""#,
            "Main process exited",
        ];
        assert_eq!(cause_of(lines.into_iter()).unwrap().reason, "TOKEN_MISSING");
    }

    #[test]
    fn signs_are_in_lower_case() {
        for rule in &RULES {
            assert!(
                rule.signs
                    .iter()
                    .all(|sign| *sign == sign.to_ascii_lowercase())
            );
        }
    }
}
