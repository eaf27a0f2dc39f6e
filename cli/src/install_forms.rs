//! The forms of `canasta install` that users of the old system type, and what is right instead.

use crate::error::Error;

/// What can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Package {
    /// The control plane of a cluster.
    ControlPlane,
}

/// The right form for a control plane.
const CONTROL_PLANE: &str = "canasta install k8s-cp --host HOST";
/// What the old system's same command also installed.
const NOT_OURS: &[&str] = &["docker", "podman", "git-crypt", "sops", "canasta", "uv"];

/// Reads the packages that were named.
///
/// # Errors
/// Wrong usage, with the right form as hint.
pub(crate) fn package(packages: &[String], host: &str) -> Result<Package, Error> {
    let right = |form: &str| format!("run `{}`", form.replace("HOST", host));
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["k8s-cp"] => Ok(Package::ControlPlane),
        [] => Err(Error::usage(
            "what to install was not said",
            format!("for a control plane {}", right(CONTROL_PLANE)),
        )),
        ["k8s-worker"] => Err(Error::usage(
            "this version does not install workers yet",
            format!(
                "a control plane runs workloads, too: {}",
                right(CONTROL_PLANE)
            ),
        )),
        ["k8s"] => Err(Error::usage(
            "there is no package 'k8s': a node is a control plane or a worker",
            format!("for a control plane {}", right(CONTROL_PLANE)),
        )),
        [one] if is_control_plane(one) => Err(Error::usage(
            format!("there is no package '{}'", shown(one)),
            right(CONTROL_PLANE),
        )),
        [one] if NOT_OURS.contains(one) => Err(Error::usage(
            format!("'{one}' is not installed by this program, which installs Kubernetes alone"),
            format!(
                "install it with the machine's own package tool; for a control plane {}",
                right(CONTROL_PLANE)
            ),
        )),
        [_] => Err(Error::usage(
            format!("there is no package '{}'", shown(names[0])),
            format!("for a control plane {}", right(CONTROL_PLANE)),
        )),
        several if several.contains(&"k8s-cp") && several.contains(&"k8s-worker") => {
            Err(Error::usage(
                "k8s-cp and k8s-worker exclude each other: a node is the control plane or a worker",
                format!(
                    "a control plane runs workloads, too: {}",
                    right(CONTROL_PLANE)
                ),
            ))
        }
        _ => Err(Error::usage("one package at a time", right(CONTROL_PLANE))),
    }
}

/// Whether someone meant the control plane: the word with other signs, or a usual name of it.
fn is_control_plane(text: &str) -> bool {
    let letters: String = text
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    matches!(
        letters.as_str(),
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

/// The text as it can be shown in any terminal.
fn shown(text: &str) -> String {
    text.chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Package, package};

    fn asked(words: &[&str]) -> Result<Package, String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        package(&words, "cp1")
            .map_err(|error| format!("{error} / {}", error.hint().unwrap_or_default()))
    }

    #[test]
    fn the_right_form_passes() {
        assert_eq!(asked(&["k8s-cp"]), Ok(Package::ControlPlane));
    }

    #[test]
    fn other_forms_are_refused_with_the_right_one() {
        for words in [
            &[][..],
            &["k8s"],
            &["k8s-cp", "k8s-worker"],
            &["k8s-worker"],
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
    }
}
