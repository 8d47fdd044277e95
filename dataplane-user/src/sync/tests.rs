//! The loop with maps that fail one call in ten.

use super::*;
use crate::{
    ebpf::{
        fake::FakeMaps,
        program::Limits,
        simulate::{Destination, meaning, simulate_maps},
        tests::{SMALL, Table as Ports, ip, put, service},
    },
    model::{Family, PortState, Protocol},
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
    fn keys(&self) -> impl Iterator<Item = PortKey> {
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

fn to(number: u32) -> Destination {
    let (address, protocol) = (ip(Family::V4, 10, number), Protocol::Tcp);
    Destination { address, port: 80, protocol, is_node_address: false }
}

fn reading(limits: Limits) -> FakeMaps {
    // Reading back at the start is not retried by the loop, so the failures begin afterwards.
    FakeMaps { fail_one_in: 0, ..FakeMaps::new(limits) }
}

#[tokio::test(start_paused = true)]
async fn failing_writes_are_retried_until_the_maps_are_right() {
    let mut sync = Sync::new(FakeTable::default(), reading(SMALL), Pace::default()).unwrap();
    sync.maps.fail_one_in = 10;
    let (send, events) = mpsc::channel(1024);
    let mut status = sync.status();
    let running = tokio::spawn(sync.run(events));
    send.send(Event::Synced).await.unwrap();
    for number in 1..=40 {
        let (key, state) = service(number, 3);
        send.send(Event::Port(key, Some(state))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 1..=10 {
        send.send(Event::Port(service(number, 3).0, None)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    status.wait_for(|status| status.in_sync && status.services.len() == 30).await.unwrap();
    drop(send);
    let (table, mut maps, _) = running.await.unwrap();
    assert!(maps.failures > 0, "the fake never failed");
    assert_eq!(status.borrow().failures, maps.failures);
    for number in 0..50 {
        assert_eq!(simulate_maps(&mut maps, &to(number)), meaning(&table, &to(number)));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_or_deleted_before_the_source_is_in_sync() {
    let mut maps = reading(SMALL);
    let mut before = Program::new(SMALL);
    before.compile(&Ports::from([service(1, 3), service(2, 3)]));
    before.apply(&mut maps, 0).unwrap();
    let contents = maps.contents.clone();
    let sync = Sync::new(FakeTable::default(), maps, Pace::default()).unwrap();
    let (send, events) = mpsc::channel(16);
    let (key, state) = service(2, 3);
    send.send(Event::Port(key, Some(state))).await.unwrap();
    drop(send);
    let (mut table, maps, _) = sync.run(events).await;
    assert_eq!(maps.contents, contents);

    table.synced = true;
    let sync = Sync::new(table, maps, Pace::default()).unwrap();
    let (send, events) = mpsc::channel(16);
    send.send(Event::Synced).await.unwrap();
    drop(send);
    let (table, mut maps, _) = sync.run(events).await;
    for number in 1..=2 {
        assert_eq!(simulate_maps(&mut maps, &to(number)), meaning(&table, &to(number)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_out_in_few_rounds() {
    let sync = Sync::new(FakeTable::default(), reading(SMALL), Pace::default()).unwrap();
    let status = sync.status();
    let (send, events) = mpsc::channel(1024);
    send.send(Event::Synced).await.unwrap();
    for number in 1..=60 {
        let (key, state) = service(number, 3);
        send.send(Event::Port(key, Some(state))).await.unwrap();
    }
    drop(send);
    sync.run(events).await;
    assert!(status.borrow().sync.count() <= 3, "{} rounds", status.borrow().sync.count());
    assert_eq!(status.borrow().services.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_gate_bit_is_cleared_once_neither_a_frontend_nor_a_flow_needs_it() {
    let sync = Sync::new(FakeTable::default(), reading(SMALL), Pace::default()).unwrap();
    let (send, events) = mpsc::channel(16);
    let running = tokio::spawn(sync.run(events));
    let (key, state) = service(7, 1);
    for event in [Event::Port(key.clone(), Some(state)), Event::Synced, Event::Port(key, None)] {
        send.send(event).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    drop(send);
    let (_, maps, _) = running.await.unwrap();
    let gate = &maps.contents[dataplane_common::names::GATE];
    assert!(!gate.is_empty(), "the bit was set before");
    assert!(gate.values().all(|word| word.iter().all(|byte| *byte == 0)));
}
