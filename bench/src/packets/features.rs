//! Paths that only some services take: session affinity, source ranges, the local view, UDP.

use dataplane_common::{
    Affinity, AffinityKey, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Hook, Link,
    Reason, SourceKey, TCP, UDP,
};
use dataplane_ebpf::{
    address::Ip,
    host::{Family, HostTables},
};

use super::world::{ACK, Block, CHAIN, Case, FEW, MANY, PLAIN, SYN, client};
use crate::frame::Spec;

/// Chains of frontends, each with a feature.
const AFFINITY: u8 = 100;
const KNOWN: u8 = 101;
const RANGES: u8 = 102;
const LOCAL: u8 = 103;
const CHAINS: [u8; 4] = [AFFINITY, KNOWN, RANGES, LOCAL];
/// Kubernetes' default timeout.
const AFFINITY_S: u32 = 10_800;
/// Source ranges of each service port.
const RANGES_PER_SERVICE: u8 = 4;

/// Rows of one family, in this order: the first flow of a client to a service port with affinity (an
/// entry is made), a later one (it is found), a first packet that passes source ranges, one in the
/// local view, and known flows of UDP in the cluster-wide and in the local view.
pub(super) fn cases<const N: usize>(rows: [&'static str; 6]) -> Vec<Case>
where
    Family<N>: Block<N>,
{
    let pod = Hook::PodIngress;
    let [new_affinity, again_affinity, new_ranges, new_local, udp, udp_local] = rows;
    let first = |name, chain| {
        let tuple = client(Family::<N>::addr(chain, 0), 80);
        let frame = Spec::new(tuple, TCP, SYN).build();
        let counts = Some((pod, Reason::New));
        Case { name, program: pod.name(), frame, repeat: FEW, counts, features: true }
    };
    let known = |name, number| {
        let tuple = client(Family::<N>::addr(PLAIN, number), 80);
        let frame = Spec::new(tuple, UDP, ACK).build();
        let counts = Some((pod, Reason::Established));
        Case { name, program: pod.name(), frame, repeat: MANY, counts, features: true }
    };
    vec![
        first(new_affinity, AFFINITY),
        first(again_affinity, KNOWN),
        first(new_ranges, RANGES),
        first(new_local, LOCAL),
        known(udp, 5),
        known(udp_local, 7),
    ]
}

/// What the rows of one family need. Every frontend is of a service port of its own: otherwise a
/// client would stay with the endpoint before.
pub(super) fn fill<const N: usize>(
    tables: &mut HostTables,
    family: fn(&mut HostTables) -> &mut Family<N>,
    id: EndpointId,
    link: Link,
) where
    Family<N>: Block<N>,
    [u8; N]: Ip,
{
    let addr = Family::<N>::addr;
    let from = client(addr(0, 0), 0).src;
    for chain in CHAINS {
        for number in 0..CHAIN {
            let service = u32::from(chain) * 256 + u32::from(number);
            let endpoint =
                Endpoint::new(addr(chain, number + 1), 80 + u16::from(number) + 1, 0, id);
            let to = family(tables);
            to.endpoints.insert(service, endpoint);
            let key = FrontendKey::new(addr(chain, number), 80 + u16::from(number), TCP);
            to.frontends.insert(key, frontend(chain, service));
            if chain == RANGES {
                let ranges = (1..RANGES_PER_SERVICE).map(|block| addr(block, 0));
                let ranges = ranges.chain([from]).map(|addr| SourceKey::range(service, addr, 24));
                to.sources.extend(ranges);
            }
            if chain == KNOWN {
                let key = AffinityKey::of_address(service, from.widened());
                tables.affinity.insert(key, last(&endpoint));
            }
            tables.open_gate(&addr(chain, number));
        }
        tables.open_gate(&addr(chain, CHAIN));
    }
    for (first, second, flags) in [(5, 6, Flow::<N>::CLUSTER), (7, 8, Flow::<N>::LOCAL)] {
        let ends = [client(addr(PLAIN, first), 80), client(addr(PLAIN, second), 8080)];
        for (at, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let endpoint = id.to_bits();
            let flow = Flow { to, endpoint, seen: 0, service: 1, flags, link, link_seen: 0 };
            family(tables).flows.insert(FlowKey::forward(at, UDP), flow);
        }
    }
}

fn frontend(chain: u8, service: u32) -> Frontend {
    let (flags, affinity_s) = match chain {
        AFFINITY | KNOWN => (Frontend::AFFINITY, AFFINITY_S),
        RANGES => (Frontend::SOURCE_RANGES, 0),
        _ => (Frontend::LOCAL_INSIDE | Frontend::LOCAL_OUTSIDE, 0),
    };
    let slots = dataplane_common::Slots { base: service, count: 1 };
    Frontend { inside: slots, outside: slots, flags, service, affinity_s, pad: 0 }
}

/// That the client had this endpoint; when, is filled in before each measurement.
fn last<const N: usize>(endpoint: &Endpoint<N>) -> Affinity
where
    [u8; N]: Ip,
{
    Affinity {
        last_ns: 0,
        addr: endpoint.addr().widened(),
        port: endpoint.port().to_be_bytes(),
        flags: endpoint.flags(),
        endpoint: endpoint.id().to_bits(),
    }
}
