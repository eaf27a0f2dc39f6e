//! What goes wrong in the middle of an operation, at each of its steps or tasks, and how that is brought about: kinds that
//! undo each other take turns on one ground, several grounds at a time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_tests::fleet::trap::{MOMENTS, Moment, Trap};
use tokio::task::{JoinSet, LocalSet};

use super::kinds::{Ground, Kind, succeeded};

/// Grounds that are used at a time: operations wait most of the time.
const LANES: usize = 3;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A step fails.
    StepFails,
    /// The controller is killed at a step.
    ControllerKilled,
    /// The agent is killed at a step, also at one that it has no task for.
    AgentLost,
    /// The agent is killed at a task.
    AgentKilled,
    /// A task fails.
    TaskFails,
}

/// Where something goes wrong: a step or a task, and which side of its work.
type Point = (String, Moment);

/// What goes wrong, one after the other, until an operation has done its work.
#[derive(Debug, Clone)]
pub(super) struct Case {
    kind: Kind,
    wrong: Wrong,
    points: Vec<Point>,
}

impl Wrong {
    /// Whether another operation has to go on.
    fn is_failure(self) -> bool {
        matches!(self, Self::StepFails | Self::TaskFails)
    }
}

/// The points of these steps or tasks. Not all of them are wanted where a failure before one leaves what a failure after
/// the one before it leaves, for another operation to find.
fn points(at: &[String], all: bool) -> Vec<Point> {
    let of_each = at.iter().enumerate().flat_map(|(index, at)| {
        let wanted = MOMENTS
            .into_iter()
            .filter(move |moment| all || index == 0 || *moment == Moment::After);
        wanted.map(move |moment| (at.clone(), moment))
    });
    of_each.collect()
}

impl Case {
    /// Cases with at most so many points each, and all of them with all steps and tasks of an undisturbed run.
    async fn of(
        kind: Kind,
        wrongs: &[Wrong],
        at_once: usize,
        ground: &mut Ground,
    ) -> VecDeque<Self> {
        kind.prepare(ground).await;
        kind.node(ground).probe.take_seen();
        let operation = kind.succeed(ground).await;
        let tasks = kind.node(ground).probe.take_seen();
        let steps: Vec<String> = operation.steps.into_iter().map(|step| step.id).collect();
        assert!(steps.len() >= 3, "{steps:?}");
        let mut cases = VecDeque::new();
        for &wrong in wrongs {
            let at = match wrong {
                Wrong::StepFails | Wrong::ControllerKilled | Wrong::AgentLost => &steps,
                Wrong::AgentKilled | Wrong::TaskFails => &tasks,
            };
            // What runs beside a step may have ended when a daemon is killed there, or begin anew after it.
            let one = |step: &&String| {
                let first = at.iter().find(|other| kind.are_at_once(other, step));
                wrong.is_failure() || first.is_none_or(|first| first == *step)
            };
            let at: Vec<String> = at.iter().filter(one).cloned().collect();
            let points = points(&at, kind.is_short() || !wrong.is_failure());
            cases.extend(points.chunks(at_once).map(|points| Self {
                kind,
                wrong,
                points: points.to_vec(),
            }));
        }
        cases
    }

    /// Has it go wrong, and the operation is brought to its end.
    async fn run(&self, ground: &mut Ground) {
        if self.wrong.is_failure() {
            self.fails(ground).await;
        } else {
            self.killed(ground).await;
        }
        self.kind.check(ground, &format!("{self:?}")).await;
    }

    /// Around what it goes wrong: the controller's steps or the agent's tasks.
    fn trap(&self, ground: &mut Ground) -> Arc<Trap> {
        let trap = match self.wrong {
            Wrong::AgentKilled | Wrong::TaskFails => &self.kind.node(ground).probe,
            _ => &ground.fleet.probe,
        };
        Arc::clone(trap)
    }

    /// Each run fails at another point, and the next one gets past it: the host is free again, and what was left is
    /// repaired.
    async fn fails(&self, ground: &mut Ground) {
        for (at, moment) in &self.points {
            self.trap(ground).fail(at, *moment);
            let failed = self.kind.run(ground).await.expect("it is begun");
            let case = format!("{self:?}, {at}, {moment:?}");
            assert_eq!(
                failed.state(),
                OperationState::Failed,
                "{case}: {failed:#?}"
            );
            let reason = failed.error.as_ref().map(|error| error.reason.as_str());
            assert_eq!(reason, Some("INJECTED"), "{case}: {failed:#?}");
            if self.wrong == Wrong::StepFails {
                stopped_at(self.kind, &failed, at, &case);
            }
        }
        // One that failed with all done may find nothing to do.
        if let Some(operation) = self.kind.run(ground).await {
            succeeded(&operation, &format!("{self:?}: the last run"));
        }
    }

    /// One operation goes on from point to point, however often a daemon is killed.
    async fn killed(&self, ground: &mut Ground) {
        let trap = self.trap(ground);
        let mut points = self.points.iter().peekable();
        let Some((first, moment)) = points.next() else {
            return;
        };
        let mut held = trap.hold(first, *moment);
        let id = self.kind.start(ground).await.expect("it is begun");
        loop {
            held.reached().await;
            let next = points.next();
            match self.wrong {
                Wrong::ControllerKilled => ground.fleet.crash().await,
                _ => self.kind.node(ground).crash().await,
            }
            // Before anything goes on, so that nothing gets past it.
            let following = next.map(|(at, moment)| trap.hold(at, *moment));
            match self.wrong {
                Wrong::ControllerKilled => ground.fleet.restart().await,
                Wrong::AgentLost => {
                    held.release();
                    self.kind.node(ground).restart().await;
                }
                _ => self.kind.node(ground).restart().await,
            }
            match following {
                Some(following) => held = following,
                None => break,
            }
        }
        let operation = ground.fleet.admin().await.ended(&id).await;
        succeeded(&operation, &format!("{self:?}"));
        if self.wrong == Wrong::ControllerKilled {
            for step in operation.steps {
                let killed = |is: &dyn Fn(&str) -> bool| {
                    let points = self.points.iter();
                    points.filter(|(at, _)| is(at)).count()
                };
                let here = killed(&|at| at == step.id);
                let beside = killed(&|at| self.kind.are_at_once(at, &step.id));
                let attempts = 1 + here..=1 + here.max(beside);
                assert!(
                    attempts.contains(&(step.attempts as usize)),
                    "{self:?}: {step:?}"
                );
            }
        }
    }
}

/// What came before the step that failed is done, and nothing after it was begun.
fn stopped_at(kind: Kind, failed: &pb::Operation, at: &str, case: &str) {
    let mut steps = failed.steps.iter();
    let at = steps
        .position(|found| found.id == at)
        .expect("the step is in the plan");
    for (index, found) in failed.steps.iter().enumerate() {
        if index != at && kind.are_at_once(&failed.steps[at].id, &found.id) {
            assert_ne!(found.state(), pb::StepState::Failed, "{case}: {found:?}");
            continue;
        }
        let expected = match index.cmp(&at) {
            std::cmp::Ordering::Less => pb::StepState::Finished,
            std::cmp::Ordering::Equal => pb::StepState::Failed,
            std::cmp::Ordering::Greater => pb::StepState::NotRun,
        };
        assert_eq!(found.state(), expected, "{case}: {found:?}");
    }
}

/// What is to be done on a ground: for each kind a case, or an undisturbed run where the others have more of them.
type Round = Vec<(Kind, Option<Case>)>;

/// Has everything go wrong in operations of these kinds, which are done in turn, at so many points of each.
pub(super) async fn stand<N, F>(kinds: &[Kind], wrongs: &[Wrong], at_once: usize, new: N)
where
    N: Fn() -> F + Clone + 'static,
    F: Future<Output = Ground> + 'static,
{
    let mut ground = new().await;
    let mut cases = Vec::new();
    for kind in kinds {
        cases.push((*kind, Case::of(*kind, wrongs, at_once, &mut ground).await));
    }
    let mut rounds: VecDeque<Round> = VecDeque::new();
    while cases.iter().any(|(_, left)| !left.is_empty()) {
        let next = cases
            .iter_mut()
            .map(|(kind, left)| (*kind, left.pop_front()));
        rounds.push_back(next.collect());
    }
    let rounds = Rc::new(RefCell::new(rounds));
    // The first ground is as it was before where its kinds undo each other.
    let mut first = kinds
        .iter()
        .all(|kind| kind.can_be_done_again())
        .then_some(ground);
    let (local, mut lanes) = (LocalSet::new(), JoinSet::new());
    for _ in 0..LANES {
        let lane = lane(Rc::clone(&rounds), first.take(), new.clone());
        lanes.spawn_local_on(lane, &local);
    }
    let ended = async {
        while let Some(ended) = lanes.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    local.run_until(ended).await;
}

async fn lane<F: Future<Output = Ground>>(
    rounds: Rc<RefCell<VecDeque<Round>>>,
    mut ground: Option<Ground>,
    new: impl Fn() -> F,
) {
    let next = || rounds.borrow_mut().pop_front();
    while let Some(round) = next() {
        let mut on = match ground.take() {
            Some(ground) => ground,
            None => new().await,
        };
        let mut can_be_used_again = true;
        for (kind, case) in round {
            can_be_used_again &= kind.can_be_done_again();
            kind.prepare(&mut on).await;
            match case {
                Some(case) => case.run(&mut on).await,
                None => drop(kind.succeed(&on).await),
            }
        }
        ground = can_be_used_again.then_some(on);
    }
}

/// Each step of each of these kinds is run twice, and each task.
pub(super) async fn twice(kinds: &[Kind], mut ground: Ground) {
    for kind in kinds {
        kind.prepare(&mut ground).await;
        let starts = kind.node(&mut ground).k3s.starts();
        ground.fleet.probe.run_twice(true);
        kind.node(&mut ground).probe.run_twice(true);
        kind.succeed(&ground).await;
        ground.fleet.probe.run_twice(false);
        kind.node(&mut ground).probe.run_twice(false);
        let started = kind.node(&mut ground).k3s.starts() - starts;
        assert_eq!(started, kind.starts(), "{kind:?}: k3s was started once");
        kind.check(&ground, &format!("{kind:?}, each step twice"))
            .await;
    }
}
