//! The loop with maps that fail one call in ten.

use super::*;
use crate::{
    ebpf::{
        Program,
        backend::Ebpf,
        fake::FakeMaps,
        program::Limits,
        simulate::simulate_maps,
        tests::{SMALL, Table as Ports, meaning, put, service, to_service as to},
    },
    model::PortState,
};

/// What a source says.
enum Event {
    Port(PortKey, Option<PortState>),
    Synced,
}

#[derive(Default)]
struct FakeTable {
    ports: Ports,
    changed: BTreeSet<PortKey>,
    synced: bool,
}

impl Desired for FakeTable {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Desired::keys(&self.ports)
    }
    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.ports.port(key)
    }
}

impl Table for FakeTable {
    type Event = Event;
    fn apply(&mut self, event: Event) {
        match event {
            Event::Port(key, state) => {
                put(&mut self.ports, &key, state.as_ref());
                self.changed.insert(key);
            }
            Event::Synced => self.synced = true,
        }
    }
    fn take_changed(&mut self) -> BTreeSet<PortKey> {
        std::mem::take(&mut self.changed)
    }
    fn is_synced(&self) -> bool {
        self.synced
    }
}

fn sync_of(table: FakeTable, maps: FakeMaps) -> Sync<FakeTable, Ebpf<FakeMaps>> {
    let (_, node) = watch::channel(Node::default());
    Sync::new(table, Ebpf::new(maps), node, Pace::default())
}

fn sound(limits: Limits) -> FakeMaps {
    FakeMaps { fail_one_in: 0, ..FakeMaps::new(limits) }
}

#[tokio::test(start_paused = true)]
async fn failing_writes_are_retried_until_the_maps_are_right() {
    let sync = sync_of(FakeTable::default(), FakeMaps::new(SMALL));
    let (send, events) = mpsc::channel(1024);
    let (status, services) = (sync.status(), sync.services());
    let running = tokio::spawn(sync.run(events));
    send.send(Received::now(Event::Synced)).await.unwrap();
    for number in 1..=40 {
        let (key, state) = service(number, 3);
        send.send(Received::now(Event::Port(key, Some(state)))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 1..=10 {
        send.send(Received::now(Event::Port(service(number, 3).0, None))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(status.borrow().in_sync);
    assert_eq!(services.list().await.unwrap().ports.len(), 30);
    drop(send);
    let (table, backend) = running.await.unwrap();
    let mut maps = backend.into_maps();
    assert!(maps.failures > 0, "the fake never failed");
    assert_eq!(status.borrow().failures, maps.failures);
    for number in 0..50 {
        assert_eq!(
            simulate_maps(&mut maps, &to(number), false),
            meaning(&table, &to(number), false)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_or_deleted_before_the_source_is_in_sync() {
    let mut maps = sound(SMALL);
    let mut before = Program::new(SMALL);
    before.compile(&Ports::from([service(1, 3), service(2, 3)]));
    before.apply(&mut maps, 0).unwrap();
    let contents = maps.contents.clone();
    let sync = sync_of(FakeTable::default(), maps);
    let (send, events) = mpsc::channel(16);
    let (key, state) = service(2, 3);
    send.send(Received::now(Event::Port(key, Some(state)))).await.unwrap();
    drop(send);
    let (mut table, backend) = sync.run(events).await;
    let maps = backend.into_maps();
    assert_eq!(maps.contents, contents);

    table.synced = true;
    let sync = sync_of(table, maps);
    let (send, events) = mpsc::channel(16);
    send.send(Received::now(Event::Synced)).await.unwrap();
    drop(send);
    let (table, backend) = sync.run(events).await;
    let mut maps = backend.into_maps();
    for number in 1..=2 {
        assert_eq!(
            simulate_maps(&mut maps, &to(number), false),
            meaning(&table, &to(number), false)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_out_in_few_rounds() {
    let sync = sync_of(FakeTable::default(), sound(SMALL));
    let status = sync.status();
    let (send, events) = mpsc::channel(1024);
    send.send(Received::now(Event::Synced)).await.unwrap();
    for number in 1..=60 {
        let (key, state) = service(number, 3);
        send.send(Received::now(Event::Port(key, Some(state)))).await.unwrap();
    }
    drop(send);
    let (_, backend) = sync.run(events).await;
    let maps = backend.into_maps();
    assert!(status.borrow().sync.count() <= 3, "{} rounds", status.borrow().sync.count());
    assert_eq!(maps.contents[dataplane_common::names::FRONTENDS4].len(), 2 * 60);
}

#[tokio::test(start_paused = true)]
async fn a_gate_bit_is_cleared_once_neither_a_frontend_nor_a_flow_needs_it() {
    let sync = sync_of(FakeTable::default(), sound(SMALL));
    let (send, events) = mpsc::channel(16);
    let running = tokio::spawn(sync.run(events));
    let (key, state) = service(7, 1);
    for event in [Event::Port(key.clone(), Some(state)), Event::Synced, Event::Port(key, None)] {
        send.send(Received::now(event)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    drop(send);
    let (_, backend) = running.await.unwrap();
    let maps = backend.into_maps();
    let gate = &maps.contents[dataplane_common::names::GATE];
    assert!(!gate.is_empty(), "the bit was set before");
    assert!(gate.values().all(|word| word.iter().all(|byte| *byte == 0)));
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_reported_as_departed_only_when_the_maps_say_so() {
    let mut sync = sync_of(FakeTable::default(), sound(SMALL));
    let (to, mut departed) = mpsc::unbounded_channel();
    sync.send_departed(to);
    sync.table.synced = true;
    let (key, state) = service(1, 3);
    sync.table.apply(Event::Port(key.clone(), Some(state)));
    sync.round();
    sync.table.apply(Event::Port(key, None));
    // Every call fails.
    sync.backend.maps_mut().fail_one_in = 1;
    sync.round();
    assert!(departed.try_recv().is_err(), "they still take flows");
    sync.backend.maps_mut().fail_one_in = 0;
    sync.round();
    assert_eq!(departed.try_recv().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn network_programming_counts_from_the_event_over_all_retries() {
    let mut sync = sync_of(FakeTable::default(), sound(SMALL));
    sync.table.synced = true;
    sync.round();
    let (key, state) = service(1, 3);
    sync.take_in(vec![Received::now(Event::Port(key, Some(state)))]);
    sync.backend.maps_mut().fail_one_in = 1;
    sync.round();
    assert_eq!(sync.status.network_programming.count(), 0, "the maps do not hold it");
    tokio::time::sleep(Duration::from_secs(2)).await;
    sync.backend.maps_mut().fail_one_in = 0;
    sync.round();
    let measured = sync.status.network_programming;
    assert_eq!((measured.count(), measured.sum_us() / 1_000_000), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn maps_that_cannot_be_read_at_the_start_are_read_later() {
    let mut sync = sync_of(FakeTable::default(), sound(SMALL));
    sync.table.synced = true;
    sync.backend.maps_mut().fail_one_in = 1;
    let (key, state) = service(1, 3);
    sync.table.apply(Event::Port(key, Some(state)));
    sync.round();
    assert!(sync.backend.maps_mut().contents.is_empty() && sync.wake().is_some());
    sync.backend.maps_mut().fail_one_in = 0;
    sync.round();
    assert_eq!(
        simulate_maps(sync.backend.maps_mut(), &to(1), false),
        meaning(&sync.table, &to(1), false)
    );
}

/// Asks for a switch as the daemon does, and lets the loop answer.
async fn switch_to(
    sync: &mut Sync<FakeTable, Ebpf<FakeMaps>>,
    maps: FakeMaps,
) -> switch::Outcome<Ebpf<FakeMaps>> {
    let switcher = sync.switcher();
    let asked = tokio::spawn(async move { switcher.switch(Ebpf::new(maps)).await });
    let request = sync.switches.recv().await.unwrap();
    sync.switch(request);
    asked.await.unwrap().unwrap()
}

fn put_service(sync: &mut Sync<FakeTable, Ebpf<FakeMaps>>, number: u32) {
    let (key, state) = service(number, 3);
    sync.table.apply(Event::Port(key, Some(state)));
}

fn assert_serves(sync: &mut Sync<FakeTable, Ebpf<FakeMaps>>, number: u32) {
    let expected = meaning(&sync.table, &to(number), false);
    assert_eq!(simulate_maps(sync.backend.maps_mut(), &to(number), false), expected);
}

#[tokio::test(start_paused = true)]
async fn a_switch_gives_the_whole_table_to_the_next_and_the_last_back_as_it_is() {
    let mut sync = sync_of(FakeTable::default(), sound(SMALL));
    sync.table.synced = true;
    put_service(&mut sync, 1);
    sync.round();
    let before = sync.backend.maps_mut().contents.clone();
    let last = switch_to(&mut sync, sound(SMALL)).await;
    let mut last = last.unwrap_or_else(|(_, error)| panic!("{error}"));
    assert_eq!(last.maps_mut().contents, before, "the last one serves until it is removed");
    assert_serves(&mut sync, 1);
    put_service(&mut sync, 2);
    sync.round();
    assert_serves(&mut sync, 2);
    assert_eq!(last.maps_mut().contents, before, "what is new is for the next one alone");
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_fails_leaves_the_last_one_serving() {
    let mut sync = sync_of(FakeTable::default(), sound(SMALL));
    sync.table.synced = true;
    put_service(&mut sync, 1);
    sync.round();
    // Every call fails; then every call after some entries.
    for maps in [
        FakeMaps { fail_one_in: 1, ..FakeMaps::new(SMALL) },
        FakeMaps { entries_left: Some(2), ..sound(SMALL) },
    ] {
        let outcome = switch_to(&mut sync, maps).await;
        assert!(outcome.is_err(), "it was programmed all the same");
        put_service(&mut sync, 2);
        sync.round();
        assert_serves(&mut sync, 1);
        assert_serves(&mut sync, 2);
        assert_eq!(sync.status.last_error, None, "the one that serves has no trouble");
    }
}

#[tokio::test(start_paused = true)]
async fn a_switch_before_the_table_is_complete_is_refused() {
    let mut sync = sync_of(FakeTable::default(), sound(SMALL));
    put_service(&mut sync, 1);
    sync.round();
    let Err((mut next, error)) = switch_to(&mut sync, sound(SMALL)).await else {
        panic!("half a table was programmed");
    };
    assert!(error.to_string().contains("not complete"), "{error}");
    assert!(next.maps_mut().contents.is_empty());
}
