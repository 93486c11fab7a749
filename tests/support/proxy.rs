use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conductor::testing::TestConductor;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::soon;

/// A network between clients and a server, which can be made to fail.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Network {
    server: Mutex<Target>,
    /// The name of the database.
    database: String,
    orders: watch::Sender<Orders>,
    losses: Mutex<Losses>,
    /// The text of the statement behind which nothing passes.
    last: Mutex<Option<&'static str>>,
}

#[derive(Debug, Clone)]
enum Target {
    Socket(PathBuf),
    Address(String),
}

/// What befalls connections, by their age: the number of the last order before they began.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    age: u64,
    /// Closed where older.
    cut: u64,
    /// Open and dumb for ever where older.
    swallow: u64,
    /// Closed for writing, and read to the end, which is dropped.
    half: u64,
    /// Nothing passes for now.
    hold: bool,
}

/// Answers that get lost: of statements with this text.
#[derive(Debug, Default)]
struct Losses {
    text: &'static str,
    left: usize,
    done: usize,
}

impl Proxy {
    /// Before the server with this socket.
    pub async fn before(socket: PathBuf) -> anyhow::Result<Self> {
        Self::new(Target::Socket(socket), "postgres".to_owned()).await
    }

    /// Before the database of a test.
    pub async fn of(test: &TestConductor) -> anyhow::Result<Self> {
        let options: PgConnectOptions = test.url().parse()?;
        let port = options.get_port();
        let target = match options.get_socket() {
            Some(folder) => Target::Socket(folder.join(format!(".s.PGSQL.{port}"))),
            None => Target::Address(format!("{}:{port}", options.get_host())),
        };
        let database = options.get_database().unwrap_or_default().to_owned();
        Self::new(target, database).await
    }

    /// Before another one's address.
    pub async fn to(url: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let address = format!("{}:{}", options.get_host(), options.get_port());
        let database = options.get_database().unwrap_or_default().to_owned();
        Self::new(Target::Address(address), database).await
    }

    async fn new(server: Target, database: String) -> anyhow::Result<Self> {
        let mut proxy = Self {
            port: 0,
            network: Arc::new(Network {
                server: Mutex::new(server),
                database,
                orders: watch::channel(Orders::default()).0,
                losses: Mutex::default(),
                last: Mutex::default(),
            }),
            acceptor: None,
        };
        proxy.accept().await?;
        Ok(proxy)
    }

    /// Takes connections, after [`refuse`](Self::refuse) again.
    pub async fn accept(&mut self) -> anyhow::Result<()> {
        if self.acceptor.is_some() {
            return Ok(());
        }
        // A port that nobody listens to may be lent to an outgoing connection for a moment.
        let port = self.port;
        let bound = async {
            loop {
                match TcpListener::bind(("127.0.0.1", port)).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let listener = soon("the port", bound).await;
        self.port = listener.local_addr()?.port();
        let network = Arc::clone(&self.network);
        self.acceptor = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&network)));
            }
        }));
        Ok(())
    }

    /// Refuses connections from now on, and cuts those that are there.
    pub async fn refuse(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.abort();
            let _ = acceptor.await;
        }
        self.cut();
    }

    pub fn url(&self) -> String {
        let database = &self.network.database;
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn cut(&self) {
        self.order(|orders| orders.cut = orders.age);
    }

    /// The connections that are there stay open and say nothing any more; new ones work.
    pub fn swallow(&self) {
        self.order(|orders| orders.swallow = orders.age);
    }

    pub fn close_halves(&self) {
        self.order(|orders| orders.half = orders.age);
    }

    /// Nothing passes until it is told otherwise.
    pub fn hold(&self, hold: bool) {
        self.order(|orders| orders.hold = hold);
    }

    /// Nothing passes behind the next message with such a statement, as if the client was frozen then.
    pub fn hold_behind(&self, text: &'static str) {
        *self.network.last.lock().unwrap() = Some(text);
    }

    /// Connections that begin from now on reach the server with this socket; the others stay as they are.
    pub fn lead_to(&self, socket: PathBuf) {
        *self.network.server.lock().unwrap() = Target::Socket(socket);
    }

    /// Whether nothing passes.
    pub fn holds(&self) -> bool {
        self.network.orders.borrow().hold
    }

    /// The server gets these statements and acts on them, and the connection breaks before it answers:
    /// so many times.
    pub fn lose_answers(&self, text: &'static str, times: usize) {
        *self.network.losses.lock().unwrap() = Losses {
            text,
            left: times,
            done: 0,
        };
    }

    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.network.losses.lock().unwrap().done
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.network.orders.send_modify(|orders| {
            orders.age += 1;
            change(orders);
        });
    }
}

impl Network {
    fn loses(&self, statement: &str) -> bool {
        let mut losses = self.losses.lock().unwrap();
        let lost = losses.left > 0 && statement.contains(losses.text);
        losses.left -= usize::from(lost);
        lost
    }

    fn holds_behind(&self, statement: &str) {
        let mut last = self.last.lock().unwrap();
        if last.is_some_and(|last| statement.contains(last)) {
            *last = None;
            self.orders.send_modify(|orders| orders.hold = true);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
        }
        self.cut();
    }
}

async fn serve(client: TcpStream, network: Arc<Network>) {
    let _ = client.set_nodelay(true);
    // Else the client's connection is closed.
    let server = network.server.lock().unwrap().clone();
    match &server {
        Target::Socket(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                between(client, server.into_split(), &network).await;
            }
        }
        Target::Address(address) => {
            if let Ok(server) = TcpStream::connect(address).await {
                between(client, server.into_split(), &network).await;
            }
        }
    }
}

async fn between(
    client: TcpStream,
    (from_server, to_server): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    network: &Network,
) {
    let orders = network.orders.subscribe();
    let age = orders.borrow().age;
    let (from_client, to_client) = client.into_split();
    let talk = Mutex::new(Talk::default());
    let lost = Notify::new();
    let mut cut = orders.clone();
    tokio::select! {
        () = async {
            tokio::join!(
                pass(from_client, to_server, age, orders.clone(), |part| {
                    let mut talk = talk.lock().unwrap();
                    for statement in talk.said(part) {
                        network.holds_behind(&statement);
                        if network.loses(&statement) {
                            talk.losing = Losing::Swallowing;
                        }
                    }
                    true
                }),
                pass(from_server, to_client, age, orders.clone(), |part| {
                    let mut talk = talk.lock().unwrap();
                    let passes = talk.answered(part);
                    if talk.losing == Losing::Lost {
                        lost.notify_one();
                    }
                    passes
                }),
            );
        } => {}
        () = told(&mut cut, |orders| orders.cut > age) => {}
        () = lost.notified() => network.losses.lock().unwrap().done += 1,
    }
}

/// The value that `wait_for` gives is a lock.
async fn told(orders: &mut watch::Receiver<Orders>, of: impl FnMut(&Orders) -> bool) {
    let _ = orders.wait_for(of).await;
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    age: u64,
    mut orders: watch::Receiver<Orders>,
    passes: impl Fn(&[u8]) -> bool,
) {
    let mut part = vec![0; 16 * 1024];
    let mut closed = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut part) => read,
            () = told(&mut orders, |orders| orders.half > age), if !closed => {
                let _ = to.shutdown().await;
                closed = true;
                continue;
            }
        };
        let Ok(read @ 1..) = read else {
            let _ = to.shutdown().await;
            return;
        };
        told(&mut orders, |orders| !orders.hold && orders.swallow <= age).await;
        let part = &part[..read];
        if passes(part) && !closed && to.write_all(part).await.is_err() {
            return;
        }
    }
}

/// What is known of a connection's protocol.
#[derive(Debug, Default)]
struct Talk {
    begun: bool,
    unread: Vec<u8>,
    /// Texts of prepared statements by their names.
    statements: HashMap<Vec<u8>, String>,
    losing: Losing,
    tail: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Losing {
    #[default]
    No,
    Swallowing,
    Lost,
}

impl Talk {
    /// The statements that this part asks for.
    fn said(&mut self, part: &[u8]) -> Vec<String> {
        self.unread.extend_from_slice(part);
        let mut asked = Vec::new();
        loop {
            let head = usize::from(self.begun);
            let Some(length) = self.unread.get(head..head + 4) else {
                return asked;
            };
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.unread.len() < head + length {
                return asked;
            }
            let message: Vec<u8> = self.unread.drain(..head + length).collect();
            let body = &message[head + 4..];
            if !self.begun {
                // A request for TLS comes before the start proper.
                self.begun = body.get(..2) != Some(&[4, 210]);
                continue;
            }
            let mut texts = body.split(|byte| *byte == 0);
            let mut text =
                || String::from_utf8_lossy(texts.next().unwrap_or_default()).into_owned();
            let statement = match message[0] {
                b'P' => {
                    let (name, statement) = (text(), text());
                    self.statements.insert(name.into_bytes(), statement);
                    continue;
                }
                b'B' => {
                    let (_portal, name) = (text(), text());
                    self.statements
                        .get(name.as_bytes())
                        .cloned()
                        .unwrap_or_default()
                }
                b'Q' => text(),
                _ => continue,
            };
            asked.push(statement);
        }
    }

    /// Whether the answer passes.
    fn answered(&mut self, part: &[u8]) -> bool {
        if self.losing == Losing::No {
            return true;
        }
        self.tail.extend_from_slice(part);
        let ready = [b'Z', 0, 0, 0, 5, b'I'];
        if self.tail.ends_with(&ready) {
            self.losing = Losing::Lost;
        }
        false
    }
}
