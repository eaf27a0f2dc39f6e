//! Pushes: whole, cut, wrong, and too large for the disk.

use bytes::Bytes;
use canasta_agent::artefacts::{MAX_CHUNK, staged_path};
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::push_artefact_request::Part;
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fixture::{Node, fault, joined, restarted};

fn content(length: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn header(content: &[u8], offset: usize) -> pb::PushArtefactRequest {
    pb::PushArtefactRequest {
        part: Some(Part::Header(pb::PushHeader {
            sha256: digest(content),
            size: content.len() as u64,
            offset: offset as u64,
        })),
    }
}

fn chunks(content: &[u8]) -> Vec<pb::PushArtefactRequest> {
    content
        .chunks(MAX_CHUNK)
        .map(|chunk| pb::PushArtefactRequest {
            part: Some(Part::Chunk(Bytes::copy_from_slice(chunk))),
        })
        .collect()
}

async fn push(
    client: &mut AgentServiceClient<Channel>,
    content: &[u8],
    offset: usize,
) -> Result<u64, Status> {
    let parts = [vec![header(content, offset)], chunks(&content[offset..])].concat();
    let answer = client
        .push_artefact(futures_util::stream::iter(parts))
        .await?;
    Ok(answer.into_inner().size)
}

async fn stat(client: &mut AgentServiceClient<Channel>, content: &[u8]) -> (bool, u64) {
    let request = pb::StatArtefactRequest {
        sha256: digest(content),
        size: content.len() as u64,
    };
    let answer = client
        .stat_artefact(request)
        .await
        .expect("stat")
        .into_inner();
    (answer.complete, answer.offset)
}

fn staged(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(node.path("/usr/local/bin"))
        .map(|entries| {
            entries
                .map(|entry| {
                    entry
                        .expect("entry")
                        .file_name()
                        .to_string_lossy()
                        .into_owned()
                })
                .filter(|name| name.contains("canasta-k3s"))
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

#[tokio::test]
async fn a_push_ends_as_a_checked_program_beside_its_place() {
    let (_controller, node, _agent, mut client) = joined().await;
    let content = content(3 * MAX_CHUNK + 17);
    assert_eq!(stat(&mut client, &content).await, (false, 0));
    assert!(staged(&node).is_empty());
    assert_eq!(
        push(&mut client, &content, 0).await.expect("push"),
        content.len() as u64
    );
    let path = staged_path(&node.host.host(), &digest(&content));
    assert_eq!(std::fs::read(&path).expect("staged"), content);
    assert_eq!(
        stat(&mut client, &content).await,
        (true, content.len() as u64)
    );
    assert_eq!(staged(&node).len(), 1);
    // The answer may have been lost: the same push is taken again.
    assert_eq!(
        push(&mut client, &content, 0).await.expect("push"),
        content.len() as u64
    );
}

#[tokio::test]
async fn the_installed_binary_counts() {
    let (_controller, node, _agent, mut client) = joined().await;
    let content = content(1000);
    std::fs::create_dir_all(node.path("/usr/local/bin")).expect("directory");
    std::fs::write(node.path("/usr/local/bin/k3s"), &content).expect("write");
    assert_eq!(stat(&mut client, &content).await, (true, 1000));
}

#[tokio::test]
async fn a_push_that_was_cut_goes_on_where_it_stopped_even_over_a_crash() {
    let (controller, node, agent, client) = joined().await;
    let content = content(5 * MAX_CHUNK);
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut pushing = client.clone();
    let call = tokio::spawn(async move {
        pushing
            .push_artefact(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await
    });
    sender.send(header(&content, 0)).await.expect("header");
    for chunk in chunks(&content[..2 * MAX_CHUNK]) {
        sender.send(chunk).await.expect("chunk");
    }
    while std::fs::read_dir(node.path("/usr/local/bin")).map_or(0, |entries| {
        entries
            .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
            .sum()
    }) < 2 * MAX_CHUNK as u64
    {
        tokio::task::yield_now().await;
    }
    agent.abort().await;
    call.await.expect("task").expect_err("the connection broke");

    let (_agent, mut client) = restarted(&controller, &node).await;
    let (complete, offset) = stat(&mut client, &content).await;
    assert_eq!((complete, offset), (false, 2 * MAX_CHUNK as u64));
    let status = push(&mut client, &content, 0)
        .await
        .expect_err("wrong offset");
    assert_eq!(fault(&status).reason, "ARTEFACT_OFFSET");
    push(&mut client, &content, 2 * MAX_CHUNK)
        .await
        .expect("push");
    let path = staged_path(&node.host.host(), &digest(&content));
    assert_eq!(std::fs::read(path).expect("staged"), content);
}

#[tokio::test]
async fn a_newer_call_takes_the_place_of_a_push_that_hangs() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let content = content(2 * MAX_CHUNK);
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut pushing = client.clone();
    let call = tokio::spawn(async move {
        pushing
            .push_artefact(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await
    });
    sender.send(header(&content, 0)).await.expect("header");
    for chunk in chunks(&content[..MAX_CHUNK]) {
        sender.send(chunk).await.expect("chunk");
    }
    // The connection is alive and silent; nobody knows that but its owner.
    let offset = loop {
        match stat(&mut client, &content).await {
            (false, 0) if !call.is_finished() => {}
            (false, offset) => break offset,
            (true, _) => panic!("nobody has sent all of it"),
        }
    };
    let status = call.await.expect("task").expect_err("superseded");
    assert_eq!(fault(&status).reason, "PUSH_SUPERSEDED");
    let offset = usize::try_from(offset).expect("small");
    push(&mut client, &content, offset).await.expect("push");
}

#[tokio::test]
async fn a_wrong_hash_leaves_nothing_behind() {
    let (_controller, node, _agent, mut client) = joined().await;
    let (wanted, other) = (content(5000), vec![1; 5000]);
    let parts = [vec![header(&wanted, 0)], chunks(&other)].concat();
    let status = client
        .push_artefact(futures_util::stream::iter(parts))
        .await
        .expect_err("corrupt");
    let fault = fault(&status);
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::DataLoss, "ARTEFACT_CORRUPT")
    );
    assert!(fault.message.contains(&digest(&wanted)) && fault.message.contains(&digest(&other)));
    assert!(staged(&node).is_empty(), "{:?}", staged(&node));
    push(&mut client, &wanted, 0).await.expect("push");
}

#[tokio::test]
async fn too_few_and_too_many_bytes_are_refused() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let content = content(5000);
    let parts = [vec![header(&content, 0)], chunks(&content[..4000])].concat();
    let status = client
        .push_artefact(futures_util::stream::iter(parts))
        .await
        .expect_err("short");
    assert_eq!(fault(&status).reason, "ARTEFACT_INCOMPLETE");
    assert_eq!(stat(&mut client, &content).await, (false, 4000));
    let parts = [vec![header(&content, 4000)], chunks(&content[3000..])].concat();
    let status = client
        .push_artefact(futures_util::stream::iter(parts))
        .await
        .expect_err("long");
    assert_eq!(fault(&status).reason, "ARTEFACT_TOO_LARGE");
    push(&mut client, &content, 4000).await.expect("push");
}

#[tokio::test]
async fn a_full_disk_is_told_with_path_and_room() {
    let (_controller, node, _agent, mut client) = joined().await;
    node.host.machine.change(|machine| machine.disk_free = 1000);
    let status = push(&mut client, &content(5000), 0)
        .await
        .expect_err("full");
    let fault = fault(&status);
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::ResourceExhausted, "DISK_FULL")
    );
    assert!(
        fault.message.contains("5000") && fault.message.contains("1000"),
        "{}",
        fault.message
    );
    assert!(
        fault.message.contains("/usr/local/bin/"),
        "{}",
        fault.message
    );
}

#[tokio::test]
async fn older_artefacts_make_room_for_a_push_that_needs_it() {
    let (_controller, node, _agent, mut client) = joined().await;
    for length in [1000, 2000] {
        push(&mut client, &content(length), 0).await.expect("push");
    }
    // Room for the newer one and the new one, not for all three.
    node.host.machine.change(|machine| {
        machine.disk_free = 5500;
        machine.disk_used_by = Some(node.host.root.path("/usr/local/bin"));
    });
    let size = push(&mut client, &content(3000), 0).await.expect("push");
    assert_eq!(size, 3000);
    let status = push(&mut client, &content(5000), 0)
        .await
        .expect_err("full, also without all older ones but one");
    assert_eq!(fault(&status).reason, "DISK_FULL");
    let left = staged(&node);
    assert!(
        !left
            .iter()
            .any(|name| name.contains(&digest(&content(1000)))),
        "{left:?}"
    );
    assert!(
        left.iter()
            .any(|name| name.contains(&digest(&content(3000)))),
        "{left:?}"
    );
}

#[tokio::test]
async fn at_most_two_artefacts_stay_staged() {
    let (_controller, node, _agent, mut client) = joined().await;
    for length in [1000, 2000, 3000, 4000] {
        push(&mut client, &content(length), 0).await.expect("push");
        // The answer to a push does not wait for the removal of older ones; the next question does.
        assert!(stat(&mut client, &content(length)).await.0);
        assert!(staged(&node).len() <= 2, "{:?}", staged(&node));
    }
}
