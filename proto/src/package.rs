//! Packages of the agent: what they are, read out of their own first bytes. Used by the controller, which keeps them, and by
//! the CLI, which takes one from a file for a host that it brings in over ssh.
//!
//! A .deb is an `ar` archive whose second member is a compressed tar with the file `control`; an .rpm begins with a lead and
//! two headers of tagged values. Only what is asked for is read, and nothing is believed: every length is checked.

use std::io::{self, Write};

use crate::architecture;

#[cfg(any(test, feature = "samples"))]
pub mod sample;

/// How much of a package tells what it is.
pub const HEAD: usize = 1024 * 1024;
/// The one package that is taken.
pub const NAME: &str = "canasta-agent";
/// The largest member `control.tar` that is looked into, and what may come out of it.
const MOST_CONTROL: usize = 64 * 1024;
const MOST_UNPACKED: usize = 1024 * 1024;
/// The longest version.
const LONGEST: usize = 64;

/// The form of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Debian, Ubuntu and what comes of them.
    Deb,
    /// Fedora, RHEL, openSUSE and what comes of them.
    Rpm,
}

impl Format {
    /// What such a package is called among artefacts.
    pub const fn artefact(self) -> &'static str {
        match self {
            Self::Deb => "agent-deb",
            Self::Rpm => "agent-rpm",
        }
    }

    /// How its files end.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// What a package is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its form.
    pub format: Format,
    /// Its version, as package managers tell it: `0.1.0-1`.
    pub version: String,
    /// The architecture as releases call it: `amd64`.
    pub arch: &'static str,
}

/// Reads what a package is from its first [`HEAD`] bytes.
///
/// # Errors
/// Why it is no package of the agent.
pub fn read(head: &[u8]) -> Result<Package, String> {
    let (format, name, version, arch) = if head.starts_with(b"!<arch>\n") {
        let control = control(head).ok_or("the .deb is damaged or has no readable control file")?;
        let field = |field| of_control(&control, field).ok_or(format!("the .deb tells no {field}"));
        (
            Format::Deb,
            field("Package")?,
            field("Version")?,
            field("Architecture")?,
        )
    } else if head.starts_with(&[0xed, 0xab, 0xee, 0xdb]) {
        let [name, version, release, arch] =
            of_rpm(head).ok_or("the .rpm is damaged or tells not what it is")?;
        (Format::Rpm, name, format!("{version}-{release}"), arch)
    } else {
        return Err("it is neither a .deb nor an .rpm".to_owned());
    };
    if name != NAME {
        return Err(format!(
            "it is the package '{}', and only {NAME} is taken",
            plain(&name)
        ));
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".+-~:_^".contains(&byte);
    if version.is_empty() || version.len() > LONGEST || !version.bytes().all(known) {
        return Err(format!("its version is none: '{}'", plain(&version)));
    }
    let arch = architecture::find(&arch).ok_or_else(|| {
        format!(
            "it is for '{}', which is no known architecture",
            plain(&arch)
        )
    })?;
    Ok(Package {
        format,
        version,
        arch,
    })
}

/// A text of somebody's file for a message.
fn plain(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_graphic)
        .take(LONGEST)
        .collect()
}

/// The text of the control file of a .deb.
fn control(head: &[u8]) -> Option<String> {
    let mut rest = &head[8..];
    loop {
        let (header, body) = rest.split_at_checked(60)?;
        let name = std::str::from_utf8(&header[..16])
            .ok()?
            .trim_end()
            .trim_end_matches('/');
        let size: usize = std::str::from_utf8(&header[48..58])
            .ok()?
            .trim_end()
            .parse()
            .ok()?;
        if let Some(compression) = name.strip_prefix("control.tar") {
            if size > MOST_CONTROL {
                return None;
            }
            return of_tar(&unpacked(compression, body.get(..size)?)?);
        }
        // Members begin at even places.
        rest = body.get(size.checked_next_multiple_of(2)?..)?;
    }
}

fn unpacked(compression: &str, packed: &[u8]) -> Option<Vec<u8>> {
    let mut output = Limited(Vec::new());
    match compression {
        "" => output.0.extend_from_slice(packed),
        ".xz" => lzma_rs::xz_decompress(&mut io::Cursor::new(packed), &mut output).ok()?,
        ".gz" => {
            let mut reader = flate2::read::GzDecoder::new(packed);
            io::copy(&mut reader, &mut output).ok()?;
        }
        _ => return None,
    }
    Some(output.0)
}

/// Takes no more than it should: a small file can be packed from an endless one.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_UNPACKED {
            return Err(io::Error::other("it is too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file `control` of a tar.
fn of_tar(tar: &[u8]) -> Option<String> {
    let mut rest = tar;
    loop {
        let (header, body) = rest.split_at_checked(512)?;
        let text = |range: std::ops::Range<usize>| {
            let field = header.get(range)?;
            let end = field
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(field.len());
            std::str::from_utf8(&field[..end]).ok()
        };
        let size = usize::from_str_radix(text(124..136)?.trim(), 8).ok()?;
        if text(0..100)?.trim_start_matches("./") == "control" {
            return String::from_utf8(body.get(..size)?.to_vec()).ok();
        }
        rest = body.get(size.checked_next_multiple_of(512)?..)?;
    }
}

/// A field of a control file.
fn of_control(control: &str, field: &str) -> Option<String> {
    control.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().to_owned())
    })
}

/// Name, version, release and architecture of an .rpm.
fn of_rpm(head: &[u8]) -> Option<[String; 4]> {
    const LEAD: usize = 96;
    const TAGS: [u32; 4] = [1000, 1001, 1002, 1022];
    let signature = rpm_header(head.get(LEAD..)?)?;
    // The signature is padded to a multiple of eight bytes.
    let main = rpm_header(head.get(LEAD + signature.length.checked_next_multiple_of(8)?..)?)?;
    let mut found = TAGS.iter().map(|tag| main.text(*tag));
    Some([
        found.next()??,
        found.next()??,
        found.next()??,
        found.next()??,
    ])
}

/// A header of an .rpm.
struct RpmHeader<'a> {
    index: &'a [u8],
    store: &'a [u8],
    length: usize,
}

fn rpm_header(bytes: &[u8]) -> Option<RpmHeader<'_>> {
    const INTRO: usize = 16;
    const ENTRY: usize = 16;
    if !bytes.starts_with(&[0x8e, 0xad, 0xe8, 0x01]) {
        return None;
    }
    let entries = number(bytes, 8)? as usize;
    let stored = number(bytes, 12)? as usize;
    let start = entries.checked_mul(ENTRY)?.checked_add(INTRO)?;
    let length = start.checked_add(stored)?;
    Some(RpmHeader {
        index: bytes.get(INTRO..start)?,
        store: bytes.get(start..length)?,
        length,
    })
}

impl RpmHeader<'_> {
    /// A value that is one string.
    fn text(&self, tag: u32) -> Option<String> {
        const STRING: u32 = 6;
        let wanted =
            |entry: &&[u8]| number(entry, 0) == Some(tag) && number(entry, 4) == Some(STRING);
        let entry = self.index.chunks_exact(16).find(wanted)?;
        let text = self.store.get(number(entry, 8)? as usize..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        String::from_utf8(text[..end].to_vec()).ok()
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::sample::{deb, rpm};
    use super::{Format, Package, read};

    const CONTROL: &str = "Package: canasta-agent\nVersion: 0.1.0-1\nArchitecture: amd64\nDescription: x\n Version: 9\n";

    fn told(package: &Package) -> (Format, &str, &str) {
        (package.format, package.version.as_str(), package.arch)
    }

    #[test]
    fn a_package_tells_what_it_is_however_it_is_packed() {
        for compression in ["", ".gz", ".xz"] {
            let package = read(&deb(compression, CONTROL)).expect(compression);
            assert_eq!(told(&package), (Format::Deb, "0.1.0-1", "amd64"));
        }
        let package = read(&rpm("canasta-agent", "aarch64")).expect("an rpm");
        assert_eq!(told(&package), (Format::Rpm, "0.1.0-1", "arm64"));
    }

    #[test]
    fn what_is_no_package_of_the_agent_is_refused() {
        let other = CONTROL.replace("canasta-agent", "bash");
        let arch = CONTROL.replace("amd64", "all");
        let version = CONTROL.replace("0.1.0-1", "../x y");
        for (bytes, part) in [
            (b"\x7fELF".to_vec(), "neither a .deb nor an .rpm"),
            (deb(".xz", &other), "the package 'bash'"),
            (deb(".gz", &arch), "no known architecture"),
            (deb("", &version), "its version is none"),
            (deb(".zst", CONTROL), "no readable control file"),
            (deb("", "Package: canasta-agent\n"), "tells no Version"),
            (rpm("vim", "x86_64"), "the package 'vim'"),
            (rpm("canasta-agent", "noarch"), "no known architecture"),
        ] {
            let error = read(&bytes).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        for whole in [deb(".xz", CONTROL), rpm("canasta-agent", "x86_64")] {
            for length in 0..whole.len().min(400) {
                // Cut anywhere it is refused or whole; it never panics.
                let _ = read(&whole[..length]);
                let mut damaged = whole.clone();
                damaged[length] ^= 0xff;
                let _ = read(&damaged);
            }
            assert!(read(&whole[..100]).is_err());
        }
    }

    #[test]
    fn an_endless_control_file_is_refused() {
        let control = format!("{CONTROL}X: {}\n", "a".repeat(2 * super::MOST_UNPACKED));
        assert!(read(&deb(".gz", &control)).is_err());
    }
}
