//! The program on two nodes of its own: namespaces of this machine, each with a root of its own, in which the kernel's
//! links, tables, mounts and processes are looked at. Needs root, and fails without it.
#![expect(
    clippy::disallowed_types,
    reason = "the program under test is started as a process"
)]

use std::collections::HashMap;
use std::process::Command;

/// Runs as the first process of its namespaces, with a directory and the program; prints sections under `== name`.
const NODES: &str = r#"
set -e
place=$1 program=$2
node() {
    mkdir -p $1/upper/usr/local/bin $1/work $1/root
    cp $program $1/upper/usr/local/bin/k3s
    mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root
    mount -t proc proc $1/root/proc
    mount --rbind /dev $1/root/dev
    for part in run tmp var/lib var/log etc/rancher; do
        mkdir -p $1/root/$part
        mount -t tmpfs tmpfs $1/root/$part
    done
}
node $place/cp1
node $place/w1
ip link set lo up
unshare -n sleep 600 &
other=$!
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add host0 type veth peer name host0 netns $other
ip addr add 10.77.0.11/24 dev host0
ip link set host0 up
on_w1() { nsenter -t $other -n "$@"; }
on_w1 ip link set lo up
on_w1 ip addr add 10.77.0.12/24 dev host0
on_w1 ip link set host0 up
kubectl() { chroot $place/cp1/root k3s kubectl "$@"; }
wait_for() { for _ in $(seq 300); do if eval "$1"; then return; fi; sleep 0.1; done; echo "== never"; echo "$1"; cat $place/*.log; exit 1; }
server() { chroot $place/cp1/root k3s server --node-ip=10.77.0.11 --node-name=cp1 --flannel-iface=host0 2>>$place/cp1.log & cp1=$!; }
agent() { nsenter -t $other -n chroot $place/w1/root k3s agent --server=https://10.77.0.11:6443 --token=$token --node-ip=10.77.0.12 --node-name=w1 2>>$place/w1.log & w1=$!; }
show() {
    echo "== $1 links"; on_w1 ip -br link
    echo "== $1 addresses"; on_w1 ip -br -4 addr
    echo "== $1 routes"; on_w1 ip route
    echo "== $1 neighbours"; on_w1 ip neigh show dev flannel.1
    echo "== $1 forwards"; on_w1 bridge fdb show dev flannel.1
    echo "== $1 iptables"; on_w1 iptables-save
    echo "== $1 ip6tables"; on_w1 ip6tables-save
    echo "== $1 mounts"; cut -d ' ' -f 5 /proc/self/mountinfo | sed -n "s:^$place/w1/root::p" | grep -e /run/k3s -e /var/lib/kubelet -e /run/netns || true
    echo "== $1 processes"; for one in /proc/[0-9]*; do cat $one/cmdline 2>/dev/null | tr "\\0" " " | grep -e "^/var/lib/rancher/.*containerd-shim" -e ^/pause -e ^sleeper || true; done
    echo "== $1 netns"; ls $place/w1/root/run/netns 2>/dev/null || true
    echo "== $1 logs"; ls $place/w1/root/var/log/containers
}
server
wait_for 'kubectl get nodes 2>/dev/null | grep -q "cp1 *Ready"'
token=$(cat $place/cp1/root/var/lib/rancher/k3s/server/token)
agent
wait_for 'kubectl get nodes | grep -q "w1 *Ready"'
wait_for 'ip route | grep -q 10.42.1.0/24'
wait_for 'on_w1 ip neigh show dev flannel.1 | grep -q PERMANENT'
wait_for 'on_w1 bridge fdb show dev flannel.1 | grep -q 10.77.0.11'
show joined
echo "== cp1 routes"; ip route
cat >$place/cp1/root/tmp/pod.json <<END
{"metadata": {"name": "sleeper"}, "spec": {"nodeSelector": {"kubernetes.io/hostname": "w1"}, "terminationGracePeriodSeconds": 1,
 "containers": [{"name": "c", "image": "busybox:1.32.1", "command": ["sleeper"], "ports": [{"containerPort": 80, "hostPort": 8080}]}]}}
END
pods=/api/v1/namespaces/default/pods
kubectl create --raw $pods -f /tmp/pod.json >/dev/null
wait_for 'kubectl get --raw $pods/sleeper | grep -q "\"phase\":\"Running\""'
show running
kill $w1
wait $w1 || true
show stopped
wait_for 'kubectl get nodes | grep -q "w1 *NotReady"'
before=$(kubectl get --raw $pods/sleeper)
agent
wait_for 'kubectl get nodes | grep -q "w1 *Ready"'
# The kubelet has taken up its pod again once it tells of it.
wait_for '[ "$(kubectl get --raw $pods/sleeper)" != "$before" ]'
show again
kubectl delete --raw $pods/sleeper >/dev/null
wait_for '! kubectl get --raw $pods/sleeper >/dev/null 2>&1'
show without
kubectl delete node w1 >/dev/null
wait_for '! { ip route | grep 10.42.1.0/24; ip neigh show dev flannel.1; bridge fdb show dev flannel.1; } | grep -q .'
echo "== deleted neighbours"; ip neigh show dev flannel.1
echo "== deleted forwards"; bridge fdb show dev flannel.1
echo "== end"
"#;

type Sections = HashMap<String, Vec<String>>;

fn sections(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            name.clone_into(&mut current);
            sections.insert(current.clone(), Vec::new());
        } else if let Some(section) = sections.get_mut(&current) {
            section.push(line.to_owned());
        }
    }
    sections
}

fn count(sections: &Sections, name: &str, what: &str) -> usize {
    sections[name]
        .iter()
        .filter(|line| line.contains(what))
        .count()
}

#[test]
fn two_nodes_have_the_recorded_kernel_side_and_a_stop_leaves_it() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes namespaces and needs root"
    );
    let place = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--propagation",
            "private",
        ])
        .args(["timeout", "120", "sh", "-c", NODES, "sh"])
        .arg(place.path())
        .arg(env!("CARGO_BIN_EXE_k3s-standin"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let all = sections(&text);
    assert!(all.contains_key("end"), "{said}");

    a_joined_worker(&all);
    a_worker_with_a_pod(&all);
    let named = |state: &str| all[&format!("{state} netns")].clone();
    assert_eq!(named("again"), named("running"));

    assert_eq!(all["without mounts"], Vec::<String>::new());
    assert_eq!(all["without processes"], Vec::<String>::new());
    assert_eq!(all["without netns"], Vec::<String>::new());
    assert_eq!(count(&all, "without iptables", "KUBE-POD-FW-"), 0);
    assert_eq!(count(&all, "without iptables", "CNI-DN-"), 0);
    assert_eq!(count(&all, "without links", "veth"), 0);
    assert_eq!(all["deleted neighbours"], Vec::<String>::new());
    assert_eq!(all["deleted forwards"], Vec::<String>::new());
}

// As recorded of a worker without pods: the overlay and the chains, no bridge, no mounts.
fn a_joined_worker(all: &Sections) {
    assert_eq!(
        count(
            all,
            "joined routes",
            "10.42.0.0/24 via 10.42.0.0 dev flannel.1 onlink"
        ),
        1
    );
    assert_eq!(count(all, "joined neighbours", "PERMANENT"), 1);
    assert_eq!(
        count(all, "joined forwards", "dst 10.77.0.11 self permanent"),
        1
    );
    assert_eq!(count(all, "joined addresses", "10.42.1.0/32"), 1);
    assert_eq!(count(all, "joined links", "cni0"), 0);
    assert_eq!(all["joined mounts"], Vec::<String>::new());
    assert_eq!(
        count(
            all,
            "joined iptables",
            "-A FORWARD -s 10.42.0.0/16 -j ACCEPT"
        ),
        1
    );
    assert_eq!(
        count(
            all,
            "joined iptables",
            "-A POSTROUTING ! -s 10.42.0.0/16 -d 10.42.1.0/24 -j RETURN"
        ),
        1
    );
    assert_eq!(count(all, "joined iptables", ":KUBE-"), 22);
    assert_eq!(count(all, "joined ip6tables", ":KUBE-"), 16);
    assert_eq!(
        count(
            all,
            "cp1 routes",
            "10.42.1.0/24 via 10.42.1.0 dev flannel.1 onlink"
        ),
        1
    );
}

// The same while its agent runs, after its stop, and after a new start.
fn a_worker_with_a_pod(all: &Sections) {
    for state in ["running", "stopped", "again"] {
        let name = |what: &str| format!("{state} {what}");
        assert_eq!(count(all, &name("addresses"), "10.42.1.1/24"), 1, "{state}");
        assert_eq!(count(all, &name("links"), "veth"), 1, "{state}");
        assert_eq!(
            count(all, &name("routes"), "10.42.1.0/24 dev cni0"),
            1,
            "{state}"
        );
        assert_eq!(all[&name("netns")].len(), 1, "{state}");
        // Credentials, shared memory, two roots, the namespace.
        assert_eq!(
            all[&name("mounts")].len(),
            5,
            "{state}: {:?}",
            all[&name("mounts")]
        );
        assert_eq!(all[&name("processes")].len(), 3, "{state}");
        assert_eq!(
            count(
                all,
                &name("processes"),
                "/bin/containerd-shim-runc-v2 -namespace k8s.io -id "
            ),
            1
        );
        assert_eq!(all[&name("logs")].len(), 1, "{state}");
        assert_eq!(count(all, &name("iptables"), ":KUBE-POD-FW-"), 1, "{state}");
        assert_eq!(count(all, &name("iptables"), ":CNI-"), 4, "{state}");
        assert_eq!(
            all[&name("iptables")].len(),
            all["running iptables"].len(),
            "{state}"
        );
    }
}
