//! A pod on the node: its network namespace, mounts, files and processes. Made when the kubelet starts the pod, found
//! again by the next run, taken away when the pod goes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::firewall::{self, HostPort};
use super::records::Sandbox;
use super::shim::{self, Bundle};
use super::{Host, HostError, run};
use crate::agent;
use crate::files;

const SANDBOXES: &str = "run/k3s/containerd/io.containerd.grpc.v1.cri/sandboxes";
const SNAPSHOTS: &str = "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Host {
    /// The directories and files of containerd and kubelet, and the shim's program.
    pub(super) fn skeleton(&self) -> Result<(), HostError> {
        let paths = &self.paths;
        agent::disk::unpack(paths)?;
        for (name, mode) in [
            ("run/k3s", 0o711),
            ("run/k3s/containerd", 0o711),
            ("run/containerd", 0o600),
            ("run/containerd/runc", 0o700),
            ("run/containerd/runc/k8s.io", 0o700),
            ("run/containerd/s", 0o600),
            ("var/lib/kubelet", 0o750),
            ("var/lib/kubelet/pods", 0o750),
            ("var/lib/kubelet/plugins", 0o750),
            ("var/lib/kubelet/plugins_registry", 0o750),
            ("var/lib/kubelet/pod-resources", 0o750),
            ("var/lib/kubelet/device-plugins", 0o755),
            ("var/log/pods", 0o755),
            ("var/log/containers", 0o755),
        ] {
            files::directory(&paths.root(name), mode)?;
        }
        files::write(
            &paths.root("var/lib/kubelet/device-plugins/DEPRECATION"),
            0o644,
            "",
        )?;
        files::write(
            &paths.root("var/lib/kubelet/cpu_manager_state"),
            0o600,
            r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#,
        )?;
        files::directory(&paths.agent("pod-manifests"), 0o755)?;
        self.install_shim()?;
        let socket = Self::socket_at(&paths.root("run/k3s/containerd/containerd.sock"), 0o660)?;
        *self
            .socket
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(socket);
        Ok(())
    }

    // A socket's file stays when its process ends.
    fn socket_at(path: &Path, mode: u32) -> Result<UnixListener, HostError> {
        // Of an earlier run.
        let _ = fs::remove_file(path);
        let socket = UnixListener::bind(path).map_err(HostError::path("listen on", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(HostError::path("set the mode of", path))?;
        Ok(socket)
    }

    fn shim_path(&self) -> PathBuf {
        self.paths
            .unpacked(agent::disk::UNPACKED)
            .join("bin")
            .join(shim::NAME)
    }

    // A copy of this program, replaced by name so that running shims keep theirs.
    fn install_shim(&self) -> Result<(), HostError> {
        let path = self.shim_path();
        let own =
            fs::metadata("/proc/self/exe").map_err(HostError::path("read", "/proc/self/exe"))?;
        let there = fs::metadata(&path).map(|there| (there.size(), there.mtime()));
        if there.is_ok_and(|(size, time)| size == own.size() && time >= own.mtime()) {
            return Ok(());
        }
        let new = path.with_extension("new");
        fs::copy("/proc/self/exe", &new).map_err(HostError::path("copy the program to", &new))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))
            .map_err(HostError::path("set the mode of", &new))?;
        fs::rename(&new, &path).map_err(HostError::path("rename to", &path))
    }

    /// Starts a pod, or what is missing of it; answers its address.
    pub(crate) fn start(&self, pod: &Value) -> Option<String> {
        let uid = text(&pod["metadata"]["uid"]).to_owned();
        let subnet = self.subnet()?;
        let own_network = pod["spec"]["hostNetwork"] != true;
        let sandbox = {
            let mut records = self.records();
            let known = records.pods.get(&uid).cloned();
            let sandbox = known.unwrap_or_else(|| {
                let address = own_network.then(|| records.free_address(&subnet));
                Sandbox::new(
                    text(&pod["metadata"]["namespace"]),
                    text(&pod["metadata"]["name"]),
                    &commands(pod),
                    address,
                )
            });
            records.pods.insert(uid.clone(), sandbox.clone());
            self.note(records.write(&self.paths).map_err(HostError::from));
            sandbox
        };
        self.note(self.make(&uid, &sandbox, &subnet, &host_ports(pod)))?;
        let network = sandbox.network;
        Some(network.map_or_else(|| self.address.clone(), |network| network.address))
    }

    fn make(
        &self,
        uid: &str,
        sandbox: &Sandbox,
        subnet: &str,
        ports: &[HostPort],
    ) -> Result<(), HostError> {
        if let Some(network) = &sandbox.network {
            Self::bridge(subnet)?;
            self.namespace(&network.netns)?;
            Self::plug(&network.netns, &network.veth, subnet, &network.address)?;
            self.cni_files(sandbox)?;
            let rules = firewall::Pod {
                uid,
                namespace: &sandbox.namespace,
                name: &sandbox.name,
                address: &network.address,
                sandbox: &sandbox.id,
            };
            self.note(Self::firewall(&firewall::pod(rules, subnet, ports)));
        }
        self.mounts(uid, sandbox)?;
        self.pod_files(uid, sandbox)?;
        if shim::find(&sandbox.id).is_none() {
            self.processes(sandbox)?;
        }
        Ok(())
    }

    // A network namespace that a mount keeps alive, made by a thread that then ends.
    fn namespace(&self, name: &str) -> Result<(), HostError> {
        let path = self.paths.root("run/netns").join(name);
        files::directory(&self.paths.root("run/netns"), 0o755)?;
        if is_mounted(&path) {
            return Ok(());
        }
        files::write(&path, 0o444, "")?;
        let target = path.clone();
        let made = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        })
        .join();
        made.unwrap_or(Err(nix::errno::Errno::EIO))
            .map_err(HostError::path("make the network namespace", path))
    }

    fn mounts(&self, uid: &str, sandbox: &Sandbox) -> Result<(), HostError> {
        let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        Self::tmpfs(
            &self.credentials(uid, sandbox),
            MsFlags::empty(),
            "tmpfs",
            None,
        )?;
        let shm = self.paths.root(SANDBOXES).join(&sandbox.id).join("shm");
        Self::tmpfs(&shm, hardened, "shm", Some("size=65536k"))?;
        self.rootfs(&sandbox.id, "pause")?;
        for container in &sandbox.containers {
            self.rootfs(&container.id, base_name(&container.command))?;
        }
        Ok(())
    }

    fn credentials(&self, uid: &str, sandbox: &Sandbox) -> PathBuf {
        self.paths.root(&format!(
            "var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/kube-api-access-{}",
            sandbox.suffix
        ))
    }

    fn tmpfs(
        path: &Path,
        flags: MsFlags,
        source: &str,
        data: Option<&str>,
    ) -> Result<(), HostError> {
        if is_mounted(path) {
            return Ok(());
        }
        fs::create_dir_all(path).map_err(HostError::path("make directory", path))?;
        mount(Some(source), path, Some("tmpfs"), flags, data)
            .map_err(HostError::path("mount", path))
    }

    // A container's root: an overlay over a snapshot that holds its program, which is a link to the shim's.
    fn rootfs(&self, id: &str, program: &str) -> Result<(), HostError> {
        let rootfs = self.paths.root(&shim::bundle(id)).join("rootfs");
        if is_mounted(&rootfs) {
            return Ok(());
        }
        fs::create_dir_all(&rootfs).map_err(HostError::path("make directory", &rootfs))?;
        let snapshot = self.paths.agent(SNAPSHOTS).join(id);
        for part in ["lower", "fs", "work"] {
            let part = snapshot.join(part);
            fs::create_dir_all(&part).map_err(HostError::path("make directory", &part))?;
        }
        let file = snapshot.join("lower").join(program);
        if !file.exists() {
            fs::hard_link(self.shim_path(), &file).map_err(HostError::path("link", &file))?;
        }
        let part = |name: &str| snapshot.join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            part("lower"),
            part("fs"),
            part("work")
        );
        let overlay = mount(
            Some("overlay"),
            &rootfs,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        );
        if overlay.is_err() {
            // No overlay over this file system: the program stands on a plain one.
            Self::tmpfs(&rootfs, MsFlags::empty(), "overlay", None)?;
            let copy = rootfs.join(program);
            fs::copy(&file, &copy).map_err(HostError::path("copy", &copy))?;
        }
        Ok(())
    }

    fn cni_files(&self, sandbox: &Sandbox) -> Result<(), HostError> {
        let Some(network) = &sandbox.network else {
            return Ok(());
        };
        let cni = self.paths.root("var/lib/cni");
        for (name, mode) in [
            ("", 0o700),
            ("flannel", 0o700),
            ("results", 0o700),
            ("networks", 0o755),
            ("networks/cbr0", 0o755),
        ] {
            files::directory(&cni.join(name), mode)?;
        }
        let (id, address) = (&sandbox.id, &network.address);
        files::write(
            &cni.join("flannel").join(id),
            0o600,
            r#"{"cniVersion":"0.3.1","name":"cbr0","type":"bridge"}"#,
        )?;
        for result in [format!("cbr0-{id}-eth0"), format!("cni-loopback-{id}-lo")] {
            let text = format!(r#"{{"kind":"cniCacheV1","containerId":"{id}"}}"#);
            files::write(&cni.join("results").join(result), 0o600, text)?;
        }
        let networks = cni.join("networks/cbr0");
        files::write(&networks.join(address), 0o644, format!("{id}\r\neth0"))?;
        files::write(&networks.join("last_reserved_ip.0"), 0o644, address)?;
        files::write(&networks.join("lock"), 0o750, "")?;
        Ok(())
    }

    fn pod_files(&self, uid: &str, sandbox: &Sandbox) -> Result<(), HostError> {
        let pod = self.paths.root("var/lib/kubelet/pods").join(uid);
        files::write(
            &pod.join("etc-hosts"),
            0o644,
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n",
        )?;
        let wrapped = format!(
            "plugins/kubernetes.io~empty-dir/wrapped_kube-api-access-{}/ready",
            sandbox.suffix
        );
        files::write(&pod.join(wrapped), 0o644, "")?;
        let (namespace, name) = (&sandbox.namespace, &sandbox.name);
        let logs = self.log_directory(uid, sandbox);
        for id in std::iter::once(&sandbox.id)
            .chain(sandbox.containers.iter().map(|container| &container.id))
        {
            let state = self.paths.root("run/containerd/runc/k8s.io").join(id);
            files::directory(&state, 0o711)?;
            files::write(
                &state.join("state.json"),
                0o600,
                format!(r#"{{"id":"{id}"}}"#),
            )?;
        }
        for container in &sandbox.containers {
            files::write(
                &pod.join("containers")
                    .join(&container.name)
                    .join(&container.id[..8]),
                0o666,
                "",
            )?;
            let log = logs.join(&container.name).join("0.log");
            if !log.exists() {
                files::write(&log, 0o640, "")?;
            }
            let link = self.log_link(&format!(
                "{name}_{namespace}_{}-{}.log",
                container.name, container.id
            ));
            files::link(&link, &log)?;
        }
        // Bound once, as the shim does; the file stays.
        let socket = self.paths.root("run/containerd/s").join(&sandbox.id);
        if !socket.exists() {
            drop(Self::socket_at(&socket, 0o600)?);
        }
        Ok(())
    }

    fn log_directory(&self, uid: &str, sandbox: &Sandbox) -> PathBuf {
        let name = format!("{}_{}_{uid}", sandbox.namespace, sandbox.name);
        self.paths.root("var/log/pods").join(name)
    }

    fn log_link(&self, name: &str) -> PathBuf {
        self.paths.root("var/log/containers").join(name)
    }

    // The shim is nobody's child, so that it stays when this program ends.
    fn processes(&self, sandbox: &Sandbox) -> Result<(), HostError> {
        let rootfs = |id: &str| self.paths.root(&shim::bundle(id)).join("rootfs");
        let mut processes = vec![(rootfs(&sandbox.id).join("pause"), "/pause".to_owned())];
        for container in &sandbox.containers {
            let program = rootfs(&container.id).join(base_name(&container.command));
            processes.push((program, container.command.clone()));
        }
        let netns = sandbox
            .network
            .as_ref()
            .map_or_else(String::new, |network| {
                self.paths
                    .root("run/netns")
                    .join(&network.netns)
                    .display()
                    .to_string()
            });
        let bundle = Bundle { netns, processes };
        let file = self
            .paths
            .root(&shim::bundle(&sandbox.id))
            .join("config.json");
        files::write(
            &file,
            0o644,
            serde_json::to_vec(&bundle).unwrap_or_default(),
        )?;
        let program = self.shim_path().display().to_string();
        run(
            "setsid",
            &[
                "--fork",
                "sh",
                "-c",
                "exec \"$0\" \"$@\" </dev/null >/dev/null 2>&1",
                &program,
                "-namespace",
                "k8s.io",
                "-id",
                &sandbox.id,
                "-address",
                "/run/k3s/containerd/containerd.sock",
            ],
        )?;
        Ok(())
    }

    /// Takes a pod away; one that was never here is no fault.
    pub(crate) fn remove(&self, uid: &str) {
        let Some(sandbox) = self.records().pods.get(uid).cloned() else {
            return;
        };
        if let Some(shim) = shim::find(&sandbox.id) {
            shim::end(shim);
        }
        let ids = || {
            std::iter::once(&sandbox.id)
                .chain(sandbox.containers.iter().map(|container| &container.id))
        };
        for id in ids() {
            let bundle = self.paths.root(&shim::bundle(id));
            unmount(&bundle.join("rootfs"));
            erase(&bundle);
            erase(&self.paths.agent(SNAPSHOTS).join(id));
            erase(&self.paths.root("run/containerd/runc/k8s.io").join(id));
        }
        let sandboxes = self.paths.root(SANDBOXES).join(&sandbox.id);
        unmount(&sandboxes.join("shm"));
        erase(&sandboxes);
        unmount(&self.credentials(uid, &sandbox));
        erase(&self.paths.root("var/lib/kubelet/pods").join(uid));
        if let Some(network) = &sandbox.network {
            self.note(Self::firewall_without(uid, &sandbox.id));
            // The namespace takes its end of the cable along.
            let _ = run("ip", &["link", "del", &network.veth]);
            let netns = self.paths.root("run/netns").join(&network.netns);
            unmount(&netns);
            forget(&netns);
            let cni = self.paths.root("var/lib/cni");
            forget(&cni.join("networks/cbr0").join(&network.address));
            forget(&cni.join("flannel").join(&sandbox.id));
            forget(
                &cni.join("results")
                    .join(format!("cbr0-{}-eth0", sandbox.id)),
            );
            forget(
                &cni.join("results")
                    .join(format!("cni-loopback-{}-lo", sandbox.id)),
            );
        }
        forget(&self.paths.root("run/containerd/s").join(&sandbox.id));
        for container in &sandbox.containers {
            let link = format!(
                "{}_{}_{}-{}.log",
                sandbox.name, sandbox.namespace, container.name, container.id
            );
            forget(&self.log_link(&link));
        }
        erase(&self.log_directory(uid, &sandbox));
        let mut records = self.records();
        records.pods.remove(uid);
        self.note(records.write(&self.paths).map_err(HostError::from));
    }

    /// The pods that are here.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.records().pods.keys().cloned().collect()
    }
}

// Name and first word of each container.
fn commands(pod: &Value) -> Vec<(String, String)> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .map(|container| {
            let name = text(&container["name"]).to_owned();
            let image = text(&container["image"]);
            let image = image.rsplit('/').next().unwrap_or(image);
            let image = image.split(':').next().unwrap_or(image);
            let command = container["command"][0].as_str().unwrap_or(image);
            (name, command.to_owned())
        })
        .collect()
}

fn host_ports(pod: &Value) -> Vec<HostPort> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                protocol: port["protocol"].as_str().unwrap_or("TCP").to_owned(),
                port: port["hostPort"].as_u64()?,
                target: port["containerPort"].as_u64()?,
            })
        })
        .collect()
}

fn base_name(command: &str) -> &str {
    command
        .rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("main")
}

fn is_mounted(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| {
        line.split(' ')
            .nth(4)
            .is_some_and(|at| Path::new(at) == path)
    })
}

fn holds_mount(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| Path::new(place).starts_with(&path))
}

fn unmount(path: &Path) {
    // What is not mounted need not be unmounted.
    let _ = umount2(path, MntFlags::MNT_DETACH);
}

fn erase(path: &Path) {
    // What is mounted there stays, and what is gone is as good.
    if !holds_mount(path) {
        let _ = fs::remove_dir_all(path);
    }
}

fn forget(path: &Path) {
    // As above.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_and_ports_of_a_pod() {
        let pod = json!({"spec": {"containers": [
            {"name": "web", "image": "rancher/library-busybox:1.32.1", "command": ["httpd", "-f"],
                "ports": [{"containerPort": 8080, "hostPort": 80}, {"containerPort": 9090}]},
            {"name": "c", "image": "registry.invalid/rancher/library-busybox:1.32.1"}]}});
        assert_eq!(
            commands(&pod),
            [
                ("web".to_owned(), "httpd".to_owned()),
                ("c".to_owned(), "library-busybox".to_owned())
            ]
        );
        let ports = host_ports(&pod);
        assert_eq!((ports.len(), ports[0].port, ports[0].target), (1, 80, 8080));
        assert_eq!(base_name("/usr/bin/sleep"), "sleep");
    }
}
