//! The machine's own package sources, read so that a node's root file system is made from the
//! mirrors that this machine can reach. Called by [`crate::base`].

use std::fs;
use std::path::Path;

/// The sources of the release `codename`, as one-line entries that mmdebstrap takes as mirrors.
pub(crate) fn mirrors(etc_apt: &Path, codename: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(text) = fs::read_to_string(etc_apt.join("sources.list")) {
        found.extend(one_line(&text, codename));
    }
    let mut files: Vec<_> = fs::read_dir(etc_apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => found.extend(one_line(&text, codename)),
            Some("sources") => found.extend(deb822(&text, codename)),
            _ => {}
        }
    }
    found.dedup();
    found
}

/// A distribution's own suite: the release, its updates or its security fixes. Suites of other
/// publishers are left out, as are those without the component that every archive has.
fn wanted(uri: &str, suite: &str, components: &[&str], codename: &str) -> bool {
    let kinds = ["", "-updates", "-security", "/updates"];
    let reachable = ["http://", "https://", "file:", "copy:"];
    reachable.iter().any(|scheme| uri.starts_with(scheme))
        && kinds
            .iter()
            .any(|kind| suite.strip_prefix(codename) == Some(kind))
        && components.contains(&"main")
}

/// Entries of the form `deb [options] URI SUITE COMPONENT…`.
fn one_line(text: &str, codename: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ").map(str::trim_start) else {
            continue;
        };
        let after_options = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, after)| after),
            None => rest,
        };
        let mut fields = after_options.split_whitespace();
        let (Some(uri), Some(suite)) = (fields.next(), fields.next()) else {
            continue;
        };
        if wanted(uri, suite, &fields.collect::<Vec<_>>(), codename) {
            found.push(line.to_owned());
        }
    }
    found
}

/// Stanzas of `Key: value` lines; a line that begins with a space continues the one before.
fn deb822(text: &str, codename: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let list = |key: &str| values(stanza, key);
        let disabled = list("Enabled").first().is_some_and(|value| *value == "no");
        if disabled || !list("Types").contains(&"deb") {
            continue;
        }
        let components = list("Components");
        // A key that stands in the stanza itself is no path; apt's own keyrings are used then.
        let key = match list("Signed-By").as_slice() {
            [path] if path.starts_with('/') => format!("[signed-by={path}] "),
            _ => String::new(),
        };
        for uri in list("URIs") {
            for suite in list("Suites") {
                if wanted(uri, suite, &components, codename) {
                    found.push(format!("deb {key}{uri} {suite} {}", components.join(" ")));
                }
            }
        }
    }
    found
}

fn values<'a>(stanza: &[&'a str], key: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in stanza {
        if line.starts_with([' ', '\t']) {
            if inside {
                found.extend(line.split_whitespace());
            }
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        inside = name.eq_ignore_ascii_case(key);
        if inside {
            found.extend(value.split_whitespace());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deb822_gives_an_entry_for_each_suite_and_leaves_other_publishers_out() {
        let text = "Types: deb\n# a note\nURIs: http://mirror.example/debian\n\
            Suites: bookworm bookworm-updates bookworm-backports\nComponents: main contrib\n\
            Signed-By: /usr/share/keyrings/debian.gpg\n\n\
            Types: deb\nURIs: https://deb.example.com/node\nSuites: nodistro\nComponents: main\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n\n\
            Types: deb-src\nURIs: http://src.example\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            deb822(text, "bookworm"),
            [
                "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.example/debian bookworm main contrib",
                "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.example/debian bookworm-updates main contrib",
            ]
        );
    }

    #[test]
    fn a_key_inside_the_stanza_is_not_taken_for_a_path() {
        let text = "Types: deb\nURIs: http://m.example\nSuites: noble\nComponents: main\n\
            Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB\n";
        assert_eq!(deb822(text, "noble"), ["deb http://m.example noble main"]);
    }

    #[test]
    fn one_line_entries_keep_their_options() {
        let text = "# deb http://old.example bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main # note\n\
            deb-src http://m.example/debian bookworm main\n\
            deb cdrom:[Debian]/ bookworm main\n\
            deb https://download.example/linux/debian bookworm stable\n\
            deb http://m.example/debian-security bookworm-security main\n\
            deb http://m.example/debian bookworm-pgdg main\n";
        assert_eq!(
            one_line(text, "bookworm"),
            [
                "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main",
                "deb http://m.example/debian-security bookworm-security main",
            ]
        );
    }
}
