//! Configuration files of the relays that need one.

use std::path::Path;

use crate::address::Address;
use crate::error::{Doing, Result};
use crate::relays::MAX_CONNECTIONS;

/// Splicing with pipes of 1 MiB and two threads: its best set-up on the machines of the first measurements.
pub fn write_haproxy(inbound: &Address, outbound: &Address, folder: &Path) -> Result<String> {
    let (bind, server) = match inbound {
        Address::Unix(_) => (
            format!("{} mode 777", haproxy_address(inbound)),
            haproxy_address(outbound),
        ),
        _ => (haproxy_address(inbound), haproxy_address(outbound)),
    };
    let text = format!(
        "global
    nbthread 2
    maxconn {MAX_CONNECTIONS}
    maxpipes 400
    tune.pipesize 1048576
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    backlog 4096
listen bench
    bind {bind}
    server target {server}
"
    );
    write(folder, "haproxy.cfg", &text)
}

fn haproxy_address(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("unix@{}", path.display()),
        other => other.to_string(),
    }
}

/// Two workers that share the listener, buffers of 64 KiB, half-close on.
pub fn write_nginx(inbound: &Address, outbound: &Address, folder: &Path) -> Result<String> {
    let (listen, target) = (nginx_address(inbound), nginx_address(outbound));
    let folder_text = folder.display();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 2;
worker_rlimit_nofile {};
pid {folder_text}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {}; }}
stream {{
    server {{
        listen {listen} backlog=4096;
        proxy_pass {target};
        proxy_buffer_size 64k;
        proxy_connect_timeout 5s;
        proxy_half_close on;
        proxy_timeout 1h;
    }}
}}
",
        // Each connection of a peer needs one to the target.
        2 * MAX_CONNECTIONS + 100,
        2 * MAX_CONNECTIONS,
    );
    write(folder, "nginx.conf", &text)
}

fn nginx_address(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("unix:{}", path.display()),
        other => other.to_string(),
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    std::fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
    Ok(path.display().to_string())
}
