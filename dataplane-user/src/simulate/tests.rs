//! One property: whatever happened to a table, every backend does with packets what the table means.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{Simulated, every_backend, node};
use crate::{
    backend::{Limit, Mode, Node},
    limits,
    model::{
        Cidr, NodeIdentity, Outcome, Packet, Scope, ServiceTable, route,
        tests::generate::{self, Step, World, packets, step},
    },
};

/// Something that happens to the node.
#[derive(Clone, Debug)]
enum Event {
    /// An object or an address of the node changes.
    Table(Step),
    /// Pods come or go: these links are there now.
    PodLinks(Vec<&'static str>),
    /// A process starts again, or one backend takes over from another: everything is compiled.
    Compile,
}

fn event() -> impl Strategy<Value = Event> {
    // A packet of a pod has arrived by some link, so that there always is one.
    let links = select(vec![vec!["hp1"], vec!["hp2"], vec!["hp1", "hp2"]]);
    prop_oneof![
        12 => step().prop_map(Event::Table),
        1 => links.prop_map(Event::PodLinks),
        1 => Just(Event::Compile),
    ]
}

/// Nodes whose node ports are on all addresses, on some, and on some but not on loopback. Blocks name
/// both families: about loopback there is one answer for both of them.
fn identity() -> impl Strategy<Value = NodeIdentity> {
    let blocks = select(vec![
        vec![],
        vec!["192.0.2.10/32", "2001:db8::10/128"],
        vec!["192.0.2.11/32", "127.0.0.0/8", "2001:db8::/64", "::1/128"],
        vec!["198.51.100.0/24", "2001:db8:1::/48"],
    ]);
    blocks.prop_map(|blocks| {
        let blocks = blocks.into_iter().map(|block| Cidr::parse(block).unwrap());
        NodeIdentity { node_port_addresses: blocks.collect(), ..generate::node() }
    })
}

/// A table, and a program of each backend that follows it.
struct Followed {
    world: World,
    pod_links: Vec<&'static str>,
    programs: Vec<Box<dyn Simulated>>,
}

impl Followed {
    fn new(identity: NodeIdentity) -> Self {
        let world = World::of(identity);
        let mut followed = Self { world, pod_links: vec!["hp1"], programs: every_backend() };
        let node = followed.node();
        for program in &mut followed.programs {
            program.set_node(&node);
            program.compile(&followed.world.table);
        }
        followed
    }

    fn node(&self) -> Node {
        node(self.world.table.node(), &self.pod_links)
    }

    /// Tells everybody what happens, in the words and the order of the loop.
    fn tell(&mut self, event: &Event) {
        let before = self.node();
        match event {
            Event::Table(step) => self.world.tell(step),
            Event::PodLinks(links) => self.pod_links.clone_from(links),
            Event::Compile => {}
        }
        let (node, changed) = (self.node(), self.world.table.take_changed());
        let table = &self.world.table;
        for program in &mut self.programs {
            if node != before {
                program.set_node(&node);
            }
            if matches!(event, Event::Compile) {
                program.compile(table);
            }
            for key in &changed {
                program.change(key, table.port(key).as_ref());
            }
        }
    }
}

/// Every packet, or every so many of them, must be where the table wants it.
fn check(
    table: &ServiceTable,
    program: &dyn Simulated,
    packets: impl Iterator<Item = Packet>,
    when: &str,
) -> Result<(), TestCaseError> {
    for packet in packets {
        if program.cannot(&packet).is_some() {
            continue;
        }
        let wanted = Outcome::of(route(table, &packet), &packet);
        let seen = program.simulate(&packet);
        prop_assert_eq!(seen, wanted, "{} {}: {:?}", program.mode(), when, packet);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_backend_does_with_packets_what_the_table_means(
        identity in identity(),
        events in vec(event(), 1..40),
    ) {
        /// So many turns look at every packet once.
        const TURNS: usize = 29;
        let mut followed = Followed::new(identity);
        let packets = packets();
        for (turn, event) in events.iter().enumerate() {
            followed.tell(event);
            for program in &followed.programs {
                let some = packets.iter().copied().skip(turn % TURNS).step_by(TURNS);
                check(&followed.world.table, &**program, some, &format!("after event {turn}"))?;
            }
        }
        let (table, node) = (&followed.world.table, followed.node());
        for (followed, mut whole) in followed.programs.iter().zip(every_backend()) {
            whole.set_node(&node);
            whole.compile(table);
            check(table, &**followed, packets.iter().copied(), "after all events")?;
            check(table, &*whole, packets.iter().copied(), "as a whole")?;
        }
    }
}

/// The property says nothing about packets that a backend declares impossible: only loopback is.
#[test]
fn what_a_backend_declares_impossible_is_one_of_its_limits() {
    for program in every_backend() {
        for packet in packets() {
            let is_loopback = packet.destination.is_loopback() && packet.scope == Scope::Host;
            let may = match program.mode() {
                Mode::Ebpf => false,
                Mode::Nftables | Mode::Iptables => is_loopback && packet.destination.is_ipv6(),
                Mode::Ipvs => is_loopback,
            };
            if let Some(said) = program.cannot(&packet) {
                let is_it = |limit: &Limit| limit.feature == said || limit.why == said;
                let is_limit = limits::of(program.mode()).iter().any(is_it);
                assert!(may && is_limit, "{}: {packet:?}: {said}", program.mode());
            }
        }
    }
}
