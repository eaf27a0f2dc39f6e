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
        let mut check = |path: &[i32], name: String| {
            if !commented.contains(&path) {
                missing.push(format!("{}: {name}", file.name()));
            }
        };
        // The numbers are the field numbers of descriptor.proto: 4 message, 5 enum, 6 service, 2 field or value or rpc.
        for (i, message) in (0..).zip(&file.message_type) {
            check(&[4, i], message.name().to_owned());
            for (j, field) in (0..).zip(&message.field) {
                check(
                    &[4, i, 2, j],
                    format!("{}.{}", message.name(), field.name()),
                );
            }
        }
        for (i, enumeration) in (0..).zip(&file.enum_type) {
            check(&[5, i], enumeration.name().to_owned());
            for (j, value) in (0..).zip(&enumeration.value) {
                check(
                    &[5, i, 2, j],
                    format!("{}.{}", enumeration.name(), value.name()),
                );
            }
        }
        for (i, service) in (0..).zip(&file.service) {
            check(&[6, i], service.name().to_owned());
            for (j, method) in (0..).zip(&service.method) {
                check(
                    &[6, i, 2, j],
                    format!("{}.{}", service.name(), method.name()),
                );
            }
        }
    }
    missing
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
