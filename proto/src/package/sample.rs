//! Packages for tests: as much of a .deb and an .rpm as tells what it is.

use std::io::Write as _;

fn tar(name: &str, content: &str) -> Vec<u8> {
    let mut tar = vec![0; 512];
    tar[..name.len()].copy_from_slice(name.as_bytes());
    tar[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    tar.extend_from_slice(content.as_bytes());
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar
}

fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut member = format!(
        "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
        0,
        0,
        0,
        100_644,
        content.len()
    )
    .into_bytes();
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(2), b'\n');
    member
}

/// A .deb, as far as it tells what it is. `compression` is nothing, `.gz` or `.xz`.
///
/// # Panics
/// When it can't be packed.
pub fn deb(compression: &str, control: &str) -> Vec<u8> {
    let mut files = tar("./md5sums", "0  x\n");
    files.extend(tar("./control", control));
    let packed = match compression {
        ".xz" => {
            let mut packed = Vec::new();
            lzma_rs::xz_compress(&mut files.as_slice(), &mut packed).expect("packed");
            packed
        }
        ".gz" => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&files).expect("packed");
            packed.finish().expect("packed")
        }
        _ => files,
    };
    let mut deb = b"!<arch>\n".to_vec();
    deb.extend(member("debian-binary", b"2.0\n"));
    deb.extend(member(&format!("control.tar{compression}"), &packed));
    deb.extend(member("data.tar.xz", b"whatever"));
    deb
}

fn header(values: &[(u32, &str)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, value) in values {
        let place = u32::try_from(store.len()).expect("small");
        for number in [*tag, 6, place, 1] {
            index.extend_from_slice(&number.to_be_bytes());
        }
        store.extend_from_slice(value.as_bytes());
        store.push(0);
    }
    let mut header = vec![0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
    for number in [values.len(), store.len()] {
        header.extend_from_slice(&u32::try_from(number).expect("small").to_be_bytes());
    }
    header.extend(index);
    header.extend(store);
    header
}

/// An .rpm, as far as it tells what it is.
///
/// # Panics
/// When a value is too long.
pub fn rpm(name: &str, arch: &str) -> Vec<u8> {
    let mut rpm = vec![0xed, 0xab, 0xee, 0xdb];
    rpm.resize(96, 0);
    rpm.extend(header(&[(62, "sig")]));
    rpm.resize(rpm.len().next_multiple_of(8), 0);
    rpm.extend(header(&[
        (1000, name),
        (1001, "0.1.0"),
        (1002, "1"),
        (1022, arch),
    ]));
    rpm
}
