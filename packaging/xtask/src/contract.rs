//! Finds changes of the wire contract that an older peer would not survive.
//!
//! Called by `xtask contract` (part of `./dev lint`): compares the proto files with the descriptor set of the last
//! release, `proto/contract.lock.bin`. Agents and controllers of different age talk to each other during every
//! upgrade, so what stands in the lock may be extended and never taken away or changed.

use std::collections::BTreeMap;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// All incompatible changes from `old` to `new`, one sentence each; empty when the contract is kept.
#[must_use]
pub fn breaking_changes(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let old = Index::of(old);
    let new = Index::of(new);
    let mut changes = Vec::new();
    for (name, message) in &old.messages {
        match new.messages.get(name) {
            None => changes.push(format!("message {name} is gone")),
            Some(now) => message_changes(name, message, now, &mut changes),
        }
    }
    for (name, enumeration) in &old.enums {
        match new.enums.get(name) {
            None => changes.push(format!("enum {name} is gone")),
            Some(now) => enum_changes(name, enumeration, now, &mut changes),
        }
    }
    for (name, service) in &old.services {
        match new.services.get(name) {
            None => changes.push(format!("service {name} is gone")),
            Some(now) => service_changes(name, service, now, &mut changes),
        }
    }
    changes
}

/// Fields, enum values, rpcs and messages that have no comment, as `file: name`.
#[must_use]
pub fn without_comment(descriptors: &FileDescriptorSet) -> Vec<String> {
    let mut missing = Vec::new();
    for file in descriptors
        .file
        .iter()
        .filter(|file| file.package() == "canasta.fleet.v1")
    {
        let commented: Vec<&[i32]> = file
            .source_code_info
            .iter()
            .flat_map(|info| &info.location)
            .filter(|location| !location.leading_comments().trim().is_empty())
            .map(|location| location.path.as_slice())
            .collect();
        let mut check = |path: &[i32], name: &str| {
            if !commented.contains(&path) {
                missing.push(format!("{}: {name}", file.name()));
            }
        };
        // The numbers are the field numbers of descriptor.proto: 4 message, 5 enum, 6 service, 2 field or value or rpc.
        for (i, message) in (0..).zip(&file.message_type) {
            message_comments(&[4, i], message.name(), message, &mut check);
        }
        for (i, enumeration) in (0..).zip(&file.enum_type) {
            enum_comments(&[5, i], enumeration.name(), enumeration, &mut check);
        }
        for (i, service) in (0..).zip(&file.service) {
            check(&[6, i], service.name());
            for (j, method) in (0..).zip(&service.method) {
                let name = format!("{}.{}", service.name(), method.name());
                check(&[6, i, 2, j], &name);
            }
        }
    }
    missing
}

/// Checks a message, its fields, and what is declared inside it (3 message, 4 enum). Entries of maps are the compiler's.
fn message_comments(
    path: &[i32],
    name: &str,
    message: &DescriptorProto,
    check: &mut impl FnMut(&[i32], &str),
) {
    check(path, name);
    let inner = |kind: i32, index: i32| [path, &[kind, index]].concat();
    for (i, field) in (0..).zip(&message.field) {
        check(&inner(2, i), &format!("{name}.{}", field.name()));
    }
    for (i, nested) in (0..).zip(&message.nested_type) {
        if !nested
            .options
            .as_ref()
            .is_some_and(prost_types::MessageOptions::map_entry)
        {
            let name = format!("{name}.{}", nested.name());
            message_comments(&inner(3, i), &name, nested, check);
        }
    }
    for (i, enumeration) in (0..).zip(&message.enum_type) {
        let name = format!("{name}.{}", enumeration.name());
        enum_comments(&inner(4, i), &name, enumeration, check);
    }
}

fn enum_comments(
    path: &[i32],
    name: &str,
    enumeration: &EnumDescriptorProto,
    check: &mut impl FnMut(&[i32], &str),
) {
    check(path, name);
    for (i, value) in (0..).zip(&enumeration.value) {
        let path = [path, &[2, i]].concat();
        check(&path, &format!("{name}.{}", value.name()));
    }
}

#[derive(Default)]
struct Index<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    services: BTreeMap<String, &'a ServiceDescriptorProto>,
}

impl<'a> Index<'a> {
    fn of(descriptors: &'a FileDescriptorSet) -> Self {
        let mut index = Self::default();
        for file in &descriptors.file {
            let package = file.package();
            for message in &file.message_type {
                index.add_message(package, message);
            }
            for enumeration in &file.enum_type {
                index
                    .enums
                    .insert(format!("{package}.{}", enumeration.name()), enumeration);
            }
            for service in &file.service {
                index
                    .services
                    .insert(format!("{package}.{}", service.name()), service);
            }
        }
        index
    }

    fn add_message(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for enumeration in &message.enum_type {
            self.enums
                .insert(format!("{name}.{}", enumeration.name()), enumeration);
        }
        self.messages.insert(name, message);
    }
}

fn message_changes(
    name: &str,
    old: &DescriptorProto,
    new: &DescriptorProto,
    changes: &mut Vec<String>,
) {
    let reserved = old
        .reserved_range
        .iter()
        .map(|range| (range.start(), range.end() - 1));
    let still = new
        .reserved_range
        .iter()
        .map(|range| (range.start(), range.end() - 1));
    reserved_changes(name, reserved, still.collect(), changes);
    for kept in &old.reserved_name {
        if !new.reserved_name.contains(kept) {
            changes.push(format!("{name}: the name {kept} is not reserved any more"));
        }
    }
    for field in &old.field {
        let number = field.number();
        match new
            .field
            .iter()
            .find(|candidate| candidate.number() == number)
        {
            None if is_reserved(new, number) => {}
            None => changes.push(format!(
                "{name}: field {} = {number} is gone and its number is not reserved",
                field.name()
            )),
            Some(now) => field_changes(name, old, field, new, now, changes),
        }
    }
}

/// What was reserved stays so: an older peer may still send it. Ranges are given with both ends.
fn reserved_changes(
    name: &str,
    old: impl Iterator<Item = (i32, i32)>,
    mut new: Vec<(i32, i32)>,
    changes: &mut Vec<String>,
) {
    new.sort_unstable();
    for (first, last) in old {
        // The first number of the range that no new range covers.
        let mut open = i64::from(first);
        for (start, end) in &new {
            if i64::from(*start) <= open {
                open = open.max(i64::from(*end) + 1);
            }
        }
        if open <= i64::from(last) {
            changes.push(format!("{name}: number {open} is not reserved any more"));
        }
    }
}

fn is_reserved(message: &DescriptorProto, number: i32) -> bool {
    message
        .reserved_range
        .iter()
        .any(|range| (range.start()..range.end()).contains(&number))
}

fn field_changes(
    name: &str,
    old_message: &DescriptorProto,
    old: &FieldDescriptorProto,
    new_message: &DescriptorProto,
    new: &FieldDescriptorProto,
    changes: &mut Vec<String>,
) {
    let field = old.name();
    if old.name() != new.name() {
        changes.push(format!(
            "{name}: field {field} is now called {}",
            new.name()
        ));
    }
    if (old.r#type(), old.type_name()) != (new.r#type(), new.type_name()) {
        changes.push(format!("{name}: the type of field {field} has changed"));
    }
    if old.label() != new.label() || old.proto3_optional() != new.proto3_optional() {
        changes.push(format!(
            "{name}: field {field} has changed between single, optional and repeated"
        ));
    }
    let oneof = |message: &DescriptorProto, field: &FieldDescriptorProto| {
        field.oneof_index.map(|index| {
            let index = usize::try_from(index).expect("the compiler gives no negative index");
            message.oneof_decl[index].name().to_owned()
        })
    };
    if oneof(old_message, old) != oneof(new_message, new) {
        changes.push(format!(
            "{name}: field {field} has moved into or out of a oneof"
        ));
    }
}

fn enum_changes(
    name: &str,
    old: &EnumDescriptorProto,
    new: &EnumDescriptorProto,
    changes: &mut Vec<String>,
) {
    let reserved = old
        .reserved_range
        .iter()
        .map(|range| (range.start(), range.end()));
    let still = new
        .reserved_range
        .iter()
        .map(|range| (range.start(), range.end()));
    reserved_changes(name, reserved, still.collect(), changes);
    for value in &old.value {
        match new
            .value
            .iter()
            .find(|candidate| candidate.number() == value.number())
        {
            Some(now) if now.name() == value.name() => {}
            Some(now) => changes.push(format!(
                "{name}: value {} is now called {}",
                value.name(),
                now.name()
            )),
            None => changes.push(format!("{name}: value {} is gone", value.name())),
        }
    }
}

fn service_changes(
    name: &str,
    old: &ServiceDescriptorProto,
    new: &ServiceDescriptorProto,
    changes: &mut Vec<String>,
) {
    for method in &old.method {
        let Some(now) = new
            .method
            .iter()
            .find(|candidate| candidate.name() == method.name())
        else {
            changes.push(format!("{name}: rpc {} is gone", method.name()));
            continue;
        };
        if (method.input_type(), method.client_streaming())
            != (now.input_type(), now.client_streaming())
        {
            changes.push(format!(
                "{name}: the request of rpc {} has changed",
                method.name()
            ));
        }
        if (method.output_type(), method.server_streaming())
            != (now.output_type(), now.server_streaming())
        {
            changes.push(format!(
                "{name}: the response of rpc {} has changed",
                method.name()
            ));
        }
    }
}
