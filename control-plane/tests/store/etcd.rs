//! Debian's etcd on loopback, for the tests that every store has to pass, and what only it has to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane::store::{Error, Etcd, Range, Store};
use tokio::time::{sleep, timeout};

use super::{Place, create, etcd_server::Server, key, update};

async fn open(address: &str) -> Etcd {
    let begin = Instant::now();
    loop {
        match Etcd::open(&[address.to_owned()]).await {
            Ok(store) => return store,
            Err(error) => assert!(begin.elapsed() < Duration::from_mins(1), "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A store in an etcd of its own; nothing, aloud, where etcd is not installed.
pub(crate) async fn etcd(test: &str) -> Option<Place> {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(test, &directory)?;
    let store = Arc::new(open(&server.address).await);
    Some(Place { store, _directory: directory, _server: Some(server) })
}

#[tokio::test]
async fn one_server_reads_at_once_what_another_one_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let test = "one_server_reads_at_once_what_another_one_wrote";
    let Some(server) = Server::start(test, &directory) else { return };
    let (one, other) = (open(&server.address).await, open(&server.address).await);
    for number in 0..50 {
        let (writer, reader) = if number % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let name = format!("/a/{number}");
        let written = create(writer, &name, "x").await.unwrap();
        assert_eq!(reader.get(&key(&name)).await.unwrap(), Some(written.clone()));
        let changed = update(reader, &written, "y").await.unwrap();
        assert_eq!(changed.created, written.created);
        let lost = update(writer, &written, "z").await.unwrap_err();
        assert!(matches!(lost, Error::Conflict { found: Some(at), .. } if at == changed.modified));
    }
}

#[tokio::test]
async fn an_etcd_that_goes_away_is_said_to_and_one_that_comes_back_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let test = "an_etcd_that_goes_away_is_said_to_and_one_that_comes_back_is_followed";
    let Some(mut server) = Server::start(test, &directory) else { return };
    let store = open(&server.address).await;
    let first = create(&store, "/a/1", "x").await.unwrap();
    let mut watch = store.watch("/a/", first.modified).await.unwrap();
    server.kill();
    let lost = create(&store, "/a/2", "x").await.unwrap_err();
    assert!(lost.is_ambiguous(), "{lost}");
    let blind = store.get(&key("/a/1")).await.unwrap_err();
    assert!(blind.to_string().contains("etcd cannot"), "{blind}");
    server.restart(&directory);
    let begin = Instant::now();
    while let Err(error) = store.get(&key("/a/1")).await {
        assert!(begin.elapsed() < Duration::from_mins(1), "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    let written = create(&store, "/a/3", "x").await.unwrap();
    let all = store.list(&Range::all("/a/"), None).await.unwrap();
    assert!(all.entries.contains(&first) && all.entries.contains(&written));
    // Whether the write without an answer happened is open; the watch tells what did, in order.
    loop {
        let event = timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap();
        if event.after.as_ref() == Some(&written) {
            break;
        }
        assert_eq!(event.key(), "/a/2");
    }
}
