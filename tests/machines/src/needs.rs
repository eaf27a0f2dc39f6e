//! What a test needs and not every run has. A test that can't be made is skipped aloud: its name and need go to the file
//! `$CANASTA_TEST_SKIPS`, which `./dev test` compares with the list in `tests/skips/`. Called by the tests on machines.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;

use crate::{LabError, Payload, RepositoryError};

/// Says that a real k3s under test can pull images.
const IMAGES: &str = "CANASTA_TEST_IMAGES";

/// Something that a test needs, and whether this run has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    name: &'static str,
    lack: Option<String>,
}

impl Need {
    /// A need of this name; `lack` says why it is not met, if it is not.
    pub fn new(name: &'static str, lack: Option<String>) -> Self {
        Self { name, lack }
    }

    /// What is served as k3s is the stand-in, whose pace, faults and version a test can choose.
    pub(crate) fn standin(payload: &Payload) -> Self {
        let lack = match payload {
            Payload::Standin(_) => None,
            Payload::K3s(file) => Some(format!(
                "{} is a real k3s, which has no faults on demand",
                file.display()
            )),
        };
        Self::new("standin", lack)
    }

    /// Pods can run: the stand-in needs no images, a real k3s has to get them from somewhere.
    pub(crate) fn images(payload: &Payload) -> Self {
        let lack = match payload {
            Payload::K3s(_) if std::env::var_os(IMAGES).is_none() => Some(format!(
                "a real k3s pulls images, and {IMAGES}=1 does not say that it can"
            )),
            Payload::Standin(_) | Payload::K3s(_) => None,
        };
        Self::new("images", lack)
    }

    /// Packages of the distribution can be had. Any other fault than apt's own is one of the testbed.
    ///
    /// # Panics
    /// On such a fault.
    pub(crate) fn apt(downloaded: Result<PathBuf, LabError>) -> Self {
        let lack = match downloaded {
            Ok(_) => None,
            Err(LabError::Repository(RepositoryError::Download { packages, source })) => {
                Some(format!("apt can't download {packages}: {source}"))
            }
            Err(error) => panic!("{error}: {error:?}"),
        };
        Self::new("apt", lack)
    }
}

/// Whether all needs of `test` are met. Each that is not is told and recorded; the test then returns.
#[must_use]
pub fn needs(test: &str, needs: &[Need]) -> bool {
    let unmet = unmet(test, needs);
    for (line, reason) in &unmet {
        // What is told is also recorded: a closed stream hides nothing.
        let _ = writeln!(io::stderr(), "skipped: {line}: {reason}");
    }
    if let (Some(path), false) = (std::env::var_os("CANASTA_TEST_SKIPS"), unmet.is_empty()) {
        let lines: String = unmet.iter().map(|(line, _)| format!("{line}\n")).collect();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    unmet.is_empty()
}

/// `TEST NEED` and the reason of each need that is not met.
fn unmet(test: &str, needs: &[Need]) -> Vec<(String, String)> {
    needs
        .iter()
        .filter_map(|need| Some((format!("{test} {}", need.name), need.lack.clone()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Place, run};

    #[test]
    fn a_need_that_is_not_met_is_named_with_its_test_and_reason() {
        let met = Need::standin(&Payload::Standin("/standin".into()));
        let lacking = Need::standin(&Payload::K3s("/k3s".into()));
        assert_eq!(unmet("a_test", std::slice::from_ref(&met)), []);
        let found = unmet("a_test", &[met.clone(), lacking.clone()]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "a_test standin");
        assert!(found[0].1.contains("/k3s is a real k3s"), "{found:?}");
        assert!(needs("a_test", &[met]));
    }
    #[test]
    fn packages_that_apt_does_not_get_are_a_lack_with_what_apt_said() {
        assert_eq!(Need::apt(Ok("/repository".into())).lack, None);
        let said = run(&Place::default(), &["ls", "/no/such/package"], b"").unwrap_err();
        let failed = RepositoryError::Download {
            packages: "a b".to_owned(),
            source: said,
        };
        let need = Need::apt(Err(failed.into()));
        let lack = need.lack.unwrap_or_default();
        assert!(lack.contains("apt can't download a b"), "{lack}");
        assert!(lack.contains("/no/such/package"), "{lack}");
        assert_eq!(need.name, "apt");
    }
}
