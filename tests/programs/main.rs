//! The built programs, started as systemd starts them. One program of all tests: it is linked once, and its tests share
//! both processors.
//!
//! They share the process, too: a test changes neither its environment, nor its folder, umask or handling of signals.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

mod activation;
mod bad_input;
mod check_program;
mod check_settings;
mod churn;
mod circles;
mod completions;
mod connect_mux;
mod connect_program;
mod connect_stdio;
mod control_program;
mod document_commands;
mod documents;
mod exec_program;
mod fault_injection;
mod findings;
mod forward_program;
mod fuzz_corpus;
mod gateway;
mod generator;
mod gone_peers;
mod help;
mod inspection;
mod limits;
mod list_program;
mod listen;
mod listen_refused;
mod listen_unix;
mod live_names;
mod log;
mod long_streams;
mod machines;
mod managers;
mod manual_examples;
mod manuals;
mod metrics_http;
mod metrics_program;
mod multipath;
mod mux_listener;
mod names;
mod notifications;
mod peers;
mod proxy_protocol;
mod ready_machines;
mod recorded_figures;
mod registry;
mod relay_aborts;
mod relay_bulk;
mod relay_bytes;
mod relay_close_orders;
mod relay_relief;
mod settings;
mod signals;
mod slips;
mod slow_readers;
mod ssh_libraries;
mod system_calls;
mod targets;
mod via;

// What the load generator and the test of its recorded runs share finds its parts from the root.
#[path = "../../benches/relay/address.rs"]
#[allow(dead_code, reason = "the load generator uses the rest")]
mod address;
#[path = "../../benches/relay/figures/mod.rs"]
#[allow(dead_code, reason = "the load generator uses the rest")]
mod figures;
