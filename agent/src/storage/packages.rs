//! Packages of NFS servers, by the package manager of each family of distributions.
//!
//! Programs and names are those of the distributions' own documentation. Tried here: Debian 12 and 13.

use canasta_host::Host;
use canasta_host::machine::release::OsRelease;
use canasta_host::outside::{OutsideError, Program};
use canasta_proto::pb::Evidence;
use canasta_steps::StepError;

use super::server::Backend;

/// Distributions with the same package manager and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Debian, Ubuntu and theirs: apt-get.
    Debian,
    /// Fedora, RHEL and theirs: dnf.
    RedHat,
    /// openSUSE and SLES: zypper.
    Suse,
}

/// The family of a distribution.
pub(super) fn family(os: &OsRelease) -> Option<Family> {
    let names = std::iter::once(os.id.as_str()).chain(os.id_like.split_whitespace());
    names.into_iter().find_map(|name| match name {
        "debian" | "ubuntu" => Some(Family::Debian),
        "fedora" | "rhel" | "centos" => Some(Family::RedHat),
        "suse" | "opensuse" | "sles" | "opensuse-leap" | "opensuse-tumbleweed" => {
            Some(Family::Suse)
        }
        _ => None,
    })
}

/// Why nothing can be installed on a distribution.
pub(super) fn unknown(os: &OsRelease) -> String {
    let name = if os.pretty_name.is_empty() {
        "this distribution"
    } else {
        &os.pretty_name
    };
    format!("it is not installed, and how packages of {name} are installed is not known")
}

/// What a server comes in.
pub(super) fn names(family: Family, backend: Backend) -> &'static [&'static str] {
    match (family, backend) {
        (Family::Debian | Family::Suse, Backend::Kernel) => &["nfs-kernel-server"],
        (Family::RedHat, Backend::Kernel) => &["nfs-utils"],
        (_, Backend::Ganesha) => &["nfs-ganesha", "nfs-ganesha-vfs"],
    }
}

/// What refreshes the list of packages.
pub(super) fn refresh(family: Family) -> Program {
    match family {
        // Without the option a mirror that is down counts as success.
        Family::Debian => apt(&["-o", "APT::Update::Error-Mode=any", "update"]),
        Family::RedHat => program("/usr/bin/dnf", &["-y", "--refresh", "makecache"]),
        Family::Suse => program("/usr/bin/zypper", &["--non-interactive", "refresh"]),
    }
}

/// What ends an installation that was cut short, where the package manager does not do so by itself.
pub(super) fn mend(family: Family) -> Option<Program> {
    (family == Family::Debian).then(|| {
        let keep = ["--force-confdef", "--force-confold", "--configure", "-a"];
        Program {
            environment: unattended(),
            ..program("/usr/bin/dpkg", &keep)
        }
    })
}

/// What installs packages.
pub(super) fn install(family: Family, names: &[&str]) -> Program {
    let mut program = match family {
        Family::Debian => apt(&["--no-install-recommends", "install"]),
        Family::RedHat => program(
            "/usr/bin/dnf",
            &["-y", "--setopt=install_weak_deps=False", "install"],
        ),
        Family::Suse => program(
            "/usr/bin/zypper",
            &["--non-interactive", "install", "--no-recommends"],
        ),
    };
    program
        .arguments
        .extend(names.iter().map(|&name| name.to_owned()));
    program
}

/// Asks nothing, waits for another apt that runs, and keeps settings that are there: ours are written before the package comes.
fn apt(arguments: &[&str]) -> Program {
    let before = [
        "-q",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=120",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
    ];
    Program {
        environment: unattended(),
        ..program("/usr/bin/apt-get", &[&before, arguments].concat())
    }
}

fn unattended() -> Vec<(String, String)> {
    let environment = [
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("NEEDRESTART_SUSPEND", "1"),
    ];
    environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn program(path: &str, arguments: &[&str]) -> Program {
    Program {
        path: path.to_owned(),
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        environment: Vec::new(),
    }
}

/// Why an installation failed, from what the package manager wrote.
pub(super) fn failure(lines: &[String], refreshed: bool) -> (&'static str, &'static str) {
    const MISSING: [&str; 6] = [
        "Unable to locate package",
        "has no installation candidate",
        "No match for argument",
        "Unable to find a match",
        "No provider of",
        "not found in package names",
    ];
    const UNREACHABLE: [&str; 8] = [
        "Failed to fetch",
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Failed to download metadata",
        "Cannot download",
        "Curl error",
        "Unable to fetch",
    ];
    let says = |words: &[&str]| {
        lines
            .iter()
            .any(|line| words.iter().any(|word| line.contains(word)))
    };
    if says(&UNREACHABLE) || (!refreshed && !says(&MISSING)) {
        return (
            "PACKAGE_MIRROR_UNREACHABLE",
            "mend the node's package sources or its way to them, then run the command again; without a way, import the packages: `canasta artefact import packages`",
        );
    }
    if says(&MISSING) {
        return (
            "PACKAGE_MISSING",
            "the node's package sources don't have it: add one that does (Debian: main; RHEL and SUSE have nfs-ganesha in sources of their own), or choose the other server with --backend",
        );
    }
    (
        "PACKAGES_FAILED",
        "mend what the package manager says on the node, then run the command again",
    )
}

/// An error with the last lines of what a program wrote.
pub(super) async fn with_output(
    host: &Host,
    error: StepError,
    title: &str,
    lines: Vec<String>,
) -> StepError {
    let facts = host.machine.facts().await;
    let hostname = facts.map(|facts| facts.hostname).unwrap_or_default();
    error.evidence(Evidence {
        title: format!("output of {title}"),
        lines,
        source: format!("agent on {hostname}"),
        at: Some(host.machine.now().into()),
    })
}

/// What went wrong outside of the sandbox, as the end of a step.
pub(super) fn outside(error: OutsideError) -> StepError {
    let report = |reason| StepError::from_source(reason, &error);
    match &error {
        OutsideError::TimedOut { .. } => report("TOOK_TOO_LONG")
            .hint("look at what holds it up on the node (a mount whose server is dead, another package manager), then run the command again"),
        OutsideError::NotStarted { program, .. } => {
            report("PROGRAM_MISSING").subject(program).hint(format!("see to it that {program} is there and can be run"))
        }
        OutsideError::Place { path, .. } => {
            report("DIRECTORY_FAILED").subject(path).hint(format!("look at {path} on the node, then run the command again"))
        }
        _ => report("WORK_FAILED")
            .hint("look at `journalctl -u canasta-agent-errand` on the node, then run the command again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str, like: &str) -> Option<Family> {
        family(&OsRelease {
            id: id.to_owned(),
            id_like: like.to_owned(),
            ..OsRelease::default()
        })
    }

    #[test]
    fn distributions_are_known_by_themselves_and_by_what_they_are_like() {
        for (id, like, expected) in [
            ("debian", "", Some(Family::Debian)),
            ("ubuntu", "debian", Some(Family::Debian)),
            ("linuxmint", "ubuntu debian", Some(Family::Debian)),
            ("fedora", "", Some(Family::RedHat)),
            ("rhel", "fedora", Some(Family::RedHat)),
            ("rocky", "rhel centos fedora", Some(Family::RedHat)),
            ("almalinux", "rhel centos fedora", Some(Family::RedHat)),
            ("opensuse-leap", "suse opensuse", Some(Family::Suse)),
            ("opensuse-tumbleweed", "opensuse suse", Some(Family::Suse)),
            ("sles", "suse", Some(Family::Suse)),
            ("alpine", "", None),
            ("", "", None),
        ] {
            assert_eq!(of(id, like), expected, "{id} {like}");
        }
    }

    #[test]
    fn every_family_refreshes_and_installs_without_questions() {
        let words = |family, backend| {
            let names = names(family, backend);
            (
                refresh(family).in_words(),
                install(family, names).in_words(),
            )
        };
        let apt = "/usr/bin/apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
        let update = format!("{apt} -o APT::Update::Error-Mode=any update");
        for (family, backend, refresh, install) in [
            (
                Family::Debian,
                Backend::Kernel,
                &*update,
                &*format!("{apt} --no-install-recommends install nfs-kernel-server"),
            ),
            (
                Family::Debian,
                Backend::Ganesha,
                &*update,
                &*format!("{apt} --no-install-recommends install nfs-ganesha nfs-ganesha-vfs"),
            ),
            (
                Family::RedHat,
                Backend::Kernel,
                "/usr/bin/dnf -y --refresh makecache",
                "/usr/bin/dnf -y --setopt=install_weak_deps=False install nfs-utils",
            ),
            (
                Family::RedHat,
                Backend::Ganesha,
                "/usr/bin/dnf -y --refresh makecache",
                "/usr/bin/dnf -y --setopt=install_weak_deps=False install nfs-ganesha nfs-ganesha-vfs",
            ),
            (
                Family::Suse,
                Backend::Kernel,
                "/usr/bin/zypper --non-interactive refresh",
                "/usr/bin/zypper --non-interactive install --no-recommends nfs-kernel-server",
            ),
            (
                Family::Suse,
                Backend::Ganesha,
                "/usr/bin/zypper --non-interactive refresh",
                "/usr/bin/zypper --non-interactive install --no-recommends nfs-ganesha nfs-ganesha-vfs",
            ),
        ] {
            let expected = (refresh.to_owned(), install.to_owned());
            assert_eq!(words(family, backend), expected);
        }
        let environment = install(Family::Debian, &[]).environment;
        assert_eq!(
            environment[0],
            ("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())
        );
    }

    #[test]
    fn a_mirror_that_is_down_is_told_from_a_package_that_is_not_there() {
        for (line, refreshed, reason) in [
            (
                "E: Unable to locate package nfs-ganesha",
                true,
                "PACKAGE_MISSING",
            ),
            (
                "E: Unable to locate package nfs-ganesha",
                false,
                "PACKAGE_MISSING",
            ),
            (
                "Error: Unable to find a match: nfs-ganesha",
                true,
                "PACKAGE_MISSING",
            ),
            (
                "'nfs-ganesha' not found in package names. Trying capabilities.",
                true,
                "PACKAGE_MISSING",
            ),
            (
                "E: Failed to fetch http://m/x.deb  Could not connect to m:80",
                true,
                "PACKAGE_MIRROR_UNREACHABLE",
            ),
            (
                "Error: Failed to download metadata for repo 'baseos'",
                true,
                "PACKAGE_MIRROR_UNREACHABLE",
            ),
            (
                "dpkg: error processing package nfs-ganesha",
                false,
                "PACKAGE_MIRROR_UNREACHABLE",
            ),
            (
                "dpkg: error processing package nfs-ganesha",
                true,
                "PACKAGES_FAILED",
            ),
        ] {
            assert_eq!(failure(&[line.to_owned()], refreshed).0, reason, "{line}");
        }
    }
}
