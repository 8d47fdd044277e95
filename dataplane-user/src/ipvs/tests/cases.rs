//! What a table asks of IPVS, case by case.

use super::*;

fn server(system: &FakeSystem, key: ServerKey) -> Vec<(String, u32)> {
    let found = system.servers.get(&key);
    let all = found.and_then(|it| it.destinations.clone()).unwrap_or_default();
    all.iter().map(|(to, it)| (to.to_string(), it.weight)).collect()
}

const WEB: fn() -> ServerKey = || ServerKey::Address(at("10.96.0.1", 80));

fn connect(ipvs: &mut Ipvs<FakeSystem>, key: ServerKey, to: &str, connections: u32) {
    let server = ipvs.system_mut().servers.get_mut(&key).unwrap();
    let all = server.destinations.get_or_insert_default();
    let to: SocketAddr = to.parse().unwrap();
    all.insert(to, SeenDestination { connections, ..all[&to] });
}

#[test]
fn an_endpoint_that_leaves_keeps_its_connections_and_gets_no_new_ones() {
    let mut ipvs = sound();
    ipvs.change(&key("web"), Some(&web(&["10.1.0.1", "10.1.0.2"])));
    ipvs.apply(0).unwrap();
    connect(&mut ipvs, WEB(), "10.1.0.1:8080", 3);
    ipvs.change(&key("web"), Some(&web(&["10.1.0.2"])));
    ipvs.apply(0).unwrap();
    let both = [("10.1.0.1:8080".to_owned(), 0), ("10.1.0.2:8080".to_owned(), 1)];
    assert_eq!(server(ipvs.system_mut(), WEB()), both);
    ipvs.upkeep().unwrap();
    ipvs.apply(0).unwrap();
    assert_eq!(server(ipvs.system_mut(), WEB()), both, "a connection is left");
    connect(&mut ipvs, WEB(), "10.1.0.1:8080", 0);
    ipvs.upkeep().unwrap();
    ipvs.apply(0).unwrap();
    assert_eq!(server(ipvs.system_mut(), WEB()), both[1..]);
    let departed = ipvs.take_departed();
    assert_eq!((departed.len(), departed[0].address), (1, ip("10.1.0.1")));
}

#[test]
fn an_endpoint_that_comes_back_while_it_leaves_takes_new_connections_again() {
    let mut ipvs = sound();
    ipvs.change(&key("web"), Some(&web(&["10.1.0.1", "10.1.0.2"])));
    ipvs.apply(0).unwrap();
    connect(&mut ipvs, WEB(), "10.1.0.1:8080", 1);
    ipvs.change(&key("web"), Some(&web(&["10.1.0.2"])));
    ipvs.apply(0).unwrap();
    ipvs.change(&key("web"), Some(&web(&["10.1.0.1", "10.1.0.2"])));
    ipvs.apply(0).unwrap();
    let both = [("10.1.0.1:8080".to_owned(), 1), ("10.1.0.2:8080".to_owned(), 1)];
    assert_eq!(server(ipvs.system_mut(), WEB()), both);
}

#[test]
fn a_deleted_service_keeps_its_address_until_the_last_connection_ends() {
    let mut ipvs = sound();
    ipvs.change(&key("web"), Some(&web(&["10.1.0.1"])));
    ipvs.apply(0).unwrap();
    connect(&mut ipvs, WEB(), "10.1.0.1:8080", 1);
    ipvs.change(&key("web"), None);
    ipvs.apply(0).unwrap();
    let closed = Element::Closed(ip("10.96.0.1"));
    let system = ipvs.system_mut();
    assert!(system.addresses.contains(&ip("10.96.0.1")));
    assert_eq!(system.tables[&Family::V4].get(&closed), Some(&Held::Nothing));
    connect(&mut ipvs, WEB(), "10.1.0.1:8080", 0);
    ipvs.upkeep().unwrap();
    ipvs.apply(0).unwrap();
    let system = ipvs.system_mut();
    assert!(system.addresses.is_empty() && system.servers.is_empty());
    assert!(!system.tables[&Family::V4].contains_key(&closed));
    assert_eq!(ipvs.pending(), 0);
}

#[test]
fn udp_leaves_at_once() {
    let udp = |endpoints: &[&str]| {
        let mut state = web(endpoints);
        state.frontends[0].protocol = Protocol::Udp;
        state
    };
    let at = ServerKey::Address(Virtual { protocol: Protocol::Udp, ..at("10.96.0.1", 80) });
    let mut ipvs = sound();
    ipvs.change(&key("dns"), Some(&udp(&["10.1.0.1", "10.1.0.2"])));
    ipvs.apply(0).unwrap();
    connect(&mut ipvs, at, "10.1.0.1:8080", 9);
    ipvs.change(&key("dns"), Some(&udp(&["10.1.0.2"])));
    ipvs.apply(0).unwrap();
    assert_eq!(server(ipvs.system_mut(), at), [("10.1.0.2:8080".to_owned(), 1)]);
    ipvs.change(&key("dns"), None);
    ipvs.apply(0).unwrap();
    assert!(ipvs.system_mut().servers.is_empty());
}

#[test]
fn servers_come_before_elements_and_those_before_addresses_and_back() {
    let mut ipvs = sound();
    ipvs.apply(0).unwrap();
    ipvs.system_mut().log.clear();
    ipvs.change(&key("web"), Some(&web(&["10.1.0.1"])));
    ipvs.apply(0).unwrap();
    let order = |log: &[String]| -> Vec<String> {
        let first = |line: &String| line.split([' ', '(', '{']).next().unwrap_or("").to_owned();
        log.iter().map(first).collect()
    };
    let log = std::mem::take(&mut ipvs.system_mut().log);
    assert_eq!(order(&log), ["Server", "Destination", "table", "address"]);
    ipvs.change(&key("web"), None);
    ipvs.apply(0).unwrap();
    let log = std::mem::take(&mut ipvs.system_mut().log);
    let wanted = ["table", "Destination", "NoDestination", "NoServer", "address", "table"];
    assert_eq!(order(&log), wanted);
}

#[test]
fn virtual_servers_of_others_stay_unless_we_want_the_same() {
    let theirs = |persistence_s| Found {
        scheduling: Some(Scheduling { scheduler: Scheduler::RoundRobin, persistence_s }),
        is_ours: false,
        destinations: Some(BTreeMap::from([(
            "10.9.9.9:1".parse().unwrap(),
            SeenDestination { weight: 1, connections: 5 },
        )])),
    };
    let mut system = FakeSystem { fail_one_in: 0, ..FakeSystem::new() };
    let other = ServerKey::Address(at("10.77.0.1", 1));
    system.servers.insert(other, theirs(None));
    system.servers.insert(WEB(), theirs(None));
    let mut ipvs = Ipvs::on(system);
    ipvs.observe().unwrap();
    ipvs.set_node(&node());
    ipvs.change(&key("web"), Some(&web(&["10.1.0.1"])));
    ipvs.apply(0).unwrap();
    let both = [("10.1.0.1:8080".to_owned(), 1), ("10.9.9.9:1".to_owned(), 0)];
    assert_eq!(server(ipvs.system_mut(), WEB()), both);
    assert_eq!(ipvs.upkeep().unwrap().drifted, 0);
    ipvs.remove().unwrap();
    assert_eq!(ipvs.system_mut().servers.keys().copied().collect::<Vec<_>>(), [other]);
    assert_eq!(ipvs.system_mut().servers[&other], theirs(None));
}

#[test]
fn clients_on_this_node_get_a_server_by_mark_where_those_outside_get_local_endpoints() {
    let mut ipvs = sound();
    ipvs.change(&key("lb"), Some(&balanced(Some(60))));
    ipvs.apply(0).unwrap();
    let at = at("203.0.113.1", 80);
    let by_address = &ipvs.program().contents().servers[&ServerKey::Address(at)];
    assert_eq!(by_address.destinations, ["10.1.0.1:8080".parse().unwrap()].into());
    assert_eq!(by_address.scheduling.persistence_s, Some(60));
    let Held::Mark(mark) = ipvs.program().contents().elements[&Element::Mark(at)] else {
        panic!("no mark");
    };
    let by_mark = &ipvs.program().contents().servers[&ServerKey::Mark(Family::V4, mark)];
    assert_eq!(by_mark.destinations.len(), 2);
    let hashed = Scheduling { scheduler: Scheduler::Maglev, persistence_s: None };
    assert_eq!(by_mark.scheduling, hashed, "endpoints have another port");
    assert!(ipvs.limits().unwrap()[&key("lb")].contains(&super::super::limits::HASHED));
    let local = PortState { external: TrafficPolicy::Cluster, ..balanced(None) };
    ipvs.change(&key("lb"), Some(&local));
    ipvs.apply(0).unwrap();
    let marked = |key: &ServerKey| matches!(key, ServerKey::Mark(..));
    assert!(!ipvs.system_mut().servers.keys().any(marked));
}

#[test]
fn a_mark_keeps_its_meaning_over_a_restart() {
    let mut ipvs = sound();
    let other = PortState {
        frontends: vec![frontend("203.0.113.2", 80, FrontendKind::LoadBalancer)],
        ..balanced(None)
    };
    ipvs.change(&key("zz"), Some(&balanced(None)));
    ipvs.change(&key("aa"), Some(&other));
    ipvs.apply(0).unwrap();
    let before = ipvs.program().contents().clone();
    let table: BTreeMap<PortKey, PortState> =
        [(key("zz"), balanced(None)), (key("aa"), other)].into();
    let mut again = Ipvs::on(ipvs.system_mut().clone());
    again.observe().unwrap();
    again.set_node(&node());
    again.compile(&table);
    assert_eq!(again.program().contents(), &before);
    again.system_mut().log.clear();
    again.apply(0).unwrap();
    assert!(again.system_mut().log.is_empty(), "{:?}", again.system_mut().log);
}
