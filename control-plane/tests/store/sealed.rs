//! Entries that are encrypted in the store below.

use std::sync::Arc;

use control_plane::store::{Embedded, Range, Sealed, Store, sealed::KeyError};

use super::{create, file, key, update};

const PREFIX: &str = "/core/secrets/";

#[tokio::test]
async fn what_is_sealed_is_nowhere_in_the_file_and_read_as_ever() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("key");
    let name = "/core/secrets/shop/password";
    {
        let plain: Arc<dyn Store> = Arc::new(Embedded::open(&file(&directory)).unwrap());
        // What was there before is encrypted too.
        create(&*plain, "/core/secrets/shop/old", "older than the key").await.unwrap();
        let sealed = Sealed::open(plain.clone(), PREFIX, &keys, true).unwrap();
        assert_eq!(sealed.convert().await.unwrap(), 1);
        assert_eq!(sealed.convert().await.unwrap(), 0);
        let mut watch = sealed.watch("/core/", sealed.revision().await.unwrap()).await.unwrap();
        let first = create(&sealed, name, "correct horse").await.unwrap();
        assert_eq!(&*first.value, b"correct horse");
        update(&sealed, &first, "battery staple").await.unwrap();
        create(&sealed, "/core/configmaps/shop/a", "for everybody").await.unwrap();
        let values = |it: &control_plane::store::Event| it.after.clone().unwrap().value;
        for expected in ["correct horse", "battery staple", "for everybody"] {
            assert_eq!(values(&watch.next().await.unwrap()), expected);
        }
        let below = plain.get(&key(name)).await.unwrap().unwrap();
        assert!(below.value.starts_with(b"sealed1:"));
        let list = sealed.list(&Range::all(PREFIX), None).await.unwrap();
        assert_eq!(list.entries.len(), 2);
        assert_eq!(&*list.entries[1].value, b"battery staple");
        sealed.compact(sealed.revision().await.unwrap()).await.unwrap();
    }
    let bytes = std::fs::read(file(&directory)).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"for everybody"), "the search finds what is plain");
    assert!(!holds(b"battery staple") && !holds(b"correct horse"));
    // Without the wish to seal, all is decrypted; with another key, nothing is.
    let plain: Arc<dyn Store> = Arc::new(Embedded::open(&file(&directory)).unwrap());
    let other = Sealed::open(plain.clone(), PREFIX, &directory.path().join("other"), true).unwrap();
    let words = other.get(&key(name)).await.unwrap_err().to_string();
    assert!(words.contains("cannot be sealed or opened"), "{words}");
    let open = Sealed::open(plain.clone(), PREFIX, &keys, false).unwrap();
    assert_eq!(open.convert().await.unwrap(), 2);
    assert_eq!(&*plain.get(&key(name)).await.unwrap().unwrap().value, b"battery staple");
}

#[tokio::test]
async fn values_cannot_be_exchanged_and_keys_have_a_length() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("key");
    let plain: Arc<dyn Store> = Arc::new(Embedded::open(&file(&directory)).unwrap());
    let sealed = Sealed::open(plain.clone(), PREFIX, &keys, true).unwrap();
    create(&sealed, "/core/secrets/a", "of a").await.unwrap();
    let of_a = plain.get(&key("/core/secrets/a")).await.unwrap().unwrap();
    let text = of_a.value.clone();
    let write = control_plane::store::Write {
        key: key("/core/secrets/b"),
        expect: control_plane::store::Expect::Absent,
        value: Some(text),
    };
    plain.write(write).await.unwrap();
    sealed.get(&key("/core/secrets/b")).await.unwrap_err();
    std::fs::write(&keys, b"short").unwrap();
    let refused = Sealed::open(plain, PREFIX, &keys, true).unwrap_err();
    assert!(matches!(refused, KeyError::Length { .. }), "{refused}");
}
