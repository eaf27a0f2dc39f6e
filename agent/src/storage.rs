//! Shared storage on this node: the proof that a share can be used from it. Called by the tasks of the agent's API.

pub(crate) mod prove;
