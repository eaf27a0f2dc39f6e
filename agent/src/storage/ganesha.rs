//! Configuration of nfs-ganesha: our exports as blocks in a file of our own, which its main file includes, and the paths of
//! those that others configured there.

use std::fmt::Write as _;

use super::export::{Foreign, Numbered, normal};
use super::server::Backend;

/// Its main file.
pub(crate) const MAIN: &str = "/etc/ganesha/ganesha.conf";
/// Where our exports stand. One file and no directory: of a directory the server reads every file, left-over ones too.
pub(crate) const OUR_EXPORTS: &str = "/etc/ganesha/canasta.conf";
/// The line by which the main file includes ours.
pub(crate) const INCLUDE: &str = "%include \"/etc/ganesha/canasta.conf\"";
/// The main file where it is ours: version 4 over TCP and nothing else, so that one port has to be open. With the lock manager of
/// version 3 the server would be in its grace period after every start. A short lease has it know sooner that a client is gone, and
/// be out of its grace period sooner after a restart. Owners are numbers: nodes have no users in common.
pub(crate) const SETTINGS: &str = "\
# Written by canasta-agent. NFS version 4 over TCP alone: port 2049, no rpcbind.
NFS_CORE_PARAM {
    Protocols = 4;
    NFS_Port = 2049;
    Enable_UDP = false;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    # Containers may not set it, and this server needs it for loops of mounts alone.
    Allow_Set_Io_Flusher_Fail = true;
}
NFSV4 {
    Grace_Period = 40;
    Lease_Lifetime = 30;
    Minor_Versions = 0, 1, 2;
    RecoveryBackend = fs;
    Allow_Numeric_Owners = true;
    Only_Numeric_Owners = true;
}
NFS_KRB5 {
    Active_krb5 = false;
}
%include \"/etc/ganesha/canasta.conf\"
";

/// Numbers of exports that are ours; 0 is the server's own root, and people count from 1.
const FIRST_NUMBER: u16 = 0x4000;
/// How many there are.
const NUMBERS: u16 = 0x4000;

/// The number for an export, which nobody else may ever have had: file handles hold it, so a client that still has handles of a
/// share that is gone would be taken to another one. It follows from the path where it can, so that an agent without its record
/// finds it again.
pub(crate) fn number(file_system: [u8; 16], is_taken: impl Fn(u16) -> bool) -> Option<u16> {
    let first = u16::from_be_bytes([file_system[0], file_system[1]]) % NUMBERS;
    (0..NUMBERS)
        .map(|step| FIRST_NUMBER + (first + step) % NUMBERS)
        .find(|number| !is_taken(*number))
}

/// The file of our exports.
pub(crate) fn render(exports: &[Numbered]) -> String {
    let mut text = String::from(
        "# Written by canasta-agent; changed by `canasta storage setup nfs` and `canasta storage remove nfs`.\n",
    );
    for export in exports {
        text.push_str(&block(export));
    }
    text
}

/// The block of one export. All that decides is spelled out for the clients and for everybody else: what is left out comes from
/// defaults that others may have changed.
fn block(export: &Numbered) -> String {
    let clients: Vec<_> = export
        .export
        .clients
        .iter()
        .map(ToString::to_string)
        .collect();
    let (number, path) = (export.number, &export.export.share);
    let mut text = String::new();
    let _ = write!(
        text,
        "EXPORT {{
    Export_Id = {number};
    Path = \"{path}\";
    Pseudo = \"{path}\";
    Protocols = 4;
    Transports = TCP;
    SecType = sys;
    Squash = no_root_squash;
    Access_Type = None;
    FSAL {{
        Name = VFS;
    }}
    CLIENT {{
        Clients = {clients};
        Access_Type = RW;
        Protocols = 4;
        Transports = TCP;
        SecType = sys;
        Squash = no_root_squash;
    }}
}}
",
        clients = clients.join(", "),
    );
    text
}

/// The directories that a file of the server exports: the `Path` of each block `EXPORT`.
pub(crate) fn exported(file: &str, text: &str) -> Vec<Foreign> {
    let paths = values(text, "path").into_iter();
    paths
        .map(|path| Foreign {
            path: normal(&path),
            source: file.to_owned(),
            running: false,
            backend: Backend::Ganesha,
        })
        .collect()
}

/// The numbers of the exports in a file.
pub(crate) fn numbers(text: &str) -> Vec<u16> {
    let numbers = values(text, "export_id").into_iter();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// Files and directories that a file has the server read too. One that is not named from the root may lie beside it or where the
/// server was started, so both are told; a pattern stands for its directory.
pub(crate) fn included(file: &str, text: &str) -> Vec<String> {
    let beside = file.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut found = Vec::new();
    for (_, path) in directives(text).filter(|(word, _)| ["%include", "%dir"].contains(word)) {
        let path = match path.rsplit_once('/') {
            Some((directory, last)) if last.contains(['*', '?', '[']) => directory,
            _ => path.trim_end_matches('/'),
        };
        if path.starts_with('/') {
            found.push(path.to_owned());
        } else {
            found.push(format!("{beside}/{path}"));
            found.push(format!("/{path}"));
        }
    }
    found
}

/// What a file has the server read that lies on no file system.
pub(crate) fn elsewhere(text: &str) -> Vec<String> {
    let urls = directives(text).filter(|(word, _)| *word == "%url");
    urls.map(|(_, url)| url.to_owned()).collect()
}

/// Lines that begin with `%`: the word and what follows, without quotes.
fn directives(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim);
    lines.filter_map(|line| {
        let (word, rest) = line.split_once([' ', '\t', '"'])?;
        let rest = rest.split('#').next().unwrap_or_default();
        let plain = rest.trim().trim_matches(['"', '\'']);
        (word.starts_with('%')).then_some((word, plain))
    })
}

/// What the blocks `EXPORT` of a file say for a key.
fn values(text: &str, wanted: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut blocks: Vec<String> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| tokens.get(before));
        match token.as_str() {
            "{" => blocks.push(
                before
                    .map(|name| name.to_ascii_lowercase())
                    .unwrap_or_default(),
            ),
            "}" => drop(blocks.pop()),
            "=" if blocks == ["export"]
                && before.is_some_and(|key| key.eq_ignore_ascii_case(wanted)) =>
            {
                found.extend(tokens.get(index + 1).cloned());
            }
            _ => {}
        }
    }
    found
}

/// Whether the main file includes ours.
pub(crate) fn includes_ours(text: &str) -> bool {
    text.lines().any(|line| line.trim() == INCLUDE)
}

/// Words and signs, without comments and quotes.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => {
                quote = None;
                end(&mut tokens, &mut word);
            }
            (None, '"' | '\'') => quote = Some(character),
            (None, '#') => {
                // Up to the end of the line.
                let _comment = characters.by_ref().find(|&next| next == '\n');
                end(&mut tokens, &mut word);
            }
            (None, '{' | '}' | '=' | ';' | ',') => {
                end(&mut tokens, &mut word);
                tokens.push(character.to_string());
            }
            (None, space) if space.is_whitespace() => end(&mut tokens, &mut word),
            _ => word.push(character),
        }
    }
    end(&mut tokens, &mut word);
    tokens
}

fn end(tokens: &mut Vec<String>, word: &mut String) {
    if !word.is_empty() {
        tokens.push(std::mem::take(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::export::Export;

    fn export(path: &str, number: u16) -> Numbered {
        let clients = ["10.0.0.6", "10.0.0.5"].map(|client| client.parse().expect("a client"));
        let export = Export::new(path.parse().expect("a share"), clients);
        Numbered { export, number }
    }

    #[test]
    fn an_export_lets_its_clients_in_and_nobody_else() {
        let text = block(&export("/srv/nfs/canasta", 20_000));
        for line in [
            "Export_Id = 20000;",
            "Path = \"/srv/nfs/canasta\";",
            "Pseudo = \"/srv/nfs/canasta\";",
            "Clients = 10.0.0.5, 10.0.0.6;",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        // Nothing for those that are not named; the second is theirs who are.
        let access: Vec<_> = text
            .lines()
            .filter(|line| line.contains("Access_Type"))
            .collect();
        assert_eq!(access.len(), 2);
        assert!(access[0].contains("None") && access[1].contains("RW"));
        for twice in [
            "Protocols = 4",
            "Transports = TCP",
            "SecType = sys",
            "Squash = no_root_squash",
        ] {
            assert_eq!(text.matches(twice).count(), 2, "{twice}");
        }
    }

    #[test]
    fn a_number_follows_from_the_path_and_is_never_given_twice() {
        let file_system = |path| export(path, 0).export.file_system();
        let one = number(file_system("/srv/nfs/canasta"), |_| false);
        let one = one.expect("a number");
        assert!((0x4000..0x8000).contains(&one));
        let again = number(file_system("/srv/nfs/canasta"), |_| false);
        assert_eq!(again, Some(one));
        let next = number(file_system("/srv/nfs/canasta"), |taken| taken == one);
        assert!(next.is_some_and(|next| next != one && (0x4000..0x8000).contains(&next)));
        assert_eq!(number([0xff; 16], |_| true), None);
    }

    #[test]
    fn what_stands_in_a_file_is_found_again() {
        let ours = render(&[export("/srv/nfs/a", 20_000), export("/srv/nfs/b", 20_001)]);
        let paths = |text: &str| -> Vec<String> {
            let found = exported("f", text).into_iter();
            found.map(|foreign| foreign.path).collect()
        };
        assert_eq!(paths(&ours), ["/srv/nfs/a", "/srv/nfs/b"]);
        assert_eq!(numbers(&ours), [20_000, 20_001]);
        let theirs = "# EXPORT { Path = /no; }\nNFS_CORE_PARAM { Path = /no; }\nexport\n{\n  export_id = 1; # Path = /no\n\
            path = /vault/ ; Pseudo=\"/p\";\n  FSAL { Path = /no; }\n}\nEXPORT{Path='/my wiki';}\n%dir /etc/ganesha/x.d\n";
        assert_eq!(paths(theirs), ["/vault", "/my wiki"]);
        assert_eq!(numbers(theirs), [1]);
        assert_eq!(included(MAIN, theirs), ["/etc/ganesha/x.d"]);
        assert!(!includes_ours(theirs));
        assert!(includes_ours(SETTINGS));
        assert_eq!(included(MAIN, SETTINGS), [OUR_EXPORTS]);
        let others = "%include \"exports.conf\" # ours\n  %dir /etc/x/*.conf\n%url rados://pool/x\n#%include /no\n";
        assert_eq!(
            included(MAIN, others),
            ["/etc/ganesha/exports.conf", "/exports.conf", "/etc/x"]
        );
        assert_eq!(elsewhere(others), ["rados://pool/x"]);
    }
}
