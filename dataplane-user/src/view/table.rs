//! Rows as aligned text.

use std::net::IpAddr;

use super::{Clients, EndpointRow, FlowRow, FrontendRow, Word};

/// Columns padded to their widest cell, two spaces apart, without trailing spaces. Every row has as
/// many cells as the header.
pub fn align(header: &[&str], rows: &[impl AsRef<[String]>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut text = line(header);
    for row in rows {
        text.push_str(&line(&row.as_ref().iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

/// `address:port`, with brackets around IPv6.
pub fn endpoint(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Frontends; `wide` adds where they come from, policies, masquerade, affinity and source ranges.
pub fn frontends(rows: &[FrontendRow], wide: bool) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.service.clone(), row.protocol.clone(), frontend(row)];
            if wide {
                cells.extend([
                    row.kind.to_string(),
                    row.number.to_string(),
                    format!("{} {}", row.inside.policy, count(&row.inside)),
                    format!("{} {}", row.outside.policy, count(&row.outside)),
                    row.local.to_string(),
                    masquerade(row).to_owned(),
                    row.affinity_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
                    ranges(row),
                ]);
            } else {
                cells.push(counts(row));
            }
            cells
        })
        .collect();
    if wide {
        let header = [
            "SERVICE",
            "PROTOCOL",
            "FRONTEND",
            "KIND",
            "NUMBER",
            "INSIDE",
            "OUTSIDE",
            "LOCAL",
            "MASQUERADE",
            "AFFINITY",
            "RANGES",
        ];
        return align(&header, &cells);
    }
    align(&["SERVICE", "PROTOCOL", "FRONTEND", "ENDPOINTS"], &cells)
}

fn frontend(row: &FrontendRow) -> String {
    match row.address {
        Some(address) => endpoint(address, row.port),
        None => format!("node-address{}:{}", row.family, row.port),
    }
}

/// How many endpoints some clients get, or what becomes of them without any.
fn count(clients: &Clients) -> String {
    match clients.outcome.as_ref() {
        "dropped" => "none: drops".to_owned(),
        "refused" => "none: refuses".to_owned(),
        _ => clients.endpoints.to_string(),
    }
}

/// The same for all clients, in one word where they get the same.
fn counts(row: &FrontendRow) -> String {
    let (inside, outside) = (count(&row.inside), count(&row.outside));
    if inside == outside { inside } else { format!("{inside}, from outside {outside}") }
}

fn masquerade(row: &FrontendRow) -> &'static str {
    match (row.inside.masquerade, row.outside.masquerade) {
        (false, false) => "no",
        (true, false) => "inside",
        (false, true) => "outside",
        (true, true) => "all",
    }
}

fn ranges(row: &FrontendRow) -> String {
    match &row.source_ranges {
        None => "-".to_owned(),
        Some(ranges) if ranges.is_empty() => "nobody".to_owned(),
        Some(ranges) => ranges.join(","),
    }
}

/// Endpoints; `wide` adds the policies whose clients they serve, and their identities.
pub fn endpoints(rows: &[EndpointRow], wide: bool) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                row.service.clone(),
                row.protocol.clone(),
                endpoint(row.address, row.port),
                row.placement.to_string(),
                if row.live { "live" } else { "left" }.to_owned(),
            ];
            if wide {
                cells.extend([views(&row.views), row.id.to_string()]);
            }
            cells
        })
        .collect();
    let header = ["SERVICE", "PROTOCOL", "ENDPOINT", "PLACE", "STATE", "POLICIES", "ID"];
    align(if wide { &header } else { &header[..5] }, &cells)
}

/// Flows; `wide` adds the source that the endpoint sees, and why the flow goes where it does.
pub fn flows(rows: &[FlowRow], wide: bool) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                row.service.clone(),
                row.protocol.clone(),
                endpoint(row.client, row.client_port),
                endpoint(row.frontend, row.frontend_port),
                endpoint(row.endpoint, row.endpoint_port),
                row.state.to_string(),
                row.idle_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
            ];
            if wide {
                cells.extend([endpoint(row.source, row.source_port), why(row)]);
            }
            cells
        })
        .collect();
    let header =
        ["SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "ENDPOINT", "STATE", "IDLE", "SOURCE", "WHY"];
    align(if wide { &header } else { &header[..7] }, &cells)
}

fn views(views: &[Word]) -> String {
    if views.is_empty() { "-".to_owned() } else { views.join("+") }
}

/// Why a flow has its endpoint and its source.
fn why(row: &FlowRow) -> String {
    let source = match row.masquerade.as_ref() {
        "yes" => "masqueraded",
        "hairpin" => "hairpin",
        _ => "",
    };
    let words = [
        views(&row.views),
        if row.affinity { "affinity" } else { "" }.to_owned(),
        source.to_owned(),
        if row.forwarded { "forwarded" } else { "" }.to_owned(),
    ];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["a".to_owned(), "22".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(align(&["X", "NUMBER"], &rows), "X       NUMBER\na       22\nlonger\n");
    }

    fn clients(policy: &'static str, outcome: &'static str, masquerade: bool) -> Clients {
        let endpoints = u32::from(outcome == "served");
        Clients { policy: policy.into(), endpoints, outcome: outcome.into(), masquerade }
    }

    fn row() -> FrontendRow {
        FrontendRow {
            service: "shop/web".into(),
            number: 7,
            address: None,
            family: 6,
            port: 30080,
            protocol: "TCP".into(),
            kind: "NodePort".into(),
            endpoints: 0,
            local: 0,
            inside: clients("Cluster", "refused", true),
            outside: clients("Cluster", "refused", true),
            affinity_s: None,
            source_ranges: None,
        }
    }

    #[test]
    fn a_frontend_without_endpoints_says_what_becomes_of_clients() {
        let expected = "SERVICE   PROTOCOL  FRONTEND             ENDPOINTS\n\
                        shop/web  TCP       node-address6:30080  none: refuses\n";
        assert_eq!(frontends(&[row()], false), expected);
        let local = FrontendRow {
            inside: clients("Cluster", "served", false),
            outside: clients("Local", "dropped", false),
            ..row()
        };
        assert!(frontends(&[local], false).ends_with("  1, from outside none: drops\n"));
    }

    #[test]
    fn a_wide_frontend_tells_all_of_it() {
        let row = FrontendRow {
            endpoints: 1,
            local: 1,
            inside: clients("Cluster", "served", true),
            outside: clients("Local", "served", false),
            affinity_s: Some(600),
            source_ranges: Some(vec!["10.0.0.0/8".into(), "192.0.2.0/24".into()]),
            ..row()
        };
        let text = frontends(std::slice::from_ref(&row), true);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split("  ").collect();
        let cells: Vec<&str> =
            cells.into_iter().map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let expected = [
            "shop/web",
            "TCP",
            "node-address6:30080",
            "NodePort",
            "7",
            "Cluster 1",
            "Local 1",
            "1",
            "inside",
            "600s",
            "10.0.0.0/8,192.0.2.0/24",
        ];
        assert_eq!(cells, expected);
        let nobody = FrontendRow { source_ranges: Some(Vec::new()), ..row };
        assert!(frontends(&[nobody], true).ends_with("  nobody\n"));
    }

    #[test]
    fn ipv6_endpoints_have_brackets() {
        assert_eq!(endpoint("fd00::1".parse().unwrap(), 80), "[fd00::1]:80");
    }
}
