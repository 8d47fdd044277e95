//! Rows as aligned text.

use std::net::IpAddr;

use super::{EndpointRow, FlowRow, FrontendRow};

/// Columns padded to their widest cell, two spaces apart, without trailing spaces.
pub fn align<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut text = line(header);
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

/// `address:port`, with brackets around IPv6.
pub fn endpoint(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Frontends; `wide` adds the service's number and whether the source is masqueraded.
pub fn frontends(rows: &[FrontendRow], wide: bool) -> String {
    let frontend = |row: &FrontendRow| match row.address {
        Some(address) => endpoint(address, row.port),
        None => format!("node-address{}:{}", row.family, row.port),
    };
    let count = |row: &FrontendRow| match row.endpoints {
        0 => "none: refuses".to_owned(),
        count => count.to_string(),
    };
    if wide {
        let cells: Vec<[String; 6]> = rows
            .iter()
            .map(|row| {
                let masquerade = if row.masquerade { "yes" } else { "no" };
                [
                    row.service.clone(),
                    row.protocol.clone(),
                    frontend(row),
                    row.number.to_string(),
                    masquerade.to_owned(),
                    count(row),
                ]
            })
            .collect();
        let header = ["SERVICE", "PROTOCOL", "FRONTEND", "NUMBER", "MASQUERADE", "ENDPOINTS"];
        return align(header, &cells);
    }
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| [row.service.clone(), row.protocol.clone(), frontend(row), count(row)])
        .collect();
    align(["SERVICE", "PROTOCOL", "FRONTEND", "ENDPOINTS"], &cells)
}

/// Endpoints; `wide` adds their identities.
pub fn endpoints(rows: &[EndpointRow], wide: bool) -> String {
    let state = |row: &EndpointRow| if row.live { "live" } else { "left" }.to_owned();
    let cells: Vec<[String; 6]> = rows
        .iter()
        .map(|row| {
            [
                row.service.clone(),
                row.protocol.clone(),
                endpoint(row.address, row.port),
                row.placement.to_owned(),
                state(row),
                if wide { row.id.to_string() } else { String::new() },
            ]
        })
        .collect();
    let id = if wide { "ID" } else { "" };
    align(["SERVICE", "PROTOCOL", "ENDPOINT", "PLACE", "STATE", id], &cells)
}

/// Flows; `wide` adds the source that the endpoint sees.
pub fn flows(rows: &[FlowRow], wide: bool) -> String {
    let cells: Vec<[String; 8]> = rows
        .iter()
        .map(|row| {
            let source = endpoint(row.source, row.source_port);
            [
                row.service.clone(),
                row.protocol.clone(),
                endpoint(row.client, row.client_port),
                endpoint(row.frontend, row.frontend_port),
                endpoint(row.endpoint, row.endpoint_port),
                row.state.to_owned(),
                format!("{}s", row.idle_s),
                if wide { source } else { String::new() },
            ]
        })
        .collect();
    let source = if wide { "SOURCE" } else { "" };
    let header = ["SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "ENDPOINT", "STATE", "IDLE", source];
    align(header, &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "22".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(align(["X", "NUMBER"], &rows), "X       NUMBER\na       22\nlonger\n");
    }

    #[test]
    fn a_frontend_without_endpoints_says_that_it_refuses() {
        let row = FrontendRow {
            service: "shop/web".into(),
            number: 7,
            address: None,
            family: 6,
            port: 30080,
            protocol: "TCP".into(),
            endpoints: 0,
            masquerade: true,
        };
        let expected = "SERVICE   PROTOCOL  FRONTEND             ENDPOINTS\n\
                        shop/web  TCP       node-address6:30080  none: refuses\n";
        assert_eq!(frontends(std::slice::from_ref(&row), false), expected);
        assert!(frontends(&[row], true).contains("node-address6:30080  7       yes"));
    }

    #[test]
    fn ipv6_endpoints_have_brackets() {
        assert_eq!(endpoint("fd00::1".parse().unwrap(), 80), "[fd00::1]:80");
    }
}
