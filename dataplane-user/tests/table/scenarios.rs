//! Every file of `tests-data/table`: objects in, dump out, in whatever order they come.

use std::{fs, path::Path};

use dataplane_user::model::{ObjectEvent, ServiceTable};

use crate::objects::{dump, node, objects};

#[test]
fn every_scenario_gives_its_dump_in_both_orders() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests-data/table");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 8, "the scenarios are missing: {files:?}");
    for file in files {
        let events = objects(&fs::read_to_string(&file).unwrap());
        let expected = fs::read_to_string(file.with_extension("expected")).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        assert_eq!(tell(events.iter().cloned()), expected, "{name}");
        assert_eq!(tell(events.into_iter().rev()), expected, "{name}, last object first");
    }
}

fn tell(events: impl Iterator<Item = ObjectEvent>) -> String {
    let mut table = ServiceTable::new(node());
    for event in events {
        table.apply(event);
    }
    table.apply(ObjectEvent::Synced);
    dump(&table)
}
