//! The daemon: wires sources, table, backend, devices and the HTTP server.
