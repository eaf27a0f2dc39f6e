//! Files of the kernel's NFS server: our exports as exports(5) writes them, and those of others as it reads them.

use std::fmt::Write as _;

use super::export::{Export, Foreign, Numbered, normal};
use super::server::Backend;

/// Where our exports stand; read by `exportfs -r` beside `/etc/exports`.
pub(crate) const OUR_EXPORTS: &str = "/etc/exports.d/canasta.exports";
/// Where our settings of the server stand.
pub(crate) const OUR_SETTINGS: &str = "/etc/nfs.conf.d/canasta.conf";
/// What the server serves, read at its start: version 4 over TCP and nothing else, so that one port has to be open.
pub(crate) const SETTINGS: &str = "\
# Written by canasta-agent. NFS version 4 over TCP alone: port 2049, no rpcbind.
[nfsd]
udp=n
tcp=y
vers2=n
vers3=n
vers4=y
vers4.0=y
vers4.1=y
vers4.2=y
";

/// Has the mount daemon of version 3 listen on no port; version 4 needs it for the list of clients alone.
pub(crate) const MOUNT_DAEMON: &str = "/etc/systemd/system/nfs-mountd.service.d/canasta.conf";
/// What that says: as Red Hat's documentation has it for a server of version 4 alone.
pub(crate) const MOUNT_DAEMON_SETTINGS: &str = "\
# Written by canasta-agent.
[Service]
ExecStart=
ExecStart=/usr/sbin/rpc.mountd --no-tcp --no-udp
";
/// What the server lets in, written by `exportfs`.
pub(crate) const TABLE: &str = "/var/lib/nfs/etab";

/// A line of the table: a directory for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The directory.
    pub(crate) path: String,
    /// An address, a network, or what others write.
    pub(crate) client: String,
    /// What it may do, as `exportfs` spells it out.
    options: Vec<String>,
}

/// What stands in the table.
pub(crate) fn entries(table: &str) -> Vec<Entry> {
    let lines = table.lines().filter_map(|line| line.split_once('\t'));
    lines
        .filter_map(|(path, rest)| {
            let (client, options) = rest.split_once('(')?;
            let options = options.trim_end().trim_end_matches(')').split(',');
            Some(Entry {
                path: path.to_owned(),
                client: client.to_owned(),
                options: options.map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// What `exportfs` is to be told so that the server has an export: clients to let in, and to shut out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// To let in, as arguments.
    pub(crate) add: Vec<String>,
    /// To shut out, as arguments.
    pub(crate) end: Vec<String>,
}

/// What a table lacks of an export, and what it has too much.
pub(crate) fn difference(table: &[Entry], export: &Export) -> Difference {
    let (path, wanted) = (export.share.as_str(), export.clients());
    let options = options(export);
    let is_there = |client: &String| {
        table.iter().any(|entry| {
            let has = |option: &str| entry.options.iter().any(|one| one == option);
            entry.path == path && entry.client == *client && options.split(',').all(has)
        })
    };
    let argument = |client: &String| argument(client, path);
    let missing = wanted.iter().filter(|client| !is_there(client));
    let shut_out = table
        .iter()
        .filter(|entry| entry.path == path && !wanted.contains(&entry.client));
    Difference {
        add: missing.map(argument).collect(),
        end: shut_out.map(|entry| argument(&entry.client)).collect(),
    }
}

/// What names every entry of a directory to `exportfs`.
pub(crate) fn all_of(table: &[Entry], path: &str) -> Vec<String> {
    let entries = table.iter().filter(|entry| entry.path == path);
    entries.map(|entry| argument(&entry.client, path)).collect()
}

/// A directory for one client, as `exportfs` takes it.
fn argument(client: &str, path: &str) -> String {
    if client.contains(':') {
        format!("[{client}]:{path}")
    } else {
        format!("{client}:{path}")
    }
}

/// What clients may do. The provisioner changes owners as root, so root stays root; for these clients alone.
pub(crate) fn options(export: &Export) -> String {
    let fsid = uuid::Uuid::from_bytes(export.file_system());
    format!("rw,sync,no_subtree_check,no_root_squash,fsid={fsid}")
}

/// The file of our exports.
pub(crate) fn render(exports: &[Numbered]) -> String {
    let mut text = String::from(
        "# Written by canasta-agent; changed by `canasta storage setup nfs` and `canasta storage remove nfs`.\n",
    );
    for Numbered { export, .. } in exports {
        text.push_str(export.share.as_str());
        for client in &export.clients {
            let _ = write!(text, " {client}({})", options(export));
        }
        text.push('\n');
    }
    text
}

/// The directories that a file in the form of exports(5) exports.
pub(crate) fn exported(file: &str, text: &str) -> Vec<Foreign> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| Foreign {
            path: normal(&first_word(line)),
            source: file.to_owned(),
            running: false,
            backend: Backend::Kernel,
        })
        .collect()
}

/// The path at the beginning of a line: in quotes, or with octal escapes.
fn first_word(line: &str) -> String {
    if let Some(quoted) = line.strip_prefix('"') {
        return quoted.split('"').next().unwrap_or_default().to_owned();
    }
    let word = line.split_whitespace().next().unwrap_or_default();
    let mut path = Vec::new();
    let mut bytes = word.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let digits: Vec<u8> = bytes.clone().take(3).collect();
        let octal = |digit: &u8| (b'0'..b'8').contains(digit);
        if byte == b'\\' && digits.len() == 3 && digits.iter().all(octal) {
            let value = digits
                .iter()
                .fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            path.push(u8::try_from(value).unwrap_or(b'?'));
            let _three_digits = bytes.nth(2);
        } else {
            path.push(byte);
        }
    }
    String::from_utf8_lossy(&path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{all_of, difference, entries, exported, options, render};
    use crate::storage::export::{Export, Numbered};

    fn export(path: &str, clients: &[&str]) -> Export {
        let clients = clients.iter().map(|one| one.parse().expect("a client"));
        Export::new(path.parse().expect("a share"), clients)
    }

    #[test]
    fn an_export_names_its_clients_and_nobody_else() {
        let canasta = export(
            "/srv/nfs/canasta",
            &["10.0.0.6", "10.0.0.5", "2001:db8::/64"],
        );
        let other = export("/srv/nfs/other", &["10.0.0.5"]);
        let (first, second) = (options(&canasta), options(&other));
        assert!(first.starts_with("rw,sync,no_subtree_check,no_root_squash,fsid="));
        assert_ne!(first, second);
        let numbered = |export| Numbered { export, number: 1 };
        let text = render(&[numbered(canasta), numbered(other)]);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                format!(
                    "/srv/nfs/canasta 10.0.0.5({first}) 10.0.0.6({first}) 2001:db8::/64({first})"
                ),
                format!("/srv/nfs/other 10.0.0.5({second})"),
            ]
        );
    }

    /// As exportfs 2.6.2 of nfs-utils writes it.
    fn line(export: &Export, client: &str, access: &str) -> String {
        let fsid = options(export);
        let (_, fsid) = fsid.split_once("fsid=").expect("an id");
        format!(
            "{}\t{client}({access},sync,wdelay,hide,nocrossmnt,secure,no_root_squash,no_all_squash,no_subtree_check,secure_locks,acl,\
             no_pnfs,fsid={fsid},anonuid=65534,anongid=65534,sec=sys,{access},no_root_squash,no_all_squash)\n",
            export.share
        )
    }

    #[test]
    fn the_table_of_the_server_is_brought_to_what_is_wanted() {
        let wanted = export("/srv/nfs/a", &["10.0.0.5", "10.0.0.0/24", "2001:db8::5"]);
        let whole: String = ["10.0.0.5", "10.0.0.0/24", "2001:db8::5"]
            .map(|client| line(&wanted, client, "rw"))
            .concat();
        let neighbour = line(&export("/srv/nfs/ab", &["10.0.0.9"]), "10.0.0.9", "rw");
        let of = |table: &str| {
            let change = difference(&entries(table), &wanted);
            (change.add, change.end)
        };
        let none: Vec<String> = Vec::new();
        let table = format!("{neighbour}{whole}");
        assert_eq!(of(&table), (none.clone(), none.clone()));
        let argument = |client: &str| format!("{client}:/srv/nfs/a");
        let too_many = format!("{table}{}", line(&wanted, "2001:db8:1::/64", "rw"));
        assert_eq!(
            of(&too_many),
            (none.clone(), vec![argument("[2001:db8:1::/64]")])
        );
        // There, and not as it should be.
        let read_only = format!(
            "{}{}{}",
            line(&wanted, "10.0.0.0/24", "ro"),
            line(&wanted, "2001:db8::5", "rw"),
            line(&wanted, "node7", "rw"),
        );
        assert_eq!(
            of(&read_only),
            (
                vec![argument("10.0.0.0/24"), argument("10.0.0.5")],
                vec![argument("node7")]
            )
        );
        let all = all_of(&entries(&table), "/srv/nfs/a");
        assert_eq!(
            all,
            [
                argument("10.0.0.5"),
                argument("10.0.0.0/24"),
                argument("[2001:db8::5]")
            ]
        );
    }

    #[test]
    fn what_others_export_is_read_however_it_is_written() {
        let text = "# a comment\n\n/srv/homes hostname1(rw,sync) hostname2(ro)\n/srv/nfs4/ gss/krb5i(rw)\n\
            \"/srv/my wiki\" *(ro)\n/srv/with\\040space *(ro)\n/srv/long \\\n  a(rw) \\\n  b(rw)\n  /indented a\n/ *(ro)\n";
        let paths: Vec<_> = exported("/etc/exports", text)
            .into_iter()
            .map(|foreign| foreign.path)
            .collect();
        assert_eq!(
            paths,
            [
                "/srv/homes",
                "/srv/nfs4",
                "/srv/my wiki",
                "/srv/with space",
                "/srv/long",
                "/indented",
                "/"
            ]
        );
    }
}
