//! What the other side tells of its machine, and which package of the agent fits it.

use canasta_proto::architecture;
use canasta_proto::package::{Format, Package};
use serde::Deserialize;

/// Distributions with packages of each form, as os-release names them in `ID` and `ID_LIKE`.
const DEB: &[&str] = &["debian", "ubuntu"];
const RPM: &[&str] = &[
    "fedora",
    "rhel",
    "centos",
    "rocky",
    "almalinux",
    "ol",
    "amzn",
    "suse",
    "sles",
    "opensuse",
];

/// A machine as its own side of the session told it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    id: String,
    like: Vec<String>,
    pretty: String,
    machine: String,
    dpkg: Option<String>,
    rpm: Option<String>,
    /// Whether systemd runs there.
    pub(crate) systemd: bool,
    /// Why nothing can be done as root; none where it can.
    pub(crate) no_root: Option<String>,
    /// The version of the agent's package that is installed.
    pub(crate) installed: Option<String>,
    /// What the agent there says of itself; none where none answers.
    pub(crate) agent: Option<AgentStatus>,
}

/// What `canasta-agent status --output json` tells, as far as it is of use here.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct AgentStatus {
    /// Whether it is a member of a fleet.
    pub(crate) joined: bool,
    /// The fleet.
    #[serde(default)]
    pub(crate) fleet_id: Option<String>,
    /// Its name there.
    #[serde(default)]
    pub(crate) name: Option<String>,
}

impl Facts {
    /// Takes one line in; what is not known is left out.
    pub(super) fn take(&mut self, word: &str, rest: &str) {
        match word {
            "os" => self.take_os(rest),
            "machine" => self.machine = rest.to_owned(),
            "dpkg" => self.dpkg = Some(rest.to_owned()),
            "rpm" => self.rpm = Some(rest.to_owned()),
            "systemd" => self.systemd = true,
            "no-sudo" => self.no_root = Some(rest.trim().to_owned()),
            "installed" => self.installed = Some(rest.to_owned()),
            "status" => self.agent = serde_json::from_str(rest).ok(),
            _ => {}
        }
    }

    fn take_os(&mut self, line: &str) {
        let Some((key, value)) = line.split_once('=') else {
            return;
        };
        let value = value.trim().trim_matches(['"', '\'']);
        match key {
            "ID" => self.id = value.to_owned(),
            "ID_LIKE" => self.like = value.split_whitespace().map(str::to_owned).collect(),
            "PRETTY_NAME" => self.pretty = value.to_owned(),
            _ => {}
        }
    }

    /// The machine in words: `Debian GNU/Linux 12 (bookworm) on x86_64`.
    pub(crate) fn shown(&self) -> String {
        let distribution = match (self.pretty.as_str(), self.id.as_str()) {
            ("", "") => "an unknown distribution",
            ("", id) => id,
            (pretty, _) => pretty,
        };
        format!("{distribution} on {}", self.machine)
    }

    /// The form of the distribution's own packages.
    fn own_format(&self) -> Option<Format> {
        let is = |names: &[&str]| {
            let known = |word: &str| {
                // openSUSE calls itself opensuse-leap, opensuse-tumbleweed and more.
                names.contains(&word)
                    || word
                        .split('-')
                        .next()
                        .is_some_and(|first| names.contains(&first))
            };
            known(&self.id) || self.like.iter().any(|word| known(word))
        };
        if is(DEB) {
            Some(Format::Deb)
        } else if is(RPM) {
            Some(Format::Rpm)
        } else {
            None
        }
    }

    /// The architecture for packages of a form, where its package manager is there.
    fn arch_for(&self, format: Format) -> Option<&str> {
        match format {
            Format::Deb => self.dpkg.as_deref(),
            Format::Rpm => self.rpm.as_deref(),
        }
    }

    /// Form and architecture of the package that fits.
    ///
    /// # Errors
    /// Why none can.
    pub(crate) fn wanted(&self) -> Result<(Format, &'static str), String> {
        let format = self
            .own_format()
            .ok_or_else(|| format!("of '{}' it is not known which packages it takes", self.id))?;
        let arch = self
            .arch_for(format)
            .ok_or_else(|| format!("it has no program that installs a .{}", format.ending()))?;
        let arch = architecture::find(arch)
            .ok_or_else(|| format!("the architecture '{arch}' is not known"))?;
        Ok((format, arch))
    }

    /// Whether a package that was given fits. The distribution is not asked: whoever names a file has chosen it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, package: &Package) -> Result<(), String> {
        let ending = package.format.ending();
        let arch = self
            .arch_for(package.format)
            .ok_or_else(|| format!("it has no program that installs a .{ending}"))?;
        if architecture::find(arch) != Some(package.arch) {
            return Err(format!("the file is a .{ending} for {}", package.arch));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::package::{Format, Package};

    use super::Facts;

    fn facts(lines: &[(&str, &str)]) -> Facts {
        let mut facts = Facts::default();
        for (word, rest) in lines {
            facts.take(word, rest);
        }
        facts
    }

    #[test]
    fn the_package_is_chosen_by_distribution_and_architecture() {
        for (os, tool, wanted) in [
            ("ID=debian", ("dpkg", "amd64"), (Format::Deb, "amd64")),
            ("ID=ubuntu", ("dpkg", "arm64"), (Format::Deb, "arm64")),
            ("ID=\"fedora\"", ("rpm", "x86_64"), (Format::Rpm, "amd64")),
            (
                "ID=opensuse-leap",
                ("rpm", "aarch64"),
                (Format::Rpm, "arm64"),
            ),
            (
                "ID_LIKE=\"rhel centos fedora\"",
                ("rpm", "s390x"),
                (Format::Rpm, "s390x"),
            ),
            (
                "ID_LIKE='ubuntu debian'",
                ("dpkg", "armhf"),
                (Format::Deb, "arm"),
            ),
        ] {
            // Some have the other form's program beside their own.
            let other = [("dpkg", "amd64"), ("rpm", "x86_64")];
            let other = other.into_iter().filter(|other| other.0 != tool.0);
            let lines: Vec<_> = other.chain([("os", os), tool]).collect();
            assert_eq!(facts(&lines).wanted(), Ok(wanted), "{os}");
        }
    }

    #[test]
    fn where_none_fits_it_says_why() {
        for (lines, part) in [
            (
                &[("os", "ID=arch"), ("dpkg", "amd64")][..],
                "of 'arch' it is not known",
            ),
            (&[("dpkg", "amd64")], "of '' it is not known"),
            (
                &[("os", "ID=debian"), ("rpm", "x86_64")],
                "no program that installs a .deb",
            ),
            (
                &[("os", "ID=debian"), ("dpkg", "riscv64")],
                "'riscv64' is not known",
            ),
        ] {
            let why = facts(lines).wanted().expect_err(part);
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn a_given_package_fits_by_its_form_and_architecture_alone() {
        let package = |format, arch| Package {
            format,
            version: "1".to_owned(),
            arch,
        };
        let unknown = facts(&[("os", "ID=nobody"), ("dpkg", "amd64")]);
        assert_eq!(unknown.check(&package(Format::Deb, "amd64")), Ok(()));
        let why = unknown
            .check(&package(Format::Deb, "arm64"))
            .expect_err("another");
        assert_eq!(why, "the file is a .deb for arm64");
        let why = unknown
            .check(&package(Format::Rpm, "amd64"))
            .expect_err("no rpm");
        assert!(why.contains("installs a .rpm"), "{why}");
    }

    #[test]
    fn a_machine_tells_what_it_is_and_noise_is_left_out() {
        let told = facts(&[
            ("os", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\""),
            ("os", "nonsense"),
            ("machine", "x86_64"),
            ("systemd", ""),
            ("installed", "0.1.0-1"),
            (
                "status",
                "{\"state\":\"x\",\"version\":\"1\",\"joined\":true,\"name\":\"w3\"}",
            ),
            ("tomorrow", "more"),
        ]);
        assert_eq!(told.shown(), "Debian GNU/Linux 12 (bookworm) on x86_64");
        assert!(told.systemd && told.no_root.is_none());
        let agent = told.agent.expect("a status");
        assert_eq!((agent.joined, agent.name.as_deref()), (true, Some("w3")));
        assert_eq!(facts(&[("status", "no json")]).agent, None);
    }
}
