//! The forms of `canasta install` and `canasta uninstall` that users of the old system type, and what is right instead.

use crate::error::Error;

/// What can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Package {
    /// The control plane of a cluster.
    ControlPlane,
    /// Workers, which join a control plane.
    Worker,
}

/// The right form for a control plane.
const CONTROL_PLANE: &str = "canasta install k8s-cp --host HOST";
/// The right form for a worker.
const WORKER: &str = "canasta install k8s-worker --host HOST --cp-host CP_HOST";
/// What the old system's same command also installed.
const NOT_OURS: &[&str] = &["docker", "podman", "git-crypt", "sops", "canasta", "uv"];

/// Reads the packages that were named.
///
/// # Errors
/// Wrong usage, with the right form as hint.
pub(crate) fn package(packages: &[String], host: &str) -> Result<Package, Error> {
    let right = |form: &str| format!("run `{}`", form.replacen("HOST", host, 1));
    let both = || {
        format!(
            "for a control plane {}; for a worker {}",
            right(CONTROL_PLANE),
            right(WORKER)
        )
    };
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["k8s-cp"] => Ok(Package::ControlPlane),
        ["k8s-worker"] => Ok(Package::Worker),
        [] => Err(Error::usage("what to install was not said", both())),
        ["k8s"] => Err(Error::usage(
            "there is no package 'k8s': a node is a control plane or a worker",
            both(),
        )),
        [one] if is_control_plane(one) => Err(Error::usage(
            format!("there is no package '{}'", shown(one)),
            right(CONTROL_PLANE),
        )),
        [one] if is_worker(one) => Err(Error::usage(
            format!("there is no package '{}'", shown(one)),
            right(WORKER),
        )),
        [one] if NOT_OURS.contains(one) => Err(Error::usage(
            format!("'{one}' is not installed by this program, which installs Kubernetes alone"),
            format!("install it with the machine's own package tool; {}", both()),
        )),
        [one] => Err(Error::usage(
            format!("there is no package '{}'", shown(one)),
            both(),
        )),
        several if several.contains(&"k8s-cp") && several.contains(&"k8s-worker") => {
            Err(Error::usage(
                "k8s-cp and k8s-worker exclude each other: a node is the control plane or a worker",
                format!("a control plane runs workloads, too: {}", both()),
            ))
        }
        _ => Err(Error::usage("one package at a time", both())),
    }
}

/// Reads the control plane that workers are to join.
///
/// # Errors
/// Wrong usage when none was named, with the right form as hint.
pub(crate) fn control_plane(cp_host: Option<String>, hosts: &[String]) -> Result<String, Error> {
    cp_host.filter(|host| !host.is_empty()).ok_or_else(|| {
        let hosts: String = hosts.iter().map(|host| format!(" --host {host}")).collect();
        Error::usage(
            "a worker joins a control plane, and --cp-host was not given",
            format!(
                "run `canasta install k8s-worker{hosts} --cp-host CP_HOST`; `canasta node list` shows the control planes"
            ),
        )
    })
}

/// Checks that k8s was named to be uninstalled, from one host.
///
/// # Errors
/// Wrong usage, with the right form as hint.
pub(crate) fn uninstalled_host(packages: &[String], hosts: &[String]) -> Result<String, Error> {
    let host = hosts.first().map_or("HOST", String::as_str);
    let right = format!("run `canasta uninstall k8s --host {host}`");
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    match (names.as_slice(), hosts) {
        (["k8s"], [host]) => Ok(host.clone()),
        (["k8s"], []) => Err(Error::usage(
            "the host to uninstall from was not said",
            right,
        )),
        (["k8s"], _) => Err(Error::usage(
            "k8s is uninstalled from one host at a time",
            right,
        )),
        ([], _) => Err(Error::usage("what to uninstall was not said", right)),
        ([one], _) if is_worker(one) || is_control_plane(one) => Err(Error::usage(
            format!(
                "'{}' is not uninstalled as such: whatever a node is, its k8s is uninstalled",
                shown(one)
            ),
            right,
        )),
        ([one], _) => Err(Error::usage(
            format!(
                "'{}' is not uninstalled by this program, which uninstalls Kubernetes alone",
                shown(one)
            ),
            right,
        )),
        _ => Err(Error::usage("one package at a time", right)),
    }
}

/// Whether someone meant the control plane: the word with other signs, or a usual name of it.
fn is_control_plane(text: &str) -> bool {
    matches!(
        letters(text).as_str(),
        "k8scp"
            | "k3scp"
            | "cp"
            | "k3s"
            | "k8scontrolplane"
            | "controlplane"
            | "k8smaster"
            | "master"
            | "k8sserver"
            | "kubernetes"
            | "k8cp"
    )
}

/// Whether someone meant a worker.
fn is_worker(text: &str) -> bool {
    matches!(
        letters(text).as_str(),
        "k8sworker" | "k3sworker" | "worker" | "k8sagent" | "k3sagent" | "agent" | "k8snode"
    )
}

/// Letters and digits alone, in lower case.
fn letters(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// The text as it can be shown in any terminal.
fn shown(text: &str) -> String {
    text.chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Package, control_plane, package, uninstalled_host};
    use crate::error::Error;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn told(error: &Error) -> String {
        assert!(matches!(error, Error::Usage { .. }), "{error:?}");
        format!("{error} / {}", error.hint().unwrap_or_default())
    }

    fn asked(packages: &[&str]) -> Result<Package, String> {
        package(&words(packages), "cp1").map_err(|error| told(&error))
    }

    #[test]
    fn the_right_forms_pass() {
        assert_eq!(asked(&["k8s-cp"]), Ok(Package::ControlPlane));
        assert_eq!(asked(&["k8s-worker"]), Ok(Package::Worker));
    }

    #[test]
    fn other_forms_are_refused_with_the_right_one() {
        for words in [
            &[][..],
            &["k8s"],
            &["k8s-cp", "k8s-worker"],
            &["k8scp"],
            &["k8s_cp"],
            &["K8S-CP"],
            &["k3s"],
            &["control-plane"],
            &["docker"],
            &["k8s-cp", "docker"],
            &["nosuch"],
        ] {
            let error = asked(words).expect_err("refused");
            assert!(
                error.contains("canasta install k8s-cp --host cp1"),
                "{words:?}: {error}"
            );
        }
        for words in [&["worker"][..], &["k8s_worker"], &["k3s-agent"], &["k8s"]] {
            let error = asked(words).expect_err("refused");
            assert!(
                error.contains("canasta install k8s-worker --host cp1 --cp-host CP_HOST"),
                "{words:?}: {error}"
            );
        }
    }

    #[test]
    fn a_worker_without_a_control_plane_is_told_the_form_with_its_hosts() {
        let hosts = words(&["w1", "w2"]);
        for none in [None, Some(String::new())] {
            let error = told(&control_plane(none, &hosts).expect_err("refused"));
            assert!(
                error.contains("canasta install k8s-worker --host w1 --host w2 --cp-host"),
                "{error}"
            );
        }
        let named = control_plane(Some("cp1".to_owned()), &hosts);
        assert_eq!(named.expect("passes"), "cp1");
    }

    #[test]
    fn only_k8s_is_uninstalled_and_from_one_host() {
        let host = uninstalled_host(&words(&["k8s"]), &words(&["w1"]));
        assert_eq!(host.expect("passes"), "w1");
        for (packages, hosts) in [
            (&["k8s-worker"][..], &["w1"][..]),
            (&["k8s-cp"], &["w1"]),
            (&["docker"], &["w1"]),
            (&["k8s", "docker"], &["w1"]),
            (&[], &["w1"]),
            (&["k8s"], &["w1", "w2"]),
        ] {
            let error = uninstalled_host(&words(packages), &words(hosts)).expect_err("refused");
            let error = told(&error);
            assert!(
                error.contains("canasta uninstall k8s --host w1"),
                "{packages:?}: {error}"
            );
        }
        let error = uninstalled_host(&words(&["k8s"]), &[]).expect_err("refused");
        assert!(told(&error).contains("--host HOST"), "{error}");
    }
}
