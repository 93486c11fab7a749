use std::fs::{self, File};
use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps what has a name.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "conductor-";
/// The server's address, which the hosts reach.
pub const SERVER: &str = "10.77.0.1";
pub const SUBNET: &str = "10.77.0.0/24";

/// A switch, and the server's host and others that are plugged into it: each a network namespace, so that
/// nothing is seen of them outside. Removed with this value.
#[derive(Debug)]
pub struct Network {
    switch: String,
    /// The server's is the last one.
    hosts: Vec<String>,
}

/// How a host loses its way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The cable is pulled, which the host sees.
    Unplugged,
    /// What is sent is swallowed.
    Silent,
    /// The same, and it has another address when it comes back: what was connected stays dumb.
    Moved,
}

impl Network {
    /// None where the machine does not allow it.
    pub fn of(hosts: usize) -> anyhow::Result<Option<Self>> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NETWORKS.fetch_add(1, Relaxed)
        );
        let mut network = Self {
            switch: format!("{name}-switch"),
            hosts: Vec::new(),
        };
        let allowed = network
            .add(&network.switch)
            .and_then(|()| ip(&["-n", &network.switch, "link add switch type bridge"]))
            .and_then(|()| {
                ip(&[
                    "-n",
                    &network.switch,
                    "link add try type veth peer name tried",
                ])
            });
        if let Err(reason) = allowed {
            eprintln!("no network namespaces, so nothing was tested with several hosts: {reason}");
            return Ok(None);
        }
        network.at_switch("link set switch up")?;
        for host in 0..=hosts {
            let of = format!("{name}-{host}");
            network.add(&of)?;
            network.hosts.push(of);
            let of = &network.hosts[host];
            network.at_switch(&format!(
                "link add port{host} type veth peer name eth0 netns {of}"
            ))?;
            network.at_switch(&format!("link set port{host} master switch up"))?;
            network.at(host, "link set lo up")?;
            let at = if host == hosts {
                SERVER.to_owned()
            } else {
                address(host, 0)
            };
            network.at(host, &format!("address add {at}/24 dev eth0"))?;
            network.at(host, "link set eth0 up")?;
        }
        Ok(Some(network))
    }

    fn add(&self, name: &str) -> anyhow::Result<()> {
        ip(&["netns", "add", name])
    }

    fn at_switch(&self, what: &str) -> anyhow::Result<()> {
        ip(&["-n", &self.switch, what])
    }

    fn at(&self, host: usize, what: &str) -> anyhow::Result<()> {
        ip(&["-n", &self.hosts[host], what])
    }

    /// Runs this where the server is.
    pub fn at_server<T: Send>(&self, body: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.on(self.hosts.len() - 1, body)
    }

    /// Runs this on a host; the processes that it starts stay there.
    pub fn on<T: Send>(&self, host: usize, body: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        inside(&self.hosts[host], body)
    }

    pub fn cut(&self, host: usize, how: Cut) -> anyhow::Result<()> {
        match how {
            Cut::Unplugged => self.at_switch(&format!("link set port{host} down")),
            Cut::Silent | Cut::Moved => self.at_switch(&format!("link set port{host} nomaster")),
        }
    }

    pub fn mend(&self, host: usize, how: Cut) -> anyhow::Result<()> {
        match how {
            Cut::Unplugged => return self.at_switch(&format!("link set port{host} up")),
            Cut::Silent => {}
            Cut::Moved => {
                self.at(host, "address flush dev eth0")?;
                self.at(
                    host,
                    &format!("address add {}/24 dev eth0", address(host, 1)),
                )?;
            }
        }
        self.at_switch(&format!("link set port{host} master switch"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The switch takes the cables along.
        for name in self.hosts.iter().chain([&self.switch]) {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn address(host: usize, moves: usize) -> String {
    format!("10.77.0.{}", 10 + host + 100 * moves)
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let words = arguments.iter().flat_map(|argument| argument.split(' '));
    let done = match Command::new("ip").args(words).output() {
        Ok(done) => done,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            anyhow::bail!("iproute2 is not installed")
        }
        Err(error) => return Err(error.into()),
    };
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "ip {arguments:?}: {said}");
    Ok(())
}

/// A thread of its own, as the namespace is the thread's.
fn inside<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = File::open(format!("{NAMES}/{name}"))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(body())
        });
        thread.join().unwrap()
    })
}

/// What runs that were killed have left.
fn remove_leftovers() {
    let Ok(names) = fs::read_dir(NAMES) else {
        return;
    };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|of| of.split('-').next());
        if process.is_some_and(|process| !fs::exists(format!("/proc/{process}")).unwrap_or(true)) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
