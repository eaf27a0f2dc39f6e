//! Which access modes a volume of a storage class can have. The API does not tell: it accepts any claim, and one that its
//! provisioner can't give waits for ever. So it is known here for each provisioner, as its documentation says, and one that
//! is not in the table is unknown, which is neither yes nor no.

use canasta_proto::pb::AccessMode;
use canasta_proto::pb::AccessMode::{ReadOnlyMany, ReadWriteMany, ReadWriteOnce, ReadWriteOncePod};

/// A disk of one node, or one that is attached to one node at a time.
const ONE_NODE: &[AccessMode] = &[ReadWriteOnce, ReadWriteOncePod];
/// A disk that several nodes can have when none of them writes.
const ONE_WRITES: &[AccessMode] = &[ReadWriteOnce, ReadWriteOncePod, ReadOnlyMany];
/// A file system on a network.
const MANY_NODES: &[AccessMode] = &[ReadWriteOnce, ReadWriteOncePod, ReadOnlyMany, ReadWriteMany];

/// Provisioners by their names, or by their ends where operators choose what comes before.
const KNOWN: &[(&str, &[AccessMode])] = &[
    ("rancher.io/local-path", ONE_NODE),
    ("k8s.io/minikube-hostpath", ONE_NODE),
    ("openebs.io/local", ONE_NODE),
    ("local.csi.openebs.io", ONE_NODE),
    ("topolvm.io", ONE_NODE),
    ("nfs.csi.k8s.io", MANY_NODES),
    ("*nfs-subdir-external-provisioner", MANY_NODES),
    ("smb.csi.k8s.io", MANY_NODES),
    ("efs.csi.aws.com", MANY_NODES),
    ("fsx.csi.aws.com", MANY_NODES),
    ("ebs.csi.aws.com", ONE_NODE),
    ("kubernetes.io/aws-ebs", ONE_NODE),
    ("file.csi.azure.com", MANY_NODES),
    ("kubernetes.io/azure-file", MANY_NODES),
    ("disk.csi.azure.com", ONE_NODE),
    ("kubernetes.io/azure-disk", ONE_NODE),
    ("filestore.csi.storage.gke.io", MANY_NODES),
    ("pd.csi.storage.gke.io", ONE_WRITES),
    ("kubernetes.io/gce-pd", ONE_WRITES),
    (
        "driver.longhorn.io",
        &[ReadWriteOnce, ReadWriteOncePod, ReadWriteMany],
    ),
    ("*cephfs.csi.ceph.com", MANY_NODES),
    ("*rbd.csi.ceph.com", ONE_WRITES),
    ("csi.hetzner.cloud", ONE_NODE),
    ("dobs.csi.digitalocean.com", ONE_NODE),
    ("linodebs.csi.linode.com", ONE_NODE),
    ("block.csi.vultr.com", ONE_NODE),
    ("csi.scaleway.com", ONE_NODE),
    ("cinder.csi.openstack.org", ONE_NODE),
    ("manila.csi.openstack.org", MANY_NODES),
];

/// What a provisioner can give; none when it is not known here.
pub(crate) fn access_modes(provisioner: &str) -> Option<&'static [AccessMode]> {
    let fits = |name: &str| match name.strip_prefix('*') {
        Some(end) => provisioner.ends_with(end),
        None => provisioner == name,
    };
    let found = KNOWN.iter().find(|(name, _)| fits(name));
    found.map(|(_, modes)| *modes)
}

#[cfg(test)]
mod tests {
    use super::{AccessMode, KNOWN, access_modes};

    #[test]
    fn local_disks_are_no_shared_storage_and_network_file_systems_are() {
        let shared = |provisioner: &str| {
            access_modes(provisioner).map(|modes| modes.contains(&AccessMode::ReadWriteMany))
        };
        for (provisioner, expected) in [
            ("rancher.io/local-path", Some(false)),
            ("csi.hetzner.cloud", Some(false)),
            ("ebs.csi.aws.com", Some(false)),
            ("nfs.csi.k8s.io", Some(true)),
            ("efs.csi.aws.com", Some(true)),
            ("driver.longhorn.io", Some(true)),
            ("rook-ceph.cephfs.csi.ceph.com", Some(true)),
            ("rook-ceph.rbd.csi.ceph.com", Some(false)),
            ("k8s-sigs.io/nfs-subdir-external-provisioner", Some(true)),
            ("example.org/my-own", None),
            ("", None),
        ] {
            assert_eq!(shared(provisioner), expected, "{provisioner}");
        }
    }

    #[test]
    fn each_provisioner_stands_once_and_gives_something() {
        for (index, (name, modes)) in KNOWN.iter().enumerate() {
            assert!(!modes.is_empty(), "{name}");
            let others = &KNOWN[index + 1..];
            assert!(others.iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
