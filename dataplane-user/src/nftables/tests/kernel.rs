//! Our tables in a real kernel.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::{
    model::Family,
    nftables::{
        batch::Batch,
        layout::Layout,
        object::Table,
        socket::Netfilter,
        treatment::{Pick, Place, Treatment},
    },
};

/// Runs in a thread with a network namespace of its own; `None`, aloud, where that is not allowed.
pub(crate) fn in_namespace<T: Send>(test: &str, run: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                {
                    println!("SKIP {test}: no network namespace: {error}");
                }
                return None;
            }
            Some(run())
        });
        thread.join().unwrap()
    })
}

#[test]
fn the_kernel_takes_every_chain_and_gives_it_back() {
    in_namespace("the_kernel_takes_every_chain_and_gives_it_back", || {
        let mut kernel = Netfilter::open().unwrap();
        for family in [Family::V4, Family::V6] {
            let layout = Layout { family, masquerade_bit: 0x4000 };
            let table = Table { family, name: "hashplane".to_owned() };
            let mut batch = Batch::new();
            batch.add_table(&table);
            for set in layout.sets() {
                batch.add_set(&table, &set);
            }
            let mut chains = layout.chains();
            for chain in &chains {
                batch.add_chain_with_rules(&table, chain);
            }
            for place in [Place::Address, Place::Node] {
                for (is_local, masquerades) in [(false, true), (true, false)] {
                    for affinity_s in [0, 90] {
                        let pick = Pick { among: 3, is_local, masquerades, affinity_s };
                        chains.push(layout.pick(place, Treatment::Pick(pick)).unwrap());
                        batch.add_chain_with_rules(&table, chains.last().unwrap());
                    }
                }
            }
            kernel.commit(&batch).unwrap();
            let seen = kernel.chains(&table).unwrap();
            assert_eq!(seen.len(), chains.len());
            for chain in &chains {
                let rules: Vec<Vec<_>> = chain
                    .rules
                    .iter()
                    .map(|rule| rule.iter().cloned().map(Some).collect())
                    .collect();
                assert_eq!(seen[&*chain.name].rules, rules, "{}", chain.name);
            }
            let sets = kernel.sets(&table).unwrap();
            for set in layout.sets() {
                assert!(sets[&*set.name].is(&set), "{set:?} {sets:?}");
            }
        }
        let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout);
        println!("{text}\n{}", String::from_utf8_lossy(&listed.stderr));
        assert!(listed.status.success(), "{:?}", listed.status);
    });
}
