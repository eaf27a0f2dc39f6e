//! Service accounts: `default` in every namespace, with a token, at the moment the recordings show. Called by the
//! timeline.

use base64::Engine as _;
use serde_json::json;

use super::Shared;
use super::store::Key;
use crate::token;

/// Gives every namespace its default account.
pub(super) fn create_defaults(shared: &Shared) {
    let find = |plural| shared.resources.find("", "v1", plural);
    let (Some(namespaces), Some(accounts), Some(secrets)) =
        (find("namespaces"), find("serviceaccounts"), find("secrets"))
    else {
        return;
    };
    for namespace in shared.store.list(namespaces, "").objects {
        let Some(name) = namespace["metadata"]["name"].as_str() else {
            continue;
        };
        let key = Key::new(accounts, name, "default");
        if shared.store.get(&key).is_some() {
            continue;
        }
        let secret = format!("default-token-{}", &token::random()[..5]);
        shared
            .store
            .put(key, json!({"secrets": [{"name": secret}]}));
        let bearer = base64::engine::general_purpose::STANDARD.encode(token::random());
        shared.store.put(
            Key::new(secrets, name, &secret),
            json!({
                "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}},
                "type": "kubernetes.io/service-account-token",
                "data": {"token": bearer},
            }),
        );
    }
}
