//! Kernel features that Kubernetes networking and containers need, judged from the kernel's build configuration and its modules.

use std::collections::BTreeMap;

/// A feature and the three places where it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Name in answers; where the feature is a module, the module's name.
    pub name: &'static str,
    /// Option of the kernel's build configuration.
    pub config: &'static str,
    /// Its name in `/proc/filesystems`, if it is a file system.
    pub filesystem: Option<&'static str>,
}

const fn feature(name: &'static str, config: &'static str) -> Feature {
    Feature {
        name,
        config,
        filesystem: None,
    }
}

/// What is looked for.
pub const FEATURES: [Feature; 15] = [
    feature("bridge", "CONFIG_BRIDGE"),
    feature("br_netfilter", "CONFIG_BRIDGE_NETFILTER"),
    feature("veth", "CONFIG_VETH"),
    feature("vxlan", "CONFIG_VXLAN"),
    Feature {
        name: "overlay",
        config: "CONFIG_OVERLAY_FS",
        filesystem: Some("overlay"),
    },
    feature("nf_conntrack", "CONFIG_NF_CONNTRACK"),
    feature("nf_nat", "CONFIG_NF_NAT"),
    feature("xt_comment", "CONFIG_NETFILTER_XT_MATCH_COMMENT"),
    feature("xt_multiport", "CONFIG_NETFILTER_XT_MATCH_MULTIPORT"),
    feature("xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE"),
    feature("xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK"),
    feature("xt_MASQUERADE", "CONFIG_NETFILTER_XT_TARGET_MASQUERADE"),
    feature("nfs", "CONFIG_NFS_FS"),
    feature("nfsv4", "CONFIG_NFS_V4"),
    Feature {
        name: "nfsd",
        config: "CONFIG_NFSD",
        filesystem: Some("nfsd"),
    },
];

/// What the machine shows of its kernel. `None` stands for what couldn't be read.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    /// The build configuration.
    pub config: Option<String>,
    /// `modules.dep` of the running kernel: a line for each module that is installed.
    pub modules: Option<String>,
    /// `/proc/filesystems`.
    pub filesystems: Option<String>,
    /// Names in `/sys/module`: modules that are loaded, and some that are built in.
    pub loaded: Vec<String>,
}

/// Judges all [`FEATURES`].
pub fn judge(signs: &Signs) -> BTreeMap<String, Option<bool>> {
    FEATURES
        .iter()
        .map(|feature| (feature.name.to_owned(), judge_one(*feature, signs)))
        .collect()
}

fn judge_one(feature: Feature, signs: &Signs) -> Option<bool> {
    if is_in_use(feature, signs) {
        return Some(true);
    }
    match config_value(signs.config.as_deref()?, feature.config) {
        Some('y') => Some(true),
        // Built as a module: that helps only where the module is installed, which distributions leave to a package of its own.
        Some('m') => signs
            .modules
            .as_deref()
            .map(|modules| has_module(modules, feature.name)),
        _ => Some(false),
    }
}

fn is_in_use(feature: Feature, signs: &Signs) -> bool {
    let mounted = |name: &str| {
        signs
            .filesystems
            .iter()
            .flat_map(|text| text.lines())
            .any(|line| line.split_whitespace().last() == Some(name))
    };
    signs.loaded.iter().any(|name| name == feature.name) || feature.filesystem.is_some_and(mounted)
}

/// `y` or `m`, or `None` for an option that is off or that this kernel doesn't know.
fn config_value(config: &str, option: &str) -> Option<char> {
    config
        .lines()
        .find_map(|line| line.strip_prefix(option)?.strip_prefix('=')?.chars().next())
}

/// Lines are `kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/…`. File names may have a dash where the module has an underscore.
fn has_module(modules: &str, name: &str) -> bool {
    modules.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split_once(".ko")
            .is_some_and(|(module, _)| module.replace('-', "_") == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs() -> Signs {
        Signs {
            config: Some(
                "CONFIG_BRIDGE=y\nCONFIG_VXLAN=m\nCONFIG_VETH=m\nCONFIG_BRIDGE_NETFILTER=m\n# CONFIG_NFS_FS is not set\nCONFIG_NFS_V4_1=y\n"
                    .to_owned(),
            ),
            modules: Some("kernel/net/veth.ko.xz: x\nkernel/net/bridge/br-netfilter.ko: kernel/net/bridge.ko\n".to_owned()),
            filesystems: Some("nodev\tproc\n\text4\nnodev\toverlay\n".to_owned()),
            loaded: vec!["nf_conntrack".to_owned()],
        }
    }

    #[test]
    fn features_are_judged_by_configuration_modules_and_use() {
        let judged = judge(&signs());
        assert_eq!(judged["bridge"], Some(true), "built in");
        assert_eq!(judged["veth"], Some(true), "module that is installed");
        assert_eq!(
            judged["br_netfilter"],
            Some(true),
            "module whose file has a dash"
        );
        assert_eq!(judged["vxlan"], Some(false), "module that isn't installed");
        assert_eq!(judged["overlay"], Some(true), "registered file system");
        assert_eq!(judged["nf_conntrack"], Some(true), "loaded");
        assert_eq!(judged["nfs"], Some(false), "off");
        assert_eq!(judged["nfsv4"], Some(false), "another option begins alike");
        assert_eq!(judged.len(), FEATURES.len());
    }

    #[test]
    fn without_configuration_or_modules_it_is_unknown() {
        let no_config = Signs {
            config: None,
            ..signs()
        };
        assert_eq!(judge(&no_config)["bridge"], None);
        assert_eq!(judge(&no_config)["nf_conntrack"], Some(true));
        let no_modules = Signs {
            modules: None,
            ..signs()
        };
        assert_eq!(judge(&no_modules)["vxlan"], None);
    }
}
