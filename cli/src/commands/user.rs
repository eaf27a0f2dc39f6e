//! `canasta user …` and `canasta audit`.

use canasta_proto::pb::audit_service_client::AuditServiceClient;
use canasta_proto::pb::user_service_client::UserServiceClient;
use canasta_proto::pb::{
    AddUserRequest, ListAuditRequest, ListUsersRequest, RemoveUserRequest, Role,
};

use crate::args::{Global, UserCommand, UserRole};
use crate::connect::connect;
use crate::error::Error;
use crate::output;
use crate::view::Removed;
use crate::view::people::{Audit, UserAdded, UserList};

pub(super) async fn run(global: &Global, command: UserCommand) -> Result<(), Error> {
    let mut client = UserServiceClient::new(connect(global).await?);
    match command {
        UserCommand::Add { name, role } => {
            let role = match role {
                UserRole::Viewer => Role::Viewer,
                UserRole::Operator => Role::Operator,
                UserRole::Admin => Role::Admin,
            };
            let request = AddUserRequest {
                name,
                role: role.into(),
            };
            let added = client.add_user(request).await?.into_inner();
            output::print(global.output, &UserAdded::new(added), UserAdded::text)
        }
        UserCommand::List => {
            let users = client
                .list_users(ListUsersRequest {})
                .await?
                .into_inner()
                .users;
            output::print(global.output, &UserList::new(users), UserList::table)
        }
        UserCommand::Remove { name } => {
            client
                .remove_user(RemoveUserRequest { name: name.clone() })
                .await?;
            let note = format!("user '{name}' is removed and the certificate ended");
            output::confirm(global.output, &Removed::new(name), &note)
        }
    }
}

pub(super) async fn audit(global: &Global, limit: u32) -> Result<(), Error> {
    let mut client = AuditServiceClient::new(connect(global).await?);
    let rows = client
        .list_audit(ListAuditRequest { limit })
        .await?
        .into_inner()
        .rows;
    output::print(global.output, &Audit::new(rows), Audit::table)
}
