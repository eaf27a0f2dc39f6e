//! What a step of shared storage did, gathered for the one sentence that the operator reads.

use canasta_steps::Done;

/// What was done, in words.
#[derive(Debug, Default)]
pub(super) struct Told {
    parts: Vec<String>,
    changed: bool,
    repaired: bool,
}

impl Told {
    /// Something is other than before.
    pub(super) fn changed(&mut self, what: impl Into<String>) {
        self.changed = true;
        self.parts.push(what.into());
    }

    /// Something is again as it was meant to be.
    pub(super) fn repaired(&mut self, what: impl Into<String>) {
        self.repaired = true;
        self.parts.push(what.into());
    }

    /// Something to know that is no change.
    pub(super) fn noted(&mut self, what: impl Into<String>) {
        self.parts.push(what.into());
    }

    /// The end of the step: what is so now, then what was done for it.
    pub(super) fn done(self, end: &str) -> Done {
        let parts = std::iter::once(end.to_owned()).chain(self.parts);
        let detail = parts.collect::<Vec<_>>().join("; ");
        match (self.repaired, self.changed) {
            (true, _) => Done::repaired(detail),
            (false, true) => Done::changed(detail),
            (false, false) => Done::unchanged(detail),
        }
    }
}
