//! From edits to one transaction: make before break.

use super::{
    batch::Batch,
    edits::{Edit, Edits, SetId},
    expression::Verdict,
    half::Half,
    image::wanted_verdict,
    object::{Element, Held, Table},
};
use crate::backend::Applied;

/// Writes a table as a whole, in the place of one that may be there.
pub(super) fn replace<const N: usize>(batch: &mut Batch, table: &Table, half: &Half<N>) -> Applied {
    // Deleting is an error when nothing is there.
    batch.add_table(table);
    batch.delete_table(table);
    batch.add_table(table);
    let sets = half.layout.sets();
    for set in &sets {
        batch.add_set(table, set);
    }
    // Rules lead to chains in any order.
    for chain in half.chains.values() {
        batch.add_chain(table, chain);
    }
    for chain in half.chains.values() {
        for rule in &chain.rules {
            batch.add_rule(table, &chain.name, rule);
        }
    }
    let mut applied = Applied { written: half.chains.len(), deleted: 0 };
    for id in SetId::ALL {
        applied.written += write_all(batch, table, half, id);
    }
    applied
}

fn write_all<const N: usize>(batch: &mut Batch, table: &Table, half: &Half<N>, id: SetId) -> usize {
    let mut flat: Vec<u8> = Vec::new();
    let (mut key_len, mut len, mut count) = (0, 0, 0);
    half.for_each(id, |key, value| {
        flat.extend_from_slice(key);
        flat.extend_from_slice(value);
        (key_len, len) = (key.len(), key.len() + value.len());
        count += 1;
    });
    if count == 0 {
        return 0;
    }
    let elements = flat.chunks_exact(len).map(|element| element.split_at(key_len));
    add(batch, table, id, elements.map(|(key, value)| (key, Some(value))));
    count
}

/// Writes what differs.
pub(super) fn edit<const N: usize>(
    batch: &mut Batch,
    table: &Table,
    half: &Half<N>,
    edits: &Edits,
) -> Applied {
    let mut applied = Applied::default();
    for name in edits.chains.iter().filter(|(_, (_, after))| *after).map(|(name, _)| name) {
        if let Some(chain) = half.chains.get(name) {
            batch.add_chain_with_rules(table, chain);
            applied.written += 1;
        }
    }
    // The kernel refuses a range that overlaps with one that has not gone yet.
    delete(batch, table, edits, SetId::SourceRanges, |edit| edit.before.is_some());
    for id in SetId::ALL {
        let all = |edit: &Edit| edit.before.is_some();
        let replaced = |edit: &Edit| edit.before.is_some() && edit.after.is_some();
        if id != SetId::SourceRanges {
            if id.leads() {
                delete(batch, table, edits, id, all);
            } else {
                delete(batch, table, edits, id, replaced);
            }
        }
        let coming = of(edits, id).filter(|(_, edit)| edit.after.is_some());
        add(batch, table, id, coming.map(|(key, edit)| (key, edit.after.as_deref())));
    }
    for id in SetId::ALL.into_iter().filter(|id| !id.leads() && *id != SetId::SourceRanges) {
        delete(batch, table, edits, id, |edit| edit.after.is_none());
    }
    for (name, (before, after)) in &edits.chains {
        if *before && !after {
            batch.delete_chain(table, name);
            applied.deleted += 1;
        }
    }
    for edit in edits.elements.values() {
        applied.written += usize::from(edit.after.is_some());
        applied.deleted += usize::from(edit.after.is_none());
    }
    applied
}

fn of(edits: &Edits, id: SetId) -> impl Iterator<Item = (&[u8], &Edit)> {
    let range = edits.elements.range((id, Vec::new())..);
    range.take_while(move |((set, _), _)| *set == id).map(|((_, key), edit)| (key.as_slice(), edit))
}

fn delete(
    batch: &mut Batch,
    table: &Table,
    edits: &Edits,
    id: SetId,
    which: impl Fn(&Edit) -> bool,
) {
    let going = of(edits, id).filter(|(_, edit)| which(edit));
    let elements = going.map(|(key, _)| element(id, key, Held::Nothing));
    batch.delete_elements(table, &id.name().into(), elements);
}

/// Elements with what they hold; for verdicts that follows from their keys.
fn add<'a>(
    batch: &mut Batch,
    table: &Table,
    id: SetId,
    elements: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) {
    let name = id.name().into();
    if matches!(id, SetId::Plans | SetId::NodePlans) {
        let elements: Vec<(&[u8], Verdict)> =
            elements.filter_map(|(key, _)| Some((key, wanted_verdict(id, key)?))).collect();
        let elements = elements.iter().map(|(key, to)| element(id, key, Held::Verdict(to)));
        batch.add_elements(table, &name, elements);
        return;
    }
    let held = |value: Option<&'a [u8]>| match value {
        Some([]) | None => Held::Nothing,
        Some(data) => Held::Data(data),
    };
    batch.add_elements(table, &name, elements.map(|(key, value)| element(id, key, held(value))));
}

fn element<'a>(id: SetId, key: &'a [u8], held: Held<'a>) -> Element<'a> {
    if id == SetId::SourceRanges {
        let (first, last) = key.split_at(key.len() / 2);
        return Element { key: first, until: Some(last), held };
    }
    Element { key, until: None, held }
}
