//! A program as text: for people, `doctor` and tests.

use std::fmt::{self, Write as _};

use super::{
    contents::{Contents, Element, Held},
    server::Server,
};

/// All of it, sorted, one entry per line, destinations below their server.
pub fn render(contents: &Contents) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, contents);
    text
}

fn write(text: &mut String, contents: &Contents) -> fmt::Result {
    for (key, server) in &contents.servers {
        writeln!(text, "server {key} {}", scheduling(server))?;
        for destination in &server.destinations {
            writeln!(text, "    {destination}")?;
        }
    }
    for address in &contents.addresses {
        writeln!(text, "address {address}")?;
    }
    for (element, held) in &contents.elements {
        writeln!(text, "{}", line(element, *held))?;
    }
    Ok(())
}

fn scheduling(server: &Server) -> String {
    let scheduler = server.scheduling.scheduler.name();
    match server.scheduling.persistence_s {
        Some(seconds) => format!("{scheduler} persistent {seconds} s"),
        None => scheduler.to_owned(),
    }
}

/// One element, as its set and what it says.
pub fn line(element: &Element, held: Held) -> String {
    let held = match held {
        Held::Nothing => String::new(),
        Held::Treatment(treatment) => format!(" : {treatment}"),
        Held::Mark(mark) => format!(" : {mark:#010x}"),
    };
    let of = match element {
        Element::Service(wanted) => format!("services {wanted}"),
        Element::Mark(wanted) => format!("marks {wanted}"),
        Element::Range(wanted, range) => {
            format!("ranges {wanted} from {}/{}", range.address, range.prefix_len)
        }
        Element::Closed(address) => format!("closed {address}"),
        Element::Node(address) => format!("nodes {address}"),
        Element::Hairpin(address) => format!("hairpin {address}"),
        Element::PodLink(family, link) => format!("pods {family:?} {link}"),
    };
    of + &held
}
