//! Shell patterns for names of units: `*` and `?`.

/// Whether the whole name matches the pattern.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut pattern_rest = pattern.chars();
    match pattern_rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter()
                .any(|at| matches(pattern_rest.as_str(), &name[at..]))
        }
        Some(wanted) => {
            let mut name_rest = name.chars();
            name_rest
                .next()
                .is_some_and(|found| wanted == '?' || wanted == found)
                && matches(pattern_rest.as_str(), name_rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        assert!(
            matches("k3s*", "k3s.service")
                && matches("k3s*", "k3s-agent.service")
                && matches("*.mount", "srv-nfs.mount")
        );
        assert!(matches("k?s*e", "k3s.service") && matches("*", "") && matches("a*b*c", "a-b-b-c"));
        assert!(
            !matches("k3s*", "ssh.service")
                && !matches("*.mount", "x.mounts")
                && !matches("?", "")
                && !matches("a", "ab")
        );
    }
}
