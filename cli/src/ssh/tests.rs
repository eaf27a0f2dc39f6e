//! What ssh is given, and what the other side does with it on machines of each kind: the text of `remote.sh` is run by a shell that
//! finds a few programs only.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use canasta_proto::package::Format;

use super::{Facts, MARK, REMOTE, remote_command, split};

#[test]
fn the_other_side_is_one_word_for_any_shell() {
    // A quote would end the word; csh and fish take these two for something else even inside it.
    for sign in ["'", "!", "\\\\"] {
        assert!(!REMOTE.contains(sign), "{sign}");
    }
    assert_eq!(remote_command().matches('\'').count(), 4);
}

#[test]
fn a_line_is_a_word_and_a_rest() {
    assert_eq!(split("os ID=a b"), ("os", "ID=a b"));
    assert_eq!(split("ready"), ("ready", ""));
}

/// Programs that each machine has and that are this one's own.
const COMMON: [&str; 9] = [
    "cat", "grep", "head", "mktemp", "rm", "sh", "tail", "tr", "wc",
];
/// What the package is.
const PACKAGE: &[u8] = b"the bytes\nof a package\0";

/// A machine of some distribution.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    /// With this os-release, and these programs beside those of every machine. `HERE` is the directory of all of it.
    fn new(os: &str, programs: &[(&str, &str)]) -> Self {
        let machine = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        for directory in ["bin", "etc", "run/systemd/system", "tmp"] {
            std::fs::create_dir_all(machine.path(directory)).expect("a directory");
        }
        std::fs::write(machine.path("etc/os-release"), os).expect("written");
        for name in COMMON {
            let mut places = ["/usr/bin", "/bin"]
                .iter()
                .map(|place| Path::new(place).join(name));
            let own = places
                .find(|path| path.exists())
                .expect("this machine has it");
            symlink(own, machine.path("bin").join(name)).expect("a link");
        }
        let base = [
            ("id", "echo 0"),
            ("uname", "echo x86_64"),
            ("systemctl", "exit 0"),
        ];
        for (name, text) in base.iter().chain(programs) {
            let path = machine.path("bin").join(name);
            let here = machine.directory.path().display().to_string();
            let text = format!("#!/bin/sh\n{}\n", text.replace("HERE", &here));
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a program");
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// The lines that the other side means, when it reads this.
    fn session(&self, input: &[u8]) -> Vec<String> {
        let here = self.directory.path().display().to_string();
        let text = REMOTE
            .replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
            .replace("/usr/lib/os-release", "/none")
            .replace("/etc/", &format!("{here}/etc/"))
            .replace("/run/", &format!("{here}/run/"));
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "eval \"$1\"", "sh", &text])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        // One that ends early reads no more.
        let _ = child.stdin.take().expect("piped").write_all(input);
        let output = child.wait_with_output().expect("it ends");
        let told = String::from_utf8(output.stdout).expect("text");
        let meant = told.lines().filter_map(|line| line.strip_prefix(MARK));
        meant.map(|line| line.trim_end().to_owned()).collect()
    }

    /// What the machine tells of itself.
    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let lines = self.session(b"");
        assert_eq!(lines.last().map(String::as_str), Some("ready"), "{lines:?}");
        for line in lines {
            let (word, rest) = split(&line);
            facts.take(word, rest);
        }
        facts
    }

    /// Has the package installed; the lines after those about the machine.
    fn install(&self, format: Format) -> Vec<String> {
        let line = format!("install {} {}\n", format.ending(), PACKAGE.len());
        let mut lines = self.session(&[line.as_bytes(), PACKAGE, b"end\n"].concat());
        let ready = lines.iter().position(|line| line == "ready");
        lines.split_off(ready.expect("it is ready") + 1)
    }
}

/// A program that writes down how it was called, keeps the file that it is given last, and does something more.
fn noting(name: &str, more: &str) -> String {
    format!(
        "case $1 in --print-architecture) echo amd64; exit ;; -q) exit 1 ;; esac\n\
         for file; do :; done\nset -- \"$@\"\necho \"{name} $*\" >>HERE/called\ncat \"$file\" >HERE/package\n{more}"
    )
}

#[test]
fn each_distribution_installs_the_package_with_its_own_program() {
    let rpm = "rpm --upgrade --oldpackage --replacepkgs FILE.rpm";
    let apt = "apt-get install -y -q --no-install-recommends --allow-downgrades -o DPkg::Lock::Timeout=120 \
               -o Dpkg::Options::=--force-confold FILE.deb";
    let dpkg = "dpkg --install --force-confold FILE.deb";
    for (os, programs, format, called) in [
        ("ID=fedora\n", &["rpm"][..], Format::Rpm, rpm),
        (
            "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
            &["rpm"],
            Format::Rpm,
            rpm,
        ),
        ("ID=\"opensuse-leap\"\n", &["rpm"], Format::Rpm, rpm),
        // The other form's programs are there too, as tools for developers.
        ("ID=fedora\n", &["rpm", "dpkg", "apt-get"], Format::Rpm, rpm),
        ("ID=debian\n", &["dpkg", "apt-get", "rpm"], Format::Deb, apt),
        ("ID=debian\n", &["dpkg"], Format::Deb, dpkg),
    ] {
        let programs: Vec<_> = programs
            .iter()
            .map(|name| (*name, noting(name, "")))
            .collect();
        let programs: Vec<_> = programs
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let machine = Machine::new(os, &programs);
        assert_eq!(machine.facts().wanted(), Ok((format, "amd64")), "{os}");
        assert_eq!(machine.install(format), ["ok"], "{os}");
        let noted = std::fs::read_to_string(machine.path("called")).expect("it was called");
        let (before, file) = noted.trim_end().rsplit_once(' ').expect("a file");
        let name = Path::new(file).file_name().and_then(|name| name.to_str());
        let ending = name
            .and_then(|name| name.strip_prefix("canasta-agent"))
            .expect("the package");
        assert_eq!(format!("{before} FILE{ending}"), called, "{os}");
        assert_eq!(
            std::fs::read(machine.path("package")).expect("given"),
            PACKAGE
        );
        assert!(!Path::new(file).exists(), "nothing is left behind");
    }
}

#[test]
fn what_rpm_says_when_it_refuses_is_told() {
    let refusing = noting("rpm", "echo 'error: Failed dependencies:' >&2; exit 1");
    let machine = Machine::new("ID=fedora\n", &[("rpm", &refusing)]);
    let told = machine.install(Format::Rpm);
    assert_eq!(told, ["log error: Failed dependencies:", "failed"]);
}

#[test]
fn an_rpm_that_is_there_is_told_with_its_version() {
    let installed = "[ \"$*\" = \"-q --qf installed %{VERSION}-%{RELEASE} canasta-agent\" ] && printf 'installed 0.1.0-1'";
    let machine = Machine::new("ID=fedora\n", &[("rpm", installed)]);
    let facts = machine.facts();
    assert_eq!(facts.installed.as_deref(), Some("0.1.0-1"));
    assert!(facts.systemd && facts.no_root.is_none());
}
