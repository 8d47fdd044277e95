//! The embedded store through restarts, kills and broken files.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use control_plane::store::{Embedded, Error, Range, Revision, Store as _};

use super::{create, delete, file, key, update};

/// Bytes at the front of the file that say where everything is.
const HEAD: usize = 4096;
/// The test that plays the server that is killed; it does nothing unless this is set.
const VICTIM: &str = "HASHPLANE_TEST_STORE";

#[tokio::test]
async fn everything_is_there_after_a_restart_also_the_past() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory);
    {
        let store = Embedded::open(&path).unwrap();
        let first = create(&store, "/a/1", "x").await.unwrap();
        update(&store, &first, "y").await.unwrap();
        create(&store, "/a/2", "x").await.unwrap();
        delete(&store, "/a/2", Revision(3)).await.unwrap();
        store.compact(Revision(1)).await.unwrap();
    }
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(4));
    assert_eq!(&*store.get(&key("/a/1")).await.unwrap().unwrap().value, b"y");
    let then = store.list(&Range::all("/a/"), Some(Revision(3))).await.unwrap();
    assert_eq!(then.entries.len(), 2);
    let mut watch = store.watch("/a/", Revision(2)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, Revision(3));
    assert!(matches!(
        store.watch("/a/", Revision(0)).await.unwrap_err(),
        Error::Compacted { oldest: Revision(1), .. }
    ));
}

#[test]
fn no_acknowledged_write_is_lost_when_the_server_is_killed() {
    for pause_ms in [5, 20, 50, 90, 140] {
        let directory = tempfile::tempdir().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::the_server_that_is_killed", "--nocapture", "--quiet"])
            .env(VICTIM, file(&directory))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let begun = lines.by_ref().map(Result::unwrap).any(|line| line == "acknowledged 1");
        assert!(begun, "the server has written nothing");
        std::thread::sleep(Duration::from_millis(pause_ms));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let told = lines.map_while(Result::ok);
        let numbers = told.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        let last: u64 = numbers.max().unwrap_or(1);
        let store = Embedded::open(&file(&directory)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all = runtime.block_on(store.list(&Range::all("/"), None)).unwrap();
        assert!(all.revision.0 >= last, "{last} were acknowledged, {} are there", all.revision);
        // Nothing is there by half: entries and revisions are one transaction.
        assert_eq!(all.entries.len() as u64, all.revision.0);
    }
}

#[test]
fn the_server_that_is_killed() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let store = Embedded::open(path.as_ref()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for number in 1..=100_000 {
            create(&store, &format!("/a/{number:06}"), "x").await.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {number}").unwrap();
            out.flush().unwrap();
        }
    });
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory);
    fs::write(&path, "not a database at all, but long enough to be read as the head of one")
        .unwrap();
    let error = Embedded::open(&path).unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "{error}");
    assert!(error.to_string().contains("store.redb"), "{error}");
    assert!(fs::read_to_string(&path).unwrap().starts_with("not a database"));
}

#[tokio::test]
async fn a_second_server_on_the_same_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(&file(&directory)).unwrap();
    assert!(Embedded::open(&file(&directory)).is_err());
    create(&store, "/a/1", "x").await.unwrap();
}

/// In so many places a write is cut off.
const PARTS: usize = 12;

#[tokio::test]
async fn a_last_write_that_was_cut_off_is_as_if_it_had_not_been() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory);
    let store = Embedded::open(&path).unwrap();
    for number in 0..100 {
        create(&store, &format!("/a/{number:03}"), "x").await.unwrap();
    }
    let before = fs::read(&path).unwrap();
    // Larger than the file has room for, so that it grows.
    let long = "y".repeat(3 * before.len());
    create(&store, "/a/last", &long).await.unwrap();
    let after = fs::read(&path).unwrap();
    assert!(after.len() > before.len());
    // Of the last write some pages have reached the disk, and the head, which commits them, has not.
    for part in 0..=PARTS {
        let reached = HEAD + (after.len() - HEAD) * part / PARTS;
        let mut torn = before[..HEAD].to_vec();
        torn.extend_from_slice(&after[HEAD..reached]);
        torn.extend_from_slice(before.get(reached..).unwrap_or_default());
        // The file system grew the file before anything was written to its end.
        torn.resize(after.len(), 0);
        let path = directory.path().join(format!("torn-{part}.redb"));
        fs::write(&path, &torn).unwrap();
        let store = Embedded::open(&path).unwrap_or_else(|error| panic!("part {part}: {error}"));
        let all = store.list(&Range::all("/a/"), None).await.unwrap();
        assert_eq!((all.entries.len(), all.revision), (100, Revision(100)), "part {part}");
        create(&store, "/a/next", "x").await.unwrap();
    }
}
