//! Writes the unit and its environment file.

use canasta_steps::{Done, StepError};

use super::Work;
use crate::k3s::owned::{self, Reader, Summary, Wanted};
use crate::k3s::record::Record;
use crate::k3s::{paths, render};

impl Work<'_> {
    pub(super) async fn unit(&self, record: &mut Record) -> Result<Done, StepError> {
        let wanted = [
            Wanted::new(
                paths::unit_file(self.unit),
                render::unit(self.spec.role()),
                0o644,
            )
            .read_by(Reader::Systemd),
            Wanted::new(paths::env_file(self.unit), render::env(), 0o600).read_by(Reader::K3s),
        ];
        let applied = owned::apply(self.host, record, &wanted).await?;
        let mut summary = Summary::default();
        for file in &applied {
            summary.add(&file.path, file.verdict, "");
        }
        Ok(summary.done())
    }
}
