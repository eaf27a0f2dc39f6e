//! A share of an NFS server, as the proofs of fake nodes see it: files with content, and nodes that can't reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use canasta_host::fake::FakeGanesha;
use canasta_host::ganesha::Served;
use canasta_host::nfs::{Action, Failure, Proof, ProofError, Proven, Reason};
use canasta_host::outside::Ran;
use canasta_proto::pb;
use http::Method;
use serde_json::json;

use super::node::Node;

/// The server of the share.
pub const SERVER: &str = "10.77.0.9";
/// Its path there.
pub const PATH: &str = "/srv/nfs/canasta";
/// What packages of nfs-ganesha bring, as far as an agent looks.
const GANESHA: [(&str, &str); 3] = [
    ("/usr/bin/ganesha.nfsd", "x"),
    ("/usr/lib/ganesha/libfsalvfs.so", "x"),
    (
        "/usr/lib/systemd/system/nfs-ganesha.service",
        "[Service]\nType=forking\n",
    ),
];
/// The path of another share of the server.
pub const OTHER: &str = "/srv/nfs/other";

/// A share. All clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Share(Arc<Mutex<State>>);

/// A node that exports shares itself.
#[derive(Debug)]
struct Exporter {
    ip: IpAddr,
    ganesha: Arc<FakeGanesha>,
}

#[derive(Debug, Default)]
struct State {
    exporter: Option<Exporter>,
    files: BTreeMap<String, Written>,
    blocked: BTreeSet<String>,
    reads: BTreeSet<(String, String)>,
}

/// A file, and the node that wrote it.
#[derive(Debug)]
struct Written {
    content: String,
    by: String,
}

impl Share {
    /// Gives the share to a node.
    pub fn give_to(&self, node: &Node) {
        let (share, name, ip) = (self.clone(), node.name.clone(), node.ip);
        node.host.nfs.on_prove(move |proof| {
            let made = share.prove(&name, ip, proof);
            made.map_err(ProofError::Failed)
        });
    }

    /// Has a node be the server of shares: one that it exports can be used by those that it lets in. Its NFS server comes with
    /// the packages that its package manager is told to install.
    pub fn serve_from(&self, node: &Node) {
        let kernel = [("nfsd".to_owned(), Some(false))];
        node.host
            .machine
            .change(|state| state.kernel_features.extend(kernel));
        node.host.outside.on_run(|root, program| {
            if program.arguments.iter().any(|one| one == "nfs-ganesha") {
                for (path, text) in GANESHA {
                    let path = root.path(path);
                    std::fs::create_dir_all(path.parent().expect("a parent")).expect("written");
                    std::fs::write(path, text).expect("written");
                }
            }
            Ran::default()
        });
        self.state().exporter = Some(Exporter {
            ip: node.ip,
            ganesha: Arc::clone(&node.host.ganesha),
        });
    }

    /// Who may mount a directory that a node exports, as its server has it.
    pub fn clients(&self, path: &str) -> Vec<String> {
        let state = self.state();
        let exporter = state.exporter.iter();
        let exports = exports_of(exporter);
        let clients = exports.filter(|served| served.path == path);
        clients.flat_map(|served| served.clients).collect()
    }

    /// Drops what a node sends to it from now on, or no more.
    pub fn block(&self, node: &str, blocked: bool) {
        let mut state = self.state();
        if blocked {
            state.blocked.insert(node.to_owned());
        } else {
            state.blocked.remove(node);
        }
    }

    /// The names of the files on it.
    pub fn files(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    /// Which node read a file of which since this was asked last.
    pub fn take_reads(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.state().reads)
            .into_iter()
            .collect()
    }

    /// Makes a storage class of this name that is on a share of the server.
    ///
    /// # Panics
    /// When the API does not take it.
    pub async fn register(control_plane: &Node, class: &str, share: &str) {
        let body = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
            "provisioner": "nfs.csi.k8s.io", "parameters": {"server": SERVER, "share": share}});
        let path = "/apis/storage.k8s.io/v1/storageclasses";
        let (status, answer) = control_plane.ask_api(Method::POST, path, &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Has the cluster know a driver for volumes on NFS.
    ///
    /// # Panics
    /// When the API does not take it.
    pub async fn bring_driver(control_plane: &Node) {
        let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
            "metadata": {"name": "nfs.csi.k8s.io"}, "spec": {"attachRequired": false}});
        let path = "/apis/storage.k8s.io/v1/csidrivers";
        let (status, answer) = control_plane.ask_api(Method::POST, path, &driver).await;
        assert_eq!(status, 201, "{answer}");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    fn prove(&self, node: &str, ip: IpAddr, proof: &Proof) -> Result<Proven, Failure> {
        let mut state = self.state();
        let failed = |doing: &str, reason, text: &str| Err(Failure::new(doing, reason, text));
        if state.blocked.contains(node) {
            return failed(
                "opening the share",
                Reason::PortBlocked,
                "RPC connect timeout",
            );
        }
        let is_there = proof.server == SERVER && [PATH, OTHER].contains(&proof.path.as_str());
        let exporter = state.exporter.iter();
        let exporter = exporter.filter(|node| node.ip.to_string() == proof.server);
        let lets_in =
            |served: Served| served.path == proof.path && served.clients.contains(&ip.to_string());
        if !is_there && !exports_of(exporter).any(lets_in) {
            return failed(
                "opening the share",
                Reason::NotAClientOrNoShare,
                "NFS4ERR_NOENT",
            );
        }
        match proof.action {
            Action::Write => {
                let written = Written {
                    content: proof.content(),
                    by: node.to_owned(),
                };
                state
                    .files
                    .insert(proof.path.clone() + &proof.file(), written);
            }
            Action::Read => match state.files.get(&(proof.path.clone() + &proof.file())) {
                Some(written) if written.content == proof.content() => {
                    let read = (node.to_owned(), written.by.clone());
                    state.reads.insert(read);
                }
                _ => {
                    return failed(
                        "looking for the file",
                        Reason::ProbeMissing,
                        "NFS4ERR_NOENT",
                    );
                }
            },
            Action::Remove => {
                state.files.remove(&(proof.path.clone() + &proof.file()));
            }
        }
        Ok(Proven {
            address: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 9)),
            milliseconds: 3,
            handle: "01".to_owned(),
        })
    }
}

/// What servers on nodes export.
fn exports_of<'a>(nodes: impl Iterator<Item = &'a Exporter>) -> impl Iterator<Item = Served> {
    nodes.flat_map(|node| node.ganesha.exports().into_values())
}

/// The hosts of the only class on the share and whether each could do all, as `storage list` tells.
pub fn proved(list: &pb::ListStorageResponse) -> Vec<(String, bool)> {
    let classes = list.clusters.iter().flat_map(|cluster| &cluster.classes);
    let nodes = classes.filter_map(|class| class.proof.as_ref());
    nodes
        .flat_map(|proof| &proof.nodes)
        .map(|node| {
            let fine =
                node.steps.len() == 3 && node.steps.iter().all(|step| step.reason.is_empty());
            (node.host.clone(), fine)
        })
        .collect()
}
