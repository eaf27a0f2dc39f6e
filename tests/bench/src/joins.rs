//! Joins of simulated workers: how much longer eight take than one, when one call has them join at the same time.

use std::time::Instant;

use canasta_proto::pb;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::install_on;

use crate::Figure;
use crate::measure::median;

/// How many join at the same time.
const MANY: usize = 8;
/// How often each is measured.
const ROUNDS: usize = 3;
/// Seconds that a second of k3s takes: as on the machines under test.
const SCALE: f64 = 0.05;

/// The joins, in a fleet in this process.
pub(crate) fn joins() -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let seconds = |workers| {
        let rounds = (0..ROUNDS).map(|_| runtime.block_on(join(workers)));
        median(rounds.collect())
    };
    let (one, many) = (seconds(1), seconds(MANY));
    vec![
        Figure::told("join of one simulated worker (median of 3)", "s", one),
        Figure::at_most(
            "joins of 8 simulated workers in one call, to one",
            "times",
            many / one,
            1.6,
        ),
    ]
}

/// Seconds from the call to the end of the last join, in a new fleet.
async fn join(workers: usize) -> f64 {
    let fleet = Fleet::start().await;
    let names: Vec<_> = (1..=workers).map(|number| format!("w{number}")).collect();
    let mut nodes = Vec::new();
    for name in std::iter::once("cp1").chain(names.iter().map(String::as_str)) {
        let node = fleet.joined(name).await;
        node.k3s.set_scale(SCALE);
        nodes.push(node);
    }
    let admin = fleet.admin().await;
    let (installed, _) = admin.install(install_on("cp1")).await.expect("it installs");
    admin.ended(&installed).await;
    let request = pb::JoinWorkersRequest {
        hosts: names,
        control_plane: "cp1".to_owned(),
        ..pb::JoinWorkersRequest::default()
    };
    let start = Instant::now();
    let answer = admin.clusters().join_workers(request).await;
    for join in answer.expect("they are planned").into_inner().joins {
        assert!(join.error.is_none(), "{join:?}");
        let ended = admin.ended(&join.operation_id).await;
        assert_eq!(ended.state(), pb::OperationState::Succeeded, "{ended:#?}");
    }
    start.elapsed().as_secs_f64()
}
