//! What every kind of operation has to stand, one case for each of its steps: each run twice, a failure before and after
//! its work, the controller killed there, the agent killed there. The steps are those of the plan, so a new one is covered
//! by itself.

use std::sync::Arc;

use canasta_proto::pb;
use canasta_proto::pb::{OperationState, StepOutcome};
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::{Client, install_on};
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::trap::{MOMENTS, Moment};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Cases that run at a time: most of them wait most of the time.
const AT_A_TIME: usize = 6;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Install,
    Adopt,
}

impl Kind {
    /// As the controller calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Install => "install-k8s-cp",
            Self::Adopt => "adopt-k8s-cp",
        }
    }

    /// A fleet with a node on which the operation has everything to do.
    async fn prepare(self) -> (Fleet, Node) {
        let fleet = Fleet::start().await;
        let node = fleet.joined("cp1").await;
        if self == Self::Adopt {
            node.install_foreign_k3s("v1.33.4+k3s1").await;
        }
        (fleet, node)
    }

    async fn ask(self, admin: &Client, dry_run: bool) -> (String, pb::InstallPlan) {
        let answer = match self {
            Self::Install => {
                admin
                    .install(pb::InstallControlPlaneRequest {
                        dry_run,
                        ..install_on("cp1")
                    })
                    .await
            }
            Self::Adopt => {
                let host = "cp1".to_owned();
                admin
                    .adopt(pb::AdoptControlPlaneRequest {
                        host,
                        cluster: String::new(),
                        dry_run,
                    })
                    .await
            }
        };
        answer.unwrap_or_else(|fault| panic!("{self:?} is refused: {fault:?}"))
    }

    async fn start(self, fleet: &Fleet) -> String {
        self.ask(&fleet.admin().await, false).await.0
    }

    async fn run(self, fleet: &Fleet) -> pb::Operation {
        let id = self.start(fleet).await;
        fleet.admin().await.ended(&id).await
    }

    /// The ids of the operation's steps.
    async fn steps(self) -> Vec<String> {
        let (fleet, _node) = self.prepare().await;
        let (_, plan) = self.ask(&fleet.admin().await, true).await;
        assert!(plan.steps.len() >= 3, "{plan:?}");
        plan.steps.into_iter().map(|step| step.id).collect()
    }

    /// The ids of the tasks of its agent.
    async fn tasks(self) -> Vec<String> {
        let (fleet, node) = self.prepare().await;
        succeeded(&self.run(&fleet).await, "a plain run");
        let tasks = node.probe.take_seen();
        assert!(!tasks.is_empty());
        tasks
    }

    /// Everything is as it should be, and another run finds nothing to do.
    async fn check(self, fleet: &Fleet, node: &Node, case: &str) {
        let admin = fleet.admin().await;
        let clusters = admin
            .clusters()
            .list_clusters(pb::ListClustersRequest {})
            .await
            .unwrap()
            .into_inner()
            .clusters;
        let ready: Vec<_> = clusters
            .iter()
            .flat_map(|cluster| &cluster.nodes)
            .map(|node| node.ready)
            .collect();
        assert_eq!(
            (clusters.len(), ready),
            (1, vec![Some(true)]),
            "{case}: {clusters:#?}"
        );
        let starts = node.k3s.starts();
        let again = self.run(fleet).await;
        succeeded(&again, case);
        let touched: Vec<_> = again
            .steps
            .iter()
            .filter(|step| step.outcome() != StepOutcome::Unchanged)
            .collect();
        assert!(
            touched.is_empty(),
            "{case}: another run changed {touched:#?}"
        );
        assert_eq!(
            node.k3s.starts(),
            starts,
            "{case}: another run restarted k3s"
        );
    }
}

/// The kinds that the tests below go through.
const KINDS: [Kind; 2] = [Kind::Install, Kind::Adopt];

/// Kinds whose steps are tested with agents that do as they are told (controller/src/workflows), since no simulated node
/// runs a worker yet: each of their steps twice, with failures and crashes, waits for that.
const WITHOUT_NODES: [&str; 3] = ["drain-node", "install-k8s-worker", "uninstall-k8s"];

#[tokio::test]
async fn no_kind_of_operation_is_left_out() {
    let fleet = Fleet::start().await;
    let mut known = fleet.kinds();
    let mut tested = KINDS.map(Kind::name).to_vec();
    tested.extend(WITHOUT_NODES);
    known.sort_unstable();
    tested.sort_unstable();
    assert_eq!(known, tested);
}

fn succeeded(operation: &pb::Operation, case: &str) {
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{case}: {operation:#?}"
    );
}

/// Runs a case for each id and moment, a few at a time.
async fn each<F: Future<Output = ()> + Send + 'static>(
    ids: Vec<String>,
    case: impl Fn(String, Moment) -> F,
) {
    let slots = Arc::new(Semaphore::new(AT_A_TIME));
    let mut cases = JoinSet::new();
    for id in ids {
        for moment in MOMENTS {
            let (slots, work) = (Arc::clone(&slots), case(id.clone(), moment));
            cases.spawn(async move {
                let _slot = slots.acquire_owned().await;
                work.await;
            });
        }
    }
    while let Some(ended) = cases.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn twice(kind: Kind) {
    let (fleet, node) = kind.prepare().await;
    fleet.probe.run_twice(true);
    node.probe.run_twice(true);
    succeeded(&kind.run(&fleet).await, "each step twice");
    fleet.probe.run_twice(false);
    node.probe.run_twice(false);
    assert_eq!(node.k3s.starts(), 1, "k3s was started once");
    kind.check(&fleet, &node, "each step twice").await;
}

async fn failure(kind: Kind, step: String, moment: Moment) {
    let case = format!("{kind:?}: {step} fails, {moment:?}");
    let (fleet, node) = kind.prepare().await;
    fleet.probe.fail(&step, moment);
    let failed = kind.run(&fleet).await;
    assert_eq!(failed.state(), OperationState::Failed, "{case}");
    assert_eq!(
        failed.error.as_ref().map(|error| error.reason.as_str()),
        Some("INJECTED"),
        "{case}"
    );
    let at = failed
        .steps
        .iter()
        .position(|found| found.id == step)
        .expect("the step is in the plan");
    for (index, found) in failed.steps.iter().enumerate() {
        let expected = match index.cmp(&at) {
            std::cmp::Ordering::Less => pb::StepState::Finished,
            std::cmp::Ordering::Equal => pb::StepState::Failed,
            std::cmp::Ordering::Greater => pb::StepState::NotRun,
        };
        assert_eq!(found.state(), expected, "{case}: {found:?}");
    }
    // The host is free again, and another run repairs.
    succeeded(&kind.run(&fleet).await, &case);
    kind.check(&fleet, &node, &case).await;
}

async fn controller_killed(kind: Kind, step: String, moment: Moment) {
    let case = format!("{kind:?}: controller killed at {step}, {moment:?}");
    let (mut fleet, node) = kind.prepare().await;
    let mut held = fleet.probe.hold(&step, moment);
    let id = kind.start(&fleet).await;
    held.reached().await;
    fleet.crash().await;
    fleet.restart().await;
    let operation = fleet.admin().await.ended(&id).await;
    succeeded(&operation, &case);
    let attempts = operation
        .steps
        .iter()
        .find(|found| found.id == step)
        .map(|found| found.attempts);
    assert_eq!(attempts, Some(2), "{case}");
    kind.check(&fleet, &node, &case).await;
}

async fn agent_killed(kind: Kind, task: String, moment: Moment) {
    let case = format!("{kind:?}: agent killed at {task}, {moment:?}");
    let (fleet, mut node) = kind.prepare().await;
    let mut held = node.probe.hold(&task, moment);
    let id = kind.start(&fleet).await;
    held.reached().await;
    node.crash().await;
    node.restart().await;
    succeeded(&fleet.admin().await.ended(&id).await, &case);
    kind.check(&fleet, &node, &case).await;
}

async fn task_failure(kind: Kind, task: String, moment: Moment) {
    let case = format!("{kind:?}: the task {task} fails, {moment:?}");
    let (fleet, node) = kind.prepare().await;
    node.probe.fail(&task, moment);
    let failed = kind.run(&fleet).await;
    assert_eq!(failed.state(), OperationState::Failed, "{case}");
    assert_eq!(
        failed.error.as_ref().map(|error| error.reason.as_str()),
        Some("INJECTED"),
        "{case}"
    );
    succeeded(&kind.run(&fleet).await, &case);
    kind.check(&fleet, &node, &case).await;
}

#[tokio::test]
async fn each_step_of_an_install_can_run_twice() {
    twice(Kind::Install).await;
}

#[tokio::test]
async fn each_step_of_an_adoption_can_run_twice() {
    twice(Kind::Adopt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_stands_a_failure_at_each_step() {
    each(Kind::Install.steps().await, |step, moment| {
        failure(Kind::Install, step, moment)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adoption_stands_a_failure_at_each_step() {
    each(Kind::Adopt.steps().await, |step, moment| {
        failure(Kind::Adopt, step, moment)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_goes_on_when_the_controller_is_killed_at_each_step() {
    each(Kind::Install.steps().await, |step, moment| {
        controller_killed(Kind::Install, step, moment)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adoption_goes_on_when_the_controller_is_killed_at_each_step() {
    each(Kind::Adopt.steps().await, |step, moment| {
        controller_killed(Kind::Adopt, step, moment)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_goes_on_when_the_agent_is_killed_at_each_task() {
    each(Kind::Install.tasks().await, |task, moment| {
        agent_killed(Kind::Install, task, moment)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_stands_a_failure_of_each_task() {
    each(Kind::Install.tasks().await, |task, moment| {
        task_failure(Kind::Install, task, moment)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adoption_stands_a_killed_agent_and_a_failed_task() {
    let tasks = Kind::Adopt.tasks().await;
    each(tasks.clone(), |task, moment| {
        agent_killed(Kind::Adopt, task, moment)
    })
    .await;
    each(tasks, |task, moment| {
        task_failure(Kind::Adopt, task, moment)
    })
    .await;
}
