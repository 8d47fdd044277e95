//! Every history of a table ends in the program of its last state, and that does what the table means.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use crate::{
    iptables::{
        MASQUERADE_MARK, Program,
        names::Chain,
        rule::{Match, Target},
        simulate::simulate,
    },
    model::{
        Family, Outcome, route,
        tests::generate::{Step, World, packets, step},
    },
    simulate::{Simulated, node},
};

/// A program that follows a table step by step.
pub(super) fn follow(world: &mut World, steps: &[Step]) -> Program {
    let mut program = Program::new("default", MASQUERADE_MARK);
    program.set_node(&node(world.table.node(), &["veth1", "veth2"]));
    for step in steps {
        let before = node(world.table.node(), &["veth1", "veth2"]);
        world.tell(step);
        let now = node(world.table.node(), &["veth1", "veth2"]);
        if now != before {
            program.set_node(&now);
        }
        for key in world.table.take_changed() {
            program.change(&key, world.table.port(&key).as_ref());
        }
    }
    program
}

/// The program of a table.
pub(super) fn whole(world: &World) -> Program {
    let mut program = Program::new("default", MASQUERADE_MARK);
    program.set_node(&node(world.table.node(), &["veth1", "veth2"]));
    program.compile(&world.table);
    program
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_program_does_what_its_table_means(steps in vec(step(), 1..40)) {
        let mut world = World::new();
        let program = follow(&mut world, &steps);
        for packet in packets().iter().filter(|packet| program.cannot(packet).is_none()) {
            let wanted = Outcome::of(route(&world.table, packet), packet);
            prop_assert_eq!(simulate(&program, packet), wanted, "{:?}", packet);
        }
    }

    #[test]
    fn every_way_to_a_table_ends_in_the_same_program(steps in vec(step(), 1..40)) {
        let mut world = World::new();
        let program = follow(&mut world, &steps);
        let whole = whole(&world);
        for family in [Family::V4, Family::V6] {
            prop_assert_eq!(&program.half(family).chains, &whole.half(family).chains);
        }
        prop_assert_eq!(program.contested(), 0);
    }

    #[test]
    fn every_chain_is_used_every_jump_ends_somewhere_and_every_draw_is_fair(
        steps in vec(step(), 1..40),
    ) {
        let mut world = World::new();
        let program = follow(&mut world, &steps);
        for family in [Family::V4, Family::V6] {
            let chains = &program.half(family).chains;
            let mut used: BTreeSet<_> = program.fixed.hooks().iter().map(|hook| {
                (hook.table, target(&hook.rule.target).unwrap().clone())
            }).collect();
            for ((table, _), rules) in chains {
                let targets = rules.iter().filter_map(|rule| target(&rule.target));
                used.extend(targets.map(|to| (*table, to.clone())));
                let draws: Vec<u32> = rules.iter().flat_map(|rule| &rule.matches).filter_map(|of| {
                    if let Match::Random(of) = of { Some(*of) } else { None }
                }).collect();
                for (at, draw) in draws.iter().enumerate() {
                    let left = f64::from(u32::try_from(draws.len() + 1 - at).unwrap());
                    prop_assert!((f64::from(*draw) * left / f64::from(1u32 << 31) - 1.0).abs() < 1e-6);
                }
            }
            for place in &used {
                prop_assert!(chains.contains_key(place), "{place:?} is nowhere");
            }
            let shared = ["MARK-MASQ", "MARK-PODS", "MARK-OUTSIDE", "REJECT", "NODEPORTS"];
            for place in chains.keys().filter(|(_, chain)| {
                !shared.iter().any(|name| chain.as_str().ends_with(name))
            }) {
                prop_assert!(used.contains(place), "nobody goes to {place:?}");
            }
        }
    }
}

fn target(target: &Target) -> Option<&Chain> {
    match target {
        Target::Jump(chain) | Target::Goto(chain) => Some(chain),
        Target::Return
        | Target::Accept
        | Target::Drop
        | Target::Reject(_)
        | Target::Dnat(_)
        | Target::SetMark(_)
        | Target::ClearMark(_)
        | Target::Masquerade => None,
    }
}
