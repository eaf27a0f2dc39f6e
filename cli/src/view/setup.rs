//! The plan of a set-up of shared storage as it is printed.

use canasta_proto::pb;
use serde::Serialize;

use super::host::known;
use super::plan::{PlannedStep, steps_text};
use super::word;

/// What `canasta storage setup nfs --dry-run` shows.
#[derive(Debug, Serialize)]
pub(crate) struct SetupPlan {
    operation_id: Option<String>,
    cluster: String,
    share: String,
    storage_class: String,
    /// Null for a server that exists.
    backend: Option<String>,
    clients: Vec<String>,
    packages: Vec<String>,
    notes: Vec<String>,
    steps: Vec<PlannedStep>,
}

impl From<pb::SetupNfsResponse> for SetupPlan {
    fn from(answer: pb::SetupNfsResponse) -> Self {
        let backend = match answer.backend() {
            pb::NfsBackend::Unspecified => None,
            backend => Some(word(backend.as_str_name(), "NFS_BACKEND_")),
        };
        Self {
            backend,
            operation_id: known(answer.operation_id),
            cluster: answer.cluster,
            share: answer.share,
            storage_class: answer.storage_class,
            clients: answer.clients,
            packages: answer.packages,
            notes: answer.notes,
            steps: answer.steps.into_iter().map(Into::into).collect(),
        }
    }
}

impl SetupPlan {
    /// What an operator should know, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self {
            cluster,
            share,
            storage_class,
            ..
        } = self;
        let mut lines = vec![format!(
            "storage class '{storage_class}' of cluster '{cluster}' on {share}"
        )];
        if let Some(backend) = &self.backend {
            lines.push(format!("NFS server: {backend}"));
        }
        for (what, list) in [
            ("packages to install", &self.packages),
            ("may mount it", &self.clients),
        ] {
            if !list.is_empty() {
                lines.push(format!("{what}: {}", list.join(", ")));
            }
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }

    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.lines().join("\n"), steps_text(&self.steps))
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::SetupPlan;

    #[test]
    fn a_plan_says_who_serves_what_to_whom() {
        let mut answer = pb::SetupNfsResponse {
            cluster: "prod".to_owned(),
            share: "10.0.0.5:/srv/nfs/canasta".to_owned(),
            storage_class: "nfs".to_owned(),
            clients: vec!["10.0.0.5".to_owned(), "10.0.0.6".to_owned()],
            packages: vec!["nfs-ganesha".to_owned()],
            notes: vec!["it is started".to_owned()],
            ..pb::SetupNfsResponse::default()
        };
        answer.set_backend(pb::NfsBackend::Ganesha);
        assert_eq!(
            SetupPlan::from(answer).lines(),
            [
                "storage class 'nfs' of cluster 'prod' on 10.0.0.5:/srv/nfs/canasta",
                "NFS server: ganesha",
                "packages to install: nfs-ganesha",
                "may mount it: 10.0.0.5, 10.0.0.6",
                "it is started",
            ]
        );
    }
}
