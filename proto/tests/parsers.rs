//! What enters as text, whatever it is: never a panic, read back as it is shown, and nothing in it that a terminal, a URL
//! or a file name would take for something else.

use canasta_proto::address::Address;
use canasta_proto::name::{ClusterName, HostName, UserName};
use canasta_proto::token::{Purpose, SECRET_BYTES, Token};
use canasta_proto::version::K3sVersion;
use proptest::prelude::*;

/// Text that comes near to what the parsers take, with signs that they must not.
fn text() -> impl Strategy<Value = String> {
    let near = "[a-zA-Z0-9.:+\\-\\[\\]_v]{0,80}";
    let parts = prop_oneof![
        near,
        any::<char>().prop_map(String::from),
        prop::sample::select(vec![
            "\n",
            "\r",
            "\0",
            "\u{1b}[2J",
            "\u{202e}",
            "\u{2066}",
            "\u{200f}",
            "\u{feff}",
            " ",
            "/",
            "..",
            "%2f",
            "$(x)",
            "v1.34.8",
            "+k3s1",
            "-rc1",
            "10.0.0.1",
            "::1",
            ":7443",
            "canasta-join.",
            "canasta-user.",
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(parts, 0..6).prop_map(|parts| parts.concat())
}

/// Printable ASCII without anything that a shell, a URL or a path gives a meaning to.
fn is_tame(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".:+-_[]".contains(&byte))
        && !text.contains("..")
}

/// Puts a sign into a text, at a boundary of its characters.
fn spoilt(text: &str, at: usize, sign: char) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    characters.insert(at % (characters.len() + 1), sign);
    characters.into_iter().collect()
}

/// Control characters and those that turn the direction of text.
fn unseen() -> impl Strategy<Value = char> {
    prop_oneof![
        prop::char::range('\0', '\u{1f}'),
        prop::char::range('\u{7f}', '\u{9f}'),
        prop::char::range('\u{200b}', '\u{200f}'),
        prop::char::range('\u{202a}', '\u{202e}'),
        prop::char::range('\u{2066}', '\u{2069}'),
    ]
}

fn good_address() -> impl Strategy<Value = String> {
    let name = "[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]([a-z0-9-]{0,20}[a-z0-9])?){0,3}";
    let host = prop_oneof![
        name,
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
    ];
    (host, prop::option::of(1..=u16::MAX)).prop_map(|(host, port)| match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

fn good_version() -> impl Strategy<Value = String> {
    let number = || 0..1_000_000_u32;
    let release = (
        number(),
        number(),
        number(),
        prop::option::of(number()),
        number(),
    );
    release.prop_map(|(major, minor, patch, candidate, build)| {
        let candidate = candidate.map_or_else(String::new, |number| format!("-rc{number}"));
        format!("v{major}.{minor}.{patch}{candidate}+k3s{build}")
    })
}

proptest! {
    #[test]
    fn whatever_is_taken_is_tame_and_read_back(text in text()) {
        if let Ok(name) = text.parse::<HostName>() {
            prop_assert!(is_tame(name.as_str()) && name.to_string() == text);
        }
        if let Ok(name) = text.parse::<UserName>() {
            prop_assert_eq!(name.as_str(), &text);
        }
        if let Ok(version) = text.parse::<K3sVersion>() {
            prop_assert!(is_tame(&text));
            prop_assert_eq!(version.to_string(), text.as_str());
        }
        if let Ok(address) = text.parse::<Address>() {
            let shown = address.to_string();
            prop_assert!(is_tame(&text) && is_tame(&shown));
            let again = shown.parse::<Address>().expect("what was shown");
            prop_assert_eq!(&again, &address);
            let dialled = address.with_default_port(7443);
            let again = dialled.parse::<Address>().expect("an address to dial");
            prop_assert_eq!((again.host(), again.port()), (address.host(), Some(address.port().unwrap_or(7443))));
        }
        for purpose in [Purpose::Join, Purpose::User] {
            if let Ok(token) = Token::parse(purpose, &text) {
                prop_assert_eq!(token.reveal(), text.trim());
            }
        }
    }

    #[test]
    fn a_refusal_shows_nothing_that_a_terminal_obeys(text in text()) {
        let errors = [
            text.parse::<HostName>().err().map(|error| error.to_string()),
            text.parse::<ClusterName>().err().map(|error| error.to_string()),
            text.parse::<UserName>().err().map(|error| error.to_string()),
            text.parse::<K3sVersion>().err().map(|error| error.to_string()),
            text.parse::<Address>().err().map(|error| error.to_string()),
            Token::parse(Purpose::Join, &text).err().map(|error| error.to_string()),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(error.chars().all(|character| matches!(character, ' '..='~')), "{:?}", error);
        }
    }

    #[test]
    fn good_names_are_taken_and_unseen_signs_refused(
        name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        at in any::<usize>(),
        sign in unseen(),
    ) {
        prop_assert!(name.parse::<HostName>().is_ok());
        prop_assert!(name.parse::<ClusterName>().is_ok());
        let spoilt = spoilt(&name, at, sign);
        prop_assert!(spoilt.parse::<HostName>().is_err());
        prop_assert!(spoilt.parse::<ClusterName>().is_err());
        prop_assert!(spoilt.parse::<UserName>().is_err());
    }

    #[test]
    fn good_addresses_are_taken_and_unseen_signs_refused(
        address in good_address(),
        at in any::<usize>(),
        sign in unseen(),
    ) {
        prop_assert!(address.parse::<Address>().is_ok(), "{}", address);
        prop_assert!(spoilt(&address, at, sign).parse::<Address>().is_err());
    }

    #[test]
    fn good_versions_are_taken_and_unseen_signs_refused(
        version in good_version(),
        at in any::<usize>(),
        sign in unseen(),
    ) {
        prop_assert_eq!(version.parse::<K3sVersion>().expect("good").to_string(), version.as_str());
        prop_assert!(spoilt(&version, at, sign).parse::<K3sVersion>().is_err());
    }

    #[test]
    fn tokens_are_read_back_and_spoilt_ones_refused(
        pin in any::<[u8; 32]>(),
        secret in any::<[u8; SECRET_BYTES]>(),
        at in any::<usize>(),
        sign in unseen(),
    ) {
        let token = Token::new(Purpose::User, pin, secret);
        let text = token.reveal();
        prop_assert_eq!(Token::parse(Purpose::User, &text), Ok(token));
        prop_assert!(Token::parse(Purpose::Join, &text).is_err());
        // Inside, since white space around a token is ignored.
        let spoilt = spoilt(&text[1..text.len() - 1], 1 + at % (text.len() - 4), sign);
        let spoilt = format!("c{spoilt}{}", &text[text.len() - 1..]);
        prop_assert!(Token::parse(Purpose::User, &spoilt).is_err());
    }
}
