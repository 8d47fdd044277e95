//! What happens to flows when the table takes none.

use std::vec::Vec;

use dataplane_common::{Reason, TCP, Tuple, UDP};

use crate::{
    errors::tests::world::{self, CLIENT, ENDPOINT, NODE, SERVICE},
    host::{Frame, HostTables},
    pipeline::{Verdict, egress, ingress},
    samples::Sample,
    select::Scope,
};

fn sample(protocol: u8, [src, dst]: [u8; 2], ports: [u16; 2]) -> Sample<4> {
    let [src_port, dst_port] = ports.map(u16::to_be_bytes);
    let tuple = Tuple { src: [10, 0, 0, src], dst: [10, 0, 0, dst], src_port, dst_port };
    Sample { tuple, ..Sample::new(protocol, &[1, 2, 3, 4]) }
}

fn arrive(tables: &mut HostTables, sample: &Sample<4>) -> (Verdict, Vec<u8>) {
    let mut frame = Frame(sample.build());
    (ingress(&mut frame, tables, Scope::Outside), frame.0)
}

fn with_room_for(flows_max: usize) -> HostTables {
    let mut tables = world::tables();
    tables.v4.flows_max = flows_max;
    tables
}

#[test]
fn with_room_for_one_direction_a_flow_goes_on_and_its_answers_come_back() {
    for protocol in [TCP, UDP] {
        let mut tables = with_room_for(1);
        let question = sample(protocol, [CLIENT, SERVICE], [1000, 80]);
        for _ in 0..3 {
            let (verdict, frame) = arrive(&mut tables, &question);
            assert_eq!(verdict, Verdict::Deliver(Reason::Stateless));
            assert_eq!(frame[30..34], [10, 0, 0, ENDPOINT]);
            let mut answer = Frame(sample(protocol, [ENDPOINT, CLIENT], [8080, 1000]).build());
            assert_eq!(egress(&mut answer, &mut tables), Verdict::Deliver(Reason::Reply));
            assert_eq!(answer.0[26..30], [10, 0, 0, SERVICE]);
        }
        // Once there is room, it is a flow like any other.
        tables.v4.flows_max = 2;
        assert_eq!(arrive(&mut tables, &question).0.reason(), Reason::New);
        assert_eq!(arrive(&mut tables, &question).0.reason(), Reason::Established);
    }
}

#[test]
fn with_room_for_one_direction_a_masqueraded_flow_keeps_its_source_port() {
    let mut tables = with_room_for(1);
    let question = sample(UDP, [CLIENT, NODE], [1000, 30_080]);
    let (first, frame) = arrive(&mut tables, &question);
    assert_eq!(first.reason(), Reason::Stateless);
    assert_eq!(arrive(&mut tables, &question), (first, frame));
}

#[test]
fn without_any_room_only_datagrams_that_need_no_claim_pass() {
    let mut tables = with_room_for(0);
    let (verdict, frame) = arrive(&mut tables, &sample(UDP, [CLIENT, SERVICE], [1000, 80]));
    assert_eq!(verdict, Verdict::Deliver(Reason::Stateless));
    assert_eq!(frame[30..34], [10, 0, 0, ENDPOINT]);
    for dropped in [
        sample(TCP, [CLIENT, SERVICE], [1000, 80]),
        sample(TCP, [CLIENT, NODE], [1000, 30_080]),
        sample(UDP, [CLIENT, NODE], [1000, 30_080]),
    ] {
        assert_eq!(arrive(&mut tables, &dropped).0, Verdict::Drop(Reason::FlowTable));
    }
}
