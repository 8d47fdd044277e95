//! What the files said last, and which events lead from there to what they say now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::read::{Found, Object, Reading, read};
use crate::{
    model::{Kind, ObjectEvent, ObjectRef},
    source::{
        ProblemScope, SourceEvent,
        problem::{SourceCause, SourceProblem},
    },
};

/// What was found in one file of the directory.
#[derive(Debug)]
pub(super) enum Content {
    /// It is as it was when it was read last.
    Unchanged,
    /// Its text.
    Text(String),
    /// It cannot be read; what it said last stays.
    Broken(SourceCause),
}

/// All files, by name. The name decides who wins when two files have the same object.
#[derive(Debug, Default)]
pub(super) struct Tree {
    files: BTreeMap<Arc<str>, Reading>,
    live: BTreeMap<ObjectRef, Live>,
    told: BTreeMap<Arc<str>, Vec<SourceProblem>>,
    synced: bool,
}

/// An object as the events have it.
#[derive(Debug, Clone, PartialEq)]
struct Live {
    file: Arc<str>,
    object: Arc<Object>,
}

impl Tree {
    /// Takes the files that are there now; those not named are gone.
    pub(super) fn update(&mut self, contents: BTreeMap<Arc<str>, Content>) -> Vec<SourceEvent> {
        self.files.retain(|file, _| contents.contains_key(file));
        for (file, content) in contents {
            let reading = match content {
                Content::Unchanged => continue,
                Content::Text(text) => read(&file, &text),
                Content::Broken(cause) => {
                    let (file, document) = (Some(Arc::clone(&file)), None);
                    let problem = SourceProblem { file, document, object: None, cause };
                    Reading { objects: Vec::new(), problems: vec![problem] }
                }
            };
            self.replace(file, reading);
        }
        let (live, problems) = self.choose();
        let mut events = self.tell_problems(problems);
        let objects = self.tell_objects(live);
        if !objects.is_empty() {
            events.push(SourceEvent::Objects(objects));
        }
        events
    }

    /// As long as something in the file is broken, objects that it had and does not have now may
    /// be in the broken part: they stay.
    fn replace(&mut self, file: Arc<str>, mut new: Reading) {
        let old = self.files.remove(&file).unwrap_or_default();
        if !new.problems.is_empty() {
            let named: BTreeSet<&ObjectRef> = new.objects.iter().map(|found| &found.name).collect();
            let is_unnamed = |found: &Found| !named.contains(&found.name);
            let kept: Vec<Found> = old.objects.into_iter().filter(is_unnamed).collect();
            new.objects.extend(kept);
        }
        self.files.insert(file, new);
    }

    /// One object per name, and the problems of each file.
    fn choose(&self) -> (BTreeMap<ObjectRef, Live>, BTreeMap<Arc<str>, Vec<SourceProblem>>) {
        let mut live = BTreeMap::<ObjectRef, Live>::new();
        let mut problems = BTreeMap::new();
        for (file, reading) in &self.files {
            let mut list = reading.problems.clone();
            for found in &reading.objects {
                if let Some(first) = live.get(&found.name) {
                    list.push(SourceProblem {
                        file: Some(Arc::clone(file)),
                        document: Some(found.document),
                        object: Some(found.name.clone()),
                        cause: SourceCause::Twice { first: Arc::clone(&first.file) },
                    });
                } else {
                    let (file, object) = (Arc::clone(file), Arc::clone(&found.object));
                    live.insert(found.name.clone(), Live { file, object });
                }
            }
            if !list.is_empty() {
                problems.insert(Arc::clone(file), list);
            }
        }
        (live, problems)
    }

    fn tell_problems(&mut self, now: BTreeMap<Arc<str>, Vec<SourceProblem>>) -> Vec<SourceEvent> {
        let files: BTreeSet<&Arc<str>> = self.told.keys().chain(now.keys()).collect();
        let changed = files.into_iter().filter(|file| self.told.get(*file) != now.get(*file));
        let events = changed.map(|file| SourceEvent::Problems {
            scope: ProblemScope::File(Arc::clone(file)),
            list: now.get(file).cloned().unwrap_or_default(),
        });
        let events = events.collect();
        self.told = now;
        events
    }

    fn tell_objects(&mut self, now: BTreeMap<ObjectRef, Live>) -> Vec<ObjectEvent> {
        let before = std::mem::replace(&mut self.live, now);
        let is_new = |(name, live): &(&ObjectRef, &Live)| before.get(*name) != Some(*live);
        let event = |live: &Live| live.object.event(&live.file);
        if self.synced {
            let gone = before.keys().filter(|name| !self.live.contains_key(name)).cloned();
            let new = self.live.iter().filter(is_new).map(|(_, live)| event(live));
            return gone.map(ObjectEvent::Gone).chain(new).collect();
        }
        self.synced = true;
        let mut events = Vec::new();
        for kind in Kind::ALL {
            events.push(ObjectEvent::ListBegin(kind));
            let of_kind = self.live.iter().filter(|(name, _)| name.kind == kind);
            events.extend(of_kind.map(|(_, live)| event(live)));
            events.push(ObjectEvent::ListEnd(kind));
        }
        events.push(ObjectEvent::Synced);
        events
    }
}
