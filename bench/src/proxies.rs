//! nginx and Varnish as they are measured: the files of each, and the command that serves them from memory or the page
//! cache. Must not know who measures them.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::Result;
use tokio::process::Command;

use crate::process::find_program;

/// nginx with `proxy_cache`: one worker for the one core, no access log, files kept open, as its documentation advises.
pub(crate) fn nginx(
    directory: &Path,
    listen: SocketAddr,
    origin: SocketAddr,
    sendfile: bool,
) -> Result<Command> {
    let program = find_program("nginx", "`.ci/setup bench` installs it (Debian: nginx)")?;
    let file = directory.join("nginx.conf");
    fs::write(&file, nginx_conf(directory, listen, origin, sendfile))?;
    let mut command = Command::new(program);
    command
        .arg("-e")
        .arg("stderr")
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(file);
    Ok(command)
}

fn nginx_conf(directory: &Path, listen: SocketAddr, origin: SocketAddr, sendfile: bool) -> String {
    let directory = directory.display();
    // Workers of a root's nginx are somebody else, who may not enter the directory of the run.
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    // Head and body in one packet: what goes with sendfile in the configuration that Debian ships.
    let sendfile = if sendfile {
        "sendfile on; tcp_nopush on;"
    } else {
        "sendfile off;"
    };
    format!(
        "{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {sendfile}
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=1h;
    open_file_cache_valid 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache levels=1:2 keys_zone=data:16m max_size=1g inactive=1h use_temp_path=off;
    server {{
        listen {listen};
        location / {{
            proxy_pass http://{origin};
            proxy_cache data;
            proxy_cache_valid 200 1h;
        }}
    }}
}}
"
    )
}

/// Varnish with its cache in memory and one pool of threads for the one core. It always writes its log to shared
/// memory; nobody reads it.
pub(crate) fn varnish(directory: &Path, listen: SocketAddr, origin: SocketAddr) -> Result<Command> {
    let program = find_program(
        "varnishd",
        "`.ci/setup bench` installs it (Debian: varnish)",
    )?;
    let mut command = Command::new(program);
    command
        // Otherwise the cache of a root's Varnish is somebody else, who may not enter the directory of the run.
        .args(["-j", "none"])
        .arg("-F")
        .arg("-n")
        .arg(directory.join("varnish"))
        .args(["-a", &listen.to_string(), "-b", &origin.to_string()])
        .args(["-s", "malloc,256m", "-t", "3600"])
        .args(["-p", "thread_pools=1", "-p", "thread_pool_min=100"])
        // No answer is given from what has expired, and no port for an administrator is opened.
        .args(["-p", "default_grace=0", "-T", "none"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_nginx_differ_in_sendfile_alone() {
        let (listen, origin) = (
            "127.0.0.1:1".parse().unwrap(),
            "127.0.0.1:2".parse().unwrap(),
        );
        let conf = |sendfile| nginx_conf(Path::new("/d"), listen, origin, sendfile);
        let (off, on) = (conf(false), conf(true));
        let differing: Vec<_> = off
            .lines()
            .zip(on.lines())
            .filter(|(off, on)| off != on)
            .collect();
        assert_eq!(
            differing,
            [("    sendfile off;", "    sendfile on; tcp_nopush on;")]
        );
    }
}
