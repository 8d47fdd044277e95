//! What the trait promises, for each store that implements it.

use std::{collections::BTreeMap, time::Duration};

use control_plane::store::{Error, Range, Revision};
use tokio::{task::JoinSet, time::timeout};

use super::{Place, create, delete, embedded, etcd::etcd, key, update};

/// Every store there is here.
async fn each(test: &str) -> Vec<Place> {
    std::iter::once(embedded()).chain(etcd(test).await).collect()
}

#[tokio::test]
async fn a_write_happens_only_if_the_entry_is_as_expected() {
    for place in each("a_write_happens_only_if_the_entry_is_as_expected").await {
        let store = &*place.store;
        let first = create(store, "/a/1", "x").await.unwrap();
        assert_eq!((first.created, first.modified), (Revision(1), Revision(1)));
        let twice = create(store, "/a/1", "y").await.unwrap_err();
        assert!(matches!(twice, Error::Conflict { found: Some(Revision(1)), .. }), "{twice}");
        let second = update(store, &first, "y").await.unwrap();
        assert_eq!((second.created, second.modified), (Revision(1), Revision(2)));
        let stale = update(store, &first, "z").await.unwrap_err();
        assert!(matches!(stale, Error::Conflict { found: Some(Revision(2)), .. }), "{stale}");
        let stale = delete(store, "/a/1", first.modified).await.unwrap_err();
        assert!(matches!(stale, Error::Conflict { .. }), "{stale}");
        assert_eq!(&*store.get(&key("/a/1")).await.unwrap().unwrap().value, b"y");
        let gone = delete(store, "/a/1", second.modified).await.unwrap();
        assert_eq!((gone.modified, &*gone.value), (Revision(3), &b"y"[..]));
        assert_eq!(store.get(&key("/a/1")).await.unwrap(), None);
        let missing = delete(store, "/a/1", gone.modified).await.unwrap_err();
        assert!(matches!(missing, Error::Conflict { found: None, .. }), "{missing}");
        // What failed has no revision.
        assert_eq!(create(store, "/a/1", "new").await.unwrap().created, Revision(4));
    }
}

#[tokio::test]
async fn a_list_is_of_one_moment_also_of_an_older_one_and_page_by_page() {
    for place in each("a_list_is_of_one_moment_also_of_an_older_one_and_page_by_page").await {
        let store = &*place.store;
        for number in 0..10 {
            create(store, &format!("/pods/{number}"), "old").await.unwrap();
        }
        create(store, "/podsother/1", "no").await.unwrap();
        let moment = store.revision().await.unwrap();
        let third = store.get(&key("/pods/3")).await.unwrap().unwrap();
        update(store, &third, "new").await.unwrap();
        delete(store, "/pods/7", Revision(8)).await.unwrap();
        create(store, "/pods/55", "new").await.unwrap();
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let range = Range { prefix: "/pods/".into(), after: after.clone(), limit: 3 };
            let page = store.list(&range, Some(moment)).await.unwrap();
            assert_eq!(page.revision, moment);
            for entry in &page.entries {
                assert_eq!(&*entry.value, b"old", "{}", entry.key);
                names.push(entry.key.to_string());
            }
            assert_eq!(page.remaining, 10 - names.len());
            after = page.entries.last().map(|entry| entry.key.clone());
            if page.remaining == 0 {
                break;
            }
        }
        let expected: Vec<String> = (0..10).map(|number| format!("/pods/{number}")).collect();
        assert_eq!(names, expected);
        let now = store.list(&Range::all("/pods/"), None).await.unwrap();
        let values: BTreeMap<_, _> = now.entries.iter().map(|it| (&*it.key, &*it.value)).collect();
        assert_eq!(values.len(), 10);
        assert_eq!((values["/pods/3"], values["/pods/55"]), (&b"new"[..], &b"new"[..]));
        let future = store.list(&Range::all("/"), Some(Revision(1_000))).await.unwrap_err();
        assert!(matches!(future, Error::Future { last: Revision(14), .. }), "{future}");
    }
}

#[tokio::test]
async fn a_watch_sees_each_change_once_and_in_order_whenever_it_begins() {
    const WRITERS: usize = 8;
    const WRITES: usize = 50;
    for place in each("a_watch_sees_each_change_once_and_in_order_whenever_it_begins").await {
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let store = place.store.clone();
            tasks.spawn(async move {
                for number in 0..WRITES {
                    create(&*store, &format!("/pods/{writer}-{number}"), "x").await.unwrap();
                    create(&*store, &format!("/nodes/{writer}-{number}"), "x").await.unwrap();
                }
            });
        }
        let mut watchers = JoinSet::new();
        for _ in 0..20 {
            let store = place.store.clone();
            let begin = store.revision().await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
            watchers.spawn(async move {
                let mut watch = store.watch("/pods/", begin).await.unwrap();
                let mut seen = Vec::new();
                while seen.last() != Some(&"/pods/end".to_owned()) {
                    let event = timeout(Duration::from_secs(20), watch.next()).await;
                    let event = event.unwrap().unwrap();
                    assert!(event.revision > begin);
                    seen.push(event.key().to_owned());
                }
                let mut all = store.list(&Range::all("/pods/"), None).await.unwrap().entries;
                all.retain(|entry| entry.created > begin);
                all.sort_by_key(|entry| entry.created);
                let expected: Vec<String> = all.iter().map(|it| it.key.to_string()).collect();
                assert_eq!(seen, expected);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        create(&*place.store, "/pods/end", "x").await.unwrap();
        let mut count = 0;
        while let Some(done) = watchers.join_next().await {
            done.unwrap();
            count += 1;
        }
        assert_eq!(count, 20);
    }
}

#[tokio::test]
async fn what_was_compacted_is_said_to_be() {
    for place in each("what_was_compacted_is_said_to_be").await {
        let store = &*place.store;
        for number in 0..10 {
            create(store, &format!("/a/{number}"), "x").await.unwrap();
        }
        store.compact(Revision(5)).await.unwrap();
        let list = store.list(&Range::all("/a/"), Some(Revision(4))).await.unwrap_err();
        assert!(matches!(list, Error::Compacted { oldest: Revision(5), .. }), "{list}");
        let watch = store.watch("/a/", Revision(4)).await.unwrap_err();
        assert!(matches!(watch, Error::Compacted { .. }), "{watch}");
        assert_eq!(
            store.list(&Range::all("/a/"), Some(Revision(5))).await.unwrap().entries.len(),
            5
        );
        let mut watch = store.watch("/a/", Revision(5)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().revision, Revision(6));
        assert_eq!(store.list(&Range::all("/a/"), None).await.unwrap().entries.len(), 10);
    }
}
