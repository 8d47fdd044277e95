//! When a flow stays with its endpoint and when it chooses again.

use std::vec::Vec;

use dataplane_common::{
    Config, Endpoint, EndpointId, Frontend, FrontendKey, Live, Reason, SCTP, Slots, TCP,
};

use super::*;
use crate::{
    Scope, Verdict, egress,
    host::{Frame, HostTables},
    ingress,
    samples::Sample,
    wire::sctp,
};

const SERVICE: [u8; 4] = [10, 96, 0, 1];
const CLIENT: [u8; 4] = [10, 244, 0, 9];
/// SCTP's chunks that neither begin nor end an association: DATA, INIT ACK, SACK, HEARTBEAT, SHUTDOWN.
const INSIDE: [u8; 5] = [0, 2, 3, 4, 7];

/// A service with two endpoints on every protocol.
struct World {
    tables: HostTables,
    protocol: u8,
}

impl World {
    fn new(protocol: u8) -> Self {
        let config = Config {
            source_port_min: 40_000,
            source_port_count: 100,
            node_port_min: 30_000,
            node_port_max: 32_767,
            ..Config::default()
        };
        let mut tables = HostTables { config: Some(config), now: 5, ..HostTables::default() };
        tables.open_gate(&SERVICE);
        let slots = Slots { base: 0, count: 2 };
        let frontend = Frontend { inside: slots, outside: slots, ..Frontend::default() };
        tables.v4.frontends.insert(FrontendKey::new(SERVICE, 80, protocol), frontend);
        for index in 0..2u8 {
            let id = EndpointId::new(u32::from(index) + 1, 1);
            let endpoint = Endpoint::new([10, 244, 0, index + 1], 8080, 0, id);
            tables.v4.endpoints.insert(index.into(), endpoint);
            tables.live.insert(id.index(), Live { id: id.to_bits(), views: Live::CLUSTER });
        }
        tables.v4.endpoints_max = 2;
        tables.v4.flows_max = 100;
        Self { tables, protocol }
    }

    fn sample(&self, tuple: Tuple<4>, sign: u8) -> Frame {
        let mut sample = Sample::new(self.protocol, &[]);
        (sample.tuple, sample.tcp_flags) = (tuple, sign);
        if self.protocol == SCTP {
            sample.payload =
                Vec::from([sign, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 3]);
        }
        Frame(sample.build())
    }

    /// The client sends a packet: TCP's flags or an SCTP chunk. Says how it ended.
    fn send(&mut self, sign: u8) -> Reason {
        let tuple = Tuple {
            src: CLIENT,
            dst: SERVICE,
            src_port: 50_000u16.to_be_bytes(),
            dst_port: 80u16.to_be_bytes(),
        };
        let verdict = ingress(&mut self.sample(tuple, sign), &mut self.tables, Scope::Inside);
        verdict.reason()
    }

    /// The endpoint of the flow answers.
    fn answer(&mut self, sign: u8) {
        let tuple = self.flow().to.reversed();
        let verdict = egress(&mut self.sample(tuple, sign), &mut self.tables);
        assert_eq!(verdict, Verdict::Deliver(Reason::Reply));
    }

    /// The forward direction of the only flow.
    fn flow(&self) -> Flow<4> {
        let mut flows = self.tables.v4.flows.iter().filter(|(key, _)| !key.is_reply());
        let (_, flow) = flows.next().unwrap();
        assert_eq!(flows.next(), None);
        *flow
    }

    /// The flow's endpoint leaves.
    fn leave(&mut self) {
        let id = EndpointId::from_bits(self.flow().endpoint);
        self.tables.live.insert(id.index(), Live::default());
        // The block's other slot gets the endpoint that stays.
        let stays = self.tables.v4.endpoints.values().find(|endpoint| endpoint.id() != id);
        let stays = *stays.unwrap();
        self.tables.v4.endpoints = [(0, stays), (1, stays)].into();
    }
}

#[test]
fn a_flow_that_begins_again_leaves_alone_who_has_its_source_port_since() {
    let mut world = World::new(TCP);
    let frontend = world.tables.v4.frontends[&FrontendKey::new(SERVICE, 80, TCP)];
    world.tables.v4.frontends.insert(FrontendKey::new(SERVICE, 81, TCP), frontend);
    let only = world.tables.v4.endpoints[&0];
    world.tables.v4.endpoints = [(0, only), (1, only)].into();
    let question = |port: u16| Tuple {
        src: CLIENT,
        dst: SERVICE,
        src_port: 50_000u16.to_be_bytes(),
        dst_port: port.to_be_bytes(),
    };
    let send = |world: &mut World, port: u16, flags: u8| {
        let mut frame = world.sample(question(port), flags);
        let reason = ingress(&mut frame, &mut world.tables, Scope::Inside).reason();
        let key = FlowKey::forward(question(port), TCP);
        (reason, world.tables.v4.flows[&key].to)
    };
    // The first ends, and the second takes the source port that it had.
    let (_, first) = send(&mut world, 80, tcp::SYN);
    send(&mut world, 80, tcp::FIN | tcp::ACK);
    world.answer(tcp::FIN | tcp::ACK);
    let (reason, second) = send(&mut world, 81, tcp::SYN);
    assert_eq!((reason, second), (Reason::New, first));
    // What the first still sends says nothing about the second.
    send(&mut world, 80, tcp::RST);
    assert!(!Flow::<4>::is_closed(
        world.tables.v4.flows[&FlowKey::reply(second.reversed(), TCP)].flags
    ));
    // It begins again: with another source port, and the second is answered as before.
    let (reason, again) = send(&mut world, 80, tcp::SYN);
    assert_eq!(reason, Reason::Reselected);
    assert_ne!(again.src_port, second.src_port);
    let mut answer = world.sample(second.reversed(), tcp::ACK);
    assert_eq!(egress(&mut answer, &mut world.tables), Verdict::Deliver(Reason::Reply));
    assert_eq!(answer.0[34..36], 81u16.to_be_bytes());
}

#[test]
fn an_association_stays_with_its_endpoint_until_it_ends() {
    let mut world = World::new(SCTP);
    assert_eq!(world.send(sctp::INIT), Reason::New);
    let before = world.flow().endpoint;
    world.leave();
    for chunk in INSIDE {
        assert_eq!(world.send(chunk), Reason::Established);
        world.answer(chunk);
    }
    assert_eq!(world.flow().endpoint, before);
    assert!(!Flow::<4>::is_closed(world.flow().flags));
}

#[test]
fn an_init_to_an_endpoint_that_left_chooses_again() {
    let mut world = World::new(SCTP);
    assert_eq!(world.send(sctp::INIT), Reason::New);
    let before = world.flow().endpoint;
    assert_eq!(world.send(sctp::INIT), Reason::Established, "sent again");
    world.leave();
    assert_eq!(world.send(sctp::INIT), Reason::Reselected);
    assert_ne!(world.flow().endpoint, before);
}

#[test]
fn an_init_after_the_end_of_an_association_begins_another() {
    for (end, by_client) in [
        (sctp::ABORT, true),
        (sctp::ABORT, false),
        (sctp::SHUTDOWN_COMPLETE, true),
        (sctp::SHUTDOWN_COMPLETE, false),
    ] {
        let mut world = World::new(SCTP);
        world.send(sctp::INIT);
        world.answer(2);
        if by_client {
            assert_eq!(world.send(end), Reason::Established);
        } else {
            world.answer(end);
        }
        assert!(Flow::<4>::is_closed(world.flow().flags), "chunk {end}");
        assert_eq!(world.send(0), Reason::Established, "what is still under way is delivered");
        assert_eq!(world.send(sctp::INIT), Reason::Reselected);
        assert!(!Flow::<4>::is_closed(world.flow().flags));
    }
}

#[test]
fn a_connection_stays_with_its_endpoint_until_it_ends() {
    let mut world = World::new(TCP);
    assert_eq!(world.send(tcp::SYN), Reason::New);
    world.leave();
    assert_eq!(world.send(tcp::ACK), Reason::Established);
    assert_eq!(world.send(tcp::FIN | tcp::ACK), Reason::Established);
    assert!(!Flow::<4>::is_closed(world.flow().flags), "one side may go on");
    world.answer(tcp::FIN | tcp::ACK);
    assert!(Flow::<4>::is_closed(world.flow().flags));
    assert_eq!(world.send(tcp::ACK), Reason::Established);
    assert_eq!(world.send(tcp::SYN), Reason::Reselected);
}

#[test]
fn datagrams_choose_again_as_soon_as_their_endpoint_left() {
    let mut world = World::new(UDP);
    assert_eq!(world.send(0), Reason::New);
    assert_eq!(world.send(0), Reason::Established);
    let before = world.flow().endpoint;
    world.leave();
    assert_eq!(world.send(0), Reason::Reselected);
    assert_ne!(world.flow().endpoint, before);
}
